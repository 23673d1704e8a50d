"""Platform: the commands, questions and facts of edgetls as one asynchronous object."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from clients.platform import convergence, events
from clients.platform.command_outcomes import Ordered, Settlements
from clients.platform.connection import Reach
from clients.platform.convergence import Live, OnProgress
from clients.platform.credits import Booking
from clients.platform.library import Library
from clients.platform.limits import close_hour, set_threshold
from clients.platform.plans import buy_plan, plans_of
from shared import catalogue
from shared import subjects as s
from shared.contracts.accounts import ResumeAccount, Resumption, SetResumption
from shared.contracts.balance import BalanceEvent, BalanceView
from shared.contracts.base import Contract, SealedKey
from shared.contracts.certificates import CommandResult
from shared.contracts.commands import (
    ChangeSettings,
    CloseHour,
    CreditBalance,
    DisableHttps,
    HstsChange,
    RedirectChange,
    RegisterDomain,
    RemoveDomain,
    SetThreshold,
    SubmitCertificate,
    SubmittedPair,
)
from shared.contracts.domains import CommandSettled, Hsts, Origin, RedirectMode, TlsVersion
from shared.contracts.judging import CheckCertificate, CheckReport
from shared.contracts.ledger import HourClosed
from shared.contracts.prices import PlanEvent, PlanView
from shared.crypto.sealing import PublicKey, submission_info
from shared.errors import CannotOpen, SettingsError
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing
from shared.settings import read_secret

PATIENCE: Final = 10.0
SETTLED_SECONDS: Final = 20.0
CONVERGED_SECONDS: Final = 60.0


async def connect(
    url: str,
    seed_file: Path,
    submission_key: str | Path | None = None,
    *,
    user: str = "platform",
    patience: float = PATIENCE,
    ca_file: Path | None = None,
    source: str | None = None,
) -> Platform:
    """Logs in to NATS. ``url``: nats://host:port, several by comma; ``seed_file``: the user's nkey
    seed;
    ``submission_key``: what private keys are sealed to (base64, or the file that holds it; pin it,
    never fetch it);
    ``patience``: seconds that a call keeps trying; ``source``: who is named as sender in the
    history.

    Unreachable when nobody answers; SettingsError when the login is refused or a file is not what
    it should be."""
    key = None if submission_key is None else _submission_key(submission_key)
    reach = await Reach.open(url, Path(seed_file), user, patience, ca_file)
    return Platform(reach, key, source or user)


class Platform(Library, AbstractAsyncContextManager["Platform"]):
    """Commands return an ``Ordered`` when they are stored; ``settled`` tells how one ended. Each
    command raises Unreachable when it was not stored within the patience; sending it again with the
    same ``command_id`` is safe."""

    def __init__(self, reach: Reach, submission_key: PublicKey | None, source: str) -> None:
        super().__init__(reach)
        self._submission_key, self._source = submission_key, source
        self._settlements = Settlements(reach)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._reach.close()

    # Commands to config

    async def register(
        self,
        domain: str,
        account: str,
        service_type: str,
        origin: str | Origin,
        *,
        trust: Literal["public", "private"] = "public",
        command_id: str | None = None,
    ) -> Ordered:
        """``service_type``: image_small_file, download, video or live_streaming; ``origin``:
        http(s)://host[:port]. ValueError when the origin is not that. Refusals come with
        ``settled``: domain.taken, domain.invalid, …"""
        place = origin if isinstance(origin, Origin) else parse_origin(origin)
        body = RegisterDomain(
            domain=domain, account=account, service_type=service_type, origin=place, trust=trust
        )
        return await self._order(catalogue.CMD_DOMAIN_REGISTER, body, domain, account, command_id)

    async def remove(self, domain: str, account: str, *, command_id: str | None = None) -> Ordered:
        """The domain and everything that belongs to it; its name is free again. Refusals come with
        ``settled``: domain.unknown."""
        body = RemoveDomain(domain=domain, account=account)
        return await self._order(catalogue.CMD_DOMAIN_REMOVE, body, domain, account, command_id)

    async def submit(
        self,
        domain: str,
        account: str,
        certificate: str,
        private_key: str | bytes,
        *,
        more: Sequence[tuple[str, str | bytes]] = (),
        strict: bool = False,
        name: str | None = None,
        command_id: str | None = None,
    ) -> Ordered:
        """Enables HTTPS or replaces the certificate. ``certificate``: PEM, leaf first;
        ``private_key``: PEM; both are sealed here; ``more``: a second (certificate, key), so that
        RSA and ECDSA are served side by side; ``name``: of the certificate, one is made where none
        is given."""
        identity = command_id or new_id()
        pairs = [
            self._seal(account, identity, *pair) for pair in ((certificate, private_key), *more)
        ]
        body = SubmitCertificate(
            domain=domain,
            account=account,
            submission_id=identity,
            pairs=pairs,
            strict=strict,
            name=name,
        )
        return await self._order(catalogue.CMD_CERTIFICATE_SUBMIT, body, domain, account, identity)

    async def disable(self, domain: str, account: str, *, command_id: str | None = None) -> Ordered:
        """HTTPS off; nothing of the pair is kept anywhere."""
        body = DisableHttps(domain=domain, account=account)
        return await self._order(catalogue.CMD_HTTPS_DISABLE, body, domain, account, command_id)

    async def change_settings(
        self,
        domain: str,
        account: str,
        *,
        redirect: RedirectMode | str | None = None,
        redirect_status: Literal[301, 302, 307, 308] | None = None,
        http2: bool | None = None,
        tls_min: TlsVersion | None = None,
        tls_max: TlsVersion | None = None,
        hsts: Hsts | HstsChange | Literal["off"] | None = None,
        origin: str | Origin | None = None,
        trust: Literal["public", "private"] | None = None,
        command_id: str | None = None,
    ) -> Ordered:
        """What is None stays as it is. ``redirect``: off, to_https or to_http. ``hsts``: all of it
        (Hsts), or only what an HstsChange names. ``origin`` and ``trust`` may change while HTTPS is
        off, too."""
        body = settings_change(
            domain,
            account,
            redirect=redirect,
            redirect_status=redirect_status,
            http2=http2,
            tls_min=tls_min,
            tls_max=tls_max,
            hsts=hsts,
            origin=origin,
            trust=trust,
        )
        return await self.change(body, command_id=command_id)

    async def change(self, body: ChangeSettings, *, command_id: str | None = None) -> Ordered:
        """As ``change_settings``, with a command that ``settings_change`` made."""
        return await self._order(
            catalogue.CMD_SETTINGS_CHANGE, body, body.domain, body.account, command_id
        )

    # Money

    async def credit(
        self, account: str, reference: str, amount: Decimal | str, currency: str
    ) -> BalanceEvent:
        """Adds to the balance, once per (account, reference), and waits until it is booked.
        ``change`` of the answer is ``credited`` or ``refused`` (with ``codes``). Unreachable when
        billing did not say within the patience: the same reference can be sent again."""
        body = CreditBalance(
            account=account, reference=reference, amount=Decimal(amount), currency=currency
        )
        identity = new_id()
        async with Booking(self._reach, account, reference, identity) as booking:
            await self._publish(catalogue.CMD_BALANCE_CREDIT, body, account, identity)
            return await booking.booked()

    async def plans(self, account: str) -> list[PlanView]:
        """The plans that it bought, soonest to expire first."""
        return await plans_of(self._reach, account)

    async def buy_plan(self, account: str, plan: str, currency: str, reference: str) -> PlanEvent:
        """Buys a plan of the price book from the balance, once per (account, reference), and waits
        until it is booked. Refused: plan.unknown, balance.insufficient, balance.reference_used,
        balance.currency_differs."""
        return await buy_plan(self._reach, account, plan, currency, reference, self._source)

    async def threshold(
        self, account: str, threshold: Decimal | str | None, currency: str
    ) -> BalanceView:
        """Sets the account's own low-balance limit, None switches it off, and waits until the
        balance shows it. Refused: balance.currency_differs."""
        limit = None if threshold is None else Decimal(threshold)
        body = SetThreshold(account=account, threshold=limit, currency=currency)
        return await set_threshold(self._reach, body, self._source)

    async def close_hour(self, until: datetime) -> HourClosed:
        """Posts the accrued usage of the hours that ended at or before ``until``, a time with a
        zone (user operator), and waits until it is charged."""
        return await close_hour(self._reach, CloseHour(until=until), self._source)

    # Trying out and waiting

    async def check(
        self,
        domains: Sequence[str],
        account: str,
        certificate: str,
        private_key: str | bytes,
        *,
        more: Sequence[tuple[str, str | bytes]] = (),
        roots: Sequence[str] | None = None,
        strict: bool = False,
    ) -> CheckReport:
        """The dry run: what a submission would find; nothing is stored. 1 to 50 domains; ``more``:
        a second pair;
        ``roots``: in PEM, to judge by as for private trust (the account's own: ``roots``)."""
        identity = new_id()
        question = CheckCertificate(
            submission_id=identity,
            account=account,
            domains=list(domains),
            strict=strict,
            private_roots=None if roots is None else list(roots),
            pairs=[
                self._seal(account, identity, *pair) for pair in ((certificate, private_key), *more)
            ],
        )
        return await self._reach.ask(catalogue.RPC_CERTIFICATE_CHECK, question)

    async def settled(self, command_id: str, *, limit: float = SETTLED_SECONDS) -> CommandSettled:
        """How a command to config ended; Unreachable when it did not within ``limit`` seconds. A
        refusal is a value here: look at ``outcome``; ``results`` has the findings in full. Of
        several domains the first that ended: ``results`` waits for all."""
        return await self._settlements.settled(command_id, limit)

    async def results(
        self, command_id: str, *, limit: float = SETTLED_SECONDS
    ) -> list[CommandResult]:
        """How a command to config ended on each of its domains (``domain`` None: in the library),
        with what was found; Unreachable when it did not within ``limit`` seconds, naming where."""
        return await self._settlements.results(command_id, limit)

    async def converged(
        self,
        domain: str,
        revision: int,
        on_progress: OnProgress | None = None,
        *,
        limit: float = CONVERGED_SECONDS,
    ) -> Live:
        """When every live node has served ``revision`` (or a later one) in a real handshake;
        ``on_progress`` is called as nodes come in. Unreachable after ``limit`` seconds, with the
        missing nodes."""
        return await convergence.wait_converged(self._reach, domain, revision, on_progress, limit)

    def events(
        self, since: int | None = None, *, follow: bool = True, subject: str = s.EVENTS_ALL
    ) -> AsyncIterator[events.Event]:
        """Facts in stream order, none missed, none twice. ``since``: the first sequence (1: all
        that is kept, 30 days); None: from now on. Without ``follow`` it ends at the last one.
        Remember ``sequence`` + 1 to go on."""
        return events.read_events(self._reach, since, subject, follow=follow)

    async def last_event(self) -> int:
        """The sequence of the newest event, 0 when there is none."""
        return await events.last_sequence(self._reach)

    def _seal(
        self, account: str, submission_id: str, certificate: str, private_key: str | bytes
    ) -> SubmittedPair:
        if self._submission_key is None:
            raise SettingsError("no submission key was given: it is needed to seal private keys")
        info = submission_info(account, submission_id)
        # Both: a key that was put into the wrong field must not leave in clear.
        closed = [
            SealedKey(
                epoch=0,
                box=self._submission_key.seal(
                    text.encode() if isinstance(text, str) else text, info
                ),
            )
            for text in (certificate, private_key)
        ]
        return SubmittedPair(sealed_certificate=closed[0], sealed_key=closed[1])

    async def resume_account(self, account: str, *, command_id: str | None = None) -> Ordered:
        """Ends a suspension by hand; refused (account.overdue) while the balance is not above 0."""
        return await self._order(
            catalogue.CMD_ACCOUNT_RESUME,
            ResumeAccount(account=account),
            account,
            account,
            command_id,
        )

    async def set_resumption(
        self, account: str, resumption: Resumption, *, command_id: str | None = None
    ) -> Ordered:
        """How the account's suspensions end: ``automatic`` (with a balance above 0) or
        ``by_hand``."""
        body = SetResumption(account=account, resumption=resumption)
        return await self._order(
            catalogue.CMD_ACCOUNT_RESUMPTION, body, account, account, command_id
        )

    async def _order(
        self, subject: str, body: Contract, domain: str, account: str, command_id: str | None
    ) -> Ordered:
        identity = command_id or new_id()
        await self._settlements.expect(identity, account)
        message = outgoing(
            subject, body, source=self._source, about=domain, at=datetime.now(UTC), id=identity
        )
        return Ordered(identity, subject, account, domain, await self._reach.publish(message))

    async def _publish(self, subject: str, body: Contract, about: str, command_id: str) -> str:
        message = outgoing(
            subject, body, source=self._source, about=about, at=datetime.now(UTC), id=command_id
        )
        await self._reach.publish(message)
        return command_id


def settings_change(
    domain: str,
    account: str,
    *,
    redirect: RedirectMode | str | None = None,
    redirect_status: Literal[301, 302, 307, 308] | None = None,
    http2: bool | None = None,
    tls_min: TlsVersion | None = None,
    tls_max: TlsVersion | None = None,
    hsts: Hsts | HstsChange | Literal["off"] | None = None,
    origin: str | Origin | None = None,
    trust: Literal["public", "private"] | None = None,
) -> ChangeSettings:
    """The command that changes what is named."""
    mode = RedirectMode(redirect) if redirect is not None else None
    change = (
        None
        if mode is None and redirect_status is None
        else RedirectChange(mode=mode, status=redirect_status)
    )
    header = HstsChange.model_validate(hsts.model_dump()) if isinstance(hsts, Hsts) else hsts
    return ChangeSettings(
        domain=domain,
        account=account,
        redirect=change,
        http2=http2,
        tls_min=tls_min,
        tls_max=tls_max,
        hsts=header,
        origin=parse_origin(origin) if isinstance(origin, str) else origin,
        trust=trust,
    )


def parse_origin(text: str) -> Origin:
    """``http(s)://host[:port]``; ValueError otherwise, saying what is wrong."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("http", "https"):
        raise ValueError(
            f"{text!r} is not an origin: write http://host[:port] or https://host[:port]"
        )
    host, port_text = rest.removesuffix("/"), ""
    if host.startswith("["):
        host, _, port_text = host[1:].partition("]")
    elif ":" in host:
        host, _, port_text = host.rpartition(":")
    port_text = port_text.removeprefix(":") or {"http": "80", "https": "443"}[scheme]
    if not host or "/" in host or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise ValueError(
            f"{text!r} is not an origin: write http://host[:port] or https://host[:port], "
            "without a path"
        )
    return Origin(scheme="https" if scheme == "https" else "http", host=host, port=int(port_text))


def _submission_key(key: str | Path) -> PublicKey:
    try:
        return PublicKey(
            read_secret(key, "the submission key") if isinstance(key, Path) else key.strip()
        )
    except (CannotOpen, ValueError) as error:
        raise SettingsError(f"the submission key is not one: {error}") from None
