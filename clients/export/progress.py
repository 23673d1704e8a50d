"""Show on stderr how far a long export is, so that stdout has the rows alone."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

RowT = TypeVar("RowT")
UPDATE_EVERY = 100


async def show_progress(
    rows: AsyncIterator[RowT],
    at: Callable[[RowT], datetime],
    period: tuple[datetime, datetime],
    shown: bool | None,
) -> AsyncIterator[RowT]:
    """Yield ``rows`` unchanged and show a progress bar.

    ``at`` returns a row's time: its place in ``period`` is how far the export is. ``shown`` None:
    only if stderr is a terminal and stdout is not, because rows on a terminal show progress
    enough."""
    if shown is None:
        shown = sys.stderr.isatty() and not sys.stdout.isatty()
    if not shown:
        async for row in rows:
            yield row
        return
    start, end = period
    columns = (
        TextColumn("{task.fields[rows]:,} rows"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[through]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(
            "export", total=max((end - start).total_seconds(), 1), rows=0, through=""
        )
        count = 0
        async for row in rows:
            count += 1
            # Drawing the bar costs more than writing a row.
            if count % UPDATE_EVERY == 0:
                done = (at(row) - start).total_seconds()
                progress.update(
                    task, completed=done, rows=count, through=f"{at(row):%Y-%m-%d %H:%M}"
                )
            yield row
        progress.update(task, completed=(end - start).total_seconds(), rows=count, through="")
