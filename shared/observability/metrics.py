"""Metrics that every service has, documented where they are declared. Labels hold no ids."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

HANDLED = Counter(
    "edgetls_messages_handled_total",
    "Deliveries by subject and outcome (done, dead).",
    ["subject", "outcome"],
)
DEAD_LETTERS = Counter(
    "edgetls_dead_letters_total", "Messages moved to DEAD, by source.", ["source"]
)
DEAD_LETTER_LIMIT_REACHED = Gauge(
    "edgetls_dead_letter_limit_reached",
    "1 while a consumer takes no more, because too many messages failed unexpectedly, by source.",
    ["source"],
)
OUTBOX_UNSENT = Gauge(
    "edgetls_outbox_unsent",
    "Messages of committed effects that no PubAck was seen for yet,"
    " counted every 5 s by the replica that sends.",
)
OUTBOX_SET_ASIDE = Counter(
    "edgetls_outbox_set_aside_total",
    "Messages that no stream takes: they stay in the outbox for 35 days.",
)
OUTBOX_SECONDS = Histogram(
    "edgetls_outbox_seconds",
    "From writing a message to the PubAck of its batch.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 60),
)
