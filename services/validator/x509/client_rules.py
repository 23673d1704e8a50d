"""What the four clients do not read in a certificate, from its DER form alone (rule D13).

Sources: mozilla::pkix (pkixcert.cpp, pkixcheck.cpp, pkixder.cpp), BoringSSL (pki/parse_certificate,
pki/parsed_certificate, pki/certificate_policies, pki/general_names, pki/verify_name_match) and
Go 1.27 (crypto/x509/parser.go). OpenSSL's own reading is asked in ``openssl_reading``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from services.validator.x509 import der
from services.validator.x509.clients import ALL_CLIENTS, C, Client, F, G, O, Objection
from services.validator.x509.der import DerElement, NotDer
from services.validator.x509.der_layout import (
    CertificateLayout,
    RawExtension,
    read_extension_list,
    read_layout,
)
from services.validator.x509.distinguished_names import read_relative_names

BOOLEAN = 0x01
NULL_PARAMETERS = b"\x05\x00"
UNCOMPRESSED_POINT = 0x04
COMPRESSED_POINTS = (0x02, 0x03)
MAX_FIREFOX_PATH_LENGTH = 127  # mozilla::pkix reads an INTEGER of one byte
MAX_CHROME_NUMBER = 255  # BoringSSL's pki reads a uint8
_RSA = "1.2.840.113549.1.1.1"
_EC = "1.2.840.10045.2.1"
OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"
_ANY_POLICY = "2.5.29.32.0"

_NUMERIC = re.compile(rb"[0-9 ]*")
_GO_PRINTABLE = re.compile(rb"[A-Za-z0-9'()+,\-./ :=?*&]*")
_CHROME_PRINTABLE = re.compile(rb"[A-Za-z0-9 '()*+,\-./:=?]*")


def find_objections(data: bytes, *, is_leaf: bool) -> tuple[Objection, ...]:
    """Return what clients object to in a certificate (DER), wherever it stands in a path."""
    try:
        layout = read_layout(data)
        objections = [
            *_version_objections(data),
            *_name_objections(data, layout),
            *_key_objections(data, layout.public_key),
        ]
        for extension in read_extension_list(data, layout):
            objections += _extension_objections(extension, is_leaf)
        if layout.subject.start == layout.subject.end:
            objections += _empty_subject_objections(data, layout)
    except NotDer:
        return (Objection(ALL_CLIENTS, "is not DER", breaks_rfc=True),)
    return tuple(objections)


def find_signature_objections(data: bytes) -> tuple[Objection, ...]:
    """Return what clients object to in the signature; that of a root is not looked at."""
    outer = der.read_sequence(data)
    signature = outer[2]
    if signature.tag != der.BIT_STRING or data[signature.start : signature.start + 1] != b"\0":
        reason = "has a signature that counts unused bits"
        return (Objection(ALL_CLIENTS, reason, breaks_rfc=True),)
    return ()


def _version_objections(data: bytes) -> Iterator[Objection]:
    parts = der.read_children(data, der.read_sequence(data)[0])
    if parts[0].tag == der.CONTEXT_0:
        version = data[parts[0].start : parts[0].end]
        if version == b"\x02\x01\x00":
            yield Objection((C,), "writes out version 1, which is the default", breaks_rfc=True)


# Names


def _name_objections(data: bytes, layout: CertificateLayout) -> Iterator[Objection]:
    for part, name in ((layout.issuer, "issuer"), (layout.subject, "subject")):
        for reason_clients in _string_faults(der.copy_element(data, part)):
            clients, fault = reason_clients
            yield Objection(clients, f"has {fault} in its {name}")


@lru_cache(maxsize=4096)
def _string_faults(name: bytes) -> tuple[tuple[tuple[Client, ...], str], ...]:
    """Return (clients, fault) for each string of a Name (DER) that a client does not read."""
    faults: dict[str, tuple[Client, ...]] = {}
    for relative_name in read_relative_names(name):
        if not relative_name:
            faults["an empty relative name"] = (C,)
        for attribute in relative_name:
            fault = _string_fault(attribute.tag, attribute.value)
            if fault is not None:
                faults[fault[1]] = fault[0]
    return tuple((clients, fault) for fault, clients in faults.items())


def _string_fault(tag: int, value: bytes) -> tuple[tuple[Client, ...], str] | None:
    if tag == 0x13 and not _CHROME_PRINTABLE.fullmatch(value):
        fault = "a character that a PrintableString may not hold"
        return ((C,), fault) if _GO_PRINTABLE.fullmatch(value) else ((C, G), fault)
    if tag == 0x16 and not value.isascii():
        return (C, G), "a character that an IA5String may not hold"
    if tag == 0x12 and not _NUMERIC.fullmatch(value):
        return (G,), "a character that a NumericString may not hold"
    if tag == 0x1E and not _is_bmp(value):
        return (C, G), "a BMPString that is not UCS-2"
    if tag == 0x0C:
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            return (G, O), "a UTF8String that is not UTF-8"
    return None


def _is_bmp(value: bytes) -> bool:
    if len(value) % 2:
        return False
    for at in range(0, len(value), 2):
        point = value[at] << 8 | value[at + 1]
        if 0xD800 <= point <= 0xDFFF or 0xFDD0 <= point <= 0xFDEF or point >= 0xFFFE:
            return False
    return True


def _empty_subject_objections(data: bytes, layout: CertificateLayout) -> Iterator[Objection]:
    for extension in read_extension_list(data, layout):
        if extension.oid == "2.5.29.17" and not extension.is_critical:
            yield Objection(
                (C,),
                "has an empty subject and a subjectAltName that is not critical "
                "(RFC 5280, 4.1.2.6)",
                breaks_rfc=True,
            )


# The key


def _key_objections(data: bytes, public_key: DerElement) -> Iterator[Objection]:
    algorithm, point = der.read_children(data, public_key)[:2]
    parts = der.read_children(data, algorithm)
    kind = der.read_oid(data, parts[0])
    if data[point.start : point.start + 1] != b"\0":
        yield Objection((F, C), "has a public key that counts unused bits", breaks_rfc=True)
    if kind == _RSA:
        parameters = data[parts[0].end : algorithm.end]
        if parameters != NULL_PARAMETERS:
            yield Objection(
                (F, C, G),
                "has an RSA key whose parameters are not NULL (RFC 3279, 2.3.1)",
                breaks_rfc=True,
            )
    elif kind == _EC and point.end - point.start > 1:
        form = data[point.start + 1]
        if form in COMPRESSED_POINTS:
            yield Objection((F, G), "has an ECDSA key as a compressed point")
        elif form != UNCOMPRESSED_POINT:
            yield Objection((F, C, G), "has an ECDSA key as a hybrid point", breaks_rfc=True)


# Extensions


@lru_cache(maxsize=4096)
def _extension_objections(extension: RawExtension, is_leaf: bool) -> tuple[Objection, ...]:
    """Return what clients object to in one extension. Most extensions are in many certificates."""
    objections = []
    if extension.writes_default:
        objections.append(
            Objection(
                (C,),
                f"writes out that its extension {extension.oid} is not critical",
                breaks_rfc=True,
            )
        )
    reader = _READERS.get(extension.oid)
    if reader is None:
        return tuple(objections)
    read, unreading, name = reader
    try:
        objections += read(extension, is_leaf)
    except NotDer:
        reason = f"has the extension {name}, which is not encoded as RFC 5280 demands"
        objections.append(Objection(unreading, reason, breaks_rfc=True))
    return tuple(objections)


def _one_sequence(value: bytes) -> list[DerElement]:
    return der.read_sequence(value)


def _basic_constraints(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    for part in _one_sequence(value):
        if part.tag == der.INTEGER:
            length = der.read_integer(value, part)
            clients = []
            if length > MAX_FIREFOX_PATH_LENGTH:
                clients.append(F)
            if length > MAX_CHROME_NUMBER:
                clients.append(C)
            if length >= 1 << 63:
                clients += [G, O]
            if clients:
                # A rule of ours where Firefox alone refuses: no chain has so many certificates.
                yield Objection(
                    tuple(clients), f"has the path length {_shown(length)}", breaks_rfc=True
                )
        elif part.tag != BOOLEAN:
            raise NotDer("no BOOLEAN or INTEGER")


def _shown(number: int) -> str:
    return str(number) if number < 1 << 64 else "of over 64 bits"


def _key_usage(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    bits = der.read_element(value)
    if bits.tag != der.BIT_STRING or bits.end != len(value) or bits.end - bits.start < 1:
        raise NotDer("no BIT STRING")
    unused = value[bits.start]
    if unused > 7 or (bits.end - bits.start == 1 and unused):
        raise NotDer("unused bits")
    content = value[bits.start + 1 : bits.end]
    if content and content[-1] & ((1 << unused) - 1):
        raise NotDer("unused bits that are not zero")
    if not any(content):
        yield Objection((F, C, O), "has a key usage without any bit", breaks_rfc=True)


def _extended_key_usage(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    purposes = [der.read_oid(value, part) for part in _one_sequence(value)]
    if not purposes:
        yield Objection((F, C), "has an empty extended key usage", breaks_rfc=True)
    if is_leaf and OCSP_SIGNING in purposes:
        yield Objection((F,), "is for a server and for OCSP responses (extended key usage)")


_GENERAL_NAME_TAGS = (0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88)


def _alternative_names(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    names = _one_sequence(value)
    if not names:
        yield Objection((C,), "has an empty subjectAltName", breaks_rfc=True)
    found = set()
    for name in names:
        found.add(_general_name_fault(name.tag, value[name.start : name.end]))
    for objection in found:
        if objection is not None:
            yield objection


def _general_name_fault(tag: int, content: bytes) -> Objection | None:
    if tag not in _GENERAL_NAME_TAGS:
        raise NotDer("no GeneralName")
    if tag in (0x81, 0x82, 0x86) and not content.isascii():
        return Objection((C, G), "has a name that is not ASCII (subjectAltName)", breaks_rfc=True)
    if tag == 0x87:
        if len(content) not in (4, 16):
            reason = "has an IP address of another length than 4 or 16 bytes (subjectAltName)"
            return Objection((C, G), reason, breaks_rfc=True)
        if len(content) == 16 and content[:12] == bytes(10) + b"\xff\xff":
            return Objection((G,), "has an IPv6 address that maps an IPv4 one (subjectAltName)")
    if tag == 0x86 and not _go_reads_uri(content.decode("ascii")):
        return Objection((G,), "has a URI that cannot be read (subjectAltName)")
    return None


_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


def _go_reads_uri(uri: str) -> bool:
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in uri):
        return False
    if not uri or uri.startswith(":"):
        return not uri
    without_query = uri.partition("#")[0].partition("?")[0]
    if _BAD_ESCAPE.search(without_query):
        return False
    first_segment = without_query.partition("/")[0]
    if ":" in first_segment and not _SCHEME.match(uri):
        return False
    scheme = _SCHEME.match(without_query)
    rest = without_query[scheme.end() :] if scheme else without_query
    if not rest.startswith("//"):
        return True
    host = rest[2:].partition("/")[0].rpartition("@")[2]
    if not host:
        return True
    port = host.rpartition("]")[2].partition(":")[2]
    return (not port or port.isdecimal()) and is_go_domain(host)


def is_go_domain(name: str, *, is_constraint: bool = False) -> bool:
    """Check a DNS name as Go's ``domainNameValid`` does."""
    if is_constraint:
        if not name:
            return True
        name = name.removeprefix(".")
    if not name or name.endswith(".") or len(name) > 253:
        return False
    for label in name.split("."):
        if not 1 <= len(label) <= 63:
            return False
    return all(0x21 <= ord(character) <= 0x7E for character in name)


