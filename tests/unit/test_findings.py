"""Findings made from the codes that an event carries."""

from __future__ import annotations

from shared.contracts.findings import Code, findings_from


def test_codes_get_their_sentences_and_messages_take_their_place() -> None:
    first, second = findings_from(["plan.unknown", "prices.invalid"], ["", "Two prices overlap."])
    assert (first.code, first.message) == (Code.PLAN_UNKNOWN, Code.PLAN_UNKNOWN.sentence)
    assert (second.code, second.message) == (Code.PRICES_INVALID, "Two prices overlap.")
    assert [one.message for one in findings_from(["plan.unknown"])] == [Code.PLAN_UNKNOWN.sentence]


def test_a_code_of_a_newer_service_is_left_out_or_becomes_the_one_that_is_named() -> None:
    assert findings_from(["moon.full"]) == []
    (found,) = findings_from(["moon.full"], ["It is full."], unknown=Code.REQUEST_MALFORMED)
    assert (found.code, found.message) == (Code.REQUEST_MALFORMED, "It is full.")
