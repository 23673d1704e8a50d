"""Reading of certificates that clients read and the library does not (rule D13).

The library refuses a certificate for any part that is not as RFC 5280 writes it. Clients are more
lenient, each in its own way (``client_rules``), so here each part is read for itself: by the
library where it can, else by the small readers below, else it stays unread.
"""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from services.validator.x509 import der
from services.validator.x509.der import DerElement, NotDer
from services.validator.x509.der_layout import (
    CertificateLayout,
    RawExtension,
    read_extension_list,
    read_layout,
)
from services.validator.x509.distinguished_names import read_attributes
from services.validator.x509.parse_diagnosis import build_certificate

MAX_EXTENSIONS = 64
_OPTIONAL_TAGS = (0x81, 0x82, 0xA3)
_EMPTY_NAME = bytes.fromhex("3000")
_BOOLEAN = 0x01
# General names of the forms that the library does not read stand under these OIDs, so that a name
# constraint of the same form is seen to be about them.
_FORM_OIDS = {0xA3: "2.5.29.17.3", 0xA4: "2.5.29.17.4", 0xA5: "2.5.29.17.5"}
_KEY_USAGE_NAMES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class TolerantReading:
    """A certificate that the library does not read whole.

    ``copy``: a certificate with the same serial, algorithms, period and key, without names and
    extensions; its signature is not to be verified. ``signed`` and ``signature`` are the
    certificate's own.
    """

    copy: x509.Certificate = field(repr=False)
    subject_der: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    extensions: x509.Extensions = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def read_tolerantly(data: bytes) -> TolerantReading:
    """Read a certificate part by part.

    Raises NotDer, or ValueError or TypeError of the library, when a part that a check needs cannot
    be read.
    """
    outer = der.read_sequence(data)
    layout = read_layout(data)
    _check_order(data, outer[0])
    subject = der.copy_element(data, layout.subject)
    issuer = der.copy_element(data, layout.issuer)
    read_attributes(subject)
    read_attributes(issuer)
    signature = outer[2]
    if signature.tag != der.BIT_STRING or signature.end == signature.start:
        raise NotDer("no signature")
    return TolerantReading(
        copy=_load(_build_copy(data, outer, layout)),
        subject_der=subject,
        issuer_der=issuer,
        extensions=x509.Extensions(list(_read_extensions(data, layout))),
        signed=der.copy_element(data, outer[0]),
        signature=data[signature.start + 1 : signature.end],
    )


def _check_order(data: bytes, signed: DerElement) -> None:
    parts = der.read_children(data, signed)
    if parts[0].tag == der.CONTEXT_0:
        del parts[0]
    tags = [part.tag for part in parts[6:]]
    if tags != [tag for tag in _OPTIONAL_TAGS if tag in tags]:
        raise NotDer("parts of the certificate are out of order")


def _load(data: bytes) -> x509.Certificate:
    with warnings.catch_warnings():
        # The library warns of oddities that a later release will refuse.
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate(data)


def _build_copy(data: bytes, outer: list[DerElement], layout: CertificateLayout) -> bytes:
    parts = der.read_children(data, outer[0])
    version = b""
    if parts[0].tag == der.CONTEXT_0 and data[parts[0].start : parts[0].end] != b"\x02\x01\x00":
        version = der.copy_element(data, parts[0])
    signed = der.encode_element(
        der.SEQUENCE,
        version
        + der.copy_element(data, layout.serial)
        + der.copy_element(data, layout.signed_algorithm)
        + _EMPTY_NAME
        + der.copy_element(data, layout.validity)
        + _EMPTY_NAME
        + der.copy_element(data, layout.public_key),
    )
    algorithm = der.copy_element(data, layout.algorithm)
    signature = der.copy_element(data, outer[2])
    return der.encode_element(der.SEQUENCE, signed + algorithm + signature)


# Extensions


def _read_extensions(
    data: bytes, layout: CertificateLayout
) -> Iterator[x509.Extension[x509.ExtensionType]]:
    raw_extensions = read_extension_list(data, layout)
    oids = [extension.oid for extension in raw_extensions]
    if len(oids) > MAX_EXTENSIONS or len(set(oids)) < len(oids):
        raise NotDer("too many extensions, or one twice")
    for raw in raw_extensions:
        oid = ObjectIdentifier(raw.oid)
        yield x509.Extension(oid, raw.is_critical, _read_extension(raw, oid))


def _read_extension(raw: RawExtension, oid: ObjectIdentifier) -> x509.ExtensionType:
    critical = b"\x01\x01\xff" if raw.is_critical else b""
    encoded_oid = der.encode_element(der.OID, der.encode_oid(raw.oid))
    value = der.encode_element(der.OCTET_STRING, raw.value)
    element = der.encode_element(der.SEQUENCE, encoded_oid + critical + value)
    try:
        extension: x509.Extension[x509.ExtensionType]
        (extension,) = _load(build_certificate(extension=element)).extensions
        return extension.value
    except Exception:  # the library raises a dozen kinds of exceptions without a common base
        reader = _READERS.get(raw.oid)
    if reader is None:
        # No client reads it, or what each makes of it stands in client_rules.
        return x509.UnrecognizedExtension(oid, raw.value)
    return reader(raw.value)


def _read_basic_constraints(value: bytes) -> x509.BasicConstraints:
    is_ca = False
    path_length = None
    for part in der.read_sequence(value):
        if part.tag == _BOOLEAN:
            is_ca = value[part.start : part.end] != b"\0"
        elif part.tag == der.INTEGER:
            path_length = der.read_integer(value, part)
        else:
            raise NotDer("no BOOLEAN or INTEGER")
    return x509.BasicConstraints(is_ca, path_length if is_ca else None)


