"""The ``edgetls`` command: its groups put together."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

import typer

from clients.cli import (
    accounts,
    certificates,
    domains,
    fleet,
    lists,
    money,
    prices,
    settings,
    watching,
)

PLUGINS: Final = "edgetls.commands"
"""Group of entry points. Each names a module with ``add_to(app)``: what is installed beside the
command line, such as ``deploy`` with ``edgetls up``, adds its commands without being imported
here."""
# In the order of --help.
_PARTS: Final = (
    domains,
    settings,
    certificates,
    lists,
    accounts,
    money,
    prices,
    fleet,
    watching,
)


def command_line() -> typer.Typer:
    """Build the ``edgetls`` command with its plug-ins, which come first in ``--help``."""
    app = typer.Typer(
        name="edgetls",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help=(
            "HTTPS Secure Acceleration: certificates to every edge node, every HTTPS request "
            "counted once."
        ),
        epilog="Exit codes: 0 done, 1 refused, 2 usage, 3 platform out of reach.",
    )
    for entry in sorted(entry_points(group=PLUGINS), key=lambda entry: entry.name):
        entry.load().add_to(app)
    for part in _PARTS:
        part.add_to(app)
    return app


def run() -> None:
    """Run the command line of this process's arguments."""
    command_line()()


if __name__ == "__main__":
    run()
