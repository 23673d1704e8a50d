"""What the bucket holds, in memory: domain -> Held, and the digest that a checkpoint proves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from services.edge_sync.domain.bundles import Held
from shared.contracts.edge import BundlePage
from shared.crypto.digest import BUCKETS, Digest, bucket_of

REMEMBERED_ROOTS = 4096


class Index:
    """``incarnation``: when the bucket's stream was made; ``sequence``: up to where of it this is
    true.

    The last roots are remembered by sequence, so that a node a little behind can be told from one
    that differs."""

    def __init__(self, incarnation: str) -> None:
        self.incarnation, self.sequence = incarnation, 0
        self._held: dict[str, Held] = {}
        self._domains: list[set[str]] = [set() for _ in range(BUCKETS)]
        self._digest = Digest()
        self._roots: OrderedDict[int, str] = OrderedDict()
        self.moved(0)

    def __len__(self) -> int:
        return len(self._digest)

    def get(self, domain: str) -> Held | None:
        return self._held.get(domain)

    def items(self) -> Iterator[tuple[str, Held]]:
        return iter(self._held.items())

    def put(self, domain: str, held: Held) -> None:
        """``moved`` must follow: a batch costs one root."""
        self._held[domain] = held
        if held.valid:
            self._digest.put(domain, held.revision, held.hash)
            self._domains[bucket_of(domain)].add(domain)
        else:
            self._exclude(domain)

    def drop(self, domain: str) -> None:
        """``moved`` must follow."""
        self._held.pop(domain, None)
        self._exclude(domain)

    def moved(self, sequence: int) -> None:
        """The index now tells the bucket up to ``sequence``."""
        self.sequence = max(self.sequence, sequence)
        self._roots[self.sequence] = self._digest.root()
        while len(self._roots) > REMEMBERED_ROOTS:
            self._roots.popitem(last=False)

    def root(self) -> str:
        return self._roots[self.sequence]

    def agrees(self, incarnation: str, sequence: int, root: str) -> bool:
        """Whether who reports this holds exactly what the bucket held at ``sequence``."""
        return incarnation == self.incarnation and self._roots.get(sequence) == root

    def digests(self) -> list[str]:
        return self._digest.buckets()

    def members(self, bucket: int) -> list[BundlePage]:
        """In order of the domain."""
        found = ((domain, self._held[domain]) for domain in sorted(self._domains[bucket]))
        return [
            BundlePage(domain=domain, revision=held.revision, hash=held.hash)
            for domain, held in found
        ]

    def max_revision(self) -> int:
        return max((held.revision for held in self._held.values() if held.valid), default=0)

    def _exclude(self, domain: str) -> None:
        self._digest.drop(domain)
        self._domains[bucket_of(domain)].discard(domain)
