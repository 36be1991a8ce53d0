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


def way_of(variant: str) -> str:
    """Return how a variant uses the threads, where its name says that: "2 × 1" of "2 × 1, …"."""
    way = variant.partition(", ")[0]
    return way if " × " in way else ""


def by_way(found: Mapping[str, Samples]) -> dict[str, Samples]:
    """Return contenders by name; of those that use threads in several ways, each way."""
    result: dict[str, Samples] = {}
    for name, samples in found.items():
        for variant, entry in samples.items():
            way = way_of(variant)
            result.setdefault(f"{name}, {way}" if way else name, {})[variant] = entry
    return result


def best(samples: Samples) -> tuple[str, dict[str, Any]]:
    """Return the variant with the fastest round, and what was measured of it."""
    variant = min(samples, key=lambda name: min(samples[name]["seconds"]))
    return variant, samples[variant]


def speed_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a line a contender and kind of work: its best variant, speed and how it compares."""
    is_real = result["workload"] == "translation-real"
    unit = "sentences/s" if is_real else "tokens/s"
    rows = [["work", "system", "variant", unit, "BLEU", "lmonnx int8 is", "asked", "met"]]
    for work, every in result["work"].items():
        found = by_way(every)
        units = result["units"] * (1 if is_real else _batch(work))
        speeds = {name: units / min(best(found[name])[1]["seconds"]) for name in found}
        least = best(found["lmonnx int8"])[1].get("bleu")
        for name in sorted(found, key=speeds.__getitem__):
            variant, entry = best(found[name])
            bleu, asked = entry.get("bleu"), _asked(name, work, is_real=is_real)
            ratio = speeds["lmonnx int8"] / speeds[name]
            worse = name.startswith("CTranslate2") and bleu is not None and least < bleu
            met = "" if asked is None else "no" if ratio < asked or worse else "yes"
            shown = "" if asked is None else f"≥ {asked} ×"
            rows.append(
                [work, name, variant, f"{speeds[name]:.0f}", "" if bleu is None else f"{bleu:.2f}",
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


def _asked(name: str, work: str, *, is_real: bool) -> float | None:
    """Return how many times as fast as a contender, or a way of its, lmonnx is to be."""
    for rival, (_, _, asked) in RIVALS.items():
        if name.startswith(rival):
            return asked if is_real else FIXED_RATIOS[_batch(work)]
    return None


def _batch(work: str) -> int:
    """Return how many texts a kind of fixed work has at once; 0 where its name says nothing."""
    found = re.search(r"batch (\d+)", work)
    return int(found[1]) if found else 0