def _name_constraints(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    trees = _one_sequence(value)
    if [part.tag for part in trees] not in ([0xA0], [0xA1], [0xA0, 0xA1], []):
        raise NotDer("no subtrees")
    if not any(part.end > part.start for part in trees):
        yield Objection((C, G), "has empty name constraints", breaks_rfc=True)
    elif any(part.end == part.start for part in trees):
        yield Objection((C,), "has an empty list of name constraints", breaks_rfc=True)
    found: dict[Objection, None] = {}
    for part in trees:
        for subtree in der.read_children(value, part):
            parts = der.read_children(value, subtree)
            if subtree.tag != der.SEQUENCE or not parts:
                raise NotDer("no subtree")
            base = value[parts[0].start : parts[0].end]
            for objection in _subtree_objections(parts[0].tag, base, extension.is_critical):
                found[objection] = None
    yield from found


def _subtree_objections(tag: int, base: bytes, is_critical: bool) -> Iterator[Objection]:
    if tag not in _GENERAL_NAME_TAGS:
        raise NotDer("no GeneralName")
    if tag in (0x81, 0x82, 0x86):
        if not base.isascii():
            yield Objection((C, G), "constrains a name that is not ASCII", breaks_rfc=True)
        elif not _go_reads_constraint(tag, base.decode("ascii")):
            yield Objection((G,), "constrains a name that is no host name")
    elif tag == 0x87:
        if len(base) not in (8, 32) or not _is_network_mask(base[len(base) // 2 :]):
            yield Objection((C, G), "constrains addresses by no network mask", breaks_rfc=True)
    elif is_critical:
        yield Objection((G,), "constrains names of a kind that Go does not compare")


def _go_reads_constraint(tag: int, text: str) -> bool:
    if tag == 0x81 and "@" in text:
        local, _, host = text.rpartition("@")
        return bool(local) and is_go_domain(host)
    if tag == 0x86 and re.fullmatch(r"[0-9.]+|.*:.*", text):
        return False
    return is_go_domain(text, is_constraint=True)


def _is_network_mask(mask: bytes) -> bool:
    number = int.from_bytes(mask, "big")
    inverted = number ^ ((1 << 8 * len(mask)) - 1)
    return inverted & (inverted + 1) == 0


def _policies(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    policies = _one_sequence(value)
    if not policies:
        yield Objection((C,), "has certificate policies without a policy", breaks_rfc=True)
    seen = set()
    reasons: dict[str, tuple[Client, ...]] = {}
    for policy in policies:
        parts = der.read_children(value, policy)
        if policy.tag != der.SEQUENCE or not 1 <= len(parts) <= 2:
            raise NotDer("no policy")
        oid = der.read_oid(value, parts[0])
        if oid in seen:
            reasons["has the same certificate policy twice"] = (C, G)
        seen.add(oid)
        if len(parts) == 2:
            qualifiers = der.read_children(value, parts[1])
            if parts[1].tag != der.SEQUENCE or not qualifiers:
                reasons["has a certificate policy with an empty list of qualifiers"] = (C,)
            for qualifier in qualifiers:
                if not _is_policy_qualifier(value, qualifier):
                    reasons["has a policy qualifier that cannot be read"] = (C,)
    for reason, clients in reasons.items():
        yield Objection(clients, reason, breaks_rfc=True)


def _is_policy_qualifier(value: bytes, qualifier: DerElement) -> bool:
    if qualifier.tag != der.SEQUENCE:
        return False
    parts = der.read_children(value, qualifier)
    return len(parts) == 2 and parts[0].tag == der.OID


def _policy_mappings(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    mappings = _one_sequence(value)
    if not mappings:
        yield Objection((C,), "has policy mappings without a mapping", breaks_rfc=True)
    for mapping in mappings:
        parts = der.read_children(value, mapping)
        if mapping.tag != der.SEQUENCE or [part.tag for part in parts] != [der.OID, der.OID]:
            raise NotDer("no mapping")
    if extension.is_critical:
        yield Objection((F,), "has critical policy mappings")


def _policy_constraints(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    parts = _one_sequence(value)
    if not parts:
        yield Objection((C,), "has empty policy constraints", breaks_rfc=True)
    if [part.tag for part in parts] not in ([], [0x80], [0x81], [0x80, 0x81]):
        raise NotDer("no policy constraints")
    for part in parts:
        number = der.read_integer(value, part._replace(tag=der.INTEGER))
        yield from _number_objections(number, "policy constraints")


def _inhibit_any_policy(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    element = der.read_element(value)
    if element.end != len(value):
        raise NotDer("more than a number")
    yield from _number_objections(der.read_integer(value, element), "inhibitAnyPolicy")


def _number_objections(number: int, name: str) -> Iterator[Objection]:
    if number >= 1 << 63:
        yield Objection((C, G), f"has a number of over 63 bits in its {name}", breaks_rfc=True)
    elif number > MAX_CHROME_NUMBER:
        yield Objection((C,), f"has the number {number} in its {name}")


def _authority_information(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    descriptions = _one_sequence(value)
    if not descriptions:
        reason = "has an empty authority information access"
        yield Objection((C,), reason, breaks_rfc=True)
    for description in descriptions:
        parts = der.read_children(value, description)
        if description.tag != der.SEQUENCE or len(parts) != 2:
            raise NotDer("no access description")
        der.read_oid(value, parts[0])
        if parts[1].tag == 0x86 and not value[parts[1].start : parts[1].end].isascii():
            reason = "has a URI that is not ASCII (authority information access)"
            yield Objection((C,), reason, breaks_rfc=True)
            return


def _subject_key_identifier(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    element = der.read_element(extension.value)
    if element.tag != der.OCTET_STRING or element.end != len(extension.value):
        raise NotDer("no OCTET STRING")
    return iter(())


def _authority_key_identifier(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    tags = [part.tag for part in _one_sequence(extension.value)]
    remaining = [tag for tag in (0x80, 0xA1, 0x82) if tag in tags]
    if remaining != tags:
        raise NotDer("no identifier")
    if (0xA1 in tags) != (0x82 in tags):
        reason = "names its issuer's issuer without its serial number, or the reverse"
        yield Objection((C,), f"{reason} (RFC 5280, 4.2.1.1)", breaks_rfc=True)


def _crl_distribution_points(extension: RawExtension, is_leaf: bool) -> Iterator[Objection]:
    value = extension.value
    for point in _one_sequence(value):
        if point.tag != der.SEQUENCE:
            raise NotDer("no distribution point")
        der.read_children(value, point)
    return iter(())


_Reader = Callable[[RawExtension, bool], Iterator[Objection]]
# By OID: the reader, the clients that refuse the certificate where it is not DER, and its name.
_READERS: dict[str, tuple[_Reader, tuple[Client, ...], str]] = {
    "2.5.29.14": (_subject_key_identifier, (C, G, O), "subjectKeyIdentifier"),
    "2.5.29.15": (_key_usage, ALL_CLIENTS, "keyUsage"),
    "2.5.29.17": (_alternative_names, ALL_CLIENTS, "subjectAltName"),
    "2.5.29.19": (_basic_constraints, ALL_CLIENTS, "basicConstraints"),
    "2.5.29.30": (_name_constraints, ALL_CLIENTS, "nameConstraints"),
    "2.5.29.31": (_crl_distribution_points, (G, O), "cRLDistributionPoints"),
    "2.5.29.32": (_policies, (C, G), "certificatePolicies"),
    "2.5.29.33": (_policy_mappings, (C, G), "policyMappings"),
    "2.5.29.35": (_authority_key_identifier, (C, G, O), "authorityKeyIdentifier"),
    "2.5.29.36": (_policy_constraints, (C, G), "policyConstraints"),
    "2.5.29.37": (_extended_key_usage, ALL_CLIENTS, "extKeyUsage"),
    "2.5.29.54": (_inhibit_any_policy, (C, G), "inhibitAnyPolicy"),
    "1.3.6.1.5.5.7.1.1": (_authority_information, (C, G), "authorityInfoAccess"),
}
