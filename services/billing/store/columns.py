"""Many rows in one statement: each column is one parameter, and ``unnest`` joins them again.

``RowColumns`` builds the SQL and the parameters from one list of columns, so that their order
cannot differ. For the rows of usage, which come by the thousand, ``unnest_texts`` is the fast way:
a column is one text that PostgreSQL splits. asyncpg encodes an array element by element and asks
each element whether it is a list itself: 4 microseconds for a row of eight columns. Joining a
column costs a tenth of that, and splitting it in PostgreSQL about the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

BREAK: Final = "\n"
BREAK_SQL: Final = "E'\\n'"


class RowColumns:
    """Columns of a table with their SQL types, such as ``RowColumns(account="text", hour="int")``.

    ``first`` is the number of the first parameter, ``alias`` the name of the rows in SQL."""

    def __init__(self, **sql_types: str) -> None:
        self._sql_types = sql_types
        self.names = ", ".join(sql_types)

    def unnest(self, alias: str = "t", first: int = 1) -> str:
        """Return ``unnest($1::text[], $2::int[]) as t (account, hour)``."""
        parameters = []
        for number, sql_type in enumerate(self._sql_types.values(), start=first):
            parameters.append(f"${number}::{sql_type}[]")
        return f"unnest({', '.join(parameters)}) as {alias} ({self.names})"

    def assignments(self, *keys: str, alias: str = "t") -> str:
        """Return ``hour = t.hour`` for each column but ``keys``, to update a table with."""
        return ", ".join(f"{name} = {alias}.{name}" for name in self._sql_types if name not in keys)

    def from_objects(self, rows: Sequence[object]) -> list[list[Any]]:
        """Return the parameters for objects whose attributes have the names of the columns."""
        return [[getattr(row, name) for row in rows] for name in self._sql_types]

    def from_tuples(self, rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
        """Return the parameters for tuples in order of the columns."""
        return [[row[index] for row in rows] for index in range(len(self._sql_types))]


ACCOUNT_HOURS: Final = RowColumns(account="text", hour="int")


def join_texts(values: Iterable[str]) -> str:
    """Return the parameter of a text column for ``unnest_texts`` and ``split_texts``.

    No value may hold a line break: they are names that were checked when they came in."""
    return BREAK.join(values)


def join_numbers(values: Iterable[int]) -> str:
    """Return the parameter of a number column for ``unnest_texts``."""
    return BREAK.join(map(str, values))


def unnest_texts(*sql_types: str) -> str:
    """Return ``unnest(…)`` of columns that join_texts() and join_numbers() made, from $1 on."""
    columns = []
    for number, sql_type in enumerate(sql_types, start=1):
        # An empty text would be an empty array and not one empty value: so a break goes before the
        # first value, and the nothing before that break is cut off.
        texts = f"(string_to_array({BREAK_SQL} || ${number}::text, {BREAK_SQL}))[2:]"
        columns.append(texts if sql_type == "text" else f"{texts}::{sql_type}[]")
    return f"unnest({', '.join(columns)})"
