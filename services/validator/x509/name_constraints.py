"""Name constraints (RFC 5280, 4.2.1.10): which names a CA may issue, and what of a certificate
breaks them.

Read as OpenSSL reads them, which admits no less than the RFC: a leading dot, an empty name for all,
host names of any letters. Stricter in one place: a wildcard may not reach into what is excluded, as
Go and rustls hold it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from cryptography import x509

from services.validator.x509 import der
from services.validator.x509.distinguished_names import (
    EMAIL,
    IA5_STRING,
    Canonical,
    attributes,
    canonical,
)

MAX_DNS = 255
_SHOWN = 80
_MAILBOX = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")  # an address that is not ASCII

NameT = TypeVar("NameT")
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Uncheckable(ValueError):
    """A name that a constraint is about, and that cannot be compared with it; the text names it."""


@dataclass
class Names:
    """The names of a certificate, or of one side of the constraints, by kind."""

    dns: list[str] = field(default_factory=list)
    addresses: list[Address | Network] = field(default_factory=list)
    emails: list[str] = field(default_factory=list)
    uris: list[str] = field(default_factory=list)
    directory: list[Canonical] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Kinds that nothing can be compared with, by OID."""

    def add(self, names: Iterable[x509.GeneralName]) -> Names:
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
                    self.directory.append(canonical(name.value.public_bytes()))
                case x509.OtherName():
                    self.others.append(name.type_id.dotted_string)
                case _:
                    self.others.append(type(name).__name__)
        return self


Sides = tuple[Names, Names]
"""What is permitted, and what is excluded."""


def names_of(subject: bytes, alternative: x509.SubjectAlternativeName | None) -> Names:
    """What constraints are compared with: the subject (a Name in DER), its e-mail addresses, and
    the alternatives. Uncheckable."""
    found = Names().add(alternative or ())
    try:
        for attribute in attributes(subject):
            if attribute.kind == EMAIL:
                if attribute.tag != IA5_STRING:
                    raise Uncheckable("the e-mail address in its subject")
                found.emails.append(attribute.value.decode("latin-1"))
    except der.NotDer:
        raise Uncheckable("its subject") from None
    if name := canonical(subject):
        found.directory.append(name)
    return found


def sides(constraints: x509.NameConstraints) -> Sides:
    return Names().add(constraints.permitted_subtrees or ()), Names().add(
        constraints.excluded_subtrees or ()
    )


def violation(constraints: Sides, names: Names) -> str | None:
    """What of ``names`` the constraints do not allow, as a clause for people; None when all is
    allowed. Uncheckable."""
    permitted, excluded = constraints
    _refuse_what_is_beyond(permitted, excluded, names)
    return next(_violations(permitted, excluded, names), None)


def _violations(permitted: Names, excluded: Names, names: Names) -> Iterator[str]:
    allowed, forbidden = set(permitted.dns), set(excluded.dns)
    parents = {name.partition(".")[2] for name in excluded.dns if not name.startswith(".")}
    for dns in names.dns:
        if allowed and allowed.isdisjoint(_above(dns)):
            yield _not_permitted(dns)
        if not forbidden.isdisjoint(_above(dns)) or (dns.startswith("*.") and dns[2:] in parents):
            yield _excluded(dns)
    yield from _broken(names.addresses, permitted.addresses, excluded.addresses, _holds)
    yield from _broken(names.emails, permitted.emails, excluded.emails, _is_mailbox_of)
    yield from _broken(names.uris, permitted.uris, excluded.uris, _is_host_of)
    yield from _broken(
        names.directory,
        permitted.directory,
        excluded.directory,
        _begins,
        lambda _: "a directory name",
    )


def _broken(
    names: Iterable[NameT],
    permitted: Sequence[NameT],
    excluded: Sequence[NameT],
    holds: Callable[[NameT, NameT], bool],
    told: Callable[[NameT], str] = str,
) -> Iterator[str]:
    """``holds``: whether a constraint, the first, is about a name."""
    for name in names:
        if permitted and not any(holds(base, name) for base in permitted):
            yield _not_permitted(told(name))
        if any(holds(base, name) for base in excluded):
            yield _excluded(told(name))


def _refuse_what_is_beyond(permitted: Names, excluded: Names, names: Names) -> None:
    constrained = {*permitted.others, *excluded.others}
    if not constrained.isdisjoint(names.others):
        raise Uncheckable("a name of an uncommon kind")
    if _MAILBOX.dotted_string in names.others and (permitted.emails or excluded.emails):
        raise Uncheckable("an e-mail address that is not ASCII")
    if (permitted.dns or excluded.dns) and any(len(name) > MAX_DNS for name in names.dns):
        raise Uncheckable("a DNS name of over 255 characters")


def _above(dns: str) -> Iterator[str]:
    """Every constraint that ``dns`` is below: itself, what follows a dot, with the dot or without,
    the empty one."""
    yield ""
    yield dns
    at = dns.find(".")
    while at >= 0:
        yield dns[at + 1 :]
        if at:
            yield dns[at:]
        at = dns.find(".", at + 1)


def _holds(network: Address | Network, address: Address | Network) -> bool:
    return (
        isinstance(network, IPv4Network | IPv6Network)
        and not isinstance(address, IPv4Network | IPv6Network)
        and address in network
    )


def _begins(base: Canonical, name: Canonical) -> bool:
    return name[: len(base)] == base


def _is_mailbox_of(base: str, email: str) -> bool:
    """``base``: a mailbox, a host, or with a leading dot every host below. Local parts differ by
    case, hosts do not."""
    local, at, host = email.rpartition("@")
    if not at:
        raise Uncheckable(f"the e-mail address {_cut(email)}")
    wanted_local, wanted_at, wanted = base.rpartition("@")
    if not wanted_at and base.startswith("."):
        return email.lower().endswith(base.lower()) and len(email) > len(base)
    return host.lower() == wanted.lower() and wanted_local in ("", local)


def _is_host_of(base: str, uri: str) -> bool:
    """``base``: a host, or with a leading dot every host below it."""
    host = _host(uri)
    if base.startswith("."):
        return host.endswith(base.lower()) and len(host) > len(base)
    return host == base.lower()


def _host(uri: str) -> str:
    """Uncheckable where readers of URIs do not agree about it, and for addresses, which the RFC has
    refused."""
    _, colon, rest = uri.partition(":")
    authority = rest[2:].partition("/")[0].partition("?")[0].partition("#")[0]
    host = authority.partition(":")[0].lower()
    odd = (
        "@" in authority
        or "[" in authority
        or ":" in rest[2 + len(authority) :]
        or "?" in rest[: 3 + len(authority)]
    )
    if not colon or not rest.startswith("//") or not host or odd or host.replace(".", "").isdigit():
        raise Uncheckable(f"the URI {_cut(uri)}")
    return host


def _not_permitted(name: str) -> str:
    return f"{_cut(name)} is not permitted"


def _excluded(name: str) -> str:
    return f"{_cut(name)} is excluded"


def _cut(name: str) -> str:
    printable = "".join(
        character if character.isprintable() else "?" for character in name[:_SHOWN]
    )
    return printable + ("…" if len(name) > _SHOWN else "")
