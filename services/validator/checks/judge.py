"""The judgement of a submission: pure, from texts to findings, and for what is accepted the
canonical pair."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.validator.checks import names
from services.validator.checks.policies import CHECKS, shown
from services.validator.checks.report_limit import bounded
from services.validator.checks.submission import Submission
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Finding, Severity, finding


@dataclass(frozen=True)
class FitPair:
    """A pair that passed: canonical chain PEM, canonical PKCS#8 key PEM (``repr`` hides it), and
    its facts.

    ``key_type``: rsa | ecdsa; ``leaf_fingerprint``: SHA-256 of the leaf's DER, hex; ``chain_hash``:
    of ``chain``."""

    index: int
    chain: str = field(repr=False)
    key: str = field(repr=False)
    leaf_fingerprint: str
    subject: str
    sans: tuple[str, ...]
    issuer: str
    key_type: str
    key_bits: int
    not_before: datetime
    not_after: datetime
    chain_until: datetime

    @property
    def chain_hash(self) -> str:
        return hashlib.sha256(self.chain.encode()).hexdigest()


@dataclass(frozen=True)
class Report:
    """``accepted``: by domain (in A-labels; a text that is no name as it was given), whether every
    pair fits it. ``pairs`` is empty when no domain is accepted."""

    accepted: dict[str, bool]
    findings: tuple[Finding, ...]
    pairs: tuple[FitPair, ...]


@dataclass(frozen=True)
class Texts:
    """A certificate field and a key field, as submitted; ``repr`` hides both. No key: it could not
    be opened."""

    certificate: str = field(repr=False)
    private_key: str | None = field(repr=False)


def judge(
    pairs: Sequence[Texts],
    domains: Sequence[str],
    *,
    at: datetime,
    roots: TrustRoots,
    live_names: Sequence[str] = (),
    strict: bool = False,
    before: Iterable[Finding] = (),
) -> Report:
    """Every finding of every pair. ``domains``: as they were given, none: every name that all pairs
    cover; ``before``: findings made before the judging."""
    wanted, no_names = names.normalised(domains)
    submissions = [
        Submission(p.certificate, p.private_key, tuple(wanted), at, roots, tuple(live_names))
        for p in pairs
    ]
    findings = [*before, *no_names]
    for index, submission in enumerate(submissions):
        findings += (
            f.model_copy(update={"pair": index}) for f in judge_pair(submission, strict=strict)
        )
    findings += [*_same_kind(submissions), *_other_names(submissions)]
    if not domains:
        wanted = _own_names(submissions)
        if not wanted and any(submission.leaf for submission in submissions):
            findings.append(
                finding(
                    Code.DOMAIN_MISMATCH, "The certificate has no DNS name.", field="certificate"
                )
            )
    if any(verdicts(wanted, findings).values()):
        findings += _unproved(submissions)
    accepted = verdicts([*wanted, *(f.domain for f in no_names if f.domain is not None)], findings)
    fit = (
        [_fit_pair(index, s) for index, s in enumerate(submissions)]
        if any(accepted.values())
        else []
    )
    return Report(accepted, bounded(findings), tuple(pair for pair in fit if pair))


def judge_pair(submission: Submission, *, strict: bool = False) -> list[Finding]:
    """Every finding of one pair, in the order of the checks."""
    found = [f for check in CHECKS for f in check(submission)]
    return [_refused(f) for f in found] if strict else found


def verdicts(domains: Iterable[str], findings: Iterable[Finding]) -> dict[str, bool]:
    """A refusal without a domain refuses all of them."""
    refusals = [f.domain for f in findings if f.severity is Severity.REFUSAL]
    return {domain: None not in refusals and domain not in refusals for domain in domains}


def _refused(found: Finding) -> Finding:
    if found.severity is not Severity.NOTICE:
        return found
    return found.model_copy(
        update={"severity": Severity.REFUSAL, "hint": "Correct it, or submit without `strict`."}
    )


def _unproved(submissions: Sequence[Submission]) -> list[Finding]:
    """Silence is not proof: what no check refused must have a leaf, a path and a key that signed
    for it."""
    return [
        finding(Code.CERTIFICATE_UNJUDGEABLE, field="certificate", pair=index)
        for index, s in enumerate(submissions)
        if s.leaf is None or s.chain is None or s.key_belongs is not True
    ]


def _same_kind(submissions: Sequence[Submission]) -> list[Finding]:
    """Two pairs are for two kinds of clients: one RSA, one ECDSA."""
    kinds = [submission.key.kind for submission in submissions if submission.key]
    if len(kinds) == len(set(kinds)):
        return []
    return [finding(Code.PAIR_SAME_KIND, field="private_key", pair=1)]


def _other_names(submissions: Sequence[Submission]) -> list[Finding]:
    """Which of two pairs a visitor gets is the visitor's software's choice: a name of one only
    works for some."""
    leaves = [submission.leaf for submission in submissions if submission.leaf]
    if (
        len(leaves) != 2
        or leaves[0].key_type == leaves[1].key_type
        or leaves[0].san_set == leaves[1].san_set
    ):
        return []
    only = [
        [name for name in one.sans if name not in other.san_set]
        for one, other in (leaves, leaves[::-1])
    ]
    told = [
        f"only pair {index} covers {shown(found, 15)}" for index, found in enumerate(only) if found
    ]
    return [
        finding(
            Code.PAIR_NAMES_DIFFER,
            f"The two certificates have different names: {'; '.join(told)}.",
            field="certificate",
            block=leaves[1].block,
            pair=1,
        )
    ]


def _own_names(submissions: Sequence[Submission]) -> list[str]:
    """The names that every leaf covers, in their order; one that is no domain name is left out."""
    sans = [submission.leaf.san_set for submission in submissions if submission.leaf]
    listed = dict.fromkeys(
        name for s in submissions if s.leaf for name in s.leaf.sans if names.is_domain(name)
    )
    return [name for name in listed if all(names.covered(covering, name) for covering in sans)]


def _fit_pair(index: int, submission: Submission) -> FitPair | None:
    leaf, chain, key = submission.leaf, submission.chain, submission.key
    if leaf is None or chain is None or key is None:
        return None
    return FitPair(
        index=index,
        chain="".join(c.pem for c in chain.certificates),
        key=key.pem(),
        leaf_fingerprint=leaf.fingerprint,
        subject=leaf.subject,
        sans=leaf.sans,
        issuer=leaf.issuer,
        key_type=key.kind,
        key_bits=key.bits,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        chain_until=min(certificate.not_after for certificate in chain.certificates),
    )
