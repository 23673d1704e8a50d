"""Every command against a real platform: what it does, prints and ends with."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path

from clients.fleet.fleet_file import FleetFile
from clients.platform import Platform as Client
from clients.platform.connection import PlatformConnection
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue
from shared.errors import SettingsError
from tests.e2e.conftest import ACCOUNT, NODES
from tests.support.browser import NodeAddress, is_refused, served_leaves, trusting_context
from tests.support.command_line import Edgetls, pair_options
from tests.support.pki import issue_pair
from tests.support.waiting import until

ORIGIN = ("--type", "download", "--origin", "http://127.0.0.1:9")


async def registered(edgetls: Edgetls, domain: str) -> str:
    done = await edgetls("domain", "register", domain, *ORIGIN)
    assert done.code == 0, done.err
    return domain


async def test_a_domain_is_registered_shown_listed_and_removed(edgetls: Edgetls) -> None:
    done = await edgetls("domain", "register", "bücher.example.test", *ORIGIN, "--json")
    assert done.code == 0, done.err
    domain = done.json["domain"]
    assert domain == "xn--bcher-kva.example.test"
    shown, listed = await asyncio.gather(
        edgetls("domain", "show", domain, "--json"), edgetls("domain", "list")
    )
    assert (shown.json["state"], shown.json["account"]) == ("disabled", ACCOUNT)
    assert domain in listed.out and "download" in listed.out
    again = await edgetls(
        "domain", "register", domain, "--type", "video", "--origin", "http://127.0.0.1:10", "--json"
    )
    assert again.code == 1
    assert [one["code"] for one in again.json["refusal"]] == ["domain.taken"]
    assert (await edgetls("domain", "remove", domain)).code == 0
    gone = await edgetls("domain", "show", domain)
    assert gone.code == 1
    assert "domain.unknown" in gone.err and gone.out == ""


async def test_a_service_type_that_has_no_https_is_refused_with_its_code(edgetls: Edgetls) -> None:
    done = await edgetls(
        "domain", "register", "t.example.test", "--type", "email", "--origin", "http://127.0.0.1:9"
    )
    assert done.code == 1
    assert "domain.service_type_unsupported" in done.err


async def test_a_pair_is_submitted_replaced_and_disabled(
    edgetls: Edgetls,
    ca: DevCa,
    tmp_path: Path,
    nodes: list[NodeAddress],
    platform: EmbeddedPlatform,
) -> None:
    domain = await registered(edgetls, "pair.example.test")
    first = issue_pair(ca, domain)
    second = issue_pair(ca, domain)
    trusting = trusting_context(Path(platform.run["trust_roots"]))

    told = await edgetls("submit", domain, *pair_options(tmp_path, first), "--wait")
    assert told.code == 0, told.err
    assert "live everywhere: revision" in told.out and f"on {NODES} nodes" in told.out
    assert await served_leaves(nodes, domain, trusting) == {first.leaf}

    refused = await edgetls(
        "submit",
        domain,
        *pair_options(tmp_path, CertificatePair(first.chain, second.key)),
        "--json",
    )
    assert refused.code == 1
    assert "key.mismatch" in [one["code"] for one in refused.json["refusal"]]
    assert await served_leaves(nodes, domain, trusting) == {first.leaf}

    done = await edgetls("submit", domain, *pair_options(tmp_path, second), "--wait", "--json")
    assert done.json["outcome"] == "applied" and done.json["nodes"] == NODES
    assert 0 < done.json["accepted_ms"] <= done.json["live_ms"]
    assert await served_leaves(nodes, domain, trusting) == {second.leaf}

    off = await edgetls("disable", domain, "--wait", "--json")
    assert off.code == 0, off.err
    assert all([await is_refused(place, domain) for place in nodes])
    history = await edgetls("history", domain, "--json")
    outcomes = [(entry["command"], entry["outcome"]) for entry in history.json["entries"]]
    assert [outcome for _, outcome in outcomes] == [
        "applied",
        "applied",
        "refused",
        "applied",
        "applied",
    ]
    assert second.leaf not in history.out and "BEGIN" not in history.out


async def test_the_dry_run_finds_what_a_submission_would_and_changes_nothing(
    edgetls: Edgetls, ca: DevCa, tmp_path: Path
) -> None:
    domain = await registered(edgetls, "dry.example.test")
    good, other = (
        issue_pair(ca, domain),
        issue_pair(ca, "other.example.test"),
    )
    assert (await edgetls("check", domain, *pair_options(tmp_path, good))).code == 0
    wrong = await edgetls("check", domain, *pair_options(tmp_path, other))
    assert wrong.code == 1
    assert "domain.mismatch" in wrong.err
    assert (await edgetls("domain", "show", domain, "--json")).json["certificates"] == []


async def test_a_der_file_is_told_how_to_become_pem(
    edgetls: Edgetls, ca: DevCa, tmp_path: Path
) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    domain = await registered(edgetls, "der.example.test")
    pair = issue_pair(ca, domain)
    options = pair_options(tmp_path, pair)
    der = x509.load_pem_x509_certificate(pair.chain.encode()).public_bytes(Encoding.DER)
    Path(options[1]).write_bytes(der)
    done = await edgetls("check", domain, *options, "--json")
    assert done.code == 1
    finding = next(one for one in done.json["refusal"] if one["code"] == "certificate.not_pem")
    assert "openssl x509 -inform DER" in finding["hint"]


async def test_a_redirect_needs_https_and_is_set_by_name(
    edgetls: Edgetls, ca: DevCa, tmp_path: Path
) -> None:
    domain = await registered(edgetls, "settings.example.test")
    early = await edgetls("settings", domain, "--redirect", "to_https", "--json")
    assert [one["code"] for one in early.json["refusal"]] == ["https.not_enabled"]
    await edgetls("submit", domain, *pair_options(tmp_path, issue_pair(ca, domain)))
    done = await edgetls("settings", domain, "--redirect", "to_https", "--status", "308")
    assert done.code == 0, done.err
    shown = (await edgetls("domain", "show", domain, "--json")).json
    assert shown["settings"]["redirect"] == {"mode": "to_https", "status": 308}


async def test_money_is_credited_once_a_reference_and_shown(edgetls: Edgetls) -> None:
    for _ in range(2):
        done = await edgetls(
            "balance", "credit", "12.50", "--currency", "USD", "--reference", "pay-1", "--json"
        )
        assert done.code == 0, done.err
    other = await edgetls(
        "balance", "credit", "1", "--currency", "USD", "--reference", "pay-1", "--json"
    )
    assert [one["code"] for one in other.json["refusal"]] == ["balance.reference_used"]
    mixed = await edgetls(
        "balance", "credit", "1", "--currency", "CNY", "--reference", "pay-2", "--json"
    )
    assert [one["code"] for one in mixed.json["refusal"]] == ["balance.currency_differs"]
    limited = await edgetls("balance", "threshold", "20", "--currency", "USD", "--json")
    assert limited.code == 0 and Decimal(limited.json["threshold"]) == 20, limited.err

    async def flagged() -> bool:
        view = (await edgetls("balance", "show", "--json")).json
        return bool(view["low"]) and view["balance"] in ("12.5", "12.50")

    await until(flagged, "the balance of 12.50 is low below 20")
    assert (await edgetls("usage", "--by", "node")).code == 0
    assert (await edgetls("charges", "--json")).json == []
    closed = await edgetls("hour", "close", "--json")
    assert closed.code == 0 and closed.json["lines"] >= 0, closed.err


async def test_a_node_is_labelled_in_the_fleets_view_and_in_the_fleet_file(
    edgetls: Edgetls, platform: EmbeddedPlatform
) -> None:
    async def labels() -> dict[str, str]:
        view = (await edgetls("fleet", "show", "--json")).json
        found: dict[str, str] = next(
            node["labels"] for node in view["nodes"] if node["node"] == "node-2"
        )
        return found

    done = await edgetls(
        "fleet", "label", "node-2", "--label", "region=eu", "--label", "city=paris", "--json"
    )
    assert (done.code, done.json["labels"]) == (0, {"region": "eu", "city": "paris"})
    assert await labels() == {"region": "eu", "city": "paris"}
    assert FleetFile.read(Path(platform.run["fleet_file"])).find_node("node-2").labels == {
        "region": "eu",
        "city": "paris",
    }
    assert (await edgetls("fleet", "label", "node-2")).code == 0
    assert await labels() == {}


async def test_the_fleet_is_shown_and_a_node_is_drained_and_returned(edgetls: Edgetls) -> None:
    async def states() -> dict[str, str]:
        return {
            node["node"]: node["state"]
            for node in (await edgetls("fleet", "show", "--json")).json["nodes"]
        }

    found = await states()
    assert found["node-1"] == found["node-2"] == "live"
    assert (await edgetls("fleet", "drain", "node-2")).code == 0
    assert (await states())["node-2"] == "drained"
    assert (await edgetls("fleet", "return", "node-2")).code == 0
    assert (await states())["node-2"] == "live"
    unknown = await edgetls("fleet", "drain", "nowhere")
    assert unknown.code == 2 and "nowhere is not in the fleet file" in unknown.err


async def test_a_removed_node_loses_its_login_and_every_pair_is_sealed_anew(
    edgetls: Edgetls,
    ca: DevCa,
    tmp_path: Path,
    nodes: list[NodeAddress],
    platform: EmbeddedPlatform,
) -> None:
    domain = await registered(edgetls, "rotate.example.test")
    pair = issue_pair(ca, domain)
    assert (await edgetls("submit", domain, *pair_options(tmp_path, pair), "--wait")).code == 0
    folder = tmp_path / "extra"
    enrolled = await edgetls(
        "fleet", "enrol", "extra", "--folder", str(folder), "--label", "region=eu"
    )
    assert enrolled.code == 0, enrolled.err
    url = platform.run["nats_url"]

    async def may_log_in() -> bool:
        try:
            await (await PlatformConnection.open(url, folder / "nats.nk", "node-extra", 1)).close()
        except SettingsError:
            return False
        return True

    await until(may_log_in, "the enrolled node may log in")
    removed = await edgetls("fleet", "remove", "extra", "--json")
    assert removed.code == 0, removed.err
    told = removed.json
    assert domain in told["rekey"] and told["resealed"] >= 1 and told["unopened"] == []
    assert told["destroyed_epochs"], "the old epoch's key is destroyed"
    await until(lambda: _not(may_log_in), "the removed node may no longer log in")
    view = (await edgetls("fleet", "show", "--json")).json
    assert view["epoch"] == told["epoch"]
    trusting = trusting_context(Path(platform.run["trust_roots"]))
    assert await served_leaves(nodes, domain, trusting) == {pair.leaf}
    after = issue_pair(ca, domain)
    assert (await edgetls("submit", domain, *pair_options(tmp_path, after), "--wait")).code == 0
    assert await served_leaves(nodes, domain, trusting) == {after.leaf}


async def _not(holds: object) -> bool:
    return not await holds()  # type: ignore[operator]


async def test_the_running_topology_is_the_planned_one(edgetls: Edgetls) -> None:
    planned, applied = await asyncio.gather(
        edgetls("topology", "plan", "--json"), edgetls("topology", "apply")
    )
    assert {change["action"] for change in planned.json} == {"same"}, planned.out
    assert applied.code == 0 and "nothing differs" in applied.out


async def test_events_come_in_order_as_lines_of_json(edgetls: Edgetls) -> None:
    domain = await registered(edgetls, "events.example.test")
    done = await edgetls("events", "--since", "1", "--no-follow", "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    sequences = [event["sequence"] for event in events]
    assert sequences == sorted(set(sequences))
    mine = [event for event in events if event["about"] == domain]
    assert catalogue.EVENT_DOMAIN_REGISTERED in [event["type"] for event in mine]
    assert all("BEGIN" not in line for line in done.out.splitlines())


async def test_a_dead_letter_is_listed_shown_replayed_and_dropped(
    edgetls: Edgetls, customer: Client
) -> None:
    await customer.connection.client.jetstream().publish(
        catalogue.CMD_HTTPS_DISABLE,
        b'{"domain": 1}',
        headers={"ce-id": "broken-1", "ce-source": "test"},
    )

    async def letters() -> list[dict[str, object]]:
        found = (await edgetls("dead", "list", "--json")).json
        return [letter for letter in found if letter["subject"] == catalogue.CMD_HTTPS_DISABLE]

    first = (await until(letters, "the malformed command is a dead letter"))[0]
    shown = await edgetls("dead", "show", str(first["sequence"]))
    assert shown.code == 0 and "malformed" in shown.out and '{"domain": 1}' in shown.out
    assert (await edgetls("dead", "replay", str(first["sequence"]))).code == 0

    async def came_back() -> list[dict[str, object]]:
        return [letter for letter in await letters() if letter["sequence"] != first["sequence"]]

    again = (await until(came_back, "the replayed command died again"))[0]
    assert (await edgetls("dead", "drop", str(again["sequence"]))).code == 0
    gone = await edgetls("dead", "show", str(again["sequence"]), "--json")
    assert gone.code == 1
    assert [one["code"] for one in gone.json["refusal"]] == ["dead.unknown"]


async def test_a_login_that_is_refused_is_one_line(
    edgetls: Edgetls, tmp_path: Path, platform: EmbeddedPlatform
) -> None:
    from clients.fleet.keys import ensure_nkey

    ensure_nkey(tmp_path / "stranger.nk")
    done = await edgetls(
        "domain",
        "list",
        "--nats-url",
        platform.run["nats_url"],
        "--seed-file",
        str(tmp_path / "stranger.nk"),
    )
    assert done.code == 2
    assert "refused the login" in done.err and "Traceback" not in done.err


async def test_finance_reads_balances_and_orders_nothing(
    edgetls: Edgetls, platform: EmbeddedPlatform
) -> None:
    as_finance = (
        "--nats-url",
        platform.run["nats_url"],
        "--seed-file",
        platform.run["credentials"]["finance"],
        "--user",
        "finance",
        "--patience",
        "2",
    )
    assert (await edgetls("usage", *as_finance)).code == 0
    assert (await edgetls("domain", "list", *as_finance)).code == 3
