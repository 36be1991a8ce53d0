"""Samples of translation.py → the rows of its tables, and what is asked of lmonnx."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Who → script, environment and what is asked of lmonnx int8: greedy and beam, at least so fast.
RIVALS = {
    "CTranslate2 int8": ("ctranslate2_translation", "ctranslate2", 1.2),
    "transformers, torch fp32": ("transformers_translation", "transformers", 4.5),
    "optimum, fp32": ("optimum_translation", "optimum", 8.0),
}
FIXED_RATIOS = {1: 1.4, 16: 1.1}
MEMORY_MIB = 100  # over CTranslate2's, at most

Samples = dict[str, dict[str, Any]]  # variant → seconds, answers, peak


def best(samples: Samples) -> tuple[str, dict[str, Any]]:
    """Return the variant with the fastest round, and what was measured of it."""
    variant = min(samples, key=lambda name: min(samples[name]["seconds"]))
    return variant, samples[variant]


def speed_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a line a contender and kind of work: its best variant, speed and how it compares."""
    is_real = result["workload"] == "translation-real"
    unit = "sentences/s" if is_real else "tokens/s"
    rows = [["work", "system", "variant", unit, "BLEU", "lmonnx int8 is", "asked", "met"]]
    for work, found in result["work"].items():
        ours, _ = _speed(result, work, "lmonnx int8")
        least = best(found["lmonnx int8"])[1].get("bleu")
        for name in sorted(found, key=lambda name: _speed(result, work, name)[0]):
            speed, variant = _speed(result, work, name)
            bleu = found[name][variant].get("bleu")
            asked = _asked(name, work, is_real=is_real)
            ratio = ours / speed
            worse = name == "CTranslate2 int8" and bleu is not None and least < bleu
            met = "" if asked is None else "no" if ratio < asked or worse else "yes"
            shown = "" if asked is None else f"≥ {asked} ×"
            rows.append(
                [work, name, variant, f"{speed:.0f}", "" if bleu is None else f"{bleu:.2f}",
                 f"{ratio:.2f} ×", shown, met]
            )  # fmt: skip
    return rows


def memory_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a line a contender and kind of work: its peak."""
    rows = [["work", "system", "variant", "peak MiB", "over CTranslate2", "asked", "met"]]
    for work, found in result["work"].items():
        rival = best(found["CTranslate2 int8"])[1]["peak_mib"]
        for name, samples in found.items():
            variant, entry = best(samples)
            over = entry["peak_mib"] - rival
            ours = name == "lmonnx int8"
            verdict = (
                [f"≤ {MEMORY_MIB}", "yes" if over <= MEMORY_MIB else "no"] if ours else ["", ""]
            )
            rows.append([work, name, variant, f"{entry['peak_mib']:.0f}", f"{over:+.0f}", *verdict])
    return rows


def _speed(result: Mapping[str, Any], work: str, name: str) -> tuple[float, str]:
    variant, entry = best(result["work"][work][name])
    count = (
        1
        if result["workload"] == "translation-real"
        else int(work.split("batch ")[1].split(",")[0])
    )
    return result["units"] * count / min(entry["seconds"]), variant


def _asked(name: str, work: str, *, is_real: bool) -> float | None:
    if name not in RIVALS:
        return None
    if is_real:
        return RIVALS[name][2]
    return FIXED_RATIOS[_batch(work)]


def _batch(work: str) -> int:
    """Return how many texts a kind of fixed work has at once; 0 where its name says nothing."""
    found = re.search(r"batch (\d+)", work)
    return int(found[1]) if found else 0
