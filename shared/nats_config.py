"""Renders the accounts, users and rights of topology.py as the configuration of nats-server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared import subjects
from shared import topology as t
from shared.streams import MAX_PAYLOAD

EDGE_USERS_FILE = "edge_users.conf"


@dataclass(frozen=True)
class Tls:
    """PEM files of the server's certificate and key, and of the CA that the servers of a cluster
    share."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class ServerPlace:
    """Where a server listens and keeps its data. ``routes``: nats-route:// URLs of a cluster's
    servers."""

    host: str
    port: int
    store: Path
    name: str = "edgetls"
    tls: Tls | None = None
    routes: tuple[str, ...] = ()
    cluster_port: int = 6222


def render(
    place: ServerPlace, public_keys: Mapping[str, str], more: Sequence[t.NatsUser] = ()
) -> str:
    """Return the whole configuration file.

    ``public_keys``: the nkey of every user of topology.USERS, and of ``more`` users of CORE, by
    name. The node users are in an included file."""
    accounts = "\n".join(
        (
            _core_block(public_keys, more),
            *(_account_block(account, public_keys) for account in t.ACCOUNTS),
        )
    )
    return f"""\
server_name: {json.dumps(place.name)}
host: {json.dumps(place.host)}
port: {place.port}
max_payload: {MAX_PAYLOAD}
{_tls_lines(place)}{_cluster_block(place)}\
# Acked must mean on disk: usage is money.
jetstream {{ store_dir: {json.dumps(str(place.store))}, sync_interval: always }}
accounts {{
{accounts}
  SYS {{ users: [] }}
}}
system_account: SYS
"""


def render_edge_users(nodes: Mapping[str, str]) -> str:
    """Return the included file of node users (node id -> nkey): the only file that changes with
    the fleet (SIGHUP)."""
    return (
        "users: [\n"
        + "".join(_user_entry(t.node_user(node), key) for node, key in sorted(nodes.items()))
        + "]\n"
    )


def _tls_lines(place: ServerPlace) -> str:
    return "" if place.tls is None else f"tls {_tls_block(place.tls)}\n"


def _tls_block(tls: Tls) -> str:
    files = {"cert_file": tls.certificate, "key_file": tls.key, "ca_file": tls.ca}
    return (
        "{ " + ", ".join(f"{name}: {json.dumps(str(file))}" for name, file in files.items()) + " }"
    )


def _cluster_block(place: ServerPlace) -> str:
    if not place.routes:
        return ""
    port = place.cluster_port
    tls = "" if place.tls is None else f", tls {_tls_block(place.tls)}"
    routes = json.dumps(list(place.routes))
    listen = json.dumps(f"{place.host}:{port}")
    return f"cluster {{ name: edgetls, listen: {listen}, routes: {routes}{tls} }}\n"


def _core_block(public_keys: Mapping[str, str], more: Sequence[t.NatsUser]) -> str:
    services = sorted({subject for account in t.ACCOUNTS for subject in account.services})
    streams = sorted({subject for account in t.ACCOUNTS for subject in account.streams})
    exports = []
    for subject in services:
        importers = [account.name for account in t.ACCOUNTS if subject in account.services]
        stream = ", response_type: stream" if subject in t.STREAMED else ""
        exports.append(
            f"    {{ service: {json.dumps(subject)}{stream}, accounts: {json.dumps(importers)} }}"
        )
    for subject in streams:
        importers = [account.name for account in t.ACCOUNTS if subject in account.streams]
        exports.append(
            f"    {{ stream: {json.dumps(subject)}, accounts: {json.dumps(importers)} }}"
        )
    users = "".join(
        _user_entry(user, public_keys[user.name])
        for user in (*t.USERS, *more)
        if user.account == subjects.CORE
    )
    return (
        f"  {subjects.CORE} {{\n   jetstream: enabled\n   users: [\n{users}   ]\n   exports: [\n"
        + "\n".join(exports)
        + "\n   ]\n  }"
    )


def _account_block(account: t.NatsAccount, public_keys: Mapping[str, str]) -> str:
    imports = [
        f"    {{ {kind}: {{ account: {subjects.CORE}, subject: {json.dumps(subject)} }} }}"
        for kind, imported in (("service", account.services), ("stream", account.streams))
        for subject in imported
    ]
    if account.name == subjects.EDGE:
        users = f"   include {json.dumps('./' + EDGE_USERS_FILE)}\n"
    else:
        own = "".join(
            _user_entry(user, public_keys[user.name])
            for user in t.USERS
            if user.account == account.name
        )
        users = f"   users: [\n{own}   ]\n"
    return f"  {account.name} {{\n{users}   imports: [\n" + "\n".join(imports) + "\n   ]\n  }"


def _user_entry(user: t.NatsUser, public_key: str) -> str:
    rights = (
        f"publish: {json.dumps(list(user.publish))}, subscribe: {json.dumps(list(user.subscribe))}"
    )
    return f"    {{ nkey: {public_key}, permissions: {{ {rights} }} }}\n"
