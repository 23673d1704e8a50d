"""The epoch to which accepted keys are sealed.

The keyring bucket holds its number in ``sealing`` (signed by edge_sync) and its public key in
``epoch.<n>`` (signed by the operator).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog
from nats.aio.client import Client

from shared import subjects
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.commands import EpochKey
from shared.contracts.edge import SealingEpoch
from shared.crypto.signing import ContractT, Purpose, Trust, Verifier
from shared.errors import EdgetlsError, Transient
from shared.messaging.direct_get import get_last
from shared.observability.health import Health

log = structlog.get_logger()
LOOK_SECONDS = 1.0
FRESH_SECONDS = 60.0
"""edge_sync publishes the epoch every few seconds. An attacker who controls the broker can withhold
that or repeat an old message. For at most so long, keys can be sealed to an epoch whose key a
removed node knows."""
CONDITION = "sealing epoch"


class CurrentEpoch:
    """Follows the sealing epoch, and reports when it is not known for certain.

    It reads the bucket every second, because a watch of NATS can miss changes for a while.
    ``stale_after``: seconds. The age is measured by the real clock and never by a test's, because
    the other time comes from another process.
    """

    def __init__(
        self, client: Client, trust: Trust, health: Health, stale_after: float = FRESH_SECONDS
    ) -> None:
        self._client = client
        self._health = health
        self._edge_sync = trust.verifier("edge_sync")
        self._operator = trust.operator
        self._stale_after = timedelta(seconds=stale_after)
        self._key: EpochKey | None = None
        self._published_at: datetime | None = None
        health.not_ready(CONDITION, "not known yet")

    def key(self) -> EpochKey:
        """Return the key of the epoch; raises Transient while no epoch is known for certain."""
        fault = self._find_fault()
        if fault or self._key is None:
            raise Transient(fault)
        return self._key

    async def watch(self) -> None:
        """Read the bucket again and again, and keep the health condition up to date."""
        while True:
            try:
                await self._refresh()
            except EdgetlsError as error:
                log.warning("epoch.read_failed", error=str(error))
            fault = self._find_fault()
            if fault:
                self._health.not_ready(CONDITION, fault)
            else:
                self._health.ready(CONDITION)
            await asyncio.sleep(LOOK_SECONDS / 4 if fault else LOOK_SECONDS)

    def _find_fault(self) -> str:
        """Return why no key can be sealed now; empty when one can."""
        if self._key is None or self._published_at is None:
            return "no sealing epoch is known yet: was the fleet's first epoch started?"
        age = datetime.now(UTC) - self._published_at
        if abs(age) > self._stale_after:
            return (
                f"edge_sync's message that {self._key.epoch} is the epoch to seal to is "
                f"{age.total_seconds():.0f} s old:"
                " does edge_sync run, and do the clocks agree?"
            )
        return ""

    async def _refresh(self) -> None:
        """Read the bucket once.

        The epoch never goes back to a lower one, and its time never to an earlier one.
        """
        sealing = await self._read_signed(
            subjects.KEYRING_SEALING, self._edge_sync, Purpose.SEALING, SealingEpoch
        )
        if sealing is None:
            return
        if self._key is None or sealing.epoch > self._key.epoch:
            key = await self._read_signed(
                subjects.keyring_epoch(sealing.epoch), self._operator, Purpose.EPOCH, EpochKey
            )
            if key is None or key.epoch != sealing.epoch:
                return
            self._key = key
            self._published_at = sealing.at
            log.info("epoch.changed", epoch=key.epoch)
        elif sealing.epoch == self._key.epoch:
            self._published_at = max(sealing.at, self._published_at or sealing.at)

    async def _read_signed(
        self, key: str, verifier: Verifier, purpose: Purpose, model: type[ContractT]
    ) -> ContractT | None:
        """Return the verified contents of a bucket key; None when there is none."""
        stream = subjects.kv_stream(subjects.BUCKET_KEYRINGS)
        subject = subjects.kv_subject(subjects.BUCKET_KEYRINGS, key)
        found = await get_last(self._client, stream, subject)
        if found is None:
            return None
        return verifier.open(purpose, parse(Signed, found.body), model)
