"""The platform on this machine: up and down."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clients.cli.command import format_examples, run_action
from clients.cli.output import Output
from clients.cli.profile import DEFAULT_DATA, RUN_FILE
from shared.errors import Unreachable

DataOption = Annotated[
    Path, typer.Option("--data", envvar="EDGETLS_DATA", help="Data folder; made if missing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


def up(
    data: DataOption = DEFAULT_DATA,
    nodes: Annotated[int, typer.Option("--nodes", min=0, max=50, help="Edge nodes to run.")] = 3,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="NATS port; default: any.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Starts NATS, PostgreSQL, the four services and the nodes, and keeps them running until
    Ctrl-C.

    A second start on the same folder continues with its data."""
    raise typer.Exit(run_action(_up(data, nodes, port, Output(as_json)), Output(as_json)))


def down(data: DataOption = DEFAULT_DATA, as_json: JsonOption = False) -> None:
    """Stops what 'edgetls up' started on this folder, also when some of it died."""
    raise typer.Exit(run_action(_down(data, Output(as_json)), Output(as_json)))


def add_to(app: typer.Typer) -> None:
    app.command(
        "up", epilog=format_examples(["edgetls up", "edgetls up --data /var/tmp/edge --nodes 5"])
    )(up)
    app.command(
        "down", epilog=format_examples(["edgetls down", "edgetls down --data /var/tmp/edge"])
    )(down)


async def _up(data: Path, nodes: int, port: int | None, out: Output) -> None:
    # The embedded platform's wheels are an extra: every other command works without them.
    from deploy.embedded.platform import Platform

    platform = Platform(data, nodes=nodes, on_line=out.note, nats_port=port)
    with ended_by_sigterm():
        await platform.start()
    out.data({"event": "ready", "run_file": str(platform.data / RUN_FILE), **platform.run})
    for line in where(platform.data, platform.run):
        out.line(line)
    try:
        await platform.serve()
    finally:
        await platform.stop()
    out.line("stopped")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM cancels what runs, so that it is stopped as cleanly as by Ctrl-C; Unreachable says
    so."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    asked = False

    def ask() -> None:
        nonlocal asked
        asked = True
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, ask)
    try:
        yield
    except asyncio.CancelledError:
        if asked:
            raise Unreachable("ended by SIGTERM before it was done") from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _down(data: Path, out: Output) -> None:
    from deploy.embedded.down import down as stop

    told = await asyncio.to_thread(stop, data)
    out.data({"done": told})
    out.line(told)


def where(data: Path, run: dict[str, Any]) -> list[str]:
    """Where everything is, for people."""
    nodes = [
        f"  {node['id']:<10} https {node['https']}  http {node['http']}" for node in run["nodes"]
    ]
    return [
        f"data       {data}",
        f"addresses  {data / RUN_FILE}",
        f"logs       {data / 'logs'}",
        f"NATS       {run['nats_url']}",
        "nodes",
        *nodes,
        f"trust      {run['trust_roots']} (test CA roots)",
        f"use it     edgetls domain list --data {data}",
        f"stop it    Ctrl-C, or edgetls down --data {data}",
    ]
