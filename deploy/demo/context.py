"""What all steps of the demo share: the platform, its nodes, a CA, an origin, and the waiting."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from nats.aio.client import Client

from clients.platform import Platform, findings_of
from deploy.demo.story import CheckFailed, DemoResult, DemoStory, check
from deploy.demo.visitors.handshakes import Endpoint, verifying_context
from deploy.demo.visitors.http_requests import VisitorConnection
from deploy.demo.visitors.origin_server import DemoOrigin
from deploy.embedded.dev_ca import CertificatePair, DevCa
from deploy.embedded.ready import wait_until
from shared import subjects as s
from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.domains import CommandSettled, Outcome
from shared.contracts.edge import Bundle

ACCOUNT: Final = "demo"
WWW: Final = "www.example.test"
IMAGES: Final = "*.img.example.test"
ONE_IMAGE: Final = "a.img.example.test"
LIVE_SECONDS: Final = 20.0
CURRENCY: Final = "CNY"
PRICE_PER_10000: Final = "0.05"


@dataclass
class DemoContext:
    """State that the steps share.

    ``run``: content of run.json. ``since``: last sequence of the event stream before the first
    step; ``first_hour``: the UTC hour of the first step. ``served``: each pair that www was served
    with, and the boxes that its key was sealed in. ``stored``: the first pair in the library."""

    story: DemoStory
    run: Mapping[str, Any]
    node_folders: list[Path]
    customer: Platform
    operator: Platform
    searcher: Client
    origin: DemoOrigin
    ca: DevCa
    since: int = 0
    first_hour: datetime = field(default_factory=lambda: _this_hour())
    served: list[tuple[CertificatePair, list[str]]] = field(default_factory=list)
    stored: CertificatePair | None = None
    kept_alive: VisitorConnection | None = None

    @property
    def result(self) -> DemoResult:
        return self.story.result

    @property
    def nodes(self) -> list[Endpoint]:
        """HTTPS endpoints of all nodes."""
        return [Endpoint.parse(node["id"], node["https"]) for node in self.run["nodes"]]

    @property
    def http_nodes(self) -> list[Endpoint]:
        """Plain HTTP endpoints of all nodes."""
        return [Endpoint.parse(node["id"], node["http"]) for node in self.run["nodes"]]

    def tls_context(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """Return a context that verifies chain and name with the platform's roots."""
        return verifying_context(Path(self.run["trust_roots"]), version)

    async def issue_pair(
        self,
        names: list[str],
        kind: Literal["rsa", "ecdsa"],
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> CertificatePair:
        """Return a new pair of the development CA, valid now by default."""
        # An RSA key takes up to a second to make: not in the event loop.
        chain, key = await asyncio.to_thread(self.ca.issue, names, kind, not_before, not_after)
        return CertificatePair(chain, key)

    def billing_period(self) -> tuple[datetime, datetime]:
        """Return (start of the first step's hour, end of the present hour)."""
        return self.first_hour, _this_hour() + timedelta(hours=1)

    async def wait_applied(self, command_id: str) -> CommandSettled:
        """Return the command's outcome; CheckFailed when it was not applied."""
        settled = await self.customer.settled(command_id)
        reasons = [f"{one.code.value} ({one.message})" for one in findings_of(settled)]
        check(
            settled.outcome is Outcome.APPLIED,
            f"{settled.command} was {settled.outcome.value}: {', '.join(reasons) or 'no reason'}",
        )
        return settled

    async def sealed_boxes(self, domain: str) -> list[str]:
        """Return the sealed keys in the domain's bundle, as the bucket holds it."""
        stream = s.kv_stream(s.BUCKET_BUNDLES)
        subject = s.kv_subject(s.BUCKET_BUNDLES, s.bundle_key(domain))
        stored = await self.searcher.jetstream(timeout=5).get_msg(stream, subject=subject)
        bundle = parse(Bundle, parse(Signed, stored.data or b"").payload.encode())
        return [pair.sealed_key.box for pair in bundle.pairs]

    async def account_events(self, subject: str) -> list[dict[str, Any]]:
        """Return the bodies of the demo account's events of one kind since the first step."""
        bodies: list[dict[str, Any]] = []
        async for event in self.customer.events(self.since + 1, follow=False, subject=subject):
            if event.body.get("account") == ACCOUNT:
                bodies.append(event.body)
        return bodies


async def wait_for(
    holds: Callable[[], Awaitable[bool]], limit: float, otherwise: Callable[[], str]
) -> None:
    """Ask until ``holds`` is true; CheckFailed with the text of ``otherwise`` after ``limit``
    seconds."""
    if not await wait_until(holds, limit):
        raise CheckFailed(f"{otherwise()} (waited {limit:g} s)")


def elapsed_ms(began: float) -> float:
    """Return the milliseconds since ``began`` (monotonic)."""
    return (time.monotonic() - began) * 1000


def _this_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
