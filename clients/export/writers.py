"""The forms of a file: CSV (RFC 4180), JSON, Parquet. Each takes rows one by one and keeps none but
a batch."""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TextIO
from zoneinfo import ZoneInfo

from clients.export.sheets import Sheet, Value, as_json, as_text
from shared.errors import SettingsError

BATCH: Final = 8192
"""Rows of one Parquet row group."""
_UTC: Final = ZoneInfo("UTC")


class Writer(Protocol):
    def write(self, values: Sequence[Value]) -> None: ...

    def close(self) -> None:
        """Writes what the form has at its end; only after the last row."""

    def abandon(self) -> None:
        """Instead of close(), after an exception: lets go of the stream."""


class CsvWriter:
    def __init__(self, stream: TextIO, sheet: Sheet[Any], zone: ZoneInfo) -> None:
        self._rows = csv.writer(stream, lineterminator="\n")
        self._zone = _UTC if sheet.utc else zone
        self._rows.writerow([column.name for column in sheet.columns])

    def write(self, values: Sequence[Value]) -> None:
        self._rows.writerow([as_text(value, self._zone) for value in values])

    def close(self) -> None:
        """CSV ends with its last row."""

    def abandon(self) -> None:
        """It holds nothing."""


class JsonWriter:
    """One array, a row a line."""

    def __init__(self, stream: TextIO, sheet: Sheet[Any], zone: ZoneInfo) -> None:
        self._stream, self._names, self._before = (
            stream,
            [column.name for column in sheet.columns],
            "[",
        )
        self._zone = _UTC if sheet.utc else zone

    def write(self, values: Sequence[Value]) -> None:
        row = {
            name: as_json(value, self._zone)
            for name, value in zip(self._names, values, strict=True)
        }
        self._stream.write(self._before + json.dumps(row, ensure_ascii=False))
        self._before = ",\n"

    def close(self) -> None:
        self._stream.write("[]\n" if self._before == "[" else "]\n")

    def abandon(self) -> None:
        """It holds nothing."""


class ParquetWriter:
    """Times are instants (UTC, microseconds), decimals decimal128(38, 18): exact to the ledger's
    last digit."""

    def __init__(self, stream: BinaryIO, sheet: Sheet[Any]) -> None:
        self._arrow, parquet = _pyarrow()
        types = {
            "text": self._arrow.string(),
            "integer": self._arrow.int64(),
            "flag": self._arrow.bool_(),
            "time": self._arrow.timestamp("us", tz="UTC"),
            "decimal": self._arrow.decimal128(38, 18),
        }
        self._schema = self._arrow.schema(
            [(column.name, types[column.kind]) for column in sheet.columns]
        )
        self._file = parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._batch: list[Sequence[Value]] = []

    def write(self, values: Sequence[Value]) -> None:
        self._batch.append(values)
        if len(self._batch) == BATCH:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def abandon(self) -> None:
        """Closed, or its finaliser would write to a stream that is closed by then."""
        self._file.close()

    def _flush(self) -> None:
        if self._batch:
            columns = list(zip(*self._batch, strict=True))
            arrays = [
                self._arrow.array(c, field.type)
                for c, field in zip(columns, self._schema, strict=True)
            ]
            self._file.write_batch(self._arrow.record_batch(arrays, schema=self._schema))
            self._batch.clear()


@contextmanager
def opened(form: str, output: Path | None, sheet: Sheet[Any], zone: ZoneInfo) -> Iterator[Writer]:
    """A writer of ``form`` (csv, json, parquet) to a file, or to standard output. The file gets its
    name at the end; after an exception nothing is left of it. SettingsError when it cannot be
    written."""
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise SettingsError("Parquet is not for a terminal: name a file with --output")
    if form == "parquet":
        _pyarrow()
    if output is None:
        sys.stdout.flush()
        with _closing(
            _writer(form, sys.stdout.buffer if form == "parquet" else sys.stdout, sheet, zone)
        ) as writer:
            yield writer
        sys.stdout.flush()
        return
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with (
            beside.open("wb")
            if form == "parquet"
            else beside.open("w", encoding="utf-8", newline="") as stream,
            _closing(_writer(form, stream, sheet, zone)) as writer,
        ):
            yield writer
        beside.replace(output)
    except OSError as error:
        raise SettingsError(f"cannot write {output}: {os.strerror(error.errno or 0)}") from None
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def _closing(writer: Writer) -> Iterator[Writer]:
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise
    writer.close()


def _writer(form: str, stream: Any, sheet: Sheet[Any], zone: ZoneInfo) -> Writer:
    if form == "parquet":
        return ParquetWriter(stream, sheet)
    return CsvWriter(stream, sheet, zone) if form == "csv" else JsonWriter(stream, sheet, zone)


def _pyarrow() -> tuple[Any, Any]:
    """Only who writes Parquet needs it: it is large, and an extra of this distribution."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise SettingsError(
            "Parquet needs the package pyarrow: pip install 'edgetls[export]'"
        ) from None
