"""All SQL of billing. Every function takes a connection and runs in its caller's transaction.

Locks are taken in one order by everybody: owners (advisory), rows of node_logs, usage_minutes and accounts, each in
order of its key. So two processes that share the work cannot wait for each other in a circle.
"""

from shared.storage.pool import Connection, Pool

Reader = Connection | Pool
"""For a single statement: any connection will do."""
