"""Names of services, accounts, streams, durable consumers and buckets; JetStream's own subjects.

The subjects that the product speaks on are in ``shared/catalogue.py``."""

from __future__ import annotations

from typing import Final

# The four services, and the NATS accounts: CORE is joined by the services alone
VALIDATOR: Final = "validator"
CONFIG: Final = "config"
EDGE_SYNC: Final = "edge_sync"
BILLING: Final = "billing"
SERVICES: Final = (VALIDATOR, CONFIG, EDGE_SYNC, BILLING)
CORE: Final = "CORE"
EDGE: Final = "EDGE"
PLATFORM: Final = "PLATFORM"
OPERATOR: Final = "OPERATOR"
FINANCE: Final = "FINANCE"

# Wildcards
EVENTS_ALL: Final = "https.event.>"
EVENT_NODE_ALL: Final = "https.event.node.>"
EDGE_LIVE_PREFIX: Final = "https.edge.live."

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


def dead(source: str) -> str:
    """Return the subject of a source's dead letters; ``source`` is a name of DEAD_OWNERS."""
    return f"{DEAD_PREFIX}{source}"


def kv_stream(bucket: str) -> str:
    return f"KV_{bucket}"


def kv_subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def direct_get(stream: str) -> str:
    return f"$JS.API.DIRECT.GET.{stream}"


def kv_all(bucket: str) -> str:
    return f"$KV.{bucket}.>"


def js_next(stream: str, durable: str) -> str:
    """Return the subject on which a pull consumer asks for its next messages."""
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
    """Return the subject that deletes one message; its bytes are overwritten unless ``no_erase``
    is asked for."""
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
    """Return a domain's key in the bucket: ``www.example.com`` -> ``com.example.www``, ``*`` ->
    ``_wildcard``."""
    return ".".join("_wildcard" if label == "*" else label for label in reversed(domain.split(".")))


def bundle_domain(key: str) -> str:
    """Return the domain of a bundle key; the inverse of bundle_key()."""
    return ".".join("*" if label == "_wildcard" else label for label in reversed(key.split(".")))


def keyring_node(node: str) -> str:
    return f"node.{node}"


def keyring_epoch(epoch: int) -> str:
    return f"epoch.{epoch}"


KEYRING_SEALING: Final = "sealing"
KEYRING_TRUST: Final = "trust"


def inbox_prefix(user: str) -> str:
    """Return the prefix of a user's reply subjects."""
    return f"_INBOX.{user}"
