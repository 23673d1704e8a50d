"""The certificate library, used from the command line, is seen at the nodes and in a rotation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients.platform.connection import PlatformConnection
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from shared import catalogue
from shared.contracts.queries import Nothing, PageSealed
from tests.support.browser import NodeAddress, served_leaves, trusting_context
from tests.support.command_line import Edgetls, pair_options
from tests.support.pki import issue_pair

ORIGIN = ("--type", "download", "--origin", "http://127.0.0.1:9")


def _fingerprint_as_openssl(view: dict[str, Any]) -> str:
    """Return the fingerprint in capitals, with colons."""
    return bytes.fromhex(view["certificates"][0]["fingerprint"]).hex(":").upper()


async def assert_served(
    trust_roots: Path, nodes: list[NodeAddress], domain: str, pair: CertificatePair
) -> None:
    leaves = await served_leaves(nodes, domain, trusting_context(trust_roots))
    assert leaves == {pair.leaf}


async def test_a_stored_certificate_goes_out_is_replaced_rolled_back_and_deleted(
    edgetls: Edgetls, trust_roots: Path, nodes: list[NodeAddress], ca: DevCa, tmp_path: Path
) -> None:
    domains = ["a.lib.example.test", "b.lib.example.test"]
    for domain in domains:
        assert (await edgetls("domain", "register", domain, *ORIGIN)).code == 0
    first = issue_pair(ca, "*.lib.example.test")
    second = issue_pair(ca, "*.lib.example.test")
    done = await edgetls("cert", "store", "wild", *pair_options(tmp_path, first), "--json")
    assert done.code == 0 and done.json["outcome"] == "applied", done.err
    assert "BEGIN" not in done.out
    tried = await edgetls("cert", "deploy", "wild", *domains, "--dry-run", "--json")
    assert {effect["outcome"] for effect in tried.json["effects"]} == {"applied"}
    assert (await edgetls("domain", "show", domains[0], "--json")).json["state"] == "disabled"
    done = await edgetls("cert", "deploy", "wild", *domains, "--wait", "--json")
    assert done.code == 0 and len(done.json["results"]) == 2, done.err
    for domain in domains:
        await assert_served(trust_roots, nodes, domain, first)
    taken = await edgetls("cert", "store", "wild", *pair_options(tmp_path, second), "--json")
    assert [one["code"] for one in taken.json["refusal"]] == ["certificate.name_taken"]
    done = await edgetls(
        "cert", "store", "wild", *pair_options(tmp_path, second), "--overwrite", "--wait", "--json"
    )
    assert {one["domain"] for one in done.json["followed"]} == set(domains), done.err
    for domain in domains:
        await assert_served(trust_roots, nodes, domain, second)
    assert (await edgetls("rollback", domains[0], "--wait")).code == 0
    await assert_served(trust_roots, nodes, domains[0], first)
    fits = await edgetls("cert", "fits", "wild", "--json")
    assert [view["domain"] for view in fits.json] == domains
    listed = await edgetls(
        "domain",
        "list",
        "--all-accounts",
        "--served-by",
        _fingerprint_as_openssl(fits.json[1]),
        "--json",
    )
    assert [view["domain"] for view in listed.json] == [domains[1]]
    history = await edgetls("account", "history", "--json")
    assert [one["certificate"] for one in history.json["entries"]][:3] == ["wild"] * 3
    last = await edgetls("history", domains[0], "--limit", "1", "--json")
    again = await edgetls("history", domains[0], "--after", str(last.json["next"]), "--json")
    assert last.json["entries"][0]["command"] not in [
        one["command"] for one in again.json["entries"]
    ]
    usage = await edgetls("cert", "usage", "wild", "--json")
    assert [(use["domain"], use["current"]) for use in usage.json] == [
        (domains[0], False),
        (domains[1], True),
    ]
    refused = await edgetls("cert", "delete", "wild", "--json")
    assert refused.code == 1 and all(
        domain in refused.json["refusal"][0]["message"] for domain in domains
    )
    for domain in domains:
        assert (await edgetls("disable", domain)).code == 0
    shown = await edgetls("cert", "show", "wild")
    listed = await edgetls("cert", "list")
    assert "*.lib.example.test" in shown.out and "wild" in listed.out
    assert (await edgetls("cert", "delete", "wild")).code == 0
    assert (await edgetls("cert", "show", "wild")).code == 1


async def test_a_rotation_seals_stored_pairs_anew_too(
    edgetls: Edgetls, platform: EmbeddedPlatform, ca: DevCa, tmp_path: Path
) -> None:
    pair = issue_pair(ca, "*.rotated.example.test")
    assert (await edgetls("cert", "store", "rotated", *pair_options(tmp_path, pair))).code == 0
    done = await edgetls("fleet", "rotate", "--json")
    assert done.code == 0, done.err
    run = platform.run
    reach = await PlatformConnection.open(
        run["nats_url"], Path(run["credentials"]["operator"]), "operator", 10
    )
    try:
        epoch = (await reach.ask(catalogue.RPC_FLEET_SHOW, Nothing())).epoch
        page = await reach.ask(catalogue.RPC_PAIR_SEALED, PageSealed(below=epoch))
    finally:
        await reach.close()
    assert not [one for one in page.pairs if one.certificate == "rotated"]
    assert (await edgetls("domain", "register", "a.rotated.example.test", *ORIGIN)).code == 0
    done = await edgetls("cert", "deploy", "rotated", "a.rotated.example.test", "--wait")
    assert done.code == 0, done.err


async def test_own_roots_make_a_private_chain_good(
    edgetls: Edgetls, nodes: list[NodeAddress], tmp_path: Path
) -> None:
    own = DevCa.ensure(tmp_path / "own-ca", datetime.now(UTC))
    roots = own.root_file
    domain = "private.example.test"
    pair = issue_pair(own, domain)
    assert (await edgetls("domain", "register", domain, *ORIGIN, "--trust", "private")).code == 0
    refused = await edgetls("submit", domain, *pair_options(tmp_path, pair), "--json")
    assert refused.code == 1
    assert (await edgetls("roots", "set", str(roots))).code == 0
    assert len((await edgetls("roots", "list", "--json")).json["roots"]) == 1
    done = await edgetls(
        "submit", domain, *pair_options(tmp_path, pair), "--name", "private-1", "--wait"
    )
    assert done.code == 0, done.err
    assert "private-1 (custom)" in (await edgetls("domain", "show", domain)).out
    await assert_served(roots, nodes, domain, pair)
    assert (await edgetls("roots", "set", "--none")).code == 0


async def test_settings_are_previewed_and_changed_from_the_command_line(
    edgetls: Edgetls, ca: DevCa, tmp_path: Path
) -> None:
    domain = "cli-settings.example.test"
    assert (await edgetls("domain", "register", domain, *ORIGIN)).code == 0
    pair = issue_pair(ca, domain)
    assert (await edgetls("submit", domain, *pair_options(tmp_path, pair))).code == 0
    words = (
        "settings",
        domain,
        "--http2",
        "on",
        "--tls-min",
        "1.3",
        "--hsts",
        "600",
        "--hsts-subdomains",
    )
    tried = await edgetls(*words, "--dry-run")
    assert tried.code == 0 and "settings.http2" in tried.out and "applied" in tried.out
    assert "HTTP/2 off" in (await edgetls("domain", "show", domain)).out
    assert (await edgetls(*words, "--wait")).code == 0
    shown = (await edgetls("domain", "show", domain)).out
    assert "1.3 to 1.3, HTTP/2 on" in shown and "600 s, subdomains" in shown
    assert (await edgetls("settings", domain)).code == 2
    assert (await edgetls("rollback", domain, "--dry-run")).code == 1
    assert domain in (await edgetls("domain", "remove", domain, "--dry-run")).out
    assert (await edgetls("domain", "show", domain)).code == 0
