"""The judgement of a submission: from texts to findings, and canonical pairs when accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.validator.checks import names
from services.validator.checks.policies import CHECKS, list_names
from services.validator.checks.report_limit import limit_findings
from services.validator.checks.submission import PairSubmission
from services.validator.x509.certificates import ParsedCertificate
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Finding, Severity, finding


@dataclass(frozen=True)
class PairTexts:
    """A certificate field and a key field, as submitted; ``repr`` hides both.

    ``private_key``: None when it could not be opened.
    """

    certificate: str = field(repr=False)
    private_key: str | None = field(repr=False)


@dataclass(frozen=True)
class AcceptedPair:
    """A pair that passed, in canonical form: chain PEM and PKCS#8 key PEM, which ``repr`` hides.

    ``key_type``: rsa or ecdsa. ``leaf_fingerprint``: SHA-256 of the leaf's DER, hex.
    ``chain_hash``: SHA-256 of ``chain``, hex. ``chain_until``: the first end of validity on the
    path from the leaf to its root.
    """

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
class JudgementReport:
    """The result of a judgement.

    ``accepted``: for each domain in A-labels whether every pair fits it; a text that is no domain
    name is listed as it was given. ``pairs`` is empty when no domain is accepted.
    """

    accepted: dict[str, bool]
    findings: tuple[Finding, ...]
    pairs: tuple[AcceptedPair, ...]


def judge_pairs(
    pairs: Sequence[PairTexts],
    domains: Sequence[str],
    *,
    at: datetime,
    roots: TrustRoots,
    live_names: Sequence[str] = (),
    strict: bool = False,
    before: Iterable[Finding] = (),
) -> JudgementReport:
    """Judge one pair or two for ``domains``, and return every finding of every pair.

    ``domains``: as they were given; without any, the names that all pairs cover are judged.
    ``before``: findings that were made before the judgement.
    """
    wanted, domain_refusals = names.normalise_domains(domains)
    submissions = []
    for pair in pairs:
        submissions.append(
            PairSubmission(
                certificate_text=pair.certificate,
                key_text=pair.private_key,
                domains=tuple(wanted),
                at=at,
                roots=roots,
                live_names=tuple(live_names),
            )
        )
    findings = [*before, *domain_refusals]
    for index, submission in enumerate(submissions):
        for found in _run_checks(submission, strict=strict):
            findings.append(found.model_copy(update={"pair": index}))
    findings += _same_kind_findings(submissions)
    findings += _differing_name_findings(submissions)
    if not domains:
        wanted = _common_names(submissions)
        if not wanted and any(submission.leaf for submission in submissions):
            findings.append(
                finding(
                    Code.DOMAIN_MISMATCH, "The certificate has no DNS name.", field="certificate"
                )
            )
    if any(decide_domains(wanted, findings).values()):
        findings += _unproved_findings(submissions)
    refused_texts = [found.domain for found in domain_refusals if found.domain is not None]
    accepted = decide_domains([*wanted, *refused_texts], findings)
    accepted_pairs: list[AcceptedPair] = []
    if any(accepted.values()):
        for index, submission in enumerate(submissions):
            accepted_pairs += _accept_pair(index, submission)
    return JudgementReport(accepted, limit_findings(findings), tuple(accepted_pairs))


def _run_checks(submission: PairSubmission, *, strict: bool) -> Iterator[Finding]:
    """Yield every finding of one pair, in the order of the checks."""
    for check in CHECKS:
        for found in check(submission):
            yield _as_refusal(found) if strict else found


def _as_refusal(found: Finding) -> Finding:
    """Make a notice a refusal, for strict mode."""
    if found.severity is not Severity.NOTICE:
        return found
    return found.model_copy(
        update={"severity": Severity.REFUSAL, "hint": "Correct it, or submit without `strict`."}
    )


def decide_domains(domains: Iterable[str], findings: Iterable[Finding]) -> dict[str, bool]:
    """Return for each domain whether it is accepted. A refusal without a domain refuses all."""
    refused = [found.domain for found in findings if found.severity is Severity.REFUSAL]
    return {domain: None not in refused and domain not in refused for domain in domains}


def _unproved_findings(submissions: Sequence[PairSubmission]) -> Iterator[Finding]:
    """Refuse a pair that no check refused but that lacks a proof.

    Silence is not proof: an accepted pair has a leaf, a chain, and a key that signed for the leaf.
    """
    for index, submission in enumerate(submissions):
        if submission.leaf and submission.chain and submission.key_matches_leaf is True:
            continue
        yield finding(Code.CERTIFICATE_UNJUDGEABLE, field="certificate", pair=index)


def _same_kind_findings(submissions: Sequence[PairSubmission]) -> Iterator[Finding]:
    """Two pairs are for two kinds of clients: one has an RSA key and one an ECDSA key."""
    kinds = [submission.key.kind for submission in submissions if submission.key]
    if len(kinds) != len(set(kinds)):
        yield finding(Code.PAIR_SAME_KIND, field="private_key", pair=1)


def _differing_name_findings(submissions: Sequence[PairSubmission]) -> Iterator[Finding]:
    """Warn of names that only one of two certificates has.

    The visitor's software chooses between the two, so such a name works for some visitors only.
    """
    leaves = [submission.leaf for submission in submissions if submission.leaf]
    if len(leaves) != 2:
        return
    first, second = leaves
    if first.key_type == second.key_type or first.san_set == second.san_set:
        return
    clauses = [
        *_names_of_one_pair_only(0, first, second),
        *_names_of_one_pair_only(1, second, first),
    ]
    yield finding(
        Code.PAIR_NAMES_DIFFER,
        f"The two certificates have different names: {'; '.join(clauses)}.",
        field="certificate",
        block=second.block,
        pair=1,
    )


def _names_of_one_pair_only(
    pair: int, leaf: ParsedCertificate, other: ParsedCertificate
) -> Iterator[str]:
    only_here = [name for name in leaf.sans if name not in other.san_set]
    if only_here:
        yield f"only pair {pair} covers {list_names(only_here, 15)}"


def _common_names(submissions: Sequence[PairSubmission]) -> list[str]:
    """Return the domain names that every leaf covers, in their order, each once."""
    leaves = [submission.leaf for submission in submissions if submission.leaf]
    common: dict[str, None] = {}
    for leaf in leaves:
        for name in leaf.sans:
            if names.is_domain_name(name) and all(
                names.covered(other.san_set, name) for other in leaves
            ):
                common[name] = None
    return list(common)


def _accept_pair(index: int, submission: PairSubmission) -> Iterator[AcceptedPair]:
    leaf = submission.leaf
    chain = submission.chain
    key = submission.key
    if leaf is None or chain is None or key is None:
        return
    yield AcceptedPair(
        index=index,
        chain="".join([certificate.pem for certificate in chain.certificates]),
        key=key.to_pem(),
        leaf_fingerprint=leaf.fingerprint,
        subject=leaf.subject,
        sans=leaf.sans,
        issuer=leaf.issuer,
        key_type=key.kind,
        key_bits=key.bits,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        chain_until=chain.first_to_end.not_after,
    )
