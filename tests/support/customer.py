"""Another platform service that orders for its customers, and waits for what came of it.

Limits are generous: see ``LIMIT_SECONDS``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from clients.platform import Platform as Client
from clients.platform import StoredCommand, connect
from deploy.embedded.dev_ca import CertificatePair
from shared.contracts.domains import CommandSettled, Outcome
from tests.support.waiting import LIMIT_SECONDS


@asynccontextmanager
async def connected_customer(run: Mapping[str, Any]) -> AsyncIterator[Client]:
    """Log in to a running platform as ``platform``. ``run``: what its run.json holds."""
    seed_file = Path(run["credentials"]["platform"])
    submission_key = Path(run["submission_key"])
    async with await connect(
        run["nats_url"], seed_file, submission_key, timeout=LIMIT_SECONDS
    ) as client:
        yield client


async def settled(customer: Client, ordered: StoredCommand) -> CommandSettled:
    """Wait until a command has ended, applied or not."""
    return await customer.settled(ordered.command_id, limit=LIMIT_SECONDS)


async def applied(customer: Client, ordered: StoredCommand) -> CommandSettled:
    """Wait until a command has ended; assert that it was applied."""
    end = await settled(customer, ordered)
    assert end.outcome is Outcome.APPLIED, f"{end.command} was {end.outcome}: {end.codes}"
    return end


async def live(customer: Client, ordered: StoredCommand) -> CommandSettled:
    """Wait until a command was applied and every node proved that it serves the result."""
    end = await applied(customer, ordered)
    await customer.converged(end.domain or "", end.revision or 0, limit=LIMIT_SECONDS)
    return end


async def registered(customer: Client, domain: str, account: str, origin_port: int = 9) -> None:
    """Register a video domain whose origin is on this port of this machine."""
    origin = f"http://127.0.0.1:{origin_port}"
    await applied(customer, await customer.register(domain, account, "video", origin))


async def uploaded(
    customer: Client, domain: str, account: str, pair: CertificatePair
) -> CommandSettled:
    """Submit a pair and wait until every node serves it."""
    return await live(customer, await customer.submit(domain, account, pair.chain, pair.key))
