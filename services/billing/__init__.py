"""billing: HTTPS request usage in; usage, charges and balances out. Owns the ledger.

In: byte ranges of the nodes' logs (https.usage.batch.v1.<node>), single events
(https.usage.request.v1), credits, thresholds, plan purchases, price books and hour closes
(COMMANDS_BILLING), owners of domains and nodes (domain and node events). Out: confirmations, signed
(https.edge.confirmed.v1.<node>); https.event.balance.low, depleted, overdue, recovered, settled,
credited, refused; plan.purchased, price_book.applied, price_book.refused, hour.closed; answers to
usage.query, usage.logs, usage.gaps, usage.audit, charges.query, ledger.query, statement.show,
balance.show, plan.list, price_book.show, preview.

Guarantees: every request counts once, whatever is delivered twice, late or out of order: a range is
accepted only at the stored end of its log, a single event once by (source, id). One transaction
archives a batch, adds it up, accrues it to the account that owned the domain in that minute and
decides the account's flags; only then is it acked and confirmed. balance = ledger - accrued; the
ledger is append-only: usage that arrives after its hour was charged becomes a correction. An
account pays what one function of all counted requests says, in whatever order they came. The event
of a flag is published once for each crossing. Any number of these processes share the work. A
message that cannot be handled for a fault of ours is kept in quarantine in the database and tried
again; only poison becomes a dead letter.
"""
