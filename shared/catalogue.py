"""The catalogue: one row for each subject that the product speaks on.

A row says what the body is, who sends it, who receives it, which stream keeps it, and what the
answer is. Everything else is derived from the rows: the streams' subjects (``shared/streams.py``),
the rights of every NATS user (``shared/topology.py``), the registration of queries
(``shared/messaging/rpc.py``) and the AsyncAPI documents (``tools/docs.py``).

Senders and receivers are services (``config``) or NATS accounts (``PLATFORM``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from shared.catalogue_row import (
    KINDS,
    AnswerT,
    Direction,
    Kind,
    Query,
    QuestionT,
    Subject,
)
from shared.catalogue_row import (
    ROWS as ROWS,
)
from shared.contracts import (
    accounts,
    audit,
    balance,
    certificates,
    commands,
    domains,
    edge,
    judging,
    ledger,
    prices,
    queries,
    usage,
)
from shared.contracts.base import Contract, Signed
from shared.subjects import (
    BILLING,
    CONFIG,
    EDGE,
    EDGE_SYNC,
    FINANCE,
    OPERATOR,
    PLATFORM,
    SERVICES,
    STREAM_COMMANDS_BILLING,
    STREAM_COMMANDS_CONFIG,
    STREAM_EVENTS,
    STREAM_FLEET,
    STREAM_JUDGING,
    STREAM_USAGE,
    VALIDATOR,
)

DOMAIN_READERS: Final = (PLATFORM, OPERATOR)
MONEY_READERS: Final = (PLATFORM, OPERATOR, FINANCE)
_COMMAND_STREAMS: Final = {
    CONFIG: STREAM_COMMANDS_CONFIG,
    BILLING: STREAM_COMMANDS_BILLING,
    EDGE_SYNC: STREAM_FLEET,
}


def _command(
    address: str,
    receiver: str,
    body: type[Contract],
    *senders: str,
    signed: type[Contract] | None = None,
    carries_key: bool = False,
) -> Subject:
    return Subject(
        "command",
        address,
        body,
        senders=senders,
        receivers=(receiver,),
        stream=_COMMAND_STREAMS[receiver],
        signed=signed,
        carries_key=carries_key,
    )


def _operator_command(address: str, signed: type[Contract]) -> Subject:
    """A command that the operator signs: edge_sync believes the signature, not the sender."""
    return _command(address, EDGE_SYNC, Signed, OPERATOR, signed=signed)


def _event(address: str, sender: str, body: type[Contract], *services: str) -> Subject:
    """Every event is heard by PLATFORM and OPERATOR; ``services`` take it by a durable consumer."""
    return Subject(
        "event",
        address,
        body,
        senders=(sender,),
        receivers=(*services, PLATFORM, OPERATOR),
        stream=STREAM_EVENTS,
    )


def _message(
    address: str, body: type[Contract], sender: str, receiver: str, stream: str | None = None
) -> Subject:
    return Subject(
        "message",
        address,
        body,
        senders=(sender,),
        receivers=(receiver,),
        stream=stream,
        carries_key=stream == STREAM_JUDGING,
    )


# Commands to config
CMD_DOMAIN_REGISTER: Final = _command(
    "https.cmd.domain.register.v1", CONFIG, commands.RegisterDomain, PLATFORM
)
CMD_DOMAIN_REMOVE: Final = _command(
    "https.cmd.domain.remove.v1", CONFIG, commands.RemoveDomain, PLATFORM
)
CMD_CERTIFICATE_SUBMIT: Final = _command(
    "https.cmd.certificate.submit.v1",
    CONFIG,
    commands.SubmitCertificate,
    PLATFORM,
    carries_key=True,
)
CMD_HTTPS_DISABLE: Final = _command(
    "https.cmd.https.disable.v1", CONFIG, commands.DisableHttps, PLATFORM
)
CMD_SETTINGS_CHANGE: Final = _command(
    "https.cmd.settings.change.v1", CONFIG, commands.ChangeSettings, PLATFORM
)
CMD_PAIR_RESEAL: Final = _command(
    "https.cmd.pair.reseal.v1", CONFIG, commands.ResealPair, OPERATOR, carries_key=True
)
CMD_CERTIFICATE_STORE: Final = _command(
    "https.cmd.certificate.store.v1",
    CONFIG,
    certificates.StoreCertificate,
    PLATFORM,
    carries_key=True,
)
CMD_CERTIFICATE_DEPLOY: Final = _command(
    "https.cmd.certificate.deploy.v1", CONFIG, certificates.DeployCertificate, PLATFORM
)
CMD_CERTIFICATE_DELETE: Final = _command(
    "https.cmd.certificate.delete.v1", CONFIG, certificates.DeleteCertificate, PLATFORM
)
CMD_CERTIFICATE_ROLLBACK: Final = _command(
    "https.cmd.certificate.rollback.v1", CONFIG, certificates.RollbackCertificate, PLATFORM
)
CMD_ROOTS_SET: Final = _command("https.cmd.roots.set.v1", CONFIG, certificates.SetRoots, PLATFORM)
CMD_ACCOUNT_RESUMPTION: Final = _command(
    "https.cmd.account.resumption.v1", CONFIG, accounts.SetResumption, PLATFORM, OPERATOR
)
CMD_ACCOUNT_RESUME: Final = _command(
    "https.cmd.account.resume.v1", CONFIG, accounts.ResumeAccount, PLATFORM, OPERATOR
)

# Commands to billing
CMD_BALANCE_CREDIT: Final = _command(
    "https.cmd.balance.credit.v1", BILLING, commands.CreditBalance, PLATFORM, OPERATOR
)
CMD_BALANCE_THRESHOLD: Final = _command(
    "https.cmd.balance.threshold.v1", BILLING, commands.SetThreshold, PLATFORM, OPERATOR
)
CMD_HOUR_CLOSE: Final = _command("https.cmd.hour.close.v1", BILLING, commands.CloseHour, OPERATOR)
CMD_PLAN_PURCHASE: Final = _command(
    "https.cmd.plan.purchase.v1", BILLING, commands.PurchasePlan, PLATFORM, OPERATOR
)
CMD_PRICE_BOOK_APPLY: Final = _command(
    "https.cmd.price_book.apply.v1", BILLING, commands.ApplyPriceBook, OPERATOR
)

# Commands to edge_sync
CMD_NODE_ENROL: Final = _operator_command("https.cmd.node.enrol.v1", commands.EnrolNode)
CMD_NODE_DRAIN: Final = _operator_command("https.cmd.node.drain.v1", commands.DrainNode)
CMD_NODE_REMOVE: Final = _operator_command("https.cmd.node.remove.v1", commands.RemoveNode)
CMD_NODE_LABEL: Final = _operator_command("https.cmd.node.label.v1", commands.LabelNode)
CMD_EPOCH_START: Final = _operator_command("https.cmd.epoch.start.v1", commands.StartEpoch)
CMD_TRUST_PUBLISH: Final = _operator_command("https.cmd.trust.publish.v1", commands.TrustDocument)

# Judging: config asks the validator, which answers with a verdict
JUDGE_SUBMISSION: Final = _message(
    "https.judge.submission.v1", judging.JudgeSubmission, CONFIG, VALIDATOR, STREAM_JUDGING
)
VERDICT_SUBMISSION: Final = _message(
    "https.verdict.submission.v1", judging.Verdict, VALIDATOR, CONFIG, STREAM_JUDGING
)

# Events
EVENT_CERTIFICATE_EXPIRING: Final = _event(
    "https.event.certificate.expiring.v1", CONFIG, domains.CertificateExpiring
)
EVENT_CERTIFICATE_EXPIRED: Final = _event(
    "https.event.certificate.expired.v1", CONFIG, domains.CertificateExpired
)
EVENT_DOMAIN_REGISTERED: Final = _event(
    "https.event.domain.registered.v1", CONFIG, domains.DomainRegistered, BILLING
)
EVENT_DOMAIN_REMOVED: Final = _event(
    "https.event.domain.removed.v1", CONFIG, domains.DomainRemoved, BILLING
)
EVENT_DOMAIN_CHANGED: Final = _event(
    "https.event.domain.changed.v1", CONFIG, domains.DomainChanged, EDGE_SYNC
)
EVENT_COMMAND_SETTLED: Final = _event(
    "https.event.command.settled.v1", CONFIG, domains.CommandSettled
)
EVENT_EDGE_CONVERGED: Final = _event(
    "https.event.edge.converged.v1", EDGE_SYNC, edge.Converged, CONFIG
)
EVENT_EDGE_LAGGING: Final = _event("https.event.edge.lagging.v1", EDGE_SYNC, edge.Lagging)
EVENT_NODE_ENROLLED: Final = _event(
    "https.event.node.enrolled.v1", EDGE_SYNC, edge.NodeEvent, BILLING
)
EVENT_NODE_DRAINED: Final = _event(
    "https.event.node.drained.v1", EDGE_SYNC, edge.NodeEvent, BILLING
)
EVENT_NODE_RETURNED: Final = _event(
    "https.event.node.returned.v1", EDGE_SYNC, edge.NodeEvent, BILLING
)
EVENT_NODE_LABELLED: Final = _event(
    "https.event.node.labelled.v1", EDGE_SYNC, edge.NodeEvent, BILLING
)
EVENT_NODE_REMOVED: Final = _event(
    "https.event.node.removed.v1", EDGE_SYNC, edge.NodeEvent, BILLING
)
EVENT_BALANCE_LOW: Final = _event("https.event.balance.low.v1", BILLING, balance.BalanceEvent)
EVENT_BALANCE_DEPLETED: Final = _event(
    "https.event.balance.depleted.v1", BILLING, balance.BalanceEvent
)
EVENT_BALANCE_RECOVERED: Final = _event(
    "https.event.balance.recovered.v1", BILLING, balance.BalanceEvent
)
EVENT_BALANCE_SETTLED: Final = _event(
    "https.event.balance.settled.v1", BILLING, balance.BalanceEvent, CONFIG
)
EVENT_BALANCE_CREDITED: Final = _event(
    "https.event.balance.credited.v1", BILLING, balance.BalanceEvent
)
EVENT_BALANCE_REFUSED: Final = _event(
    "https.event.balance.refused.v1", BILLING, balance.BalanceEvent
)
EVENT_BALANCE_OVERDUE: Final = _event(
    "https.event.balance.overdue.v1", BILLING, balance.BalanceEvent, CONFIG
)
EVENT_PLAN_PURCHASED: Final = _event("https.event.plan.purchased.v1", BILLING, prices.PlanEvent)
EVENT_PRICE_BOOK_APPLIED: Final = _event(
    "https.event.price_book.applied.v1", BILLING, prices.PriceBookEvent
)
EVENT_PRICE_BOOK_REFUSED: Final = _event(
    "https.event.price_book.refused.v1", BILLING, prices.PriceBookEvent
)
EVENT_HOUR_CLOSED: Final = _event("https.event.hour.closed.v1", BILLING, ledger.HourClosed)

# Usage
# Nodes send it, each under its own id. billing may publish it again: the replay of a dead letter.
USAGE_BATCH: Final = _message(
    "https.usage.batch.v1.{node}", usage.UsageBatch, EDGE, BILLING, STREAM_USAGE
)
USAGE_REQUEST: Final = _message(
    "https.usage.request.v1", usage.HttpsRequest, PLATFORM, BILLING, STREAM_USAGE
)

# Between the fleet and the services: core NATS, not kept
EDGE_STATUS: Final = _message("https.edge.status.v1.{node}", edge.NodeStatus, EDGE, EDGE_SYNC)
EDGE_LIVE: Final = Subject(
    "message",
    "https.edge.live.{key}",
    Signed,
    senders=(EDGE_SYNC,),
    receivers=(EDGE,),
    signed=edge.Bundle,
    republished=True,
)
EDGE_CHECKPOINT: Final = Subject(
    "message",
    "https.edge.checkpoint.v1",
    Signed,
    senders=(EDGE_SYNC,),
    receivers=(EDGE,),
    signed=edge.Checkpoint,
)
EDGE_PROGRESS: Final = Subject(
    "message",
    "https.edge.progress.v1",
    edge.Progress,
    senders=(EDGE_SYNC,),
    receivers=(PLATFORM, OPERATOR),
)
EDGE_CONFIRMED: Final = Subject(
    "message",
    "https.edge.confirmed.v1.{node}",
    Signed,
    senders=(BILLING,),
    receivers=(EDGE,),
    signed=usage.Confirmation,
)

# Queries to the validator
RPC_CERTIFICATE_CHECK: Final = Query(
    "https.rpc.certificate.check.v1",
    VALIDATOR,
    judging.CheckCertificate,
    judging.CheckReport,
    (PLATFORM,),
)

# Queries to config
RPC_DOMAIN_SHOW: Final = Query(
    "https.rpc.domain.show.v1", CONFIG, queries.ShowDomain, domains.DomainView, DOMAIN_READERS
)
RPC_DOMAIN_LIST: Final = Query(
    "https.rpc.domain.list.v1", CONFIG, queries.ListDomains, queries.DomainList, DOMAIN_READERS
)
RPC_DOMAIN_HISTORY: Final = Query(
    "https.rpc.domain.history.v1", CONFIG, queries.ShowHistory, queries.History, DOMAIN_READERS
)
RPC_CERTIFICATE_SHOW: Final = Query(
    "https.rpc.certificate.show.v1",
    CONFIG,
    certificates.ShowCertificate,
    certificates.StoredView,
    DOMAIN_READERS,
)
RPC_CERTIFICATE_LIST: Final = Query(
    "https.rpc.certificate.list.v1",
    CONFIG,
    certificates.ListCertificates,
    certificates.StoredList,
    DOMAIN_READERS,
)
RPC_CERTIFICATE_USAGE: Final = Query(
    "https.rpc.certificate.usage.v1",
    CONFIG,
    certificates.ShowUsage,
    certificates.CertificateUsagePage,
    DOMAIN_READERS,
)
RPC_ROOTS_SHOW: Final = Query(
    "https.rpc.roots.show.v1",
    CONFIG,
    certificates.ShowRoots,
    certificates.RootsView,
    DOMAIN_READERS,
)
RPC_COMMAND_SHOW: Final = Query(
    "https.rpc.command.show.v1",
    CONFIG,
    certificates.ShowCommand,
    certificates.CommandView,
    DOMAIN_READERS,
)
RPC_COMMAND_PREVIEW: Final = Query(
    "https.rpc.command.preview.v1",
    CONFIG,
    certificates.PreviewCommand,
    certificates.Preview,
    DOMAIN_READERS,
)
RPC_SUBMISSION_SHOW: Final = Query(
    "https.rpc.submission.show.v1",
    CONFIG,
    queries.ShowSubmission,
    queries.SubmissionView,
    DOMAIN_READERS,
)
RPC_ACCOUNT_SHOW: Final = Query(
    "https.rpc.account.show.v1", CONFIG, accounts.ShowAccount, accounts.AccountView, DOMAIN_READERS
)
RPC_BUNDLE_GET: Final = Query(
    "https.rpc.bundle.get.v1", CONFIG, queries.GetBundle, queries.BundleAnswer, (EDGE_SYNC,)
)
RPC_BUNDLE_PAGE: Final = Query(
    "https.rpc.bundle.page.v1", CONFIG, queries.PageBundles, queries.BundlesPage, (EDGE_SYNC,)
)
RPC_PAIR_SEALED: Final = Query(
    "https.rpc.pair.sealed.v1", CONFIG, queries.PageSealed, queries.SealedPage, (OPERATOR,)
)

# Queries to edge_sync
RPC_EDGE_MAX_REVISION: Final = Query(
    "https.rpc.edge.max_revision.v1", EDGE_SYNC, queries.Nothing, queries.MaxRevision, (CONFIG,)
)
RPC_EDGE_DIGEST: Final = Query(
    "https.rpc.edge.digest.v1", EDGE_SYNC, queries.DigestQuestion, queries.DigestAnswer, (EDGE,)
)
RPC_EDGE_CONVERGENCE: Final = Query(
    "https.rpc.edge.convergence.v1",
    EDGE_SYNC,
    queries.ShowConvergence,
    queries.ConvergenceView,
    DOMAIN_READERS,
)
RPC_FLEET_SHOW: Final = Query(
    "https.rpc.fleet.show.v1", EDGE_SYNC, queries.Nothing, queries.FleetView, DOMAIN_READERS
)

# Queries to billing
RPC_USAGE_QUERY: Final = Query(
    "https.rpc.usage.query.v1", BILLING, queries.QueryUsage, queries.UsagePage, MONEY_READERS
)
RPC_USAGE_LOGS: Final = Query(
    "https.rpc.usage.logs.v1", BILLING, queries.QueryLogs, queries.LogsPage, MONEY_READERS
)
RPC_USAGE_GAPS: Final = Query(
    "https.rpc.usage.gaps.v1", BILLING, audit.QueryGaps, audit.GapsPage, MONEY_READERS
)
RPC_USAGE_AUDIT: Final = Query(
    "https.rpc.usage.audit.v1", BILLING, audit.QueryAudit, audit.AuditReport, (OPERATOR, FINANCE)
)
RPC_PLAN_LIST: Final = Query(
    "https.rpc.plan.list.v1", BILLING, prices.ListPlans, prices.PlansPage, MONEY_READERS
)
RPC_PRICE_BOOK_SHOW: Final = Query(
    "https.rpc.price_book.show.v1", BILLING, queries.Nothing, prices.PriceBookView, MONEY_READERS
)
RPC_PRICE_BOOK_PREVIEW: Final = Query(
    "https.rpc.price_book.preview.v1",
    BILLING,
    prices.PreviewPriceBook,
    prices.PricePreview,
    (OPERATOR,),
)
RPC_CHARGES_QUERY: Final = Query(
    "https.rpc.charges.query.v1", BILLING, queries.QueryCharges, queries.ChargesPage, MONEY_READERS
)
RPC_LEDGER_QUERY: Final = Query(
    "https.rpc.ledger.query.v1", BILLING, ledger.QueryLedger, ledger.LedgerPage, MONEY_READERS
)
RPC_STATEMENT_SHOW: Final = Query(
    "https.rpc.statement.show.v1", BILLING, ledger.ShowStatement, ledger.Statement, MONEY_READERS
)
RPC_BALANCE_SHOW: Final = Query(
    "https.rpc.balance.show.v1", BILLING, queries.ShowBalance, balance.BalanceView, MONEY_READERS
)


# Queries to each service about its own dead letters
def _about_dead_letters(
    verb: str, question: type[QuestionT], answer: type[AnswerT]
) -> dict[str, Query[QuestionT, AnswerT]]:
    found = {}
    for service in SERVICES:
        address = f"https.rpc.dead.{verb}.v1.{service}"
        found[service] = Query(address, service, question, answer, (OPERATOR,))
    return found


RPC_DEAD_LIST: Final = _about_dead_letters("list", queries.ListDead, queries.DeadPage)
RPC_DEAD_SHOW: Final = _about_dead_letters("show", queries.OneDead, queries.DeadLetter)
RPC_DEAD_REPLAY: Final = _about_dead_letters("replay", queries.OneDead, queries.DeadDone)
RPC_DEAD_DROP: Final = _about_dead_letters("drop", queries.OneDead, queries.DeadDone)

BY_SUBJECT: Final = {str(row): row for row in ROWS}


def kept_by(stream: str) -> tuple[Subject, ...]:
    """Return the rows that ``stream`` keeps, in the catalogue's order."""
    return tuple(row for row in ROWS if row.stream == stream)


def sent_by(party: str) -> tuple[Subject, ...]:
    """Return what a service or an account may publish: what it asks, too."""
    return tuple(row for row in ROWS if party in row.senders and not row.republished)


def received_by(party: str, *kinds: Kind) -> tuple[Subject, ...]:
    """Return what a service or an account receives: of all kinds, or only of ``kinds``."""
    return tuple(row for row in ROWS if party in row.receivers and row.kind in (kinds or KINDS))


def directions_of(service: str) -> Iterator[tuple[Direction, Subject]]:
    """Yield what a service receives and sends, in the catalogue's order; not what it asks."""
    for row in ROWS:
        if service in row.receivers:
            yield "receive", row
        if service in row.senders and row.kind != "query":
            yield "send", row
