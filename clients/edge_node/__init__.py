"""The reference edge node: an nginx that serves HTTPS from certificates in memory, and its agent.

The rooms, each above those that it uses:

- `agent` and `nginx_program` wire the two programs (``python -m clients.edge_node agent|nginx``)
- `sync/` receives bundles, repairs gaps, reports the status, keeps the connection
- `serving/` opens and checks pairs, puts bundles into nginx and proves them by a handshake
- `usage/` counts nginx's logs and sends them until billing has confirmed them
- `bundles/` verifies bundles, refuses older revisions (`bundles/versions.py`), stores the replica
- `trust` holds the operator's key, the trust document and the keyring
- `nginx/` has the configuration, the control sockets and handshakes of nginx
- `settings`, `metrics` and `rejections` (messages that were not believed) serve all of them
"""
