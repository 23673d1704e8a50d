"""billing: HTTPS request usage in; usage, charges and balances out. Owns the ledger.

In: byte ranges of the nodes' logs (https.usage.batch.v1.<node>), single events
(https.usage.request.v1), credits, thresholds, plan purchases, price books and hour closes
(COMMANDS_BILLING), owners of domains and nodes (domain and node events). Out: confirmations, signed
(https.edge.confirmed.v1.<node>); https.event.balance.low, depleted, overdue, recovered, settled,
credited, refused; plan.purchased, price_book.applied, price_book.refused, hour.closed; answers to
usage.query, usage.logs, usage.gaps, usage.audit, charges.query, ledger.query, statement.show,
balance.show, plan.list, price_book.show, preview.

Guarantees: every request counts once, whatever is delivered twice, late or out of order: a range is
taken only at the stored end of its log, a single event once by (source, id). One transaction
archives a batch, adds it up, accrues it to the account that owned the domain in that minute and
decides the account's flags; only then is it acked and confirmed. balance = ledger - accrued; the
ledger is append-only: what comes after an hour was charged is a correction. What an account pays is
one function of all that was counted, whatever came first. A flag's event is published once a
crossing. Any number of these processes share the work. A message that cannot be handled for a fault
of ours is parked in the database and tried again; only poison is buried.
"""
