"""How a child is started: ended by the kernel when its parent dies, and not as root where it
refuses to be."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.embedded.errors import PlatformError

OWNERS: Final = ("edgetls", "nobody")
"""Whom a program runs as that refuses to be root: the first of these that the machine has."""
_READ_SEARCH, _OVERRIDE = 2, 1


@dataclass(frozen=True)
class Owner:
    """A system user."""

    name: str
    uid: int
    gid: int


def other_than_root() -> Owner | None:
    """Whom to be instead of root; None when this is an ordinary user already."""
    if os.geteuid() != 0:
        return None
    for name in OWNERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Owner(name, found.pw_uid, found.pw_gid)
    raise PlatformError(
        f"PostgreSQL refuses to run as root and there is no user {' or '.join(OWNERS)}: make one"
    )


def wrapped(
    argv: Sequence[str], owner: Owner | None = None, reach: Sequence[Path] = ()
) -> tuple[str, ...]:
    """``argv`` behind setpriv, which becomes it (same pid). ``reach``: what ``owner`` must be able
    to get to."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PlatformError("setpriv is missing: install util-linux")
    options = ["--pdeathsig", "KILL"]
    if owner is not None:
        options += ["--reuid", str(owner.uid), "--regid", str(owner.gid), "--clear-groups"]
        if not all(_reaches(owner, path) for path in reach):
            options += _through_closed_folders()
    return (setpriv, *options, "--", *argv)


def _through_closed_folders() -> list[str]:
    """The right to pass folders that are closed to the owner (a home folder of root, 0700) and
    nothing else.

    It beats opening those folders to everybody. access(2) drops capabilities unless no_setuid_fixup
    is set."""
    status = Path("/proc/self/status").read_text()
    bounds = int(
        next(line for line in status.splitlines() if line.startswith("CapBnd:")).split()[1], 16
    )
    if bounds & 1 << _READ_SEARCH:
        capability = "dac_read_search"
    elif bounds & 1 << _OVERRIDE:
        capability = "dac_override"
    else:
        raise PlatformError(
            "this root may not pass closed folders: put the code and the data where all users "
            "can go"
        )
    return [
        "--securebits=+no_setuid_fixup",
        *(f"--{kind}=-all,+{capability}" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
    ]


def _reaches(owner: Owner, path: Path) -> bool:
    for folder in path.resolve().parents:
        found = folder.stat()
        shift = 6 if found.st_uid == owner.uid else 3 if found.st_gid == owner.gid else 0
        if not found.st_mode >> shift & 1:
            return False
    return True
