"""An account's certificate library and its own roots (rules B8 to B11, D9): commands, questions and
answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Account, Contract, Hash, Identifier, Name, Search, Utc, Whole
from shared.contracts.commands import CertificateName, SubmittedPair
from shared.contracts.domains import CertificateView, CommandSettled, Outcome
from shared.contracts.findings import Finding

Trust = Literal["public", "private"]
PageSize = Annotated[int, Field(ge=1, le=500)]


class StoreCertificate(Contract):
    """https.cmd.certificate.store.v1: keep a pair under a name.

    The pair is judged once, for every name of its leaf. ``overwrite``: replace the certificate of
    this name; every domain that uses it follows, each with a command.settled event of its own.
    ``submission_id`` equals ce-id; pairs are sealed as for a submission."""

    name: CertificateName
    account: Account
    submission_id: Identifier
    pairs: Annotated[list[SubmittedPair], Field(min_length=1, max_length=2)]
    trust: Trust = "public"
    overwrite: bool = False
    strict: bool = False


class DeployCertificate(Contract):
    """https.cmd.certificate.deploy.v1: serve a stored certificate on up to 50 domains (rule B8).

    Each domain has a command.settled event of its own. A deployment enables HTTPS, or replaces the
    certificate."""

    name: CertificateName
    account: Account
    domains: Annotated[
        list[Annotated[str, Field(max_length=1000)]], Field(min_length=1, max_length=50)
    ]


class DeleteCertificate(Contract):
    """https.cmd.certificate.delete.v1: delete a stored certificate. Refused while a domain uses it
    (certificate.in_use)."""

    name: CertificateName
    account: Account


class RollbackCertificate(Contract):
    """https.cmd.certificate.rollback.v1: return to the certificate before; the two change places
    (rule B5)."""

    domain: Name
    account: Account


class SetRoots(Contract):
    """https.cmd.roots.set.v1: replace the account's own roots; an empty list removes them.

    The roots are CA certificates in PEM. They apply to submissions that are judged later, of
    domains and stored certificates with private trust."""

    account: Account
    roots: Annotated[str, Field(max_length=200_000)]


class ShowCertificate(Contract):
    name: CertificateName
    account: Account


class StoredView(Contract):
    """A library entry; a key has no field (rule C1).

    ``version`` counts its certificates. ``domains`` counts the domains that use it.
    ``certificates`` is empty while the first one is being judged."""

    name: str
    account: Account
    trust: Trust
    version: int
    stored_at: Utc | None
    certificates: list[CertificateView]
    domains: int
    pending_submission: str | None


class ListCertificates(Contract):
    """https.rpc.certificate.list.v1: the library in order of the names. ``after`` is the ``next``
    of the page before."""

    account: Account
    after: Search = ""
    limit: PageSize = 100


class StoredList(Contract):
    certificates: list[StoredView]
    next: str | None


class ShowUsage(Contract):
    """https.rpc.certificate.usage.v1: domains that use a stored certificate, or keep it for a
    rollback.

    ``after`` is the ``next`` of the page before."""

    name: CertificateName
    account: Account
    after: Search = ""
    limit: PageSize = 100


class Use(Contract):
    """A domain's use of a library entry.

    ``current``: it has the entry's present certificate, not the one before. ``live`` False: the
    domain serves another certificate and keeps this one for a rollback."""

    domain: Name
    current: bool
    live: bool = True


class CertificateUsagePage(Contract):
    uses: list[Use]
    next: str | None


class ShowRoots(Contract):
    account: Account


class RootView(Contract):
    subject: str
    fingerprint: Hash
    not_after: Utc
    pem: str


class RootsView(Contract):
    roots: list[RootView]
    set_at: Utc | None


class ShowCommand(Contract):
    """https.rpc.command.show.v1: how a command ended on each of its domains, in the order in which
    it did.

    ``after`` is the ``next`` of the page before."""

    command_id: Identifier
    account: Account | None = None
    after: Whole = 0
    limit: PageSize = 100


class CommandResult(CommandSettled):
    """How a command ended on one domain.

    ``findings`` are in full. A disable of the domain deletes them (rule B3); the codes stay."""

    findings: list[Finding]


class CommandView(Contract):
    """A command's results so far. ``waiting``: domains on which it has not ended, at most 500."""

    results: list[CommandResult]
    waiting: list[str]
    next: int | None


class PreviewCommand(Contract):
    """https.rpc.command.preview.v1: what a command to config would change at present; nothing is
    changed.

    ``command`` is its subject, ``body`` its JSON. For a submission ask
    https.rpc.certificate.check.v1 instead."""

    command: Annotated[str, Field(max_length=200)]
    body: Annotated[str, Field(max_length=100_000)]


class FieldChange(Contract):
    """A changed field: ``field`` is its path in the domain's view, such as ``settings.http2``.
    None: not there."""

    field: str
    before: str | None
    after: str | None


class Effect(Contract):
    """What a command would do to one domain, or to a library entry (``certificate``)."""

    domain: str | None
    certificate: str | None = None
    outcome: Outcome
    findings: list[Finding]
    changes: list[FieldChange]


class Preview(Contract):
    effects: list[Effect]
