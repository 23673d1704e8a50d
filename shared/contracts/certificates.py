"""An account's certificate library and its own roots (rules B8 to B11, D9): orders, questions and
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
    """https.cmd.certificate.store.v1: keep a pair under a name. It is judged once, for every name
    of its leaf.

    ``overwrite``: replace the certificate of this name; every domain that uses it follows, each
    with a command.settled of its own. ``submission_id`` equals ce-id; pairs are sealed as for a
    submission."""

    name: CertificateName
    account: Account
    submission_id: Identifier
    pairs: Annotated[list[SubmittedPair], Field(min_length=1, max_length=2)]
    trust: Trust = "public"
    overwrite: bool = False
    strict: bool = False


class DeployCertificate(Contract):
    """https.cmd.certificate.deploy.v1: serve a stored certificate on up to 50 domains, each with a
    command.settled of its own (rule B8). It enables HTTPS, or replaces the certificate."""

    name: CertificateName
    account: Account
    domains: Annotated[
        list[Annotated[str, Field(max_length=1000)]], Field(min_length=1, max_length=50)
    ]


class DeleteCertificate(Contract):
    """https.cmd.certificate.delete.v1: refused while a domain uses it (certificate.in_use)."""

    name: CertificateName
    account: Account


class RollbackCertificate(Contract):
    """https.cmd.certificate.rollback.v1: back to the certificate before; the two swap places (rule
    B5)."""

    domain: Name
    account: Account


class SetRoots(Contract):
    """https.cmd.roots.set.v1: the account's own roots, all of them: CA certificates in PEM, empty
    for none.

    They hold for what is judged from then on by domains and stored certificates with private
    trust."""

    account: Account
    roots: Annotated[str, Field(max_length=200_000)]


class ShowCertificate(Contract):
    name: CertificateName
    account: Account


class StoredView(Contract):
    """A library entry; a key has no field (rule C1). ``version`` counts its certificates;
    ``domains``: how many use it. ``certificates`` are empty while the first one is being judged."""

    name: str
    account: Account
    trust: Trust
    version: int
    stored_at: Utc | None
    certificates: list[CertificateView]
    domains: int
    pending_submission: str | None


class ListCertificates(Contract):
    """In order of their name. ``after``: the ``next`` of the page before."""

    account: Account
    after: Search = ""
    limit: PageSize = 100


class StoredList(Contract):
    certificates: list[StoredView]
    next: str | None


class ShowUsage(Contract):
    """Which domains a stored certificate serves, and which keep it for a rollback. ``after``: the
    ``next`` of the page before."""

    name: CertificateName
    account: Account
    after: Search = ""
    limit: PageSize = 100


class Use(Contract):
    """``current``: it has the entry's present certificate, not the one before. ``live`` False: it
    serves another one, and keeps this for a rollback."""

    domain: Name
    current: bool
    live: bool = True


class UsagePage(Contract):
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
    """https.rpc.command.show.v1: how a command ended, for each of its domains, in the order that it
    did. ``after``: the ``next`` of the page before."""

    command_id: Identifier
    account: Account | None = None
    after: Whole = 0
    limit: PageSize = 100


class CommandResult(CommandSettled):
    """``findings``: what was found, in full. A disable of the domain drops them (rule B3); the
    codes stay."""

    findings: list[Finding]


class CommandView(Contract):
    """``waiting``: domains on which it has not come to its end, 500 of them at most."""

    results: list[CommandResult]
    waiting: list[str]
    next: int | None


class PreviewCommand(Contract):
    """https.rpc.command.preview.v1: what a command to config would do as things are now; nothing is
    done.

    ``command``: its subject; ``body``: its JSON. A submission is tried by
    https.rpc.certificate.check.v1 instead."""

    command: Annotated[str, Field(max_length=200)]
    body: Annotated[str, Field(max_length=100_000)]


class Difference(Contract):
    """``field``: a path in the domain's view, ``settings.http2``. None: not there."""

    field: str
    before: str | None
    after: str | None


class Effect(Contract):
    """What would become of one domain (``certificate``: of a library entry)."""

    domain: str | None
    certificate: str | None = None
    outcome: Outcome
    findings: list[Finding]
    changes: list[Difference]


class Preview(Contract):
    effects: list[Effect]
