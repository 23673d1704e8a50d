"""PostgreSQL: pool, migrations, and the delivery rule (inbox, outbox, lease)."""
