"""What the validator is asked, and whether its verdict may be applied. Pure but for the signature
check."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from services.config.domain.commands import Judged, JudgingBegan
from services.config.domain.library_entry import Entry, StoreBegan
from services.config.domain.model import Domain
from shared.contracts.judging import Attestation, JudgeContext, JudgedPair, JudgeSubmission, Verdict
from shared.crypto.signing import Purpose, Verifier
from shared.errors import Malformed, Unsigned


def request(domain: Domain, began: JudgingBegan, roots: Sequence[str]) -> JudgeSubmission:
    """The question, with the context that only config knows. ``roots``: the account's own, in PEM;
    with private trust and without roots no chain leads anywhere."""
    live = domain.live.pairs if domain.live else ()
    context = JudgeContext(
        private_roots=None if domain.trust == "public" else list(roots),
        live_names=_names(live),
        strict=began.strict,
    )
    return JudgeSubmission(
        submission_id=began.pending.cause.command_id,
        account=domain.account,
        domains=[domain.name],
        pairs=list(began.pairs),
        context=context,
    )


def store_request(entry: Entry | None, began: StoreBegan, roots: Sequence[str]) -> JudgeSubmission:
    """The question for the library: without domains. ``entry`` as it was before: what it covered
    may get lost."""
    live = entry.certificate.pairs if entry and entry.certificate else ()
    context = JudgeContext(
        private_roots=None if began.trust == "public" else list(roots),
        live_names=_names(live),
        strict=began.strict,
    )
    return JudgeSubmission(
        submission_id=began.pending.cause.command_id,
        account=began.pending.cause.account,
        domains=[],
        pairs=list(began.pairs),
        context=context,
    )


def _names(pairs: Sequence[JudgedPair]) -> list[str]:
    return sorted({name for pair in pairs for name in pair.sans})


def verified(verdict: Verdict, verifier: Verifier) -> Verdict:
    """The verdict when every pair in it is vouched for by the validator; Unsigned or Malformed
    otherwise."""
    accepted = [domain for domain, fits in verdict.accepted.items() if fits]
    if accepted and not verdict.pairs:
        raise Malformed("a verdict that accepts carries no pair")
    for pair in verdict.pairs:
        _vouched(pair, verdict.account, accepted, verifier)
    return verdict


def judged(verdict: Verdict, domain: str | None) -> Judged:
    """The verdict on one domain; None: on what was judged for the library, for whatever names it
    has."""
    fits = any(verdict.accepted.values()) if domain is None else verdict.accepted.get(domain, False)
    pairs = tuple(verdict.pairs) if fits else ()
    findings = tuple(
        found for found in verdict.findings if domain is None or found.domain in (None, domain)
    )
    return Judged(verdict.submission_id, pairs, findings)


def _vouched(pair: JudgedPair, account: str, domains: list[str], verifier: Verifier) -> None:
    word = verifier.open(Purpose.ATTESTATION, pair.attestation, Attestation)
    same = (word.account, word.pair_id, word.leaf_fingerprint, word.chain_hash) == (
        account,
        pair.pair_id,
        pair.leaf_fingerprint,
        sha256(pair.chain.encode()).hexdigest(),
    )
    if not same or not all(word.covers(domain) for domain in domains):
        raise Unsigned("the attestation speaks of another account, domain, pair, leaf or chain")
    if pair.sealed_key.epoch < 1:
        raise Malformed("a judged pair is not sealed to an epoch of the fleet")
