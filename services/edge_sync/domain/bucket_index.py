"""The content of the bucket of bundles in memory, and the digest that a checkpoint signs. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from services.edge_sync.domain.bundles import StoredBundle
from shared.contracts.edge import BundlePage
from shared.crypto.digest import BUCKETS, Digest, bucket_of

REMEMBERED_ROOTS = 4096


class BucketIndex:
    """Maps each domain to its StoredBundle.

    ``incarnation``: when the bucket's stream was made. ``sequence``: the index equals the bucket up
    to here. ``digests`` and ``members`` speak of the 1,024 buckets of the digest, not of NATS."""

    # A node reports the sequence and the root that it holds. Its sequence may be a little behind
    # the bucket, so the last roots are kept by sequence. A report that matches its root proves
    # the node's whole set as of then; one that does not match shows that the sets differ.

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.sequence = 0
        self._stored: dict[str, StoredBundle] = {}
        self._domains: list[set[str]] = [set() for _ in range(BUCKETS)]
        self._digest = Digest()
        self._roots: OrderedDict[int, str] = OrderedDict()
        self.advance_to(0)

    def __len__(self) -> int:
        return len(self._digest)

    def get(self, domain: str) -> StoredBundle | None:
        """Return the entry of a domain, also an invalid one."""
        return self._stored.get(domain)

    def items(self) -> Iterator[tuple[str, StoredBundle]]:
        """Iterate over every domain with its entry."""
        return iter(self._stored.items())

    def put(self, domain: str, stored: StoredBundle) -> None:
        """Set the entry of a domain. ``advance_to`` must follow, once for a whole batch: it hashes
        the root anew."""
        self._stored[domain] = stored
        if stored.valid:
            self._digest.put(domain, stored.revision, stored.hash)
            self._domains[bucket_of(domain)].add(domain)
        else:
            self._exclude_from_digest(domain)

    def drop(self, domain: str) -> None:
        """Remove the entry of a domain. ``advance_to`` must follow."""
        self._stored.pop(domain, None)
        self._exclude_from_digest(domain)

    def advance_to(self, sequence: int) -> None:
        """Note that the index equals the bucket up to ``sequence``, and remember its root."""
        self.sequence = max(self.sequence, sequence)
        self._roots[self.sequence] = self._digest.root()
        while len(self._roots) > REMEMBERED_ROOTS:
            self._roots.popitem(last=False)

    def root(self) -> str:
        """Return the digest's root at ``sequence``."""
        return self._roots[self.sequence]

    def matches(self, incarnation: str, sequence: int, root: str) -> bool:
        """Return whether ``root`` is that of this bucket at ``sequence``, as far as remembered."""
        return incarnation == self.incarnation and self._roots.get(sequence) == root

    def digests(self) -> list[str]:
        """Return the digest of each bucket."""
        return self._digest.buckets()

    def members(self, bucket: int) -> list[BundlePage]:
        """Return the valid bundles of one bucket, in order of the domain."""
        rows = []
        for domain in sorted(self._domains[bucket]):
            stored = self._stored[domain]
            rows.append(BundlePage(domain=domain, revision=stored.revision, hash=stored.hash))
        return rows

    def max_revision(self) -> int:
        """Return the highest valid revision, 0 when the bucket is empty."""
        revisions = (stored.revision for stored in self._stored.values() if stored.valid)
        return max(revisions, default=0)

    def _exclude_from_digest(self, domain: str) -> None:
        self._digest.drop(domain)
        self._domains[bucket_of(domain)].discard(domain)
