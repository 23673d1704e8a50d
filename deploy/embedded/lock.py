"""One supervisor a data folder: the kernel drops the lock with the process that holds it, however
it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from deploy.embedded.errors import PlatformError

_FILE: Final = "lock"


class DataLock:
    """Held from ``take`` to ``drop``."""

    def __init__(self, data: Path) -> None:
        self._file = data / _FILE
        self._descriptor: int | None = None

    def exists(self) -> bool:
        """Whether a supervisor ever had this folder."""
        return self._file.exists()

    def take(self) -> None:
        """PlatformError when another supervisor has it."""
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            folder = self._file.parent
            raise PlatformError(
                f"{folder} is in use by process {holder(folder)}: run 'edgetls down' first"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(data: Path) -> int | None:
    """The pid of the supervisor that holds the lock now; None when nobody does."""
    try:
        descriptor = os.open(data / _FILE, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 20).decode().strip()
        return int(text) if text.isdigit() else None
    else:
        return None
    finally:
        os.close(descriptor)
