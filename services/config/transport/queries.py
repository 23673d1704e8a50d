"""Every question that config answers, bound to the use case that answers it."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.config.usecases.library_queries import LibraryQueries
from services.config.usecases.preview import Previews
from services.config.usecases.queries import Queries
from shared import catalogue
from shared.messaging.rpc import answer


def query_router(queries: Queries, library: LibraryQueries, previews: Previews) -> NatsRouter:
    """Bind the queries of config; any replica answers."""
    router = NatsRouter()
    answer(router, catalogue.RPC_DOMAIN_SHOW, queries.show)
    answer(router, catalogue.RPC_DOMAIN_LIST, queries.list)
    answer(router, catalogue.RPC_DOMAIN_HISTORY, queries.history)
    answer(router, catalogue.RPC_SUBMISSION_SHOW, queries.submission)
    answer(router, catalogue.RPC_ACCOUNT_SHOW, queries.account)
    answer(router, catalogue.RPC_BUNDLE_GET, queries.bundle)
    answer(router, catalogue.RPC_BUNDLE_PAGE, queries.bundles)
    answer(router, catalogue.RPC_PAIR_SEALED, queries.sealed)
    answer(router, catalogue.RPC_CERTIFICATE_SHOW, library.show)
    answer(router, catalogue.RPC_CERTIFICATE_LIST, library.list)
    answer(router, catalogue.RPC_CERTIFICATE_USAGE, library.usage)
    answer(router, catalogue.RPC_ROOTS_SHOW, library.roots)
    answer(router, catalogue.RPC_COMMAND_SHOW, library.command)
    answer(router, catalogue.RPC_COMMAND_PREVIEW, previews.preview)
    return router
