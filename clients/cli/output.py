"""What the command line prints: results on stdout, everything else on stderr.

Exit codes: 0 done, 1 refused, 2 usage, 3 platform out of reach.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any, Final, TextIO, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from shared.contracts.findings import Finding

ItemT = TypeVar("ItemT")
Columns = Mapping[str, Callable[[ItemT], object]]
"""A column's title, and the cell of an item in it; None makes an empty cell."""
_WIDTH_WITHOUT_TERMINAL: Final = 160
"""A pipe has no width: 160 characters keep a row on one line for grep and awk."""


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3


class Output:
    """Prints the results of one command. With ``as_json`` stdout carries JSON alone: one value (for
    ``events``: one a line)."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._has_result = False

    def data(self, value: Any) -> None:
        """Print the result for programs; nothing without ``--json``.

        A command prints one result. What comes after it, such as the refusal of a part, only shows
        in the exit code."""
        if not self._has_result:
            self.data_line(value)
        self._has_result = True

    def data_line(self, value: Any) -> None:
        """Print one of many results for programs, one a line."""
        if self.as_json:
            sys.stdout.write(json.dumps(jsonable(value), ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def line(self, text: str) -> None:
        """Print a line of the result for people."""
        if not self.as_json:
            _console(sys.stdout).print(printable(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """Print what happens meanwhile, which is never part of the result."""
        stream = sys.stderr if self.as_json else sys.stdout
        _console(stream).print(printable(text), soft_wrap=True)

    def show_list(
        self, items: Sequence[ItemT], columns: Columns[ItemT], *, empty: str = "nothing"
    ) -> None:
        """Print a result of many items: JSON for programs, a table for people."""
        self.data(items)
        self.show_table(items, columns, empty=empty)

    def show_record(self, value: Any, fields: Iterable[tuple[str, object]]) -> None:
        """Print a result of one item: JSON for programs, its fields line by line for people."""
        self.data(value)
        self.show_fields(fields)

    def show_table(
        self, items: Iterable[ItemT], columns: Columns[ItemT], *, empty: str = "nothing"
    ) -> None:
        """Print a table for people, or the line ``empty`` when there are no items."""
        rows = []
        for item in items:
            rows.append([cell_of(item) for cell_of in columns.values()])
        self.show_rows(list(columns), rows, empty=empty)

    def show_rows(
        self, titles: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "nothing"
    ) -> None:
        """Print a table for people from its cells, or the line ``empty`` without rows."""
        if rows:
            self._print_table(sys.stdout, titles, rows)
        else:
            self.line(empty)

    def show_fields(self, fields: Iterable[tuple[str, object]]) -> None:
        """Print names and values for people, in two columns without titles."""
        self._print_table(sys.stdout, ("", ""), list(fields))

    def show_findings(self, findings: Sequence[Finding]) -> None:
        """Print findings for people. On stderr, so that stdout carries the result alone."""
        if findings:
            titles = ("code", "severity", "where", "message", "what to do")
            rows = [finding_row(one) for one in findings]
            self._print_table(sys.stderr, titles, rows)

    def show_error(self, message: str, code: ExitCode) -> None:
        """Print an error: one line for people on stderr, JSON for programs on stdout."""
        self.data({"error": message, "exit": int(code)})
        sys.stderr.write(f"edgetls: {printable(message)}\n")

    def _print_table(
        self, stream: TextIO, titles: Sequence[str], rows: Sequence[Sequence[object]]
    ) -> None:
        if self.as_json:
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for title in titles:
            table.add_column(title, overflow="fold")
        for row in rows:
            table.add_row(*map(_cell, row))
        _console(stream).print(table)


def finding_row(one: Finding) -> tuple[str, str, str, str, str]:
    """Return the code, severity, place, message and hint of a finding."""
    places: list[str] = []
    if one.field:
        places.append(one.field)
    if one.block is not None:
        places.append(f"block {one.block}")
    if one.pair:
        places.append(f"pair {one.pair}")
    if one.domain:
        places.append(one.domain)
    return one.code.value, one.severity.value, ", ".join(places), one.message, one.hint


def jsonable(value: Any) -> Any:
    """Return contracts in their wire form, inside lists and dictionaries too."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def printable(text: str) -> str:
    """Replace control characters: text from elsewhere must not drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def format_milliseconds(value: float | None) -> str:
    """Format a duration; seconds from 10 s on."""
    if value is None:
        return "-"
    if value < 10_000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s"


def format_date(at: datetime) -> str:
    """Format a time as its date."""
    return f"{at:%Y-%m-%d}"


def format_minute(at: datetime | None) -> str:
    """Format a time to the minute; empty for None."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}"


def format_second(at: datetime | None, missing: str = "-") -> str:
    """Format a time to the second."""
    return missing if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def _cell(value: object) -> str:
    return "" if value is None else printable(str(value))


def _console(stream: TextIO) -> Console:
    # Without markup: "[red]" in a certificate's subject is text, not a colour.
    width = None if stream.isatty() else _WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
