"""Which epoch to seal to: the bucket's ``sealing`` (signed by edge_sync) and ``epoch.<n>`` (signed
by the operator)."""

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
"""edge_sync says every few seconds which epoch it is. Who holds the broker can withhold that or
repeat an old word: for so long at most something may be sealed to an epoch whose key a removed node
knows."""
CONDITION = "sealing epoch"


class CurrentEpoch:
    """``key()`` is the epoch's public key; it is asked for each second, since a watch can be blind
    for a while.

    ``stale_after``: seconds. Plain time, never a test's: it is compared with what another process
    said just now."""

    def __init__(
        self, client: Client, trust: Trust, health: Health, stale_after: float = FRESH_SECONDS
    ) -> None:
        self._client, self._health = client, health
        self._edge_sync, self._operator = trust.verifier("edge_sync"), trust.operator
        self._stale_after = timedelta(seconds=stale_after)
        self._key: EpochKey | None = None
        self._said_at: datetime | None = None
        health.not_ready(CONDITION, "not known yet")

    def key(self) -> EpochKey:
        """Transient while no epoch is known for certain: what is asked then waits."""
        fault = self._fault()
        if fault or self._key is None:
            raise Transient(fault)
        return self._key

    async def watch(self) -> None:
        while True:
            try:
                await self._look()
            except EdgetlsError as error:
                log.warning("epoch.unknown", error=str(error))
            fault = self._fault()
            if fault:
                self._health.not_ready(CONDITION, fault)
            else:
                self._health.ready(CONDITION)
            await asyncio.sleep(LOOK_SECONDS / 4 if fault else LOOK_SECONDS)

    def _fault(self) -> str:
        """Why nothing may be sealed now; empty when it may."""
        if self._key is None or self._said_at is None:
            return "no sealing epoch is known yet: was the fleet's first epoch started?"
        age = datetime.now(UTC) - self._said_at
        if abs(age) > self._stale_after:
            return (
                f"edge_sync's word that {self._key.epoch} is the epoch to seal to is "
                f"{age.total_seconds():.0f} s old:"
                " does edge_sync run, and do the clocks agree?"
            )
        return ""

    async def _look(self) -> None:
        """Never back to a lower epoch, and never to an older word of the same."""
        sealing = await self._read(
            subjects.KEYRING_SEALING, self._edge_sync, Purpose.SEALING, SealingEpoch
        )
        if sealing is None:
            return
        if self._key is None or sealing.epoch > self._key.epoch:
            key = await self._read(
                subjects.keyring_epoch(sealing.epoch), self._operator, Purpose.EPOCH, EpochKey
            )
            if key is None or key.epoch != sealing.epoch:
                return
            self._key, self._said_at = key, sealing.at
            log.info("epoch.current", epoch=key.epoch)
        elif sealing.epoch == self._key.epoch:
            self._said_at = max(sealing.at, self._said_at or sealing.at)

    async def _read(
        self, key: str, verifier: Verifier, purpose: Purpose, model: type[ContractT]
    ) -> ContractT | None:
        stream = subjects.kv_stream(subjects.BUCKET_KEYRINGS)
        found = await get_last(
            self._client, stream, subjects.kv_subject(subjects.BUCKET_KEYRINGS, key)
        )
        return None if found is None else verifier.open(purpose, parse(Signed, found.body), model)
