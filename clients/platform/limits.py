"""The low-balance limit and the closing of hours: ordered, and waited for."""

from __future__ import annotations

from datetime import UTC, datetime

from clients.platform.connection import Reach
from clients.platform.outcome_events import order
from shared import catalogue
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.commands import CloseHour, SetThreshold
from shared.contracts.findings import Code, findings_from
from shared.contracts.ledger import HourClosed
from shared.contracts.queries import ShowBalance
from shared.errors import Refused, Unreachable
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing

_ASK_SECONDS = 1.0


async def set_threshold(reach: Reach, body: SetThreshold, source: str) -> BalanceView:
    """The balance that has the limit: no event tells of a limit that was set, only of one that was
    refused."""

    async def shown() -> BalanceView | None:
        try:
            view = await reach.ask(
                catalogue.RPC_BALANCE_SHOW,
                ShowBalance(account=body.account),
                patience=_ASK_SECONDS,
            )
        except (Refused, Unreachable):
            return None
        return view if (view.threshold, view.currency) == (body.threshold, body.currency) else None

    message = outgoing(
        catalogue.CMD_BALANCE_THRESHOLD,
        body,
        source=source,
        about=body.account,
        at=datetime.now(UTC),
        id=new_id(),
    )
    said = await order(reach, message, {catalogue.EVENT_BALANCE_REFUSED: BalanceEvent}, shown)
    if isinstance(said, BalanceEvent):
        raise Refused(findings_from(said.codes, unknown=Code.REQUEST_MALFORMED))
    assert isinstance(said, BalanceView)  # noqa: S101 - the other of the two
    return said


async def close_hour(reach: Reach, body: CloseHour, source: str) -> HourClosed:
    message = outgoing(
        catalogue.CMD_HOUR_CLOSE,
        body,
        source=source,
        about="hours",
        at=datetime.now(UTC),
        id=new_id(),
    )
    said = await order(reach, message, {catalogue.EVENT_HOUR_CLOSED: HourClosed})
    assert isinstance(said, HourClosed)  # noqa: S101 - the only one
    return said
