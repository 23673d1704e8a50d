"""Every subject with its body, who answers or sends it, and the reply: what the AsyncAPI documents
are made of.

``owner``: the service that receives (commands, queries, usage) or sends (events, edge messages)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from shared import subjects as s
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

Kind = Literal["command", "query", "event", "message"]


@dataclass(frozen=True)
class Channel:
    """``direction`` is the owner's: receive or send. ``signed`` names the model inside a Signed
    body.

    Headers: ``ce`` True for messages that streams keep (CloudEvents attributes)."""

    owner: str
    subject: str
    body: type[Contract]
    direction: Literal["receive", "send"]
    kind: Kind
    reply: type[Contract] | None = None
    signed: type[Contract] | None = None
    ce: bool = True


def _command(owner: str, subject: str, body: type[Contract]) -> Channel:
    return Channel(owner, subject, body, "receive", "command")


def _operator(subject: str, signed: type[Contract]) -> Channel:
    return Channel("edge_sync", subject, Signed, "receive", "command", signed=signed)


def _query(owner: str, subject: str, body: type[Contract], reply: type[Contract]) -> Channel:
    return Channel(owner, subject, body, "receive", "query", reply=reply, ce=False)


def _event(owner: str, subject: str, body: type[Contract]) -> Channel:
    return Channel(owner, subject, body, "send", "event")


def _dead(owner: str) -> tuple[Channel, ...]:
    return (
        _query(owner, s.rpc_dead("list", owner), queries.ListDead, queries.DeadPage),
        _query(owner, s.rpc_dead("show", owner), queries.OneDead, queries.DeadLetter),
        _query(owner, s.rpc_dead("replay", owner), queries.OneDead, queries.DeadDone),
        _query(owner, s.rpc_dead("drop", owner), queries.OneDead, queries.DeadDone),
    )


VALIDATOR: Final = (
    Channel("validator", s.JUDGE_SUBMISSION, judging.JudgeSubmission, "receive", "message"),
    Channel("validator", s.VERDICT_SUBMISSION, judging.Verdict, "send", "message"),
    _query("validator", s.RPC_CERTIFICATE_CHECK, judging.CheckCertificate, judging.CheckReport),
    *_dead("validator"),
)
CONFIG: Final = (
    _command("config", s.CMD_DOMAIN_REGISTER, commands.RegisterDomain),
    _command("config", s.CMD_DOMAIN_REMOVE, commands.RemoveDomain),
    _command("config", s.CMD_CERTIFICATE_SUBMIT, commands.SubmitCertificate),
    _command("config", s.CMD_HTTPS_DISABLE, commands.DisableHttps),
    _command("config", s.CMD_SETTINGS_CHANGE, commands.ChangeSettings),
    _command("config", s.CMD_PAIR_RESEAL, commands.ResealPair),
    _command("config", s.CMD_CERTIFICATE_STORE, certificates.StoreCertificate),
    _command("config", s.CMD_CERTIFICATE_DEPLOY, certificates.DeployCertificate),
    _command("config", s.CMD_CERTIFICATE_DELETE, certificates.DeleteCertificate),
    _command("config", s.CMD_CERTIFICATE_ROLLBACK, certificates.RollbackCertificate),
    _command("config", s.CMD_ROOTS_SET, certificates.SetRoots),
    _command("config", s.CMD_ACCOUNT_RESUMPTION, accounts.SetResumption),
    _command("config", s.CMD_ACCOUNT_RESUME, accounts.ResumeAccount),
    Channel("config", s.JUDGE_SUBMISSION, judging.JudgeSubmission, "send", "message"),
    Channel("config", s.VERDICT_SUBMISSION, judging.Verdict, "receive", "message"),
    Channel("config", s.EVENT_EDGE_CONVERGED, edge.Converged, "receive", "event"),
    _event("config", s.EVENT_DOMAIN_REGISTERED, domains.DomainRegistered),
    _event("config", s.EVENT_DOMAIN_REMOVED, domains.DomainRemoved),
    _event("config", s.EVENT_DOMAIN_CHANGED, domains.DomainChanged),
    _event("config", s.EVENT_COMMAND_SETTLED, domains.CommandSettled),
    _event("config", s.EVENT_CERTIFICATE_EXPIRING, domains.CertificateExpiring),
    _event("config", s.EVENT_CERTIFICATE_EXPIRED, domains.CertificateExpired),
    Channel("config", s.EVENT_BALANCE_OVERDUE, balance.BalanceEvent, "receive", "event"),
    Channel("config", s.EVENT_BALANCE_SETTLED, balance.BalanceEvent, "receive", "event"),
    _query("config", s.RPC_DOMAIN_SHOW, queries.ShowDomain, domains.DomainView),
    _query("config", s.RPC_DOMAIN_LIST, queries.ListDomains, queries.DomainList),
    _query("config", s.RPC_DOMAIN_HISTORY, queries.ShowHistory, queries.History),
    _query("config", s.RPC_CERTIFICATE_SHOW, certificates.ShowCertificate, certificates.StoredView),
    _query(
        "config", s.RPC_CERTIFICATE_LIST, certificates.ListCertificates, certificates.StoredList
    ),
    _query("config", s.RPC_CERTIFICATE_USAGE, certificates.ShowUsage, certificates.UsagePage),
    _query("config", s.RPC_ROOTS_SHOW, certificates.ShowRoots, certificates.RootsView),
    _query("config", s.RPC_COMMAND_SHOW, certificates.ShowCommand, certificates.CommandView),
    _query("config", s.RPC_COMMAND_PREVIEW, certificates.PreviewCommand, certificates.Preview),
    _query("config", s.RPC_SUBMISSION_SHOW, queries.ShowSubmission, queries.SubmissionView),
    _query("config", s.RPC_ACCOUNT_SHOW, accounts.ShowAccount, accounts.AccountView),
    _query("config", s.RPC_BUNDLE_GET, queries.GetBundle, queries.BundleAnswer),
    _query("config", s.RPC_BUNDLE_PAGE, queries.PageBundles, queries.BundlesPage),
    _query("config", s.RPC_PAIR_SEALED, queries.PageSealed, queries.SealedPage),
    *_dead("config"),
)
EDGE_SYNC: Final = (
    _operator(s.CMD_NODE_ENROL, commands.EnrolNode),
    _operator(s.CMD_NODE_DRAIN, commands.DrainNode),
    _operator(s.CMD_NODE_REMOVE, commands.RemoveNode),
    _operator(s.CMD_NODE_LABEL, commands.LabelNode),
    _operator(s.CMD_EPOCH_START, commands.StartEpoch),
    _operator(s.CMD_TRUST_PUBLISH, commands.TrustDocument),
    Channel("edge_sync", s.EVENT_DOMAIN_CHANGED, domains.DomainChanged, "receive", "event"),
    Channel("edge_sync", s.edge_status("{node}"), edge.NodeStatus, "receive", "message", ce=False),
    Channel(
        "edge_sync",
        f"{s.EDGE_LIVE_PREFIX}{{key}}",
        Signed,
        "send",
        "message",
        signed=edge.Bundle,
        ce=False,
    ),
    Channel(
        "edge_sync", s.EDGE_CHECKPOINT, Signed, "send", "message", signed=edge.Checkpoint, ce=False
    ),
    Channel("edge_sync", s.EDGE_PROGRESS, edge.Progress, "send", "message", ce=False),
    _event("edge_sync", s.EVENT_EDGE_CONVERGED, edge.Converged),
    _event("edge_sync", s.EVENT_EDGE_LAGGING, edge.Lagging),
    _event("edge_sync", s.EVENT_NODE_ENROLLED, edge.NodeEvent),
    _event("edge_sync", s.EVENT_NODE_DRAINED, edge.NodeEvent),
    _event("edge_sync", s.EVENT_NODE_RETURNED, edge.NodeEvent),
    _event("edge_sync", s.EVENT_NODE_LABELLED, edge.NodeEvent),
    _event("edge_sync", s.EVENT_NODE_REMOVED, edge.NodeEvent),
    _query("edge_sync", s.RPC_EDGE_MAX_REVISION, queries.Nothing, queries.MaxRevision),
    _query("edge_sync", s.RPC_EDGE_DIGEST, queries.DigestQuestion, queries.DigestAnswer),
    _query("edge_sync", s.RPC_EDGE_CONVERGENCE, queries.ShowConvergence, queries.ConvergenceView),
    _query("edge_sync", s.RPC_FLEET_SHOW, queries.Nothing, queries.FleetView),
    *_dead("edge_sync"),
)
BILLING: Final = (
    _command("billing", s.CMD_BALANCE_CREDIT, commands.CreditBalance),
    _command("billing", s.CMD_BALANCE_THRESHOLD, commands.SetThreshold),
    _command("billing", s.CMD_HOUR_CLOSE, commands.CloseHour),
    _command("billing", s.CMD_PLAN_PURCHASE, commands.PurchasePlan),
    _command("billing", s.CMD_PRICE_BOOK_APPLY, commands.ApplyPriceBook),
    Channel("billing", s.usage_batch("{node}"), usage.UsageBatch, "receive", "message", ce=False),
    Channel("billing", s.USAGE_REQUEST, usage.HttpsRequest, "receive", "message", ce=False),
    Channel("billing", s.EVENT_DOMAIN_REGISTERED, domains.DomainRegistered, "receive", "event"),
    Channel("billing", s.EVENT_DOMAIN_REMOVED, domains.DomainRemoved, "receive", "event"),
    Channel(
        "billing",
        s.edge_confirmed("{node}"),
        Signed,
        "send",
        "message",
        signed=usage.Confirmation,
        ce=False,
    ),
    _event("billing", s.EVENT_BALANCE_LOW, balance.BalanceEvent),
    _event("billing", s.EVENT_BALANCE_DEPLETED, balance.BalanceEvent),
    _event("billing", s.EVENT_BALANCE_RECOVERED, balance.BalanceEvent),
    _event("billing", s.EVENT_BALANCE_SETTLED, balance.BalanceEvent),
    _event("billing", s.EVENT_BALANCE_CREDITED, balance.BalanceEvent),
    _event("billing", s.EVENT_BALANCE_REFUSED, balance.BalanceEvent),
    _event("billing", s.EVENT_BALANCE_OVERDUE, balance.BalanceEvent),
    _event("billing", s.EVENT_PLAN_PURCHASED, prices.PlanEvent),
    _event("billing", s.EVENT_PRICE_BOOK_APPLIED, prices.PriceBookEvent),
    _event("billing", s.EVENT_PRICE_BOOK_REFUSED, prices.PriceBookEvent),
    _event("billing", s.EVENT_HOUR_CLOSED, ledger.HourClosed),
    _query("billing", s.RPC_USAGE_QUERY, queries.QueryUsage, queries.UsagePage),
    _query("billing", s.RPC_USAGE_LOGS, queries.QueryLogs, queries.LogsPage),
    _query("billing", s.RPC_USAGE_GAPS, audit.QueryGaps, audit.GapsPage),
    _query("billing", s.RPC_USAGE_AUDIT, audit.QueryAudit, audit.AuditReport),
    _query("billing", s.RPC_PLAN_LIST, prices.ListPlans, prices.PlansPage),
    _query("billing", s.RPC_PRICE_BOOK_SHOW, queries.Nothing, prices.PriceBookView),
    _query("billing", s.RPC_PRICE_BOOK_PREVIEW, prices.PreviewPriceBook, prices.PricePreview),
    _query("billing", s.RPC_CHARGES_QUERY, queries.QueryCharges, queries.ChargesPage),
    _query("billing", s.RPC_LEDGER_QUERY, ledger.QueryLedger, ledger.LedgerPage),
    _query("billing", s.RPC_STATEMENT_SHOW, ledger.ShowStatement, ledger.Statement),
    _query("billing", s.RPC_BALANCE_SHOW, queries.ShowBalance, balance.BalanceView),
    *_dead("billing"),
)
BY_SERVICE: Final = {
    "validator": VALIDATOR,
    "config": CONFIG,
    "edge_sync": EDGE_SYNC,
    "billing": BILLING,
}
