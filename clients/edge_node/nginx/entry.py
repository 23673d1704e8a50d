"""What a node holds of one domain: the entry that the agent puts into nginx's memory."""

import ipaddress
import json
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["https", "http_only", "suspended"]
KeyType = Literal["rsa", "ecdsa"]
RedirectMode = Literal["off", "to_https", "to_http"]
Pair = tuple[str, str, KeyType]
"""Chain PEM (leaf first), private key PEM, type of the key."""

TLS_VERSIONS = ("1.0", "1.1", "1.2", "1.3")
REJECT = "reject"
_PAIR_END = "\x1e"


@dataclass(frozen=True)
class Origin:
    """Where content comes from. `addresses` are `ip:port` (IPv6 in brackets), already resolved and
    checked.

    `name` is the name that an https origin's certificate must carry; empty means the visitor's
    Host.
    """

    scheme: Literal["http", "https"] = "http"
    addresses: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for anything but `ip:port`: nginx would resolve a name, and follow
        `unix:/a/path`."""
        for address in self.addresses:
            host, _, port = address.rpartition(":")
            version = ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).version
            if (
                (version == 6) != host.startswith("[")
                or not port.isdecimal()
                or not 0 < int(port) < 65536
            ):
                raise ValueError(f"{address!r} is not an address and a port")


@dataclass(frozen=True)
class Entry:
    """One domain on one node. `name` is a lower-case A-label name, `*.` first for a wildcard.

    Only kind `https` is served by HTTPS; at most one pair of each key type. The repr shows no pair.
    """

    name: str
    revision: int
    kind: Kind
    pairs: tuple[Pair, ...] = field(default=(), repr=False)
    redirect_mode: RedirectMode = "off"
    redirect_status: Literal[301, 302, 307, 308] = 301
    hsts: str = ""
    tls_min: str = "1.2"
    tls_max: str = "1.3"
    http2: bool = False
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        """Raises ValueError, naming the domain and never the pair, if the entry contradicts
        itself."""
        if (self.kind == "https") != bool(self.pairs):
            raise ValueError(f"{self.name}: an https entry has pairs, no other kind has")
        if len({key_type for _, _, key_type in self.pairs}) != len(self.pairs):
            raise ValueError(f"{self.name}: two pairs of one key type")
        if TLS_VERSIONS.index(self.tls_min) > TLS_VERSIONS.index(self.tls_max):
            raise ValueError(f"{self.name}: TLS {self.tls_min} is above {self.tls_max}")

    @property
    def policy(self) -> str:
        """The policy server that ends this domain's TLS; `reject` for what is not served by
        HTTPS."""
        return (
            policy_name(self.tls_min, self.tls_max, self.http2) if self.kind == "https" else REJECT
        )

    def to_value(self) -> str:
        """The dictionary value, as `conf/edge.js` reads it. Holds keys: never log it."""
        settings = {
            "revision": self.revision,
            "kind": self.kind,
            "redirect_mode": self.redirect_mode,
            "redirect_status": self.redirect_status,
            "hsts": self.hsts,
            "origin": {
                "scheme": self.origin.scheme,
                "addresses": self.origin.addresses,
                "name": self.origin.name,
            },
        }
        pems = _PAIR_END.join(f"{chain.strip()}\n{key.strip()}\n" for chain, key, _ in self.pairs)
        return f"{json.dumps(settings)}\n{pems}"


def policy_name(tls_min: str, tls_max: str, http2: bool) -> str:
    """Name of the policy server, e.g. `12-13-h2`. HTTP/2 needs TLS 1.2 (RFC 9113 §9.2): below it is
    off."""
    h2 = "-h2" if http2 and tls_max >= "1.2" else ""
    return f"{tls_min.replace('.', '')}-{tls_max.replace('.', '')}{h2}"


def policies() -> list[tuple[str, tuple[str, ...], bool]]:
    """Every policy: its name, its TLS versions (contiguous), and whether HTTP/2 is offered."""
    ranges = [(low, high) for low in range(4) for high in range(low, 4)]
    return [
        (
            policy_name(TLS_VERSIONS[low], TLS_VERSIONS[high], http2),
            TLS_VERSIONS[low : high + 1],
            http2,
        )
        for low, high in ranges
        for http2 in (False, True)
        if not http2 or TLS_VERSIONS[high] >= "1.2"
    ]
