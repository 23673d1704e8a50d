"""Rotating the epoch: new keyrings for the nodes, every kept pair sealed anew, and the old epoch's
key destroyed once nothing needs it."""

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
from clients.platform.connection import PlatformConnection
from shared import catalogue
from shared.contracts.edge import SealingEpoch
from shared.contracts.queries import FleetView, Nothing, PageSealed, SealedPair
from shared.crypto.signing import Purpose, Trust, Verifier
from shared.errors import CannotOpen, SettingsError, Unreachable

_SWITCH_SECONDS: Final = 30.0
_LATE_PAIR_SECONDS: Final = 12.0
"""A validator learns of the switch within a second or two. A submission that is judged then may
still come out sealed to the old epoch, until its deadline of 10 s."""
_POLL_SECONDS: Final = 0.5
_RESEND_SECONDS: Final = 10.0
_STUCK_SECONDS: Final = 60.0
_MOST_NAMES: Final = 10
Note = Callable[[str], None]


@dataclass
class EpochRotation:
    """What a rotation did.

    ``domains``: the domains and stored certificates whose pairs were sealed to an older epoch. A
    removed node keeps what it held and so knows their keys: they must be re-keyed. ``unopened``:
    the pairs that no key of the fleet file opens."""

    epoch: int = 0
    pairs: set[str] = field(default_factory=set)
    domains: set[str] = field(default_factory=set)
    unopened: set[str] = field(default_factory=set)
    destroyed: list[int] = field(default_factory=list)


async def rotate_epoch(
    connection: PlatformConnection, fleet_file: Path, note: Note, *, without: str | None = None
) -> EpochRotation:
    """Start an epoch and seal every kept pair to it.

    ``without``: a node that is removed first: it loses its NATS user and gets no key of the new
    epoch. An interrupted rotation is completed by the next one."""
    # The order protects the pairs: every step leaves a state that the next rotation can continue.
    # 1. The new epoch's key is in the fleet file before anybody can seal to it.
    # 2. The nodes get the key (keyrings) before edge_sync switches to it, so that what is sealed
    #    to it can be opened.
    # 3. After the switch no new pair is sealed to the old epoch; the kept ones are sealed anew.
    # 4. Pairs that were judged during the switch come late, so a second round follows.
    # 5. The old keys are destroyed only when every pair was opened and sealed anew.
    now = datetime.now(UTC)
    edge_sync = _edge_sync_verifier(FleetFile.read(fleet_file), now)
    with FleetFile.edit(fleet_file) as fleet:
        if without is not None:
            fleet.mark_node(without, "removed")
            fleet.write_users()
        if without is not None or fleet.started >= fleet.newest_epoch:
            fleet.add_epoch()
    fleet = FleetFile.read(fleet_file)
    fleet_commands = commands.start_epoch(fleet, now)
    if without is not None:
        fleet_commands.insert(0, commands.remove_node(fleet, without, now))
    await send_commands(connection.client, fleet_commands, now, timeout=connection.timeout)
    with FleetFile.edit(fleet_file) as changed:
        changed.started = max(changed.started, fleet.newest_epoch)
    note(f"epoch {fleet.newest_epoch} is started")
    await wait_until_sealing(connection, edge_sync, fleet.newest_epoch)
    switched_at = time.monotonic()
    note(f"new pairs are sealed to epoch {fleet.newest_epoch}")
    rotation = EpochRotation(fleet.newest_epoch)
    await _reseal_all(connection, fleet, rotation, note)
    if not rotation.unopened:
        await asyncio.sleep(max(0.0, switched_at + _LATE_PAIR_SECONDS - time.monotonic()))
        await _reseal_all(connection, fleet, rotation, note)
        with FleetFile.edit(fleet_file) as changed:
            rotation.destroyed = changed.destroy_epochs(fleet.newest_epoch)
    return rotation


def _edge_sync_verifier(fleet: FleetFile, at: datetime) -> Verifier:
    if fleet.trust is None:
        raise SettingsError(
            "the fleet file holds no trust document, so the signature of edge_sync on the epoch "
            "cannot be checked"
        )
    return Trust.read(fleet.operator_signer().public_text(), fleet.trust, at).verifier("edge_sync")


