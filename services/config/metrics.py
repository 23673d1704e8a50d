"""Metrics of config, documented where they are declared. No ids in labels."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

DOMAINS_BY_DAYS_LEFT = Gauge(
    "edgetls_config_domains_by_days_left",
    "Domains with HTTPS by the days that their certificate has left: expired,"
    " 1, 7, 14, 30 (at most, and more than the one before) or more. Only from the replica that "
    "watches.",
    ["days"],
)
DAYS_LEFT_LEAST = Gauge(
    "edgetls_config_days_left_least",
    "Days left of the certificate that ends first; negative when it has ended."
    " NaN without certificates, and from replicas that do not watch.",
)
EXPIRY_NOTICES = Counter(
    "edgetls_config_expiry_notices_total", "Notices given, by days (0: it ended).", ["days"]
)
