"""An overdue account at a real node: its HTTPS is refused, and served again when it paid."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from clients.platform import Platform as Client
from deploy.demo.visitors.handshakes import Endpoint, fetch_leaf, is_refused, verifying_context
from deploy.embedded import nats
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.keys import seed_file
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue
from shared.contracts.balance import BalanceEvent
from shared.contracts.domains import DomainState, Outcome
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher
from tests.support.waiting import until

OWNER, DOMAIN = "overdue", "www.overdue.test"


async def tell(
    platform: EmbeddedPlatform, change: Literal["overdue", "settled"], crossing: int
) -> None:
    """As billing does."""
    subject = (
        catalogue.EVENT_BALANCE_OVERDUE if change == "overdue" else catalogue.EVENT_BALANCE_SETTLED
    )
    event = BalanceEvent(
        account=OWNER,
        change=change,
        crossing=crossing,
        balance=Decimal(1),
        limit=None,
        currency="USD",
        hours_left=None,
        at=datetime.now(UTC),
    )
    billing = await nats.login(
        platform.run["nats_url"], "billing", seed_file(platform.data, "billing")
    )
    try:
        await Publisher(billing).publish(
            outgoing(subject, event, source="billing", about=OWNER, at=event.at)
        )
    finally:
        await billing.close()


async def test_nodes_refuse_an_overdue_account_and_serve_it_again(
    platform: EmbeddedPlatform, customer: Client, ca: DevCa, nodes: list[Endpoint]
) -> None:
    await customer.settled(
        (await customer.register(DOMAIN, OWNER, "video", "http://127.0.0.1:9")).command_id
    )
    settled = await customer.settled(
        (await customer.submit(DOMAIN, OWNER, *ca.issue([DOMAIN], "ecdsa"))).command_id
    )
    assert settled.outcome is Outcome.APPLIED
    await customer.converged(DOMAIN, settled.revision or 0)
    context = verifying_context(Path(platform.run["trust_roots"]))
    leaf = await fetch_leaf(nodes[0], DOMAIN, context)

    await tell(platform, "overdue", 1)
    suspended = await _until_state(customer, DomainState.SUSPENDED, settled.revision or 0)
    await customer.converged(DOMAIN, suspended)
    assert [await is_refused(node, DOMAIN, context) for node in nodes] == [True for _ in nodes]
    shown = await customer.account(OWNER)
    assert shown.suspension is not None and (shown.suspension.reason, shown.suspended) == (
        "overdue",
        1,
    )

    await tell(platform, "settled", 2)
    await customer.converged(DOMAIN, await _until_state(customer, DomainState.ENABLED, suspended))
    assert [await fetch_leaf(node, DOMAIN, context) for node in nodes] == [leaf for _ in nodes]
    await customer.settled((await customer.remove(DOMAIN, OWNER)).command_id)


async def _until_state(customer: Client, state: DomainState, above: int) -> int:
    """The revision that brought the state: an account is shown as suspended before its domains'
    turns come."""

    async def reached() -> int:
        shown = await customer.show(DOMAIN, OWNER)
        return shown.revision if shown.state is state and shown.revision > above else 0

    return await until(reached, f"{DOMAIN} is {state}")
