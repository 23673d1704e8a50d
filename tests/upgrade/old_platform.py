"""A platform of the version before, with a bit of everything in its data, and what is known of it
before and after the upgrade."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats

from deploy.embedded.dev_ca import CertificatePair, DevCa
from tests.support.browser import NodeAddress, send_requests, served_leaf, trusting_context
from tests.support.waiting import until
from tests.upgrade.releases import CommandLine, Finished

ACCOUNT = "shop"
WWW = "www.upgrade.test"
API = "api.upgrade.test"
STATIC = "static.upgrade.test"
DOMAINS = (WWW, API, STATIC)
STORED_NAME = "static-2026"
NODES = 2
COUNTED = 300
"""Requests that the old version counts and charges."""
UNCOUNTED = 40
"""Requests that are served just before the old version stops."""
CREDIT = "10"
WAIT_SECONDS = 60


class Customer:
    """The account's commands by the command line of one release."""

    def __init__(self, edgetls: CommandLine) -> None:
        self.data = edgetls.data
        self._edgetls = edgetls

    async def run(self, *words: str, code: int = 0) -> Finished:
        """Run a command that must end with ``code``."""
        finished = await self._edgetls.run(*words, "--account", ACCOUNT, "--json")
        assert finished.code == code, f"{words}: {finished.out}{finished.err}"
        return finished

    async def get(self, *words: str) -> Any:
        """Return the JSON of a command."""
        return (await self.run(*words)).json

    async def submit(self, domain: str, pair: CertificatePair, code: int = 0) -> Finished:
        """Submit a pair and wait until every node serves it."""
        return await self.run("submit", domain, *self.write_pair(domain, pair), "--wait", code=code)

    def write_pair(self, name: str, pair: CertificatePair) -> list[str]:
        """Write the pair's files and return the options that name them."""
        cert = self.data.with_name(f"{name}.crt")
        key = self.data.with_name(f"{name}.key")
        cert.write_text(pair.chain)
        key.write_text(pair.key)
        return ["--cert", str(cert), "--key", str(key)]

    async def count_requests(self, by: str = "domain") -> dict[str, int]:
        """Return the HTTPS requests of all hours by domain or node."""
        counted: dict[str, int] = {}
        for row in await self.get("usage", "--by", by):
            counted[row["key"]] = counted.get(row["key"], 0) + row["https_requests"]
        return counted

    async def wait_for_requests(self, total: int) -> None:
        async def is_counted() -> bool:
            return sum((await self.count_requests()).values()) >= total

        await until(is_counted, f"{total} requests are counted", limit=WAIT_SECONDS, every=0.2)

    async def close_hour(self) -> None:
        """Post all usage as charges, that of the present hour too."""
        await self.run("hour", "close", "--until", end_of_hour().isoformat())


def end_of_hour() -> datetime:
    """Return the end of the present hour."""
    now = datetime.now(UTC)
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


@dataclass(frozen=True)
class Snapshot:
    """All that the command line shows of the account and the platform."""

    domains: list[dict[str, Any]]
    certificates: list[dict[str, Any]]
    histories: dict[str, list[dict[str, Any]]]
    dead_letters: list[dict[str, Any]]
    charges: list[dict[str, Any]]
    balance: dict[str, Any]
    events: list[dict[str, Any]]
    by_domain: dict[str, int]
    by_node: dict[str, int]
    run_file: dict[str, Any]


async def take_snapshot(customer: Customer) -> Snapshot:
    """Ask for everything that can be compared after the upgrade."""
    histories: dict[str, list[dict[str, Any]]] = {}
    for name in DOMAINS:
        histories[name] = (await customer.get("history", name))["entries"]
    return Snapshot(
        domains=_without_days_left(await customer.get("domain", "list")),
        certificates=_without_days_left(await customer.get("cert", "list")),
        histories=histories,
        dead_letters=await customer.get("dead", "list"),
        charges=await customer.get("charges"),
        balance=await customer.get("balance", "show"),
        events=(await customer.run("events", "--since", "1", "--no-follow")).json_lines,
        by_domain=await customer.count_requests("domain"),
        by_node=await customer.count_requests("node"),
        run_file=read_run_file(customer.data),
    )


