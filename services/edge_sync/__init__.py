"""edge_sync takes desired state out to the nodes and brings observed state back.

Owns: nodes, epochs, the trust document, convergences (PostgreSQL); writes the buckets edge_bundles
and edge_keyrings. In: https.event.domain.changed.v1 (EVENTS), the operator's signed fleet commands
(FLEET), https.edge.status.v1.<node>; it reads desired bundles from config by
https.rpc.bundle.get.v1 and https.rpc.bundle.page.v1. Out: signed bundles (republished as
https.edge.live.>), https.edge.checkpoint.v1 each second, https.edge.progress.v1,
https.event.edge.converged.v1, https.event.edge.lagging.v1, https.event.node.*.v1. Answers:
https.rpc.edge.max_revision.v1, .edge.digest.v1, .edge.convergence.v1, .fleet.show.v1.

Guarantees: a node never gets a lower (revision, epoch); a disabled domain's pair is erased before
its successor is put; a bucket that the broker lost is rebuilt; one converged event for every
revision, also over restarts; one replica works, by lease, and another takes over within 5 s. It
never sees a private key: pairs are sealed to epochs that only the operator and the nodes can open.
"""
