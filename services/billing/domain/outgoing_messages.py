"""The events about balances, plans and prices.

The id of an event derives from what caused it: a redelivery makes the same event again.
"""

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
_MAX_FINDINGS: Final = 50
_SUBJECTS: Final = {
    "low": catalogue.EVENT_BALANCE_LOW,
    "recovered": catalogue.EVENT_BALANCE_RECOVERED,
    "depleted": catalogue.EVENT_BALANCE_DEPLETED,
    "settled": catalogue.EVENT_BALANCE_SETTLED,
    "overdue": catalogue.EVENT_BALANCE_OVERDUE,
    "credited": catalogue.EVENT_BALANCE_CREDITED,
    "refused": catalogue.EVENT_BALANCE_REFUSED,
}
_BalanceChange = Literal[
    "low", "depleted", "overdue", "recovered", "settled", "credited", "refused"
]


def crossing_event(crossing: Crossing, at: datetime) -> Outgoing:
    """Return the event of a flag that changed."""
    identity = derived_id(SOURCE, "crossing", crossing.state.account, str(crossing.number))
    return _balance_event(crossing.kind, crossing.state, crossing.number, at, identity)


def credited_event(state: AccountState, reference: str, command_id: str, at: datetime) -> Outgoing:
    """Return the event of a credit, once for each command.

    A new command with the same reference gets an event too: the credit is booked already."""
    return _balance_event(
        "credited",
        state,
        state.crossing,
        at,
        derived_id(SOURCE, "credited", state.account, reference, command_id),
        reference=reference,
        cause=command_id,
    )


def refused_event(
    state: AccountState, code: Code, reference: str | None, command_id: str, at: datetime
) -> Outgoing:
    """Return the event of a command that was refused."""
    return _balance_event(
        "refused",
        state,
        state.crossing,
        at,
        derived_id(SOURCE, "refused", command_id),
        reference=reference,
        cause=command_id,
        codes=[code.value],
    )


def purchased_event(state: AccountState, plan: PlanView, command_id: str, at: datetime) -> Outgoing:
    """Return the event of a plan that was bought."""
    return outgoing(
        catalogue.EVENT_PLAN_PURCHASED,
        PlanEvent(plan=plan, balance=state.balance, at=at),
        source=SOURCE,
        about=state.account,
        at=at,
        id=derived_id(SOURCE, "purchased", plan.account, plan.reference, command_id),
        cause=command_id,
    )


def price_book_event(
    serial: int, findings: Sequence[Finding], command_id: str, at: datetime
) -> Outgoing:
    """Return the event of a price book that was applied, or refused with ``findings``."""
    subject = catalogue.EVENT_PRICE_BOOK_APPLIED
    change: Literal["applied", "refused"] = "applied"
    if findings:
        subject = catalogue.EVENT_PRICE_BOOK_REFUSED
        change = "refused"
    body = PriceBookEvent(
        serial=serial,
        change=change,
        codes=[finding.code.value for finding in findings[:_MAX_FINDINGS]],
        messages=[finding.message for finding in findings[:_MAX_FINDINGS]],
        at=at,
    )
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
    """Return the event of hours that were closed by a command; ``lines``: ledger lines written."""
    return outgoing(
        catalogue.EVENT_HOUR_CLOSED,
        HourClosed(until=until, lines=lines, at=at),
        source=SOURCE,
        about="hours",
        at=at,
        id=derived_id(SOURCE, "hour_closed", command_id),
        cause=command_id,
    )


def balance_view(state: AccountState) -> BalanceView:
    """Return the answer to the question for a balance."""
    return BalanceView(
        account=state.account,
        currency=state.rating_currency,
        ledger=state.ledger,
        accrued=state.accrued_amount,
        balance=state.balance,
        threshold=state.threshold,
        limit=state.low_limit,
        low=state.low,
        depleted=state.depleted,
        overdue=state.overdue,
        hours_left=state.hours_left,
    )


def _balance_event(
    change: _BalanceChange,
    state: AccountState,
    number: int,
    at: datetime,
    identity: str,
    *,
    reference: str | None = None,
    cause: str | None = None,
    codes: list[str] | None = None,
) -> Outgoing:
    body = BalanceEvent(
        account=state.account,
        change=change,
        crossing=number,
        balance=state.balance,
        limit=state.low_limit,
        currency=state.rating_currency,
        hours_left=state.hours_left,
        reference=reference,
        codes=codes or [],
        at=at,
    )
    return outgoing(
        _SUBJECTS[change],
        body,
        source=SOURCE,
        about=state.account,
        at=at,
        id=identity,
        cause=cause or None,
    )
