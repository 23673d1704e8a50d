"""Which names a certificate covers (RFC 6125, RFC 9525): one rule for validator, edge_sync,
config and nodes."""

from __future__ import annotations

from collections.abc import Container


def covered(names: Container[str], domain: str) -> bool:
    """Return whether one of ``names`` covers ``domain``; all are lower-case A-labels.

    A wildcard covers exactly one whole label. A wildcard domain needs the same wildcard."""
    if domain in names:
        return True
    label, _, parent = domain.partition(".")
    # As for OpenSSL and browsers, `*.com` covers nothing; as for OpenSSL, a wildcard has to do with
    # no underscore.
    return label != "*" and "." in parent and "_" not in domain and f"*.{parent}" in names
