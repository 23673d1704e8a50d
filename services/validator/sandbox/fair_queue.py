"""Whose turn it is: a bounded queue that goes round the accounts, so that one account's flood
delays only itself."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Generic, TypeVar

from shared.errors import Transient

ItemT = TypeVar("ItemT")


class Busy(Transient):
    """The queue is full: leave the message unacknowledged, it comes again."""


class FairQueue(Generic[ItemT]):
    """At most ``size`` items wait, half of them of one account, and at most ``per_account`` taken
    items of one account are not done yet."""

    def __init__(self, size: int, per_account: int) -> None:
        self._size, self._per_account = size, per_account
        self._waiting: OrderedDict[str, deque[ItemT]] = OrderedDict()
        self._taken: Counter[str] = Counter()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, account: str, item: ItemT) -> None:
        """Busy when the queue, or the account's half of it, is full."""
        if self._length >= self._size:
            raise Busy(f"{self._length} submissions wait to be judged already")
        if len(self._waiting.get(account, ())) >= max(1, self._size // 2):
            raise Busy("too many submissions of this account wait to be judged already")
        self._waiting.setdefault(account, deque()).append(item)
        self._length += 1

    def put_back(self, account: str, item: ItemT) -> None:
        """What was taken and has to be done again: before its account's others, and never
        refused."""
        self._waiting.setdefault(account, deque()).appendleft(item)
        self._length += 1

    def take(self, *, of_crowds: bool = True) -> ItemT | None:
        """The next item of the account whose turn it is; ``done`` must follow. Without
        ``of_crowds`` only of accounts that have one item here and no more."""
        for account, items in self._waiting.items():
            crowds = len(items) + self._taken[account] > 1
            if self._taken[account] < self._per_account and (of_crowds or not crowds):
                self._taken[account] += 1
                self._length -= 1
                item = items.popleft()
                self._waiting.move_to_end(account)
                if not items:
                    del self._waiting[account]
                return item
        return None

    def done(self, account: str) -> None:
        self._taken[account] -= 1
        if self._taken[account] <= 0:
            del self._taken[account]
