"""The questions: domains, submissions, the fleet, usage and money. Each raises Refused or Unreachable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from clients.platform.reach import Reach
from shared import subjects as s
from shared.contracts.balance import BalanceView
from shared.contracts.domains import DomainView
from shared.contracts.queries import (
    ChargesPage,
    ConvergenceView,
    DomainList,
    FleetView,
    History,
    ListDomains,
    LogsPage,
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
    UsagePage,
)
from shared.contracts.usage import ChargeRow, Granularity, GroupBy, UsageRow


class Queries:
    """What can be read. Lists come page by page from the platform and whole from here."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def show(self, domain: str, account: str | None = None) -> DomainView:
        """Refused (domain.unknown) when there is none in this account. No field ever holds a key."""
        return await self._reach.ask(s.RPC_DOMAIN_SHOW, ShowDomain(domain=domain, account=account), DomainView)

    async def list_domains(
        self, account: str | None = None, *, after: str = "", limit: int = 100
    ) -> DomainList:
        """One page of at most 500 in order of their names; ``next`` is the ``after`` of the next page."""
        question = ListDomains(account=account, after=after, limit=limit)
        return await self._reach.ask(s.RPC_DOMAIN_LIST, question, DomainList)

    async def all_domains(self, account: str | None = None) -> AsyncIterator[DomainView]:
        after: str | None = ""
        while after is not None:
            page = await self.list_domains(account, after=after)
            for domain in page.domains:
                yield domain
            after = page.next

    async def history(
        self, domain: str, account: str | None = None, *, before: int | None = None, limit: int = 100
    ) -> History:
        """Every command and its outcome, newest first; ``next`` is the ``before`` of the next page."""
        question = ShowHistory(domain=domain, account=account, before=before, limit=limit)
        return await self._reach.ask(s.RPC_DOMAIN_HISTORY, question, History)

    async def submission(self, submission_id: str, account: str | None = None) -> SubmissionView:
        """A submission's findings in full; ``outcome`` None while it is judged. They are gone after a disable."""
        question = ShowSubmission(submission_id=submission_id, account=account)
        return await self._reach.ask(s.RPC_SUBMISSION_SHOW, question, SubmissionView)

    async def convergence(self, domain: str) -> ConvergenceView:
        """Which nodes have proven the domain's newest revision."""
        return await self._reach.ask(s.RPC_EDGE_CONVERGENCE, ShowConvergence(domain=domain), ConvergenceView)

    async def fleet(self) -> FleetView:
        return await self._reach.ask(s.RPC_FLEET_SHOW, Nothing(), FleetView)

    async def usage(
        self, start: datetime, end: datetime, *, granularity: Granularity = "hour", by: GroupBy = "account",
        account: str | None = None, domain: str | None = None, node: str | None = None,
    ) -> list[UsageRow]:
        """Requests and bytes from ``start`` (inclusive) to ``end`` (exclusive), UTC, by account, domain or node."""
        rows: list[UsageRow] = []
        after: str | None = None
        while True:
            question = QueryUsage(
                start=start, end=end, granularity=granularity, by=by, account=account, domain=domain, node=node,
                after=after,
            )
            page = await self._reach.ask(s.RPC_USAGE_QUERY, question, UsagePage)
            rows += page.rows
            if page.next is None:
                return rows
            after = page.next

    async def charges(self, account: str, start: datetime, end: datetime) -> list[ChargeRow]:
        """The ledger's charges of the hours from ``start`` to ``end``: ``price`` is for 10,000 requests."""
        rows: list[ChargeRow] = []
        after: str | None = None
        while True:
            question = QueryCharges(account=account, start=start, end=end, after=after)
            page = await self._reach.ask(s.RPC_CHARGES_QUERY, question, ChargesPage)
            rows += page.rows
            if page.next is None:
                return rows
            after = page.next

    async def balance(self, account: str) -> BalanceView:
        """balance = ledger - accrued, in the account's currency."""
        return await self._reach.ask(s.RPC_BALANCE_SHOW, ShowBalance(account=account), BalanceView)

    async def logs(self, node: str | None = None) -> list[LogView]:
        """How far each log of the nodes is in: complete when ``stored_to`` equals ``read_to`` (bytes)."""
        found: list[LogView] = []
        after: str | None = ""
        while after is not None:
            page = await self._reach.ask(s.RPC_USAGE_LOGS, QueryLogs(node=node, after=after), LogsPage)
            found += page.logs
            after = page.next
        return found
