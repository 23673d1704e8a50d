"""Name constraints (RFC 5280, 4.2.1.10): what a constrained CA may issue, and the findings for
the rest."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from services.validator.checks.judge import JudgementReport
from services.validator.x509.name_constraints import (
    UncheckableName,
    collect_names,
    find_violation,
    read_subtrees,
)
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code
from tests.support.pki import Authority, ec_key
from tests.support.unusual_certificates import (
    EMAIL,
    IA5,
    UTF8,
    alter_certificate,
    encode_constraints,
    encode_general_name,
    encode_pem,
    encode_sequence,
    encode_tlv,
)
from tests.support.unusual_certificates import encode_name as raw_name
from tests.unit.validator.sound_pair import DOMAIN, ROOT, ROOTS, accepted, codes, refusals, report


def directory(**parts: str) -> x509.DirectoryName:
    kinds = {"O": NameOID.ORGANIZATION_NAME, "C": NameOID.COUNTRY_NAME, "CN": NameOID.COMMON_NAME}
    return x509.DirectoryName(
        x509.Name([x509.NameAttribute(kinds[kind], value) for kind, value in parts.items()])
    )


def general_names(*found: str | x509.GeneralName) -> list[x509.GeneralName]:
    """Read names such as ``"example.com"``, ``"ip:10.0.0.1"``, ``"net:10.0.0.0/8"``,
    ``"mail:a@b"`` and ``"uri:https://x/"``."""
    made: list[x509.GeneralName] = []
    for one in found:
        if isinstance(one, x509.GeneralName):
            made.append(one)
            continue
        kind, colon, value = one.partition(":")
        match kind if colon else "":
            case "ip":
                made.append(x509.IPAddress(ipaddress.ip_address(value)))
            case "net":
                made.append(x509.IPAddress(ipaddress.ip_network(value)))
            case "mail":
                made.append(x509.RFC822Name(value))
            case "uri":
                made.append(x509.UniformResourceIdentifier(value))
            case _:
                made.append(x509.DNSName(one))
    return made


CASES: list[tuple[str, list[object], list[object], list[object], str | None]] = [
    ("below what is permitted", ["example.com"], [], [DOMAIN], None),
    ("exactly what is permitted", [DOMAIN], [], [DOMAIN], None),
    ("case makes no difference", ["EXAMPLE.com"], [], ["www.Example.COM"], None),
    ("a leading dot: below", [".example.com"], [], [DOMAIN], None),
    ("a leading dot: not itself", [".example.com"], [], ["example.com"], "not permitted"),
    ("the empty name permits all", [""], [], [DOMAIN], None),
    ("the empty name excludes all", [], [""], [DOMAIN], "excluded"),
    ("elsewhere", ["example.net"], [], [DOMAIN], "not permitted"),
    ("part of a label", ["ample.com"], [], [DOMAIN], "not permitted"),
    (
        "one name of two elsewhere",
        ["example.com"],
        [],
        [DOMAIN, "www.example.net"],
        "www.example.net is not permitted",
    ),
    ("excluded below permitted", ["example.com"], [DOMAIN], [DOMAIN], "excluded"),
    ("excluded elsewhere", [], ["example.net"], [DOMAIN], None),
    ("an underscore", ["example.com"], [], [DOMAIN, "_a.example.com"], None),
    ("a wildcard below what is permitted", ["example.com"], [], ["*.example.com"], None),
    ("a wildcard beside the one host permitted", [DOMAIN], [], ["*.example.com"], "not permitted"),
    ("a wildcard below what is excluded", [], ["example.com"], ["*.example.com"], "excluded"),
    (
        "a wildcard that covers an excluded host",
        [],
        ["bad.example.com"],
        ["*.example.com"],
        "excluded",
    ),
    ("a wildcard beside an excluded zone", [], ["a.bad.example.com"], ["*.example.com"], None),
    ("no constraint of this kind", ["net:10.0.0.0/8", "mail:example.net"], [], [DOMAIN], None),
    ("an address inside", ["net:10.0.0.0/8"], [], [DOMAIN, "ip:10.1.1.1"], None),
    (
        "an address outside",
        ["net:10.0.0.0/8"],
        [],
        [DOMAIN, "ip:11.1.1.1"],
        "11.1.1.1 is not permitted",
    ),
    ("an address of the other family", ["net:10.0.0.0/8"], [], ["ip:::1"], "not permitted"),
    (
        "every address excluded",
        [],
        ["net:0.0.0.0/0", "net:::/0"],
        [DOMAIN, "ip:1.2.3.4"],
        "excluded",
    ),
    (
        "every address excluded and none there",
        ["example.com"],
        ["net:0.0.0.0/0", "net:::/0"],
        [DOMAIN],
        None,
    ),
    ("a directory name held to", [directory(O="Acme")], [], [directory(O="Acme", CN="x")], None),
    (
        "a directory name by case and space",
        [directory(O="ACME  corp")],
        [],
        [directory(O=" Acme Corp", CN="x")],
        None,
    ),
    (
        "another directory name",
        [directory(O="Acme")],
        [],
        [directory(O="Other")],
        "a directory name is not permitted",
    ),
    (
        "an excluded directory name",
        [],
        [directory(O="Acme")],
        [directory(O="Acme", CN="x")],
        "excluded",
    ),
    (
        "the beginning of a name alone",
        [directory(C="CN", O="Acme")],
        [],
        [directory(C="CN")],
        "not permitted",
    ),
    ("a mailbox at the host", ["mail:example.com"], [], ["mail:a@EXAMPLE.com"], None),
    (
        "a mailbox below the host",
        ["mail:example.com"],
        [],
        ["mail:a@b.example.com"],
        "not permitted",
    ),
    ("a mailbox below a dot", ["mail:.example.com"], [], ["mail:a@b.example.com"], None),
    ("that mailbox", ["mail:a@example.com"], [], ["mail:a@example.com"], None),
    (
        "a mailbox that differs by case",
        ["mail:a@example.com"],
        [],
        ["mail:A@example.com"],
        "not permitted",
    ),
    ("an excluded mailbox", [], ["mail:example.com"], ["mail:a@example.com"], "excluded"),
    (
        "a URI at the host",
        ["uri:www.example.com"],
        [],
        ["uri:https://WWW.example.com:8443/x"],
        None,
    ),
    (
        "a URI below the host",
        ["uri:example.com"],
        [],
        ["uri:https://www.example.com/"],
        "not permitted",
    ),
    ("a URI below a dot", ["uri:.example.com"], [], ["uri:https://www.example.com/"], None),
    ("an excluded URI", [], ["uri:.example.com"], ["uri:https://www.example.com/"], "excluded"),
]


@pytest.mark.parametrize(
    ("sentence", "permitted", "excluded", "names", "said"), CASES, ids=lambda v: str(v)[:40]
)
def test_a_name_is_allowed_or_refused_by_its_constraints(
    sentence: str, permitted: list[str], excluded: list[str], names: list[str], said: str | None
) -> None:
    held = x509.NameConstraints(general_names(*permitted) or None, general_names(*excluded) or None)
    found = find_violation(
        read_subtrees(held),
        collect_names(b"\x30\x00", x509.SubjectAlternativeName(general_names(*names))),
    )
    assert said in found if said and found else found is said, (sentence, found)


@pytest.mark.parametrize(
    ("sentence", "constraint", "name"),
    [
        ("a URI with a user", "uri:example.com", "uri:https://example.com@evil.net/"),
        ("a URI with a password", "uri:example.com", "uri:https://example.com:x@evil.net/"),
        ("a URI of an address", "uri:example.com", "uri:https://192.0.2.1/"),
        ("a URI without a host", "uri:example.com", "uri:urn:x"),
        ("a mailbox without a host", "mail:example.com", "mail:nobody"),
        (
            "a name of another kind",
            x509.RegisteredID(NameOID.COMMON_NAME),
            x509.RegisteredID(NameOID.COMMON_NAME),
        ),
        ("a DNS name of 256 characters", "example.com", "a." * 123 + "example.com"),
    ],
)
def test_a_name_that_cannot_be_compared_is_refused(
    sentence: str, constraint: object, name: object
) -> None:
    san = x509.SubjectAlternativeName(general_names(name))  # type: ignore[arg-type]
    names = collect_names(b"\x30\x00", san)
    for permitted, excluded in ((constraint, None), (None, constraint)):
        lists = [
            general_names(one) if one else None  # type: ignore[arg-type]
            for one in (permitted, excluded)
        ]
        with pytest.raises(UncheckableName):
            find_violation(read_subtrees(x509.NameConstraints(*lists)), names)
    assert (
        find_violation(
            read_subtrees(x509.NameConstraints([x509.DirectoryName(x509.Name([]))], None)), names
        )
        is None
    )


def test_the_subjects_mail_addresses_count_and_must_be_ascii() -> None:
    held = x509.NameConstraints([x509.RFC822Name("example.com")], None)
    for address, tag, said in (
        ("a@example.com", IA5, None),
        ("a@example.net", IA5, "a@example.net is not permitted"),
    ):
        assert (
            find_violation(
                read_subtrees(held), collect_names(raw_name((EMAIL, tag, address)), None)
            )
            == said
        )
    with pytest.raises(UncheckableName):
        collect_names(raw_name((EMAIL, UTF8, "a@example.com")), None)


def below(authority: Authority, sans: list[str], **how: str) -> JudgementReport:
    made = authority.issue(sans, **how)  # type: ignore[arg-type]
    return report(made.chain_pem, made.key_pem)


def constrained(
    permitted: list[object], excluded: list[object] | None = None, critical: bool = True
) -> Authority:
    held = x509.NameConstraints(
        general_names(*permitted) or None, general_names(*excluded or []) or None
    )  # type: ignore[arg-type]
    return ROOT.intermediate("Constrained CA", organisation="Acme", extensions=[(held, critical)])


def test_a_technically_constrained_ca_of_the_baseline_requirements_may_issue() -> None:
    ca = constrained(["example.com", directory(O="Acme")], ["net:0.0.0.0/0", "net:::/0"])
    judged = below(ca, [DOMAIN], organisation="Acme")
    assert (accepted(judged), codes(judged)) == (True, [Code.CERTIFICATE_CLIENT_REFUSES])
    assert "Go refuses it" in judged.findings[0].message


@pytest.mark.parametrize("critical", [True, False])
def test_a_breach_names_the_certificate_the_name_and_the_ca(critical: bool) -> None:
    judged = below(constrained(["example.com"], critical=critical), [DOMAIN, "www.example.net"])
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    found = judged.findings[0]
    assert (found.block, found.field) == (0, "certificate")
    assert "www.example.net is not permitted" in found.message
    assert "block 1, CN=Constrained CA" in found.message
    assert "may issue" in found.hint


def test_name_constraints_of_a_root_are_enforced() -> None:
    held = x509.NameConstraints([x509.DNSName("example.net")], None)
    root = Authority.create("Constrained Root", extensions=[(held, True)])
    made = root.issue([DOMAIN])
    judged = report(made.chain_pem, made.key_pem, roots=TrustRoots.from_pem(root.pem))
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    assert "the root CN=Constrained Root" in judged.findings[0].message


def test_name_constraints_apply_to_the_cas_below_but_not_to_self_issued_ones() -> None:
    upper = constrained([directory(O="Acme")])
    assert refusals(
        below(upper.intermediate("Lower", organisation="Other"), [DOMAIN], organisation="Acme")
    ) == [Code.CHAIN_UNTRUSTED]
    key = ec_key()
    renewed = upper.intermediate("Constrained CA", key=key, organisation="Acme")
    assert accepted(below(renewed, [DOMAIN], organisation="Acme"))


def test_a_minimum_or_maximum_is_refused_and_not_ignored() -> None:
    ca = ROOT.intermediate("Constrained CA")
    tree = encode_sequence(encode_general_name(2, "example.com"), encode_tlv(0x81, b"\x05"))
    odd = alter_certificate(ca.certificate, ROOT.key, more=(encode_constraints([tree]),))
    leaf = ca.issue([DOMAIN])
    judged = report(encode_pem(leaf.certificate, odd), leaf.key_pem, roots=ROOTS)
    assert refusals(judged) == [Code.CHAIN_UNTRUSTED]
    assert "minimum or maximum" in judged.findings[0].message


def test_the_signatures_of_a_constrained_chain_are_verified() -> None:
    ca = constrained(["example.com"])
    made = ca.issue([DOMAIN], signer=ec_key())
    assert refusals(report(made.chain_pem, made.key_pem)) == [Code.CHAIN_BAD_SIGNATURE]
