"""A bounded queue in which accounts take turns, so that one account's flood delays only itself."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Generic, TypeVar

from shared.errors import Transient

ItemT = TypeVar("ItemT")


class ValidatorBusy(Transient):
    """The queue is full or closed: leave the message unacknowledged, and it is delivered again."""


class FairQueue(Generic[ItemT]):
    """Items wait in one line for each account, and the accounts take turns.

    At most ``size`` items wait, at most half of them of one account. At most ``taken_per_account``
    items of one account are taken and not yet done.
    """

    def __init__(self, size: int, taken_per_account: int) -> None:
        self._size = size
        self._taken_per_account = taken_per_account
        # The account whose turn is next comes first.
        self._waiting: OrderedDict[str, deque[ItemT]] = OrderedDict()
        self._taken: Counter[str] = Counter()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, account: str, item: ItemT) -> None:
        """Add an item; raises ValidatorBusy when the queue or the account's half of it is full."""
        if self._length >= self._size:
            raise ValidatorBusy(f"{self._length} submissions wait to be judged already")
        if len(self._waiting.get(account, ())) >= max(1, self._size // 2):
            raise ValidatorBusy("too many submissions of this account wait to be judged already")
        self._waiting.setdefault(account, deque()).append(item)
        self._length += 1

    def put_back(self, account: str, item: ItemT) -> None:
        """Return a taken item that has to be done again, before all others of its account.

        It is never refused.
        """
        self._waiting.setdefault(account, deque()).appendleft(item)
        self._length += 1

    def take_next(self, *, allow_bulk: bool = True) -> ItemT | None:
        """Take the next item of the account whose turn it is; None when there is none.

        Call ``mark_done`` when it is done. Without ``allow_bulk`` only an account with a single
        item here, waiting or taken, gets its turn.
        """
        for account, items in self._waiting.items():
            taken = self._taken[account]
            is_bulk = len(items) + taken > 1
            if taken >= self._taken_per_account or (is_bulk and not allow_bulk):
                continue
            item = items.popleft()
            self._length -= 1
            self._taken[account] += 1
            self._waiting.move_to_end(account)
            if not items:
                del self._waiting[account]
            return item
        return None

    def mark_done(self, account: str) -> None:
        """Count a taken item as done."""
        self._taken[account] -= 1
        if self._taken[account] <= 0:
            del self._taken[account]
