"""Measure the contenders on a workload; print a table, and write the raw samples.

`python benchmarks/run.py WORKLOAD [--rounds 5] [--threads 2]` prints, a contender a line: its best
variant, texts or tokens a second (best of the rounds), how right its answers are, and how many
times as fast the workload's subject is. How right: accuracy against the labels, agreement with the
float32 reference, max |Δlogit| over the reference's range; of vectors, Spearman's correlation of
pairs' cosines with people's scores, and the mean cosine to the reference's vectors. Samples go to
benchmarks/results/<cpu>/<workload>.json; --limit N answers N items only, and keeps no samples.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import machine
import workload as workloads
from environments import ROOT
from materials import Materials
from process import ContenderError, Process
from quality import Answers, judge, read_answers, reference_of
from roster import CONTENDERS
from table import contender_rows, render, wanted_rows
from workload import Items, Workload

RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Measure what the command line names."""
    arguments = _arguments()
    workload = workloads.read_workload(arguments.workload)
    materials = Materials(workload.model, arguments.model)
    materials.give("opt", arguments.bundle_fp32)
    materials.give("int8", arguments.bundle_int8)
    materials.give("int8-tensor", arguments.bundle_int8_tensor)
    data = materials.texts(workload) if workload.count and not arguments.data else arguments.data
    items = workloads.read_items(workload, materials.checkpoint, data)
    items = items.first(arguments.limit) if arguments.limit else items
    names = arguments.contender or list(workload.contenders)
    result = _header(workload, materials, items, arguments)
    result["contenders"] = measure(names, workload, materials, items, arguments)
    result["load_average"]["after"] = machine.load_average()
    if not arguments.limit:
        write(result, arguments.out)
    print(render(contender_rows(result)))
    if rows := wanted_rows(result):
        print("\n" + render(rows))


def write(result: Mapping[str, Any], out: Path) -> None:
    """Keep the samples."""
    folder = out / machine.slug(result["machine"])
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{result['workload']}.json").write_text(text, encoding="utf-8")


def measure(
    names: Sequence[str],
    workload: Workload,
    materials: Materials,
    items: Items,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Return each contender's samples; the rounds go through all contenders in turn."""
    found: dict[str, Any] = {}
    runs: list[tuple[str, str]] = []
    asked = {
        "kind": workload.kind,
        "items": items.items,
        "threads": arguments.threads,
        "repeats": workload.repeats,
        "max_length": workload.max_length,
    }
    orders = {name: CONTENDERS[name].order(materials) for name in names}
    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        for name in names:
            contender = CONTENDERS[name]
            process = Process(contender.script, contender.environment, arguments.threads)
            processes[name] = stack.enter_context(process)
            reply = process.ask("prepare", order={**orders[name], **asked})
            runs += [(name, variant) for variant in reply["variants"]]
            samples = {variant: {"seconds": []} for variant in reply["variants"]}
            found[name] = {"versions": reply["versions"], "variants": samples}
        for name, variant in runs:
            processes[name].ask("warm", variant=variant)
        answers = _rounds(runs, processes, found, items, arguments)
    reference = reference_of(workload.reference, answers)
    for name, variant in runs:
        quality = judge(answers[name][variant], items, reference)
        found[name]["variants"][variant]["quality"] = quality
    return found


def _rounds(
    runs: Sequence[tuple[str, str]],
    processes: Mapping[str, Process],
    found: Mapping[str, Any],
    items: Items,
    arguments: argparse.Namespace,
) -> dict[str, dict[str, Answers]]:
    """Run every variant once a round, in a new order each; return the last answers."""
    answers: dict[str, dict[str, Answers]] = {name: {} for name in processes}
    dice = random.Random(arguments.seed)
    for turn in range(arguments.rounds):
        for name, variant in dice.sample(runs, len(runs)):
            reply = processes[name].ask("round", variant=variant)
            found[name]["variants"][variant]["seconds"] += reply["seconds"]
            answers[name][variant] = read_answers(reply, len(items.items))
            speed = items.units / min(reply["seconds"])
            print(f"round {turn + 1}: {name}, {variant}: {speed:.1f}/s", file=sys.stderr)
    return {name: {v: answers[name][v] for n, v in runs if n == name} for name in answers}


def _header(
    workload: Workload, materials: Materials, items: Items, arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "workload": workload.name,
        "unit": workload.unit,
        "reference": list(workload.reference),
        "subject": workload.subject,
        "wanted": [[wanted.faster, wanted.than, wanted.ratio] for wanted in workload.wanted],
        "titles": {name: contender.title for name, contender in CONTENDERS.items()},
        "model": materials.name,
        "data": items.source,
        "units": items.units,
        "max_length": workload.max_length,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python benchmarks/run.py", *map(_portable, sys.argv[1:])]),
        "machine": machine.describe(),
        "load_average": {"before": machine.load_average()},
    }


def _portable(argument: str) -> str:
    """Return an argument without this machine's folders."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the contenders on a workload.")
    add = parser.add_argument
    add("workload", choices=workloads.names())
    add("--contender", action="append", choices=tuple(CONTENDERS), help="only these")
    add("--rounds", type=int, default=5)
    add("--limit", type=int, metavar="N", help="a trial: the first N items, no samples kept")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0, help="of the order within a round")
    add("--model", type=Path, help="a checkpoint's folder")
    add("--data", type=Path, help="a file of lines: text TAB label; or .csv, .json")
    add("--bundle-fp32", type=Path, help="a bundle for lmonnx-fp32; without, one is made")
    add("--bundle-int8", type=Path, help="a bundle for lmonnx-int8")
    add("--bundle-int8-tensor", type=Path, help="a bundle for lmonnx-int8-tensor")
    add("--out", type=Path, default=RESULTS, help="where <cpu>/<workload>.json goes")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (ContenderError, CalledProcessError) as error:
        sys.exit(str(error))
