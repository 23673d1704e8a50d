"""Which platform is meant, and what people name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from clients.cli.files import parse_time, read_text
from clients.cli.profile import Profile
from clients.cli.reports import report_period
from clients.platform.settings_change import parse_origin
from shared.errors import SettingsError, Unreachable

RUN = {
    "nats_url": "nats://127.0.0.1:4222",
    "credentials": {"platform": "/d/platform.nk", "operator": "/d/operator.nk"},
    "submission_key": "/d/submission.pub",
    "fleet_file": "/d/fleet.json",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    return tmp_path


def test_a_data_folder_tells_everything(data: Path) -> None:
    login = Profile(data=data).find_login("operator")
    assert (login.url, login.seed_file, login.user) == (
        RUN["nats_url"],
        Path("/d/operator.nk"),
        "operator",
    )
    assert login.submission_key == Path("/d/submission.pub")
    assert Profile(data=data).find_fleet_file() == Path("/d/fleet.json")


def test_an_address_by_name_wins_over_the_data_folder(data: Path) -> None:
    profile = Profile(data=data, nats_url="nats://far:4222", seed_file=Path("f.nk"), user="finance")
    login = profile.find_login("platform")
    assert (login.url, login.seed_file, login.user, login.submission_key) == (
        "nats://far:4222",
        Path("f.nk"),
        "finance",
        None,
    )
    with pytest.raises(SettingsError, match="--fleet-file"):
        profile.find_fleet_file()


def test_the_cas_of_the_broker_are_passed_on(data: Path) -> None:
    ca = Path("ca.pem")
    assert (
        Profile(nats_url="tls://far:4222", seed_file=Path("f.nk"), nats_ca_file=ca)
        .find_login("platform")
        .ca_file
        == ca
    )
    assert Profile(data=data, nats_ca_file=ca).find_login("platform").ca_file == ca
    assert Profile(data=data).find_login("platform").ca_file is None


def test_a_user_by_name_has_the_seed_of_that_user(data: Path) -> None:
    login = Profile(data=data, user="operator").find_login("platform")
    assert (login.user, login.seed_file) == ("operator", Path("/d/operator.nk"))
    with pytest.raises(SettingsError, match=r"'node-1'.*operator, platform.*--seed-file"):
        Profile(data=data, user="node-1").find_login("platform")
    login = Profile(data=data, user="node-1", seed_file=Path("n.nk")).find_login("platform")
    assert (login.user, login.seed_file) == ("node-1", Path("n.nk"))


def test_a_run_file_that_is_damaged_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="edgetls up"):
        Profile(data=tmp_path).read_run_file()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SettingsError, match="not the JSON"):
        Profile(data=tmp_path).read_run_file()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://origin.example.com", ("http", "origin.example.com", 80)),
        ("https://origin.example.com/", ("https", "origin.example.com", 443)),
        ("https://origin.example.com:8443", ("https", "origin.example.com", 8443)),
        ("http://[2001:db8::1]:8080", ("http", "2001:db8::1", 8080)),
        ("http://[2001:db8::1]", ("http", "2001:db8::1", 80)),
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(text: str, expected: tuple[str, str, int]) -> None:
    origin = parse_origin(text)
    assert (origin.scheme, origin.host, origin.port) == expected


@pytest.mark.parametrize(
    "text",
    [
        "origin.example.com",
        "ftp://a",
        "http://",
        "http://a:0",
        "http://a:99999",
        "http://a:x",
        "http://a/path",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        parse_origin(text)


def test_a_time_without_a_zone_is_utc() -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert parse_time("2026-05-01T12:00:00Z") == parse_time("2026-05-01T14:00:00+02:00") == noon
    assert parse_time("2026-05-01T12:00") == noon
    assert parse_time("2026-05-01T20:00", ZoneInfo("Asia/Shanghai")) == noon
    assert report_period("2026-05-01", "2026-05-02", noon - noon)[1] == datetime(
        2026, 5, 2, tzinfo=UTC
    )
    with pytest.raises(SettingsError, match="not a time"):
        parse_time("noon")


def test_a_file_that_is_not_text_reaches_the_validator_byte_by_byte(tmp_path: Path) -> None:
    der = tmp_path / "cert.der"
    der.write_bytes(b"\x30\x82\x01\xff")
    assert read_text(der, "the certificate").encode("latin-1") == b"\x30\x82\x01\xff"


def test_a_file_that_is_far_too_large_is_not_sent(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 200_000)
    with pytest.raises(SettingsError, match="150000"):
        read_text(big, "the key")
