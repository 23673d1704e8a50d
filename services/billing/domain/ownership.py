"""The owner of a domain in a minute, derived from the events of config."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

from services.billing.domain.units import UnixMinute, minute_from, minute_of

NOBODY: Final = ""
"""The account of usage without an owner (yet)."""
BEGINNING: Final = UnixMinute(-(2**31))
OPEN_END: Final = UnixMinute(2**31 - 1)


class OwnershipEvent(NamedTuple):
    """A domain was registered by, or removed from, ``account``.

    ``revision`` orders the events of a domain, so it comes first: sorting uses it."""

    revision: int
    kind: Literal["registered", "removed"]
    account: str
    at: datetime


@dataclass(frozen=True)
class OwnershipPeriod:
    """``account`` owns the domain in the minutes [start, end)."""

    account: str
    start: UnixMinute
    end: UnixMinute


def ownership_periods(events: Iterable[OwnershipEvent]) -> tuple[OwnershipPeriod, ...]:
    """Return the periods of a domain in order of time. Its events may come in any order.

    Periods never overlap. The first owner also owns all minutes before its registration: usage may
    arrive ahead of the event. A change of owner counts from the next full minute. A domain without
    an owner is owned from the minute of its registration."""
    found: list[OwnershipPeriod] = []
    account = NOBODY
    start = BEGINNING
    last_end = BEGINNING
    for event in sorted(events):
        if account != NOBODY:
            same_account = event.account == account
            if event.kind == "removed" and not same_account:
                continue  # the removal of an account that was not the owner
            if event.kind == "registered" and same_account:
                continue
            last_end = max(start, minute_from(event.at))
            found.append(OwnershipPeriod(account, start, last_end))
            account = NOBODY
        if event.kind == "registered":
            account = event.account
            start = max(last_end, minute_of(event.at)) if found else BEGINNING
    if account != NOBODY:
        found.append(OwnershipPeriod(account, start, OPEN_END))
    # An owner of less than a minute has an empty period: it owned nothing.
    return tuple(period for period in found if period.start < period.end)


def owner_at(periods: Sequence[OwnershipPeriod], minute: UnixMinute) -> str:
    """Return the account that owns ``minute``, or NOBODY. Called for each new row of usage."""
    for period in reversed(periods):
        if period.start <= minute:
            return period.account if minute < period.end else NOBODY
    return NOBODY
