"""Whether a verdict may be applied, and how it ends the pending submission. Pure but for the
signature check."""

from __future__ import annotations

from hashlib import sha256

from services.config.domain.commands import JudgingResult, JudgingTimeout, TargetVerdict
from services.config.domain.events import Settled
from services.config.domain.model import PendingSubmission
from services.config.domain.scheduling import JudgedState
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.contracts.judging import Attestation, JudgedPair, Verdict
from shared.crypto.signing import Purpose, Verifier
from shared.errors import Malformed, Unsigned


def verify_verdict(verdict: Verdict, verifier: Verifier) -> None:
    """Raise Unsigned or Malformed unless the validator signed an attestation for every pair."""
    accepted = [domain for domain, fits in verdict.accepted.items() if fits]
    if accepted and not verdict.pairs:
        raise Malformed("a verdict that accepts carries no pair")
    for pair in verdict.pairs:
        _verify_pair(pair, verdict.account, accepted, verifier)


def verdict_on(verdict: Verdict, domain: str | None) -> TargetVerdict:
    """Return the verdict on one domain; None: on a library entry, for whatever names it has."""
    if domain is None:
        fits = any(verdict.accepted.values())
        findings = tuple(verdict.findings)
    else:
        fits = verdict.accepted.get(domain, False)
        findings = tuple(found for found in verdict.findings if found.domain in (None, domain))
    pairs = tuple(verdict.pairs) if fits else ()
    return TargetVerdict(verdict.submission_id, pairs, findings)


def find_pending(state: JudgedState | None, result: JudgingResult) -> PendingSubmission | None:
    """Return the submission that the result answers, None where it is not pending (any more): a
    late or second verdict finds nothing to end."""
    if state is None or state.pending is None:
        return None
    if state.pending.cause.command_id != result.submission_id:
        return None
    return state.pending


def settle_without_pairs(pending: PendingSubmission, result: JudgingResult) -> Settled:
    """Return the end of a submission that gets no certificate: undecided or refused."""
    if isinstance(result, JudgingTimeout):
        found = (finding(Code.SUBMISSION_UNDECIDED),)
        return Settled(pending.cause, Outcome.UNDECIDED, found)
    return Settled(pending.cause, Outcome.REFUSED, result.findings)


def _verify_pair(pair: JudgedPair, account: str, domains: list[str], verifier: Verifier) -> None:
    # The signature alone proves only that the validator vouched for some pair. What it signed must
    # be this pair (id, leaf, chain), for this account, and for every domain that the verdict
    # accepts. The sealed key is not signed, so that a reseal can replace it.
    attestation = verifier.open(Purpose.ATTESTATION, pair.attestation, Attestation)
    attested = (
        attestation.account,
        attestation.pair_id,
        attestation.leaf_fingerprint,
        attestation.chain_hash,
    )
    chain_hash = sha256(pair.chain.encode()).hexdigest()
    same = attested == (account, pair.pair_id, pair.leaf_fingerprint, chain_hash)
    if not same or not all(attestation.covers(domain) for domain in domains):
        raise Unsigned("the attestation is for another account, domain, pair, leaf or chain")
    if pair.sealed_key.epoch < 1:
        raise Malformed("a judged pair is not sealed to an epoch of the fleet")
