"""Tells edge_sync of the trust document, the epoch and the nodes: what the broker has not stored
yet, or lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from nats.aio.client import Client

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from clients.fleet.publish import send_commands
from shared.contracts.queries import FleetView


async def announce(client: Client, fleet_file: Path, now: datetime) -> list[str]:
    """As user ``operator``. Once all is stored, a later call only repeats the trust document; the
    nodes enrolled now.

    BrokerAway when something was not stored: what was stays marked, a second call goes on from
    there."""
    fleet = FleetFile.read(fleet_file)
    first = [commands.publish_trust(fleet)]
    if fleet.started < fleet.newest_epoch:
        first += commands.start_epoch(fleet, now)
    await send_commands(client, first, now)
    with FleetFile.edit(fleet_file) as changed:
        changed.started = max(changed.started, fleet.newest_epoch)
    fresh = [node.node for node in fleet.remaining_nodes() if node.state == "made"]
    await _enrol(client, fleet_file, fresh, now)
    return fresh


async def repeat(
    client: Client, fleet_file: Path, view: FleetView, nodes: Sequence[str], now: datetime
) -> list[str]:
    """Sends again what edge_sync does not know although the fleet file says that it was told (a
    lost database)."""
    fleet = FleetFile.read(fleet_file)
    known = {node.node for node in view.nodes}
    missing = [
        node
        for node in nodes
        if node not in known and fleet.find_node(node).state in ("enrolled", "drained")
    ]
    if view.epoch < fleet.newest_epoch:
        await send_commands(client, commands.start_epoch(fleet, now), now)
    await _enrol(client, fleet_file, missing, now)
    return missing


async def _enrol(client: Client, fleet_file: Path, nodes: Sequence[str], now: datetime) -> None:
    fleet = FleetFile.read(fleet_file)
    for node in nodes:
        await send_commands(client, [commands.enrol_node(fleet, node, now)], now)
        with FleetFile.edit(fleet_file) as changed:
            if changed.find_node(node).state == "made":
                changed.mark_node(node, "enrolled")
