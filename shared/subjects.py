"""Every subject, stream, durable and bucket name. The only file with subject strings."""

from __future__ import annotations

from typing import Final

# Commands to config (work queue COMMANDS_CONFIG)
CMD_DOMAIN_REGISTER: Final = "https.cmd.domain.register.v1"
CMD_DOMAIN_REMOVE: Final = "https.cmd.domain.remove.v1"
CMD_CERTIFICATE_SUBMIT: Final = "https.cmd.certificate.submit.v1"
CMD_HTTPS_DISABLE: Final = "https.cmd.https.disable.v1"
CMD_SETTINGS_CHANGE: Final = "https.cmd.settings.change.v1"
CMD_PAIR_RESEAL: Final = "https.cmd.pair.reseal.v1"
CMD_CERTIFICATE_STORE: Final = "https.cmd.certificate.store.v1"
CMD_CERTIFICATE_DEPLOY: Final = "https.cmd.certificate.deploy.v1"
CMD_CERTIFICATE_DELETE: Final = "https.cmd.certificate.delete.v1"
CMD_CERTIFICATE_ROLLBACK: Final = "https.cmd.certificate.rollback.v1"
CMD_ROOTS_SET: Final = "https.cmd.roots.set.v1"
CMD_ACCOUNT_RESUMPTION: Final = "https.cmd.account.resumption.v1"
CMD_ACCOUNT_RESUME: Final = "https.cmd.account.resume.v1"
CONFIG_COMMANDS: Final = (
    CMD_DOMAIN_REGISTER,
    CMD_DOMAIN_REMOVE,
    CMD_CERTIFICATE_SUBMIT,
    CMD_HTTPS_DISABLE,
    CMD_SETTINGS_CHANGE,
    CMD_PAIR_RESEAL,
    CMD_CERTIFICATE_STORE,
    CMD_CERTIFICATE_DEPLOY,
    CMD_CERTIFICATE_DELETE,
    CMD_CERTIFICATE_ROLLBACK,
    CMD_ROOTS_SET,
    CMD_ACCOUNT_RESUMPTION,
    CMD_ACCOUNT_RESUME,
)
# Commands to billing (work queue COMMANDS_BILLING)
CMD_BALANCE_CREDIT: Final = "https.cmd.balance.credit.v1"
CMD_BALANCE_THRESHOLD: Final = "https.cmd.balance.threshold.v1"
CMD_HOUR_CLOSE: Final = "https.cmd.hour.close.v1"
CMD_PLAN_PURCHASE: Final = "https.cmd.plan.purchase.v1"
CMD_PRICE_BOOK_APPLY: Final = "https.cmd.price_book.apply.v1"
BILLING_COMMANDS: Final = (
    CMD_BALANCE_CREDIT,
    CMD_BALANCE_THRESHOLD,
    CMD_HOUR_CLOSE,
    CMD_PLAN_PURCHASE,
    CMD_PRICE_BOOK_APPLY,
)
# Commands to edge_sync, signed by the operator (work queue FLEET)
CMD_NODE_ENROL: Final = "https.cmd.node.enrol.v1"
CMD_NODE_DRAIN: Final = "https.cmd.node.drain.v1"
CMD_NODE_REMOVE: Final = "https.cmd.node.remove.v1"
CMD_NODE_LABEL: Final = "https.cmd.node.label.v1"
CMD_EPOCH_START: Final = "https.cmd.epoch.start.v1"
CMD_TRUST_PUBLISH: Final = "https.cmd.trust.publish.v1"
FLEET_COMMANDS: Final = (
    CMD_NODE_ENROL,
    CMD_NODE_DRAIN,
    CMD_NODE_REMOVE,
    CMD_NODE_LABEL,
    CMD_EPOCH_START,
    CMD_TRUST_PUBLISH,
)
# config -> validator -> config (work queue JUDGING)
JUDGE_SUBMISSION: Final = "https.judge.submission.v1"
VERDICT_SUBMISSION: Final = "https.verdict.submission.v1"
# Facts (stream EVENTS)
EVENTS_ALL: Final = "https.event.>"
EVENT_NODE_ALL: Final = "https.event.node.>"
EVENT_DOMAIN_REGISTERED: Final = "https.event.domain.registered.v1"
EVENT_DOMAIN_REMOVED: Final = "https.event.domain.removed.v1"
EVENT_DOMAIN_CHANGED: Final = "https.event.domain.changed.v1"
EVENT_COMMAND_SETTLED: Final = "https.event.command.settled.v1"
EVENT_CERTIFICATE_EXPIRING: Final = "https.event.certificate.expiring.v1"
EVENT_CERTIFICATE_EXPIRED: Final = "https.event.certificate.expired.v1"
EVENT_EDGE_CONVERGED: Final = "https.event.edge.converged.v1"
EVENT_EDGE_LAGGING: Final = "https.event.edge.lagging.v1"
EVENT_NODE_ENROLLED: Final = "https.event.node.enrolled.v1"
EVENT_NODE_DRAINED: Final = "https.event.node.drained.v1"
EVENT_NODE_RETURNED: Final = "https.event.node.returned.v1"
EVENT_NODE_LABELLED: Final = "https.event.node.labelled.v1"
EVENT_NODE_REMOVED: Final = "https.event.node.removed.v1"
EVENT_BALANCE_LOW: Final = "https.event.balance.low.v1"
EVENT_BALANCE_DEPLETED: Final = "https.event.balance.depleted.v1"
EVENT_BALANCE_OVERDUE: Final = "https.event.balance.overdue.v1"
EVENT_BALANCE_RECOVERED: Final = "https.event.balance.recovered.v1"
EVENT_BALANCE_SETTLED: Final = "https.event.balance.settled.v1"
EVENT_BALANCE_CREDITED: Final = "https.event.balance.credited.v1"
EVENT_BALANCE_REFUSED: Final = "https.event.balance.refused.v1"
EVENT_PLAN_PURCHASED: Final = "https.event.plan.purchased.v1"
EVENT_PRICE_BOOK_APPLIED: Final = "https.event.price_book.applied.v1"
EVENT_PRICE_BOOK_REFUSED: Final = "https.event.price_book.refused.v1"
EVENT_HOUR_CLOSED: Final = "https.event.hour.closed.v1"
EVENTS: Final = (
    EVENT_CERTIFICATE_EXPIRING,
    EVENT_CERTIFICATE_EXPIRED,
    EVENT_DOMAIN_REGISTERED,
    EVENT_DOMAIN_REMOVED,
    EVENT_DOMAIN_CHANGED,
    EVENT_COMMAND_SETTLED,
    EVENT_EDGE_CONVERGED,
    EVENT_EDGE_LAGGING,
    EVENT_NODE_ENROLLED,
    EVENT_NODE_DRAINED,
    EVENT_NODE_RETURNED,
    EVENT_NODE_LABELLED,
    EVENT_NODE_REMOVED,
    EVENT_BALANCE_LOW,
    EVENT_BALANCE_DEPLETED,
    EVENT_BALANCE_RECOVERED,
    EVENT_BALANCE_SETTLED,
    EVENT_BALANCE_CREDITED,
    EVENT_BALANCE_REFUSED,
    EVENT_BALANCE_OVERDUE,
    EVENT_PLAN_PURCHASED,
    EVENT_PRICE_BOOK_APPLIED,
    EVENT_PRICE_BOOK_REFUSED,
    EVENT_HOUR_CLOSED,
)
# Usage (USAGE, trimmed by billing: decision 0008)
USAGE_REQUEST: Final = "https.usage.request.v1"
USAGE_BATCH_ALL: Final = "https.usage.batch.v1.*"
# Core, not kept
EDGE_STATUS_ALL: Final = "https.edge.status.v1.*"
EDGE_CHECKPOINT: Final = "https.edge.checkpoint.v1"
EDGE_PROGRESS: Final = "https.edge.progress.v1"
EDGE_CONFIRMED_ALL: Final = "https.edge.confirmed.v1.*"
EDGE_LIVE_PREFIX: Final = "https.edge.live."
EDGE_LIVE_ALL: Final = "https.edge.live.>"
# Queries (core request/reply)
RPC_CERTIFICATE_CHECK: Final = "https.rpc.certificate.check.v1"
RPC_DOMAIN_SHOW: Final = "https.rpc.domain.show.v1"
RPC_DOMAIN_LIST: Final = "https.rpc.domain.list.v1"
RPC_DOMAIN_HISTORY: Final = "https.rpc.domain.history.v1"
RPC_ACCOUNT_SHOW: Final = "https.rpc.account.show.v1"
RPC_CERTIFICATE_SHOW: Final = "https.rpc.certificate.show.v1"
RPC_CERTIFICATE_LIST: Final = "https.rpc.certificate.list.v1"
RPC_CERTIFICATE_USAGE: Final = "https.rpc.certificate.usage.v1"
RPC_ROOTS_SHOW: Final = "https.rpc.roots.show.v1"
RPC_COMMAND_SHOW: Final = "https.rpc.command.show.v1"
RPC_COMMAND_PREVIEW: Final = "https.rpc.command.preview.v1"
RPC_SUBMISSION_SHOW: Final = "https.rpc.submission.show.v1"
RPC_BUNDLE_GET: Final = "https.rpc.bundle.get.v1"
RPC_BUNDLE_PAGE: Final = "https.rpc.bundle.page.v1"
RPC_PAIR_SEALED: Final = "https.rpc.pair.sealed.v1"
RPC_EDGE_MAX_REVISION: Final = "https.rpc.edge.max_revision.v1"
RPC_EDGE_DIGEST: Final = "https.rpc.edge.digest.v1"
RPC_EDGE_CONVERGENCE: Final = "https.rpc.edge.convergence.v1"
RPC_FLEET_SHOW: Final = "https.rpc.fleet.show.v1"
RPC_USAGE_QUERY: Final = "https.rpc.usage.query.v1"
RPC_USAGE_LOGS: Final = "https.rpc.usage.logs.v1"
RPC_USAGE_GAPS: Final = "https.rpc.usage.gaps.v1"
RPC_USAGE_AUDIT: Final = "https.rpc.usage.audit.v1"
RPC_PLAN_LIST: Final = "https.rpc.plan.list.v1"
RPC_PRICE_BOOK_SHOW: Final = "https.rpc.price_book.show.v1"
RPC_PRICE_BOOK_PREVIEW: Final = "https.rpc.price_book.preview.v1"
RPC_CHARGES_QUERY: Final = "https.rpc.charges.query.v1"
RPC_LEDGER_QUERY: Final = "https.rpc.ledger.query.v1"
RPC_STATEMENT_SHOW: Final = "https.rpc.statement.show.v1"
RPC_BALANCE_SHOW: Final = "https.rpc.balance.show.v1"
DEAD_VERBS: Final = ("list", "show", "replay", "drop")

