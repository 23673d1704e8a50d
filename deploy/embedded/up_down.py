"""``edgetls up`` and ``edgetls down``: the platform on this machine."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping
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


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    up_examples = ["edgetls up", "edgetls up --data /var/tmp/edge --nodes 5"]
    down_examples = ["edgetls down", "edgetls down --data /var/tmp/edge"]
    app.command("up", epilog=format_examples(up_examples))(up)
    app.command("down", epilog=format_examples(down_examples))(down)


def up(
    data: DataOption = DEFAULT_DATA,
    nodes: Annotated[int, typer.Option("--nodes", min=0, max=50, help="Edge nodes to run.")] = 3,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="NATS port; default: any.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start NATS, PostgreSQL, the four services and the nodes, and keep them running until
    Ctrl-C.

    A second start on the same folder continues with its data."""
    raise typer.Exit(run_action(_run_platform(data, nodes, port, Output(as_json)), Output(as_json)))


def down(data: DataOption = DEFAULT_DATA, as_json: JsonOption = False) -> None:
    """Stop what 'edgetls up' started on this folder, also when some of it died."""
    raise typer.Exit(run_action(_stop_platform(data, Output(as_json)), Output(as_json)))


async def _run_platform(data: Path, nodes: int, port: int | None, out: Output) -> None:
    # The embedded platform's wheels are an extra: every other command works without them.
    from deploy.embedded.platform import EmbeddedPlatform

    platform = EmbeddedPlatform(data, nodes=nodes, on_line=out.note, nats_port=port)
    with cancel_at_sigterm():
        await platform.start()
    out.data({"event": "ready", "run_file": str(platform.data / RUN_FILE), **platform.run})
    for line in _describe_places(platform.data, platform.run):
        out.line(line)
    try:
        await platform.serve()
    finally:
        await platform.stop()
    out.line("stopped")


@contextmanager
def cancel_at_sigterm() -> Iterator[None]:
    """Cancel the current task at SIGTERM, so that it stops as cleanly as by Ctrl-C; Unreachable is
    raised then."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    received = False

    def cancel_task() -> None:
        nonlocal received
        received = True
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, cancel_task)
    try:
        yield
    except asyncio.CancelledError:
        if received:
            raise Unreachable("ended by SIGTERM before it was done") from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _stop_platform(data: Path, out: Output) -> None:
    from deploy.embedded.down import stop_platform

    done = await asyncio.to_thread(stop_platform, data)
    out.data({"done": done})
    out.line(done)


def _describe_places(data: Path, run: Mapping[str, Any]) -> list[str]:
    """Return the lines that tell a person where everything is."""
    lines = [
        f"data       {data}",
        f"addresses  {data / RUN_FILE}",
        f"logs       {data / 'logs'}",
        f"NATS       {run['nats_url']}",
        "nodes",
    ]
    for node in run["nodes"]:
        lines.append(f"  {node['id']:<10} https {node['https']}  http {node['http']}")
    lines += [
        f"trust      {run['trust_roots']} (test CA roots)",
        f"use it     edgetls domain list --data {data}",
        f"stop it    Ctrl-C, or edgetls down --data {data}",
    ]
    return lines
