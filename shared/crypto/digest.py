"""A two-level digest of a set of (domain, revision, bundle hash), which a checkpoint proves.

A domain belongs to one of 1,024 buckets by its SHA-256. A bucket's digest hashes its members in
order of the domain; the root hashes the buckets. A change costs one bucket. Two sets that differ
are compared by 32 KB of bucket digests."""

from __future__ import annotations

from hashlib import sha256

BUCKETS = 1024
_EMPTY = bytes(32)


class Digest:
    """The digest of a set that changes. ``put`` and ``drop`` are cheap; ``root`` hashes the
    changed buckets."""

    def __init__(self) -> None:
        self._members: list[dict[str, bytes]] = [{} for _ in range(BUCKETS)]
        self._digests = [_EMPTY] * BUCKETS
        self._dirty: set[int] = set()
        self._root = self._hash_root()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, domain: str, revision: int, bundle_hash: str) -> None:
        """Add a domain or replace its revision and hash."""
        bucket = bucket_of(domain)
        self._count += domain not in self._members[bucket]
        self._members[bucket][domain] = f"{domain}\0{revision}\0{bundle_hash}".encode()
        self._dirty.add(bucket)

    def drop(self, domain: str) -> None:
        """Remove a domain."""
        bucket = bucket_of(domain)
        if self._members[bucket].pop(domain, None) is not None:
            self._count -= 1
            self._dirty.add(bucket)

    def root(self) -> str:
        """Return the root as 64 hex digits: the same for the same set, in whatever order it was
        built."""
        self._refresh_buckets()
        return self._root

    def buckets(self) -> list[str]:
        """Return the digest of each bucket, in order, as hex digits."""
        self._refresh_buckets()
        return [digest.hex() for digest in self._digests]

    def _refresh_buckets(self) -> None:
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
    """Return the bucket of a domain, 0 to 1,023."""
    return int.from_bytes(sha256(domain.encode()).digest()[:2], "big") % BUCKETS
