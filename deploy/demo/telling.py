"""The story from its start to its end, on a platform of its own."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from clients.cli.output import Output
from clients.platform import connect
from clients.platform.connection import PlatformConnection
from deploy.demo import billing, leaving, library, serving
from deploy.demo.stage import Stage
from deploy.demo.story import CheckFailed, Result, Story
from deploy.demo.traffic import Origin
from deploy.embedded.dev_ca import TestCa
from deploy.embedded.platform import Platform
from deploy.embedded.up_down import ended_by_sigterm
from shared.errors import EdgetlsError, Refused, SettingsError
from shared.faults import describe


async def tell(
    nodes: int, requests: int, data: Path | None, keep: bool, out: Output, outcome: Result
) -> None:
    """``data``: None for a temporary folder. What went wrong is in ``outcome.failed``; errors of
    the platform are raised as well. SettingsError when ``data`` holds something."""
    folder = _fresh(data)
    story = Story(out.note)
    story.result = outcome
    try:
        with ended_by_sigterm():
            await _tell(story, folder, nodes, requests)
        outcome.ok = True
        out.note(f"done: every check held{f'; data in {folder}' if keep else ''}")
    except Exception as error:
        keep = True
        outcome.failed = (
            str(error) if isinstance(error, CheckFailed | EdgetlsError) else describe(error)
        )
        sys.stderr.write(f"\nDEMO FAILED: {outcome.failed}\nlogs and data: {folder}\n")
        if isinstance(error, EdgetlsError) and not isinstance(error, Refused):
            raise
    finally:
        if not keep:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _tell(story: Story, folder: Path, nodes: int, requests: int) -> None:
    lines: list[str] = []
    platform = Platform(folder, nodes=nodes, on_line=lines.append)
    try:
        with story.step(f"start NATS, PostgreSQL, four services and {nodes} nodes") as detail:
            await platform.start()
            detail(f"data in {folder}")
        story.result.nodes = nodes
        async with AsyncExitStack() as stack:
            stage = await _set(stack, platform, story.result)
            for step in _steps(requests):
                await step(story, stage)
    finally:
        await platform.stop()


def _steps(requests: int) -> list[Callable[[Story, Stage], Awaitable[None]]]:
    return [
        serving.register,
        serving.refuse,
        serving.submit,
        serving.strangers,
        serving.redirect,
        serving.replace,
        library.deploy,
        library.replace_and_roll_back,
        library.policies,
        lambda story, stage: billing.open_account(story, stage, requests),
        lambda story, stage: billing.requests(story, stage, requests),
        lambda story, stage: billing.charge(story, stage, requests),
        billing.low_balance,
        leaving.disable,
        leaving.nothing_left,
    ]


async def _set(stack: AsyncExitStack, platform: Platform, result: Result) -> Stage:
    run = platform.run
    seeds = {user: Path(path) for user, path in run["credentials"].items()}
    customer = await stack.enter_async_context(
        await connect(
            run["nats_url"], seeds["platform"], Path(run["submission_key"]), source="demo"
        )
    )
    operator = await stack.enter_async_context(
        await connect(run["nats_url"], seeds["operator"], user="operator")
    )
    searcher = await PlatformConnection.open(run["nats_url"], seeds["searcher"], "searcher", 10)
    stack.push_async_callback(searcher.close)
    origin = await stack.enter_async_context(Origin())
    issue = TestCa.load(Path(run["trust_roots"]).parent).issue
    folders = [platform.data / "nodes" / node["id"] for node in run["nodes"]]
    stage = Stage(run, folders, customer, operator, searcher.client, origin, issue, result)
    stage.since = await customer.last_event()
    return stage


def _fresh(data: Path | None) -> Path:
    if data is None:
        return Path(tempfile.mkdtemp(prefix="edgetls-demo-"))
    if data.exists() and any(data.iterdir()):
        raise SettingsError(f"{data} is not empty: the demo tells its story on a fresh data folder")
    data.mkdir(parents=True, exist_ok=True)
    return data
