"""Hands commands to the broker."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from nats.aio.client import Client

from clients.fleet.commands import Command
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher

SOURCE: Final = "operator"


async def send(
    client: Client, commands: Iterable[Command], at: datetime, *, patience: float = 10.0
) -> None:
    """One after the other, each stored before the next; BrokerAway when one was not stored in
    ``patience`` seconds."""
    publisher = Publisher(client)
    for command in commands:
        message = outgoing(
            command.subject, command.body, source=SOURCE, about=command.about, at=at, id=command.id
        )
        await publisher.publish(message, timeout=patience)