# Streams, their durables, buckets
STREAM_COMMANDS_CONFIG: Final = "COMMANDS_CONFIG"
STREAM_COMMANDS_BILLING: Final = "COMMANDS_BILLING"
STREAM_FLEET: Final = "FLEET"
STREAM_JUDGING: Final = "JUDGING"
STREAM_EVENTS: Final = "EVENTS"
STREAM_USAGE: Final = "USAGE"
STREAM_DEAD: Final = "DEAD"
DURABLE_CONFIG_COMMANDS: Final = "config"
DURABLE_CONFIG_VERDICTS: Final = "config-verdicts"
DURABLE_CONFIG_CONVERGED: Final = "config-converged"
DURABLE_CONFIG_BALANCES: Final = "config-balances"
DURABLE_VALIDATOR: Final = "validator"
DURABLE_EDGE_SYNC_FLEET: Final = "edge-sync-fleet"
DURABLE_EDGE_SYNC_DOMAINS: Final = "edge-sync-domains"
DURABLE_BILLING_COMMANDS: Final = "billing"
DURABLE_BILLING_OWNERS: Final = "billing-owners"
DURABLE_BILLING_BATCHES: Final = "billing-batches"
DURABLE_BILLING_REQUESTS: Final = "billing-requests"
BUCKET_BUNDLES: Final = "edge_bundles"
BUCKET_KEYRINGS: Final = "edge_keyrings"
DEAD_PREFIX: Final = "https.dead."

