"""Structured logs: one JSON object a line on stderr. A guard drops what looks like key material."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_MARKS = ("PRIVATE KEY", "BEGIN CERTIFICATE", "MII", "LS0tLS1CRUdJTi")
_LIMIT = 2000


def guard(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace every value that could carry PEM or DER, and cut long ones. It is the last line of
    defence, not the first."""
    for key, value in event.items():
        if isinstance(value, bytes):
            event[key] = f"<{len(value)} bytes>"
        elif isinstance(value, str) and any(mark in value for mark in _MARKS):
            event[key] = "<withheld>"
        elif isinstance(value, str) and len(value) > _LIMIT:
            event[key] = value[:_LIMIT] + "…"
    return event


class Stderr:
    """Writes to the present stderr. A closed one, or a full disk under it, must not end the
    process that logs."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(message + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg


def setup(service: str, level: str = "info") -> None:
    """Configure logging, once a process. ``level`` is a LogLevel.

    Tracebacks are one line without locals, because locals hold bodies."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            guard,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=lambda *_: Stderr(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
