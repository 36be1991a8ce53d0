"""500 sentences shipped with the package: reviews and posts, for checks where no data is given.

They are from VADER's Amazon and tweet sets (MIT, see sentences.LICENSE).
"""

from __future__ import annotations

from importlib.resources import files


def gate_sentences() -> list[str]:
    """Return all 500 sentences, 2 to 134 words long."""
    text = files("lmonnx.measure").joinpath("sentences.txt").read_text(encoding="utf-8")
    return text.split("\n")[:-1]


def parity_sentences() -> list[str]:
    """Return 100 of them whose lengths are spread evenly from the shortest to the longest."""
    ranked = sorted(gate_sentences(), key=len)
    return ranked[:: len(ranked) // 100]
