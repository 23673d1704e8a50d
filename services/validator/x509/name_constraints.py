"""Name constraints (RFC 5280, 4.2.1.10): which names a CA may issue, and which names break that.

They are read as OpenSSL reads them, which allows no less than the RFC: a leading dot, an empty name
for all names, host names of any letters. One rule is stricter, as in Go and rustls: a wildcard may
not cover an excluded name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple, TypeVar

from cryptography import x509

from services.validator.x509 import der
from services.validator.x509.der import NotDer
from services.validator.x509.distinguished_names import (
    EMAIL,
    IA5_STRING,
    CanonicalName,
    canonical_name,
    read_attributes,
)

MAX_DNS_LENGTH = 255
_MAX_SHOWN = 80
_SMTP_UTF8_MAILBOX = "1.3.6.1.5.5.7.8.9"  # an e-mail address that is not ASCII (RFC 9598)

NameT = TypeVar("NameT")
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class UncheckableName(ValueError):
    """A constraint is about this name, and the two cannot be compared. The text names it."""


@dataclass
class GeneralNames:
    """The names of a certificate, or of one side of the constraints, by kind.

    ``others``: the kinds that nothing can be compared with, by OID.
    """

    dns: list[str] = field(default_factory=list)
    addresses: list[Address | Network] = field(default_factory=list)
    emails: list[str] = field(default_factory=list)
    uris: list[str] = field(default_factory=list)
    directory: list[CanonicalName] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def add_names(self, names: Iterable[x509.GeneralName]) -> GeneralNames:
        for name in names:
            match name:
                case x509.DNSName():
                    self.dns.append(name.value.lower())
                case x509.IPAddress():
                    self.addresses.append(name.value)
                case x509.RFC822Name():
                    self.emails.append(name.value)
                case x509.UniformResourceIdentifier():
                    self.uris.append(name.value)
                case x509.DirectoryName():
                    self.directory.append(canonical_name(name.value.public_bytes()))
                case x509.OtherName():
                    self.others.append(name.type_id.dotted_string)
                case _:
                    self.others.append(type(name).__name__)
        return self


class ConstraintSubtrees(NamedTuple):
    """The permitted and the excluded names of a name constraints extension."""

    permitted: GeneralNames
    excluded: GeneralNames


def collect_names(subject: bytes, san: x509.SubjectAlternativeName | None) -> GeneralNames:
    """Collect the names that constraints apply to.

    They are the subject (a Name in DER), its e-mail addresses, and the names of the SAN extension.
    Raises UncheckableName.
    """
    names = GeneralNames().add_names(san or ())
    try:
        for attribute in read_attributes(subject):
            if attribute.kind == EMAIL:
                if attribute.tag != IA5_STRING:
                    raise UncheckableName("the e-mail address in its subject")
                names.emails.append(attribute.value.decode("latin-1"))
    except NotDer:
        raise UncheckableName("its subject") from None
    canonical_subject = canonical_name(subject)
    if canonical_subject:
        names.directory.append(canonical_subject)
    return names


def read_subtrees(constraints: x509.NameConstraints) -> ConstraintSubtrees:
    """Sort the subtrees of the extension by kind."""
    return ConstraintSubtrees(
        permitted=GeneralNames().add_names(constraints.permitted_subtrees or ()),
        excluded=GeneralNames().add_names(constraints.excluded_subtrees or ()),
    )


def has_bounds(value: bytes) -> bool:
    """Check whether a subtree of the extension (DER) has a minimum or maximum; raises NotDer."""
    for side in der.read_sequence(value):
        for subtree in der.read_children(value, side):
            if len(der.read_children(value, subtree)) > 1:
                return True
    return False


def find_violation(constraints: ConstraintSubtrees, names: GeneralNames) -> str | None:
    """Return the first name that the constraints do not allow, as a clause for a finding.

    None when all names are allowed. Raises UncheckableName.
    """
    permitted, excluded = constraints
    _refuse_uncheckable(permitted, excluded, names)
    return next(_violations(permitted, excluded, names), None)


def _violations(
    permitted: GeneralNames, excluded: GeneralNames, names: GeneralNames
) -> Iterator[str]:
    # RFC 5280: a name must be below one of the permitted names of its kind, if there are any of
    # that kind, and below none of the excluded ones. A kind that the constraints do not mention is
    # not constrained.
    #
    # A certificate may have a thousand DNS names and a CA a thousand constraints, so DNS names are
    # not compared pair by pair: the constraints are a set, and each name is looked up with each of
    # its parents, of which a name of 255 characters has few. The other kinds are rare, and
    # count_name_checks bounds the pairs.
    permitted_dns = set(permitted.dns)
    excluded_dns = set(excluded.dns)
    # The wildcard *.example.com covers the excluded www.example.com.
    covered_by_wildcard = {
        name.partition(".")[2] for name in excluded.dns if not name.startswith(".")
    }
    for dns in names.dns:
        constraints_above = list(_dns_constraints_above(dns))
        if permitted_dns and permitted_dns.isdisjoint(constraints_above):
            yield f"{_printable(dns)} is not permitted"
        is_excluded = not excluded_dns.isdisjoint(constraints_above)
        if is_excluded or (dns.startswith("*.") and dns[2:] in covered_by_wildcard):
            yield f"{_printable(dns)} is excluded"
    yield from _compare_each(
        names.addresses, permitted.addresses, excluded.addresses, _network_contains
    )
    yield from _compare_each(names.emails, permitted.emails, excluded.emails, _covers_mailbox)
    yield from _compare_each(names.uris, permitted.uris, excluded.uris, _covers_uri)
    yield from _compare_each(
        names.directory,
        permitted.directory,
        excluded.directory,
        _is_name_prefix,
        lambda _: "a directory name",
    )


def _compare_each(
    names: Iterable[NameT],
    permitted: Sequence[NameT],
    excluded: Sequence[NameT],
    covers: Callable[[NameT, NameT], bool],
    describe: Callable[[NameT], str] = str,
) -> Iterator[str]:
    """Yield the violations of one kind. ``covers(constraint, name)`` compares a pair."""
    for name in names:
        if permitted and not any(covers(constraint, name) for constraint in permitted):
            yield f"{_printable(describe(name))} is not permitted"
        if any(covers(constraint, name) for constraint in excluded):
            yield f"{_printable(describe(name))} is excluded"


def _refuse_uncheckable(
    permitted: GeneralNames, excluded: GeneralNames, names: GeneralNames
) -> None:
    constrained_kinds = {*permitted.others, *excluded.others}
    if not constrained_kinds.isdisjoint(names.others):
        raise UncheckableName("a name of an uncommon kind")
    if _SMTP_UTF8_MAILBOX in names.others and (permitted.emails or excluded.emails):
        raise UncheckableName("an e-mail address that is not ASCII")
    if permitted.dns or excluded.dns:
        for name in names.dns:
            if len(name) > MAX_DNS_LENGTH:
                raise UncheckableName("a DNS name of over 255 characters")


def _dns_constraints_above(dns: str) -> Iterator[str]:
    """Yield every constraint that covers ``dns``.

    They are the empty one, the name itself, and each parent with and without its leading dot.
    """
    yield ""
    yield dns
    at = dns.find(".")
    while at >= 0:
        yield dns[at + 1 :]
        if at:
            yield dns[at:]
        at = dns.find(".", at + 1)


def _network_contains(network: Address | Network, address: Address | Network) -> bool:
    return (
        isinstance(network, IPv4Network | IPv6Network)
        and not isinstance(address, IPv4Network | IPv6Network)
        and address in network
    )


def _is_name_prefix(prefix: CanonicalName, name: CanonicalName) -> bool:
    return name[: len(prefix)] == prefix


def _covers_mailbox(constraint: str, email: str) -> bool:
    """Check a mailbox, a host, or every host below a leading dot against an e-mail address.

    Case counts in local parts and not in hosts.
    """
    local, at, host = email.rpartition("@")
    if not at:
        raise UncheckableName(f"the e-mail address {_printable(email)}")
    wanted_local, wanted_at, wanted_host = constraint.rpartition("@")
    if not wanted_at and constraint.startswith("."):
        return email.lower().endswith(constraint.lower()) and len(email) > len(constraint)
    return host.lower() == wanted_host.lower() and wanted_local in ("", local)


def _covers_uri(constraint: str, uri: str) -> bool:
    """Check a host, or every host below a leading dot, against the host of a URI."""
    host = _read_uri_host(uri)
    if constraint.startswith("."):
        return host.endswith(constraint.lower()) and len(host) > len(constraint)
    return host == constraint.lower()


def _read_uri_host(uri: str) -> str:
    """Read the host of a URI in lower case.

    Raises UncheckableName where readers of URIs disagree about the host, and for an IP address,
    which the RFC demands to refuse.
    """
    _, colon, rest = uri.partition(":")
    authority = rest[2:].partition("/")[0].partition("?")[0].partition("#")[0]
    host = authority.partition(":")[0].lower()
    is_ambiguous = (
        "@" in authority
        or "[" in authority
        or ":" in rest[2 + len(authority) :]
        or "?" in rest[: 3 + len(authority)]
    )
    is_address = host.replace(".", "").isdigit()
    if not colon or not rest.startswith("//") or not host or is_ambiguous or is_address:
        raise UncheckableName(f"the URI {_printable(uri)}")
    return host


def _printable(name: str) -> str:
    """Cut a name for a finding and replace what is not printable."""
    shown = name[:_MAX_SHOWN]
    if not shown.isprintable():
        shown = "".join(character if character.isprintable() else "?" for character in shown)
    return shown + ("…" if len(name) > _MAX_SHOWN else "")
