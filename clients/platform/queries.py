"""The questions: domains, submissions, the fleet, usage and money. Each raises Refused or
Unreachable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final, Literal, TypedDict, Unpack

from clients.platform.connection import Reach
from shared import catalogue
from shared.contracts.accounts import AccountView, ShowAccount
from shared.contracts.balance import BalanceView
from shared.contracts.domains import CertificateStatus, DomainView
from shared.contracts.ledger import LedgerRow, QueryLedger, ShowStatement, Statement
from shared.contracts.prices import PriceBookView
from shared.contracts.queries import (
    ConvergenceView,
    DomainList,
    FleetView,
    History,
    ListDomains,
    LogView,
    Nothing,
    QueryCharges,
    QueryLogs,
    QueryUsage,
    ShowBalance,
    ShowConvergence,
    ShowDomain,
    ShowHistory,
    ShowSubmission,
    SubmissionView,
)
from shared.contracts.usage import ChargeRow, Granularity, GroupBy, UsageRow


class DomainFilters(TypedDict, total=False):
    """What must hold of a listed domain, all of it: see shared.contracts.queries.ListDomains."""

    state: Literal["disabled", "enabled", "suspended"] | None
    service_type: Literal["image_small_file", "download", "video", "live_streaming"] | None
    source: Literal["custom", "stored"] | None
    certificate: CertificateStatus | None
    expires_within: int | None
    prefix: str | None
    suffix: str | None
    served_by: str | None
    covered_by: Sequence[str] | None
    order: Literal["name", "expiry"]


_SOON_SECONDS: Final = 2.0


class Queries:
    """What can be read. Lists come page by page from the platform and whole from here."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def show(self, domain: str, account: str | None = None) -> DomainView:
        """Refused (domain.unknown) when there is none in this account. No field ever holds a
        key."""
        return await self._reach.ask(
            catalogue.RPC_DOMAIN_SHOW, ShowDomain(domain=domain, account=account)
        )

    async def list_domains(
        self,
        account: str | None = None,
        *,
        after: str = "",
        limit: int = 100,
        **filters: Unpack[DomainFilters],
    ) -> DomainList:
        """One page of at most 500; ``next`` is the ``after`` of the next page with the same
        filters. Certificates come without their chains: ask ``show`` for one."""
        question = ListDomains.model_validate(
            {"account": account, "after": after, "limit": limit, **filters}
        )
        return await self._reach.ask(catalogue.RPC_DOMAIN_LIST, question)

    async def all_domains(
        self, account: str | None = None, **filters: Unpack[DomainFilters]
    ) -> AsyncIterator[DomainView]:
        """As list_domains(), all of them, a page at a time."""
        after: str | None = ""
        while after is not None:
            page = await self.list_domains(account, after=after, limit=500, **filters)
            for domain in page.domains:
                yield domain
            after = page.next

    async def account(self, account: str) -> AccountView:
        """Whether the account is suspended and why, and its domains by state."""
        return await self._reach.ask(catalogue.RPC_ACCOUNT_SHOW, ShowAccount(account=account))

    async def history(
        self,
        domain: str | None,
        account: str | None = None,
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> History:
        """Every command and its outcome, newest first; ``domain`` None: those on the account's
        library, its roots and itself. ``next`` is the ``before`` of the next page."""
        question = ShowHistory(domain=domain, account=account, before=before, limit=limit)
        return await self._reach.ask(catalogue.RPC_DOMAIN_HISTORY, question)

    async def submission(self, submission_id: str, account: str | None = None) -> SubmissionView:
        """A submission's findings in full; ``outcome`` None while it is judged. They are gone after
        a disable."""
        question = ShowSubmission(submission_id=submission_id, account=account)
        return await self._reach.ask(catalogue.RPC_SUBMISSION_SHOW, question)

    async def convergence(self, domain: str) -> ConvergenceView:
        """Which nodes have proven the domain's newest revision."""
        return await self._reach.ask(catalogue.RPC_EDGE_CONVERGENCE, ShowConvergence(domain=domain))

    async def fleet(self) -> FleetView:
        """Every node with its state and epochs, the sealing epoch, and how many domains the bucket
        holds."""
        return await self._reach.ask(catalogue.RPC_FLEET_SHOW, Nothing())

    async def usage(
        self,
        start: datetime,
        end: datetime,
        *,
        granularity: Granularity = "hour",
        by: GroupBy = "account",
        account: str | None = None,
        domain: str | None = None,
        node: str | None = None,
        zone: str = "UTC",
    ) -> list[UsageRow]:
        """Requests and bytes from ``start`` (inclusive) to ``end`` (exclusive), by account, domain
        or node, in periods of ``zone``. For what may be long: usage_rows()."""
        question = QueryUsage(
            start=start,
            end=end,
            granularity=granularity,
            by=by,
            account=account,
            domain=domain,
            node=node,
            zone=zone,
        )
        return [row async for row in self.usage_rows(question)]

    async def usage_rows(self, question: QueryUsage) -> AsyncIterator[UsageRow]:
        """However many there are, a page at a time."""
        while True:
            page = await self._reach.ask(catalogue.RPC_USAGE_QUERY, question)
            for row in page.rows:
                yield row
            if page.next is None:
                return
            question = question.model_copy(update={"after": page.next})

    async def ledger_rows(self, question: QueryLedger) -> AsyncIterator[LedgerRow]:
        """The ledger's lines of a period of bills, in order of booking, a page at a time."""
        while True:
            page = await self._reach.ask(catalogue.RPC_LEDGER_QUERY, question)
            for row in page.rows:
                yield row
            if page.next is None:
                return
            question = question.model_copy(update={"after": page.next})

    async def statement(self, question: ShowStatement) -> Statement:
        """A month of an account with all its lines. A line that joins a month that is not final
        yet, between two pages, starts it over."""
        while True:
            whole = page = await self._reach.ask(catalogue.RPC_STATEMENT_SHOW, question)
            lines = list(page.lines)
            while page.next is not None:
                following = question.model_copy(update={"after": page.next})
                page = await self._reach.ask(catalogue.RPC_STATEMENT_SHOW, following)
                lines += page.lines
            if page.totals == whole.totals:
                return whole.model_copy(update={"lines": lines, "next": None})

    async def price_book(self) -> PriceBookView:
        """What is current; Unreachable soon when nobody answers."""
        return await self._reach.ask(
            catalogue.RPC_PRICE_BOOK_SHOW, Nothing(), patience=_SOON_SECONDS
        )

    async def charges(self, account: str, start: datetime, end: datetime) -> list[ChargeRow]:
        """The ledger's charges of the hours from ``start`` to ``end``: ``price`` is for 10,000
        requests."""
        rows: list[ChargeRow] = []
        after: str | None = None
        while True:
            question = QueryCharges(account=account, start=start, end=end, after=after)
            page = await self._reach.ask(catalogue.RPC_CHARGES_QUERY, question)
            rows += page.rows
            if page.next is None:
                return rows
            after = page.next

    async def balance(self, account: str) -> BalanceView:
        """balance = ledger - accrued, in the account's currency."""
        return await self._reach.ask(catalogue.RPC_BALANCE_SHOW, ShowBalance(account=account))

    async def logs(self, node: str | None = None) -> list[LogView]:
        """How far each log of the nodes is in: complete when ``stored_to`` equals ``read_to``
        (bytes)."""
        found: list[LogView] = []
        after: str | None = ""
        while after is not None:
            page = await self._reach.ask(
                catalogue.RPC_USAGE_LOGS, QueryLogs(node=node, after=after)
            )
            found += page.logs
            after = page.next
        return found
