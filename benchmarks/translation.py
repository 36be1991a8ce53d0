r"""Time encoder-decoders beside CTranslate2, torch and optimum: speed, BLEU and memory.

    python benchmarks/translation.py real      # 500 sentences of Multi30k, strings in, strings out
    python benchmarks/translation.py fixed     # Marian of opus-mt's size and T5-small, 32 tokens
    python benchmarks/translation.py memory    # peak of a process that translates the 500

Every contender is a process of its own, stopped while another is timed; each round goes through all
in a new order, with every variant that was not far behind in the first; the best round of the best
variant counts. CTranslate2 is there twice: one translator of all threads, and one a thread. Memory
is taken of new processes, each with the fastest variant that `real` found. `--rounds 1 --limit 50`
is a trial, of which nothing is kept. `--only NAME` leaves out of `real` the rivals whose name does
not start so. `--int8 DIR`, `--fp32 DIR` take bundles that are there, of `fixed` `--marian DIR` and
`--t5-small DIR`; others are made by lmonnx's own commands. `--shortlist DIR`, what `lmonnx
shortlist` made of the int8 bundle, is one more system of `real`. Samples go to
benchmarks/results/<cpu>/translation/<what>.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
from environments import enter
from materials import Materials
from process import ContenderError, Process
from run import RESULTS
from table import render
from translation_table import RIVALS, Samples, best, memory_rows, speed_rows, way_of
from workload import locate

# Of a contender's variants only those so near to its fastest are run after the first round.
NEAR = 1.5
SENTENCES, NEW, BEAMS, TOGETHER = 500, 32, (1, 4), (1, 16)
REAL = {"shared": "models/marian-multi30k-de-en"}
DATA = (
    {"shared": "data/multi30k/test_2016_flickr.de"},
    {"shared": "data/multi30k/test_2016_flickr.en"},
)
# Family → tokens of a source, its end included; words from 0 that both vocabularies have.
FIXED = {"marian": 24, "t5-small": 128}
WORDS = 20000
OURS = ("lmonnx_translation", "lmonnx")


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked in one call."""

    texts: list[str]
    beams: int
    new: int | None = None

    @property
    def name(self) -> str:
        """Return how a row of the table calls it."""
        kind = "greedy" if self.beams == 1 else f"beam {self.beams}"
        return kind if self.new is None else f"batch {len(self.texts)}, {kind}"


