"""Trying again: as long as it can help, and no longer than was asked for."""

from __future__ import annotations

import pytest

from clients.platform.connection import retry_or_unreachable
from shared.contracts.findings import Code, finding
from shared.errors import BrokerAway, Refused, Unreachable


class Attempts:
    """Fails with each of ``faults`` in turn, then works."""

    def __init__(self, *faults: Exception) -> None:
        self.faults, self.made = list(faults), 0

    async def __call__(self) -> str:
        self.made += 1
        if self.faults:
            raise self.faults.pop(0)
        return "done"


BUSY = Refused([finding(Code.SERVICE_BUSY)])


async def test_a_fault_that_passes_is_tried_again() -> None:
    attempt = Attempts(BrokerAway("away"), BUSY)
    assert await retry_or_unreachable(attempt, 5, "asking") == "done"
    assert attempt.made == 3


async def test_a_refusal_is_final() -> None:
    attempt = Attempts(Refused([finding(Code.DOMAIN_UNKNOWN)]), BUSY)
    with pytest.raises(Refused):
        await retry_or_unreachable(attempt, 5, "asking")
    assert attempt.made == 1


async def test_a_command_gives_up_saying_why_and_what_it_tried() -> None:
    attempt = Attempts(*(BrokerAway("nobody answers") for _ in range(100)))
    with pytest.raises(
        Unreachable, match=r"nobody answers\. Tried 2 times in 0\.25 s: asking here"
    ):
        await retry_or_unreachable(attempt, 0.25, "asking here")
