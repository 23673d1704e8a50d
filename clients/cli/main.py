"""The ``edgetls`` command: its groups put together."""

from __future__ import annotations

import typer

from clients.cli import accounts, certificates, domains, fleet, lists, money, prices, settings, watching
from deploy.demo import command as demo_command
from deploy.embedded import up_down

app = typer.Typer(
    name="edgetls", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="HTTPS Secure Acceleration: certificates to every edge node, every HTTPS request counted once.",
    epilog="Exit codes: 0 done, 1 refused, 2 usage, 3 platform out of reach.",
)
for part in (up_down, demo_command, domains, settings, certificates, lists, accounts, money, prices, fleet, watching):
    part.add_to(app)


def run() -> None:
    app()


if __name__ == "__main__":
    run()
