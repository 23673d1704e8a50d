"""Who owned a domain in which minute, from what config told about it. Pure; minutes are Unix time
in minutes, UTC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

NOBODY: Final = ""
"""The account of usage that belongs to nobody (yet)."""
BEGINNING: Final = -(2**31)
OPEN_END: Final = 2**31 - 1


class OwnershipEvent(NamedTuple):
    """One domain event: registered by, or removed from, ``account``; ``revision`` orders the facts
    of a domain."""

    revision: int
    kind: Literal["registered", "removed"]
    account: str
    at: datetime


@dataclass(frozen=True)
class OwnershipPeriod:
    """``account`` owns the domain in the minutes [start, end)."""

    account: str
    start: int
    end: int


def ownership_periods(facts: Iterable[OwnershipEvent]) -> tuple[OwnershipPeriod, ...]:
    """In order of time, without overlap, whatever order the facts came in.

    The first owner owns all that was before (usage that came ahead of the registration is its own).
    A change of owner counts from the next full minute; a domain that nobody owned is owned from the
    minute of its registration."""
    found: list[OwnershipPeriod] = []
    account, start = NOBODY, BEGINNING
    ended = BEGINNING
    for fact in sorted(facts):
        first_whole = _minute_up(fact.at)
        if account != NOBODY and fact.account != account and fact.kind == "removed":
            continue
        if account != NOBODY and not (fact.kind == "registered" and fact.account == account):
            ended = max(start, first_whole)
            found.append(OwnershipPeriod(account, start, ended))
            account = NOBODY
        if fact.kind == "registered" and account == NOBODY:
            start = max(ended, int(fact.at.timestamp()) // 60) if found else BEGINNING
            account = fact.account
    if account != NOBODY:
        found.append(OwnershipPeriod(account, start, OPEN_END))
    return tuple(period for period in found if period.start < period.end)


def owner_at(owned: Sequence[OwnershipPeriod], minute: int) -> str:
    """NOBODY where no period covers the minute."""
    for period in reversed(owned):
        if period.start <= minute:
            return period.account if minute < period.end else NOBODY
    return NOBODY


def _minute_up(at: datetime) -> int:
    seconds = at.timestamp()
    return -int(-seconds // 60)
