"""The questions about libraries, roots and commands that config answers, by subject."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.config.transport.queries import QUEUE
from services.config.usecases.library_queries import LibraryQueries
from services.config.usecases.preview import Previews
from shared import subjects
from shared.contracts.certificates import (
    CommandView,
    ListCertificates,
    Preview,
    PreviewCommand,
    RootsView,
    ShowCertificate,
    ShowCommand,
    ShowRoots,
    ShowUsage,
    StoredList,
    StoredView,
    UsagePage,
)


def library_router(queries: LibraryQueries, previews: Previews) -> NatsRouter:
    """Any replica answers."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_CERTIFICATE_SHOW, queue=QUEUE)
    async def show_certificate(question: ShowCertificate) -> StoredView:
        """A stored certificate, and how many domains it serves."""
        return await queries.show(question)

    @router.subscriber(subjects.RPC_CERTIFICATE_LIST, queue=QUEUE)
    async def list_certificates(question: ListCertificates) -> StoredList:
        """The account's library in order of the names, by page."""
        return await queries.list(question)

    @router.subscriber(subjects.RPC_CERTIFICATE_USAGE, queue=QUEUE)
    async def show_usage(question: ShowUsage) -> UsagePage:
        """Which domains a stored certificate serves, by page."""
        return await queries.usage(question)

    @router.subscriber(subjects.RPC_ROOTS_SHOW, queue=QUEUE)
    async def show_roots(question: ShowRoots) -> RootsView:
        """The account's own roots (rule D9)."""
        return await queries.roots(question)

    @router.subscriber(subjects.RPC_COMMAND_SHOW, queue=QUEUE)
    async def show_command(question: ShowCommand) -> CommandView:
        """How a command ended on each of its domains, and where it has not yet."""
        return await queries.command(question)

    @router.subscriber(subjects.RPC_COMMAND_PREVIEW, queue=QUEUE)
    async def preview_command(question: PreviewCommand) -> Preview:
        """What a command would change as things are now; nothing is done."""
        return await previews.preview(question)

    return router
