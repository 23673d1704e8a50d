"""OpenSSL accepts every pair that the validator accepts, over random public key infrastructures.

The check is a handshake with path and name checks. Where the validator refuses what OpenSSL
accepts, each reason is on the list ``STRICTER``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.validator.checks.judge import JudgementReport, PairTexts, judge_pairs
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Severity
from tests.support.openssl_handshake import openssl_refusal
from tests.support.pki import Authority, Leaf, der, distinguished, ec_key, key_usage, pem, sign
from tests.support.unusual_certificates import (
    BMP,
    EMAIL,
    IA5,
    PRINTABLE,
    UTF8,
    alter_certificate,
    compressed_point_spki,
    encode_general_name,
    encode_integer,
    encode_name,
    encode_oid,
    encode_pem,
    encode_sequence,
    encode_tlv,
    explicit_curve_spki,
)
from tests.support.unusual_certificates import encode_constraints as constraints_of

AT = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
DOMAIN = "www.example.com"
ROOT_KEY, OTHER_KEY = ec_key(), ec_key()
LONG = {"not_before": AT - 1000 * DAY, "not_after": AT + 1000 * DAY}
ROOT = Authority.create("Root", key=ROOT_KEY, **LONG)
OTHER_ROOT = Authority.create("Other Root", key=OTHER_KEY, **LONG)
UNKNOWN = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
NS_CERT_TYPE = x509.ObjectIdentifier("2.16.840.1.113730.1.1")
PROXY = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")


def names(*found: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in found]


def constraints(
    permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None = None
) -> Any:
    return (x509.NameConstraints(permitted, excluded), True)


def odd_extension(oid: x509.ObjectIdentifier, value: bytes, critical: bool = False) -> Any:
    return (x509.UnrecognizedExtension(oid, value), critical)


def aia(critical: bool) -> Any:
    where = x509.UniformResourceIdentifier("http://ca.example.com/ca.cer")
    issuers = x509.oid.AuthorityInformationAccessOID.CA_ISSUERS
    return (x509.AuthorityInformationAccess([x509.AccessDescription(issuers, where)]), critical)


def policies(critical: bool) -> Any:
    validated = x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)
    return (x509.CertificatePolicies([validated]), critical)


def crls(critical: bool) -> Any:
    where = x509.UniformResourceIdentifier("http://ca.example.com/ca.crl")
    return (
        x509.CRLDistributionPoints([x509.DistributionPoint([where], None, None, None)]),
        critical,
    )


ODD_KEY_ID = (x509.AuthorityKeyIdentifier(b"another key's id....", None, None), False)
ODD_SERIAL = (
    x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(distinguished("Somebody"))], 4711),
    False,
)


def organisation(name: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)]))


def networks(*found: str) -> list[x509.GeneralName]:
    return [x509.IPAddress(ipaddress.ip_network(network)) for network in found]


ACME = organisation("Acme")
SHAPES = [
    constraints(
        [*names("example.com"), ACME], networks("0.0.0.0/0", "::/0")
    ),  # the Baseline Requirements' own
    constraints([ACME]),
    constraints(None, [ACME]),
    constraints([organisation("ACME ")]),
    constraints([organisation("Other")]),
    constraints(names("")),
    constraints(None, names("")),
    constraints(names("example.com", "example.org"), names("other.example.com")),
    constraints(None, names("bad.example.com")),
    constraints(None, names("b.bad.example.com")),
    constraints(None, names(".example.com")),
    constraints(names("EXAMPLE.com")),
    constraints([*names("example.com"), *networks("192.0.2.0/24")]),
    constraints(networks("192.0.2.0/24")),
    constraints([x509.UniformResourceIdentifier("www.example.com")]),
    constraints([x509.RFC822Name("a@example.com")]),
    constraints([x509.UniformResourceIdentifier(".example.com")]),
    constraints([x509.RFC822Name(".example.com")]),
    constraints(None, [x509.UniformResourceIdentifier("www.example.com")]),
    constraints(None, [x509.RFC822Name("example.com")]),
    constraints(None, networks("192.0.2.0/24")),
    (constraints(names("example.net"))[0], False),
    (constraints([*names("example.com"), ACME])[0], False),
]
CRITICAL_AKI = (x509.AuthorityKeyIdentifier(None, None, None), True)
CRITICAL_SKI = (x509.SubjectKeyIdentifier(b"a key's identifier.."), True)

CA_HOW: list[dict[str, Any]] = [
    {"path_length": 0},
    {"path_length": 1},
    {"basic_constraints": False},
    {"not_after": AT - DAY},
    {"not_before": AT + DAY},
    {"key_usage": None},
    {"key_usage": key_usage("crl_sign")},
    {"key_usage": key_usage("digital_signature", "key_cert_sign")},
    *(
        {"extensions": [e]}
        for e in (
            (x509.ExtendedKeyUsage([Eku.SERVER_AUTH]), False),
            (x509.ExtendedKeyUsage([Eku.CLIENT_AUTH]), False),
            (x509.ExtendedKeyUsage([Eku.ANY_EXTENDED_KEY_USAGE]), False),
            constraints(names("example.com")),
            constraints(names("www.example.com")),
            constraints(names(".example.com")),
            constraints(names("example.net")),
            constraints(None, names("example.com")),
            constraints(None, names("a.www.example.com")),
            constraints([x509.DirectoryName(distinguished("x", "Example"))]),
            constraints([x509.RFC822Name("example.com")]),
            constraints([x509.UniformResourceIdentifier(".example.net")]),
            *SHAPES,
            odd_extension(UNKNOWN, b"\x05\x00", True),
            odd_extension(UNKNOWN, b"\x05\x00"),
            (x509.PolicyConstraints(0, None), True),
            (x509.InhibitAnyPolicy(0), True),
            (x509.SubjectAlternativeName(names("ca.example.net")), False),
            aia(True),
            policies(True),
            crls(True),
        )
    ),
    {"identifiers": False},
    {"identifiers": False, "extensions": [ODD_KEY_ID]},
    {"identifiers": False, "extensions": [ODD_SERIAL]},
    {"identifiers": False, "extensions": [CRITICAL_AKI]},
    {"identifiers": False, "extensions": [CRITICAL_SKI]},
]
LEAF_HOW: list[dict[str, Any]] = [
    {"eku": None},
    {"eku": [Eku.CLIENT_AUTH]},
    {"eku": [Eku.ANY_EXTENDED_KEY_USAGE]},
    {"eku": [Eku.SERVER_AUTH, Eku.CLIENT_AUTH]},
    {"key_usage": None},
    {"key_usage": key_usage("key_agreement")},
    {"key_usage": key_usage("digital_signature", "key_cert_sign")},
    {"basic_constraints": False},
    {"ca": True},
    {"not_after": AT - DAY},
    {"not_before": AT + DAY},
    {"identifiers": False},
    {"identifiers": False, "extensions": [ODD_KEY_ID]},
    {"identifiers": False, "extensions": [ODD_SERIAL]},
    {"identifiers": False, "extensions": [CRITICAL_AKI]},
    {"identifiers": False, "extensions": [CRITICAL_SKI]},
    *(
        {"extensions": [e]}
        for e in (
            odd_extension(UNKNOWN, b"\x05\x00", True),
            odd_extension(UNKNOWN, b"\x05\x00"),
            odd_extension(NS_CERT_TYPE, b"\x03\x02\x06\x40"),
            odd_extension(NS_CERT_TYPE, b"\x03\x02\x07\x80"),
            odd_extension(PROXY, b"\x30\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x15\x01"),
            constraints(names("example.com")),
            aia(True),
            aia(False),
            (x509.TLSFeature([x509.TLSFeatureType.status_request]), True),
            (x509.IssuerAlternativeName(names("example.com")), True),
            (x509.PolicyConstraints(0, None), True),
            policies(True),
            crls(True),
        )
    ),
]
SANS = [
    [DOMAIN],
    ["*.example.com"],
    ["example.com", DOMAIN],
    ["WWW.EXAMPLE.COM"],
    ["example.com"],
    ["*.com"],
    ["w*.example.com"],
    ["*.www.example.com"],
    [],
    [DOMAIN, "other.example.net"],
    ["*.example.com", "example.org"],
    ["under_score.example.com"],
    [DOMAIN + "."],
]
OTHER_NAMES: list[list[x509.GeneralName]] = [
    [],
    [],
    [],
    [x509.IPAddress(ipaddress.ip_address("192.0.2.7"))],
    [x509.IPAddress(ipaddress.ip_address("::1"))],
    [x509.UniformResourceIdentifier("https://www.example.com/x")],
    [x509.RFC822Name("a@example.com")],
    [x509.UniformResourceIdentifier("https://example.com@www.example.com/")],
    [x509.RFC822Name("A@mail.example.com")],
    [x509.UniformResourceIdentifier("urn:example")],
    names("_a.example.com"),
    names("bad.example.com"),
    [ACME],
    [x509.RegisteredID(UNKNOWN)],
    [x509.OtherName(UNKNOWN, b"\x0c\x01x")],
]
STRICTER = [
    re.compile(pattern)
    for pattern in (
        r"^chain\.unrelated ",
        r"^domain\.mismatch .*(w\*\.example\.com|no DNS name)",
        r"^certificate\.not_a_server .*(is a CA's|without digitalSignature)",
        (
            r"^(certificate\.not_a_server|chain\.untrusted) .*critical extensions? "
            r".*\((2\.5\.29\.(18|31)(, )?)+\)"
        ),
        r"^chain\.untrusted .*(negative serial|serial number of 2[0-9] octets)",
        r"^chain\.untrusted .*by its name constraints: \*\.example\.com is excluded",
        (
            r"^chain\.untrusted .*held against the name constraints .*(the URI|a name of an "
            r"uncommon kind)"
        ),
        r"^certificate\.clients_refuse .*: (Firefox|Chrome|Go)(, Chrome)?( and Go)? refuses? it",
        r"^chain\.untrusted .*certificate policy that its CAs demand, so Chrome and Go refuse it",
        r"^chain\.untrusted .*chain ends at",  # a cross-signature that OpenSSL goes past
    )
]
"""Findings on what clients other than OpenSSL refuse, or what no sound certificate needs."""
HOSTS = [DOMAIN, DOMAIN, DOMAIN, DOMAIN, "other.example.com", "a.www.example.com", "example.com"]


@dataclass(frozen=True)
class Upload:
    certificates: tuple[x509.Certificate, ...] = field(repr=False)
    leaf: Leaf = field(repr=False)
    host: str
    how: tuple[object, ...]
    odd: tuple[bytes, ...] = field(default=(), repr=False)
    """The certificates in DER, in a form that no library writes."""

    @property
    def text(self) -> str:
        return encode_pem(*self.odd) if self.odd else pem(self.certificates)

    def judged(self) -> JudgementReport:
        return judge_pairs(
            [PairTexts(self.text, self.leaf.key_pem)],
            [self.host],
            at=AT,
            roots=TrustRoots.from_pem(ROOT.pem),
        )


ORGANISATIONS = st.sampled_from([None, "Acme", "acme", "Other"])


def spelt_out(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, public_key=explicit_curve_spki(key))


def compressed_point(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, public_key=compressed_point_spki(key))


def printable_issuer(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, issuer=restrung(c.issuer, PRINTABLE, str.upper))


def bmp_subject(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, subject=restrung(c.subject, BMP, lambda text: f" {text}  "))


def another_issuer(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(
        c, signer, issuer=restrung(c.issuer, PRINTABLE, lambda text: text + "x")
    )


def negative_serial(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, serial=encode_integer(-4711))


def long_serial(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, serial=encode_integer(1 << 200))


def generalized_time(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    days = [encode_tlv(0x18, f"{day:%Y%m%d%H%M%S}Z".encode()) for day in (AT - DAY, AT + 60 * DAY)]
    return alter_certificate(c, signer, validity=encode_sequence(*days))


def utf8_mail(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, subject=encode_name((EMAIL, UTF8, "a@example.com")))


def ascii_mail(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, subject=encode_name((EMAIL, IA5, "a@example.com")))


def no_subject(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(c, signer, subject=encode_name())


def other_inner_algorithm(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(
        c, signer, signed_algorithm=encode_sequence(encode_oid("1.2.840.10045.4.3.3"))
    )


def bounded_subtree(c: x509.Certificate, key: Any, signer: Any) -> bytes:
    return alter_certificate(
        c,
        signer,
        more=(
            constraints_of(
                [encode_sequence(encode_general_name(2, "example.com"), encode_tlv(0x80, b"\x01"))]
            ),
        ),
    )


FORMS = [
    spelt_out,
    compressed_point,
    printable_issuer,
    bmp_subject,
    another_issuer,
    negative_serial,
    long_serial,
    generalized_time,
    utf8_mail,
    ascii_mail,
    no_subject,
    other_inner_algorithm,
    bounded_subtree,
]


def restrung(found: x509.Name, tag: int, change: Callable[[str], str]) -> bytes:
    encoding = "utf-16-be" if tag == BMP else "ascii"
    return encode_name(
        *((part.oid.dotted_string, tag, change(str(part.value)).encode(encoding)) for part in found)
    )


def variation(found: list[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw no variation in two of three cases, so that deep chains are accepted often enough."""
    return st.one_of(st.just({}), st.just({}), st.sampled_from(found))


