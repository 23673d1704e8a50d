"""What the steps of the demo act on: a platform, its nodes, a CA, an origin."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from nats.aio.client import Client

from clients.platform import Platform, findings_of
from deploy.demo.handshakes import Endpoint, verifying
from deploy.demo.story import CheckFailed, Result, check
from deploy.demo.traffic import Origin, Visitor
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.domains import CommandSettled, Outcome
from shared.contracts.edge import Bundle

ACCOUNT: Final = "demo"
WWW, IMAGES, ONE_IMAGE = "www.example.test", "*.img.example.test", "a.img.example.test"
LIVE_SECONDS: Final = 20.0
CURRENCY: Final = "CNY"
PRICE_PER_10000: Final = "0.05"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as a customer has them."""

    chain: str = field(repr=False)
    key: str = field(repr=False)

    @property
    def leaf(self) -> str:
        """SHA-256 of the leaf."""
        certificate = x509.load_pem_x509_certificate(self.chain.encode())
        return sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


@dataclass
class Stage:
    """``run``: what run.json holds. ``since``: the event stream's sequence when the story began;
    ``hour``: the UTC hour that it began in; ``served``: every pair that www was served with, and
    the boxes that its key was sealed in;
    ``stored``: what the library kept first."""

    run: Mapping[str, Any]
    node_folders: list[Path]
    customer: Platform
    operator: Platform
    searcher: Client
    origin: Origin
    issue: Callable[..., tuple[str, str]]
    result: Result
    since: int = 0
    hour: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    )
    served: list[tuple[Pair, list[str]]] = field(default_factory=list)
    stored: Pair | None = None
    kept_alive: Visitor | None = None

    @property
    def nodes(self) -> list[Endpoint]:
        return [Endpoint.of(node["id"], node["https"]) for node in self.run["nodes"]]

    @property
    def http_nodes(self) -> list[Endpoint]:
        return [Endpoint.of(node["id"], node["http"]) for node in self.run["nodes"]]

    @property
    def roots(self) -> Path:
        return Path(self.run["trust_roots"])

    def context(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        return verifying(self.roots, version)

    async def pair(self, names: list[str], kind: str = "rsa", **validity: datetime) -> Pair:
        # An RSA key takes up to a second to make: not in the event loop.
        return Pair(*await asyncio.to_thread(self.issue, names, kind, **validity))

    def period(self) -> tuple[datetime, datetime]:
        """From the hour that the story began in to the end of the present one."""
        return self.hour, datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(
            hours=1
        )

    async def applied(self, command_id: str) -> CommandSettled:
        """The command's end; CheckFailed when it was not carried out."""
        settled = await self.customer.settled(command_id)
        told = (
            ", ".join(f"{one.code.value} ({one.message})" for one in findings_of(settled))
            or "no reason"
        )
        check(
            settled.outcome is Outcome.APPLIED,
            f"{settled.command} was {settled.outcome.value}: {told}",
        )
        return settled

    async def sealed_boxes(self, domain: str) -> list[str]:
        """The sealed keys in the domain's bundle, as the bucket holds it."""
        stream, subject = (
            s.kv_stream(s.BUCKET_BUNDLES),
            s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(domain)),
        )
        stored = await self.searcher.jetstream(timeout=5).get_msg(stream, subject=subject)
        bundle = parse(Bundle, parse(Signed, stored.data or b"").payload.encode())
        return [pair.sealed_key.box for pair in bundle.pairs]

    async def events(self, subject: str) -> list[dict[str, Any]]:
        """The bodies of the demo account's events of one kind since the story began, from the
        stream."""
        found = self.customer.events(self.since + 1, follow=False, subject=subject)
        return [event.body async for event in found if event.body.get("account") == ACCOUNT]


async def until(
    holds: Callable[[], Awaitable[bool]], limit: float, otherwise: Callable[[], str]
) -> None:
    """Asks until it holds; CheckFailed with what ``otherwise`` says after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not await holds():
        if time.monotonic() > deadline:
            raise CheckFailed(f"{otherwise()} (waited {limit:g} s)")
        await asyncio.sleep(0.05)
