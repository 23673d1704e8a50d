"""Every query that config answers, bound to the use case that answers it."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.config.usecases.library_queries import LibraryQueries
from services.config.usecases.preview import CommandPreviews
from services.config.usecases.queries import DomainQueries
from shared import catalogue
from shared.messaging.rpc import answer


def query_router(
    domains: DomainQueries, library: LibraryQueries, previews: CommandPreviews
) -> NatsRouter:
    """Bind the queries of config; any replica answers."""
    router = NatsRouter()
    answer(router, catalogue.RPC_DOMAIN_SHOW, domains.show_domain)
    answer(router, catalogue.RPC_DOMAIN_LIST, domains.list_domains)
    answer(router, catalogue.RPC_DOMAIN_HISTORY, domains.show_history)
    answer(router, catalogue.RPC_SUBMISSION_SHOW, domains.show_submission)
    answer(router, catalogue.RPC_ACCOUNT_SHOW, domains.show_account)
    answer(router, catalogue.RPC_BUNDLE_GET, domains.get_bundle)
    answer(router, catalogue.RPC_BUNDLE_PAGE, domains.page_bundles)
    answer(router, catalogue.RPC_PAIR_SEALED, domains.page_sealed_pairs)
    answer(router, catalogue.RPC_CERTIFICATE_SHOW, library.show_certificate)
    answer(router, catalogue.RPC_CERTIFICATE_LIST, library.list_certificates)
    answer(router, catalogue.RPC_CERTIFICATE_USAGE, library.show_usage)
    answer(router, catalogue.RPC_ROOTS_SHOW, library.show_roots)
    answer(router, catalogue.RPC_COMMAND_SHOW, library.show_command)
    answer(router, catalogue.RPC_COMMAND_PREVIEW, previews.preview_command)
    return router
