"""How many characters of a text must be changed: exact match and character error rate."""

from __future__ import annotations

import numpy as np


def edit_distance(given: str, true: str) -> int:
    """Return how many characters must be put in, left out or replaced to turn one into the other.

    Source:
        Levenshtein, "Binary codes capable of correcting deletions, insertions and reversals"
        (1966); row by row, after Wagner and Fischer (1974).
    """
    if not given or not true:
        return len(given) + len(true)
    goal = np.array([ord(char) for char in true], np.uint32)
    places = np.arange(len(true) + 1)
    row = places
    for number, char in enumerate(given, 1):
        # Replaced or left out; what is put in adds one for each place, hence the running minimum.
        free = np.minimum(row[1:] + 1, row[:-1] + (goal != ord(char)))
        row = np.minimum.accumulate(np.concatenate([[number], free]) - places) + places
    return int(row[-1])


def exact_matches(given: str, references: tuple[str, ...]) -> tuple[int, int]:
    """Return 1 where a text is one of the references but for spaces around it, of 1."""
    return int(given.strip() in {text.strip() for text in references}), 1


def character_errors(given: str, references: tuple[str, ...]) -> tuple[int, int]:
    """Return the edits to the nearest reference, and the characters of that."""
    pairs = [(edit_distance(given.strip(), text.strip()), len(text.strip())) for text in references]
    return min(pairs, key=lambda pair: (pair[0] / max(1, pair[1]), pair))
