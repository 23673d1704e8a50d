"""RSA and ECDSA side by side: submitted together, and each visitor gets what its software
supports."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clients.platform import Platform as Client
from deploy.demo.visitors.handshakes import Endpoint
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.platform import EmbeddedPlatform
from tests.e2e.conftest import ACCOUNT, Edgetls
from tests.e2e.test_cli import files, registered, written
from tests.support.pki import Authority

__all__ = ["files"]


async def served(place: Endpoint, domain: str, roots: Path, ciphers: str) -> str:
    """The leaf that a client of TLS 1.2 with these ciphers gets and verifies: SHA-256, hex."""
    client = ssl.create_default_context(cafile=str(roots))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(ciphers)
    _, writer = await asyncio.open_connection(
        place.host, place.port, ssl=client, server_hostname=domain
    )
    try:
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return hashlib.sha256(found).hexdigest()


@pytest.mark.parametrize("order", [("rsa", "ecdsa"), ("ecdsa", "rsa")])
async def test_each_visitor_gets_the_pair_that_it_supports_from_every_node(
    edgetls: Edgetls,
    ca: DevCa,
    files: Path,
    nodes: list[Endpoint],
    platform: EmbeddedPlatform,
    order: tuple[str, str],
) -> None:
    domain = await registered(edgetls, f"{order[0]}-first.example.test")
    pairs = {kind: CertificatePair(*ca.issue([domain], kind)) for kind in order}  # type: ignore[arg-type]
    both = [option for kind in order for option in written(files, pairs[kind])]
    assert (await edgetls("check", domain, *both)).code == 0
    done = await edgetls("submit", domain, *both, "--wait", "--json")
    assert done.code == 0, done.err
    roots = Path(platform.run["trust_roots"])
    for place in nodes:
        assert await served(place, domain, roots, "aRSA") == pairs["rsa"].leaf
        assert await served(place, domain, roots, "aECDSA") == pairs["ecdsa"].leaf
    shown = (await edgetls("domain", "show", domain, "--json")).json
    assert [one["key_type"] for one in shown["certificates"]] == list(order)
    again = await edgetls("submit", domain, *both, "--json")
    assert again.json["outcome"] == "unchanged"
    one = await edgetls("submit", domain, *written(files, pairs["ecdsa"]), "--wait")
    assert one.code == 0, one.err
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await served(nodes[0], domain, roots, "aRSA")


async def test_two_pairs_of_one_kind_or_a_key_too_few_are_refused(
    edgetls: Edgetls, ca: DevCa, files: Path
) -> None:
    domain = await registered(edgetls, "same-kind.example.test")
    two = [
        option
        for _ in range(2)
        for option in written(files, CertificatePair(*ca.issue([domain], "ecdsa")))
    ]
    done = await edgetls("submit", domain, *two, "--json")
    assert "pair.same_kind" in [one["code"] for one in done.json["refusal"]]
    short = await edgetls("submit", domain, *two[:4], *two[4:6])
    assert short.code != 0
    assert "--cert with one --key" in short.err


async def test_the_dry_run_judges_by_the_accounts_own_roots_when_it_is_told_to(
    edgetls: Edgetls, customer: Client, files: Path
) -> None:
    own = Authority.create("Own Root")
    now = datetime.now(UTC)
    leaf = own.issue(
        ["own.example.test"], not_before=now - timedelta(days=1), not_after=now + timedelta(days=60)
    )
    options = written(files, CertificatePair(leaf.chain_pem, leaf.key_pem))
    public = await edgetls("check", "own.example.test", *options, "--json")
    assert [one["code"] for one in public.json["refusal"]] == ["chain.incomplete"]
    ordered = await customer.set_roots(ACCOUNT, own.pem)
    await customer.settled(ordered.command_id)
    private = await edgetls("check", "own.example.test", *options, "--trust", "private")
    assert private.code == 0, private.err
