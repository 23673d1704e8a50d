"""A checkpoint proves the set; one that comes twice, late, or from another clock proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from clients.edge_node.bundles.replica import FeedPosition
from clients.edge_node.bundles.versions import BundleVersions
from clients.edge_node.sync import feed as module
from clients.edge_node.sync.feed import BundleFeed
from shared import catalogue
from shared.contracts.edge import Checkpoint
from shared.crypto.digest import Digest
from shared.crypto.signing import Purpose, Signer, Verifier

EDGE_SYNC = Signer.generate("edge_sync-1")
START = 1_800_000_000.0


class FeedUnderTest:
    """A feed without a broker. Its clocks stand still until a test moves them."""

    def __init__(
        self,
        feed: BundleFeed,
        callbacks: dict[str, Callable[[Any], Awaitable[None]]],
        clock: SimpleNamespace,
    ) -> None:
        self.feed = feed
        self._callbacks = callbacks
        self._clock = clock
        self.reconciled: list[Checkpoint] = []

    def advance_clocks(self, seconds: float) -> None:
        self._clock.wall += seconds
        self._clock.mono += seconds

    def set_clock(self, wall: float) -> None:
        self._clock.wall = wall

    async def send_checkpoint(
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
        await self.repeat_checkpoint(signed)
        return signed

    async def repeat_checkpoint(self, signed: bytes) -> None:
        await self._callbacks[catalogue.EDGE_CHECKPOINT](SimpleNamespace(data=signed))
        await asyncio.sleep(0.1)


@pytest.fixture
async def under_test(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FeedUnderTest]:
    clock = SimpleNamespace(wall=START, mono=0.0)
    monkeypatch.setattr(
        module, "time", SimpleNamespace(time=lambda: clock.wall, monotonic=lambda: clock.mono)
    )

    async def nothing_stored(*_: object) -> list[object]:
        return []

    async def reconcile(checkpoint: Checkpoint) -> None:
        made.reconciled.append(checkpoint)

    monkeypatch.setattr(module, "get_batch", nothing_stored)
    reconciler = SimpleNamespace(reconcile=reconcile)
    monkeypatch.setattr(module, "BundleReconciler", lambda *_: reconciler)
    callbacks: dict[str, Callable[[Any], Awaitable[None]]] = {}

    async def subscribe(subject: str, cb: Callable[[Any], Awaitable[None]], **_: int) -> Any:
        async def unsubscribe() -> None:
            pass

        callbacks[subject] = cb
        return SimpleNamespace(unsubscribe=unsubscribe)

    async def wait_for_room() -> None:
        pass

    trust = SimpleNamespace(
        verifier=lambda _: Verifier([(EDGE_SYNC.key_id, EDGE_SYNC.public_text())]),
        expect_epoch=lambda _: None,
    )
    applier = SimpleNamespace(oldest_unsettled=lambda: None, wait_for_room=wait_for_room)
    position = FeedPosition("one", 0, START - 1)
    feed = BundleFeed(cast(Any, trust), BundleVersions(), cast(Any, applier), position)
    made = FeedUnderTest(feed, callbacks, clock)
    task = asyncio.create_task(feed.run(cast(Any, SimpleNamespace(subscribe=subscribe))))
    await asyncio.sleep(0.01)
    yield made
    task.cancel()


async def test_a_current_checkpoint_keeps_a_node_from_being_stale_and_its_time_is_kept(
    under_test: FeedUnderTest,
) -> None:
    under_test.advance_clocks(59)
    await under_test.send_checkpoint(START + 59)
    assert under_test.feed.in_sync
    assert under_test.feed.settled_position().checkpoint == START + 59
    under_test.advance_clocks(59)
    assert not under_test.feed.stale
    under_test.advance_clocks(2)
    assert under_test.feed.stale


async def test_a_repeated_checkpoint_does_not(under_test: FeedUnderTest) -> None:
    signed = await under_test.send_checkpoint(START)
    for _ in range(7):
        under_test.advance_clocks(10)
        await under_test.repeat_checkpoint(signed)
    assert under_test.feed.stale


@pytest.mark.parametrize("off", [-61, 31, 86400])
async def test_a_checkpoint_of_another_time_proves_nothing_and_is_logged(
    under_test: FeedUnderTest, off: int
) -> None:
    under_test.advance_clocks(100)
    with capture_logs() as lines:
        for second in range(3):
            await under_test.send_checkpoint(START + 100 + off + second / 10)
    assert under_test.feed.stale
    assert not under_test.feed.in_sync
    assert [(line["event"], line["seconds"]) for line in lines if "clock" in line["event"]] == [
        ("feed.clocks_differed", off)
    ]


@pytest.mark.parametrize("off", [-59, 29])
async def test_a_small_difference_of_the_clocks_does_no_harm(
    under_test: FeedUnderTest, off: int
) -> None:
    under_test.advance_clocks(100)
    signed = await under_test.send_checkpoint(START + 100 + off)
    assert not under_test.feed.stale
    under_test.advance_clocks(61)
    await under_test.repeat_checkpoint(signed)
    assert under_test.feed.stale


async def test_clocks_that_ran_ahead_and_were_set_right_block_no_later_checkpoint(
    under_test: FeedUnderTest,
) -> None:
    under_test.set_clock(START + 86400)
    await under_test.send_checkpoint(START + 86400)
    under_test.advance_clocks(61)
    assert under_test.feed.stale
    under_test.set_clock(START + 61)
    await under_test.send_checkpoint(START + 61)
    assert not under_test.feed.stale


async def test_a_position_beyond_edge_sync_is_given_up_at_the_second_checkpoint(
    under_test: FeedUnderTest,
) -> None:
    under_test.feed.sequence = 50
    await under_test.send_checkpoint(START, 10)
    assert under_test.feed.sequence == 50, "a bundle may have come before edge_sync knew of it"
    await under_test.send_checkpoint(START + 1, 12)
    assert under_test.feed.sequence == 12
    assert under_test.feed.in_sync


async def test_a_position_that_edge_sync_reaches_is_kept(under_test: FeedUnderTest) -> None:
    for second, (ours, theirs) in enumerate([(50, 49), (60, 55), (70, 69)]):
        under_test.feed.sequence = ours
        await under_test.send_checkpoint(START + second, theirs)
        assert under_test.feed.sequence == ours


async def test_only_a_current_checkpoint_makes_the_node_reconcile_its_set(
    under_test: FeedUnderTest,
) -> None:
    """An old checkpoint that was held back would make the node drop newer bundles."""
    under_test.advance_clocks(100)
    await under_test.send_checkpoint(START + 39, root="0" * 64)
    assert under_test.reconciled == []
    await under_test.send_checkpoint(START + 99, root="0" * 64)
    assert len(under_test.reconciled) == 1


def test_a_newer_checkpoint_is_saved_every_10_seconds_and_a_move_at_once() -> None:
    saved = FeedPosition("one", 5, START)
    assert not FeedPosition("one", 5, START + 9).is_worth_saving(saved)
    assert FeedPosition("one", 5, START + 10).is_worth_saving(saved)
    assert FeedPosition("one", 6, START).is_worth_saving(saved)
    assert FeedPosition("two", 5, START).is_worth_saving(saved)
