"""A two-level digest of a set of (domain, revision, bundle hash): what a checkpoint proves.

1,024 buckets by the domain's SHA-256; a bucket's digest hashes its members in order of the domain,
the root hashes the buckets. A change costs one bucket; two sets that differ are compared by 32 KB
of bucket digests. Pure.
"""

from __future__ import annotations

from hashlib import sha256

BUCKETS = 1024
_EMPTY = bytes(32)


class Digest:
    """Mutable; ``put`` and ``drop`` are cheap, ``root`` recomputes what changed."""

    def __init__(self) -> None:
        self._members: list[dict[str, bytes]] = [{} for _ in range(BUCKETS)]
        self._digests = [_EMPTY] * BUCKETS
        self._dirty: set[int] = set()
        self._root = self._hash_root()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, domain: str, revision: int, bundle_hash: str) -> None:
        bucket = bucket_of(domain)
        self._count += domain not in self._members[bucket]
        self._members[bucket][domain] = f"{domain}\0{revision}\0{bundle_hash}".encode()
        self._dirty.add(bucket)

    def drop(self, domain: str) -> None:
        bucket = bucket_of(domain)
        if self._members[bucket].pop(domain, None) is not None:
            self._count -= 1
            self._dirty.add(bucket)

    def root(self) -> str:
        """Hex, 64 characters; the same for the same set, in whatever order it was built."""
        self._refresh()
        return self._root

    def buckets(self) -> list[str]:
        self._refresh()
        return [digest.hex() for digest in self._digests]

    def _refresh(self) -> None:
        if not self._dirty:
            return
        for bucket in self._dirty:
            members = self._members[bucket]
            self._digests[bucket] = (
                sha256(b"\n".join(members[domain] for domain in sorted(members))).digest()
                if members
                else _EMPTY
            )
        self._dirty.clear()
        self._root = self._hash_root()

    def _hash_root(self) -> str:
        return sha256(b"".join(self._digests)).hexdigest()


def bucket_of(domain: str) -> int:
    return int.from_bytes(sha256(domain.encode()).digest()[:2], "big") % BUCKETS
