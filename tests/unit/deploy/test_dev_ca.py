"""The development CA issues certificates that a browser would accept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification

from deploy.embedded.dev_ca import DevCa

NOW = datetime.now(UTC)


@pytest.fixture
def ca(tmp_path: Path) -> DevCa:
    return DevCa.ensure(tmp_path / "test-ca", NOW)


def verified(ca: DevCa, chain: str, name: str) -> list[x509.Certificate]:
    leaf, *others = x509.load_pem_x509_certificates(chain.encode())
    store = verification.Store(x509.load_pem_x509_certificates(ca.root_file.read_bytes()))
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name))
    return verifier.verify(leaf, others)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_leaf_verifies_to_the_root_and_belongs_to_its_key(ca: DevCa, kind: str) -> None:
    chain, key = ca.issue(["www.example.test", "*.img.example.test"], key=kind)  # type: ignore[arg-type]
    path = verified(ca, chain, "a.img.example.test")
    assert [one.subject.rfc4514_string() for one in path[1:]] == [
        "CN=edgetls test intermediate",
        "CN=edgetls test root",
    ]
    private = serialization.load_pem_private_key(key.encode(), None)
    assert private.public_key() == path[0].public_key()


def test_a_leaf_may_be_expired_lack_its_intermediate_or_reuse_a_key(ca: DevCa) -> None:
    chain, _ = ca.issue(["a.test"], "ecdsa", NOW - timedelta(days=9), NOW - timedelta(days=1))
    with pytest.raises(verification.VerificationError):
        verified(ca, chain, "a.test")
    alone, key = ca.issue(["a.test"], "ecdsa", with_intermediate=False)
    assert alone.count("BEGIN CERTIFICATE") == 1
    again, same = ca.issue(["a.test"], serialization.load_pem_private_key(key.encode(), None))  # type: ignore[arg-type]
    assert same == key and verified(ca, again, "a.test")


def test_a_second_call_reads_the_same_ca(ca: DevCa) -> None:
    again = DevCa.ensure(ca.folder, NOW + timedelta(days=1))
    assert (again.root, again.intermediate) == (ca.root, ca.intermediate)
    assert verified(DevCa.load(ca.folder), again.issue(["a.test"], "ecdsa")[0], "a.test")
    assert (ca.folder / "intermediate.key").stat().st_mode & 0o777 == 0o600
