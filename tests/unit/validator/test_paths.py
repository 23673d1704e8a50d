"""Several paths to a root, key identifiers, trust and order. The shortcut for ordered chains is as
strict as the issuer graph."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from services.validator.checks.judge import JudgementReport
from services.validator.x509 import chains, paths
from services.validator.x509.certificates import ParsedCertificate
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Severity
from tests.support.pki import NOW, Authority, Leaf, der, distinguished, ec_key, pem, sign
from tests.unit.validator.sound_pair import (
    DOMAIN,
    ISSUING,
    LEAF,
    ROOT,
    ROOTS,
    accepted,
    codes,
    refusals,
    report,
    report_of,
)

DAY = timedelta(days=1)
KEY = ec_key()
OTHER_ROOT = Authority.create("Second Root CA")
BOTH = TrustRoots.from_pem(ROOT.pem, OTHER_ROOT.pem)


def shared_ca(below: Authority, **how: object) -> Authority:
    """Certify one CA name and key; several roots can do so."""
    certificate = sign(
        distinguished("Shared CA"), KEY.public_key(), below.certificate, below.key, ca=True, **how
    )  # type: ignore[arg-type]
    return Authority(certificate, KEY, (certificate,))


def certified_twice(first: Authority, second: Authority) -> JudgementReport:
    leaf = first.issue([DOMAIN])
    return report(
        pem([leaf.certificate, first.certificate, second.certificate]), leaf.key_pem, roots=BOTH
    )


ODD = {
    "expired": {"not_after": NOW - DAY},
    "not valid yet": {"not_before": NOW + DAY},
    "constrained to other names": {
        "extensions": [(x509.NameConstraints([x509.DNSName("example.net")], None), True)]
    },
    "with an unknown critical extension": {
        "extensions": [
            (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
        ]
    },
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("odd_first", [True, False])
def test_one_sound_path_is_enough(case: str, odd_first: bool) -> None:
    sound, odd = shared_ca(OTHER_ROOT), shared_ca(ROOT, **ODD[case])
    judged = certified_twice(*((odd, sound) if odd_first else (sound, odd)))
    assert accepted(judged), judged.findings
    assert [f.severity for f in judged.findings] == (
        [Severity.WARNING] if case in ("expired", "not valid yet") else []
    )


def test_two_sound_paths_cause_no_finding() -> None:
    assert codes(certified_twice(shared_ca(ROOT), shared_ca(OTHER_ROOT))) == []


def test_of_two_faulty_paths_the_one_with_fewer_faults_is_reported() -> None:
    judged = certified_twice(
        shared_ca(ROOT, not_after=NOW - DAY, key_usage=None, basic_constraints=False),
        shared_ca(OTHER_ROOT, not_after=NOW - DAY),
    )
    assert refusals(judged) == [Code.CHAIN_EXPIRED]


@pytest.mark.parametrize(
    ("at", "fits"), [(NOW - 2 * DAY, True), (NOW, True), (NOW + 2 * DAY, False)]
)
def test_every_link_is_judged_at_the_given_time(at: object, fits: bool) -> None:
    leaf = shared_ca(ROOT, not_before=NOW - 5 * DAY, not_after=NOW + DAY).issue([DOMAIN])
    assert refusals(report_of(leaf, at=at)) == ([] if fits else [Code.CHAIN_EXPIRED])


def test_a_missing_intermediate_is_named_by_its_issuer_and_key_identifier() -> None:
    judged = report(pem(LEAF.certificate))
    wanted = (
        x509.SubjectKeyIdentifier.from_public_key(ISSUING.key.public_key()).digest.hex(":").upper()
    )
    assert f"CN=Test Issuing CA (key identifier {wanted})" in judged.findings[0].message


def test_without_a_key_identifier_only_the_issuers_name_is_reported() -> None:
    leaf = ISSUING.issue([DOMAIN], identifiers=False)
    judged = report(pem(leaf.certificate), leaf.key_pem)
    assert "CN=Test Issuing CA, is neither" in judged.findings[0].message


@pytest.mark.parametrize(
    "identifier",
    [
        x509.AuthorityKeyIdentifier(b"not its issuer's key", None, None),
        x509.AuthorityKeyIdentifier(
            None, [x509.DirectoryName(distinguished("Test Root CA"))], 4711
        ),
    ],
)
def test_an_authority_key_identifier_of_another_key_is_warned_of_as_openssl_refuses_it(
    identifier: x509.AuthorityKeyIdentifier,
) -> None:
    judged = report_of(ISSUING.issue([DOMAIN], identifiers=False, extensions=[(identifier, False)]))
    assert (accepted(judged), codes(judged)) == (True, [Code.CERTIFICATE_CLIENT_REFUSES])
    assert "OpenSSL refuses it" in judged.findings[0].message
    assert "authority key identifier" in judged.findings[0].message


def test_a_second_root_of_the_same_name_does_not_hide_the_sound_one() -> None:
    namesake = Authority.create("Test Root CA")
    assert codes(report(roots=TrustRoots.from_pem(namesake.pem, ROOT.pem))) == []


# Trust: public or private

PUBLIC = TrustRoots(ROOTS.certificates, public=ROOTS.certificates)
TIMESTAMP = b"\x00" + b"l" * 32 + b"\x00" * 8 + b"\x00\x00" + b"\x04\x03" + b"\x00\x02xx"
SCTS = (len(TIMESTAMP) + 2).to_bytes(2, "big") + len(TIMESTAMP).to_bytes(2, "big") + TIMESTAMP


def logged(scts: bytes) -> Leaf:
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
    value = b"\x04" + len(scts).to_bytes(1, "big") + scts
    return ISSUING.issue([DOMAIN], extensions=[(x509.UnrecognizedExtension(oid, value), False)])


def test_a_publicly_trusted_leaf_without_scts_gets_a_warning() -> None:
    judged = report(roots=PUBLIC)
    assert [(f.code, f.severity, f.block) for f in judged.findings] == [
        (Code.CERTIFICATE_NO_SCTS, Severity.WARNING, 0)
    ]
    assert accepted(judged)


def test_a_publicly_trusted_leaf_with_scts_gets_no_warning() -> None:
    assert codes(report_of(logged(SCTS), roots=PUBLIC)) == []


def test_a_privately_trusted_leaf_needs_no_scts() -> None:
    assert codes(report(roots=ROOTS)) == []
    beside = TrustRoots(
        [*ROOTS.certificates, *TrustRoots.from_pem(OTHER_ROOT.pem).certificates],
        public=TrustRoots.from_pem(OTHER_ROOT.pem).certificates,
    )
    assert codes(report(roots=beside)) == []


def test_an_untrusted_leaf_gets_no_warning_about_scts() -> None:
    assert codes(report(roots=TrustRoots([]))) == [Code.CHAIN_UNTRUSTED]


# Order

DEEP = ROOT.intermediate("A").intermediate("B").intermediate("C").intermediate("D").issue([DOMAIN])
CROSS = sign(
    ROOT.certificate.subject, ROOT.key.public_key(), OTHER_ROOT.certificate, OTHER_ROOT.key, ca=True
)


@settings(max_examples=100, deadline=None)
@given(order=st.permutations([*DEEP.chain, CROSS, ROOT.certificate]))
def test_the_stored_chain_does_not_depend_on_the_order_of_the_upload(
    order: list[x509.Certificate],
) -> None:
    judged = report(pem(order), DEEP.key_pem, roots=BOTH)
    assert accepted(judged)
    assert judged.pairs[0].chain == pem([*DEEP.chain, CROSS])
    assert set(codes(judged)) <= {Code.CHAIN_WRONG_ORDER, Code.CHAIN_ROOT_INCLUDED}


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(0, 3),
    days=st.integers(-4000, 4000),
    path_length=st.none() | st.integers(0, 2),
    trusted=st.sampled_from([ROOTS, BOTH, PUBLIC, TrustRoots([])]),
    drop=st.booleans(),
)
def test_the_shortcut_gives_the_same_result_as_the_issuer_graph(
    length: int, days: int, path_length: int | None, trusted: TrustRoots, drop: bool
) -> None:
    authority = ROOT
    for number in range(length):
        authority = authority.intermediate(f"CA {number}", path_length=path_length)
    made = authority.issue([DOMAIN]).chain
    leaf, *others = (
        ParsedCertificate.from_der(der(c), block)
        for block, c in enumerate(made[:-1] if drop and length else made)
    )
    at = NOW + timedelta(days=days)
    assert chains.build_chain(leaf, others, trusted, at) == chains._untangle_chain(
        leaf, others, trusted, at
    )


# Issuers that the path library has accepted before


@settings(max_examples=100, deadline=None)
@given(
    length=st.integers(1, 3),
    days=st.integers(-4000, 4000),
    path_length=st.none() | st.integers(0, 2),
)
def test_remembered_issuers_change_no_result(
    length: int, days: int, path_length: int | None
) -> None:
    authority = ROOT
    for number in range(length):
        authority = authority.intermediate(f"CA {number}", path_length=path_length)
    first, second = authority.issue([DOMAIN]), authority.issue([DOMAIN])
    at = NOW + timedelta(days=days)
    paths._accepted_issuers.clear()
    assert codes(report_of(first)) == codes(report_of(second))
    remembered = [(f.code, f.block) for f in report_of(second, at=at).findings]
    paths._accepted_issuers.clear()
    assert [(f.code, f.block) for f in report_of(second, at=at).findings] == remembered


def test_a_forged_intermediate_is_refused_after_the_sound_one_was_accepted() -> None:
    assert accepted(report())
    forged = sign(
        ISSUING.certificate.subject, ISSUING.key.public_key(), ROOT.certificate, ec_key(), ca=True
    )
    assert refusals(report(pem([LEAF.certificate, forged]))) == [Code.CHAIN_BAD_SIGNATURE]


def test_a_leaf_that_its_remembered_issuer_did_not_sign_is_refused() -> None:
    assert accepted(report())
    leaf = ISSUING.issue([DOMAIN], signer=ec_key())
    assert refusals(report_of(leaf)) == [Code.CHAIN_BAD_SIGNATURE]