# Which streams' dead letters a service replays or drops
DEAD_OWNERS: Final = {
    "validator": (f"{STREAM_JUDGING}_submission",),
    "config": (STREAM_COMMANDS_CONFIG, f"{STREAM_JUDGING}_verdict", f"{STREAM_EVENTS}_config"),
    "edge_sync": (STREAM_FLEET, f"{STREAM_EVENTS}_edge_sync"),
    "billing": (STREAM_COMMANDS_BILLING, STREAM_USAGE, f"{STREAM_EVENTS}_billing"),
}


def event_type(subject: str) -> str:
    """The ``ce-type`` of a subject: the subject itself, without a node's id."""
    parts = subject.split(".")
    if "v1" in parts:
        parts = parts[: parts.index("v1") + 1]
    return ".".join(parts)


def usage_batch(node: str) -> str:
    return f"https.usage.batch.v1.{node}"


def edge_status(node: str) -> str:
    return f"https.edge.status.v1.{node}"


def edge_confirmed(node: str) -> str:
    return f"https.edge.confirmed.v1.{node}"


def dead(source: str) -> str:
    """``source``: a name of DEAD_OWNERS."""
    return f"{DEAD_PREFIX}{source}"


def rpc_dead(verb: str, service: str) -> str:
    return f"https.rpc.dead.{verb}.v1.{service}"


