"""The answers to questions. A domain of another account is as unknown as one that is not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from services.config.domain import names, views
from services.config.store import accounts, domain_list, domain_queries
from shared.clock import Clock
from shared.contracts.accounts import AccountView, ShowAccount
from shared.contracts.base import Contract
from shared.contracts.domains import DomainView
from shared.contracts.findings import Code, finding
from shared.contracts.queries import (
    BundleAnswer,
    BundlesPage,
    DomainList,
    GetBundle,
    History,
    ListDomains,
    PageBundles,
    PageSealed,
    SealedPage,
    ShowDomain,
    ShowHistory,
    ShowSubmission,
    SubmissionView,
)
from shared.errors import Refused
from shared.storage.pool import Pool

PAGE_BYTES: Final = 480_000
"""An answer stays under 512 KB, whatever its limit says: chains may be long."""
_SEPARATOR: Final = " "
_ROW_BYTES, _PAIR_BYTES = 520, 130
ItemT = TypeVar("ItemT")


class Queries:
    """Every question of config's, on its own database."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool, self._clock = pool, clock

    async def show(self, question: ShowDomain) -> DomainView:
        found = await domain_queries.show(self._pool, names.normalise(question.domain))
        if found is None or not found.domain.owned_by(question.account):
            raise _unknown()
        return self._view(found)

    async def list(self, question: ListDomains) -> DomainList:
        """Chains are left out: a page of 500 must fit."""
        at = self._clock.now()
        found = await domain_list.page(
            self._pool, question, _after(question), at, question.limit + 1
        )
        shown, more = fit(found, question.limit, _listed_size)
        return DomainList(
            domains=[views.listed_view(one.row, one.pairs, at, one.suspension) for one in shown],
            next=_next(question, shown[-1]) if more else None,
        )

    async def account(self, question: ShowAccount) -> AccountView:
        """An account that has no domain yet is not unknown: nobody registers accounts here."""
        suspension, resumption, counts = await accounts.view(
            self._pool, question.account, self._clock.now()
        )
        return AccountView(
            account=question.account,
            suspension=suspension,
            resumption=resumption,
            domains=counts.domains,
            enabled=counts.enabled,
            disabled=counts.domains - counts.enabled - counts.suspended,
            suspended=counts.suspended,
            expiring=counts.expiring,
            expired=counts.expired,
        )

    async def history(self, question: ShowHistory) -> History:
        """Kept after a removal: an account sees what it ordered, not what the owner before or after
        it did."""
        if question.domain is None and question.account is None:
            raise Refused(
                [finding(Code.REQUEST_MALFORMED, "Name a domain or an account.", field="request")]
            )
        name = "" if question.domain is None else names.normalise(question.domain)
        rows = await domain_queries.history(
            self._pool, name, question.account, question.before, question.limit + 1
        )
        if name and not rows and question.before is None:
            raise _unknown()
        shown, more = fit(rows, question.limit, lambda row: size(domain_queries.history_entry(row)))
        entries = [domain_queries.history_entry(row) for row in shown]
        return History(entries=entries, next=shown[-1]["id"] if more else None)

    async def submission(self, question: ShowSubmission) -> SubmissionView:
        found = await domain_queries.submission(self._pool, question.submission_id)
        if found is None or question.account not in (None, found.account):
            raise _unknown()
        return found

    async def bundle(self, question: GetBundle) -> BundleAnswer:
        payload = await domain_queries.bundle(self._pool, question.domain)
        return BundleAnswer(payload=None if payload is None else payload.decode())

    async def bundles(self, question: PageBundles) -> BundlesPage:
        rows = await domain_queries.bundles(self._pool, question.after, question.limit + 1)
        shown = rows[: question.limit]
        return BundlesPage(rows=shown, next=shown[-1].domain if len(rows) > len(shown) else None)

    async def sealed(self, question: PageSealed) -> SealedPage:
        domain, _, pair = question.after.partition(_SEPARATOR)
        found = await domain_queries.sealed(
            self._pool, question.below, (domain, pair), question.limit + 1
        )
        shown, more = fit(found, question.limit, lambda one: size(one[1]))
        after = f"{shown[-1][0]}{_SEPARATOR}{shown[-1][1].pair_id}" if more else None
        return SealedPage(pairs=[pair for _, pair in shown], next=after)

    def _view(self, seen: domain_queries.Seen) -> DomainView:
        return views.domain_view(
            seen.domain, seen.live_revision, self._clock.now(), seen.suspension
        )


def _after(question: ListDomains) -> tuple[datetime | None, str]:
    """Refused when ``after`` is not the ``next`` of a page in this order."""
    if question.order == "name" or not question.after:
        return None, question.after
    ends, _, name = question.after.partition(_SEPARATOR)
    try:
        return datetime.fromisoformat(ends).astimezone(UTC), name
    except ValueError:
        raise Refused(
            [finding(Code.REQUEST_MALFORMED, "after is not the next of a page.", field="request")]
        ) from None


def _next(question: ListDomains, last: domain_list.Listed) -> str:
    name = str(last.row["name"])
    return (
        name
        if question.order == "name"
        else f"{last.row['served_until'].isoformat()}{_SEPARATOR}{name}"
    )


def fit(
    items: Sequence[ItemT], limit: int, size: Callable[[ItemT], int]
) -> tuple[list[ItemT], bool]:
    """The first ``limit`` of them, fewer where they are large but at least one; whether there are
    more."""
    shown: list[ItemT] = []
    total = 0
    for item in items[:limit]:
        total += size(item)
        if shown and total > PAGE_BYTES:
            break
        shown.append(item)
    return shown, len(shown) < len(items)


def size(item: Contract) -> int:
    return len(item.encode())


def _listed_size(one: domain_list.Listed) -> int:
    """At most what its view takes: to encode each twice would cost as much as all the rest."""
    row = one.row
    names_size = len(row["name"]) + len(row["account"]) + len(row["origin"]["host"])
    return (
        _ROW_BYTES
        + names_size
        + sum(_PAIR_BYTES + len(pair["name"]) + len(pair["facts"].encode()) for pair in one.pairs)
    )


def _unknown() -> Refused:
    return Refused([finding(Code.DOMAIN_UNKNOWN)])
