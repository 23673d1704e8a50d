"""What the command line says, and how it ends: data to stdout, the rest to stderr.

Exit codes: 0 done, 1 refused, 2 usage, 3 the platform is out of reach.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, TextIO

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from shared.contracts.findings import Finding


class Exit(IntEnum):
    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3


class Out:
    """``as_json``: stdout carries JSON alone, one value a command (``events``: one a line)."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._said = False

    def data(self, value: Any) -> None:
        """The result for programs; nothing without ``--json``. A command has one: what comes after
        it, as the refusal of a part, is told by the exit code."""
        if not self._said:
            self.each(value)
        self._said = True

    def each(self, value: Any) -> None:
        """One of many results, a line each."""
        if self.as_json:
            sys.stdout.write(json.dumps(jsonable(value), ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def line(self, text: str) -> None:
        """A line of the result for people."""
        if not self.as_json:
            _console(sys.stdout).print(plain(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """What happens meanwhile: never part of the result."""
        stream = sys.stderr if self.as_json else sys.stdout
        _console(stream).print(plain(text), soft_wrap=True)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "nothing"
    ) -> None:
        if self.as_json:
            return
        cells = [[plain("" if cell is None else str(cell)) for cell in row] for row in rows]
        if not cells:
            self.line(empty)
            return
        _console(sys.stdout).print(_table(columns, cells))

    def findings(self, findings: Sequence[Finding]) -> None:
        """A table of code, severity, where, message and hint; on stderr, so that data stays alone
        on stdout."""
        if findings and not self.as_json:
            rows = [[plain(cell) for cell in finding_row(one)] for one in findings]
            _console(sys.stderr).print(
                _table(("code", "severity", "where", "message", "what to do"), rows)
            )

    def fault(self, message: str, code: Exit) -> None:
        self.data({"error": message, "exit": int(code)})
        sys.stderr.write(f"edgetls: {plain(message)}\n")


def finding_row(one: Finding) -> tuple[str, str, str, str, str]:
    where: list[str] = [one.field or ""]
    if one.block is not None:
        where.append(f"block {one.block}")
    if one.pair:
        where.append(f"pair {one.pair}")
    if one.domain:
        where.append(one.domain)
    return one.code.value, one.severity.value, ", ".join(filter(None, where)), one.message, one.hint


def jsonable(value: Any) -> Any:
    """Contracts as their wire form, inside lists and dictionaries too."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def plain(text: str) -> str:
    """Without control characters: text from elsewhere must not drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _console(stream: TextIO) -> Console:
    # A pipe has no width: 160 columns keep a row on one line for grep and awk.
    width = None if stream.isatty() else 160
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
