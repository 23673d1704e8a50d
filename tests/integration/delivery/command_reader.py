"""A consumer of commands that notes what it handles."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from nats.aio.client import Client

from shared import catalogue, subjects
from shared.contracts.commands import DisableHttps
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.delivery import Delivery
from shared.messaging.publisher import Publisher
from shared.messaging.pull import Pull
from shared.observability.health import Health


def make_command(account: str, id: str | None = None) -> Outgoing:
    """Return a sound command of config."""
    body = DisableHttps(domain="a.example", account=account)
    return outgoing(
        catalogue.CMD_HTTPS_DISABLE,
        body,
        source="test",
        about="a.example",
        at=datetime.now(UTC),
        id=id,
    )


class CommandReader:
    """Consumes the commands of config and keeps what it handled in ``seen``.

    Its handler first raises each of ``fail`` once.
    """

    def __init__(self, client: Client, *, fail: list[Exception] | None = None) -> None:
        self.seen: list[Delivery] = []
        self.fail = fail or []
        self.health = Health()
        pull = Pull(client, subjects.STREAM_COMMANDS_CONFIG, subjects.DURABLE_CONFIG_COMMANDS)
        dead = DeadLetters(Publisher(client), subjects.STREAM_COMMANDS_CONFIG)
        self._consumer = Consumer(pull, self._handle, dead, self.health)

    async def __aenter__(self) -> CommandReader:
        self._task = asyncio.create_task(self._consumer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _handle(self, delivery: Delivery) -> None:
        if self.fail:
            raise self.fail.pop(0)
        self.seen.append(delivery)

    def ids(self) -> list[str]:
        return [delivery.id for delivery in self.seen]
