"""Every form has the same values, to the last digit. Half a file never has the name of a whole
one."""

from __future__ import annotations

import csv
import importlib
import json
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.export.sheets import ExportSheet, SheetColumn, Value
from clients.export.writers import BATCH_ROWS, open_writer
from shared.errors import SettingsError
from shared.money import negated, times

SHEET: ExportSheet[Sequence[Value]] = ExportSheet(
    "test",
    (
        SheetColumn("text"),
        SheetColumn("count", "integer"),
        SheetColumn("at", "time"),
        SheetColumn("amount", "decimal"),
        SheetColumn("late", "flag"),
    ),
    lambda row: row,
)
AT = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
ROWS: list[list[Value]] = [
    ['a,"b"\nc', 1, AT, Decimal("0.000000000000000001"), True],
    [None, None, None, None, False],
    [
        "*.example.test",
        2**53,
        AT + timedelta(hours=1),
        Decimal("-12345678901234567890.123456789012345678"),
        None,
    ],
]
BERLIN = ZoneInfo("Europe/Berlin")


def write(
    form: str,
    output: Path,
    rows: Sequence[Sequence[Value]] = ROWS,
    sheet: ExportSheet[Sequence[Value]] = SHEET,
) -> None:
    with open_writer(form, output, sheet, BERLIN) as writer:
        for row in rows:
            writer.write(row)


def test_csv_has_times_of_the_zone_and_nothing_for_null(tmp_path: Path) -> None:
    write("csv", tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as stream:
        read = list(csv.reader(stream))
    assert read[0] == ["text", "count", "at", "amount", "late"]
    assert read[1] == ['a,"b"\nc', "1", "2026-10-25T02:30:00+01:00", "0.000000000000000001", "true"]
    assert read[2] == ["", "", "", "", "false"]
    assert read[3][3] == "-12345678901234567890.123456789012345678"


def test_a_sheet_of_utc_has_no_other_times(tmp_path: Path) -> None:
    write("csv", tmp_path / "x.csv", sheet=ExportSheet("x", SHEET.columns, SHEET.values, utc=True))
    assert "2026-10-25T01:30:00Z" in (tmp_path / "x.csv").read_text()


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
def test_json_is_one_array(tmp_path: Path, rows: list[list[Value]]) -> None:
    write("json", tmp_path / "x.json", rows)
    read = json.loads((tmp_path / "x.json").read_text())
    assert [list(row) for row in read] == [["text", "count", "at", "amount", "late"]] * len(rows)
    assert [None if row["amount"] is None else Decimal(row["amount"]) for row in read] == [
        row[3] for row in rows
    ]


@pytest.mark.parametrize("copies", [0, 1, BATCH_ROWS])
def test_parquet_has_instants_and_exact_decimals(tmp_path: Path, copies: int) -> None:
    write("parquet", tmp_path / "x.parquet", ROWS * copies)
    table = pq.read_table(tmp_path / "x.parquet")
    assert [str(field.type) for field in table.schema] == [
        "string",
        "int64",
        "timestamp[us, tz=UTC]",
        "decimal128(38, 18)",
        "bool",
    ]
    assert [list(row.values()) for row in table.to_pylist()] == ROWS * copies


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_export_that_breaks_off_leaves_nothing_behind(tmp_path: Path, form: str) -> None:
    (tmp_path / "x").write_text("the one before")
    with (
        pytest.raises(ZeroDivisionError),
        open_writer(form, tmp_path / "x", SHEET, BERLIN) as writer,
    ):
        writer.write(ROWS[0])
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "the one before"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot write .*missing"):
        write("csv", tmp_path / "missing" / "x.csv")


def test_without_pyarrow_the_error_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SettingsError, match=r"edgetls\[export\]"):
        write("parquet", tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, form: str) -> None:
    write(form, tmp_path / "warm", ROWS * BATCH_ROWS)
    peaks = []
    for count in (4, 16):
        tracemalloc.start()
        with open_writer(form, tmp_path / "x", SHEET, BERLIN) as writer:
            for _ in range(count * BATCH_ROWS // 2):
                writer.write(ROWS[0])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5 + 200_000


AMOUNTS = st.decimals(
    min_value=-(10**20) + 1, max_value=10**20 - 1, places=18, allow_nan=False, allow_infinity=False
)


@given(AMOUNTS)
def test_no_digit_is_lost_by_the_sign(amount: Decimal) -> None:
    assert negated(negated(amount)) == amount
    assert str(negated(Decimal("-0.00"))) == "0"


@given(st.integers(0, 2**53), st.decimals(min_value=0, max_value=1000, places=14))
def test_a_cost_is_the_exact_product(requests: int, price: Decimal) -> None:
    with localcontext(prec=76):
        assert times(price, Decimal(requests).scaleb(-4)) * 10_000 == price * requests
