"""Runs the story from its start to its end, on a platform of its own."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from clients.cli.output import Output
from clients.platform import connect
from clients.platform.connection import PlatformConnection
from deploy.demo import billing, disabling, library, serving
from deploy.demo.context import DemoContext
from deploy.demo.story import CheckFailed, DemoResult, DemoStory
from deploy.demo.visitors.origin_server import DemoOrigin
from deploy.embedded.dev_ca import DevCa
from deploy.embedded.platform import EmbeddedPlatform
from deploy.embedded.up_down import cancel_at_sigterm
from shared.errors import EdgetlsError, Refused, SettingsError
from shared.faults import describe

_PATIENCE_SECONDS: Final = 10


async def run_demo(
    nodes: int, requests: int, data: Path | None, keep: bool, out: Output, result: DemoResult
) -> None:
    """Run the demo and fill ``result``. ``data``: None for a temporary folder.

    A check that fails is in ``result.failed``; faults of the platform are raised as well.
    SettingsError when ``data`` is not empty."""
    folder = _prepare_folder(data)
    try:
        with cancel_at_sigterm():
            await _tell_story(DemoStory(result, out.note), folder, nodes, requests)
        result.ok = True
        out.note(f"done: every check held{f'; data in {folder}' if keep else ''}")
    except Exception as error:
        # The folder stays: its logs say why.
        keep = True
        known = isinstance(error, CheckFailed | EdgetlsError)
        result.failed = str(error) if known else describe(error)
        sys.stderr.write(f"\nDEMO FAILED: {result.failed}\nlogs and data: {folder}\n")
        if isinstance(error, EdgetlsError) and not isinstance(error, Refused):
            raise
    finally:
        if not keep:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _tell_story(story: DemoStory, folder: Path, nodes: int, requests: int) -> None:
    # The platform's own lines would interrupt the story; its logs have the details.
    platform = EmbeddedPlatform(folder, nodes=nodes)
    try:
        with story.step(f"start NATS, PostgreSQL, four services and {nodes} nodes") as detail:
            await platform.start()
            detail(f"data in {folder}")
        story.result.nodes = nodes
        async with AsyncExitStack() as stack:
            context = await _open_context(stack, story, platform)
            for step in _steps(requests):
                await step(context)
    finally:
        await platform.stop()


def _steps(requests: int) -> list[Callable[[DemoContext], Awaitable[None]]]:
    return [
        serving.register_domains,
        serving.refuse_bad_uploads,
        serving.submit_pairs,
        serving.refuse_unknown_names,
        serving.redirect_to_https,
        serving.replace_certificate,
        library.deploy_to_many,
        library.replace_and_roll_back,
        library.change_policies,
        lambda context: billing.open_account(context, requests),
        lambda context: billing.send_and_count(context, requests),
        lambda context: billing.charge_hour(context, requests),
        billing.flag_low_balance,
        disabling.disable_https,
        disabling.search_residue,
    ]


async def _open_context(
    stack: AsyncExitStack, story: DemoStory, platform: EmbeddedPlatform
) -> DemoContext:
    run = platform.run
    seeds = run["credentials"]
    url = run["nats_url"]
    submission_key = Path(run["submission_key"])
    customer = await stack.enter_async_context(
        await connect(url, Path(seeds["platform"]), submission_key, source="demo")
    )
    operator = await stack.enter_async_context(
        await connect(url, Path(seeds["operator"]), user="operator")
    )
    searcher = await PlatformConnection.open(
        url, Path(seeds["searcher"]), "searcher", _PATIENCE_SECONDS
    )
    stack.push_async_callback(searcher.close)
    context = DemoContext(
        story=story,
        run=run,
        node_folders=[platform.data / "nodes" / node["id"] for node in run["nodes"]],
        customer=customer,
        operator=operator,
        searcher=searcher.client,
        origin=await stack.enter_async_context(DemoOrigin()),
        ca=DevCa.load(Path(run["trust_roots"]).parent),
    )
    context.since = await customer.last_event()
    return context


def _prepare_folder(data: Path | None) -> Path:
    if data is None:
        return Path(tempfile.mkdtemp(prefix="edgetls-demo-"))
    if data.exists() and any(data.iterdir()):
        raise SettingsError(f"{data} is not empty: the demo tells its story on a fresh data folder")
    data.mkdir(parents=True, exist_ok=True)
    return data