async def wait_until_sealing(
    connection: PlatformConnection, edge_sync: Verifier, epoch: int
) -> None:
    """Wait until new pairs are sealed to ``epoch``; until then the old key is needed.

    Only edge_sync's signature counts: the holder of the broker could answer in its name."""
    deadline = time.monotonic() + _SWITCH_SECONDS
    while True:
        view = await connection.ask(catalogue.RPC_FLEET_SHOW, Nothing())
        if _sealing_epoch(view, edge_sync) >= epoch:
            return
        if time.monotonic() > deadline:
            raise Unreachable(
                f"edge_sync does not seal to epoch {epoch} after {_SWITCH_SECONDS:g} s: see "
                "its log; then run 'edgetls fleet rotate' again. No key was destroyed"
            )
        await asyncio.sleep(_POLL_SECONDS)


def _sealing_epoch(view: FleetView, edge_sync: Verifier) -> int:
    if view.sealing is None:
        return 0
    return edge_sync.open(Purpose.SEALING, view.sealing, SealingEpoch).epoch


async def _reseal_all(
    connection: PlatformConnection, fleet: FleetFile, rotation: EpochRotation, note: Note
) -> None:
    """Reseal until no pair is sealed to an older epoch, except for those that cannot be opened."""
    # Config lists the pairs that are left, so each round compares with the truth. A reseal names
    # the pair and the epoch that it replaces; where the pair changed meanwhile, config refuses it,
    # and the pair is in the list again, as it is now. It is resent after a while, not at once:
    # config may only be slow. The rotation is stuck when the list has not become shorter for long.
    sent_at: dict[str, float] = {}
    fewest: int | None = None
    progress_at = time.monotonic()
    while left := await _pairs_to_reseal(connection, fleet.newest_epoch, rotation.unopened):
        now = time.monotonic()
        if fewest is None or len(left) < fewest:
            fewest = len(left)
            progress_at = now
        if now - progress_at > _STUCK_SECONDS:
            holders = sorted({_holder_of(pair) for pair in left})
            raise Unreachable(
                f"config has not taken {len(left)} resealed pairs in {_STUCK_SECONDS:g} s "
                f"({', '.join(holders[:_MOST_NAMES])}): run 'edgetls fleet rotate' again. No key "
                "was destroyed"
            )
        due = []
        for pair in left:
            last_sent_at = sent_at.get(pair.pair_id)
            if last_sent_at is None or now - last_sent_at >= _RESEND_SECONDS:
                due.append(pair)
                sent_at[pair.pair_id] = now
        if due:
            await _reseal(connection, fleet, due, rotation)
            note(f"{len(due)} pairs are sealed anew")
        await asyncio.sleep(_POLL_SECONDS)


async def _reseal(
    connection: PlatformConnection,
    fleet: FleetFile,
    pairs: list[SealedPair],
    rotation: EpochRotation,
) -> None:
    """Send commands with the pairs sealed anew, and record them in ``rotation``."""
    reseals = []
    for pair in pairs:
        try:
            reseals.append(commands.reseal_pair(fleet, pair))
        except CannotOpen:
            rotation.unopened.add(pair.pair_id)
            continue
        rotation.domains.add(_holder_of(pair))
        rotation.pairs.add(pair.pair_id)
    await send_commands(connection.client, reseals, datetime.now(UTC), timeout=connection.timeout)


def _holder_of(pair: SealedPair) -> str:
    return pair.domain or f"stored certificate {pair.certificate} of {pair.account}"


async def _pairs_to_reseal(
    connection: PlatformConnection, epoch: int, unopened: set[str]
) -> list[SealedPair]:
    """Return the pairs that are sealed to an epoch below ``epoch``, without those that cannot be
    opened."""
    pairs: list[SealedPair] = []
    question = PageSealed(below=epoch)
    async for page in connection.ask_pages(catalogue.RPC_PAIR_SEALED, question):
        for pair in page.pairs:
            if pair.pair_id not in unopened:
                pairs.append(pair)
    return pairs
