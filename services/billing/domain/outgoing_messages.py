"""The events about balances, plans and prices. Ids derive from what caused them: a redelivery is
the same event."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from services.billing.domain.balance import AccountState, Crossing
from shared import catalogue
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.findings import Code, Finding
from shared.contracts.ledger import HourClosed
from shared.contracts.prices import PlanEvent, PlanView, PriceBookEvent
from shared.ids import derived_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing

SOURCE: Final = "billing"
_SUBJECTS: Final = {
    "low": catalogue.EVENT_BALANCE_LOW,
    "recovered": catalogue.EVENT_BALANCE_RECOVERED,
    "depleted": catalogue.EVENT_BALANCE_DEPLETED,
    "settled": catalogue.EVENT_BALANCE_SETTLED,
    "overdue": catalogue.EVENT_BALANCE_OVERDUE,
    "credited": catalogue.EVENT_BALANCE_CREDITED,
    "refused": catalogue.EVENT_BALANCE_REFUSED,
}
_Change = Literal["low", "depleted", "overdue", "recovered", "settled", "credited", "refused"]


def crossing_event(crossing: Crossing, at: datetime) -> Outgoing:
    identity = derived_id(SOURCE, "crossing", crossing.standing.account, str(crossing.number))
    return _balance_event(crossing.change, crossing.standing, crossing.number, at, identity)


def credited_event(
    standing: AccountState, reference: str, command_id: str, at: datetime
) -> Outgoing:
    """Once a command: whoever orders a credit again, under a new command, hears that it is
    booked."""
    identity = derived_id(SOURCE, "credited", standing.account, reference, command_id)
    return _balance_event(
        "credited", standing, standing.crossing, at, identity, reference=reference, cause=command_id
    )


def refused_event(
    standing: AccountState, code: Code, reference: str | None, command_id: str, at: datetime
) -> Outgoing:
    identity = derived_id(SOURCE, "refused", command_id)
    return _balance_event(
        "refused",
        standing,
        standing.crossing,
        at,
        identity,
        reference=reference,
        cause=command_id,
        codes=[code.value],
    )


def purchased_event(
    standing: AccountState, plan: PlanView, command_id: str, at: datetime
) -> Outgoing:
    return outgoing(
        catalogue.EVENT_PLAN_PURCHASED,
        PlanEvent(plan=plan, balance=standing.balance, at=at),
        source=SOURCE,
        about=standing.account,
        at=at,
        id=derived_id(SOURCE, "purchased", plan.account, plan.reference, command_id),
        cause=command_id,
    )


def price_book_event(
    serial: int, findings: Sequence[Finding], command_id: str, at: datetime
) -> Outgoing:
    """Applied, or refused with the findings."""
    body = PriceBookEvent(
        serial=serial,
        change="refused" if findings else "applied",
        codes=[f.code.value for f in findings][:50],
        messages=[f.message for f in findings][:50],
        at=at,
    )
    subject = catalogue.EVENT_PRICE_BOOK_REFUSED if findings else catalogue.EVENT_PRICE_BOOK_APPLIED
    return outgoing(
        subject,
        body,
        source=SOURCE,
        about="price_book",
        at=at,
        id=derived_id(SOURCE, "price_book", command_id),
        cause=command_id,
    )


def hour_closed_event(until: datetime, lines: int, command_id: str, at: datetime) -> Outgoing:
    return outgoing(
        catalogue.EVENT_HOUR_CLOSED,
        HourClosed(until=until, lines=lines, at=at),
        source=SOURCE,
        about="hours",
        at=at,
        id=derived_id(SOURCE, "hour_closed", command_id),
        cause=command_id,
    )


def balance_view(standing: AccountState) -> BalanceView:
    return BalanceView(
        account=standing.account,
        currency=standing.money,
        ledger=standing.ledger,
        accrued=standing.accrued,
        balance=standing.balance,
        threshold=standing.threshold,
        limit=standing.limit,
        low=standing.low,
        depleted=standing.depleted,
        overdue=standing.overdue,
        hours_left=standing.hours_left,
    )


def _balance_event(
    change: _Change,
    standing: AccountState,
    number: int,
    at: datetime,
    identity: str,
    *,
    reference: str | None = None,
    cause: str | None = None,
    codes: list[str] | None = None,
) -> Outgoing:
    body = BalanceEvent(
        account=standing.account,
        change=change,
        crossing=number,
        balance=standing.balance,
        limit=standing.limit,
        currency=standing.money,
        hours_left=standing.hours_left,
        reference=reference,
        codes=codes or [],
        at=at,
    )
    return outgoing(
        _SUBJECTS[change],
        body,
        source=SOURCE,
        about=standing.account,
        at=at,
        id=identity,
        cause=cause or None,
    )
