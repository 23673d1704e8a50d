"""Health of a process over HTTP/1.0: /livez (the event loop runs), /readyz (what is missing) and
/metrics."""

from __future__ import annotations

import asyncio
import json

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.errors import SettingsError


class Health:
    """Named conditions. A service is ready when none is missing."""

    def __init__(self, *conditions: str) -> None:
        self._missing = dict.fromkeys(conditions, "starting")

    def ready(self, condition: str) -> None:
        """Mark a condition as met."""
        self._missing.pop(condition, None)

    def not_ready(self, condition: str, why: str) -> None:
        """Mark a condition as missing; ``why`` is shown in /readyz."""
        self._missing[condition] = why

    @property
    def missing(self) -> dict[str, str]:
        """Return the missing conditions with their reasons."""
        return dict(self._missing)


async def serve_health(health: Health, host: str, port: int) -> asyncio.Server:
    """Listen until closed. SettingsError when the port is taken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), 5)
            path = line.split()[1].decode() if len(line.split()) > 1 else ""
            status, kind, body = _response_for(health, path)
            head = (
                f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass
        finally:
            writer.close()

    try:
        return await asyncio.start_server(answer, host, port, limit=8192)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port} (EDGETLS_HEALTH_PORT): {error.strerror}"
        ) from None


def _response_for(health: Health, path: str) -> tuple[str, str, bytes]:
    if path == "/livez":
        return "200 OK", "text/plain", b"ok\n"
    if path == "/readyz":
        missing = health.missing
        status = "503 Service Unavailable" if missing else "200 OK"
        return (
            status,
            "application/json",
            json.dumps({"ready": not missing, "missing": missing}).encode(),
        )
    if path == "/metrics":
        return "200 OK", CONTENT_TYPE_LATEST, generate_latest()
    return "404 Not Found", "text/plain", b"/livez /readyz /metrics\n"
