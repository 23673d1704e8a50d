"""Where nodes may fetch content from (rule A5): never inside the fleet's own networks. Nodes check
again after they resolved a name. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

from services.config.domain import names
from shared.contracts.domains import Origin
from shared.contracts.findings import Code, finding
from shared.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def check_origin(origin: Origin, *, allow_private: bool) -> Origin:
    """Return the origin with its host in normal form.

    Refused with ``origin.forbidden`` or ``origin.invalid``. ``allow_private`` takes hosts inside
    the fleet's own networks."""
    host = origin.host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = _parse_address(bare)
    if address is not None:
        if not allow_private and _is_forbidden(address):
            raise Refused([finding(Code.ORIGIN_FORBIDDEN, field="request")])
        return origin.model_copy(update={"host": str(address)})
    name = _normalise_host(host)
    if not allow_private and (name == "localhost" or name.endswith(".localhost")):
        raise Refused([finding(Code.ORIGIN_FORBIDDEN, field="request")])
    return origin.model_copy(update={"host": name})


def _parse_address(text: str) -> Address | None:
    """Return a literal address, None for a host name.

    Refused for a host whose last label looks like a number (``127.1``, ``0x7f000001``): resolvers
    read it as an address, and such forms hide one."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        last = text.rstrip(".").rpartition(".")[2].lower()
        if last.isdigit() or last.startswith("0x") or ":" in text:
            raise Refused([finding(Code.ORIGIN_INVALID, field="request")]) from None
        return None


def _normalise_host(host: str) -> str:
    """Return a host name in A-labels. A single label may be a name in the operator's network: nodes
    check its address."""
    try:
        name = names.normalise(host) if "." in host else names.a_label(host, 1)
    except Refused as refused:
        message = refused.findings[0].message
        raise Refused([finding(Code.ORIGIN_INVALID, message, field="request")]) from None
    if name.startswith(names.WILDCARD):
        message = "An origin is one host, not a wildcard."
        raise Refused([finding(Code.ORIGIN_INVALID, message, field="request")])
    return name


def _is_forbidden(address: Address) -> bool:
    """Return whether an address is not public. An address that carries an IPv4 address inside is
    judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded_ipv4(address)
        if inner is not None:
            return _is_forbidden(inner)
    return not address.is_global or address.is_multicast


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
