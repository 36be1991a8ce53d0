r"""Time decoders on one prompt, and on eight at once, in turn; print tokens a second and ratios.

    python benchmarks/decoders.py --bundle int4=DIR --bundle int8=DIR --gguf q4_0=FILE \
        --gguf q8_0=FILE --genai int4=DIR --tokens IDS.json [--prompt 128] [--new 64] [--rounds 5]

Every contender is a process of its own, stopped while another is timed; rounds go through all in a
new order each, with prompts that nobody read before; the best round counts. A step of one sequence
reads every weight of its graph once: how much of what the machine can read (bandwidth.py, before
and after) that comes to is printed too. IDS.json is a list of token ids of real text. Samples go to
benchmarks/results/<cpu>/decoders/samples.json.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
from environments import python_of
from process import ContenderError, Process
from run import RESULTS

KINDS = {
    "bundle": ("lmonnx_generation", "lmonnx"),
    "gguf": ("llama_cpp_generation", "llama-cpp"),
    "genai": ("genai_generation", "genai"),
}


def main() -> None:
    """Measure what the command line names."""
    arguments = _arguments()
    ids = json.loads(arguments.tokens.read_text(encoding="utf-8"))
    named = [
        (kind, *pair.split("=", 1)) for kind in KINDS for pair in getattr(arguments, kind) or []
    ]
    samples: dict[str, dict[str, Any]] = {}
    prompts = _Prompts(ids, arguments.prompt)
    before, bandwidth = machine.load_average(), _bandwidth(arguments.threads)
    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        for kind, name, path in named:
            script, environment = KINDS[kind]
            title = f"{kind} {name}"
            process = Process(script, environment, arguments.threads)
            processes[title] = stack.enter_context(process)
            order = {"model": str(Path(path).resolve()), "threads": arguments.threads}
            samples[title] = {"versions": process.ask("prepare", order=order)["versions"]}
            samples[title]["bytes"] = _weight_bytes(Path(path))
            samples[title]["read_bytes"] = _weight_bytes(Path(path), read=True)
        _rounds(processes, samples, prompts, arguments)
    result = {
        "workload": "decoders",
        "prompt": arguments.prompt,
        "new": arguments.new,
        "threads": arguments.threads,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "load_average": {"before": before, "after": machine.load_average()},
        "bandwidth": max(bandwidth, _bandwidth(arguments.threads)),
        "contenders": samples,
    }
    folder = arguments.out / machine.slug(result["machine"]) / "decoders"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(result)))


def _rounds(
    processes: Mapping[str, Process],
    samples: Mapping[str, dict[str, Any]],
    prompts: _Prompts,
    arguments: argparse.Namespace,
) -> None:
    dice = random.Random(arguments.seed)
    for process in processes.values():
        process.ask("round", prompts=prompts.take(1), new=8)  # warm-up
    for turn in range(arguments.rounds):
        for count in (1, arguments.together):
            for name in dice.sample(list(processes), len(processes)):
                given = prompts.take(count)
                reply = processes[name].ask("round", prompts=given, new=arguments.new)
                entry = samples[name].setdefault(str(count), {"prefill": [], "decode": []})
                for phase in entry:
                    entry[phase].append(round(reply[phase], 5))
                samples[name]["peak_mib"] = reply["peak_mib"]
                print(f"round {turn + 1}, {count} at once: {name}", file=sys.stderr)


def table(result: Mapping[str, Any]) -> list[str]:
    """Return a line a contender: new tokens a second alone, and of all requests together.

    Together they are given twice: with the reading of their prompts, and of decoding alone, each
    with how many times that is of one request's.
    """
    prompt, new = result["prompt"], result["new"]
    titles = ("contender", "MiB", "prefill tok/s", "decode tok/s", "of bandwidth",
              "all, with prefill", "of one", "all, decoding", "of one", "peak MiB")  # fmt: skip
    lines = [" | ".join(titles)]
    for name, found in result["contenders"].items():
        counts = sorted(int(key) for key in found if key.isdigit())
        one, many = found[str(counts[0])], found[str(counts[-1])]
        alone = new / min(map(sum, zip(one["prefill"], one["decode"], strict=True)))
        every = min(map(sum, zip(many["prefill"], many["decode"], strict=True)))
        together = counts[-1] * new / every
        decode = (new - 1) / min(one["decode"])
        decoding = counts[-1] * (new - 1) / min(many["decode"])
        read = decode * found["read_bytes"] / 1e9 / result["bandwidth"]
        lines.append(
            f"{name} | {found['bytes'] / 2**20:.1f} | {prompt / min(one['prefill']):.0f} | "
            f"{decode:.0f} | {read:.0%} | {together:.0f} | {together / alone:.2f} | "
            f"{decoding:.0f} | {decoding / decode:.2f} | {found['peak_mib']:.0f}"
        )
    return [*lines, f"bandwidth: {result['bandwidth']:.1f} GB/s"]


class _Prompts:
    """Prompts of real text, none of which begins like another."""

    def __init__(self, ids: list[int], length: int) -> None:
        self._ids, self._length, self._next = ids, length, 0

    def take(self, count: int) -> list[list[int]]:
        """Return `count` new ones."""
        found = []
        for _ in range(count):
            start = self._next * 37 % (len(self._ids) - self._length)
            found.append(self._ids[start : start + self._length])
            self._next += 1
        return found


def _weight_bytes(path: Path, *, read: bool = False) -> int:
    """Return the bytes of a model's weights, or of those that a step of one sequence reads."""
    if path.is_file():
        return path.stat().st_size
    files = sorted(path.rglob("*.onnx*"))
    lone = [file for file in files if file.name.startswith("lone")]
    others = [file for file in files if not file.name.startswith("prompt")]
    return sum(file.stat().st_size for file in ((lone or others) if read else files))


def _bandwidth(threads: int) -> float:
    """Return GB/s."""
    command = [python_of("lmonnx"), Path(__file__).with_name("bandwidth.py"), str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    for kind in KINDS:
        add(f"--{kind}", action="append", metavar="NAME=PATH")
    add("--tokens", type=Path, required=True, help="a JSON list of token ids")
    add("--prompt", type=int, default=128)
    add("--new", type=int, default=64)
    add("--together", type=int, default=8)
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except ContenderError as error:
        sys.exit(str(error))
