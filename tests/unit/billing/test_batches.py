from __future__ import annotations

from services.billing.transport.batch_consumers import MAX_BATCH_BYTES, split_batches
from shared.messaging.delivery import Delivery


def _message(number: int, size: int) -> Delivery:
    return Delivery(str(number).encode(), b"x" * size)


def test_lots_keep_the_order_and_the_limit_and_a_large_message_is_a_lot_of_its_own() -> None:
    sizes = [10, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES + 5, 1, 1]
    lots = list(split_batches([_message(i, size) for i, size in enumerate(sizes)]))
    assert [[int(message.subject) for message in lot] for lot in lots] == [[0, 1], [2], [3], [4, 5]]
