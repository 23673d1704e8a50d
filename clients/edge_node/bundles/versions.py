"""Which bundle of each domain the node has been told to serve: the newest signed one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from clients.edge_node.bundles.verify import Order
from shared.contracts.edge import BundlePage
from shared.crypto.digest import BUCKETS, Digest, bucket_of


@dataclass(frozen=True)
class Version:
    order: Order
    hash: str


class Desired:
    """Every domain's version, tombstones included: what the bucket holds, and what a checkpoint's
    root is over."""

    def __init__(self) -> None:
        self._versions: dict[str, Version] = {}
        self._buckets: list[set[str]] = [set() for _ in range(BUCKETS)]
        self._digest = Digest()
        self._takes: dict[str, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._versions)

    def __contains__(self, domain: str) -> bool:
        return domain in self._versions

    def get(self, domain: str) -> Version | None:
        return self._versions.get(domain)

    def domains(self) -> list[str]:
        return list(self._versions)

    def mark(self) -> int:
        """A moment, for ``compare``."""
        return self._clock

    def offer(self, domain: str, version: Version, *, repair: bool = False) -> bool:
        """Takes a newer version; False when it is not. ``repair``: one of equal order with other
        content is taken as well, because a signed root says that the held one is not what is
        wanted."""
        held = self._versions.get(domain)
        if held is not None:
            if version.hash == held.hash or version.order < held.order:
                return False
            if version.order == held.order and not repair:
                return False
        self._versions[domain] = version
        self._clock += 1
        self._takes[domain] = self._clock
        self._buckets[bucket_of(domain)].add(domain)
        self._digest.put(domain, version.order.revision, version.hash)
        return True

    def drop(self, domain: str) -> None:
        self._versions.pop(domain, None)
        self._takes.pop(domain, None)
        self._buckets[bucket_of(domain)].discard(domain)
        self._digest.drop(domain)

    def root(self) -> str:
        return self._digest.root()

    def differing(self, digests: list[str]) -> list[int]:
        """Numbers of the buckets whose digest is another one."""
        return [
            n
            for n, (own, other) in enumerate(zip(self._digest.buckets(), digests, strict=True))
            if own != other
        ]

    def compare(
        self, bucket: int, members: list[BundlePage], mark: int
    ) -> tuple[list[str], list[str]]:
        """(domains to fetch, domains to drop) so that the bucket holds ``members``, which were true
        at ``mark``: what was taken later is newer than they are."""
        wanted = {row.domain: row.hash for row in members}
        held = self._buckets[bucket]
        fetch = [
            name
            for name, want in wanted.items()
            if name not in held or self._versions[name].hash != want
        ]
        return sorted(fetch), sorted(
            name for name in held - wanted.keys() if self._takes[name] <= mark
        )


def proves_root(digests: list[str], root: str) -> bool:
    """Whether unsigned bucket digests are those that a signed root was made of."""
    try:
        return (
            len(digests) == BUCKETS
            and sha256(b"".join(map(bytes.fromhex, digests))).hexdigest() == root
        )
    except ValueError:
        return False


def proves_bucket(bucket: int, members: list[BundlePage], digest: str) -> bool:
    """Whether unsigned members are those that a proven bucket digest was made of."""
    made = Digest()
    for row in members:
        if bucket_of(row.domain) != bucket:
            return False
        made.put(row.domain, row.revision, row.hash)
    return len(made) == len(members) and made.buckets()[bucket] == digest
