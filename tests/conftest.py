"""What the tests on whole platforms share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.outage import Outage, outage


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """Outside pytest's folders: PostgreSQL runs as a user of its own there when the tests are
    root's."""
    folder = Path(tempfile.mkdtemp(prefix="edgetls-tests-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def broker_outage(scratch: Path) -> AsyncIterator[Outage]:
    async with outage(scratch / "outage") as running:
        yield running


@pytest.fixture(scope="session")
def outage_in_the_background(request: pytest.FixtureRequest) -> None:
    """Its three minutes pass while the other tests run."""
    if any("broker_outage" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("broker_outage")
