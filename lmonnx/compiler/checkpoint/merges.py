"""The merges of SentencePiece's BPE, which stores scores alone."""

from __future__ import annotations

from collections.abc import Mapping


def scored_merges(scores: Mapping[str, float], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return every split of a piece into two others, the best score first.

    Args:
        scores: Of the pieces that merges may make, in the order of their ids.
        ids: Of the pieces that merges may be of.

    Source:
        transformers, `generate_merges`.
    """
    found: list[tuple[float, str, str]] = []
    for text, score in scores.items():
        halves = [(text[:at], text[at:]) for at in range(1, len(text))]
        known = [(a, b) for a, b in halves if a in ids and b in ids]
        known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(score, a, b) for a, b in known]
    # The sort is stable, and reversed it keeps equal ones in their order.
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [(a, b) for _, a, b in found]
