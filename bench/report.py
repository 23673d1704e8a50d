"""The results of a bench, as a table or as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """A figure and what it is compared with.

    ``raw``: the limit, or the peer measured in the same run; ``ratio``: value / raw; ``goal``: what
    was promised, None where the figure is only shown; ``met``: whether the goal is reached."""

    bench: str
    metric: str
    value: float
    unit: str
    raw: float
    ratio: float
    goal: float | None
    met: bool

    @classmethod
    def of(
        cls,
        bench: str,
        metric: str,
        value: float,
        unit: str,
        raw: float,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Result:
        """Return a rounded result. ``at_most`` or ``at_least`` is its goal."""
        goal = at_most if at_most is not None else at_least
        met = True
        if at_most is not None:
            met = value <= at_most
        if at_least is not None:
            met = met and value >= at_least
        ratio = 0.0
        if raw:
            ratio = round(value / raw, 3)
        return cls(
            bench=bench,
            metric=metric,
            value=round(value, 3),
            unit=unit,
            raw=round(raw, 3),
            ratio=ratio,
            goal=goal,
            met=met,
        )


def main(doc: str | None, measure: Callable[[bool], Awaitable[Sequence[Result]]]) -> None:
    """Run the command line of one bench: ``[--quick] [--json] [--full-size]``."""
    parser = argparse.ArgumentParser(description=doc, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="fewer runs, under 40 s")
    parser.add_argument("--json", action="store_true", help="a list of results on stdout")
    parser.add_argument(
        "--full-size", action="store_true", help="usage_ingest: 100 million stored events"
    )
    options = parser.parse_args()

    async def run_bench() -> Sequence[Result]:
        return await measure(options.quick)

    results = asyncio.run(run_bench())
    if options.json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    else:
        print_table(results)


def format_figure(value: float) -> str:
    """Return the value with as many digits as mean something."""
    if abs(value) < 10:
        return f"{value:,.2f}"
    if abs(value) < 100:
        return f"{value:,.1f}"
    return f"{value:,.0f}"


def print_table(results: Sequence[Result]) -> None:
    """Print the results for people."""
    table = Table("what", "measured", "beside (same run)", "ratio", "goal", "met")
    for result in results:
        goal = ""
        if result.goal is not None:
            goal = format_figure(result.goal)
        table.add_row(
            result.metric,
            f"{format_figure(result.value)} {result.unit}",
            f"{format_figure(result.raw)} {result.unit}",
            f"{result.ratio:.2f}",
            goal,
            "yes" if result.met else "NO",
        )
    Console().print(table)
