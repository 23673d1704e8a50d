"""The questions that billing answers, each bound to the method that answers it."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.billing.usecases.queries import BillingQueries
from shared import catalogue
from shared.messaging.rpc import answer


def query_router(queries: BillingQueries) -> NatsRouter:
    """Bind the queries of billing. Any replica answers."""
    router = NatsRouter()
    answer(router, catalogue.RPC_USAGE_QUERY, queries.query_usage)
    answer(router, catalogue.RPC_USAGE_LOGS, queries.query_logs)
    answer(router, catalogue.RPC_USAGE_GAPS, queries.query_gaps)
    answer(router, catalogue.RPC_USAGE_AUDIT, queries.run_audit)
    answer(router, catalogue.RPC_CHARGES_QUERY, queries.query_charges)
    answer(router, catalogue.RPC_LEDGER_QUERY, queries.query_ledger)
    answer(router, catalogue.RPC_STATEMENT_SHOW, queries.show_statement)
    answer(router, catalogue.RPC_BALANCE_SHOW, queries.show_balance)
    answer(router, catalogue.RPC_PLAN_LIST, queries.list_plans)
    answer(router, catalogue.RPC_PRICE_BOOK_SHOW, queries.show_price_book)
    answer(router, catalogue.RPC_PRICE_BOOK_PREVIEW, queries.preview_price_book)
    return router
