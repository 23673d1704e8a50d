"""Which epoch to seal to: the bucket's ``sealing`` (signed by edge_sync) and ``epoch.<n>`` (signed by the operator)."""

from __future__ import annotations

import asyncio

import structlog
from nats.aio.client import Client

from shared import subjects
from shared.contracts.base import Signed
from shared.contracts.commands import EpochKey
from shared.contracts.edge import SealingEpoch
from shared.crypto.signing import ContractT, Purpose, Trust, Verifier, parse
from shared.errors import BrokerAway, EdgetlsError
from shared.messaging.direct import get_last
from shared.observability.health import Health

log = structlog.get_logger()
LOOK_SECONDS = 1.0
CONDITION = "sealing epoch"


class CurrentEpoch:
    """``key()`` is the epoch's public key; it is asked for each second, since a watch can be blind for a while."""

    def __init__(self, client: Client, trust: Trust, health: Health) -> None:
        self._client, self._health = client, health
        self._edge_sync, self._operator = trust.verifier("edge_sync"), trust.operator
        self._key: EpochKey | None = None
        health.not_ready(CONDITION, "not known yet")

    def key(self) -> EpochKey:
        """BrokerAway (transient) while no epoch is known: what is asked then waits."""
        if self._key is None:
            raise BrokerAway("no sealing epoch is known yet: was the fleet's first epoch started?")
        return self._key

    async def watch(self) -> None:
        while True:
            try:
                await self._look()
            except EdgetlsError as error:
                log.warning("epoch.unknown", error=str(error))
            await asyncio.sleep(LOOK_SECONDS if self._key else LOOK_SECONDS / 4)

    async def _look(self) -> None:
        sealing = await self._read(subjects.KEYRING_SEALING, self._edge_sync, Purpose.SEALING, SealingEpoch)
        if sealing is None or (self._key is not None and sealing.epoch <= self._key.epoch):
            return
        key = await self._read(subjects.keyring_epoch(sealing.epoch), self._operator, Purpose.EPOCH, EpochKey)
        if key is not None and key.epoch == sealing.epoch:
            self._key = key
            self._health.ready(CONDITION)
            log.info("epoch.current", epoch=key.epoch)

    async def _read(self, key: str, verifier: Verifier, purpose: Purpose, model: type[ContractT]) -> ContractT | None:
        stream = subjects.kv_stream(subjects.BUCKET_KEYRINGS)
        found = await get_last(self._client, stream, subjects.kv_subject(subjects.BUCKET_KEYRINGS, key))
        return None if found is None else verifier.open(purpose, parse(Signed, found.body), model)


