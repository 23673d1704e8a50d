"""Connections to NATS, as one nkey user with its own inbox.

The first attempt is bounded and says why it failed; afterwards a connection reconnects for ever."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
import nkeys  # type: ignore[import-untyped]
import structlog
from faststream.nats import NatsBroker, NatsNKey
from nats.aio.client import Client
from nats.errors import Error as NatsError

from shared.errors import BrokerAway, SettingsError
from shared.messaging.nats_client import NatsClient, as_nats_client
from shared.retry import retry
from shared.settings import BrokerSettings, read_secret
from shared.subjects import inbox_prefix

log = structlog.get_logger()
CONNECT_SECONDS = 3.0
LOG_AGAIN_SECONDS = 10.0


def _connect_options(settings: BrokerSettings, user: str) -> dict[str, Any]:
    """Return the library's options. SettingsError for a fault that no attempt would mend."""
    servers = _server_urls(settings.nats_url)
    _check_seed(settings)
    options: dict[str, Any] = {
        "servers": servers,
        "name": user,
        "nkeys_seed": str(settings.nats_seed_file),
        "inbox_prefix": inbox_prefix(user),
        "connect_timeout": int(CONNECT_SECONDS),
        "ping_interval": 5,
        "max_outstanding_pings": 2,
    }
    if settings.nats_ca_file is not None:
        options["tls"] = _tls_context(settings.nats_ca_file)
    return options


def _check_seed(settings: BrokerSettings) -> None:
    text = read_secret(settings.nats_seed_file, "EDGETLS_NATS_SEED_FILE")
    try:
        nkeys.from_seed(bytearray(text.encode())).wipe()
    except (nkeys.NkeysError, ValueError):
        raise SettingsError(
            f"EDGETLS_NATS_SEED_FILE: {settings.nats_seed_file} is not an nkey seed"
        ) from None


def _server_urls(urls: str) -> list[str]:
    servers = [url.strip() for url in urls.split(",")]
    for url in servers:
        try:
            parts = urlsplit(url)
            fit = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fit = False
        if not fit:
            raise SettingsError(
                f"EDGETLS_NATS_URL: {url!r} is not nats://host:port (several: by comma)"
            )
    return servers


def _tls_context(ca_file: Path) -> ssl.SSLContext:
    read_secret(ca_file, "EDGETLS_NATS_CA_FILE")
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (ssl.SSLError, OSError):
        raise SettingsError(f"EDGETLS_NATS_CA_FILE: {ca_file} holds no certificates") from None


async def probe(settings: BrokerSettings, user: str) -> None:
    """Log in once and out again: SettingsError when the login is refused, BrokerAway without an
    answer.

    nats-py tries a refused login again for minutes and does not say why."""
    reasons: list[str] = []

    async def note(error: Exception) -> None:
        reasons.append(str(error) or type(error).__name__)

    client = Client()
    try:
        # The library would go on for two minutes with a server that refuses connections.
        attempt = client.connect(
            **(_connect_options(settings, user) | {"reconnect_time_wait": 0.05}),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            error_cb=note,
        )
        await asyncio.wait_for(attempt, CONNECT_SECONDS + 1)
    except NatsError as error:
        if "authorization" in str(error).lower() or "nkey" in str(error).lower():
            raise SettingsError(
                f"NATS at {settings.nats_url} refused the login of {user!r}: check "
                f"{settings.nats_seed_file}"
            ) from None
        raise _broker_away(settings, error, reasons) from None
    except (OSError, TimeoutError) as error:
        raise _broker_away(settings, error, reasons) from None
    except ValueError as error:
        raise SettingsError(f"EDGETLS_NATS_URL: {settings.nats_url}: {error}") from None
    finally:
        # What never connected has nothing to close; a refused TLS handshake is never seen to close.
        with contextlib.suppress(AssertionError, TimeoutError):
            async with asyncio.timeout(1):
                await client.close()


async def connect(settings: BrokerSettings, user: str, *, patient: bool = False) -> NatsClient:
    """Return a client that reconnects for ever. Unless ``patient``, BrokerAway when the first
    attempt fails."""
    await _first_contact(settings, user, patient)
    return as_nats_client(
        await nats.connect(
            **_connect_options(settings, user),
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,
            error_cb=_log_error,
            closed_cb=_log_closed,
        )
    )


async def service_broker(settings: BrokerSettings, user: str) -> tuple[NatsBroker, NatsClient]:
    """Return the connected FastStream broker of a service, and its client. Waits for NATS as
    long as it takes."""
    await _first_contact(settings, user, patient=True)
    options = _connect_options(settings, user)
    options.pop("nkeys_seed")
    security = NatsNKey(settings.nats_seed_file, ssl_context=options.pop("tls", None))
    # FastStream types it as whole seconds; 0 tried again without a pause: half a core for as long
    # as NATS was away.
    options["reconnect_time_wait"] = 0.25
    broker = NatsBroker(
        **options,
        security=security,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        error_cb=_log_error,
        closed_cb=_log_closed,
        logger=None,
    )
    return broker, as_nats_client(await broker.connect())


async def _first_contact(settings: BrokerSettings, user: str, patient: bool) -> None:
    def can_wait(error: Exception) -> bool:
        return patient and isinstance(error, BrokerAway)

    def log_away(error: Exception) -> None:
        log.warning("broker.away", error=str(error))

    await retry(
        partial(probe, settings, user),
        retry_on=can_wait,
        on_fault=log_away,
        first_delay=0.5,
        longest_delay=0.5,
    )


def _broker_away(settings: BrokerSettings, error: Exception, reasons: list[str]) -> BrokerAway:
    """Build the error: the first reason says more than what the library made of it."""
    reason = reasons[0] if reasons else str(error) or type(error).__name__
    return BrokerAway(f"NATS at {settings.nats_url} does not answer: {reason}")


_logged_at: dict[str, float] = {}


async def _log_error(error: Exception) -> None:
    """Log each text once in 10 s: an outage would fill the log with its attempts."""
    text, now = str(error) or type(error).__name__, time.monotonic()
    if now - _logged_at.get(text, -LOG_AGAIN_SECONDS) >= LOG_AGAIN_SECONDS:
        _logged_at.clear()
        _logged_at[text] = now
        log.warning("broker.error", error=text)


async def _log_closed() -> None:
    """Log the end of a connection that reconnects for ever: only a withdrawn login ends it, and
    runtime.py ends the process then."""
    log.debug("broker.closed")
