"""A sealed submission judged, inside a worker: open, judge, seal anew for the fleet, attest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, overload

from pydantic import Field

from services.validator.checks.judge import FitPair, Report, Texts, judge, verdicts
from services.validator.checks.names import MAX_NAME
from services.validator.x509.certificates import Unreadable
from services.validator.x509.trust_roots import TrustRoots, mozilla
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

_CLOSED: Final = "The sealed certificate cannot be opened."


class Secrets(Contract):
    """What a worker needs to know, once. ``submission_keys``: HPKE private keys, the current one
    first;
    ``signer_key``: the validator's Ed25519 key; both as their ``text()``. ``extra_roots``: PEM,
    besides Mozilla's."""

    submission_keys: Annotated[list[str], Field(min_length=1, repr=False)]
    signer_id: str
    signer_key: Annotated[str, Field(repr=False)]
    extra_roots: str = ""


class Job(Contract):
    """One request. ``sealing``: the epoch to seal accepted keys to; None for a check, which seals
    nothing."""

    request: JudgeSubmission | CheckCertificate
    at: Utc
    sealing: EpochKey | None = None


class SealedJudge:
    """Holds the private keys; made once in each worker."""

    def __init__(self, secrets: Secrets) -> None:
        self._keys = [PrivateKey(text) for text in secrets.submission_keys]
        self._signer = Signer(secrets.signer_id, secrets.signer_key)
        self._public_roots = mozilla(secrets.extra_roots)

    def answer(self, job: Job) -> Verdict | CheckReport:
        """The verdict on a submission, or the report of a dry run."""
        request = job.request
        if isinstance(request, CheckCertificate):
            roots, before = self._roots(request.private_roots)
            report = self._judge(request, job, roots, request.live_names, request.strict, before)
            return CheckReport(accepted=report.accepted, findings=list(report.findings))
        roots, before = self._roots(request.context.private_roots)
        report = self._judge(
            request, job, roots, request.context.live_names, request.context.strict, before
        )
        pairs = [
            self._sealed(request, report, pair, job.sealing) for pair in report.pairs if job.sealing
        ]
        return Verdict(
            submission_id=request.submission_id,
            account=request.account,
            accepted=report.accepted,
            findings=list(report.findings),
            pairs=pairs,
        )

    def _judge(
        self,
        request: JudgeSubmission | CheckCertificate,
        job: Job,
        roots: TrustRoots,
        live_names: Sequence[str],
        strict: bool,
        before: Sequence[Finding],
    ) -> Report:
        info = submission_info(request.account, request.submission_id)
        opened = [
            (self._certificate(pair, info), self._open(pair.sealed_key, info))
            for pair in request.pairs
        ]
        unopenable = [
            finding(Code.KEY_UNOPENABLE, _CLOSED, field="certificate", pair=index)
            for index, (certificate, _) in enumerate(opened)
            if certificate is None
        ] + [
            finding(Code.KEY_UNOPENABLE, field="private_key", pair=index)
            for index, (_, key) in enumerate(opened)
            if key is None
        ]
        texts = [Texts(certificate or "", key) for certificate, key in opened]
        return judge(
            texts,
            request.domains,
            at=job.at,
            roots=roots,
            live_names=live_names,
            strict=strict,
            before=[*before, *unopenable],
        )

    def _certificate(self, pair: SubmittedPair, info: bytes) -> str | None:
        if pair.sealed_certificate is None:
            return pair.certificate
        text = self._open(pair.sealed_certificate, info)
        # As it would have come in JSON, which knows no lone surrogates.
        return (
            None
            if text is None
            else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        )

    def _open(self, sealed: SealedKey, info: bytes) -> str | None:
        for key in self._keys if sealed.epoch == 0 else ():
            try:
                return key.open(sealed.box, info).decode("utf-8", "surrogateescape")
            except CannotOpen:
                continue
        return None

    def _roots(self, own: Sequence[str] | None) -> tuple[TrustRoots, list[Finding]]:
        if own is None:
            return self._public_roots, []
        try:
            return TrustRoots.from_pem(*own), []
        except Unreadable:
            return TrustRoots([]), [
                finding(
                    Code.CHAIN_UNTRUSTED,
                    "One of the account's own roots cannot be read.",
                    field="settings",
                )
            ]

    def _sealed(
        self, request: JudgeSubmission, report: Report, pair: FitPair, epoch: EpochKey
    ) -> JudgedPair:
        pair_id = derived_id("pair", request.submission_id, str(pair.index))
        info = pair_info(request.account, pair_id, pair.leaf_fingerprint)
        attestation = Attestation(
            account=request.account,
            domains=[name for name, fits in report.accepted.items() if fits],
            pair_id=pair_id,
            leaf_fingerprint=pair.leaf_fingerprint,
            chain_hash=pair.chain_hash,
        )
        return JudgedPair(
            pair_id=pair_id,
            chain=pair.chain,
            leaf_fingerprint=pair.leaf_fingerprint,
            subject=pair.subject,
            sans=[name for name in pair.sans if 0 < len(name) <= MAX_NAME],
            issuer=pair.issuer,
            key_type=pair.key_type,
            key_bits=pair.key_bits,
            not_before=pair.not_before,
            not_after=pair.not_after,
            chain_until=pair.chain_until,
            sealed_key=SealedKey(
                epoch=epoch.epoch, box=PublicKey(epoch.public_key).seal(pair.key.encode(), info)
            ),
            attestation=self._signer.sign(Purpose.ATTESTATION, attestation),
        )


@overload
def unjudgeable(request: JudgeSubmission) -> Verdict: ...


@overload
def unjudgeable(request: CheckCertificate) -> CheckReport: ...


def unjudgeable(request: JudgeSubmission | CheckCertificate) -> Verdict | CheckReport:
    """The refusal of what stalled or killed its workers, or met a fault of ours; it says nothing of
    the content."""
    findings = [finding(Code.CERTIFICATE_UNJUDGEABLE, field="certificate")]
    accepted = verdicts(request.domains, findings)
    if isinstance(request, CheckCertificate):
        return CheckReport(accepted=accepted, findings=findings)
    return Verdict(
        submission_id=request.submission_id,
        account=request.account,
        accepted=accepted,
        findings=findings,
        pairs=[],
    )
