"""What the commands refuse before they reach anything, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from click import Command, Group
from typer.testing import CliRunner

from clients.cli import completeness
from clients.cli.command import run_action
from clients.cli.main import command_line
from clients.cli.output import ExitCode, Output
from shared.contracts.findings import Code, finding
from shared.errors import BrokerAway, Refused, SettingsError, Unreachable

APP = command_line()
runner = CliRunner()
SEED = "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"


def commands() -> Iterator[tuple[str, Command]]:
    def walk(name: str, one: Command) -> Iterator[tuple[str, Command]]:
        if isinstance(one, Group) or hasattr(one, "commands"):
            for word, below in one.commands.items():  # type: ignore[attr-defined]
                yield from walk(f"{name} {word}".strip(), below)
        else:
            yield name, one

    yield from walk("", typer.main.get_command(APP))


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=[name for name, _ in commands()]
)
def test_every_command_explains_itself_with_an_example(name: str, command: Command) -> None:
    shown = runner.invoke(APP, [*name.split(), "--help"])
    assert shown.exit_code == ExitCode.DONE
    assert f"$ edgetls {name}" in (command.epilog or ""), "its help has an example"
    assert "--json" in [option for one in command.params for option in one.opts], (
        "it can print JSON"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["domain", "show"],
        ["submit", "www.example.com", "--cert", "c.pem"],
        ["nothing"],
        ["usage", "--by", "moon"],
        ["settings", "www.example.com", "--redirect", "sideways"],
        ["settings", "www.example.com"],
        ["dead", "show", "0"],
        ["up", "--port", "70000"],
        ["usage", "--from", "yesterday"],
        ["fleet", "enrol", "n1", "--nkey", "U"],
        ["settings", "www.example.com", "--hsts", "off", "--hsts-subdomains"],
        ["settings", "www.example.com", "--hsts", "often"],
        ["domain", "list", "--patience", "-1"],
        ["domain", "list", "--patience", "nan"],
        ["events", "--type", "foo bar"],
        ["events", "--type", "https.cmd.>"],
        ["roots", "set"],
        ["up", "--data", "/dev/null"],
        ["domain", "list", "--nats-url", "nats://127.0.0.1:99999999", "--seed-file", "s.nk"],
        ["domain", "list", "--nats-url", "ftp://127.0.0.1", "--seed-file", "s.nk"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_ends_with_two(words: list[str], tmp_path: Path) -> None:
    result = runner.invoke(APP, words, env={"EDGETLS_DATA": str(tmp_path)})
    assert result.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("held", ['{"x": 1}', "[]", "null", "no JSON", '{"credentials": []}'])
def test_a_run_file_of_something_else_is_one_line(held: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(held)
    result = runner.invoke(APP, ["domain", "list", "--data", str(tmp_path)])
    assert (result.exit_code, len(result.stderr.splitlines())) == (ExitCode.USAGE, 1)


@pytest.mark.parametrize("option", ["--seed-file", "--submission-key-file"])
def test_a_key_file_of_something_else_is_one_line(option: str, tmp_path: Path) -> None:
    seed, other = tmp_path / "seed", tmp_path / "other"
    seed.write_text(SEED)
    other.write_bytes(bytes(range(256)))
    words = [
        "domain",
        "list",
        "--nats-url",
        "nats://127.0.0.1:1",
        "--seed-file",
        str(seed),
        "--patience",
        "0.3",
    ]
    result = runner.invoke(APP, [*words, option, str(other)])
    if option == "--seed-file":
        assert (result.exit_code, len(result.stderr.splitlines())) == (ExitCode.USAGE, 1)
    assert (
        result.exit_code in (ExitCode.USAGE, ExitCode.UNREACHABLE)
        and "Traceback" not in result.stderr
    )


def test_a_blank_file_does_not_clear_the_roots(tmp_path: Path) -> None:
    blank = tmp_path / "roots.pem"
    blank.write_text(" \n")
    result = runner.invoke(APP, ["roots", "set", str(blank)], env={"EDGETLS_DATA": str(tmp_path)})
    assert result.exit_code == ExitCode.USAGE and "--none" in result.stderr


def test_the_command_line_does_without_the_embedded_platform() -> None:
    """Its wheels are an extra."""
    code = (
        "import sys, clients.cli.main; print(*(name for name in sys.modules if "
        "name.split('.')[0] == 'deploy'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []


def test_without_a_platform_it_ends_with_three_and_says_where_it_looked(tmp_path: Path) -> None:
    result = runner.invoke(APP, ["domain", "list", "--data", str(tmp_path)])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert str(tmp_path / "run.json") in result.stderr
    assert result.stdout == ""


def test_a_broker_that_is_away_ends_with_three_and_says_what_was_tried(tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.write_text(SEED)
    words = [
        "balance",
        "show",
        "--nats-url",
        "nats://127.0.0.1:1",
        "--seed-file",
        str(seed),
        "--patience",
        "0.3",
    ]
    result = runner.invoke(APP, [*words, "--json"])
    assert result.exit_code == ExitCode.UNREACHABLE
    told = json.loads(result.stdout)
    assert told["exit"] == ExitCode.UNREACHABLE
    assert "nats://127.0.0.1:1" in told["error"] and "times in 0.3 s" in told["error"]


def test_a_broker_by_name_needs_a_seed_file() -> None:
    result = runner.invoke(APP, ["domain", "list", "--nats-url", "nats://127.0.0.1:1"])
    assert result.exit_code == ExitCode.USAGE
    assert "--seed-file" in result.stderr


def test_a_key_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.write_text("x")
    words = ["submit", "www.example.com", "--cert", str(cert), "--key", str(tmp_path / "none.pem")]
    result = runner.invoke(APP, [*words, "--data", str(tmp_path)])
    assert result.exit_code == ExitCode.USAGE
    assert "none.pem" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused([finding(Code.KEY_MISMATCH)]), ExitCode.REFUSED),
        (SettingsError("x"), ExitCode.USAGE),
        (Unreachable("x"), ExitCode.UNREACHABLE),
        (BrokerAway("x"), ExitCode.UNREACHABLE),
        (ValueError("x"), ExitCode.USAGE),
        (NotADirectoryError(20, "Not a directory", "/x"), ExitCode.USAGE),
        (KeyError("a bug\nof ours"), ExitCode.UNREACHABLE),
        (None, ExitCode.DONE),
    ],
    ids=[
        "refused",
        "a setting",
        "unreachable",
        "the broker is away",
        "a bad value",
        "a file",
        "what nobody expected",
        "done",
    ],
)
def test_how_it_ended_is_the_exit_code(
    error: Exception | None, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    async def action() -> None:
        if error is not None:
            raise error

    assert run_action(action(), Output(as_json=True)) == code
    printed = capsys.readouterr()
    assert (json.loads(printed.out) if printed.out else None) is not None or error is None
    assert len(printed.err.splitlines()) <= 1


@pytest.mark.parametrize(
    "error", [Refused([finding(Code.KEY_MISMATCH)]), Unreachable("x"), SettingsError("x")]
)
def test_a_result_that_was_told_is_the_only_value(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Output(as_json=True)

    async def action() -> None:
        out.data({"done": "in part"})
        raise error

    assert run_action(action(), out) != ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == {"done": "in part"}


def test_a_refusal_is_a_table_of_code_severity_place_message_and_hint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def action() -> None:
        raise Refused(
            [finding(Code.CHAIN_UNRELATED, "Block 2 is foreign.", field="certificate", block=2)]
        )

    assert run_action(action(), Output(as_json=False)) == ExitCode.REFUSED
    shown = capsys.readouterr()
    for cell in (
        "chain.unrelated",
        "refusal",
        "certificate, block 2",
        "Block 2 is foreign.",
        "Remove it.",
    ):
        assert cell in shown.err
    assert shown.out == ""


def test_json_alone_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.line("for people")
    out.note("meanwhile")
    out.show_table(["b"], {"a": str})
    out.data({"finding": finding(Code.KEY_WEAK), "some": [1, None]})
    shown = capsys.readouterr()
    assert json.loads(shown.out)["finding"]["code"] == "key.weak"
    assert shown.err == "meanwhile\n"


def test_text_from_elsewhere_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).show_table(["\x1b]0;evil\x07[red]name"], {"subject": str})
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert "[red]name" in shown


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, ("2026-05-01T11:00", "2026-05-02T11:00")),
        ("2026-05-01", None, ("2026-05-01T00:00", "2026-05-02T11:00")),
        ("2026-05-01", "2026-05-02", ("2026-05-01T00:00", "2026-05-02T00:00")),
        ("2026-05-01", "2030-01-01", ("2026-05-01T00:00", "2026-05-02T12:00")),
        ("2026-05-02", "2026-05-01", None),
        ("2026-05-01", "2026-05-01", None),
        ("2030-01-01", "2031-01-01", None),
        ("2026-05-02T11:00Z", None, None),
    ],
)
def test_an_audit_of_nothing_is_refused_and_what_is_to_come_is_cut_off(
    start: str | None, end: str | None, expected: tuple[str, str] | None
) -> None:
    hour = datetime(2026, 5, 2, 11, tzinfo=UTC)
    if expected is None:
        with pytest.raises(SettingsError, match="nothing to audit"):
            completeness.audit_period(start, end, hour)
    else:
        assert (
            tuple(f"{at:%Y-%m-%dT%H:%M}" for at in completeness.audit_period(start, end, hour))
            == expected
        )


def test_an_hour_that_is_to_come_is_not_closed() -> None:
    done = runner.invoke(APP, ["hour", "close", "--until", "2090-01-01T00:00:00Z"])
    assert done.exit_code == ExitCode.USAGE