def _read_key_usage(value: bytes) -> x509.KeyUsage:
    bits = der.read_element(value)
    if bits.tag != der.BIT_STRING or bits.end != len(value) or bits.end - bits.start < 1:
        raise NotDer("no BIT STRING")
    content = value[bits.start + 1 : bits.end]
    granted = {}
    for number, name in enumerate(_KEY_USAGE_NAMES):
        byte, bit = divmod(number, 8)
        granted[name] = len(content) > byte and bool(content[byte] & (0x80 >> bit))
    if not granted["key_agreement"]:
        # These two say something of key agreement only, and the library takes them with it only.
        granted["encipher_only"] = False
        granted["decipher_only"] = False
    return x509.KeyUsage(**granted)


def _read_extended_key_usage(value: bytes) -> x509.ExtendedKeyUsage:
    purposes = [der.read_oid(value, part) for part in der.read_sequence(value)]
    return x509.ExtendedKeyUsage([ObjectIdentifier(purpose) for purpose in purposes])


def _read_policies(value: bytes) -> x509.CertificatePolicies:
    policies = []
    for policy in der.read_sequence(value):
        parts = der.read_children(value, policy)
        if policy.tag != der.SEQUENCE or not parts:
            raise NotDer("no policy")
        oid = ObjectIdentifier(der.read_oid(value, parts[0]))
        policies.append(x509.PolicyInformation(oid, None))
    return x509.CertificatePolicies(policies)


def _read_tls_feature(value: bytes) -> x509.ExtensionType:
    known = {int(feature.value): feature for feature in x509.TLSFeatureType}
    features = []
    for part in der.read_sequence(value):
        feature = known.get(der.read_integer(value, part))
        if feature is not None:
            features.append(feature)
    if not features:
        return x509.UnrecognizedExtension(x509.oid.ExtensionOID.TLS_FEATURE, value)
    return x509.TLSFeature(features)


def _read_authority_key_identifier(value: bytes) -> x509.AuthorityKeyIdentifier:
    identifier = None
    for part in der.read_sequence(value):
        if part.tag == 0x80:
            identifier = value[part.start : part.end]
    return x509.AuthorityKeyIdentifier(identifier, None, None)


def _read_alternative_names(value: bytes) -> x509.SubjectAlternativeName:
    names = []
    for part in der.read_sequence(value):
        names.append(_read_general_name(part.tag, value[part.start : part.end]))
    return x509.SubjectAlternativeName(names)


def _read_general_name(tag: int, content: bytes) -> x509.GeneralName:
    if tag == 0x81:
        return x509.RFC822Name._init_without_validation(_ascii(content))
    if tag == 0x82:
        return x509.DNSName._init_without_validation(_ascii(content))
    if tag == 0x86:
        return x509.UniformResourceIdentifier._init_without_validation(_ascii(content))
    if tag == 0x87:
        return x509.IPAddress(_read_address(content))
    if tag == 0x88:
        oid = der.read_oid(content, DerElement(der.OID, 0, len(content)))
        return x509.RegisteredID(ObjectIdentifier(oid))
    if tag == 0xA0:
        kind = der.read_element(content)
        return x509.OtherName(
            ObjectIdentifier(der.read_oid(content, kind)), content[kind.end :] or b"\x05\x00"
        )
    if tag == 0xA4:
        name = _read_directory_name(content)
        if name is not None:
            return x509.DirectoryName(name)
    if tag in _FORM_OIDS:
        return x509.OtherName(ObjectIdentifier(_FORM_OIDS[tag]), b"\x05\x00")
    raise NotDer("no GeneralName")


def _ascii(content: bytes) -> str:
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise NotDer("a name is not ASCII") from None


def _read_address(
    content: bytes,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network:
    if len(content) in (4, 16):
        return ipaddress.ip_address(content)
    if len(content) in (8, 32):
        half = len(content) // 2
        mask = int.from_bytes(content[half:], "big")
        prefix = mask.bit_count()
        if mask != ((1 << prefix) - 1) << (8 * half - prefix):
            raise NotDer("no network mask")
        # Clients compare the network only, whatever the host bits are.
        return ipaddress.ip_network((content[:half], prefix), strict=False)
    raise NotDer("no address")


def _read_directory_name(content: bytes) -> x509.Name | None:
    try:
        return _load(build_certificate(subject=content)).subject
    except Exception:  # as in _read_extension
        return None


def _read_name_constraints(value: bytes) -> x509.NameConstraints:
    subtrees: dict[int, list[x509.GeneralName]] = {}
    for part in der.read_sequence(value):
        names = []
        for subtree in der.read_children(value, part):
            parts = der.read_children(value, subtree)
            if subtree.tag != der.SEQUENCE or not parts:
                raise NotDer("no subtree")
            names.append(_read_general_name(parts[0].tag, value[parts[0].start : parts[0].end]))
        subtrees[part.tag] = names
    if not set(subtrees) <= {der.CONTEXT_0, der.CONTEXT_1}:
        raise NotDer("no subtrees")
    return x509.NameConstraints(
        subtrees.get(der.CONTEXT_0) or None, subtrees.get(der.CONTEXT_1) or None
    )


_READERS: dict[str, Callable[[bytes], x509.ExtensionType]] = {
    "2.5.29.15": _read_key_usage,
    "2.5.29.17": _read_alternative_names,
    "2.5.29.19": _read_basic_constraints,
    "2.5.29.30": _read_name_constraints,
    "2.5.29.32": _read_policies,
    "2.5.29.35": _read_authority_key_identifier,
    "2.5.29.37": _read_extended_key_usage,
    "1.3.6.1.5.5.7.1.24": _read_tls_feature,
}
