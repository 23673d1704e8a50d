"""What can go wrong with the machine under the platform: each is one line that says where and what
to do."""

from __future__ import annotations

from shared.errors import EdgetlsError


class PlatformError(EdgetlsError):
    """The platform cannot start, or not all of it became ready."""
