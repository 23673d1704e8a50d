"""Enrolment of the platform's own nodes: sends edge_sync the trust document, the epoch and the
nodes, as the operator does in production."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from nats.aio.client import Client

from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile
from clients.fleet.publish import send_commands
from shared.contracts.queries import FleetView


async def enrol_fleet(client: Client, fleet_file: Path, now: datetime) -> list[str]:
    """Send what the broker has not stored yet and return the nodes that were enrolled now.

    ``client``: of the user ``operator``. BrokerAway when a message was not stored; a second call
    goes on from there."""
    # The fleet file is marked after the broker stored a message, never before: a crash in between
    # only sends that message again.
    fleet = FleetFile.read(fleet_file)
    messages = [commands.publish_trust(fleet)]
    if fleet.started < fleet.newest_epoch:
        messages += commands.start_epoch(fleet, now)
    await send_commands(client, messages, now)
    with FleetFile.edit(fleet_file) as changed:
        changed.started = max(changed.started, fleet.newest_epoch)
    fresh = [node.node for node in fleet.remaining_nodes() if node.state == "made"]
    await _enrol_nodes(client, fleet_file, fresh, now)
    return fresh


async def enrol_missing(
    client: Client, fleet_file: Path, view: FleetView, nodes: Sequence[str], now: datetime
) -> list[str]:
    """Send again what edge_sync does not know although it was sent once, after the loss of its
    database for example. Return the nodes that were missing."""
    fleet = FleetFile.read(fleet_file)
    known = {node.node for node in view.nodes}
    missing: list[str] = []
    for node in nodes:
        if node not in known and fleet.find_node(node).state in ("enrolled", "drained"):
            missing.append(node)
    if view.epoch < fleet.newest_epoch:
        await send_commands(client, commands.start_epoch(fleet, now), now)
    await _enrol_nodes(client, fleet_file, missing, now)
    return missing


async def _enrol_nodes(
    client: Client, fleet_file: Path, nodes: Sequence[str], now: datetime
) -> None:
    fleet = FleetFile.read(fleet_file)
    for node in nodes:
        await send_commands(client, [commands.enrol_node(fleet, node, now)], now)
        with FleetFile.edit(fleet_file) as changed:
            if changed.find_node(node).state == "made":
                changed.mark_node(node, "enrolled")
