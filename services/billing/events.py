"""The events about balances. Ids derive from what caused them: a redelivery is the same event."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from services.billing.balance import Crossing, Standing
from shared import subjects
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.findings import Code
from shared.ids import derived_id
from shared.messaging.cloudevents import Outgoing, outgoing

SOURCE: Final = "billing"
_SUBJECTS: Final = {
    "low": subjects.EVENT_BALANCE_LOW, "recovered": subjects.EVENT_BALANCE_RECOVERED,
    "depleted": subjects.EVENT_BALANCE_DEPLETED, "settled": subjects.EVENT_BALANCE_SETTLED,
    "credited": subjects.EVENT_BALANCE_CREDITED, "refused": subjects.EVENT_BALANCE_REFUSED,
}
_Change = Literal["low", "depleted", "recovered", "settled", "credited", "refused"]


def crossed(crossing: Crossing, at: datetime) -> Outgoing:
    identity = derived_id(SOURCE, "crossing", crossing.standing.account, str(crossing.number))
    return _event(crossing.change, crossing.standing, crossing.number, at, identity)


def credited(standing: Standing, reference: str, command_id: str, at: datetime) -> Outgoing:
    identity = derived_id(SOURCE, "credited", standing.account, reference)
    return _event("credited", standing, standing.crossing, at, identity, reference=reference, cause=command_id)


def refused(standing: Standing, code: Code, reference: str | None, command_id: str, at: datetime) -> Outgoing:
    identity = derived_id(SOURCE, "refused", command_id)
    return _event(
        "refused", standing, standing.crossing, at, identity, reference=reference, cause=command_id, codes=[code.value]
    )


def view(standing: Standing) -> BalanceView:
    return BalanceView(
        account=standing.account, currency=standing.money, ledger=standing.ledger, accrued=standing.accrued,
        balance=standing.balance, threshold=standing.threshold, limit=standing.limit, low=standing.low,
        depleted=standing.depleted, hours_left=standing.hours_left,
    )


def _event(
    change: _Change, standing: Standing, number: int, at: datetime, identity: str, *, reference: str | None = None,
    cause: str | None = None, codes: list[str] | None = None,
) -> Outgoing:
    body = BalanceEvent(
        account=standing.account, change=change, crossing=number, balance=standing.balance, limit=standing.limit,
        currency=standing.money, hours_left=standing.hours_left, reference=reference, codes=codes or [], at=at,
    )
    return outgoing(
        _SUBJECTS[change], body, source=SOURCE, about=standing.account, at=at, id=identity, cause=cause or None
    )
