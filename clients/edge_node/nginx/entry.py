"""One domain as this node's nginx holds it: the entry that the agent puts into nginx's memory.

Pure: it builds and checks values; no file, no clock, no network.
"""

import ipaddress
import json
from dataclasses import dataclass, field
from typing import Literal

EntryKind = Literal["https", "http_only", "suspended"]
KeyType = Literal["rsa", "ecdsa"]
RedirectMode = Literal["off", "to_https", "to_http"]
PemPair = tuple[str, str, KeyType]
"""Chain PEM (leaf first), private key PEM, type of the key."""

TLS_VERSIONS = ("1.0", "1.1", "1.2", "1.3")
REJECT_POLICY = "reject"
_PAIR_SEPARATOR = "\x1e"


def _split_address(address: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    host, _, port = address.rpartition(":")
    return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")), int(port)


@dataclass(frozen=True)
class EntryOrigin:
    """The origin that nginx fetches a domain's content from.

    ``addresses`` are ``ip:port`` (IPv6 in brackets), already resolved and checked, all with one
    port. ``name`` is the name that an https origin's certificate must carry; empty means the
    visitor's Host."""

    scheme: Literal["http", "https"] = "http"
    addresses: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for anything but ``ip:port``, and for two ports.

        nginx would resolve a name, and would follow ``unix:/a/path``."""
        for address in self.addresses:
            host, _, port = address.rpartition(":")
            version = ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).version
            has_brackets = host.startswith("[")
            port_is_valid = port.isdecimal() and 0 < int(port) < 65536
            if has_brackets != (version == 6) or not port_is_valid:
                raise ValueError(f"{address!r} is not an address and a port")
        if len({port for _, port in map(_split_address, self.addresses)}) > 1:
            raise ValueError("the addresses of an origin have one port")

    def to_value(self) -> dict[str, object]:
        """Return the origin as `conf/edge.js` reads it.

        A host is the address as nginx writes it, and the address in hex for `conf/resolver.js`."""
        hosts = []
        port = 0
        for address in self.addresses:
            ip, port = _split_address(address)
            hosts.append((address, ip.packed.hex()))
        return {"scheme": self.scheme, "hosts": hosts, "port": port, "name": self.name}


@dataclass(frozen=True)
class NginxEntry:
    """One domain on one node. ``name``: a lower-case A-label name, `*.` first for a wildcard.

    Only kind ``https`` is served over HTTPS, with at most one pair of each key type. The repr shows
    no pair."""

    name: str
    revision: int
    kind: EntryKind
    pairs: tuple[PemPair, ...] = field(default=(), repr=False)
    redirect_mode: RedirectMode = "off"
    redirect_status: Literal[301, 302, 307, 308] = 301
    hsts: str = ""
    tls_min: str = "1.2"
    tls_max: str = "1.3"
    http2: bool = False
    origin: EntryOrigin = EntryOrigin()

    def __post_init__(self) -> None:
        """Raise ValueError if the entry contradicts itself. The text never holds a pair."""
        if (self.kind == "https") != bool(self.pairs):
            raise ValueError(f"{self.name}: an https entry has pairs, no other kind has")
        if len({key_type for _, _, key_type in self.pairs}) != len(self.pairs):
            raise ValueError(f"{self.name}: two pairs of one key type")
        if TLS_VERSIONS.index(self.tls_min) > TLS_VERSIONS.index(self.tls_max):
            raise ValueError(f"{self.name}: TLS {self.tls_min} is above {self.tls_max}")

    @property
    def policy(self) -> str:
        """Return the policy server that terminates this domain's TLS; `reject` without HTTPS."""
        if self.kind != "https":
            return REJECT_POLICY
        return policy_name(self.tls_min, self.tls_max, self.http2)

    def to_value(self) -> str:
        """Return the dictionary value that `conf/edge.js` reads. It holds keys: never log it."""
        settings = {
            "revision": self.revision,
            "kind": self.kind,
            "redirect_mode": self.redirect_mode,
            "redirect_status": self.redirect_status,
            "hsts": self.hsts,
            "origin": self.origin.to_value(),
        }
        pems = [f"{chain.strip()}\n{key.strip()}\n" for chain, key, _ in self.pairs]
        return f"{json.dumps(settings)}\n{_PAIR_SEPARATOR.join(pems)}"


@dataclass(frozen=True)
class TlsPolicy:
    """A policy server: its name, its TLS versions (contiguous), and whether it offers HTTP/2."""

    name: str
    versions: tuple[str, ...]
    http2: bool


def policy_name(tls_min: str, tls_max: str, http2: bool) -> str:
    """Return the name of the policy server, for example `12-13-h2`.

    HTTP/2 needs TLS 1.2 (RFC 9113 §9.2): below it HTTP/2 is off."""
    name = f"{tls_min.replace('.', '')}-{tls_max.replace('.', '')}"
    if http2 and tls_max >= "1.2":
        name += "-h2"
    return name


def list_policies() -> list[TlsPolicy]:
    """Return every policy: the ten contiguous TLS ranges, with HTTP/2 where TLS 1.2 is allowed."""
    policies = []
    for low in range(len(TLS_VERSIONS)):
        for high in range(low, len(TLS_VERSIONS)):
            versions = TLS_VERSIONS[low : high + 1]
            for http2 in (False, True):
                if http2 and versions[-1] < "1.2":
                    continue
                name = policy_name(versions[0], versions[-1], http2)
                policies.append(TlsPolicy(name, versions, http2))
    return policies
