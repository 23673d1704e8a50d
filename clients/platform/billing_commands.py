"""Commands to billing, each of which returns when it is booked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Final

from clients.platform.connection import PlatformConnection
from clients.platform.events import last_sequence
from clients.platform.outcome_events import (
    ASK_SECONDS,
    AskOutcome,
    EventSearch,
    OutcomeT,
    OutcomeWaiter,
)
from shared import catalogue
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.base import Contract
from shared.contracts.commands import (
    ApplyPriceBook,
    CloseHour,
    CreditBalance,
    PurchasePlan,
    SetThreshold,
)
from shared.contracts.findings import Code, findings_from
from shared.contracts.ledger import HourClosed
from shared.contracts.prices import PlanEvent, PriceBook, PriceBookEvent
from shared.contracts.queries import ShowBalance
from shared.errors import Refused, Unreachable
from shared.ids import new_id
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing

_THRESHOLD_ASK_SECONDS: Final = 0.1
_CREDIT_OUTCOMES: Final[Mapping[str, type[BalanceEvent]]] = {
    catalogue.EVENT_BALANCE_CREDITED: BalanceEvent,
    catalogue.EVENT_BALANCE_REFUSED: BalanceEvent,
}
_THRESHOLD_OUTCOMES: Final[Mapping[str, type[BalanceEvent | BalanceView]]] = {
    catalogue.EVENT_BALANCE_REFUSED: BalanceEvent
}
_PLAN_OUTCOMES: Final[Mapping[str, type[PlanEvent | BalanceEvent]]] = {
    catalogue.EVENT_PLAN_PURCHASED: PlanEvent,
    catalogue.EVENT_BALANCE_REFUSED: BalanceEvent,
}
_HOUR_OUTCOMES: Final[Mapping[str, type[HourClosed]]] = {catalogue.EVENT_HOUR_CLOSED: HourClosed}
_PRICE_BOOK_OUTCOMES: Final[Mapping[str, type[PriceBookEvent]]] = {
    catalogue.EVENT_PRICE_BOOK_APPLIED: PriceBookEvent,
    catalogue.EVENT_PRICE_BOOK_REFUSED: PriceBookEvent,
}


class BillingCommands:
    """Each method sends a command and returns its outcome.

    Unreachable when the outcome was not known within the connection's timeout; the command may
    still be carried out, and sending it again is safe."""

    def __init__(self, connection: PlatformConnection, source: str) -> None:
        """``source``: the sender's name in the history."""
        self._connection = connection
        self._waiter = OutcomeWaiter(connection)
        self._source = source

    async def credit(
        self, account: str, reference: str, amount: Decimal | str, currency: str
    ) -> BalanceEvent:
        """Add to the balance, once per (account, reference).

        ``change`` of the answer is ``credited`` or ``refused`` (with ``codes``)."""
        body = CreditBalance(
            account=account, reference=reference, amount=Decimal(amount), currency=currency
        )
        message = self._build_message(catalogue.CMD_BALANCE_CREDIT, body, account)
        # From the first event: a repeated reference was booked some time ago.
        search = EventSearch(self._connection, _CREDIT_OUTCOMES, start=1)
        ask = _CreditSearch(search, message.id, account, reference).ask
        return await self._carry_out(message, _CREDIT_OUTCOMES, ask)

    async def buy_plan(self, account: str, plan: str, currency: str, reference: str) -> PlanEvent:
        """Buy a plan of the price book from the balance, once per (account, reference).

        Refused: plan.unknown, balance.insufficient, balance.reference_used,
        balance.currency_differs."""
        body = PurchasePlan(account=account, plan=plan, reference=reference, currency=currency)
        message = self._build_message(catalogue.CMD_PLAN_PURCHASE, body, account)
        search = await self._search_from_now(_PLAN_OUTCOMES)
        outcome = await self._carry_out(message, _PLAN_OUTCOMES, partial(search.find, message.id))
        if isinstance(outcome, PlanEvent):
            return outcome
        raise Refused(findings_from(outcome.codes, unknown=Code.REQUEST_MALFORMED))

    async def threshold(
        self, account: str, threshold: Decimal | str | None, currency: str
    ) -> BalanceView:
        """Set the account's own low-balance limit, None for none, and return the balance with it.

        Refused: balance.currency_differs."""
        limit = None if threshold is None else Decimal(threshold)
        body = SetThreshold(account=account, threshold=limit, currency=currency)
        message = self._build_message(catalogue.CMD_BALANCE_THRESHOLD, body, account)
        search = await self._search_from_now(_THRESHOLD_OUTCOMES)

        async def ask() -> BalanceEvent | BalanceView | None:
            # No event tells that a limit was set, only that one was refused.
            view = await self._balance_with(body)
            return view or await search.find(message.id)

        outcome = await self._carry_out(
            message, _THRESHOLD_OUTCOMES, ask, ask_every=_THRESHOLD_ASK_SECONDS
        )
        if isinstance(outcome, BalanceView):
            return outcome
        raise Refused(findings_from(outcome.codes, unknown=Code.REQUEST_MALFORMED))

    async def close_hour(self, until: datetime) -> HourClosed:
        """Post the accrued usage of the hours that ended at or before ``until``, a time with a
        zone (user operator)."""
        message = self._build_message(catalogue.CMD_HOUR_CLOSE, CloseHour(until=until), "hours")
        search = await self._search_from_now(_HOUR_OUTCOMES)
        return await self._carry_out(message, _HOUR_OUTCOMES, partial(search.find, message.id))

    async def apply_price_book(self, book: PriceBook, base: int) -> PriceBookEvent:
        """Make ``book`` the price book if ``base`` is still the current serial (user operator).

        ``change`` of the answer is ``applied`` or ``refused`` (with ``codes`` and
        ``messages``)."""
        body = ApplyPriceBook(base=base, book=book)
        message = self._build_message(catalogue.CMD_PRICE_BOOK_APPLY, body, "price_book")
        search = await self._search_from_now(_PRICE_BOOK_OUTCOMES)
        return await self._carry_out(
            message, _PRICE_BOOK_OUTCOMES, partial(search.find, message.id)
        )

    async def _carry_out(
        self,
        message: Outgoing,
        models: Mapping[str, type[OutcomeT]],
        ask: AskOutcome[OutcomeT],
        *,
        ask_every: float = ASK_SECONDS,
    ) -> OutcomeT:
        """Publish a command and return its outcome."""
        pending = await self._waiter.expect(message.id, models)
        try:
            await self._connection.publish(message)
            outcome = await pending.wait(ask, self._connection.timeout, ask_every=ask_every)
        finally:
            self._waiter.forget(message.id)
        if outcome is None:
            raise Unreachable(
                f"{message.subject} is stored, but billing did not tell its outcome within "
                f"{self._connection.timeout:g} s; sending the same again is safe"
            )
        return outcome

    async def _search_from_now(self, models: Mapping[str, type[OutcomeT]]) -> EventSearch[OutcomeT]:
        start = await last_sequence(self._connection) + 1
        return EventSearch(self._connection, models, start)

    async def _balance_with(self, body: SetThreshold) -> BalanceView | None:
        """Return the balance if it has the limit, else None."""
        question = ShowBalance(account=body.account)
        try:
            view = await self._connection.ask(
                catalogue.RPC_BALANCE_SHOW, question, timeout=ASK_SECONDS
            )
        except (Refused, Unreachable):
            return None
        if (view.threshold, view.currency) != (body.threshold, body.currency):
            return None
        return view

    def _build_message(self, subject: str, body: Contract, about: str) -> Outgoing:
        return outgoing(
            subject, body, source=self._source, about=about, at=datetime.now(UTC), id=new_id()
        )


class _CreditSearch:
    """Finds the booking of a credit in the stream.

    A repeated reference is booked once, and the event names the earlier command. That event
    counts at the second look only: a refusal of this command (because it names another amount) may
    still be on its way."""

    def __init__(
        self, search: EventSearch[BalanceEvent], command_id: str, account: str, reference: str
    ) -> None:
        self._search = search
        self._command_id = command_id
        self._account = account
        self._reference = reference
        self._earlier: BalanceEvent | None = None

    async def ask(self) -> BalanceEvent | None:
        """Return the outcome, or None while it is not certain."""
        # A repeated command for the same amount books nothing and causes no event; for another
        # amount it is refused by an event. When the first look finds the earlier booking, billing
        # may not have come to this command yet. The second look, one ask interval later, decides:
        # a refusal that is in the stream by then wins, otherwise the earlier booking is the answer.
        found_before = self._earlier
        async for found in self._search.read_new():
            event = found.body
            if (event.account, event.reference) != (self._account, self._reference):
                continue
            if found.cause == self._command_id:
                return event
            if event.change == "credited":
                self._earlier = event
        return found_before
