"""What a platform service can read. Lists come in pages from the services and whole from here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final, Literal, TypedDict, Unpack

from clients.platform.connection import PlatformConnection
from shared import catalogue
from shared.contracts.accounts import AccountView, ShowAccount
from shared.contracts.balance import BalanceView
from shared.contracts.certificates import (
    CommandView,
    ListCertificates,
    RootsView,
    ShowCertificate,
    ShowCommand,
    ShowRoots,
    ShowUsage,
    StoredView,
    Use,
)
from shared.contracts.domains import CertificateStatus, DomainState, DomainView, ServiceType
from shared.contracts.ledger import LedgerRow, QueryLedger, ShowStatement, Statement
from shared.contracts.names import covered
from shared.contracts.prices import ListPlans, PlanView, PriceBookView
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

_PAGE: Final = 500
_MOST_NAMES: Final = 1000
"""Names that one question about covered domains may hold."""
_PRICE_BOOK_SECONDS: Final = 2.0


class DomainFilters(TypedDict, total=False):
    """Conditions on listed domains; all that are given must hold. See
    shared.contracts.queries.ListDomains."""

    state: DomainState | Literal["disabled", "enabled", "suspended"] | None
    service_type: (
        ServiceType | Literal["image_small_file", "download", "video", "live_streaming"] | None
    )
    source: Literal["custom", "stored"] | None
    certificate: CertificateStatus | None
    expires_within: int | None
    prefix: str | None
    suffix: str | None
    served_by: str | None
    covered_by: Sequence[str] | None
    order: Literal["name", "expiry"]


class PlatformQueries:
    """Every question to the services. Refused with findings; Unreachable when no answer came. No
    answer has a field for a private key."""

    def __init__(self, connection: PlatformConnection) -> None:
        self._ask = connection.ask
        self._ask_pages = connection.ask_pages

    # Domains and certificates

    async def show(self, domain: str, account: str | None = None) -> DomainView:
        """Return a domain; Refused (domain.unknown) when the account has none of this name."""
        question = ShowDomain(domain=domain, account=account)
        return await self._ask(catalogue.RPC_DOMAIN_SHOW, question)

    async def list_domains(
        self,
        account: str | None = None,
        *,
        after: str = "",
        limit: int = 100,
        **filters: Unpack[DomainFilters],
    ) -> DomainList:
        """Return one page of at most 500 domains.

        ``next`` is the ``after`` of the next page with the same filters. Certificates come without
        their chains: ask ``show`` for one."""
        question = ListDomains.model_validate(
            {"account": account, "after": after, "limit": limit, **filters}
        )
        return await self._ask(catalogue.RPC_DOMAIN_LIST, question)

    async def all_domains(
        self, account: str | None = None, **filters: Unpack[DomainFilters]
    ) -> AsyncIterator[DomainView]:
        """Yield all domains of ``list_domains``, a page at a time."""
        question = ListDomains.model_validate({"account": account, "limit": _PAGE, **filters})
        async for page in self._ask_pages(catalogue.RPC_DOMAIN_LIST, question):
            for domain in page.domains:
                yield domain

    async def account(self, account: str) -> AccountView:
        """Return whether the account is suspended and why, and its domains by state."""
        return await self._ask(catalogue.RPC_ACCOUNT_SHOW, ShowAccount(account=account))

    async def history(
        self,
        domain: str | None,
        account: str | None = None,
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> History:
        """Return the commands and their outcomes, newest first.

        ``domain`` None: those on the account's library, its roots and itself. ``next`` is the
        ``before`` of the next page."""
        question = ShowHistory(domain=domain, account=account, before=before, limit=limit)
        return await self._ask(catalogue.RPC_DOMAIN_HISTORY, question)

    async def submission(self, submission_id: str, account: str | None = None) -> SubmissionView:
        """Return a submission with its findings in full.

        ``outcome`` is None while it is judged. The findings are gone after a disable."""
        question = ShowSubmission(submission_id=submission_id, account=account)
        return await self._ask(catalogue.RPC_SUBMISSION_SHOW, question)

    async def command(
        self, command_id: str, account: str | None = None, *, after: int = 0
    ) -> CommandView:
        """Return how a command ended so far on each of its domains, and which are missing.

        ``next`` is the ``after`` of the next page."""
        question = ShowCommand(command_id=command_id, account=account, after=after)
        return await self._ask(catalogue.RPC_COMMAND_SHOW, question)

    async def certificate(self, name: str, account: str) -> StoredView:
        """Return a stored certificate; Refused (certificate.unknown) when the library has none of
        this name."""
        question = ShowCertificate(name=name, account=account)
        return await self._ask(catalogue.RPC_CERTIFICATE_SHOW, question)

    async def certificates(self, account: str) -> AsyncIterator[StoredView]:
        """Yield the whole library, in order of the names."""
        question = ListCertificates(account=account)
        async for page in self._ask_pages(catalogue.RPC_CERTIFICATE_LIST, question):
            for certificate in page.certificates:
                yield certificate

    async def certificate_usage(self, name: str, account: str) -> list[Use]:
        """Return the domains that a stored certificate serves or that keep it for a rollback, in
        order of their names."""
        uses: list[Use] = []
        question = ShowUsage(name=name, account=account, limit=_PAGE)
        async for page in self._ask_pages(catalogue.RPC_CERTIFICATE_USAGE, question):
            uses += page.uses
        return uses

    async def certificate_fits(self, name: str, account: str) -> AsyncIterator[DomainView]:
        """Yield the account's domains that a stored certificate could serve: each of its pairs
        covers them."""
        # Names that all pairs cover, with the wildcards among them, are asked for; config compares
        # them with its domains. A domain can match a wildcard and its own name, and the names are
        # asked for in parts, so a domain may come twice: it is yielded once.
        pairs = (await self.certificate(name, account)).certificates
        names = {san for pair in pairs for san in pair.sans}
        common = sorted(san for san in names if all(covered(pair.sans, san) for pair in pairs))
        yielded: set[str] = set()
        for start in range(0, len(common), _MOST_NAMES):
            part = common[start : start + _MOST_NAMES]
            async for view in self.all_domains(account, covered_by=part):
                if view.domain not in yielded:
                    yield view
                yielded.add(view.domain)

    async def roots(self, account: str) -> RootsView:
        """Return the account's own roots."""
        return await self._ask(catalogue.RPC_ROOTS_SHOW, ShowRoots(account=account))

    # The fleet

    async def convergence(self, domain: str) -> ConvergenceView:
        """Return which nodes have proven the domain's newest revision."""
        return await self._ask(catalogue.RPC_EDGE_CONVERGENCE, ShowConvergence(domain=domain))

    async def fleet(self) -> FleetView:
        """Return every node with its state and epochs, the sealing epoch, and the number of domains
        in the bucket."""
        return await self._ask(catalogue.RPC_FLEET_SHOW, Nothing())

    async def logs(self, node: str | None = None) -> list[LogView]:
        """Return how far each log of the nodes was received.

        A log is complete when ``stored_to`` equals ``read_to`` (bytes)."""
        logs: list[LogView] = []
        async for page in self._ask_pages(catalogue.RPC_USAGE_LOGS, QueryLogs(node=node)):
            logs += page.logs
        return logs

    # Usage and money

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
        """Return requests and bytes from ``start`` (inclusive) to ``end`` (exclusive), by account,
        domain or node, in periods of ``zone``.

        ``usage_rows`` is better for what may be long."""
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
        """Yield the rows of ``usage``, a page at a time."""
        async for page in self._ask_pages(catalogue.RPC_USAGE_QUERY, question):
            for row in page.rows:
                yield row

    async def ledger_rows(self, question: QueryLedger) -> AsyncIterator[LedgerRow]:
        """Yield the ledger's lines of a period of bills in order of booking, a page at a time."""
        async for page in self._ask_pages(catalogue.RPC_LEDGER_QUERY, question):
            for row in page.rows:
                yield row

    async def statement(self, question: ShowStatement) -> Statement:
        """Return a month of an account with all its lines.

        A line may join a month that is not final between two pages. Then the totals of the pages
        differ, and reading starts over."""
        while True:
            pages = [page async for page in self._ask_pages(catalogue.RPC_STATEMENT_SHOW, question)]
            first = pages[0]
            if pages[-1].totals == first.totals:
                lines = [line for page in pages for line in page.lines]
                return first.model_copy(update={"lines": lines, "next": None})

    async def price_book(self) -> PriceBookView:
        """Return the current price book; Unreachable after 2 seconds without an answer."""
        return await self._ask(
            catalogue.RPC_PRICE_BOOK_SHOW, Nothing(), timeout=_PRICE_BOOK_SECONDS
        )

    async def charges(self, account: str, start: datetime, end: datetime) -> list[ChargeRow]:
        """Return the ledger's charges of the hours from ``start`` to ``end``; ``price`` is for
        10,000 requests."""
        rows: list[ChargeRow] = []
        question = QueryCharges(account=account, start=start, end=end)
        async for page in self._ask_pages(catalogue.RPC_CHARGES_QUERY, question):
            rows += page.rows
        return rows

    async def balance(self, account: str) -> BalanceView:
        """Return the balance (ledger - accrued) in the account's currency."""
        return await self._ask(catalogue.RPC_BALANCE_SHOW, ShowBalance(account=account))

    async def plans(self, account: str) -> list[PlanView]:
        """Return the plans that the account bought, the first to expire first, and those that have
        ended."""
        plans: list[PlanView] = []
        async for page in self._ask_pages(catalogue.RPC_PLAN_LIST, ListPlans(account=account)):
            plans += page.plans
        return plans
