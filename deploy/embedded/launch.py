"""Command lines of child processes: the kernel kills a child when its parent dies, and a program
that refuses to run as root runs as another user."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.embedded.errors import PlatformError

UNPRIVILEGED_USERS: Final = ("edgetls", "nobody")
"""A program that refuses to be root runs as the first of these users that the machine has."""
# Bits of the capability sets in /proc/self/status (capabilities(7)).
_DAC_OVERRIDE_BIT: Final = 1
_DAC_READ_SEARCH_BIT: Final = 2


@dataclass(frozen=True)
class SystemUser:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def unprivileged_user() -> SystemUser | None:
    """Return the user to run as instead of root; None when this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED_USERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return SystemUser(name, found.pw_uid, found.pw_gid)
    raise PlatformError(
        "PostgreSQL refuses to run as root and there is no user "
        f"{' or '.join(UNPRIVILEGED_USERS)}: make one"
    )


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line that runs one of our own modules."""
    return wrap_command((sys.executable, "-m", module, *arguments))


def base_environment() -> dict[str, str]:
    """Return what a child inherits of our environment, with our own packages on its path."""
    inherited: dict[str, str] = {}
    for name in ("PATH", "HOME", "LANG"):
        if name in os.environ:
            inherited[name] = os.environ[name]
    # First on the path: a child must run the code of its supervisor, whatever is installed.
    paths = [str(Path(__file__).parents[2])]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths)}


def wrap_command(
    argv: Sequence[str], user: SystemUser | None = None, reach: Sequence[Path] = ()
) -> tuple[str, ...]:
    """Return ``argv`` behind setpriv, which execs it, so that the pid stays the same.

    ``user``: run as this user. ``reach``: files that it must be able to open."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PlatformError("setpriv is missing: install util-linux")
    options = ["--pdeathsig", "KILL"]
    if user is not None:
        options += ["--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups"]
        if not all(_can_reach(user, path) for path in reach):
            options += _search_capability()
    return (setpriv, *options, "--", *argv)


def _search_capability() -> list[str]:
    """Return setpriv's options for the right to pass closed folders (a home folder of root, 0700),
    and for no other right."""
    # The alternative is to open those folders to everybody.
    #
    # no_setuid_fixup: without it access(2) ignores the capability of a user that is not root.
    # Three sets: the ambient set keeps the capability over exec and must be within the
    # inheritable set; the bounding set keeps the child from getting any other capability.
    status = Path("/proc/self/status").read_text()
    bounding = 0
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            bounding = int(line.split()[1], 16)
    if bounding & 1 << _DAC_READ_SEARCH_BIT:
        capability = "dac_read_search"
    elif bounding & 1 << _DAC_OVERRIDE_BIT:
        capability = "dac_override"
    else:
        raise PlatformError(
            "this root may not pass closed folders: put the code and the data where all users "
            "can go"
        )
    options = ["--securebits=+no_setuid_fixup"]
    for kind in ("inh-caps", "ambient-caps", "bounding-set"):
        options.append(f"--{kind}=-all,+{capability}")
    return options


def _can_reach(user: SystemUser, path: Path) -> bool:
    """Return whether the user may search every folder above ``path``, by its permission bits."""
    for folder in path.resolve().parents:
        found = folder.stat()
        shift = 0
        if found.st_uid == user.uid:
            shift = 6
        elif found.st_gid == user.gid:
            shift = 3
        if not found.st_mode >> shift & 1:
            return False
    return True
