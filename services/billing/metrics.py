"""The metrics of billing, besides those that every service has."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BATCHES = Counter(
    "edgetls_usage_batches_total",
    "Usage batches by fate (accept, hold, repeat, conflict, overlap,"
    " past_final, malformed, unknown_node).",
    ["fate"],
)
CELLS = Counter("edgetls_usage_cells_total", "Cells counted.")
BAD_LINES = Counter(
    "edgetls_usage_bad_lines_total", "Lines of the nodes' logs that could not be read."
)
DIVERTED = Counter(
    "edgetls_usage_cells_diverted_total", "Cells that could not be counted, by reason.", ["reason"]
)
REQUESTS = Counter(
    "edgetls_usage_requests_total",
    "Single events by fate (count, duplicate, conflict, refused).",
    ["fate"],
)
COMMIT_SECONDS = Histogram(
    "edgetls_usage_commit_seconds",
    "One batch of deliveries, from decoding to commit, by durable.",
    ["durable"],
)
BATCH_AGE = Gauge(
    "edgetls_usage_batch_age_seconds",
    "Age of the oldest batch of the last pull: over 300 is an alarm.",
)
CHARGES = Counter(
    "edgetls_charges_total",
    "Ledger lines written, by kind (charge, correction, credit, plan, unused).",
    ["kind"],
)
CROSSINGS = Counter("edgetls_balance_crossings_total", "Flags that changed, by change.", ["change"])
QUARANTINED = Gauge(
    "edgetls_billing_parked",
    "Messages in quarantine, which could not be handled yet: above 0 is a fault of ours.",
)
QUARANTINE_LIMIT_REACHED = Gauge(
    "edgetls_billing_quarantine_limit_reached",
    "1 while a consumer takes no more, because too many messages are in quarantine, by durable.",
    ["durable"],
)
NOT_CHARGED = Gauge(
    "edgetls_billing_accounts_not_charged",
    "Accounts that the last close failed for: above 0 is a fault of ours.",
)
