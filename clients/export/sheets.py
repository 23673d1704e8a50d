"""What the columns of an export are: a name, a kind, and how a row of the wire becomes one of the
file."""

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
class Column:
    """``time``: an instant; ``decimal``: exact, at most 38 digits, 18 of them after the point."""

    name: str
    kind: Literal["text", "time", "integer", "decimal", "flag"] = "text"


@dataclass(frozen=True)
class Sheet(Generic[RowT]):
    """``values`` gives one value for each column; ``utc``: times are written in UTC whatever the
    zone (FOCUS)."""

    name: str
    columns: Sequence[Column]
    values: Callable[[RowT], Sequence[Value]]
    utc: bool = False


_LEDGER: Final = (
    Column("id", "integer"),
    Column("account"),
    Column("kind"),
    Column("late", "flag"),
    Column("booked_at", "time"),
    Column("billed_at", "time"),
    Column("hour", "time"),
    Column("requests", "integer"),
    Column("price", "decimal"),
    Column("price_id"),
    Column("plan"),
    Column("plan_cost", "decimal"),
    Column("amount", "decimal"),
    Column("currency"),
    Column("reference"),
)
_STATEMENT: Final = (
    Column("start", "time"),
    Column("end", "time"),
    Column("kind"),
    Column("hour", "time"),
    Column("reference"),
    Column("requests", "integer"),
    Column("price", "decimal"),
    Column("price_id"),
    Column("plan"),
    Column("amount", "decimal"),
    Column("rounded", "decimal"),
    Column("lines", "integer"),
)
_COUNTS: Final = ("https_requests", "https_bytes", "http_requests", "http_bytes")


def usage_sheet(by: str) -> Sheet[UsageRow]:
    """The same columns whatever ``by`` is (account, domain or node): ``key`` is one of it."""
    columns = (
        Column("start", "time"),
        Column("end", "time"),
        Column("by"),
        Column("key"),
        *(Column(count, "integer") for count in _COUNTS),
    )
    return Sheet(
        "usage",
        columns,
        lambda row: [row.start, row.end, by, row.key, *(getattr(row, count) for count in _COUNTS)],
    )


def charges_sheet() -> Sheet[LedgerRow]:
    """As the ledger has them, but ``amount`` is what they cost: the ledger's with the other
    sign."""
    return Sheet(
        "charges",
        _LEDGER,
        lambda row: _ledger_values(row.model_copy(update={"amount": negated(row.amount)})),
    )


def statement_sheet() -> Sheet[StatementLine]:
    """``amount``: what a line does to the balance, as on a bank's statement."""
    return Sheet(
        "statement", _STATEMENT, lambda line: [getattr(line, column.name) for column in _STATEMENT]
    )


def _ledger_values(row: LedgerRow) -> list[Value]:
    return [getattr(row, column.name) for column in _LEDGER]


def as_text(value: Value, zone: ZoneInfo) -> str:
    """Nothing for None; decimals in full, never with an exponent; times as RFC 3339 of ``zone``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    return time_text(value, zone) if isinstance(value, datetime) else str(value)


def as_json(value: Value, zone: ZoneInfo) -> Any:
    """Decimals as strings: a number of JSON is read as binary floating point."""
    return as_text(value, zone) if isinstance(value, Decimal | datetime) else value


def time_text(at: datetime, zone: ZoneInfo) -> str:
    """``Z`` for UTC."""
    return at.astimezone(zone).isoformat().replace("+00:00", "Z")
