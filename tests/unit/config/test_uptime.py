"""Which time counts against the deadline of a judgement."""

from __future__ import annotations

import pytest

from services.config.domain.uptime import (
    LONGEST_WAIT_FACTOR,
    JudgingTime,
    PresenceLog,
    QuestionQueue,
    validator_is_there,
)


def test_time_without_broker_or_database_does_not_count_against_a_submission() -> None:
    log = PresenceLog()
    for now, present in [(0.0, True), (1.0, True), (2.0, False), (8.0, True), (9.0, True)]:
        log.note(now, present)
    assert log.seconds_between(0.5, 9.0) == 1.5
    assert log.seconds_between(-100.0, 9.0) == 2.0
    assert log.seconds_between(3.0, 7.0) == 0.0


def test_only_time_between_two_looks_that_saw_a_validator_counts() -> None:
    log = PresenceLog()
    seen = {0.0: True, 0.5: True, 1.0: False, 9.0: False, 9.5: True, 10.0: True, 10.5: True}
    for now, present in seen.items():
        log.note(now, present)
    assert log.seconds_between(0.0, 10.5) == 0.5 + 1.0
    assert log.seconds_between(0.0, 20.0) == 0.5 + 1.0


@pytest.mark.parametrize(
    ("sentence", "before", "now", "there"),
    [
        ("it waits for questions", (1, 7, 0), (1, 7, 0), True),
        ("at the first look, too", None, (1, 7, 0), True),
        ("it is full, and takes one question after the other", (0, 7, 256), (0, 9, 256), True),
        ("it is full, and answers", (0, 7, 256), (0, 7, 250), True),
        ("it took the last question before this look", (1, 7, 0), (0, 8, 1), True),
        ("it was killed, and its questions are open", (0, 8, 1), (0, 8, 1), False),
        ("nothing is known of the time before", None, (0, 8, 1), False),
        ("there was none, and there is none", (0, 0, 0), (0, 0, 0), False),
    ],
)
def test_a_validator_is_there_when_it_asks_for_questions_or_works_on_them(
    sentence: str,
    before: tuple[int, int, int] | None,
    now: tuple[int, int, int],
    there: bool,
) -> None:
    queue_before = None if before is None else QuestionQueue(*before)
    assert validator_is_there(queue_before, QuestionQueue(*now)) is there, sentence


ASKING = QuestionQueue(1, 0, 0)
NOBODY = QuestionQueue(0, 0, 0)


def test_a_validator_that_is_killed_stops_the_time_of_a_judgement() -> None:
    judging = JudgingTime(10)
    for second in range(4):
        judging.note(second, True, ASKING)
    for second in range(4, 300):
        judging.note(second, True, NOBODY)
        assert not judging.is_over(0, second)
    for second in range(300, 307):
        judging.note(second, True, ASKING)
        assert not judging.is_over(0, second)
    judging.note(307, True, ASKING)
    assert judging.is_over(0, 307)
    assert not judging.is_over(301, 307)


def test_no_time_counts_without_broker_or_without_its_report_of_the_queue() -> None:
    judging = JudgingTime(10)
    for second in range(100):
        judging.note(second, False, ASKING)
        judging.note(second + 0.5, True, None)
    assert not judging.is_over(0, 100)


def test_a_submission_ends_at_last_when_no_validator_is_ever_there() -> None:
    judging = JudgingTime(10)
    longest = 10 * LONGEST_WAIT_FACTOR
    for second in range(longest + 1):
        judging.note(second, True, NOBODY)
    assert not judging.is_over(1, longest)
    assert judging.is_over(0, longest)
