"""What a checkpoint proves, and what one proves that comes twice, late, or under another clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from clients.edge_node.bundles.replica import Position
from clients.edge_node.bundles.versions import Desired
from clients.edge_node.sync import feed as module
from clients.edge_node.sync.feed import Feed
from shared import catalogue
from shared.contracts.edge import Checkpoint
from shared.crypto.digest import Digest
from shared.crypto.signing import Purpose, Signer, Verifier

EDGE_SYNC = Signer.generate("edge_sync-1")
START = 1_800_000_000.0


class Rig:
    """A feed whose clocks stand still until they are moved, and that hears what it is told."""

    def __init__(
        self, feed: Feed, heard: dict[str, Callable[[Any], Awaitable[None]]], clock: SimpleNamespace
    ) -> None:
        self.feed, self._heard, self._clock = feed, heard, clock
        self.reconciled: list[Checkpoint] = []

    def passes(self, seconds: float) -> None:
        self._clock.wall += seconds
        self._clock.mono += seconds

    def set_clock(self, wall: float) -> None:
        self._clock.wall = wall

    async def checkpoint(
        self, made: float, sequence: int = 0, root: str = Digest().root()
    ) -> bytes:
        body = Checkpoint(
            incarnation="one",
            sequence=sequence,
            root=root,
            domains=0,
            epoch=1,
            flush_seconds=1,
            time=datetime.fromtimestamp(made, UTC),
        )
        signed = EDGE_SYNC.sign(Purpose.CHECKPOINT, body).encode()
        await self.again(signed)
        return signed

    async def again(self, signed: bytes) -> None:
        await self._heard[catalogue.EDGE_CHECKPOINT](SimpleNamespace(data=signed))
        await asyncio.sleep(0.1)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    clock = SimpleNamespace(wall=START, mono=0.0)
    monkeypatch.setattr(
        module, "time", SimpleNamespace(time=lambda: clock.wall, monotonic=lambda: clock.mono)
    )

    async def nothing_stored(*_: object) -> list[object]:
        return []

    async def repair(checkpoint: Checkpoint) -> None:
        made.reconciled.append(checkpoint)

    monkeypatch.setattr(module, "get_batch", nothing_stored)
    monkeypatch.setattr(module, "Reconciler", lambda *_: SimpleNamespace(repair=repair))
    heard: dict[str, Callable[[Any], Awaitable[None]]] = {}

    async def subscribe(subject: str, cb: Callable[[Any], Awaitable[None]], **_: int) -> Any:
        async def unsubscribe() -> None:
            pass

        heard[subject] = cb
        return SimpleNamespace(unsubscribe=unsubscribe)

    async def room() -> None:
        pass

    trusted = SimpleNamespace(
        verifier=lambda _: Verifier([(EDGE_SYNC.key_id, EDGE_SYNC.public_text())]),
        expect_epoch=lambda _: None,
    )
    applier = SimpleNamespace(oldest_unsettled=lambda: None, room=room)
    feed = Feed(cast(Any, trusted), Desired(), cast(Any, applier), Position("one", 0, START - 1))
    made = Rig(feed, heard, clock)
    task = asyncio.create_task(feed.run(cast(Any, SimpleNamespace(subscribe=subscribe))))
    await asyncio.sleep(0.01)
    yield made
    task.cancel()


async def test_a_checkpoint_of_now_keeps_a_node_from_being_stale_and_its_time_is_kept(
    rig: Rig,
) -> None:
    rig.passes(59)
    await rig.checkpoint(START + 59)
    assert rig.feed.in_sync
    assert rig.feed.position().checkpoint == START + 59
    rig.passes(59)
    assert not rig.feed.stale
    rig.passes(2)
    assert rig.feed.stale


async def test_the_same_checkpoint_said_again_does_not(rig: Rig) -> None:
    signed = await rig.checkpoint(START)
    for _ in range(7):
        rig.passes(10)
        await rig.again(signed)
    assert rig.feed.stale


@pytest.mark.parametrize("off", [-61, 31, 86400])
async def test_a_checkpoint_of_another_time_proves_nothing_and_the_log_says_so(
    rig: Rig, off: int
) -> None:
    rig.passes(100)
    with capture_logs() as lines:
        for second in range(3):
            await rig.checkpoint(START + 100 + off + second / 10)
    assert rig.feed.stale
    assert not rig.feed.in_sync
    assert [(line["event"], line["seconds"]) for line in lines if "clock" in line["event"]] == [
        ("feed.clocks_differ", off)
    ]


@pytest.mark.parametrize("off", [-59, 29])
async def test_a_small_difference_of_the_clocks_does_no_harm(rig: Rig, off: int) -> None:
    rig.passes(100)
    signed = await rig.checkpoint(START + 100 + off)
    assert not rig.feed.stale
    rig.passes(61)
    await rig.again(signed)
    assert rig.feed.stale


async def test_clocks_that_ran_ahead_and_were_set_right_leave_no_later_checkpoint_unheard(
    rig: Rig,
) -> None:
    rig.set_clock(START + 86400)
    await rig.checkpoint(START + 86400)
    rig.passes(61)
    assert rig.feed.stale
    rig.set_clock(START + 61)
    await rig.checkpoint(START + 61)
    assert not rig.feed.stale


async def test_a_position_that_edge_sync_does_not_reach_is_given_up_at_the_second_checkpoint(
    rig: Rig,
) -> None:
    rig.feed.sequence = 50
    await rig.checkpoint(START, 10)
    assert rig.feed.sequence == 50, "a bundle may have come before edge_sync knew of it"
    await rig.checkpoint(START + 1, 12)
    assert rig.feed.sequence == 12
    assert rig.feed.in_sync


async def test_a_position_that_edge_sync_reaches_is_kept(rig: Rig) -> None:
    for second, (ours, theirs) in enumerate([(50, 49), (60, 55), (70, 69)]):
        rig.feed.sequence = ours
        await rig.checkpoint(START + second, theirs)
        assert rig.feed.sequence == ours


async def test_another_set_is_made_ours_by_a_checkpoint_of_now_only(rig: Rig) -> None:
    """An old one that was held back would have the node drop what it has learnt since, tombstones
    too."""
    rig.passes(100)
    await rig.checkpoint(START + 39, root="0" * 64)
    assert rig.reconciled == []
    await rig.checkpoint(START + 99, root="0" * 64)
    assert len(rig.reconciled) == 1


def test_a_newer_checkpoint_is_noted_now_and_then_and_a_move_at_once() -> None:
    saved = Position("one", 5, START)
    assert not Position("one", 5, START + 9).is_past(saved)
    assert Position("one", 5, START + 10).is_past(saved)
    assert Position("one", 6, START).is_past(saved)
    assert Position("two", 5, START).is_past(saved)
