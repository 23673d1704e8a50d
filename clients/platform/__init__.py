"""The client of another platform service: send commands, ask questions, follow events.

    url, seed, key = "nats://127.0.0.1:4222", Path("platform.nk"), Path("submission.key")
    async with await connect(url, seed, key) as platform:
        stored = await platform.submit("www.example.com", "acme", chain_pem, key_pem)
        settled = await platform.settled(stored.command_id)
        if settled.revision is not None:  # None after a refusal: see settled.codes
            live = await platform.converged("www.example.com", settled.revision)

Each command carries one id at every attempt, so a lost answer never doubles it. A private key is
sealed to the submission key before it leaves this process. Errors say why: ``Refused`` (with
findings), ``Unreachable`` (with what was tried), ``SettingsError`` (what this program was given is
wrong).
"""

from clients.platform.client import Platform, connect
from clients.platform.command_outcomes import StoredCommand, findings_of
from clients.platform.convergence import ConvergedRevision, ConvergenceProgress
from clients.platform.events import Event
from shared.errors import Refused, SettingsError, Unreachable

__all__ = [
    "ConvergedRevision",
    "ConvergenceProgress",
    "Event",
    "Platform",
    "Refused",
    "SettingsError",
    "StoredCommand",
    "Unreachable",
    "connect",
    "findings_of",
]
