"""The questions that config answers, by subject."""

from __future__ import annotations

from faststream.nats import NatsRouter

from services.config.usecases.queries import Queries
from shared import subjects
from shared.contracts.accounts import AccountView, ShowAccount
from shared.contracts.domains import DomainView
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

QUEUE = "config"


def queries_router(queries: Queries) -> NatsRouter:
    """Any replica answers."""
    router = NatsRouter()

    @router.subscriber(subjects.RPC_DOMAIN_SHOW, queue=QUEUE)
    async def show_domain(question: ShowDomain) -> DomainView:
        """A domain's state, settings and certificates (rule C2)."""
        return await queries.show(question)

    @router.subscriber(subjects.RPC_DOMAIN_LIST, queue=QUEUE)
    async def list_domains(question: ListDomains) -> DomainList:
        """Domains by what is asked of them, in order of name or expiry, by page (rule C3)."""
        return await queries.list(question)

    @router.subscriber(subjects.RPC_ACCOUNT_SHOW, queue=QUEUE)
    async def show_account(question: ShowAccount) -> AccountView:
        """Whether an account is suspended and why (rule E7), and its domains by state."""
        return await queries.account(question)

    @router.subscriber(subjects.RPC_DOMAIN_HISTORY, queue=QUEUE)
    async def show_history(question: ShowHistory) -> History:
        """Every command for a domain and its outcome, newest first (rule C4)."""
        return await queries.history(question)

    @router.subscriber(subjects.RPC_SUBMISSION_SHOW, queue=QUEUE)
    async def show_submission(question: ShowSubmission) -> SubmissionView:
        """How a submission ended, with everything that was found."""
        return await queries.submission(question)

    @router.subscriber(subjects.RPC_BUNDLE_GET, queue=QUEUE)
    async def get_bundle(question: GetBundle) -> BundleAnswer:
        """The exact bytes of a domain's desired bundle, for edge_sync to sign."""
        return await queries.bundle(question)

    @router.subscriber(subjects.RPC_BUNDLE_PAGE, queue=QUEUE)
    async def page_bundles(question: PageBundles) -> BundlesPage:
        """Revision and hash of every desired bundle, for edge_sync to compare."""
        return await queries.bundles(question)

    @router.subscriber(subjects.RPC_PAIR_SEALED, queue=QUEUE)
    async def page_sealed(question: PageSealed) -> SealedPage:
        """Kept pairs that are sealed to an older epoch, for the operator to seal anew."""
        return await queries.sealed(question)

    return router
