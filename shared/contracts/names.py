"""Which names a certificate covers (RFC 6125, RFC 9525): one rule for who judges, signs, carries
and serves."""

from __future__ import annotations

from collections.abc import Container


def covered(names: Container[str], domain: str) -> bool:
    """Does one of ``names`` cover ``domain``, all lower-case A-labels? A wildcard covers exactly
    one whole label; a wildcard domain needs the same wildcard."""
    if domain in names:
        return True
    label, _, parent = domain.partition(".")
    # As for OpenSSL and browsers, `*.com` covers nothing; as for OpenSSL, a wildcard has to do with
    # no underscore.
    return label != "*" and "." in parent and "_" not in domain and f"*.{parent}" in names
