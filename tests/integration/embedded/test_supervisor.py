"""A child that dies is started again; no process outlives the supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.embedded import orphans
from deploy.embedded.down import stop_platform
from deploy.embedded.errors import PlatformError
from deploy.embedded.lock import DataLock, lock_holder
from deploy.embedded.reaper import RECORDED_NAME
from deploy.embedded.supervisor import Supervisor
from tests.integration.embedded.holder import child_spec
from tests.support.waiting import until

STUBBORN = """\
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
POLITE = """\
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open('ended', 'a').write(sys.argv[1]), sys.exit()))
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    lines: list[str] = []
    running = Supervisor(tmp_path, lines.append)
    yield running
    await running.stop()
    assert orphans.find_orphans(tmp_path) == []


@pytest.fixture
def other_supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own, in ``tmp_path / "data"``."""
    argv = (sys.executable, "-m", "tests.integration.embedded.holder", str(tmp_path / "data"))
    with subprocess.Popen(argv, cwd=Path(__file__).parents[3]) as process:
        yield process
        process.kill()
    orphans.end_orphans(tmp_path / "data")


async def wait_for_processes(data: Path, count: int) -> list[int]:
    """Return the pids of all processes of a folder, once there are ``count``."""
    await until((data / "started").exists, "the supervisor has started its children")
    await until(lambda: len(orphans.find_orphans(data)) >= count, f"{count} processes run")
    return orphans.find_orphans(data)


def still_alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if orphans.read_stamp(pid)]


