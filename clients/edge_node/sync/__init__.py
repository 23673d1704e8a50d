"""The node's part of the conversation with edge_sync: receiving bundles (`feed`), repairing the set
(`reconciler`), reporting (`status_reporter`), keeping the connection (`control_plane`) and saving
the position (`position_saver`).

This room may use NATS. It hands verified bundles to `serving` and opens no key itself.
"""
