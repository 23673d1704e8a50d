"""Faults of the machine under the platform."""

from __future__ import annotations

from shared.errors import EdgetlsError


class PlatformError(EdgetlsError):
    """The platform cannot start, or a part of it did not become ready. The text is one line: what
    happened, where, and what to do."""
