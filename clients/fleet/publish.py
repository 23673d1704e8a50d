"""Publish the operator's commands."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from nats.aio.client import Client

from clients.fleet.commands import FleetCommand
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher

SOURCE: Final = "operator"


async def send_commands(
    client: Client, commands: Iterable[FleetCommand], at: datetime, *, timeout: float = 10.0
) -> None:
    """Publish commands in order, each stored before the next is sent.

    BrokerAway when one was not stored within ``timeout`` seconds; those before it were."""
    # The id is the command's own: sending it again after a lost answer stores it once.
    publisher = Publisher(client)
    for command in commands:
        message = outgoing(
            command.subject, command.body, source=SOURCE, about=command.about, at=at, id=command.id
        )
        await publisher.publish(message, timeout=timeout)
