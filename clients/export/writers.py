"""Writers of files: CSV (RFC 4180), JSON, Parquet. Each takes rows one by one and keeps at most a
batch of them."""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Protocol, TextIO
from zoneinfo import ZoneInfo

from clients.export.sheets import ExportSheet, Value, as_json, as_text
from shared.errors import SettingsError

BATCH_ROWS: Final = 8192
"""Rows of one Parquet row group."""
_UTC: Final = ZoneInfo("UTC")


class RowWriter(Protocol):
    """Writes rows to a stream in one form."""

    def write(self, values: Sequence[Value]) -> None:
        """Write one row: a value for each column of the sheet."""

    def close(self) -> None:
        """Write the end of the file, after the last row."""

    def abandon(self) -> None:
        """Release the stream after an exception, in place of ``close``."""


class CsvWriter:
    """Writes CSV with a header."""

    def __init__(self, stream: TextIO, sheet: ExportSheet[Any], zone: ZoneInfo) -> None:
        self._rows = csv.writer(stream, lineterminator="\n")
        self._zone = _UTC if sheet.utc else zone
        self._rows.writerow(_read_names(sheet))

    def write(self, values: Sequence[Value]) -> None:
        """Write one row."""
        self._rows.writerow([as_text(value, self._zone) for value in values])

    def close(self) -> None:
        """Do nothing: CSV ends with its last row."""

    def abandon(self) -> None:
        """Do nothing: there is nothing to release."""


class JsonWriter:
    """Writes one array, a row on each line."""

    def __init__(self, stream: TextIO, sheet: ExportSheet[Any], zone: ZoneInfo) -> None:
        self._stream = stream
        self._names = _read_names(sheet)
        # What goes before the next row: the start of the array, then the end of the row before.
        self._separator = "["
        self._zone = _UTC if sheet.utc else zone

    def write(self, values: Sequence[Value]) -> None:
        """Write one row as an object."""
        row = {}
        for name, value in zip(self._names, values, strict=True):
            row[name] = as_json(value, self._zone)
        self._stream.write(self._separator + json.dumps(row, ensure_ascii=False))
        self._separator = ",\n"

    def close(self) -> None:
        """Close the array; without rows it is empty."""
        if self._separator == "[":
            self._stream.write("[")
        self._stream.write("]\n")

    def abandon(self) -> None:
        """Do nothing: there is nothing to release."""


class ParquetWriter:
    """Writes Parquet. Times are instants (UTC, microseconds). Decimals are decimal128(38, 18):
    exact to the ledger's last digit."""

    def __init__(self, stream: BinaryIO, sheet: ExportSheet[Any]) -> None:
        self._arrow, parquet = _import_pyarrow()
        types = {
            "text": self._arrow.string(),
            "integer": self._arrow.int64(),
            "flag": self._arrow.bool_(),
            "time": self._arrow.timestamp("us", tz="UTC"),
            "decimal": self._arrow.decimal128(38, 18),
        }
        fields = [(column.name, types[column.kind]) for column in sheet.columns]
        self._schema = self._arrow.schema(fields)
        self._file = parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._batch: list[Sequence[Value]] = []

    def write(self, values: Sequence[Value]) -> None:
        """Keep one row, and write the batch when it is full."""
        self._batch.append(values)
        if len(self._batch) == BATCH_ROWS:
            self._write_batch()

    def close(self) -> None:
        """Write the last batch and the footer."""
        self._write_batch()
        self._file.close()

    def abandon(self) -> None:
        """Close the file: its finaliser would write to a stream that is closed by then."""
        self._file.close()

    def _write_batch(self) -> None:
        if not self._batch:
            return
        arrays = []
        columns = zip(*self._batch, strict=True)
        for column, field in zip(columns, self._schema, strict=True):
            arrays.append(self._arrow.array(column, field.type))
        self._file.write_batch(self._arrow.record_batch(arrays, schema=self._schema))
        self._batch.clear()


def _read_names(sheet: ExportSheet[Any]) -> list[str]:
    return [column.name for column in sheet.columns]


@contextmanager
def open_writer(
    form: str, output: Path | None, sheet: ExportSheet[Any], zone: ZoneInfo
) -> Iterator[RowWriter]:
    """Open a writer of ``form`` (csv, json, parquet) to a file, or to standard output for None.

    SettingsError when the file cannot be written, or Parquet is not possible."""
    if form == "parquet":
        if output is None and sys.stdout.isatty():
            raise SettingsError("Parquet is not for a terminal: name a file with --output")
        _import_pyarrow()
    if output is None:
        sys.stdout.flush()
        with _close_or_abandon(_make_writer(form, _choose_stdout(form), sheet, zone)) as writer:
            yield writer
        sys.stdout.flush()
        return
    # The rows go to a file beside it, which gets the name when it is complete. After an exception
    # nothing is left of it, and a file of that name from before stays as it was.
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with (
            _open_stream(form, partial) as stream,
            _close_or_abandon(_make_writer(form, stream, sheet, zone)) as writer,
        ):
            yield writer
        partial.replace(output)
    except OSError as error:
        raise SettingsError(f"cannot write {output}: {os.strerror(error.errno or 0)}") from None
    finally:
        partial.unlink(missing_ok=True)


def _choose_stdout(form: str) -> Any:
    return sys.stdout.buffer if form == "parquet" else sys.stdout


def _open_stream(form: str, path: Path) -> IO[Any]:
    if form == "parquet":
        return path.open("wb")
    return path.open("w", encoding="utf-8", newline="")


@contextmanager
def _close_or_abandon(writer: RowWriter) -> Iterator[RowWriter]:
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise
    writer.close()


def _make_writer(form: str, stream: Any, sheet: ExportSheet[Any], zone: ZoneInfo) -> RowWriter:
    if form == "parquet":
        return ParquetWriter(stream, sheet)
    if form == "csv":
        return CsvWriter(stream, sheet, zone)
    return JsonWriter(stream, sheet, zone)


def _import_pyarrow() -> tuple[Any, Any]:
    """Import pyarrow at its first use: it is large, and an extra of this distribution."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise SettingsError(
            "Parquet needs the package pyarrow: pip install 'edgetls[export]'"
        ) from None
