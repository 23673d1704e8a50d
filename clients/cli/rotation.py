"""A new epoch: keyrings out, every kept pair sealed anew, the old epoch's key destroyed when
nothing needs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from clients.fleet.publish import send_commands
from clients.platform.connection import Reach
from shared import catalogue
from shared.contracts.edge import SealingEpoch
from shared.contracts.queries import FleetView, Nothing, PageSealed, SealedPair
from shared.crypto.signing import Purpose, Trust, Verifier
from shared.errors import CannotOpen, SettingsError, Unreachable

_SWITCH_SECONDS: Final = 30.0
_SETTLED_SECONDS: Final = 12.0
"""A validator learns of the switch within a second or two; a submission that is being judged then
may still come out sealed to the old epoch until its deadline of 10 s."""
_LOOK_SECONDS: Final = 0.5
_AGAIN_SECONDS: Final = 10.0
_STUCK_SECONDS: Final = 60.0
Tell = Callable[[str], None]


@dataclass
class Rotation:
    """``domains``, and stored certificates: whose pairs were sealed to an older epoch. A removed
    node keeps what it held and so knows their keys: have them re-keyed. ``unopened``: pairs that no
    key of the fleet file opens."""

    epoch: int = 0
    pairs: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    unopened: set[str] = field(default_factory=set)
    destroyed: list[int] = field(default_factory=list)


async def rotate(
    reach: Reach, fleet_file: Path, tell: Tell, *, without: str | None = None
) -> Rotation:
    """Starts an epoch and seals every kept pair to it. ``without``: a node that is removed first:
    it loses its NATS user and gets no key of the new epoch. An interrupted rotation is made good by
    the next one."""
    now = datetime.now(UTC)
    edge_sync = _edge_sync(FleetFile.read(fleet_file), now)
    with FleetFile.edit(fleet_file) as fleet:
        if without is not None:
            fleet.mark_node(without, "removed")
            fleet.write_users()
        if without is not None or fleet.started >= fleet.newest_epoch:
            fleet.add_epoch()
    fleet = FleetFile.read(fleet_file)
    orders = [commands.remove_node(fleet, without, now)] if without is not None else []
    await send_commands(
        reach.client, [*orders, *commands.start_epoch(fleet, now)], now, timeout=reach.patience
    )
    with FleetFile.edit(fleet_file) as changed:
        changed.started = max(changed.started, fleet.newest_epoch)
    tell(f"epoch {fleet.newest_epoch} is started")
    await _until_sealing(reach, edge_sync, fleet.newest_epoch)
    switched = time.monotonic()
    tell(f"new pairs are sealed to epoch {fleet.newest_epoch}")
    done = Rotation(fleet.newest_epoch)
    await _reseal_all(reach, fleet, done, tell)
    if not done.unopened:
        await asyncio.sleep(max(0.0, switched + _SETTLED_SECONDS - time.monotonic()))
        await _reseal_all(reach, fleet, done, tell)
        with FleetFile.edit(fleet_file) as changed:
            done.destroyed = changed.destroy_epochs(fleet.newest_epoch)
    return done


def _edge_sync(fleet: FleetFile, at: datetime) -> Verifier:
    if fleet.trust is None:
        raise SettingsError(
            "the fleet file holds no trust document: edge_sync's word on the epoch cannot be "
            "checked"
        )
    return Trust.read(fleet.operator_signer().public_text(), fleet.trust, at).verifier("edge_sync")


async def _until_sealing(reach: Reach, edge_sync: Verifier, epoch: int) -> None:
    """Started is not enough: until new pairs are sealed to it, the old key is needed. By
    edge_sync's signature, for whoever holds the broker could answer in its name."""
    deadline = time.monotonic() + _SWITCH_SECONDS
    while _sealing(await reach.ask(catalogue.RPC_FLEET_SHOW, Nothing()), edge_sync) < epoch:
        if time.monotonic() > deadline:
            raise Unreachable(
                f"edge_sync does not seal to epoch {epoch} after {_SWITCH_SECONDS:g} s: see "
                "its log; then run "
                "'edgetls fleet rotate' again. No key was destroyed"
            )
        await asyncio.sleep(_LOOK_SECONDS)


def _sealing(view: FleetView, edge_sync: Verifier) -> int:
    return (
        0
        if view.sealing is None
        else edge_sync.open(Purpose.SEALING, view.sealing, SealingEpoch).epoch
    )


async def _reseal_all(reach: Reach, fleet: FleetFile, done: Rotation, tell: Tell) -> None:
    """Until no pair is sealed to an older epoch but those that cannot be opened."""
    ordered: dict[str, float] = {}
    fewest, moved_at = None, time.monotonic()
    while left := [
        pair
        for pair in await _sealed_below(reach, fleet.newest_epoch)
        if pair.pair_id not in done.unopened
    ]:
        now = time.monotonic()
        if fewest is None or len(left) < fewest:
            fewest, moved_at = len(left), now
        if now - moved_at > _STUCK_SECONDS:
            names = ", ".join(sorted({_holder(pair) for pair in left})[:10])
            raise Unreachable(
                f"config has not taken {len(left)} resealed pairs in {_STUCK_SECONDS:g} s "
                f"({names}): run 'edgetls "
                "fleet rotate' again. No key was destroyed"
            )
        # An order that met a pair which had just changed was refused: after a while it is made
        # anew.
        due = [
            pair
            for pair in left
            if now - ordered.get(pair.pair_id, -_AGAIN_SECONDS) >= _AGAIN_SECONDS
        ]
        if due:
            await _reseal(reach, fleet, due, done)
            ordered |= {pair.pair_id: now for pair in due}
            tell(f"{len(due)} pairs are sealed anew")
        await asyncio.sleep(_LOOK_SECONDS)


async def _reseal(reach: Reach, fleet: FleetFile, pairs: list[SealedPair], done: Rotation) -> None:
    orders = []
    for pair in pairs:
        try:
            orders.append(commands.reseal_pair(fleet, pair))
        except CannotOpen:
            done.unopened.add(pair.pair_id)
            continue
        done.domains.add(_holder(pair))
        done.pairs.add(pair.pair_id)
    await send_commands(reach.client, orders, datetime.now(UTC), timeout=reach.patience)


def _holder(pair: SealedPair) -> str:
    return pair.domain or f"stored certificate {pair.certificate} of {pair.account}"


async def _sealed_below(reach: Reach, epoch: int) -> list[SealedPair]:
    found: list[SealedPair] = []
    after: str | None = ""
    while after is not None:
        page = await reach.ask(catalogue.RPC_PAIR_SEALED, PageSealed(below=epoch, after=after))
        found += page.pairs
        after = page.next
    return found
