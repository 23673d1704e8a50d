"""The epoch that the validator seals to: edge_sync's latest message while it is fresh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from nats.aio.client import Client

from services.validator.sealing_epoch import CONDITION, CurrentEpoch
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.commands import EpochKey
from shared.contracts.edge import SealingEpoch
from shared.crypto.sealing import PrivateKey
from shared.crypto.signing import Purpose
from shared.errors import Transient
from shared.observability.health import Health
from tests.support.cluster import LocalCluster, local_cluster
from tests.support.trust import PlatformSigners
from tests.support.waiting import until

STALE = 1.5


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    async with local_cluster(tmp_path_factory.mktemp("epochs")) as cluster:
        yield cluster


@dataclass
class KeyringWriter:
    """The operator and edge_sync, and the bucket as an attacker in the broker could write it."""

    keys: PlatformSigners
    broker: Client
    validator: Client

    async def start(self, epoch: int) -> None:
        key = EpochKey(
            epoch=epoch, public_key=PrivateKey.generate().public().text, issued_at=datetime.now(UTC)
        )
        await self.put(
            s.keyring_epoch(epoch), self.keys.fleet.operator_signer().sign(Purpose.EPOCH, key)
        )

    def message(self, epoch: int, age: float = 0) -> Signed:
        at = datetime.now(UTC) - timedelta(seconds=age)
        return self.keys.edge_sync.sign(Purpose.SEALING, SealingEpoch(epoch=epoch, at=at))

    async def put(self, key: str, body: Signed) -> None:
        await self.broker.jetstream(timeout=30).publish(
            s.kv_subject(s.BUCKET_KEYRINGS, key), body.encode()
        )

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[tuple[CurrentEpoch, Health]]:
        """Run a freshly started validator."""
        health = Health()
        epoch = CurrentEpoch(self.validator, self.keys.trust(), health, stale_after=STALE)
        task = asyncio.create_task(epoch.watch())
        yield epoch, health
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def writer(cluster: LocalCluster) -> KeyringWriter:
    return KeyringWriter(
        cluster.keys, await cluster.client("edge_sync"), await cluster.client("validator")
    )


async def announce_until_known(
    writer: KeyringWriter, number: int, epoch: CurrentEpoch, health: Health
) -> None:
    """Announce an epoch as edge_sync does, again and again, until the validator knows it.

    On a busy machine one message may be stale when it arrives.
    """

    async def is_known() -> bool:
        await writer.put(s.KEYRING_SEALING, writer.message(number))
        return known(epoch) == number and not health.missing

    await until(is_known, f"epoch {number} is known", every=0.1)


def known(epoch: CurrentEpoch) -> int | None:
    try:
        return epoch.key().epoch
    except Transient:
        return None


async def test_an_epoch_message_counts_while_it_is_fresh_and_a_repetition_renews_it(
    writer: KeyringWriter,
) -> None:
    await writer.start(1)
    async with writer.watching() as (epoch, health):
        await announce_until_known(writer, 1, epoch, health)
        for _ in range(3):
            await asyncio.sleep(STALE / 2)
            await announce_until_known(writer, 1, epoch, health)
        await until(
            lambda: CONDITION in health.missing, "edge_sync is silent, and no epoch is known"
        )
        with pytest.raises(
            Transient, match=r"edge_sync's message that 1 is the epoch to seal to is \d+ s old"
        ):
            epoch.key()
        await announce_until_known(writer, 1, epoch, health)


async def test_an_old_epoch_message_does_not_count_after_a_restart(writer: KeyringWriter) -> None:
    await writer.start(1)
    await writer.start(2)
    await writer.put(s.KEYRING_SEALING, writer.message(1, age=STALE + 1))
    async with writer.watching() as (epoch, health):
        await until(lambda: "old" in health.missing.get(CONDITION, ""), "health names the reason")
        assert known(epoch) is None
        await announce_until_known(writer, 2, epoch, health)


async def test_a_fresh_message_of_a_lower_epoch_neither_counts_nor_renews_the_higher(
    writer: KeyringWriter,
) -> None:
    await writer.start(1)
    await writer.start(2)
    async with writer.watching() as (epoch, health):
        await announce_until_known(writer, 2, epoch, health)
        await writer.put(s.KEYRING_SEALING, writer.message(1))
        await until(lambda: CONDITION in health.missing, "the higher one goes stale")
        assert known(epoch) is None


async def test_an_epoch_message_from_the_future_does_not_count(writer: KeyringWriter) -> None:
    await writer.start(1)
    await writer.put(s.KEYRING_SEALING, writer.message(1, age=-3600))
    async with writer.watching() as (epoch, health):
        await until(
            lambda: "clocks" in health.missing.get(CONDITION, ""), "health names the reason"
        )
        assert known(epoch) is None
