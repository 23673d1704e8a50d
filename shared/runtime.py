"""The frame of every service: settings, logs, health, broker, tasks, a clean stop.

A service's ``app.py`` gives ``build(runtime)``: it opens what it needs, includes its routers in
``runtime.broker`` and returns the coroutines that run until the end. A coroutine that fails for
good ends the process; the supervisor restarts it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NoReturn, TypeVar

import structlog
import uvloop
from faststream.nats import NatsBroker
from nats.aio.client import Client

from shared.clock import Clock
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.crypto.signing import Signer, Trust
from shared.errors import EdgetlsError, SettingsError
from shared.faults import describe, describe_unexpected
from shared.hardening import forbid_dumps
from shared.messaging.connection import service_broker
from shared.messaging.nats_client import NatsClient
from shared.messaging.publisher import Publisher
from shared.messaging.rpc import answer_refusals
from shared.observability import logs
from shared.observability.health import Health, serve_health
from shared.settings import ServiceSettings, load, read_secret

log = structlog.get_logger()
SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
EXIT_SETTINGS = 2


@dataclass(frozen=True)
class Runtime(Generic[SettingsT]):
    """What the frame gives to a service."""

    name: str
    settings: SettingsT
    broker: NatsBroker
    client: NatsClient
    publisher: Publisher
    health: Health
    clock: Clock

    def trust(self) -> Trust:
        """Read and check the pinned trust document now."""
        return read_trust(self.settings, self.clock.now())


Build = Callable[[Runtime[SettingsT]], Awaitable[Sequence[Coroutine[Any, Any, None]]]]


def run(name: str, settings: type[SettingsT], build: Build[SettingsT]) -> NoReturn:
    """Run the service until SIGTERM. Exits 0; 2 with one line when a setting is at fault; else
    1."""
    forbid_dumps()  # Signing keys, DSNs, and the validator's submission key are in memory.
    try:
        loaded = load(settings)
        logs.setup(name, loaded.log_level)
        uvloop.run(_serve_until_stopped(name, loaded, build))
    except SettingsError as error:
        sys.stderr.write(f"edgetls {name}: {error}\n")
        sys.exit(EXIT_SETTINGS)
    except EdgetlsError as error:
        sys.stderr.write(f"edgetls {name}: {error}\n")
        sys.exit(1)
    except Exception as error:
        sys.stderr.write(f"edgetls {name}: {describe_unexpected(error)}\n")
        sys.exit(1)
    sys.exit(0)


async def _serve_until_stopped(name: str, settings: SettingsT, build: Build[SettingsT]) -> None:
    health = Health("start")
    server = await serve_health(health, settings.health_host, settings.health_port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    main = asyncio.ensure_future(_run_service(name, settings, build, health))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({main, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not main.done():
            health.not_ready("start", "stopping")
            main.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await main
    finally:
        stopping.cancel()
        server.close()


async def _run_service(
    name: str, settings: SettingsT, build: Build[SettingsT], health: Health
) -> None:
    clock = settings.clock()
    read_trust(settings, clock.now())
    broker, client = await service_broker(settings, name)
    broker.add_middleware(answer_refusals())
    runtime = Runtime(name, settings, broker, client, Publisher(client), health, clock)
    try:
        tasks = await build(runtime)
        await broker.start()
        # What is there for good is not looked at again: each full collection of it stopped every
        # task for 45 ms.
        gc.collect()
        gc.freeze()
        log.info("service.started")
        async with asyncio.TaskGroup() as group:
            group.create_task(_watch_broker(client, health))
            for task in tasks:
                group.create_task(task)
            health.ready("start")
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        log.error(
            "service.failed",
            error=describe(first)
            if isinstance(first, EdgetlsError)
            else describe_unexpected(first),
        )
        raise (first if isinstance(first, EdgetlsError) else errors) from None
    finally:
        # Not wait_for: drain() outlives its cancellation by the 10 s of a last flush (seen after a
        # broker's death).
        closing = asyncio.gather(
            client.drain() if client.is_connected else client.close(), return_exceptions=True
        )
        await asyncio.wait({closing}, timeout=5)


async def _watch_broker(client: Client, health: Health) -> None:
    while True:
        if client.is_closed:
            raise _closed_for_good(client)
        if client.is_connected:
            health.ready("broker")
        else:
            health.not_ready("broker", "NATS is away")
        await asyncio.sleep(0.25)


def _closed_for_good(client: Client) -> EdgetlsError:
    reason = str(client.last_error or "without a word").removeprefix("nats: ")
    if "authori" in reason.lower() or "authentication" in reason.lower():
        return SettingsError(
            f"NATS closed the connection for good, this login is no longer valid: {reason}"
        )
    return EdgetlsError(f"NATS closed the connection for good: {reason}")


def read_trust(settings: ServiceSettings, at: datetime) -> Trust:
    """Return the trust document of EDGETLS_TRUST_FILE, checked with EDGETLS_OPERATOR_KEY_FILE.
    EdgetlsError when it does not hold."""
    operator = read_secret(settings.operator_key_file, "EDGETLS_OPERATOR_KEY_FILE")
    text = read_secret(settings.trust_file, "EDGETLS_TRUST_FILE")
    try:
        return Trust.read(operator, parse(Signed, text.encode()), at)
    except (EdgetlsError, ValueError, json.JSONDecodeError) as error:
        raise SettingsError(f"EDGETLS_TRUST_FILE {settings.trust_file}: {error}") from None


def read_signer(path: Any, what: str) -> Signer:
    """Read a signing key file: ``<key id> <base64>``."""
    words = read_secret(path, what).split()
    if len(words) != 2:
        raise SettingsError(f"{what}: {path} is not '<key id> <base64>'")
    try:
        return Signer(words[0], words[1])
    except ValueError:
        raise SettingsError(f"{what}: {path} holds no Ed25519 key") from None
