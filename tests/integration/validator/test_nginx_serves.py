"""Every kind of accepted pair loads in a node's real nginx and serves a handshake that a client
verifies."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from clients.edge_node.nginx.entry import KeyType, NginxEntry
from clients.edge_node.nginx.handshake import check_pair_loads
from services.validator.checks.judge import PairTexts, judge_pairs
from services.validator.x509.trust_roots import TrustRoots
from tests.integration.edge_node.conftest import node_layout
from tests.integration.edge_node.nginx_node import NginxNode, https_entry
from tests.integration.validator.test_openssl_agrees import (
    AT,
    DAY,
    LONG,
    OTHER_KEY,
    OTHER_ROOT,
    ROOT,
    ROOT_KEY,
)
from tests.support.browser import OriginServer
from tests.support.pki import Authority, Leaf, ec_key, pem, pkcs1, rsa_key, sec1, sign

DOMAIN = "www.example.com"
ROOTS = TrustRoots.from_pem(ROOT.pem)
ISSUING = ROOT.intermediate("Issuing", **LONG)
RSA_ISSUING = ROOT.intermediate("RSA Issuing", key=rsa_key(4096), **LONG)
DEEP = ISSUING.intermediate("Deep", **LONG).intermediate("Deeper", **LONG)
CROSS = sign(
    ROOT.certificate.subject,
    ROOT_KEY.public_key(),
    OTHER_ROOT.certificate,
    OTHER_KEY,
    ca=True,
    **LONG,
)


def leaf(authority: Authority = ISSUING, *names: str, key: object = None) -> Leaf:
    return authority.issue(
        names or (DOMAIN,), key=key, not_before=AT - DAY, not_after=AT + 60 * DAY
    )


def plain(made: Leaf) -> tuple[str, str]:
    return made.chain_pem, made.key_pem


def reordered() -> tuple[str, str]:
    made = leaf(DEEP)
    return pem(reversed(made.chain)) + ROOT.pem, made.key_pem


def with_cross() -> tuple[str, str]:
    made = leaf()
    return made.chain_pem + pem(CROSS), made.key_pem


def of_windows() -> tuple[str, str]:
    made = leaf(key=rsa_key())
    return "\ufeff" + made.chain_pem.replace("\n", "\r\n"), pkcs1(made.key).replace("\n", "\r\n")


def in_sec1() -> tuple[str, str]:
    made = leaf()
    return made.chain_pem, sec1(made.key, with_parameters=True)


KINDS: dict[str, Callable[[], tuple[str, str]]] = {
    "RSA of 2048 bits": lambda: plain(leaf(key=rsa_key())),
    "RSA of 3072 bits": lambda: plain(leaf(key=rsa_key(3072))),
    "RSA of 4096 bits": lambda: plain(leaf(key=rsa_key(4096))),
    "ECDSA on P-256": lambda: plain(leaf()),
    "ECDSA on P-384": lambda: plain(leaf(key=ec_key(ec.SECP384R1()))),
    "ECDSA on P-521": lambda: plain(leaf(key=ec_key(ec.SECP521R1()))),
    "ECDSA issued with RSA": lambda: plain(leaf(RSA_ISSUING)),
    "RSA issued with RSA": lambda: plain(leaf(RSA_ISSUING, key=rsa_key())),
    "straight from the root": lambda: plain(leaf(ROOT)),
    "four deep": lambda: plain(leaf(DEEP)),
    "in the wrong order with the root": reordered,
    "with a cross-signed root": with_cross,
    "a wildcard": lambda: plain(leaf(ISSUING, "*.example.com")),
    "a thousand names": lambda: plain(
        leaf(ISSUING, DOMAIN, *(f"h{n}.example.net" for n in range(999)))
    ),
    "CRLF, a BOM and PKCS#1": of_windows,
    "SEC 1 with EC PARAMETERS": in_sec1,
}


def accepted(certificate: str, key: str) -> tuple[str, str, KeyType]:
    """Judge a pair, and return what is stored, in the form of a node's pair."""
    judged = judge_pairs([PairTexts(certificate, key)], [DOMAIN], at=AT, roots=ROOTS)
    assert judged.pairs, judged.findings
    (pair,) = judged.pairs
    return pair.chain, pair.key, "rsa" if pair.key_type == "rsa" else "ecdsa"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NginxNode]:
    async with OriginServer() as origin:
        running = NginxNode(node_layout(tmp_path / "node"), origin)
        await running.start()
        yield running
        await running.stop()


async def served(node: NginxNode, **limits: object) -> str:
    """Return the SHA-256 (hex) of the leaf that a client gets which verifies path and name."""
    client = ssl.create_default_context(cadata=ROOT.pem)
    for name, value in limits.items():
        setattr(client, name, value) if name != "ciphers" else client.set_ciphers(str(value))
    _, writer = await asyncio.open_connection(
        "127.0.0.1", node.layout.https_port, ssl=client, server_hostname=DOMAIN
    )
    try:
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return hashlib.sha256(found).hexdigest()


def fingerprint(chain: str) -> str:
    return x509.load_pem_x509_certificate(chain.encode()).fingerprint(hashes.SHA256()).hex()


async def test_every_kind_of_accepted_pair_is_served_and_verified(node: NginxNode) -> None:
    for revision, (kind, make) in enumerate(KINDS.items(), start=1):
        pair = accepted(*make())
        check_pair_loads(pair[0], pair[1])
        name = "*.example.com" if kind == "a wildcard" else DOMAIN
        await node.put_entries(https_entry(name, pair, revision=revision))
        if name != DOMAIN:
            await node.data_plane.remove_many([DOMAIN])
        assert await served(node) == fingerprint(pair[0]), kind


async def test_of_two_accepted_pairs_each_client_gets_the_one_it_can_verify(
    node: NginxNode,
) -> None:
    rsa, ecdsa = leaf(key=rsa_key()), leaf()
    judged = judge_pairs(
        [PairTexts(*plain(rsa)), PairTexts(*plain(ecdsa))], [DOMAIN], at=AT, roots=ROOTS
    )
    pairs = [(p.chain, p.key, "rsa" if p.key_type == "rsa" else "ecdsa") for p in judged.pairs]
    await node.put_entries(NginxEntry(DOMAIN, 1, "https", tuple(pairs)))  # type: ignore[arg-type]
    until_1_2 = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    assert await served(node, ciphers="aRSA", **until_1_2) == rsa.fingerprint
    assert await served(node, ciphers="aECDSA", **until_1_2) == ecdsa.fingerprint
    assert await served(node) in (rsa.fingerprint, ecdsa.fingerprint)
