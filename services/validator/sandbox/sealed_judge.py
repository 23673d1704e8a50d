"""Judges a sealed submission inside a worker: opens it, judges it, and seals its keys to the fleet.

Here a customer's key is opened with the submission key, and sealed to the epoch's public key. For
each accepted pair it signs the attestation that nodes check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, overload

from pydantic import Field

from services.validator.checks.judge import (
    AcceptedPair,
    JudgementReport,
    PairTexts,
    decide_domains,
    judge_pairs,
)
from services.validator.checks.names import MAX_NAME_LENGTH
from services.validator.mozilla_roots import load_mozilla_roots
from services.validator.x509.certificates import UnreadableCertificate
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.base import Contract, SealedKey, Utc
from shared.contracts.commands import EpochKey, SubmittedPair
from shared.contracts.findings import Code, Finding, finding
from shared.contracts.judging import (
    Attestation,
    CheckCertificate,
    CheckReport,
    JudgedPair,
    JudgeSubmission,
    Verdict,
)
from shared.crypto.sealing import PrivateKey, PublicKey, pair_info, submission_info
from shared.crypto.signing import Purpose, Signer
from shared.errors import CannotOpen
from shared.ids import derived_id

_CERTIFICATE_UNOPENABLE: Final = "The sealed certificate cannot be opened."
_ROOTS_UNREADABLE: Final = "One of the account's own roots cannot be read."


class WorkerSecrets(Contract):
    """The keys of a worker, which it gets once.

    ``submission_keys``: HPKE private keys, the current one first. ``signer_key``: the validator's
    Ed25519 key. Both are as their ``text()``. ``extra_roots``: PEM, besides Mozilla's.
    """

    submission_keys: Annotated[list[str], Field(min_length=1, repr=False)]
    signer_id: str
    signer_key: Annotated[str, Field(repr=False)]
    extra_roots: str = ""


class WorkerJob(Contract):
    """One request, and the moment for which validity is judged.

    ``sealing``: the epoch to which accepted keys are sealed; None for a dry run.
    """

    request: JudgeSubmission | CheckCertificate
    at: Utc
    sealing: EpochKey | None = None


class SealedJudge:
    """Holds the private keys and the trust roots; each worker has one."""

    def __init__(self, secrets: WorkerSecrets) -> None:
        self._keys = [PrivateKey(text) for text in secrets.submission_keys]
        self._signer = Signer(secrets.signer_id, secrets.signer_key)
        self._public_roots = load_mozilla_roots(secrets.extra_roots)

    def answer_job(self, job: WorkerJob) -> Verdict | CheckReport:
        """Return the verdict on a submission, or the report of a dry run."""
        request = job.request
        if isinstance(request, CheckCertificate):
            report = self._judge(
                job, request.private_roots, request.live_names, strict=request.strict
            )
            return CheckReport(accepted=report.accepted, findings=list(report.findings))
        context = request.context
        report = self._judge(job, context.private_roots, context.live_names, strict=context.strict)
        pairs = []
        if job.sealing is not None:
            for pair in report.pairs:
                pairs.append(self._seal_pair(request, report, pair, job.sealing))
        return Verdict(
            submission_id=request.submission_id,
            account=request.account,
            accepted=report.accepted,
            findings=list(report.findings),
            pairs=pairs,
        )

    def _judge(
        self,
        job: WorkerJob,
        private_roots: Sequence[str] | None,
        live_names: Sequence[str],
        *,
        strict: bool,
    ) -> JudgementReport:
        request = job.request
        info = submission_info(request.account, request.submission_id)
        roots, root_findings = self._choose_roots(private_roots)
        texts: list[PairTexts] = []
        unopened_certificates: list[Finding] = []
        unopened_keys: list[Finding] = []
        for index, pair in enumerate(request.pairs):
            certificate = self._open_certificate(pair, info)
            if certificate is None:
                unopened_certificates.append(
                    finding(
                        Code.KEY_UNOPENABLE,
                        _CERTIFICATE_UNOPENABLE,
                        field="certificate",
                        pair=index,
                    )
                )
            key = self._open_sealed(pair.sealed_key, info)
            if key is None:
                unopened_keys.append(finding(Code.KEY_UNOPENABLE, field="private_key", pair=index))
            texts.append(PairTexts(certificate or "", key))
        return judge_pairs(
            texts,
            request.domains,
            at=job.at,
            roots=roots,
            live_names=live_names,
            strict=strict,
            before=[*root_findings, *unopened_certificates, *unopened_keys],
        )

    def _open_certificate(self, pair: SubmittedPair, info: bytes) -> str | None:
        if pair.sealed_certificate is None:
            return pair.certificate
        text = self._open_sealed(pair.sealed_certificate, info)
        if text is None:
            return None
        # The same text as if it had come in JSON, which has no lone surrogates.
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def _open_sealed(self, sealed: SealedKey, info: bytes) -> str | None:
        """Open with the first submission key that fits; None when none does."""
        if sealed.epoch != 0:
            return None
        for key in self._keys:
            try:
                return key.open(sealed.box, info).decode("utf-8", "surrogateescape")
            except CannotOpen:
                continue
        return None

    def _choose_roots(
        self, private_roots: Sequence[str] | None
    ) -> tuple[TrustRoots, list[Finding]]:
        """Return the account's own roots if it has any, else the public ones."""
        if private_roots is None:
            return self._public_roots, []
        try:
            return TrustRoots.from_pem(*private_roots), []
        except UnreadableCertificate:
            refusal = finding(Code.CHAIN_UNTRUSTED, _ROOTS_UNREADABLE, field="settings")
            return TrustRoots([]), [refusal]

    def _seal_pair(
        self,
        request: JudgeSubmission,
        report: JudgementReport,
        pair: AcceptedPair,
        epoch: EpochKey,
    ) -> JudgedPair:
        # The id derives from the submission, so a redelivery agrees with the first verdict.
        pair_id = derived_id("pair", request.submission_id, str(pair.index))
        info = pair_info(request.account, pair_id, pair.leaf_fingerprint)
        box = PublicKey(epoch.public_key).seal(pair.key.encode(), info)
        attestation = Attestation(
            account=request.account,
            domains=[domain for domain, accepted in report.accepted.items() if accepted],
            pair_id=pair_id,
            leaf_fingerprint=pair.leaf_fingerprint,
            chain_hash=pair.chain_hash,
        )
        return JudgedPair(
            pair_id=pair_id,
            chain=pair.chain,
            leaf_fingerprint=pair.leaf_fingerprint,
            subject=pair.subject,
            # config sends these back as the live names, and no contract takes longer ones.
            sans=[name for name in pair.sans if 0 < len(name) <= MAX_NAME_LENGTH],
            issuer=pair.issuer,
            key_type=pair.key_type,
            key_bits=pair.key_bits,
            not_before=pair.not_before,
            not_after=pair.not_after,
            chain_until=pair.chain_until,
            sealed_key=SealedKey(epoch=epoch.epoch, box=box),
            attestation=self._signer.sign(Purpose.ATTESTATION, attestation),
        )


@overload
def refuse_unjudgeable(request: JudgeSubmission) -> Verdict: ...


@overload
def refuse_unjudgeable(request: CheckCertificate) -> CheckReport: ...


def refuse_unjudgeable(request: JudgeSubmission | CheckCertificate) -> Verdict | CheckReport:
    """Refuse a request that stalled or killed its workers, or that met a fault of ours.

    The refusal reveals nothing of the content.
    """
    findings = [finding(Code.CERTIFICATE_UNJUDGEABLE, field="certificate")]
    accepted = decide_domains(request.domains, findings)
    if isinstance(request, CheckCertificate):
        return CheckReport(accepted=accepted, findings=findings)
    return Verdict(
        submission_id=request.submission_id,
        account=request.account,
        accepted=accepted,
        findings=findings,
        pairs=[],
    )
