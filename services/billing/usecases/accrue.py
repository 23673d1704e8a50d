"""Usage becomes money owed: accounts locked in order, counts added, flags decided, events written:
one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from services.billing.domain import outgoing_messages
from services.billing.domain.balance import AccountState, PricingContext, decide_flags
from services.billing.metrics import CROSSINGS
from services.billing.store import accounts
from shared.messages import Outgoing
from shared.storage import outbox
from shared.storage.pool import Connection

Counts = Mapping[tuple[str, int], int]
"""HTTPS requests by (account, hour of Unix time); negative where usage moved away."""


async def accrue_usage(connection: Connection, counts: Counts, terms: PricingContext) -> None:
    """In the caller's transaction, as its last locks."""
    totals: dict[str, int] = defaultdict(int)
    for (account, _), requests in counts.items():
        totals[account] += requests
    if not totals:
        return
    standings = await accounts.lock_accounts(connection, totals, terms)
    await accounts.add_account_hours(connection, counts)
    after = [
        standing._replace(accrued_requests=standing.accrued_requests + totals[account])
        for account, standing in standings.items()
    ]
    # Nearly always the count is all that changes: writing the whole row back costs several times as
    # much.
    changed = {
        standing.account: standing
        for standing in after
        if decide_flags(standing, terms)[0] is not standing
    }
    await decide_and_save(connection, list(changed.values()), terms)
    await accounts.add_accrued(
        connection, {account: totals[account] for account in standings if account not in changed}
    )


async def decide_and_save(
    connection: Connection,
    standings: Sequence[AccountState],
    terms: PricingContext,
    first: Sequence[Outgoing] = (),
) -> None:
    """Decides the flags of locked accounts, writes them back, and their events after those of
    ``first``."""
    decided: list[AccountState] = []
    messages = list(first)
    for standing in standings:
        judged, crossings = decide_flags(standing, terms)
        decided.append(judged)
        for crossing in crossings:
            messages.append(outgoing_messages.crossing_event(crossing, terms.at))
            CROSSINGS.labels(change=crossing.change).inc()
    await accounts.save_accounts(connection, decided)
    await outbox.enqueue(connection, messages)
