"""The commands that show what is there: inspect, doctor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.fields import encode
from lmonnx.cli import options, render
from lmonnx.cli.command import Command
from lmonnx.measure.contents import contents
from lmonnx.measure.host import Host


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx inspect sst2-int8
  lmonnx inspect sst2-int8 --json
""",
)
@options.bundle
@options.as_json
def inspect(*, bundle: Path, as_json: bool) -> None:
    """Show what is in BUNDLE and how it was made: graphs, operators, sizes, history.

    Every file is checked against its hash first.
    """
    plain = contents(Bundle.open(bundle).manifest)
    if as_json:
        render.say(render.to_json(plain))
        return
    _print_summary(plain)
    for name, graph in plain["graphs"].items():
        _print_graph(name, graph)
    render.heading("files")
    rows = [(name, render.size(count)) for name, count in plain["files"].items()]
    render.table(("file", "size"), rows, right=("size",))
    render.heading("history")
    for step in plain["history"]:
        _print_step(step)


def _print_summary(plain: Mapping[str, Any]) -> None:
    source, text, head = plain["source"], plain["text"], plain.get("head")
    at = f" at {source['revision']}" if source["revision"] else ""
    render.figures(
        {
            "checkpoint": f"{source['repo']}{at}",
            "architecture": source["architecture"],
            "licence": source["license"] or "not stated",
            "task": plain["task"],
            "precision": plain["precision"],
            "size": render.size(plain["bytes"]),
            "text": f"at most {text['max_length']} tokens",
            **({"labels": f"{', '.join(head['labels'])} ({head['activation']})"} if head else {}),
            **_generation(plain.get("generation") or {}),
        }
    )


def _generation(plain: Mapping[str, Any]) -> dict[str, str]:
    """Return what is to be said of how a decoder or an encoder-decoder answers."""
    if not plain:
        return {}
    seq2seq = plain.get("seq2seq") or {}
    whole = "an answer" if seq2seq else "prompt and answer"
    shown = {"generates": f"at most {plain['context']} tokens of {whole}"}
    if seq2seq.get("start_id") is not None:
        shown["generates"] += f", from token {seq2seq['start_id']} on"
    if defaults := plain.get("defaults"):
        shown["unless told"] = render.inline(defaults)
    if languages := seq2seq.get("languages"):
        ends = ((side, languages.get(side)) for side in ("source", "target"))
        usual = [f"{side} {code}" for side, code in ends if code]
        shown["languages"] = ", ".join(languages["ids"])
        shown["languages"] += f" (unasked {', '.join(usual)})" if usual else ""
    if shortlist := seq2seq.get("shortlist"):
        shown["shortlist"] = f"{shortlist['always']} of {plain['vocabulary']} ids for any source"
        if count := shortlist["tokens"]:
            shown["shortlist"] += f", and those that its tokens allow ({count} have a list)"
    for task, prefix in (seq2seq.get("prefixes") or {}).items():
        shown[f"prefix of {task}"] = repr(prefix)
    for task, settings in (seq2seq.get("task_settings") or {}).items():
        shown[f"for {task}"] = render.inline(settings)
    return shown


def _print_graph(name: str, graph: Mapping[str, Any]) -> None:
    fused = ", optimized" if graph["optimized"] else ""
    render.heading(
        f"graph {name}: {graph['file']}, opset {graph['opset']}, {graph['nodes']} nodes{fused}"
    )
    tensors = [
        (way, tensor["name"], tensor["dtype"], " × ".join(map(str, tensor["shape"])))
        for way in ("inputs", "outputs")
        for tensor in graph[way]
    ]
    render.table(("", "name", "type", "shape"), [(way[:-1], *rest) for way, *rest in tensors])
    render.say("")
    operators = sorted(graph["operators"].items(), key=lambda item: (-item[1], item[0]))
    rows = [(operator, str(count)) for operator, count in operators]
    render.table(("operator", "nodes"), rows, right=("nodes",))


def _print_step(step: Mapping[str, Any]) -> None:
    shown = {step["stage"]: render.inline(step["options"] or "no options")}
    shown["  with"] = render.inline(step["versions"])
    for parity in step["parity"]:
        shown[f"  against {parity['reference']}"] = (
            f"{parity['texts']} texts: max |Δlogit| {parity['max_difference']:.2e}, "
            f"{parity['relative']:.2e} of the range, same label {parity['agreement']:.2%}"
        )
    for name, value in step.get("metrics", {}).items():
        shown[f"  {name}"] = render.inline(value)
    render.figures(shown)


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx doctor
  lmonnx doctor --json
""",
)
@options.as_json
def doctor(*, as_json: bool) -> None:
    """Show what this machine is for inference: CPU features, threads, providers, versions, kernels.

    The int8 kernels are run on extreme values and compared with exact integer arithmetic.
    """
    from lmonnx.measure.host import inspect_host

    host = inspect_host()
    if as_json:
        render.say(render.to_json(encode(host)))
    else:
        _print_host(host)


def _print_host(host: Host) -> None:
    features = host.cpu.features
    has = [name for name, there in features.items() if there]
    lacks = [name for name, there in features.items() if not there]
    render.figures(
        {
            "CPU": host.cpu.model,
            "has": ", ".join(has) or ("none of interest" if features else "unknown here"),
            **({"lacks": ", ".join(lacks)} if lacks else {}),
            "threads": f"{host.threads} to use, {host.cpus} in the machine",
            "platform": host.platform,
            "providers": ", ".join(host.providers),
        }
    )
    render.heading("versions")
    render.figures(host.versions)
    render.heading("int8 kernels")
    render.table(
        ("kernel", "exact", "meaning"),
        [(kernel.name, "yes" if kernel.exact else "no", kernel.detail) for kernel in host.kernels],
    )
