"""The answers to questions about an account's library, its roots, and how a command ended."""

from __future__ import annotations

from services.config.domain import names, views
from services.config.domain.library_entry import MARK, entry_key
from services.config.store import library_queries as reads
from services.config.usecases.queries import fit, size
from shared.clock import Clock
from shared.contracts.certificates import (
    CommandView,
    ListCertificates,
    RootsView,
    ShowCertificate,
    ShowCommand,
    ShowRoots,
    ShowUsage,
    StoredList,
    StoredView,
    UsagePage,
)
from shared.contracts.findings import Code, finding
from shared.errors import Refused
from shared.storage.pool import Pool


class LibraryQueries:
    """On config's own database; nothing here holds a key."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool, self._clock = pool, clock

    async def show(self, question: ShowCertificate) -> StoredView:
        name = names.certificate(question.name)
        found = await reads.entries(self._pool, question.account, only=name, limit=1)
        if not found:
            raise Refused([finding(Code.CERTIFICATE_UNKNOWN, field="request")])
        return self._view(found[0])

    async def list(self, question: ListCertificates) -> StoredList:
        found = await reads.entries(
            self._pool, question.account, after=question.after, limit=question.limit + 1
        )
        shown, more = fit([self._view(one) for one in found], question.limit, size)
        return StoredList(certificates=shown, next=shown[-1].name if more else None)

    async def usage(self, question: ShowUsage) -> UsagePage:
        await self.show(ShowCertificate(name=question.name, account=question.account))
        key = entry_key(question.account, question.name)
        found = await reads.uses(self._pool, key, question.after, question.limit + 1)
        shown, more = fit(found, question.limit, size)
        return UsagePage(uses=shown, next=shown[-1].domain if more else None)

    async def roots(self, question: ShowRoots) -> RootsView:
        found, set_at = await reads.roots(self._pool, question.account)
        return RootsView(roots=found, set_at=set_at)

    async def command(self, question: ShowCommand) -> CommandView:
        """``waiting`` is read first: what ends between the two is among the results."""
        waiting = await reads.waiting(self._pool, question.command_id)
        found = await reads.results(
            self._pool, question.command_id, question.account, question.after, question.limit + 1
        )
        shown, more = fit(found, question.limit, lambda one: size(one[1]))
        return CommandView(
            results=[result for _, result in shown],
            waiting=[place for place in waiting if not place.startswith(MARK)],
            next=shown[-1][0] if more else None,
        )

    def _view(self, shelved: reads.Shelved) -> StoredView:
        return views.stored_view(shelved.entry, shelved.domains, self._clock.now())
