"""The story: a line and a time for each step; a check that does not hold ends it, loudly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any


class CheckFailed(Exception):
    """What the demo says does not hold."""


def check(holds: object, otherwise: str) -> None:
    """CheckFailed with ``otherwise`` unless it holds."""
    if not holds:
        raise CheckFailed(otherwise)


@dataclass
class Result:
    """What ``--json`` prints. ``accepted_ms``, ``live_ms``: of the slowest submission, by the
    client's clock, from publish to the verdict's event, and to the last node's real handshake that
    serves the new certificate."""

    ok: bool = False
    steps: list[dict[str, Any]] = field(default_factory=list)
    accepted_ms: float = 0
    live_ms: float = 0
    nodes: int = 0
    requests_sent: int = 0
    requests_billed: int = 0
    charge: str = "0"
    currency: str = ""
    low_balance_flags: int = 0
    replace_handshakes: int = 0
    replace_failures: int = 0
    leftovers: int = -1
    failed: str | None = None

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def submitted(self, accepted_ms: float, live_ms: float) -> None:
        self.accepted_ms = max(self.accepted_ms, round(accepted_ms, 1))
        self.live_ms = max(self.live_ms, round(live_ms, 1))


class Story:
    """``say`` gets the lines."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.result = Result()
        self._say, self._began = say, time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Times the step and says it when it is done; the yielded function says a detail of it."""
        began = time.monotonic()
        details: list[str] = []
        try:
            yield details.append
        except BaseException:
            self._tell(name, "FAILED", began, details)
            raise
        self.result.steps.append({"name": name, "ms": round((time.monotonic() - began) * 1000, 1)})
        self._tell(name, "ok", began, details)

    def _tell(self, name: str, end: str, began: float, details: list[str]) -> None:
        now = time.monotonic()
        self._say(f"{now - self._began:6.1f} s  {end:<6} {name} ({_span(now - began)})")
        for detail in details:
            self._say(f"{'':18}{detail}")


def money(amount: Decimal) -> str:
    return format(amount, "f")


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
