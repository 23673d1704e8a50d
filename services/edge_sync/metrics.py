"""Metrics of edge_sync. Only the leader sets them."""

from __future__ import annotations

from prometheus_client import Gauge, Histogram

PUT_SECONDS = Histogram(
    "edgetls_edge_put_seconds",
    "From a domain's event, as the stream stored it, to its bundle in the bucket.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 60),
)
CONVERGED_SECONDS = Histogram(
    "edgetls_edge_converged_seconds",
    "From submission to the proof of the slowest live node.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60),
)
LIVE_NODES = Gauge("edgetls_edge_live_nodes", "Enrolled, not drained, heard within 5 s.")
PENDING_REVISIONS = Gauge(
    "edgetls_edge_pending_revisions", "Revisions that not every live node has proven yet."
)
BUCKET_SEQUENCE = Gauge("edgetls_edge_bucket_sequence", "The bucket's last sequence.")
