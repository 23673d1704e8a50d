"""The clients whose verdicts count (rule D13), and what they object to in a certificate."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Client(StrEnum):
    """A verifier of certificates. The value is its name in findings."""

    FIREFOX = "Firefox"  # mozilla::pkix
    CHROME = "Chrome"  # BoringSSL's pki library
    GO = "Go"
    OPENSSL = "OpenSSL"


F = Client.FIREFOX
C = Client.CHROME
G = Client.GO
O = Client.OPENSSL  # noqa: E741
ALL_CLIENTS = (F, C, G, O)


class Objection(NamedTuple):
    """A trait of a certificate for which ``clients`` refuse it.

    ``reason``: a clause for a finding, with the certificate as its subject. ``breaks_rfc``: the
    trait breaks the form that RFC 5280 demands, so one client that refuses it is enough.
    """

    clients: tuple[Client, ...]
    reason: str
    breaks_rfc: bool = False


def list_clients(objections: list[Objection]) -> list[Client]:
    """Return every client that objects, once, in the order of ``Client``."""
    refusing = {client for objection in objections for client in objection.clients}
    return [client for client in ALL_CLIENTS if client in refusing]


def is_refused(objections: list[Objection]) -> bool:
    """Apply rule D13: two clients refuse, or one does for a form that RFC 5280 forbids."""
    return len(list_clients(objections)) >= 2 or any(
        objection.breaks_rfc and objection.clients for objection in objections
    )
