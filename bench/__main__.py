"""Runs every bench, writes bench/results.json and the table between the markers of README.md."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

from bench.report import Result, figure, show

ROOT = Path(__file__).parent.parent
BENCHES = ("accept_to_live", "usage_ingest", "validator", "config")
START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def main() -> int:
    """Exit 1 when a goal is missed."""
    results: list[Result] = []
    for name in BENCHES:
        sys.stderr.write(f"bench.{name} …\n")
        command = [sys.executable, "-m", f"bench.{name}", "--json", *sys.argv[1:]]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT, timeout=1800)
        results += [Result(**entry) for entry in json.loads(found.stdout)]
    show(results)
    where = f"{platform.machine()}, {_cores()} cores, Python {platform.python_version()}"
    (ROOT / "bench" / "results.json").write_text(
        json.dumps({"machine": where, "results": [vars(result) for result in results]}, indent=1)
        + "\n"
    )
    _write_table(results, where, _command(sys.argv[1:]))
    return 0 if all(result.met for result in results) else 1


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _command(arguments: list[str]) -> str:
    """What was run, so that a quick run's figures are not taken for a full run's."""
    return " ".join(["python -m bench", *arguments]) if arguments else "make bench"


def _write_table(results: list[Result], where: str, command: str) -> None:
    readme = ROOT / "README.md"
    lines = [
        "| what | measured | beside it, same run | ratio | goal |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for r in results:
        goal = "" if r.goal is None else f"{figure(r.goal)} {'met' if r.met else 'MISSED'}"
        lines.append(
            f"| {r.metric} | {figure(r.value)} {r.unit} | {figure(r.raw)} {r.unit} | "
            f"{r.ratio:.2f} | {goal} |"
        )
    text = readme.read_text()
    head, rest = text.split(START, 1)
    tail = rest.split(END, 1)[1]
    table = "\n".join(lines)
    readme.write_text(
        f"{head}{START}\n{table}\n\nMeasured on {where}, by `{command}`.\n{END}{tail}"
    )


if __name__ == "__main__":
    sys.exit(main())
