"""The ledger line by line, and the monthly statement of an account (rules E1, E10)."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from shared.contracts.base import Account, Amount, Contract, Currency, Mark, Utc, Whole, Zone

Page = Annotated[int, Field(ge=1, le=500)]
Kind = Literal["credit", "charge", "correction", "plan", "unused"]
"""``unused``: what was left of a plan at its end, in its last hour; its amount is 0, for the plan
was paid before."""


class QueryLedger(Contract):
    """https.rpc.ledger.query.v1: lines that a bill of ``zone`` dates from ``start`` (inclusive) to
    ``end`` (exclusive), in order of booking. A line is dated by the hour of its usage where it was
    booked until 24 hours after the month of that hour (in ``zone``), else by its booking: a month
    that is settled never changes.

    ``account`` None: of all; ``kinds`` empty: every kind; ``after``: the ``next`` of the page
    before."""

    account: Account | None = None
    start: Utc
    end: Utc
    zone: Zone = "UTC"
    kinds: Annotated[list[Kind], Field(max_length=len(get_args(Kind)))] = []
    after: Mark | None = None
    limit: Page = 500


class LedgerRow(Contract):
    """One line, which nobody ever changes. ``amount``: what it does to the balance (a charge is
    negative).

    ``billed_at``: where a bill of the zone that was asked for puts it; ``late``: usage of an hour
    whose month was settled before. ``price``: of 10,000 requests, by ``price_id``; ``plan``:
    reference of the plan that was bought or used; ``plan_cost``: the part of that plan's price that
    ``requests`` used up, or left unused, or None. Of a plan that was bought ``requests`` is what it
    holds and ``price_id`` its name in the price book."""

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
    """https.rpc.statement.show.v1: ``month`` (``2026-05``) of ``zone``, its charges added up by day
    or hour of it.

    ``after``: the ``next`` of the page before."""

    account: Account
    month: Annotated[str, Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")]
    zone: Zone = "UTC"
    by: Literal["day", "hour"] = "day"
    after: Whole = 0
    limit: Page = 500


class StatementLine(Contract):
    """Lines of the ledger of one kind, price and plan that fall in one day or hour; credits and
    plans one by one.

    ``amount``: exact, what they do to the balance; ``rounded``: the same to a hundredth of the
    currency (rule E1);
    ``hour``: of a late or corrected usage hour; ``lines``: how many ledger lines it adds up."""

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
    """closing = opening + credits + charges + corrections + plans, exact. ``rounded``: the sum of
    all rounded lines but credits; ``rounding``: what that differs by from the exact sum."""

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
    """``final``: the month is settled, no line can join it any more. Totals are of the whole month
    on every page."""

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
    ``lines``: how many the ledger got by it; none where all was charged before."""

    until: Utc
    lines: int
    at: Utc
