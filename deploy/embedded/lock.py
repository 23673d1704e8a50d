"""Lock of a data folder: one supervisor for each. The kernel releases it when its process ends,
however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from deploy.embedded.errors import PlatformError

_FILE: Final = "lock"


class DataLock:
    """The lock, held from ``acquire`` to ``release``. The file holds the supervisor's pid."""

    def __init__(self, data: Path) -> None:
        self._file = data / _FILE
        self._descriptor: int | None = None

    def file_exists(self) -> bool:
        """Return whether a supervisor ever used this folder."""
        return self._file.exists()

    def acquire(self) -> None:
        """Take the lock; PlatformError when another supervisor holds it."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            folder = self._file.parent
            raise PlatformError(
                f"{folder} is in use by process {lock_holder(folder)}: run 'edgetls down' first"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; safe to call twice. The file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_holder(data: Path) -> int | None:
    """Return the pid of the supervisor that holds the lock now, None when it is free."""
    try:
        descriptor = os.open(data / _FILE, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        # The pid in the file proves nothing: its process may have died, and another one may have
        # its number. Only a lock that cannot be taken proves a living holder.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 20).decode().strip()
        return int(text) if text.isdigit() else None
    else:
        return None
    finally:
        os.close(descriptor)
