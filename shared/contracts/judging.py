"""What config asks of the validator, and the verdict. Keys travel sealed; the validator signs what it vouches for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Account, Contract, Hash, Identifier, Name, SealedKey, Signed, Utc
from shared.contracts.commands import SubmittedPair
from shared.contracts.findings import Finding


class JudgeContext(Contract):
    """What only config knows. ``private_roots``: PEM of the account's own roots, None for public trust."""

    private_roots: list[str] | None = None
    live_names: list[str] = []
    strict: bool = False


class JudgeSubmission(Contract):
    """https.judge.submission.v1: is each pair fit to serve every domain in ``domains``?"""

    submission_id: Identifier
    account: Account
    domains: Annotated[list[Name], Field(min_length=1, max_length=50)]
    pairs: Annotated[list[SubmittedPair], Field(min_length=1, max_length=2)]
    context: JudgeContext


class Attestation(Contract):
    """Payload of the validator's signature over an accepted pair: all that a node must be able to trust.

    ``chain_hash``: SHA-256 of the canonical chain PEM. Never ciphertext or revision: a reseal keeps it valid."""

    account: Account
    domains: list[Name]
    pair_id: Identifier
    leaf_fingerprint: Hash
    chain_hash: Hash


class JudgedPair(Contract):
    """An accepted pair: canonical chain PEM, its facts, its key sealed to the fleet's epoch."""

    pair_id: Identifier
    chain: Annotated[str, Field(max_length=200_000, repr=False)]
    leaf_fingerprint: Hash
    subject: str
    sans: list[str]
    issuer: str
    key_type: str
    key_bits: int
    not_before: Utc
    not_after: Utc
    sealed_key: SealedKey
    attestation: Signed


class Verdict(Contract):
    """https.verdict.submission.v1. ``accepted`` maps each domain to whether all pairs fit it; pairs are empty when
    none is accepted."""

    submission_id: Identifier
    account: Account
    accepted: dict[Name, bool]
    findings: list[Finding]
    pairs: list[JudgedPair]


class CheckCertificate(Contract):
    """https.rpc.certificate.check.v1: the dry run. The key is sealed as for a submission; nothing is stored."""

    submission_id: Identifier
    account: Account
    domains: Annotated[list[Name], Field(min_length=1, max_length=50)]
    pairs: Annotated[list[SubmittedPair], Field(min_length=1, max_length=2)]
    strict: bool = False


class CheckReport(Contract):
    accepted: dict[Name, bool]
    findings: list[Finding]
