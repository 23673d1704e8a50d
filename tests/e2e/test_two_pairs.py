"""RSA and ECDSA pairs stand side by side: they are submitted together, and each visitor gets what
its software supports."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from clients.platform import Platform as Client
from deploy.embedded.dev_ca import CertificatePair, DevCa
from tests.e2e.conftest import ACCOUNT
from tests.support.browser import REFUSALS, NodeAddress, served_leaf, trusting_context
from tests.support.command_line import Edgetls, pair_options
from tests.support.customer import applied, registered
from tests.support.pki import Authority, issue_pair


async def leaf_for_ciphers(
    address: NodeAddress, domain: str, trust_roots: Path, ciphers: str
) -> str:
    """Return the leaf that a client of TLS 1.2 with these ciphers gets and verifies."""
    context = trusting_context(trust_roots)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    return await served_leaf(address, domain, context)


@pytest.mark.parametrize("order", [("rsa", "ecdsa"), ("ecdsa", "rsa")])
async def test_each_visitor_gets_the_pair_that_it_supports_from_every_node(
    edgetls: Edgetls,
    customer: Client,
    ca: DevCa,
    tmp_path: Path,
    nodes: list[NodeAddress],
    trust_roots: Path,
    order: tuple[Literal["rsa", "ecdsa"], ...],
) -> None:
    domain = f"{order[0]}-first.example.test"
    await registered(customer, domain, ACCOUNT)
    pairs = {kind: issue_pair(ca, domain, key=kind) for kind in order}
    both = []
    for kind in order:
        both += pair_options(tmp_path, pairs[kind])
    assert (await edgetls("check", domain, *both)).code == 0
    done = await edgetls("submit", domain, *both, "--wait", "--json")
    assert done.code == 0, done.err
    for node in nodes:
        rsa_leaf = await leaf_for_ciphers(node, domain, trust_roots, "aRSA")
        ecdsa_leaf = await leaf_for_ciphers(node, domain, trust_roots, "aECDSA")
        assert rsa_leaf == pairs["rsa"].leaf
        assert ecdsa_leaf == pairs["ecdsa"].leaf
    shown = (await edgetls("domain", "show", domain, "--json")).json
    assert [one["key_type"] for one in shown["certificates"]] == list(order)
    again = await edgetls("submit", domain, *both, "--json")
    assert again.json["outcome"] == "unchanged"
    one = await edgetls("submit", domain, *pair_options(tmp_path, pairs["ecdsa"]), "--wait")
    assert one.code == 0, one.err
    with pytest.raises(REFUSALS):
        await leaf_for_ciphers(nodes[0], domain, trust_roots, "aRSA")


async def test_two_pairs_of_one_kind_or_a_key_too_few_are_refused(
    edgetls: Edgetls, customer: Client, ca: DevCa, tmp_path: Path
) -> None:
    domain = "same-kind.example.test"
    await registered(customer, domain, ACCOUNT)
    two = []
    for _ in range(2):
        two += pair_options(tmp_path, issue_pair(ca, domain))
    done = await edgetls("submit", domain, *two, "--json")
    assert "pair.same_kind" in [one["code"] for one in done.json["refusal"]]
    short = await edgetls("submit", domain, *two[:4], *two[4:6])
    assert short.code != 0
    assert "--cert with one --key" in short.err


async def test_the_dry_run_judges_by_the_accounts_own_roots_when_it_is_told_to(
    edgetls: Edgetls, customer: Client, tmp_path: Path
) -> None:
    own = Authority.create("Own Root")
    now = datetime.now(UTC)
    leaf = own.issue(
        ["own.example.test"], not_before=now - timedelta(days=1), not_after=now + timedelta(days=60)
    )
    options = pair_options(tmp_path, CertificatePair(leaf.chain_pem, leaf.key_pem))
    public = await edgetls("check", "own.example.test", *options, "--json")
    assert [one["code"] for one in public.json["refusal"]] == ["chain.incomplete"]
    await applied(customer, await customer.set_roots(ACCOUNT, own.pem))
    private = await edgetls("check", "own.example.test", *options, "--trust", "private")
    assert private.code == 0, private.err
