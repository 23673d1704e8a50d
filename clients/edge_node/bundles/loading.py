"""Read the replica at the start: verify every file again and drop what does not verify."""

from __future__ import annotations

import structlog

from clients.edge_node import metrics
from clients.edge_node.bundles.replica import Replica, Tombstone, file_name
from clients.edge_node.bundles.verify import (
    BundleOrder,
    open_bundle,
    reopen_bundle,
    verify_attestations,
)
from clients.edge_node.bundles.versions import BundleVersion, BundleVersions
from shared.crypto.signing import Verifier
from shared.errors import Poison

log = structlog.get_logger()


def load_replica(
    replica: Replica, versions: BundleVersions, edge_sync: Verifier, validator: Verifier
) -> None:
    """Fill ``versions`` from the replica and repair what a crash left behind. Blocking.

    Unlinks files that are not signed. A file under the name of another domain is ignored."""
    for name, body in replica.stored_bundles():
        try:
            domain = reopen_bundle(body).domain
            signed = open_bundle(body, domain, edge_sync)
            verify_attestations(signed.bundle, validator)
        except Poison as error:
            metrics.REJECTED.labels("replica", error.reason).inc()
            log.warning("replica.file_rejected", file=name, error=str(error))
            replica.unlink_file(name)
            continue
        if name == file_name(domain):
            versions.accept_newer(domain, BundleVersion(signed.order, signed.hash))
    for domain, tombstone in replica.tombstones().items():
        versions.accept_newer(domain, _version_of(tombstone))
    # A crash or a full disk can leave a bundle and a tombstone of one domain; the higher order
    # has won above, and the other one goes.
    current = current_tombstones(replica, versions)
    replica.remove_tombstones(replica.tombstones().keys() - current.keys())
    replica.unlink_bundles(current)


def current_tombstones(replica: Replica, versions: BundleVersions) -> dict[str, Tombstone]:
    """Return the tombstones that count.

    A domain that was registered again has a bundle of a higher order: its tombstone is void."""
    current = {}
    for domain, tombstone in replica.tombstones().items():
        if versions.get(domain) == _version_of(tombstone):
            current[domain] = tombstone
    return current


def _version_of(tombstone: Tombstone) -> BundleVersion:
    return BundleVersion(BundleOrder(tombstone.revision, tombstone.epoch), tombstone.hash)
