"""Rule D13: policies and roots, judged as clients do (RFC 5280, 6.1)."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.validator.x509 import der
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code
from tests.support.pki import Authority, distinguished, ec_key, sign
from tests.support.pki import der as der_of
from tests.support.unusual_certificates import (
    encode_oid,
    encode_pem,
    encode_sequence,
    encode_tlv,
)
from tests.unit.validator.sound_pair import (
    DOMAIN,
    ISSUING,
    ROOT,
    accepted,
    codes,
    report,
    report_of,
)
from tests.unit.validator.test_client_rules import refusing


def test_a_leaf_that_also_signs_ocsp_responses_is_warned_of() -> None:
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING]
    judged = report_of(ISSUING.issue([DOMAIN], eku=purposes))
    assert (accepted(judged), refusing(judged)) == (True, {"Firefox"})


def policies(*oids: str) -> tuple[x509.ExtensionType, bool]:
    infos = [x509.PolicyInformation(x509.ObjectIdentifier(one), None) for one in oids]
    return x509.CertificatePolicies(infos), False


ONE, TWO, ANY = "1.3.6.1.4.1.99999.1", "1.3.6.1.4.1.99999.2", "2.5.29.32.0"
EXPLICIT = (x509.PolicyConstraints(0, None), True)
LATER = (x509.PolicyConstraints(5, None), True)
NO_MAPPING = (x509.PolicyConstraints(None, 0), True)
NO_ANY = (x509.InhibitAnyPolicy(0), True)


def mapping(issuer: str, subject: str) -> tuple[x509.ExtensionType, bool]:
    value = encode_sequence(encode_sequence(encode_oid(issuer), encode_oid(subject)))
    return x509.UnrecognizedExtension(x509.oid.ExtensionOID.POLICY_MAPPINGS, value), True


@pytest.mark.parametrize(
    ("of_ca", "of_leaf", "is_accepted"),
    [
        ([LATER], [], True),
        ([NO_MAPPING], [], True),
        ([NO_ANY], [], True),
        ([EXPLICIT, policies(ONE)], [policies(ONE)], True),
        ([EXPLICIT, policies(ANY)], [policies(ONE)], True),
        ([EXPLICIT, policies(ONE)], [policies(TWO)], False),
        ([EXPLICIT, policies(ONE)], [], False),
        ([EXPLICIT], [policies(ONE)], False),
        ([EXPLICIT, policies(ONE)], [policies(ANY)], True),
        ([EXPLICIT, policies(ONE), NO_ANY], [policies(ANY)], False),
        ([EXPLICIT, policies(ONE), mapping(ONE, TWO)], [policies(TWO)], True),
        ([EXPLICIT, policies(ONE), mapping(ONE, TWO)], [policies(ONE)], False),
        ([EXPLICIT, policies(ONE), mapping(ANY, TWO)], [policies(TWO)], False),
        ([policies(ONE)], [policies(TWO)], True),
        ([], [EXPLICIT, policies(ONE)], False),
        ([policies(ANY)], [EXPLICIT, policies(ONE)], True),
    ],
)
def test_policies_are_processed_where_a_ca_demands_one(
    of_ca: list[tuple[x509.ExtensionType, bool]],
    of_leaf: list[tuple[x509.ExtensionType, bool]],
    is_accepted: bool,
) -> None:
    ca = ROOT.intermediate("CA", extensions=of_ca)
    judged = report_of(ca.issue([DOMAIN], extensions=of_leaf))
    assert accepted(judged) is is_accepted, judged.findings


def test_policies_of_the_root_bind_nobody() -> None:
    root = Authority.create("Policy Root", extensions=[EXPLICIT])
    leaf = root.intermediate("CA").issue([DOMAIN])
    assert codes(report_of(leaf, roots=TrustRoots.from_pem(root.pem))) == []


# Roots


def test_a_root_of_version_1_is_trusted_where_it_is_a_root() -> None:
    key = ec_key()
    root = sign(
        distinguished("Old Root"),
        key.public_key(),
        None,
        key,
        basic_constraints=False,
        key_usage=None,
        identifiers=False,
    )
    data = der_of(root)
    outer = der.read_sequence(data)
    parts = [der.copy_element(data, part) for part in der.read_children(data, outer[0])]
    signed = encode_sequence(*[part for part in parts if part[0] not in (0xA0, 0xA3)])
    signature = key.sign(signed, ec.ECDSA(root.signature_hash_algorithm))  # type: ignore[arg-type]
    algorithm = der.copy_element(data, outer[1])
    old = encode_sequence(signed, algorithm, encode_tlv(der.BIT_STRING, b"\0" + signature))
    leaf = Authority(root, key).intermediate("CA").issue([DOMAIN])
    judged = report_of(leaf, roots=TrustRoots.from_pem(encode_pem(old)))
    assert (accepted(judged), codes(judged)) == (True, []), judged.findings
    # The same certificate is no CA where it is an intermediate.
    below = report(encode_pem(leaf.certificate, leaf.issuers[0], old), leaf.key_pem)
    assert not accepted(below)


def test_certificates_above_a_trusted_intermediate_are_dropped_with_a_notice() -> None:
    upper = ROOT.intermediate("Upper")
    trusted = upper.intermediate("Trusted")
    leaf = trusted.issue([DOMAIN])
    roots = TrustRoots.from_pem(encode_pem(trusted.certificate))
    for chain in (
        [leaf.certificate, upper.certificate],
        [leaf.certificate, upper.certificate, ROOT.certificate],
        [leaf.certificate, trusted.certificate, upper.certificate, ROOT.certificate],
    ):
        judged = report(encode_pem(*chain), leaf.key_pem, roots=roots)
        assert accepted(judged), judged.findings
        assert set(codes(judged)) == {Code.CHAIN_ROOT_INCLUDED}
