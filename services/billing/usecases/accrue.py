"""Usage becomes accrued requests of accounts, and the flags of those accounts are decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from services.billing.domain import outgoing_messages
from services.billing.domain.balance import AccountState, PricingContext, decide_flags
from services.billing.domain.usage_aggregator import AccountHour
from services.billing.metrics import CROSSINGS
from services.billing.store import accounts
from shared.messages import Outgoing
from shared.storage import outbox
from shared.storage.pool import Connection


async def accrue_usage(
    connection: Connection, counts: Mapping[AccountHour, int], pricing: PricingContext
) -> None:
    """Add HTTPS requests by account and hour, in the caller's transaction.

    A negative count takes requests away: usage moved to another owner."""
    # Invariant, whenever the lock of an account's row is free: accrued_requests is the sum of
    # (requests - charged) over the hours of the account, and the flags are those of
    # decide_flags() for the balance after the last change.
    #   - The lock is taken before the balance is read and held until the commit. So no other
    #     transaction counts, charges or credits between the decision and the write, and each
    #     crossing number is used once.
    #   - The hours, the count, the flags and the events in the outbox are of one transaction: after
    #     a crash all of them are there, or none.
    #   - Accounts are the last locks that a transaction takes, in order of their name, so two
    #     transactions with the same accounts cannot wait for each other.
    added: dict[str, int] = defaultdict(int)
    for (account, _), requests in counts.items():
        added[account] += requests
    if not added:
        return
    states = await accounts.lock_accounts(connection, added, pricing)
    await accounts.add_account_hours(connection, counts)
    # Nearly always the count is all that changes: writing the whole row back costs several times
    # as much. Under the lock nothing else of the row can have changed.
    changed: list[AccountState] = []
    only_counted: dict[str, int] = {}
    for account, state in states.items():
        after = state._replace(accrued_requests=state.accrued_requests + added[account])
        if decide_flags(after, pricing)[0] is after:
            only_counted[account] = added[account]
        else:
            changed.append(after)
    await decide_and_save(connection, changed, pricing)
    await accounts.add_accrued(connection, only_counted)


async def decide_and_save(
    connection: Connection,
    states: Sequence[AccountState],
    pricing: PricingContext,
    first: Sequence[Outgoing] = (),
) -> None:
    """Decide the flags of locked accounts, and write the accounts and their events.

    ``first``: messages that go out before those events."""
    decided: list[AccountState] = []
    messages = list(first)
    for state in states:
        after, crossings = decide_flags(state, pricing)
        decided.append(after)
        for crossing in crossings:
            messages.append(outgoing_messages.crossing_event(crossing, pricing.at))
            CROSSINGS.labels(change=crossing.kind).inc()
    await accounts.save_accounts(connection, decided)
    await outbox.enqueue(connection, messages)