@st.composite
def uploads(draw: st.DrawFn) -> Upload:
    authority, told, signers = ROOT, [], [ROOT_KEY]
    for number in range(draw(st.integers(0, 3))):
        how = draw(variation(CA_HOW))
        told.append(how)
        authority = authority.intermediate(f"CA {number}", **{**LONG, **how})
        signers.insert(0, authority.key)
    sans, how = draw(st.one_of(st.just([DOMAIN]), st.sampled_from(SANS))), draw(variation(LEAF_HOW))
    times = {"not_before": AT - DAY, "not_after": AT + 60 * DAY}
    others = draw(st.sampled_from(OTHER_NAMES))
    if others and sans:
        san = (x509.SubjectAlternativeName([*names(*sans), *others]), False)
        how = {**how, "extensions": [*how.get("extensions", ()), san]}
        leaf = authority.issue(
            [], common_name=DOMAIN, **{**times, **how}, organisation=draw(ORGANISATIONS)
        )
    else:
        leaf = authority.issue(sans, **{**times, **how}, organisation=draw(ORGANISATIONS))
    chain = list(leaf.chain)
    if draw(st.integers(0, 2)) == 0:
        at, form = draw(st.integers(0, len(chain) - 1)), draw(st.sampled_from(FORMS))
        odd = [der(c) for c in chain]
        odd[at] = form(chain[at], leaf.key if at == 0 else signers[at - 1], signers[at])
        return Upload(
            tuple(chain), leaf, DOMAIN, (*told, sans, others, how, at, form.__name__), tuple(odd)
        )
    change = draw(
        st.sampled_from(["none"] * 4 + ["order", "root", "drop", "cross", "stranger", "again"])
    )
    match change:
        case "order":
            chain = draw(st.permutations(chain))
        case "root":
            chain.append(ROOT.certificate)
        case "drop" if len(chain) > 1:
            del chain[draw(st.integers(1, len(chain) - 1))]
        case "cross":
            chain.append(
                sign(
                    ROOT.certificate.subject,
                    ROOT_KEY.public_key(),
                    OTHER_ROOT.certificate,
                    OTHER_KEY,
                    ca=True,
                    **LONG,
                )
            )
        case "stranger":
            chain.append(OTHER_ROOT.intermediate("Stranger", **LONG).certificate)
        case "again":
            chain.append(chain[-1])
        case _:
            pass
    return Upload(
        tuple(chain), leaf, draw(st.sampled_from(HOSTS)), (*told, sans, others, how, change)
    )


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(upload=uploads())
def test_openssl_accepts_every_accepted_pair_and_each_stricter_refusal_is_listed(
    upload: Upload,
) -> None:
    judged = upload.judged()
    if judged.pairs:
        said = openssl_refusal(judged.pairs[0].chain, judged.pairs[0].key, ROOT.pem, upload.host)
        warned = any("OpenSSL refuses it" in found.message for found in judged.findings)
        assert bool(said) is warned, upload.how
    elif openssl_refusal(upload.text, upload.leaf.key_pem, ROOT.pem, upload.host) == "":
        found = [f"{f.code} {f.message}" for f in judged.findings if f.severity is Severity.REFUSAL]
        unlisted = [one for one in found if not any(pattern.search(one) for pattern in STRICTER)]
        assert found and not unlisted, (upload.how, unlisted)


def test_ordinary_pairs_are_accepted_by_both() -> None:
    """Without this the property above would hold even if nothing were accepted."""
    upper = ROOT.intermediate("Upper", path_length=1, **LONG)
    times = {"not_before": AT - DAY, "not_after": AT + 60 * DAY}
    for how in (
        {},
        {"eku": None},
        {"key_usage": None},
        {"identifiers": False},
        {"basic_constraints": False},
    ):
        for authority in (ROOT, upper, upper.intermediate("Lower", path_length=0, **LONG)):
            leaf = authority.issue([DOMAIN], **times, **how)  # type: ignore[arg-type]
            judged = Upload(leaf.chain, leaf, DOMAIN, ()).judged()
            assert judged.pairs
            assert (
                openssl_refusal(judged.pairs[0].chain, judged.pairs[0].key, ROOT.pem, DOMAIN) == ""
            )
