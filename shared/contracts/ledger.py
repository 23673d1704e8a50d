"""The ledger line by line, and the monthly statement of an account (rules E1, E10)."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from shared.contracts.base import Account, Amount, Contract, Currency, Mark, Utc, Whole, Zone

Page = Annotated[int, Field(ge=1, le=500)]
# ``unused``: the requests of a plan that were left at its end, in its last hour. Its amount is 0,
# because the plan was paid before.
Kind = Literal["credit", "charge", "correction", "plan", "unused"]


class QueryLedger(Contract):
    """https.rpc.ledger.query.v1: ledger lines that a bill of ``zone`` dates from ``start``
    (inclusive) to ``end`` (exclusive), in order of booking.

    A line is dated by the hour of its usage when it was booked until 24 hours after the month of
    that hour (in ``zone``), else by its booking: a settled month never changes. ``account``
    None: of all accounts. ``kinds`` empty: every kind. ``after`` is the ``next`` of the page
    before."""

    account: Account | None = None
    start: Utc
    end: Utc
    zone: Zone = "UTC"
    kinds: Annotated[list[Kind], Field(max_length=len(get_args(Kind)))] = []
    after: Mark | None = None
    limit: Page = 500


class LedgerRow(Contract):
    """A ledger line; it never changes.

    ``amount``: what it does to the balance (a charge is negative). ``billed_at``: its date on a
    bill of the asked zone. ``late``: usage of an hour whose month was settled before. ``price``:
    of 10,000 requests, by ``price_id``. ``plan``: the reference of the plan that was bought or
    used. ``plan_cost``: the part of that plan's price that ``requests`` used up or left unused,
    else None. For a plan that was bought, ``requests`` is the plan's size and ``price_id`` its
    name in the price book."""

    id: int
    account: Account
    kind: Kind
    booked_at: Utc
    billed_at: Utc
    late: bool
    hour: Utc | None
    requests: int | None
    price: Amount | None
    price_id: str | None
    plan: str | None
    plan_cost: Amount | None
    amount: Amount
    currency: Currency
    reference: str | None


class LedgerPage(Contract):
    rows: list[LedgerRow]
    next: str | None


class ShowStatement(Contract):
    """https.rpc.statement.show.v1: a month's statement of an account, with its charges added up
    by day or hour.

    ``month`` is like ``2026-05``, in ``zone``. ``after`` is the ``next`` of the page before."""

    account: Account
    month: Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
    zone: Zone = "UTC"
    by: Literal["day", "hour"] = "day"
    after: Whole = 0
    limit: Page = 500


class StatementLine(Contract):
    """Ledger lines of one kind, price and plan in one day or hour, added up; credits and plans
    one by one.

    ``amount``: exact, what they do to the balance. ``rounded``: the same to a hundredth of the
    currency (rule E1). ``hour``: of a late or corrected usage hour. ``lines``: how many ledger
    lines it adds up."""

    start: Utc
    end: Utc
    kind: Kind
    hour: Utc | None
    reference: str | None
    requests: int | None
    price: Amount | None
    price_id: str | None
    plan: str | None
    amount: Amount
    rounded: Amount
    lines: int


class StatementTotals(Contract):
    """closing = opening + credits + charges + corrections + plans, exact.

    ``rounded``: the sum of all rounded lines but credits. ``rounding``: its difference from the
    exact sum."""

    opening: Amount
    credits: Amount
    charges: Amount
    corrections: Amount
    plans: Amount
    closing: Amount
    requests: int
    rounded: Amount
    rounding: Amount


class Statement(Contract):
    """A month's statement. ``final``: the month is settled, so that no line can be added. Totals
    on every page are of the whole month."""

    account: Account
    currency: Currency
    month: str
    zone: Zone
    start: Utc
    end: Utc
    final: bool
    totals: StatementTotals
    lines: list[StatementLine]
    next: int | None


class HourClosed(Contract):
    """https.event.hour.closed.v1, the answer to a command: the hours that ended at or before
    ``until`` are charged.

    ``lines``: how many lines the ledger got by it; 0 when all was charged before."""

    until: Utc
    lines: int
    at: Utc
