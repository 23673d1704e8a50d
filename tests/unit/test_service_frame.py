"""How a service ends that cannot go on: one line, without what a driver or a message said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import pytest
from asyncpg.exceptions import _base

from shared import runtime
from shared.errors import BrokerAway
from shared.faults import describe, is_transient
from shared.settings import ServiceSettings

SECRET = "9223372036854775808"


@pytest.mark.parametrize(
    "fault",
    [
        _base.DataError(
            f"invalid input for query argument $3: {SECRET} (value out of int64 range)"
        ),
        ExceptionGroup("tasks", [ExceptionGroup("inner", [ValueError(SECRET)])]),
        asyncpg.UniqueViolationError(f"Key (id)=({SECRET}) already exists."),
    ],
)
def test_an_unforeseen_fault_is_one_line_that_quotes_nothing(
    fault: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    for name in ("NATS_SEED_FILE", "OPERATOR_KEY_FILE", "TRUST_FILE"):
        monkeypatch.setenv(f"EDGETLS_{name}", str(tmp_path))
    monkeypatch.setenv("EDGETLS_NATS_URL", "nats://127.0.0.1:1")

    async def serve(*_: Any) -> NoReturn:
        raise fault

    async def build(_: Any) -> Sequence[Any]:
        return ()

    monkeypatch.setattr(runtime, "_serve_until_stopped", serve)
    with pytest.raises(SystemExit) as end:
        runtime.run("edge_sync", ServiceSettings, build)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("edgetls edge_sync: unexpected ")
    assert SECRET not in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (asyncpg.InvalidPasswordError("x"), True),
        (asyncpg.InvalidAuthorizationSpecificationError("x"), True),
        (asyncpg.InvalidCatalogNameError("x"), True),
        (asyncpg.InsufficientPrivilegeError("x"), True),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.ConnectionDoesNotExistError("x"), True),
        (BrokerAway("x"), True),
        (_base.DataError("invalid input"), False),
        (asyncpg.DataError("invalid input"), False),
        (asyncpg.UniqueViolationError("x"), False),
        (asyncpg.UndefinedTableError("x"), False),
        (RuntimeError("x"), False),
    ],
)
def test_what_passes_is_never_the_fault_of_a_message(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient
    if isinstance(error, asyncpg.InterfaceError) and not transient:
        assert describe(error) == "DataError"
