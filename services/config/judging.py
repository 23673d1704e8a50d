"""What the validator is asked, and whether its verdict may be applied. Pure but for the signature check."""

from __future__ import annotations

from hashlib import sha256

from services.config.orders import Judged, JudgingBegan
from services.config.state import Domain
from shared.contracts.judging import Attestation, JudgeContext, JudgedPair, JudgeSubmission, Verdict
from shared.crypto.signing import Purpose, Verifier
from shared.errors import Malformed, Unsigned


def request(domain: Domain, began: JudgingBegan) -> JudgeSubmission:
    """The question, with the context that only config knows. Own roots are uploaded by no command yet: with private
    trust the list is empty and no chain leads to it."""
    live = domain.live.pairs if domain.live else ()
    return JudgeSubmission(
        submission_id=began.pending.cause.command_id, account=domain.account, domains=[domain.name],
        pairs=list(began.pairs),
        context=JudgeContext(
            private_roots=None if domain.trust == "public" else [],
            live_names=sorted({name for pair in live for name in pair.sans}), strict=began.strict,
        ),
    )


def verified(verdict: Verdict, verifier: Verifier) -> Verdict:
    """The verdict when every pair in it is vouched for by the validator; Unsigned or Malformed otherwise."""
    accepted = [domain for domain, fits in verdict.accepted.items() if fits]
    if accepted and not verdict.pairs:
        raise Malformed("a verdict that accepts carries no pair")
    for pair in verdict.pairs:
        _vouched(pair, verdict.account, accepted, verifier)
    return verdict


def judged(verdict: Verdict, domain: str) -> Judged:
    """The verdict on one domain."""
    pairs = tuple(verdict.pairs) if verdict.accepted.get(domain, False) else ()
    findings = tuple(found for found in verdict.findings if found.domain in (None, domain))
    return Judged(verdict.submission_id, pairs, findings)


def _vouched(pair: JudgedPair, account: str, domains: list[str], verifier: Verifier) -> None:
    word = verifier.open(Purpose.ATTESTATION, pair.attestation, Attestation)
    same = (word.account, word.pair_id, word.leaf_fingerprint, word.chain_hash) == (
        account, pair.pair_id, pair.leaf_fingerprint, sha256(pair.chain.encode()).hexdigest(),
    )
    if not same or not set(domains) <= set(word.domains):
        raise Unsigned("the attestation speaks of another account, domain, pair, leaf or chain")
    if pair.sealed_key.epoch < 1:
        raise Malformed("a judged pair is not sealed to an epoch of the fleet")
