from __future__ import annotations

from datetime import UTC, datetime

import pytest
from nats.js.api import ConsumerConfig, ConsumerInfo, SequenceInfo

from services.billing.transport.stream_trimmer import settled_to


def _consumer(floor: int, pending: int = 0, unacked: int = 0) -> ConsumerInfo:
    return ConsumerInfo(
        name="x",
        stream_name="USAGE",
        created=datetime.now(UTC),
        config=ConsumerConfig(),
        num_pending=pending,
        num_ack_pending=unacked,
        ack_floor=SequenceInfo(consumer_seq=0, stream_seq=floor),
    )


@pytest.mark.parametrize(
    ("case", "consumers", "expected"),
    [
        ("both have settled all", [_consumer(90), _consumer(3)], 100),
        ("one has something left to take", [_consumer(90, pending=1), _consumer(3)], 90),
        ("one has something on its way", [_consumer(90, unacked=1), _consumer(3)], 90),
        ("the slower one counts", [_consumer(90, unacked=1), _consumer(40, pending=7)], 40),
        ("one never settled anything", [_consumer(90), _consumer(0, pending=7)], 0),
    ],
)
def test_only_messages_that_every_consumer_has_settled_are_trimmed(
    case: str, consumers: list[ConsumerInfo], expected: int
) -> None:
    assert settled_to(100, consumers) == expected, case
