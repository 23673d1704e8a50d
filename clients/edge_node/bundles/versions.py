"""Keep the newest signed version of every domain's bundle, and refuse older ones.

Pure: values in, decisions out; no file, no clock, no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from clients.edge_node.bundles.verify import BundleOrder
from shared.contracts.edge import BundlePage
from shared.crypto.digest import BUCKETS, Digest, bucket_of


@dataclass(frozen=True)
class BundleVersion:
    """One bundle of a domain, without its content. ``hash``: SHA-256 of the signed payload."""

    order: BundleOrder
    hash: str


class BucketDifference(NamedTuple):
    """The domains to fetch and the domains to drop, sorted, so that one digest bucket agrees."""

    fetch: list[str]
    drop: list[str]


class BundleVersions:
    """The version of every domain that this node should serve, tombstones included.

    This is the set that the bundle bucket holds, and that a checkpoint's root is computed over."""

    def __init__(self) -> None:
        self._versions: dict[str, BundleVersion] = {}
        self._domains_by_bucket: list[set[str]] = [set() for _ in range(BUCKETS)]
        self._digest = Digest()
        # A repair asks edge_sync for the members of a bucket, and live bundles arrive meanwhile.
        # The count at which a domain was accepted tells whether the members can know of it.
        self._accepted_at: dict[str, int] = {}
        self._accepted_count = 0

    def __len__(self) -> int:
        return len(self._versions)

    def __contains__(self, domain: str) -> bool:
        return domain in self._versions

    def get(self, domain: str) -> BundleVersion | None:
        """Return the version held of ``domain``, None without one."""
        return self._versions.get(domain)

    def domains(self) -> list[str]:
        """Return every domain that has a version."""
        return list(self._versions)

    def accepted_count(self) -> int:
        """Return how many versions were accepted so far: a moment, for `compare_bucket`."""
        return self._accepted_count

    def accept_newer(self, domain: str, version: BundleVersion, *, repair: bool = False) -> bool:
        """Hold ``version`` if it is newer than the held one; return False when it is refused.

        Newer means a higher revision, or the same revision at a higher epoch. With ``repair`` a
        version of equal order with another hash is accepted too: a signed root has shown that the
        held one is not the one that the bucket holds."""
        held = self._versions.get(domain)
        if held is not None:
            if version.hash == held.hash or version.order < held.order:
                return False
            if version.order == held.order and not repair:
                return False
        self._versions[domain] = version
        self._accepted_count += 1
        self._accepted_at[domain] = self._accepted_count
        self._domains_by_bucket[bucket_of(domain)].add(domain)
        self._digest.put(domain, version.order.revision, version.hash)
        return True

    def remove_domain(self, domain: str) -> None:
        """Forget a domain. Does nothing when it has no version."""
        self._versions.pop(domain, None)
        self._accepted_at.pop(domain, None)
        self._domains_by_bucket[bucket_of(domain)].discard(domain)
        self._digest.drop(domain)

    def root_digest(self) -> str:
        """Return the root over the whole set, in hex, as a checkpoint carries it."""
        return self._digest.root()

    def differing_buckets(self, digests: list[str]) -> list[int]:
        """Return the numbers of the buckets whose digest differs from the one in ``digests``."""
        numbers = []
        for number, own in enumerate(self._digest.buckets()):
            if own != digests[number]:
                numbers.append(number)
        return numbers

    def compare_bucket(
        self, bucket: int, members: list[BundlePage], moment: int
    ) -> BucketDifference:
        """Return what to fetch and to drop so that the bucket holds exactly ``members``.

        ``members`` were true at ``moment`` (see `accepted_count`): a domain that was accepted
        later is newer than they are, and is not dropped."""
        held = self._domains_by_bucket[bucket]
        wanted = {row.domain: row.hash for row in members}
        fetch = []
        for domain, wanted_hash in wanted.items():
            if domain not in held or self._versions[domain].hash != wanted_hash:
                fetch.append(domain)
        drop = []
        for domain in held - wanted.keys():
            if self._accepted_at[domain] <= moment:
                drop.append(domain)
        return BucketDifference(sorted(fetch), sorted(drop))


def proves_root(digests: list[str], root: str) -> bool:
    """Return whether unsigned bucket digests are the ones that a signed root was computed from."""
    if len(digests) != BUCKETS:
        return False
    try:
        joined = b"".join(map(bytes.fromhex, digests))
    except ValueError:
        return False
    return sha256(joined).hexdigest() == root


def proves_bucket(bucket: int, members: list[BundlePage], digest: str) -> bool:
    """Return whether unsigned members are the ones that a proven bucket digest was made from."""
    made = Digest()
    for row in members:
        if bucket_of(row.domain) != bucket:
            return False
        made.put(row.domain, row.revision, row.hash)
    return len(made) == len(members) and made.buckets()[bucket] == digest
