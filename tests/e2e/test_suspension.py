"""The HTTPS of an overdue account is refused by real nodes, and served again once it has paid."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from clients.platform import Platform as Client
from deploy.embedded import nats
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.keys import seed_file
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue
from shared.contracts.balance import BalanceEvent
from shared.contracts.domains import DomainState
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher
from tests.support.browser import NodeAddress, is_refused, served_leaves, trusting_context
from tests.support.customer import applied, registered, uploaded
from tests.support.pki import issue_pair
from tests.support.waiting import LIMIT_SECONDS, until

OWNER = "overdue"
DOMAIN = "www.overdue.test"


async def publish_balance_event(
    platform: EmbeddedPlatform, change: Literal["overdue", "settled"], crossing: int
) -> None:
    """Publish an event of the account's balance, as billing does."""
    subject = catalogue.EVENT_BALANCE_SETTLED
    if change == "overdue":
        subject = catalogue.EVENT_BALANCE_OVERDUE
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
    platform: EmbeddedPlatform, customer: Client, ca: DevCa, nodes: list[NodeAddress]
) -> None:
    pair = issue_pair(ca, DOMAIN)
    await registered(customer, DOMAIN, OWNER)
    upload = await uploaded(customer, DOMAIN, OWNER, pair)
    context = trusting_context(Path(platform.run["trust_roots"]))
    assert await served_leaves(nodes, DOMAIN, context) == {pair.leaf}

    await publish_balance_event(platform, "overdue", 1)
    suspended = await _until_state(customer, DomainState.SUSPENDED, upload.revision or 0)
    await customer.converged(DOMAIN, suspended, limit=LIMIT_SECONDS)
    for node in nodes:
        assert await is_refused(node, DOMAIN, context)
    shown = await customer.account(OWNER)
    assert shown.suspension is not None and (shown.suspension.reason, shown.suspended) == (
        "overdue",
        1,
    )

    await publish_balance_event(platform, "settled", 2)
    resumed = await _until_state(customer, DomainState.ENABLED, suspended)
    await customer.converged(DOMAIN, resumed, limit=LIMIT_SECONDS)
    assert await served_leaves(nodes, DOMAIN, context) == {pair.leaf}
    await applied(customer, await customer.remove(DOMAIN, OWNER))


async def _until_state(customer: Client, state: DomainState, above: int) -> int:
    """Wait for a state; return the revision that brought it.

    An account is shown as suspended before its domains' turns come, so the revision must grow.
    """

    async def reached() -> int:
        shown = await customer.show(DOMAIN, OWNER)
        return shown.revision if shown.state is state and shown.revision > above else 0

    return await until(reached, f"{DOMAIN} is {state}")
