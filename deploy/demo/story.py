"""The story's lines and result: a line with a time for each step; a check that fails ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any


class CheckFailed(Exception):
    """A statement of the demo does not hold."""


def check(holds: object, otherwise: str) -> None:
    """Raise CheckFailed with the text ``otherwise`` unless ``holds`` is true."""
    if not holds:
        raise CheckFailed(otherwise)


@dataclass
class DemoResult:
    """The object that ``--json`` prints.

    ``accepted_ms``, ``live_ms``: of the slowest submission, by the client's clock, from publishing
    it to the event of the verdict, and to the last node's handshake that serves the new
    certificate. ``leftovers``: places that still hold a part of a pair after the disable, -1 before
    that was searched."""

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

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def add_submission(self, accepted_ms: float, live_ms: float) -> None:
        """Keep the times of the slowest submission."""
        self.accepted_ms = max(self.accepted_ms, round(accepted_ms, 1))
        self.live_ms = max(self.live_ms, round(live_ms, 1))


class DemoStory:
    """Times the steps. ``on_line`` gets the lines for people, ``result`` the data for programs."""

    def __init__(self, result: DemoResult, on_line: Callable[[str], None]) -> None:
        self.result = result
        self._on_line = on_line
        self._began = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a step and print it when it is done. The function that it yields adds a detail."""
        began = time.monotonic()
        details: list[str] = []
        try:
            yield details.append
        except BaseException:
            self._print_step(name, "FAILED", began, details)
            raise
        self.result.steps.append({"name": name, "ms": round((time.monotonic() - began) * 1000, 1)})
        self._print_step(name, "ok", began, details)

    def _print_step(self, name: str, end: str, began: float, details: list[str]) -> None:
        now = time.monotonic()
        duration = _format_seconds(now - began)
        self._on_line(f"{now - self._began:6.1f} s  {end:<6} {name} ({duration})")
        for detail in details:
            self._on_line(f"{'':18}{detail}")


def format_money(amount: Decimal) -> str:
    """Return the amount with all its decimals, without an exponent."""
    return format(amount, "f")


def _format_seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s"
