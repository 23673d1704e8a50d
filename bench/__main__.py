"""Runs every bench, writes bench/results.json and the table between the markers of README.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.report import Result, format_figure, print_table

ROOT = Path(__file__).parent.parent
BENCHES = ("accept_to_live", "usage_ingest", "validator", "config")
START = "<!-- bench:start -->"
END = "<!-- bench:end -->"
_BENCH_SECONDS = 1800


def main() -> int:
    """Run all benches; return 1 when a goal is missed."""
    results: list[Result] = []
    # Each in a process of its own: none measures what another one left in memory.
    for name in BENCHES:
        sys.stderr.write(f"bench.{name} …\n")
        command = [sys.executable, "-m", f"bench.{name}", "--json", *sys.argv[1:]]
        found = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, cwd=ROOT, timeout=_BENCH_SECONDS
        )
        for entry in json.loads(found.stdout):
            results.append(Result(**entry))
    print_table(results)
    cores = len(os.sched_getaffinity(0))
    machine = f"{platform.machine()}, {cores} cores, Python {platform.python_version()}"
    content = {"machine": machine, "results": [vars(result) for result in results]}
    (ROOT / "bench" / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    _write_table(results, machine, _command_text(sys.argv[1:]))
    return 0 if all(result.met for result in results) else 1


def _command_text(arguments: Sequence[str]) -> str:
    # The README says what was run: a quick run's figures must not pass for a full run's.
    if not arguments:
        return "make bench"
    return " ".join(["python -m bench", *arguments])


def _write_table(results: Sequence[Result], machine: str, command: str) -> None:
    readme = ROOT / "README.md"
    lines = [
        "| what | measured | beside it, same run | ratio | goal |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        value = f"{format_figure(result.value)} {result.unit}"
        beside = f"{format_figure(result.raw)} {result.unit}"
        goal = ""
        if result.goal is not None:
            verdict = "met" if result.met else "MISSED"
            goal = f"{format_figure(result.goal)} {verdict}"
        lines.append(f"| {result.metric} | {value} | {beside} | {result.ratio:.2f} | {goal} |")
    head, rest = readme.read_text().split(START, 1)
    tail = rest.split(END, 1)[1]
    table = "\n".join(lines)
    note = f"Measured on {machine}, by `{command}`."
    readme.write_text(f"{head}{START}\n{table}\n\n{note}\n{END}{tail}")


if __name__ == "__main__":
    sys.exit(main())
