"""The tree of exceptions.

EdgetlsError
├── SettingsError      a setting is missing or wrong: one line, exit 2
├── Transient          the fault passes: pause and try again, never counted against a message
│   ├── BrokerAway
│   ├── DatabaseAway
│   └── DeadLetterLimitReached   too many messages failed for a fault of ours
├── Poison             this message can never be handled: dead letter, with its reason
│   ├── Malformed      not its contract
│   ├── Unsigned       no valid signature of the key that must speak here
│   ├── TooLarge       more bytes than a stream takes: sending it again would not help
│   └── IdConflict     the same id with another content
├── CannotOpen         a sealed box that this key, with this context, does not open
├── Refused            a command or query that the rules refuse; carries findings
└── Unreachable        a client cannot reach the platform; says what it tried
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.contracts.findings import Finding


class EdgetlsError(Exception):
    """Base of all. Its text is safe to log: it never holds a body or a key."""


class SettingsError(EdgetlsError):
    pass


class Transient(EdgetlsError):
    pass


class BrokerAway(Transient):
    pass


class DatabaseAway(Transient):
    pass


class DeadLetterLimitReached(Transient):
    pass


class Poison(EdgetlsError):
    reason = "poison"


class Malformed(Poison):
    reason = "malformed"


class Unsigned(Poison):
    reason = "unsigned"


class TooLarge(Poison):
    reason = "too_large"


class IdConflict(Poison):
    reason = "id_conflict"


class CannotOpen(EdgetlsError):
    pass


class Refused(EdgetlsError):
    """A command or query that the rules refuse. ``findings`` say what, where and what to do."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(f"{f.code.value}: {f.message}" for f in findings))
        self.findings = list(findings)


class Unreachable(EdgetlsError):
    pass