class Field:
    """Contenders that are ready, and what was measured of them."""

    def __init__(self, threads: int, stack: ExitStack) -> None:
        self._threads, self._stack = threads, stack
        self._processes: dict[str, Process] = {}
        self.variants: dict[str, list[str]] = {}
        self.versions: dict[str, Mapping[str, str]] = {}

    def enter(self, name: str, script: str, environment: str, model: Path, cache: Path) -> None:
        """Start a contender."""
        process = self._stack.enter_context(Process(script, environment, self._threads))
        order = {"model": str(model), "cache": str(cache), "threads": self._threads}
        reply = process.ask("prepare", order=order)
        self._processes[name] = process
        self.variants[name], self.versions[name] = reply["variants"], reply["versions"]

    def measure(self, work: Work, rounds: int, *, seed: int = 0) -> dict[str, Samples]:
        """Return each contender's samples: a warm-up, then rounds of all variants in turn."""
        found: dict[str, Samples] = {
            name: {variant: {"seconds": []} for variant in variants}
            for name, variants in self.variants.items()
        }
        runs = [(name, variant) for name in found for variant in found[name]]
        dice = random.Random(seed)
        for turn in range(rounds + 1):
            for name, variant in dice.sample(runs, len(runs)):
                texts = work.texts if turn else work.texts[: max(16, len(work.texts) // 8)]
                asked = {"texts": texts, "beams": work.beams, "new": work.new}
                reply = self._processes[name].ask("round", variant=variant, **asked)
                if turn:
                    entry = found[name][variant]
                    entry["seconds"].append(reply["seconds"])
                    entry |= {key: reply[key] for key in ("answers", "peak_mib")}
            if turn == 1:
                runs = [(name, variant) for name, variant in runs if _is_near(found[name], variant)]
            print(f"{work.name}: {'warm' if not turn else f'round {turn}'}", file=sys.stderr)
        return found


def real(arguments: argparse.Namespace) -> dict[str, Any]:
    """Translate Multi30k's sentences."""
    materials = Materials(REAL)
    sources, references = (_lines(locate(place))[: arguments.limit] for place in DATA)
    result: dict[str, Any] = {"units": len(sources), "work": {}, "signature": ""}
    with ExitStack() as stack:
        field = Field(arguments.threads, stack)
        for name, (script, environment, _) in RIVALS.items():
            if not name.startswith(arguments.only):
                continue
            field.enter(name, script, environment, materials.checkpoint, materials.cache)
        for name, bundle in _bundles(materials, arguments).items():
            field.enter(name, *OURS, bundle, materials.cache)
        for beams in BEAMS:
            work = Work(sources, beams)
            found = field.measure(work, arguments.rounds)
            for samples in found.values():
                for entry in samples.values():
                    entry["bleu"], result["signature"] = _bleu(entry.pop("answers"), references)
            result["work"][work.name] = found
        result["versions"] = field.versions
    return result


def fixed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let random weights of real shapes write 32 tokens, alone and 16 at once."""
    result: dict[str, Any] = {"units": NEW, "work": {}}
    for family, length in FIXED.items():
        materials = Materials({"random": family})
        given = getattr(arguments, family.replace("-", "_"))
        with ExitStack() as stack:
            field = Field(arguments.threads, stack)
            script, environment, _ = RIVALS["CTranslate2 int8"]
            rival = (script, environment, materials.checkpoint, materials.cache)
            field.enter("CTranslate2 int8", *rival)
            bundle = given.resolve() if given else materials.bundle("pair-int8")
            field.enter("lmonnx int8", *OURS, bundle, materials.cache)
            # 16 texts are shared out evenly: the sizes of batches make no difference.
            ways = {v.split(", ")[0]: v for v in field.variants["CTranslate2 int8"]}
            field.variants["CTranslate2 int8"] = list(ways.values())
            for count in TOGETHER:
                for beams in BEAMS:
                    work = Work(_random_texts(count, length), beams, NEW)
                    found = field.measure(work, arguments.rounds)
                    for samples in found.values():
                        for entry in samples.values():
                            del entry["answers"]
                    result["work"][f"{family}, {work.name}"] = found
            result["versions"] = field.versions
    return result


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Translate all once in new processes, with the fastest variant; return their peaks."""
    materials = Materials(REAL)
    sources = _lines(locate(DATA[0]))[: arguments.limit]
    before = json.loads(_target(arguments, "real").read_text(encoding="utf-8"))
    ours = _bundles(materials, arguments)["lmonnx int8"]
    script, environment, _ = RIVALS["CTranslate2 int8"]
    result: dict[str, Any] = {"units": len(sources), "work": {}}
    for beams in BEAMS:
        work, found = Work(sources, beams), {}
        for name, entered in {
            "CTranslate2 int8": (script, environment, materials.checkpoint),
            "lmonnx int8": (*OURS, ours),
        }.items():
            with ExitStack() as stack:
                field = Field(arguments.threads, stack)
                field.enter(name, *entered, materials.cache)
                field.variants[name] = [best(before["work"][work.name][name])[0]]
                found |= field.measure(work, 1)
                for entry in found[name].values():
                    del entry["answers"]
                result.setdefault("versions", {}).update(field.versions)
        result["work"][work.name] = found
    return result


def _bundles(materials: Materials, arguments: argparse.Namespace) -> dict[str, Path]:
    materials.give("fp32", arguments.fp32)
    materials.give("pair-int8", arguments.int8)
    found = {
        "lmonnx fp32": materials.bundle("fp32"),
        "lmonnx int8": materials.bundle("pair-int8"),
    }
    if arguments.shortlist is not None:
        found["lmonnx int8, shortlist"] = arguments.shortlist.resolve()
    return found


def _bleu(answers: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    score = metric.corpus_score(list(answers), [list(references)]).score
    return round(score, 3), metric.get_signature().format()


def _is_near(samples: Samples, variant: str) -> bool:
    """Say whether a variant may yet turn out to be the fastest of those that use threads so."""
    alike = {name: entry for name, entry in samples.items() if way_of(name) == way_of(variant)}
    return min(samples[variant]["seconds"]) <= NEAR * min(best(alike)[1]["seconds"])


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:SENTENCES]


def _random_texts(count: int, length: int, seed: int = 0) -> list[str]:
    """Return texts that are so many tokens long, the end included."""
    dice = random.Random(seed)
    return [" ".join(f"w{dice.randrange(WORDS)}" for _ in range(length - 1)) for _ in range(count)]


def _target(arguments: argparse.Namespace, what: str) -> Path:
    return arguments.out / machine.slug(machine.describe()) / "translation" / f"{what}.json"


def main() -> None:
    """Measure what the command line names."""
    arguments = _arguments()
    enter("lmonnx")
    before = machine.load_average()
    measured = {"real": real, "fixed": fixed, "memory": memory}[arguments.what](arguments)
    result = {
        "workload": f"translation-{arguments.what}",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "load_average": {"before": before, "after": machine.load_average()},
        **measured,
    }
    if arguments.limit == SENTENCES:
        target = _target(arguments, arguments.what)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(render((memory_rows if arguments.what == "memory" else speed_rows)(result)))
    if signature := result.get("signature"):
        print(f"\nBLEU: {signature}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("what", choices=("real", "fixed", "memory"))
    for bundle in ("int8", "fp32", "shortlist", "marian", "t5-small"):
        add(f"--{bundle}", type=Path, metavar="DIR")
    add("--only", default="", metavar="NAME")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=2)
    add("--limit", type=int, default=SENTENCES, help="sentences; fewer are a trial")
    add("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except ContenderError as error:
        sys.exit(str(error))
