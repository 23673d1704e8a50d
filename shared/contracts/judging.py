"""What config asks of the validator, and the verdict. Keys travel sealed; the validator signs
what it accepts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Account, Contract, Hash, Identifier, Name, SealedKey, Signed, Utc
from shared.contracts.commands import SubmittedPair
from shared.contracts.findings import Finding
from shared.contracts.names import covered

# PEM texts of an account's own roots.
PrivateRoots = Annotated[list[Annotated[str, Field(max_length=70_000)]], Field(max_length=32)]

# The names of up to two leaves, 1,000 each (rule D11).
DnsNames = Annotated[list[Name], Field(max_length=2000)]


class JudgeContext(Contract):
    """What only config knows about a submission.

    ``private_roots`` is None for public trust. ``live_names`` are the names that the live pairs
    cover."""

    private_roots: PrivateRoots | None = None
    live_names: DnsNames = []
    strict: bool = False


class JudgeSubmission(Contract):
    """https.judge.submission.v1: judge whether each pair is fit to serve every domain in
    ``domains``.

    Without domains (for the account's library) the pairs are judged for every name of their
    leaf."""

    submission_id: Identifier
    account: Account
    domains: Annotated[list[Name], Field(max_length=50)]
    pairs: Annotated[list[SubmittedPair], Field(min_length=1, max_length=2)]
    context: JudgeContext


class Attestation(Contract):
    """The payload of the validator's signature over an accepted pair: all that a node must be
    able to trust.

    ``domains``: the domains that the pair was judged for; of a pair for the library, every name
    of its leaf. A wildcard among them covers one label, as in the leaf. ``chain_hash``: SHA-256
    of the canonical chain PEM. The ciphertext and the revision are not signed: a reseal keeps
    the attestation valid."""

    account: Account
    domains: list[Name]
    pair_id: Identifier
    leaf_fingerprint: Hash
    chain_hash: Hash

    def covers(self, domain: str) -> bool:
        """Return whether it covers ``domain`` (lower-case A-labels)."""
        return covered(self.domains, domain)


class JudgedPair(Contract):
    """An accepted pair: canonical chain PEM, what a view shows of it, its key sealed to the
    fleet's epoch.

    ``chain_until``: when the first certificate of the chain expires."""

    pair_id: Identifier
    chain: Annotated[str, Field(max_length=200_000, repr=False)]
    leaf_fingerprint: Hash
    subject: str
    sans: Annotated[list[Name], Field(max_length=1000)]
    issuer: str
    key_type: str
    key_bits: int
    not_before: Utc
    not_after: Utc
    chain_until: Utc | None = None
    sealed_key: SealedKey
    attestation: Signed


class Verdict(Contract):
    """https.verdict.submission.v1: the judgement of one submission.

    ``accepted`` maps each domain (for the library: each name of the leaf) to whether all pairs
    fit it. ``pairs`` is empty when none is accepted."""

    submission_id: Identifier
    account: Account
    accepted: dict[Name, bool]
    findings: list[Finding]
    pairs: list[JudgedPair]


class CheckCertificate(Contract):
    """https.rpc.certificate.check.v1: judge a pair and store nothing (the dry run).

    The key is sealed as for a submission. ``private_roots``: the roots that private trust would
    judge by, None for public trust. ``live_names``: the names that the pairs in use cover, to
    learn which of them would be lost. ``domains`` are as the user writes them; the report names
    them in A-labels."""

    submission_id: Identifier
    account: Account
    domains: Annotated[list[Name], Field(min_length=1, max_length=50)]
    pairs: Annotated[list[SubmittedPair], Field(min_length=1, max_length=2)]
    private_roots: PrivateRoots | None = None
    live_names: DnsNames = []
    strict: bool = False


class CheckReport(Contract):
    accepted: dict[Name, bool]
    findings: list[Finding]
