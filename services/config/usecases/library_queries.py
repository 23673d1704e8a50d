"""Answer queries about an account's library, its roots, and how a command ended."""

from __future__ import annotations

from services.config.domain import names, views
from services.config.domain.model import LIBRARY_PREFIX, library_key
from services.config.store import library_queries as store
from services.config.usecases.queries import cut_page, encoded_size
from shared.clock import Clock
from shared.contracts.certificates import (
    CertificateUsagePage,
    CommandView,
    ListCertificates,
    RootsView,
    ShowCertificate,
    ShowCommand,
    ShowRoots,
    ShowUsage,
    StoredList,
    StoredView,
)
from shared.contracts.findings import Code, finding
from shared.errors import Refused
from shared.storage.pool import Pool


class LibraryQueries:
    """Queries on config's own database; nothing here holds a key."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def show_certificate(self, question: ShowCertificate) -> StoredView:
        """Answer https.rpc.certificate.show.v1."""
        name = names.check_certificate_name(question.name)
        found = await store.load_library(self._pool, question.account, only=name, limit=1)
        if not found:
            raise Refused([finding(Code.CERTIFICATE_UNKNOWN, field="request")])
        return self._view(found[0])

    async def list_certificates(self, question: ListCertificates) -> StoredList:
        """Answer https.rpc.certificate.list.v1."""
        found = await store.load_library(
            self._pool, question.account, after=question.after, limit=question.limit + 1
        )
        views = [self._view(use) for use in found]
        shown, more = cut_page(views, question.limit, encoded_size)
        return StoredList(certificates=shown, next=shown[-1].name if more else None)

    async def show_usage(self, question: ShowUsage) -> CertificateUsagePage:
        """Answer https.rpc.certificate.usage.v1."""
        await self.show_certificate(ShowCertificate(name=question.name, account=question.account))
        key = library_key(question.account, question.name)
        uses = await store.load_uses(self._pool, key, question.after, question.limit + 1)
        shown, more = cut_page(uses, question.limit, encoded_size)
        return CertificateUsagePage(uses=shown, next=shown[-1].domain if more else None)

    async def show_roots(self, question: ShowRoots) -> RootsView:
        """Answer https.rpc.roots.show.v1."""
        roots, set_at = await store.load_account_roots(self._pool, question.account)
        return RootsView(roots=roots, set_at=set_at)

    async def show_command(self, question: ShowCommand) -> CommandView:
        """Answer https.rpc.command.show.v1.

        What waits is read first: what ends between the two reads is among the results."""
        waiting = await store.load_waiting_keys(self._pool, question.command_id)
        results = await store.load_results(
            self._pool, question.command_id, question.account, question.after, question.limit + 1
        )
        shown, more = cut_page(results, question.limit, lambda result: encoded_size(result[1]))
        return CommandView(
            results=[result for _, result in shown],
            waiting=[key for key in waiting if not key.startswith(LIBRARY_PREFIX)],
            next=shown[-1][0] if more else None,
        )

    def _view(self, use: store.EntryUse) -> StoredView:
        return views.view_entry(use.entry, use.domains, self._clock.now())
