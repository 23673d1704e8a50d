"""edge_sync brings desired state to the nodes, and observed state back.

Owns: nodes, epochs, the trust document, convergences (PostgreSQL); writes the buckets edge_bundles
and edge_keyrings. Takes: https.event.domain.changed.v1 (EVENTS), the operator's signed fleet
commands (FLEET), https.edge.status.v1.<node>. Asks config: https.rpc.bundle.get.v1 and
https.rpc.bundle.page.v1. Publishes: signed bundles (republished as https.edge.live.>),
https.edge.checkpoint.v1 each second, https.edge.progress.v1, https.event.edge.converged.v1,
https.event.edge.lagging.v1, https.event.node.*.v1. Answers: https.rpc.edge.max_revision.v1,
.edge.digest.v1, .edge.convergence.v1, .fleet.show.v1.

Guarantees: a node never gets a lower (revision, epoch). The pair of a disabled domain is erased
before its successor is put. A bucket that the broker lost is rebuilt. Each revision has one
converged event, also over restarts. One replica works, by lease, and another takes over within 5 s.
No private key comes here: pairs are sealed to epochs that only the operator and the nodes can open.
"""
