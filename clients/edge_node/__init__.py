"""The reference edge node: an nginx that serves HTTPS from certificates held in memory, and what
drives it.

`nginx` runs it, `dataplane` puts and removes entries (`entry`), `prove` shows that a pair loads and
is served, `meter` and `usage_log` count what was served, by byte ranges of the node's own log.

The agent (`agent` wires it): `trust` is what the node believes, `verify` what a bundle must be;
`feed` and `reconcile` bring bundles, `desired` says which one wins, `work`, `apply` and `proving`
bring it into nginx and prove it, `replica` keeps it sealed, `report` tells; `usage` and `ledger`
send counted ranges until billing has confirmed them. `python -m clients.edge_node nginx|agent`.
"""
