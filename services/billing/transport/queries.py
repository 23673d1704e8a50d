"""Every question that billing answers, bound to the use case that answers it."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.billing.usecases.queries import BillingQueries
from shared import catalogue
from shared.messaging.rpc import answer


def query_router(queries: BillingQueries) -> NatsRouter:
    """Bind the queries of billing; any replica answers."""
    router = NatsRouter()
    answer(router, catalogue.RPC_USAGE_QUERY, queries.usage)
    answer(router, catalogue.RPC_USAGE_LOGS, queries.logs)
    answer(router, catalogue.RPC_USAGE_GAPS, queries.gaps)
    answer(router, catalogue.RPC_USAGE_AUDIT, queries.audit)
    answer(router, catalogue.RPC_CHARGES_QUERY, queries.charges)
    answer(router, catalogue.RPC_LEDGER_QUERY, queries.ledger)
    answer(router, catalogue.RPC_STATEMENT_SHOW, queries.statement)
    answer(router, catalogue.RPC_BALANCE_SHOW, queries.balance)
    answer(router, catalogue.RPC_PLAN_LIST, queries.plans)
    answer(router, catalogue.RPC_PRICE_BOOK_SHOW, queries.price_book)
    answer(router, catalogue.RPC_PRICE_BOOK_PREVIEW, queries.preview)
    return router