def kv_stream(bucket: str) -> str:
    return f"KV_{bucket}"


def kv_subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def direct_get(stream: str) -> str:
    return f"$JS.API.DIRECT.GET.{stream}"


def kv_all(bucket: str) -> str:
    return f"$KV.{bucket}.>"


def js_next(stream: str, durable: str) -> str:
    """Where a pull consumer asks for its next messages."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"


def js_consumer_info(stream: str, durable: str) -> str:
    return f"$JS.API.CONSUMER.INFO.{stream}.{durable}"


def js_acks(stream: str, durable: str) -> str:
    return f"$JS.ACK.{stream}.{durable}.>"


def js_stream_info(stream: str) -> str:
    return f"$JS.API.STREAM.INFO.{stream}"


def js_stream_purge(stream: str) -> str:
    return f"$JS.API.STREAM.PURGE.{stream}"


def js_message_delete(stream: str) -> str:
    """Deletes one message; the bytes are overwritten unless ``no_erase`` is asked for."""
    return f"$JS.API.STREAM.MSG.DELETE.{stream}"


JS_INFO: Final = "$JS.API.INFO"


def js_stream_create(stream: str) -> str:
    return f"$JS.API.STREAM.CREATE.{stream}"


def js_stream_update(stream: str) -> str:
    return f"$JS.API.STREAM.UPDATE.{stream}"


def js_stream_delete(stream: str) -> str:
    return f"$JS.API.STREAM.DELETE.{stream}"


def js_consumer_create(stream: str, durable: str) -> str:
    return f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{durable}"


def js_message_get(stream: str) -> str:
    return f"$JS.API.STREAM.MSG.GET.{stream}"


def bundle_key(domain: str) -> str:
    """``www.example.com`` -> ``com.example.www``; ``*`` -> ``_wildcard``."""
    return ".".join("_wildcard" if label == "*" else label for label in reversed(domain.split(".")))


def bundle_domain(key: str) -> str:
    """The domain of a bundle key; inverse of bundle_key()."""
    return ".".join("*" if label == "_wildcard" else label for label in reversed(key.split(".")))


def keyring_node(node: str) -> str:
    return f"node.{node}"


def keyring_epoch(epoch: int) -> str:
    return f"epoch.{epoch}"


KEYRING_SEALING: Final = "sealing"
KEYRING_TRUST: Final = "trust"


def inbox_prefix(user: str) -> str:
    return f"_INBOX.{user}"
