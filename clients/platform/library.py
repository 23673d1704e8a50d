"""The account's certificate library, rollback, its own roots, and previews."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Final, Literal

from clients.platform.command_outcomes import Ordered
from clients.platform.queries import Queries
from shared import catalogue
from shared.contracts.accounts import ResumeAccount, SetResumption
from shared.contracts.base import Contract
from shared.contracts.certificates import (
    CommandView,
    DeleteCertificate,
    DeployCertificate,
    ListCertificates,
    Preview,
    PreviewCommand,
    RollbackCertificate,
    RootsView,
    SetRoots,
    ShowCertificate,
    ShowCommand,
    ShowRoots,
    ShowUsage,
    StoreCertificate,
    StoredView,
    Use,
)
from shared.contracts.commands import (
    ChangeSettings,
    DisableHttps,
    RegisterDomain,
    RemoveDomain,
    SubmittedPair,
)
from shared.contracts.domains import DomainView
from shared.contracts.names import covered
from shared.ids import new_id


class Library(Queries):
    """Commands return an ``Ordered``, as Platform's do. Of those that concern several domains
    ``results`` tells how they ended on each."""

    @abstractmethod
    def _seal(
        self, account: str, submission_id: str, certificate: str, private_key: str | bytes
    ) -> SubmittedPair: ...

    @abstractmethod
    async def _order(
        self, subject: str, body: Contract, domain: str, account: str, command_id: str | None
    ) -> Ordered: ...

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
    ) -> Ordered:
        """Keeps a pair under ``name`` (letters, digits, ``_ - .``, 128 at most). It is judged once,
        for every name of its leaf. With ``overwrite`` every domain that uses the name follows, each
        with its own result."""
        identity = command_id or new_id()
        pairs = [
            self._seal(account, identity, *pair) for pair in ((certificate, private_key), *more)
        ]
        body = StoreCertificate(
            name=name,
            account=account,
            submission_id=identity,
            pairs=pairs,
            trust=trust,
            overwrite=overwrite,
            strict=strict,
        )
        return await self._order(catalogue.CMD_CERTIFICATE_STORE, body, name, account, identity)

    async def deploy(
        self, name: str, account: str, domains: Sequence[str], *, command_id: str | None = None
    ) -> Ordered:
        """Serves a stored certificate on 1 to 50 domains, each with its own result."""
        body = DeployCertificate(name=name, account=account, domains=list(domains))
        return await self._order(catalogue.CMD_CERTIFICATE_DEPLOY, body, name, account, command_id)

    async def delete_certificate(
        self, name: str, account: str, *, command_id: str | None = None
    ) -> Ordered:
        """Refused while it is in use; ``certificate_usage`` lists where."""
        body = DeleteCertificate(name=name, account=account)
        return await self._order(catalogue.CMD_CERTIFICATE_DELETE, body, name, account, command_id)

    async def rollback(
        self, domain: str, account: str, *, command_id: str | None = None
    ) -> Ordered:
        """Back to the certificate before; again: forth. An expired one is refused."""
        body = RollbackCertificate(domain=domain, account=account)
        return await self._order(
            catalogue.CMD_CERTIFICATE_ROLLBACK, body, domain, account, command_id
        )

    async def set_roots(
        self, account: str, roots: str, *, command_id: str | None = None
    ) -> Ordered:
        """The account's own roots for private trust: PEM, all of them; empty for none."""
        body = SetRoots(account=account, roots=roots)
        return await self._order(catalogue.CMD_ROOTS_SET, body, account, account, command_id)

    async def preview(self, command: Contract) -> Preview:
        """What a command would change as things are now; nothing is done. ``command``: the body of
        one to config, but for submissions: ``check`` is for those."""
        question = PreviewCommand(command=_subject(command), body=command.model_dump_json())
        return await self._reach.ask(catalogue.RPC_COMMAND_PREVIEW, question)

    async def command(
        self, command_id: str, account: str | None = None, *, after: int = 0
    ) -> CommandView:
        """How a command ended so far, for each of its domains, and where it is still waited for;
        ``next`` is the ``after`` of the next page."""
        question = ShowCommand(command_id=command_id, account=account, after=after)
        return await self._reach.ask(catalogue.RPC_COMMAND_SHOW, question)

    async def certificate(self, name: str, account: str) -> StoredView:
        """Refused (certificate.unknown) when the library has none of this name. No field ever holds
        a key."""
        return await self._reach.ask(
            catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=name, account=account)
        )

    async def certificates(self, account: str) -> AsyncIterator[StoredView]:
        """The whole library, in order of the names."""
        after: str | None = ""
        while after is not None:
            question = ListCertificates(account=account, after=after)
            page = await self._reach.ask(catalogue.RPC_CERTIFICATE_LIST, question)
            for one in page.certificates:
                yield one
            after = page.next

    async def certificate_usage(self, name: str, account: str) -> list[Use]:
        """The domains that it serves or that keep it for a rollback, in order of their names."""
        found: list[Use] = []
        after: str | None = ""
        while after is not None:
            question = ShowUsage(name=name, account=account, after=after, limit=500)
            page = await self._reach.ask(catalogue.RPC_CERTIFICATE_USAGE, question)
            found += page.uses
            after = page.next
        return found

    async def certificate_fits(self, name: str, account: str) -> AsyncIterator[DomainView]:
        """The account's domains that it could serve: every pair of it covers them."""
        pairs = (await self.certificate(name, account)).certificates
        names = {san for pair in pairs for san in pair.sans}
        common = sorted(san for san in names if all(covered(pair.sans, san) for pair in pairs))
        told: set[str] = set()
        for start in range(0, len(common), _NAMES):
            async for view in self.all_domains(account, covered_by=common[start : start + _NAMES]):
                if view.domain not in told:
                    yield view
                told.add(view.domain)

    async def roots(self, account: str) -> RootsView:
        return await self._reach.ask(catalogue.RPC_ROOTS_SHOW, ShowRoots(account=account))


_NAMES: Final = 1000
_PREVIEWED: Final[dict[type[Contract], str]] = {
    RegisterDomain: catalogue.CMD_DOMAIN_REGISTER,
    RemoveDomain: catalogue.CMD_DOMAIN_REMOVE,
    DisableHttps: catalogue.CMD_HTTPS_DISABLE,
    ChangeSettings: catalogue.CMD_SETTINGS_CHANGE,
    DeployCertificate: catalogue.CMD_CERTIFICATE_DEPLOY,
    RollbackCertificate: catalogue.CMD_CERTIFICATE_ROLLBACK,
    DeleteCertificate: catalogue.CMD_CERTIFICATE_DELETE,
    SetRoots: catalogue.CMD_ROOTS_SET,
    ResumeAccount: catalogue.CMD_ACCOUNT_RESUME,
    SetResumption: catalogue.CMD_ACCOUNT_RESUMPTION,
}


def _subject(command: Contract) -> str:
    """ValueError for what has no preview."""
    subject = _PREVIEWED.get(type(command))
    if subject is None:
        raise ValueError(f"{type(command).__name__} has no preview")
    return subject
