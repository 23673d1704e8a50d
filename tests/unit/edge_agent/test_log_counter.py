"""Counting the usage log, and the log files around it, without nginx."""

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.edge_node.usage.log_counter import CellCounts, CountedRange, count_lines, whole_lines
from clients.edge_node.usage.logs import LogReader, UsageLogError, UsageLogs

GOOD = b"1767225600.123 https a.test 200 5120\n"
MINUTE = 1767225600 // 60


def test_a_line_counts_for_its_domain_and_the_minute_of_its_end() -> None:
    lines = GOOD + b"1767225659.999 https a.test 301 80\n1767225660.000 https a.test 200 1\n"
    assert count_lines("log", 100, lines) == CountedRange(
        "log",
        100,
        100 + len(lines),
        {("a.test", MINUTE): CellCounts(2, 5200), ("a.test", MINUTE + 1): CellCounts(1, 1)},
    )


def test_port_80_is_counted_apart_and_a_wildcard_under_its_own_name() -> None:
    lines = b"1767225600.123 http a.test 200 7\n1767225600.123 https *.img.example.test 404 9\n"
    assert count_lines("log", 0, lines).cells == {
        ("a.test", MINUTE): CellCounts(http_requests=1, http_bytes=7),
        ("*.img.example.test", MINUTE): CellCounts(https_requests=1, https_bytes=9),
    }


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        GOOD.strip() + b" ",
        GOOD.strip() + b"\r",
        b"1767225600.123 https a.test 200",
        b"1767225600.123 https a.test 200 -1",
        b"1767225600.123 https a.test 99 1",
        b"1767225600.123 https a.test 600 1",
        b"1767225600.123 ftp a.test 200 1",
        b"1767225600.123 https A.test 200 1",
        b"1767225600.123 https a..test 200 1",
        b"1767225600.123 https *a.test 200 1",
        b"1767225600.123 https a b 200 1",
        b"1767225600 https a.test 200 1",
        b"1767225600.123 https a.test 200 9999999999999999",
        b"1767225600.123 https a.test1767225600.123 https a.test 200 1",
        b"\xff\xfe\0\0",
    ],
)
def test_a_line_that_does_not_parse_is_bad_and_stops_nothing(line: bytes) -> None:
    found = count_lines("log", 0, GOOD + line + b"\n" + GOOD)
    assert found.bad_lines == 1
    assert found.cells == {("a.test", MINUTE): CellCounts(2, 10240)}


def test_nothing_counts_as_nothing() -> None:
    assert count_lines("log", 5, b"") == CountedRange("log", 5, 5)


@given(
    st.lists(st.sampled_from([GOOD, b"bad\n", b"\n", b"1767225700.000 http *.b.test 500 3\n"])),
    st.data(),
)
def test_ranges_cut_at_lines_add_up_to_the_whole(lines: list[bytes], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(lines)))
    left, right = (
        count_lines("log", 0, b"".join(lines[:cut])),
        count_lines("log", 0, b"".join(lines[cut:])),
    )
    whole = count_lines("log", 0, b"".join(lines))
    assert left.bad_lines + right.bad_lines == whole.bad_lines
    for key, cell in whole.cells.items():
        parts = [part.cells.get(key, CellCounts()) for part in (left, right)]
        assert cell.https_requests == sum(part.https_requests for part in parts)
        assert cell.http_bytes == sum(part.http_bytes for part in parts)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_range_over_all_of_them(data: bytes) -> None:
    assert count_lines("log", 0, data).end == len(data)


@pytest.mark.parametrize(
    ("data", "final", "taken"),
    [
        (b"one\ntwo", False, b"one\n"),
        (b"one\ntwo", True, b"one\ntwo"),
        (b"torn", False, b""),
        (b"torn", True, b"torn"),
        (b"0123456789", False, b"0123456789"),
        (b"012345678\n", False, b"012345678\n"),
        (b"01234\n6789", True, b"01234\n"),
        (b"", True, b""),
    ],
)
def test_only_whole_lines_are_taken_unless_no_more_can_come(
    data: bytes, final: bool, taken: bytes
) -> None:
    assert whole_lines(data, 10, final) == taken


def test_the_reader_leaves_a_line_being_written_for_the_next_time(tmp_path: Path) -> None:
    logs = UsageLogs(tmp_path)
    log = logs.ensure_current()
    path = tmp_path / "current.log"
    path.write_bytes(GOOD + GOOD[:10])
    reader = LogReader(logs, log)
    first = reader.read_next()
    assert first is not None
    assert (first.start, first.end, reader.position) == (0, len(GOOD), len(GOOD))
    assert reader.read_next() is None
    path.write_bytes(GOOD + GOOD)
    second = reader.read_next()
    assert second is not None
    assert (second.start, second.end, second.bad_lines) == (len(GOOD), 2 * len(GOOD), 0)


def test_bytes_without_a_newline_do_not_hold_the_reader_up(tmp_path: Path) -> None:
    logs = UsageLogs(tmp_path)
    log = logs.ensure_current()
    (tmp_path / "current.log").write_bytes(b"\0" * 250 + b"\n" + GOOD)
    reader, found = LogReader(logs, log, limit=100), []
    while part := reader.read_next():
        found.append(part)
    assert found[-1].cells == {("a.test", MINUTE): CellCounts(1, 5120)}
    assert [logs.read_range(log, part.start, part.end) for part in found] == found


def test_a_restart_keeps_the_current_log_and_closes_a_torn_line(tmp_path: Path) -> None:
    logs = UsageLogs(tmp_path)
    log = logs.ensure_current()
    (tmp_path / "current.log").write_bytes(GOOD + b"torn")
    assert logs.ensure_current() == log
    assert logs.ensure_current() == log
    assert (tmp_path / "current.log").read_bytes() == GOOD + b"torn\n"


def test_log_ids_are_uuids_in_the_order_of_their_making(tmp_path: Path) -> None:
    logs = UsageLogs(tmp_path)
    made = [logs.ensure_current()]
    for _ in range(20):
        logs.rotate(lambda: None)
        made.append(logs.current_id())
    assert made == sorted(made) == logs.list_ids()
    assert {uuid.UUID(log).version for log in made} == {7}


def test_a_log_made_but_never_switched_to_is_dropped(tmp_path: Path) -> None:
    logs = UsageLogs(tmp_path)
    current = logs.ensure_current()
    (tmp_path / f"{uuid.UUID(int=uuid.UUID(current).int + (1 << 90))}.log").touch()
    logs.rotate(lambda: None)
    assert logs.list_ids() == [current, logs.current_id()]


def test_a_log_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    logs = UsageLogs(tmp_path)
    with pytest.raises(UsageLogError, match="no current"):
        logs.current_id()
    log = str(uuid.uuid4())
    with pytest.raises(UsageLogError, match=log):
        logs.log_size(log)
    with pytest.raises(UsageLogError, match=log):
        LogReader(logs, log).read_next()
