"""Files that hold keys: mode 0600, written whole or not at all, and on disk before the call
returns."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` atomically (mode 0600, fsynced with its folder). OSError when it cannot."""
    fresh = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def private_folder(path: Path) -> Path:
    """Make the folder with its parents and set its mode to 0700."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def sync_folder(folder: Path) -> None:
    """Sync a folder: names that were made, replaced or removed in it are on disk afterwards."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
