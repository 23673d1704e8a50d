"""The agent's metrics. No label holds an id: one process is one node."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REJECTED = Counter(
    "edgetls_node_dropped_total",
    "Messages and files that were rejected, by what they were and why.",
    ["what", "reason"],
)
APPLIED = Counter(
    "edgetls_node_applied_total", "Bundles that were applied and proven, by kind.", ["kind"]
)
FAULTS = Gauge("edgetls_node_faults", "Domains whose newest bundle could not be applied.")
APPLY_SECONDS = Histogram(
    "edgetls_node_apply_seconds",
    "From a bundle's arrival to its proof.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 60),
)
REPAIRS = Counter(
    "edgetls_node_repairs_total", "Repairs, by kind (gap, resync, position, digest).", ["kind"]
)
STALE = Gauge("edgetls_node_stale", "1 after 60 s without a valid checkpoint.")
NGINX_RESTARTS = Counter(
    "edgetls_node_nginx_restarts_total", "Times that nginx came back empty and was refilled."
)
ORIGINS_REFUSED = Counter(
    "edgetls_node_origins_refused_total", "Origin addresses that a node must not fetch from."
)
UNCONFIRMED = Gauge(
    "edgetls_node_usage_unconfirmed_bytes",
    "Bytes of the usage logs that billing has not confirmed.",
)
ZONE_FREE = Gauge("edgetls_node_zone_free_bytes", "Free bytes of nginx's memory for certificates.")
