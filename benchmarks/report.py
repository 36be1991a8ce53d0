"""Write the tables of benchmarks/README.md from the samples in benchmarks/results.

`python benchmarks/report.py` replaces what stands between the two markers there, and prints it.
"""

from __future__ import annotations

import json
from pathlib import Path

from environments import ROOT
from table import Result, contender_rows, render, wanted_rows

README = ROOT / "benchmarks" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: written by report.py -->", "<!-- /results -->"


def main() -> None:
    """Rewrite the README between its markers."""
    files = sorted(RESULTS.glob("*/*.json"))
    sections = [section(json.loads(path.read_text(encoding="utf-8")), path) for path in files]
    tables = "\n\n".join(sections) or "None yet."
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")
    print(tables)


def section(result: Result, path: Path) -> str:
    """Return a workload's heading, circumstances and tables."""
    machine = result["machine"]
    features = [name for name, there in machine["features"].items() if there]
    samples = f"[{path.name}]({path.relative_to(README.parent)})"
    parts = [
        f"### {result['workload']}, {machine['cpu']} ({_vnni(features)})",
        f"{result['model']}; {result['data']}, {result['units']} {result['unit']}{_cut(result)}; "
        f"{result['threads']} threads of {machine['cores']} cores; best of {result['rounds']} "
        f"rounds; {result['date']}; load average before {result['load_average']['before'][0]}. "
        f"Samples: {samples}. Versions: {_versions(result)}.",
        f"    {result['command']}",
        render(contender_rows(result)),
    ]
    if rows := wanted_rows(result):
        parts.append(render(rows))
    return "\n\n".join(parts)


def _cut(result: Result) -> str:
    longest = result.get("max_length")
    return f", all cut at {longest} tokens" if longest else ""


def _vnni(features: list[str]) -> str:
    found = [name for name in features if name.endswith("_vnni")]
    return ", ".join(found) if found else "no VNNI"


def _versions(result: Result) -> str:
    """Return every package's version; one that differs between environments, with all it has."""
    found: dict[str, set[str]] = {}
    for contender in result["contenders"].values():
        for package, version in contender["versions"].items():
            found.setdefault(package, set()).add(version)
    return ", ".join(
        f"{package} {' and '.join(sorted(found[package]))}" for package in sorted(found)
    )


if __name__ == "__main__":
    main()
