"""Where nodes may fetch content from (rule A5): never the fleet's own networks. Pure; nodes check
after resolution."""

from __future__ import annotations

import ipaddress
from typing import Final

from services.config.domain import names
from shared.contracts.domains import Origin
from shared.contracts.findings import Code, finding
from shared.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def check(origin: Origin, *, allow_private: bool) -> Origin:
    """The origin with its host in normal form; ``origin.forbidden`` or ``origin.invalid``
    otherwise."""
    host = origin.host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = _address(bare)
    if address is not None:
        if not allow_private and _is_forbidden(address):
            raise Refused([finding(Code.ORIGIN_FORBIDDEN, field="request")])
        return origin.model_copy(update={"host": str(address)})
    name = _name(host)
    if not allow_private and (name == "localhost" or name.endswith(".localhost")):
        raise Refused([finding(Code.ORIGIN_FORBIDDEN, field="request")])
    return origin.model_copy(update={"host": name})


def _address(text: str) -> Address | None:
    """A literal address. A host whose last label looks like a number is one too (``127.1``,
    ``0x7f000001``), as resolvers read it: such forms hide an address, so they are refused."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        last = text.rstrip(".").rpartition(".")[2].lower()
        if last.isdigit() or last.startswith("0x") or ":" in text:
            raise Refused([finding(Code.ORIGIN_INVALID, field="request")]) from None
        return None


def _name(host: str) -> str:
    """A host name in A-labels. A single label may be one of the operator's network: its address is
    what counts."""
    try:
        name = names.normalise(host) if "." in host else names.a_label(host, 1)
    except Refused as refused:
        message = refused.findings[0].message
        raise Refused([finding(Code.ORIGIN_INVALID, message, field="request")]) from None
    if name.startswith(names.WILDCARD):
        raise Refused(
            [
                finding(
                    Code.ORIGIN_INVALID, "An origin is one host, not a wildcard.", field="request"
                )
            ]
        )
    return name


def _is_forbidden(address: Address) -> bool:
    """Everything that is not public; addresses that carry an IPv4 one inside are judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return _is_forbidden(inner)
    return not address.is_global or address.is_multicast


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
