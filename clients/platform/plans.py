"""Plans of an account: what it bought, and buying."""

from __future__ import annotations

from datetime import UTC, datetime

from clients.platform.connection import Reach
from clients.platform.outcome_events import order
from shared import catalogue
from shared.contracts.balance import BalanceEvent
from shared.contracts.commands import PurchasePlan
from shared.contracts.findings import Code, findings_from
from shared.contracts.prices import ListPlans, PlanEvent, PlanView
from shared.errors import Refused
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing


async def plans_of(reach: Reach, account: str) -> list[PlanView]:
    """Soonest to expire first, those that have ended too."""
    found: list[PlanView] = []
    question: ListPlans | None = ListPlans(account=account)
    while question is not None:
        page = await reach.ask(catalogue.RPC_PLAN_LIST, question)
        found += page.plans
        question = None if page.next is None else question.model_copy(update={"after": page.next})
    return found


async def buy_plan(
    reach: Reach, account: str, plan: str, currency: str, reference: str, source: str = "platform"
) -> PlanEvent:
    """Buys ``plan`` of the price book from the balance, once per (account, reference), and waits
    until it is booked.

    Refused: plan.unknown, balance.insufficient, balance.reference_used,
    balance.currency_differs."""
    body = PurchasePlan(account=account, plan=plan, reference=reference, currency=currency)
    message = outgoing(
        catalogue.CMD_PLAN_PURCHASE,
        body,
        source=source,
        about=account,
        at=datetime.now(UTC),
        id=new_id(),
    )
    said = await order(
        reach,
        message,
        {catalogue.EVENT_PLAN_PURCHASED: PlanEvent, catalogue.EVENT_BALANCE_REFUSED: BalanceEvent},
    )
    if isinstance(said, PlanEvent):
        return said
    assert isinstance(said, BalanceEvent)  # noqa: S101 - the other of the two
    raise Refused(findings_from(said.codes, unknown=Code.REQUEST_MALFORMED))
