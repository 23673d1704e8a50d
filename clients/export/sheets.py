"""The sheets of an export: their columns, and the values that a row has in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Generic, Literal, TypeVar
from zoneinfo import ZoneInfo

from shared.contracts.ledger import LedgerRow, StatementLine
from shared.contracts.usage import UsageRow
from shared.money import negated

RowT = TypeVar("RowT")
Value = str | int | bool | Decimal | datetime | None


@dataclass(frozen=True)
class SheetColumn:
    """A column. ``time``: an instant. ``decimal``: exact, at most 38 digits, 18 of them after the
    point."""

    name: str
    kind: Literal["text", "time", "integer", "decimal", "flag"] = "text"


@dataclass(frozen=True)
class ExportSheet(Generic[RowT]):
    """A sheet. ``values`` returns a row's value for each column. ``utc``: times are written in UTC,
    whatever zone was asked for (FOCUS)."""

    name: str
    columns: Sequence[SheetColumn]
    values: Callable[[RowT], Sequence[Value]]
    utc: bool = False


_LEDGER: Final = (
    SheetColumn("id", "integer"),
    SheetColumn("account"),
    SheetColumn("kind"),
    SheetColumn("late", "flag"),
    SheetColumn("booked_at", "time"),
    SheetColumn("billed_at", "time"),
    SheetColumn("hour", "time"),
    SheetColumn("requests", "integer"),
    SheetColumn("price", "decimal"),
    SheetColumn("price_id"),
    SheetColumn("plan"),
    SheetColumn("plan_cost", "decimal"),
    SheetColumn("amount", "decimal"),
    SheetColumn("currency"),
    SheetColumn("reference"),
)
_STATEMENT: Final = (
    SheetColumn("start", "time"),
    SheetColumn("end", "time"),
    SheetColumn("kind"),
    SheetColumn("hour", "time"),
    SheetColumn("reference"),
    SheetColumn("requests", "integer"),
    SheetColumn("price", "decimal"),
    SheetColumn("price_id"),
    SheetColumn("plan"),
    SheetColumn("amount", "decimal"),
    SheetColumn("rounded", "decimal"),
    SheetColumn("lines", "integer"),
)
_LEDGER_FIELDS: Final = tuple(column.name for column in _LEDGER)
_STATEMENT_FIELDS: Final = tuple(column.name for column in _STATEMENT)
_COUNTS: Final = ("https_requests", "https_bytes", "http_requests", "http_bytes")


def usage_sheet(by: str) -> ExportSheet[UsageRow]:
    """Return the sheet of usage. ``by``: account, domain or node; the column ``key`` names which
    one."""
    columns = (
        SheetColumn("start", "time"),
        SheetColumn("end", "time"),
        SheetColumn("by"),
        SheetColumn("key"),
        *(SheetColumn(count, "integer") for count in _COUNTS),
    )

    def values(row: UsageRow) -> list[Value]:
        return [row.start, row.end, by, row.key, *_read_fields(row, _COUNTS)]

    return ExportSheet("usage", columns, values)


def charges_sheet() -> ExportSheet[LedgerRow]:
    """Return the sheet of ledger lines. ``amount`` is the cost: the ledger's amount with the other
    sign."""

    def values(row: LedgerRow) -> list[Value]:
        costs = row.model_copy(update={"amount": negated(row.amount)})
        return _read_fields(costs, _LEDGER_FIELDS)

    return ExportSheet("charges", _LEDGER, values)


def statement_sheet() -> ExportSheet[StatementLine]:
    """Return the sheet of a statement. ``amount`` is what a line does to the balance."""
    return ExportSheet("statement", _STATEMENT, lambda line: _read_fields(line, _STATEMENT_FIELDS))


def _read_fields(row: object, names: Sequence[str]) -> list[Value]:
    return [getattr(row, name) for name in names]


def as_text(value: Value, zone: ZoneInfo) -> str:
    """Return a value as text: empty for None, decimals in full without an exponent, times as
    RFC 3339 in ``zone``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return time_text(value, zone)
    return str(value)


def as_json(value: Value, zone: ZoneInfo) -> Any:
    """Return a value for JSON."""
    # Decimals are strings: readers take a number of JSON for a binary floating point number, and
    # lose digits.
    if isinstance(value, Decimal | datetime):
        return as_text(value, zone)
    return value


def time_text(at: datetime, zone: ZoneInfo) -> str:
    """Return a time as RFC 3339 in ``zone``, with ``Z`` for UTC."""
    return at.astimezone(zone).isoformat().replace("+00:00", "Z")