async def test_a_killed_child_is_started_again_at_once_and_its_children_do_not_outlive_it(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    await supervisor.start(child_spec(tmp_path, "one"))
    await until(lambda: "up" in supervisor.log("one").read_text(), "it has started its own child")
    first = supervisor.pid("one")
    family = [pid for pid in orphans.find_orphans(tmp_path) if os.getsid(pid) == first]
    assert len(family) == 2
    supervisor.kill("one")
    await until(lambda: supervisor.pid("one") not in (None, first), "it is started again")
    await until(lambda: not still_alive(family), "the first one's child is gone")
    assert supervisor.deaths("one") == 1


async def test_a_child_that_dies_again_and_again_is_counted_and_does_not_hinder_the_stop(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    await supervisor.start(child_spec(tmp_path, "bad", "raise SystemExit(3)"))
    await until(lambda: supervisor.early_deaths("bad") >= 3, "it has died three times")


async def test_deaths_that_were_asked_for_are_not_held_against_a_child(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    await supervisor.start(child_spec(tmp_path, "one"))
    for count in range(1, 6):
        await until(lambda: supervisor.pid("one"), "it is started again at once")
        supervisor.kill("one")
        await until(lambda count=count: supervisor.deaths("one") == count, "it has died")
    assert supervisor.early_deaths("one") == 1


async def test_a_stop_goes_from_the_highest_rank_to_the_lowest(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    for rank in (0, 1, 2):
        await supervisor.start(child_spec(tmp_path, f"p{rank}", POLITE, str(rank), rank=rank))
    for rank in (0, 1, 2):
        await until(
            lambda name=f"p{rank}": "up" in supervisor.log(name).read_text(), "it handles SIGTERM"
        )
    await supervisor.stop()
    await supervisor.stop()
    assert (tmp_path / "ended").read_text() == "210"


async def test_a_child_that_ignores_sigterm_is_killed_after_its_limit(tmp_path: Path) -> None:
    lines: list[str] = []
    supervisor = Supervisor(tmp_path, lines.append)
    await supervisor.start(child_spec(tmp_path, "stubborn", STUBBORN, stop=0.2))
    await until(lambda: "up" in supervisor.log("stubborn").read_text(), "it ignores SIGTERM")
    await supervisor.stop()
    assert lines == ["stubborn did not stop in 0.2 s and is killed"]
    assert orphans.find_orphans(tmp_path) == []


async def test_a_stopped_process_is_ended_too(supervisor: Supervisor, tmp_path: Path) -> None:
    await supervisor.start(child_spec(tmp_path, "one", stop=0.2))
    stopped = supervisor.pid("one")
    assert stopped is not None
    supervisor.kill("one", signal.SIGSTOP)
    await supervisor.stop()
    assert still_alive([stopped]) == []


async def test_a_missing_program_is_named_in_one_line(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    missing = child_spec(tmp_path, "one")
    with pytest.raises(PlatformError, match="cannot start one"):
        await supervisor.start(type(missing)("one", ("/nowhere/program",), {}, tmp_path))


async def test_nothing_survives_a_kill_of_the_supervisor(
    other_supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    found = await wait_for_processes(tmp_path / "data", 5)
    other_supervisor.kill()
    other_supervisor.wait()
    await until(lambda: not still_alive(found), "all its processes are gone")


async def test_sigterm_stops_the_supervisor_with_all_its_processes(
    other_supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    found = await wait_for_processes(tmp_path / "data", 5)
    other_supervisor.terminate()
    await until(lambda: other_supervisor.poll() == 0, "the supervisor has ended well")
    assert still_alive(found) == []


async def test_what_supervisor_and_reaper_leave_is_ended_by_down(
    other_supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    found = await wait_for_processes(data, 5)
    os.kill(orphans.recorded_processes(data)[RECORDED_NAME].pid, signal.SIGKILL)
    other_supervisor.kill()
    other_supervisor.wait()
    await until(
        lambda: len(still_alive(found)) == 2, "the kernel has ended the direct children, not theirs"
    )
    assert "ended 2 processes" in await asyncio.to_thread(stop_platform, data)
    assert still_alive(found) == []
    assert stop_platform(data) == "nothing was running"


async def test_down_stops_a_running_supervisor(
    other_supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    found = await wait_for_processes(data, 5)
    assert lock_holder(data) == other_supervisor.pid
    assert "stopped" in await asyncio.to_thread(stop_platform, data)
    assert still_alive(found) == []
    assert other_supervisor.wait() == 0


async def test_down_kills_a_supervisor_that_hangs(
    other_supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    found = await wait_for_processes(data, 5)
    other_supervisor.send_signal(signal.SIGSTOP)
    assert "was killed" in await asyncio.to_thread(stop_platform, data, 0.3)
    assert still_alive(found) == []


def test_pids_that_belong_to_other_processes_now_are_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(
        (sys.executable, "-c", "import time; time.sleep(600)"), start_new_session=True
    ) as other:
        found = orphans.read_stamp(other.pid)
        assert found is not None
        orphans.record_processes(
            tmp_path, {"one": orphans.ProcessStamp(found.pid, found.started - 1)}
        )
        assert orphans.end_orphans(tmp_path) == []
        orphans.record_processes(tmp_path, {"one": found})
        assert orphans.end_orphans(tmp_path) == [other.pid]


def test_processes_that_an_older_version_recorded_are_ended(tmp_path: Path) -> None:
    """The format and the names of ``pids.json`` since the first version."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    argv = (sys.executable, "-c", "import time; time.sleep(600)")
    with subprocess.Popen(argv, start_new_session=True) as old_reaper:
        stamp = orphans.read_stamp(old_reaper.pid)
        assert stamp is not None
        pids = {"warden": [stamp.pid, stamp.started]}
        (tmp_path / "pids.json").write_text(json.dumps({"boot": boot, "pids": pids}))
        assert stop_platform(tmp_path) == "ended 1 processes of a supervisor that died"


def test_a_folder_has_one_supervisor_at_a_time(tmp_path: Path) -> None:
    lock, second = DataLock(tmp_path), DataLock(tmp_path)
    lock.acquire()
    with pytest.raises(
        PlatformError, match=f"in use by process {os.getpid()}: run 'edgetls down' first"
    ):
        second.acquire()
    lock.release()
    second.acquire()
    second.release()
    assert lock_holder(tmp_path) is None


def test_down_without_a_folder_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="there is no data folder"):
        stop_platform(tmp_path / "none")
