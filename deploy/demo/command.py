"""``edgetls demo``: starts a platform of its own, tells the story, stops it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clients.cli.command import format_examples, run_action
from clients.cli.output import ExitCode, Output


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    examples = [
        "edgetls demo",
        "edgetls demo --nodes 5 --requests 20000 --json",
        "edgetls demo --keep --data /var/tmp/edge-demo",
    ]
    app.command("demo", epilog=format_examples(examples))(demo)


def demo(
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=20, help="Edge nodes to run.")] = 3,
    requests: Annotated[
        int, typer.Option("--requests", min=1, max=1_000_000, help="HTTPS requests to send.")
    ] = 5000,
    data: Annotated[
        Path | None, typer.Option("--data", help="New or empty folder; else a temporary one.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data folder afterwards.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The story on stderr; one JSON object on stdout.")
    ] = False,
) -> None:
    """Show the whole path on this machine as a story: certificate in, handshakes, requests,
    charge, disable. Every step is checked; exit code 1 when a check does not hold."""
    # The story needs the embedded platform, whose wheels are an extra: every other command works
    # without them.
    from deploy.demo.runner import run_demo
    from deploy.demo.story import DemoResult

    out = Output(as_json)
    result = DemoResult()
    action = run_demo(nodes, requests, data, keep, out, result)
    code = run_action(action, out, errors_as_json=False)
    out.data(result.as_json())
    raise typer.Exit(code or (ExitCode.DONE if result.ok else ExitCode.REFUSED))
