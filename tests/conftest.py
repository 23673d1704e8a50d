"""Fixtures that the tests of whole platforms share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.broker_outage import BrokerOutage, broker_outage

CALL_FAILED = pytest.StashKey[bool]()
"""Whether the body of a test failed: for fixtures, which do not see it."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[CALL_FAILED] = report.failed
    return report


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder outside pytest's own: PostgreSQL runs as another user when the tests are root's."""
    folder = Path(tempfile.mkdtemp(prefix="edgetls-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def background_outage(
    scratch: Path, request: pytest.FixtureRequest
) -> AsyncIterator[BrokerOutage | Exception | None]:
    """An outage of three minutes that passes while other tests run.

    None when no selected test wants it; the exception when it could not begin, which only the test
    of the outage must fail with.
    """
    wanted = any(
        "begun_outage" in getattr(item, "fixturenames", ()) for item in request.session.items
    )
    async with AsyncExitStack() as stack:
        outage: BrokerOutage | Exception | None = None
        if wanted:
            try:
                outage = await stack.enter_async_context(broker_outage(scratch / "outage"))
            except Exception as error:
                outage = error
        yield outage
