"""Commands to config: domains, certificates, settings, and the account as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, Unpack

from clients.platform.command_outcomes import CommandOutcomes, StoredCommand
from clients.platform.connection import PlatformConnection
from clients.platform.sealing import PairSealer
from clients.platform.settings_change import SettingsFields, build_settings_change, parse_origin
from shared import catalogue
from shared.contracts.accounts import ResumeAccount, Resumption, SetResumption
from shared.contracts.base import Contract
from shared.contracts.certificates import (
    DeleteCertificate,
    DeployCertificate,
    Preview,
    PreviewCommand,
    RollbackCertificate,
    SetRoots,
    StoreCertificate,
)
from shared.contracts.commands import (
    ChangeSettings,
    DisableHttps,
    RegisterDomain,
    RemoveDomain,
    SubmitCertificate,
)
from shared.contracts.domains import Origin
from shared.contracts.judging import CheckCertificate, CheckReport
from shared.ids import new_id
from shared.messaging.cloudevents import outgoing

# What the history and the events name as the target of a command: a domain, a stored certificate,
# or the account as a whole.
_ROUTES: Final[Mapping[type[Contract], tuple[str, str]]] = {
    RegisterDomain: (catalogue.CMD_DOMAIN_REGISTER, "domain"),
    RemoveDomain: (catalogue.CMD_DOMAIN_REMOVE, "domain"),
    SubmitCertificate: (catalogue.CMD_CERTIFICATE_SUBMIT, "domain"),
    DisableHttps: (catalogue.CMD_HTTPS_DISABLE, "domain"),
    ChangeSettings: (catalogue.CMD_SETTINGS_CHANGE, "domain"),
    RollbackCertificate: (catalogue.CMD_CERTIFICATE_ROLLBACK, "domain"),
    StoreCertificate: (catalogue.CMD_CERTIFICATE_STORE, "name"),
    DeployCertificate: (catalogue.CMD_CERTIFICATE_DEPLOY, "name"),
    DeleteCertificate: (catalogue.CMD_CERTIFICATE_DELETE, "name"),
    SetRoots: (catalogue.CMD_ROOTS_SET, "account"),
    ResumeAccount: (catalogue.CMD_ACCOUNT_RESUME, "account"),
    SetResumption: (catalogue.CMD_ACCOUNT_RESUMPTION, "account"),
}
"""The subject of each command, and the field of its body that becomes ``ce-subject``."""
CommandBody = (
    RegisterDomain
    | RemoveDomain
    | SubmitCertificate
    | DisableHttps
    | ChangeSettings
    | RollbackCertificate
    | StoreCertificate
    | DeployCertificate
    | DeleteCertificate
    | SetRoots
    | ResumeAccount
    | SetResumption
)


class ConfigCommands:
    """Each method returns when the command is stored; ``CommandOutcomes`` waits for its outcome.

    Unreachable when it was not stored within the connection's timeout. Sending it again with the
    same ``command_id`` is safe: it is carried out once."""

    def __init__(
        self,
        connection: PlatformConnection,
        outcomes: CommandOutcomes,
        sealer: PairSealer,
        source: str,
    ) -> None:
        """``source``: the sender's name in the history."""
        self._connection = connection
        self._outcomes = outcomes
        self._sealer = sealer
        self._source = source

    async def register(
        self,
        domain: str,
        account: str,
        service_type: str,
        origin: str | Origin,
        *,
        trust: Literal["public", "private"] = "public",
        command_id: str | None = None,
    ) -> StoredCommand:
        """Register a domain.

        ``service_type``: image_small_file, download, video or live_streaming; ``origin``:
        http(s)://host[:port], ValueError when it is not. Refusals: domain.taken, domain.invalid,
        and so on."""
        if isinstance(origin, str):
            origin = parse_origin(origin)
        body = RegisterDomain(
            domain=domain, account=account, service_type=service_type, origin=origin, trust=trust
        )
        return await self.send_command(body, command_id=command_id)

    async def remove(
        self, domain: str, account: str, *, command_id: str | None = None
    ) -> StoredCommand:
        """Remove a domain and everything that belongs to it; its name is free again.

        Refusal: domain.unknown."""
        body = RemoveDomain(domain=domain, account=account)
        return await self.send_command(body, command_id=command_id)

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
    ) -> StoredCommand:
        """Enable HTTPS, or replace the certificate.

        ``certificate``: PEM, leaf first; ``private_key``: PEM; both are sealed here. ``more``: a
        second (certificate, key), so that RSA and ECDSA are served side by side. ``name``: of the
        certificate; one is generated if omitted."""
        submission_id = command_id or new_id()
        body = SubmitCertificate(
            domain=domain,
            account=account,
            submission_id=submission_id,
            pairs=self._sealer.seal_pairs(
                account, submission_id, [(certificate, private_key), *more]
            ),
            strict=strict,
            name=name,
        )
        return await self.send_command(body, command_id=submission_id)

    async def disable(
        self, domain: str, account: str, *, command_id: str | None = None
    ) -> StoredCommand:
        """Switch HTTPS off; nothing of the pair is kept anywhere."""
        body = DisableHttps(domain=domain, account=account)
        return await self.send_command(body, command_id=command_id)

    async def change_settings(
        self,
        domain: str,
        account: str,
        *,
        command_id: str | None = None,
        **fields: Unpack[SettingsFields],
    ) -> StoredCommand:
        """Change settings; what is None or left out stays as it is.

        ``redirect``: off, to_https or to_http. ``hsts``: all of it (Hsts), or only what an
        HstsChange names. ``origin`` and ``trust`` may change while HTTPS is off, too."""
        body = build_settings_change(domain, account, fields)
        return await self.send_command(body, command_id=command_id)

    async def rollback(
        self, domain: str, account: str, *, command_id: str | None = None
    ) -> StoredCommand:
        """Go back to the previous certificate; a second rollback goes forth again.

        An expired certificate is refused."""
        body = RollbackCertificate(domain=domain, account=account)
        return await self.send_command(body, command_id=command_id)

    async def store(
        self,
        name: str,
        account: str,
        certificate: str,
        private_key: str | bytes,
        *,
        more: Sequence[tuple[str, str | bytes]] = (),
        overwrite: bool = False,
        trust: Literal["public", "private"] = "public",
        strict: bool = False,
        command_id: str | None = None,
    ) -> StoredCommand:
        """Store a pair in the library under ``name`` (letters, digits, ``_ - .``, 128 at most).

        It is judged once, for every name of its leaf. With ``overwrite`` every domain that uses the
        name follows, each with its own result."""
        submission_id = command_id or new_id()
        body = StoreCertificate(
            name=name,
            account=account,
            submission_id=submission_id,
            pairs=self._sealer.seal_pairs(
                account, submission_id, [(certificate, private_key), *more]
            ),
            trust=trust,
            overwrite=overwrite,
            strict=strict,
        )
        return await self.send_command(body, command_id=submission_id)

    async def deploy(
        self, name: str, account: str, domains: Sequence[str], *, command_id: str | None = None
    ) -> StoredCommand:
        """Serve a stored certificate on 1 to 50 domains, each with its own result."""
        body = DeployCertificate(name=name, account=account, domains=list(domains))
        return await self.send_command(body, command_id=command_id)

    async def delete_certificate(
        self, name: str, account: str, *, command_id: str | None = None
    ) -> StoredCommand:
        """Delete a stored certificate. Refused while a domain uses it: ``certificate_usage`` lists
        them."""
        body = DeleteCertificate(name=name, account=account)
        return await self.send_command(body, command_id=command_id)

    async def set_roots(
        self, account: str, roots: str, *, command_id: str | None = None
    ) -> StoredCommand:
        """Replace the account's own roots for private trust. ``roots``: PEM, empty for none."""
        body = SetRoots(account=account, roots=roots)
        return await self.send_command(body, command_id=command_id)

    async def resume_account(self, account: str, *, command_id: str | None = None) -> StoredCommand:
        """End a suspension by hand; refused (account.overdue) while the balance is not above 0."""
        body = ResumeAccount(account=account)
        return await self.send_command(body, command_id=command_id)

    async def set_resumption(
        self, account: str, resumption: Resumption, *, command_id: str | None = None
    ) -> StoredCommand:
        """Set how the account's suspensions end: ``automatic`` (with a balance above 0) or
        ``by_hand``."""
        body = SetResumption(account=account, resumption=resumption)
        return await self.send_command(body, command_id=command_id)

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
        """Return what a submission would find; nothing is stored.

        ``domains``: 1 to 50; ``more``: a second pair; ``roots``: in PEM, to judge by as for private
        trust (``Platform.roots`` returns the account's own)."""
        submission_id = new_id()
        question = CheckCertificate(
            submission_id=submission_id,
            account=account,
            domains=list(domains),
            strict=strict,
            private_roots=None if roots is None else list(roots),
            pairs=self._sealer.seal_pairs(
                account, submission_id, [(certificate, private_key), *more]
            ),
        )
        return await self._connection.ask(catalogue.RPC_CERTIFICATE_CHECK, question)

    async def preview(self, command: Contract) -> Preview:
        """Return what a command to config would change as things are now; nothing is changed.

        ``command``: its body. ValueError for a submission: ``check`` is for those."""
        if type(command) not in _ROUTES or isinstance(
            command, (SubmitCertificate, StoreCertificate)
        ):
            raise ValueError(f"{type(command).__name__} has no preview")
        subject, _ = _ROUTES[type(command)]
        question = PreviewCommand(command=subject, body=command.model_dump_json())
        return await self._connection.ask(catalogue.RPC_COMMAND_PREVIEW, question)

    async def send_command(
        self, body: CommandBody, *, command_id: str | None = None
    ) -> StoredCommand:
        """Send a command by its body, as the other methods do with the bodies that they build."""
        command_id = command_id or new_id()
        subject, about_field = _ROUTES[type(body)]
        about = getattr(body, about_field)
        # Listen, then publish: the other way round the outcome could be missed.
        await self._outcomes.expect(command_id, body.account)
        message = outgoing(
            subject, body, source=self._source, about=about, at=datetime.now(UTC), id=command_id
        )
        sequence = await self._connection.publish(message)
        return StoredCommand(command_id, subject, body.account, about, sequence)
