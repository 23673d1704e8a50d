"""Answer queries about domains. A domain of another account is as unknown as one that does not
exist."""

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

# An answer stays under 512 KB, whatever its limit is: chains may be long.
PAGE_BYTES: Final = 480_000
_SEPARATOR: Final = " "
# The largest encoded sizes that were seen, in bytes: a listed domain without its names, and what
# is listed of a pair.
_ROW_BYTES: Final = 520
_PAIR_BYTES: Final = 130
ItemT = TypeVar("ItemT")


class DomainQueries:
    """Queries on config's own database."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def show_domain(self, question: ShowDomain) -> DomainView:
        """Answer https.rpc.domain.show.v1."""
        name = names.normalise(question.domain)
        found = await domain_queries.load_domain(self._pool, name)
        if found is None or not found.domain.owned_by(question.account):
            raise _unknown_domain()
        return views.view_domain(
            found.domain, found.live_revision, self._clock.now(), found.suspension
        )

    async def list_domains(self, question: ListDomains) -> DomainList:
        """Answer https.rpc.domain.list.v1. Chains are left out: a page of 500 must fit."""
        at = self._clock.now()
        after = _read_after(question)
        found = await domain_list.load_page(self._pool, question, after, at, question.limit + 1)
        shown, more = cut_page(found, question.limit, _listed_size)
        domains = []
        for listed in shown:
            domains.append(
                views.view_listed_domain(listed.row, listed.pairs, at, listed.suspension)
            )
        return DomainList(domains=domains, next=_next_page(question, shown[-1]) if more else None)

    async def show_account(self, question: ShowAccount) -> AccountView:
        """Answer https.rpc.account.show.v1. Accounts are not registered here: one without domains
        is not unknown."""
        state, counts = await accounts.load_account(self._pool, question.account, self._clock.now())
        return AccountView(
            account=question.account,
            suspension=state.suspension,
            resumption=state.resumption,
            domains=counts.domains,
            enabled=counts.enabled,
            disabled=counts.domains - counts.enabled - counts.suspended,
            suspended=counts.suspended,
            expiring=counts.expiring,
            expired=counts.expired,
        )

    async def show_history(self, question: ShowHistory) -> History:
        """Answer https.rpc.domain.history.v1.

        History is kept after a removal. An account sees its own commands, and not those of the
        owner before or after it."""
        if question.domain is None and question.account is None:
            raise Refused(
                [finding(Code.REQUEST_MALFORMED, "Name a domain or an account.", field="request")]
            )
        name = "" if question.domain is None else names.normalise(question.domain)
        rows = await domain_queries.load_history(
            self._pool, name, question.account, question.before, question.limit + 1
        )
        if name and not rows and question.before is None:
            raise _unknown_domain()
        entries = [(row["id"], domain_queries.history_entry(row)) for row in rows]
        shown, more = cut_page(entries, question.limit, lambda entry: encoded_size(entry[1]))
        return History(entries=[entry for _, entry in shown], next=shown[-1][0] if more else None)

    async def show_submission(self, question: ShowSubmission) -> SubmissionView:
        """Answer https.rpc.submission.show.v1."""
        found = await domain_queries.load_submission(self._pool, question.submission_id)
        if found is None or question.account not in (None, found.account):
            raise _unknown_domain()
        return found

    async def get_bundle(self, question: GetBundle) -> BundleAnswer:
        """Answer https.rpc.bundle.get.v1."""
        payload = await domain_queries.load_bundle(self._pool, question.domain)
        return BundleAnswer(payload=None if payload is None else payload.decode())

    async def page_bundles(self, question: PageBundles) -> BundlesPage:
        """Answer https.rpc.bundle.page.v1."""
        rows = await domain_queries.load_bundle_page(self._pool, question.after, question.limit + 1)
        shown = rows[: question.limit]
        return BundlesPage(rows=shown, next=shown[-1].domain if len(rows) > len(shown) else None)

    async def page_sealed_pairs(self, question: PageSealed) -> SealedPage:
        """Answer https.rpc.pair.sealed.v1."""
        key, _, pair_id = question.after.partition(_SEPARATOR)
        found = await domain_queries.load_sealed_pairs(
            self._pool, question.below, (key, pair_id), question.limit + 1
        )
        shown, more = cut_page(found, question.limit, lambda sealed: encoded_size(sealed[1]))
        following = None
        if more:
            last_key, last_pair = shown[-1]
            following = f"{last_key}{_SEPARATOR}{last_pair.pair_id}"
        return SealedPage(pairs=[pair for _, pair in shown], next=following)


def cut_page(
    items: Sequence[ItemT], limit: int, size_of: Callable[[ItemT], int]
) -> tuple[list[ItemT], bool]:
    """Return the first ``limit`` items and whether there are more.

    Fewer where they are large (PAGE_BYTES), but at least one. ``size_of``: bytes of one item."""
    shown: list[ItemT] = []
    total = 0
    for item in items[:limit]:
        total += size_of(item)
        if shown and total > PAGE_BYTES:
            break
        shown.append(item)
    return shown, len(shown) < len(items)


def encoded_size(item: Contract) -> int:
    """Return the bytes that an item takes in an answer."""
    return len(item.encode())


def _read_after(question: ListDomains) -> tuple[datetime | None, str]:
    """Return where a page begins: the end of the last certificate before it, and its domain.

    Refused when ``after`` is not the ``next`` of a page in this order."""
    if question.order == "name" or not question.after:
        return None, question.after
    ends, _, name = question.after.partition(_SEPARATOR)
    try:
        return datetime.fromisoformat(ends).astimezone(UTC), name
    except ValueError:
        raise Refused(
            [
                finding(
                    Code.REQUEST_MALFORMED,
                    "after must be the next of an earlier page with the same order.",
                    field="request",
                )
            ]
        ) from None


def _next_page(question: ListDomains, last: domain_list.ListedDomain) -> str:
    name = str(last.row["name"])
    if question.order == "name":
        return name
    return f"{last.row['served_until'].isoformat()}{_SEPARATOR}{name}"


def _listed_size(listed: domain_list.ListedDomain) -> int:
    """Return at most the bytes that a view takes: encoding each one twice would cost as much as all
    the rest."""
    row = listed.row
    host = views.read_origin(row["origin"]).host
    size = _ROW_BYTES + len(row["name"]) + len(row["account"]) + len(host)
    for pair in listed.pairs:
        size += _PAIR_BYTES + len(pair["certificate_name"]) + len(pair["facts"].encode())
    return size


def _unknown_domain() -> Refused:
    return Refused([finding(Code.DOMAIN_UNKNOWN)])