def _without_days_left(views: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # The only value that changes by itself, at midnight.
    for view in views:
        for certificate in view["certificates"]:
            del certificate["days_left"]
    return views


def read_run_file(data: Path) -> dict[str, Any]:
    """Return the addresses and files of the platform that runs now."""
    run: dict[str, Any] = json.loads((data / "run.json").read_text())
    return run


def https_addresses(data: Path) -> list[NodeAddress]:
    """Return the HTTPS endpoints of all nodes."""
    return [NodeAddress.parse(node["id"], node["https"]) for node in read_run_file(data)["nodes"]]


async def browse(data: Path, total: int) -> None:
    """Send HTTPS requests to every domain on every node; each must be answered by the origin."""
    tls = trusting_context(data / "test-ca" / "root.pem")
    routes = [(address, domain) for address in https_addresses(data) for domain in DOMAINS]
    for index, (address, domain) in enumerate(routes):
        # The first routes take one request more each, so that the sum is exactly ``total``.
        share = total // len(routes) + (index < total % len(routes))
        await send_requests(address, domain, tls, share)


async def served_leaves(data: Path, domain: str) -> list[str]:
    """Return the SHA-256 of the leaf that each node serves, chain and name verified."""
    tls = trusting_context(data / "test-ca" / "root.pem")
    return [await served_leaf(address, domain, tls) for address in https_addresses(data)]


def issue_pair(data: Path, name: str) -> CertificatePair:
    """Return a new pair of the data folder's own CA."""
    return CertificatePair(*DevCa.load(data / "test-ca").issue([name], "ecdsa"))


async def fill(old: Customer, origin_port: int) -> dict[str, CertificatePair]:
    """Give the platform domains, certificates, a refusal, a dead letter, usage and money.

    Returns the pair that each domain is served with, and the one before under ``previous``."""
    origin = f"http://127.0.0.1:{origin_port}"
    for name in DOMAINS:
        await old.run("domain", "register", name, "--type", "video", "--origin", origin)
    await old.run("balance", "credit", CREDIT)
    pairs = {name: issue_pair(old.data, name) for name in DOMAINS}
    pairs["previous"] = issue_pair(old.data, WWW)
    await old.submit(WWW, pairs["previous"])
    await old.submit(WWW, pairs[WWW])
    refused = await old.submit(WWW, CertificatePair(pairs[WWW].chain, pairs[API].key), code=1)
    assert refused.json["refusal"][0]["code"] == "key.mismatch"
    await old.run("settings", WWW, "--tls-min", "1.3", "--hsts", "31536000", "--wait")
    await old.submit(API, pairs[API])
    await old.run("cert", "store", STORED_NAME, *old.write_pair(STATIC, pairs[STATIC]))
    await old.run("cert", "deploy", STORED_NAME, STATIC, "--wait")
    await _send_malformed_command(old.data)
    await browse(old.data, COUNTED)
    await old.wait_for_requests(COUNTED)
    await old.close_hour()

    async def is_dead() -> bool:
        return len(await old.get("dead", "list")) == 1

    await until(is_dead, "the malformed command is a dead letter", limit=WAIT_SECONDS, every=0.2)
    return pairs


async def _send_malformed_command(data: Path) -> None:
    run = read_run_file(data)
    client = await nats.connect(run["nats_url"], nkeys_seed=run["credentials"]["platform"])
    headers = {"ce-id": "no-command", "ce-type": "x", "ce-source": "upgrade"}
    await client.publish("https.cmd.https.disable.v1", b'{"no": "command"}', headers=headers)
    await client.flush()
    await client.close()
