"""What a bench gives: a list of results, as a table or as JSON."""

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
    """``raw``: the limit or the peer measured in the same run; ``ratio`` = value / raw; ``goal``:
    what was promised, None where the figure is shown only; ``met``: whether it holds."""

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
        met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        goal = at_most if at_most is not None else at_least
        ratio = round(value / raw, 3) if raw else 0.0
        return cls(bench, metric, round(value, 3), unit, round(raw, 3), ratio, goal, met)


def main(doc: str | None, measure: Callable[[bool], Awaitable[Sequence[Result]]]) -> None:
    """The command line of one bench: ``[--quick] [--json] [--full-size]``."""
    parser = argparse.ArgumentParser(description=doc, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="fewer runs, under 40 s")
    parser.add_argument("--json", action="store_true", help="a list of results on stdout")
    parser.add_argument(
        "--full-size", action="store_true", help="usage_ingest: 100 million stored events"
    )
    options = parser.parse_args()
    results = asyncio.run(_run(measure, options.quick))
    if options.json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    else:
        show(results)


async def _run(
    measure: Callable[[bool], Awaitable[Sequence[Result]]], quick: bool
) -> Sequence[Result]:
    return await measure(quick)


def figure(value: float) -> str:
    """With as many digits as mean something."""
    return (
        f"{value:,.2f}"
        if abs(value) < 10
        else f"{value:,.1f}"
        if abs(value) < 100
        else f"{value:,.0f}"
    )


def show(results: Sequence[Result]) -> None:
    table = Table("what", "measured", "beside (same run)", "ratio", "goal", "met")
    for result in results:
        table.add_row(
            result.metric,
            f"{figure(result.value)} {result.unit}",
            f"{figure(result.raw)} {result.unit}",
            f"{result.ratio:.2f}",
            "" if result.goal is None else figure(result.goal),
            "yes" if result.met else "NO",
        )
    Console().print(table)
