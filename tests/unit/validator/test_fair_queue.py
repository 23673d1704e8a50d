"""The queue in front of the workers: turns, limits and bulk."""

from __future__ import annotations

import pytest

from services.validator.sandbox.fair_queue import FairQueue, ValidatorBusy


def test_accounts_take_turns() -> None:
    queue: FairQueue[str] = FairQueue(10, 10)
    for item in ("a1", "a2", "a3", "b1", "c1"):
        queue.put(item[0], item)
    assert [queue.take_next() for _ in range(6)] == ["a1", "b1", "c1", "a2", "a3", None]


def test_no_more_than_two_items_of_an_account_are_taken_at_once() -> None:
    queue: FairQueue[str] = FairQueue(10, 2)
    for item in ("a1", "a2", "a3"):
        queue.put("a", item)
    assert [queue.take_next() for _ in range(3)] == ["a1", "a2", None]
    queue.mark_done("a")
    assert queue.take_next() == "a3"


def test_without_bulk_only_accounts_with_a_single_item_get_a_turn() -> None:
    queue: FairQueue[str] = FairQueue(10, 2)
    for item in ("a1", "a2", "b1"):
        queue.put(item[0], item)
    assert queue.take_next(allow_bulk=False) == "b1"
    assert queue.take_next(allow_bulk=False) is None
    assert queue.take_next() == "a1"
    assert queue.take_next(allow_bulk=False) is None, "one of it is out already"
    queue.mark_done("a")
    assert queue.take_next(allow_bulk=False) == "a2"


def test_one_account_fills_half_of_the_queue_at_most() -> None:
    queue: FairQueue[str] = FairQueue(4, 2)
    queue.put("a", "a1")
    queue.put("a", "a2")
    with pytest.raises(ValidatorBusy):
        queue.put("a", "a3")
    queue.put("b", "b1")
    assert [queue.take_next() for _ in range(3)] == ["a1", "b1", "a2"]


def test_a_full_queue_refuses_new_items_but_takes_back_taken_ones() -> None:
    queue: FairQueue[str] = FairQueue(1, 2)
    queue.put("a", "a1")
    with pytest.raises(ValidatorBusy):
        queue.put("b", "b1")
    assert queue.take_next() == "a1"
    queue.put("a", "a2")
    queue.put_back("a", "a1")
    queue.mark_done("a")
    assert [len(queue), queue.take_next(), queue.take_next(), len(queue)] == [2, "a1", "a2", 0]
