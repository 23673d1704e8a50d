"""What other services and operators order. The command id is its ce-id; ``account`` says for
whom."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import (
    Account,
    Amount,
    Contract,
    Currency,
    Epoch,
    Identifier,
    Labels,
    Name,
    NodeId,
    SealedKey,
    Signed,
    Utc,
)
from shared.contracts.domains import Origin, RedirectMode, TlsVersion
from shared.contracts.prices import PriceBook


class RegisterDomain(Contract):
    """https.cmd.domain.register.v1. ``service_type`` is judged by config so that the refusal has
    its own code."""

    domain: Annotated[str, Field(min_length=1, max_length=1000)]
    account: Account
    service_type: Annotated[str, Field(max_length=64)]
    origin: Origin
    trust: Literal["public", "private"] = "public"


class RemoveDomain(Contract):
    """https.cmd.domain.remove.v1"""

    domain: Name
    account: Account


CertificateName = Annotated[str, Field(max_length=1000)]
"""Judged by config, so that the refusal has its own code: at most 128 of letters, digits, ``_``,
``-``, ``.``."""


class SubmittedPair(Contract):
    """A PEM chain and its key, sealed to the submission key; ``info`` =
    shared.crypto.sealing.submission_info().

    People put keys into the wrong field, and what stands in ``certificate`` travels and is stored
    as it is: seal the chain too, in ``sealed_certificate`` (epoch 0, the same ``info``), which then
    counts instead."""

    certificate: Annotated[str, Field(max_length=200_000, repr=False)] = ""
    sealed_certificate: SealedKey | None = None
    sealed_key: SealedKey


class SubmitCertificate(Contract):
    """https.cmd.certificate.submit.v1: enable HTTPS, or replace the certificate. ``submission_id``
    equals ce-id;
    ``name``: of the certificate (rule B10), one is made where none is given."""

    domain: Name
    account: Account
    submission_id: Identifier
    pairs: Annotated[list[SubmittedPair], Field(min_length=1, max_length=2)]
    strict: bool = False
    name: CertificateName | None = None


class DisableHttps(Contract):
    """https.cmd.https.disable.v1"""

    domain: Name
    account: Account


class RedirectChange(Contract):
    mode: RedirectMode | None = None
    status: Literal[301, 302, 307, 308] | None = None


class HstsChange(Contract):
    """What is absent stays as it is; with HSTS off, ``max_age`` (seconds) switches it on and must
    be there."""

    max_age: Annotated[int, Field(ge=0, le=63_072_000)] | None = None
    include_subdomains: bool | None = None
    preload: bool | None = None


class ChangeSettings(Contract):
    """https.cmd.settings.change.v1: what is absent stays as it is (rule B7). ``origin`` and
    ``trust`` may change while HTTPS is off, too; another ``trust`` holds for the next
    certificate."""

    domain: Name
    account: Account
    redirect: RedirectChange | None = None
    http2: bool | None = None
    tls_min: TlsVersion | None = None
    tls_max: TlsVersion | None = None
    hsts: HstsChange | Literal["off"] | None = None
    origin: Origin | None = None
    trust: Literal["public", "private"] | None = None


class ResealPair(Contract):
    """https.cmd.pair.reseal.v1 (operator): the pair's key, sealed to a newer epoch; compared and
    set on the old one. ``domain`` that keeps it, or ``certificate`` of the account's library."""

    domain: Name | None = None
    certificate: CertificateName | None = None
    account: Account
    pair_id: Identifier
    old_epoch: Epoch
    sealed_key: SealedKey


class CreditBalance(Contract):
    """https.cmd.balance.credit.v1: idempotent by (account, reference) (rule E8)."""

    account: Account
    reference: Identifier
    amount: Annotated[Amount, Field(gt=0)]
    currency: Currency


class SetThreshold(Contract):
    """https.cmd.balance.threshold.v1: the account's own low-balance limit; None switches it off
    (rule E6)."""

    account: Account
    threshold: Annotated[Amount, Field(ge=0)] | None
    currency: Currency


class CloseHour(Contract):
    """https.cmd.hour.close.v1: post the accrued usage of the hours that end at or before ``until``
    (UTC), at the latest the hour that runs. What comes to an hour after that is a correction."""

    until: Utc


class PurchasePlan(Contract):
    """https.cmd.plan.purchase.v1: a plan of the price book, paid from the balance; idempotent by
    (account, reference).

    It begins with the hour of the purchase."""

    account: Account
    plan: Identifier
    reference: Identifier
    currency: Currency


class ApplyPriceBook(Contract):
    """https.cmd.price_book.apply.v1 (operator): ``base`` is the serial that was current at its
    preview."""

    base: Annotated[int, Field(ge=0, le=2**31 - 1)]
    book: PriceBook


Key = Annotated[str, Field(max_length=4096)]
"""A raw public key, box or signature in base64."""


class EnrolNode(Contract):
    """https.cmd.node.enrol.v1, the payload of a Signed by the operator. ``public_key``: raw HPKE
    key, base64."""

    node: NodeId
    public_key: Key
    nkey: Annotated[str, Field(pattern=r"^U[A-Z2-7]{55}$")]
    keyring: Annotated[list[SealedEpochKey], Field(max_length=1000)]
    labels: Labels = {}
    issued_at: Utc


class SealedEpochKey(Contract):
    """An epoch's private key, sealed to one node's public key."""

    epoch: Annotated[Epoch, Field(ge=1)]
    box: Key


class DrainNode(Contract):
    """https.cmd.node.drain.v1 (signed): the node no longer counts for convergence; ``drained``
    False brings it back."""

    node: NodeId
    drained: bool = True
    issued_at: Utc


class RemoveNode(Contract):
    """https.cmd.node.remove.v1 (signed)"""

    node: NodeId
    issued_at: Utc


class LabelNode(Contract):
    """https.cmd.node.label.v1 (signed)"""

    node: NodeId
    labels: Labels
    issued_at: Utc


class EpochKey(Contract):
    """An epoch's public key; in the bucket as epoch.<n>, a Signed by the operator."""

    epoch: Annotated[Epoch, Field(ge=1)]
    public_key: Key
    issued_at: Utc


class StartEpoch(Contract):
    """https.cmd.epoch.start.v1 (signed): a new epoch with the keyring of every remaining node.

    ``key_signature``: the operator's over ``key`` (Purpose.EPOCH), for the bucket; ``keyrings``:
    each a Signed EnrolNode (Purpose.ENROL), as the node will read it from the bucket."""

    key: EpochKey
    key_signature: Key
    keyrings: Annotated[list[Signed], Field(max_length=10_000)]
    issued_at: Utc


class TrustedKey(Contract):
    """``purpose``: submission | validator | edge_sync | billing. ``public_key`` raw, base64."""

    purpose: Literal["submission", "validator", "edge_sync", "billing"]
    key_id: Identifier
    public_key: Key
    not_before: Utc
    not_after: Utc


class TrustDocument(Contract):
    """https.cmd.trust.publish.v1 (signed) and the bucket's ``trust``: which keys speak for whom."""

    serial: Annotated[int, Field(ge=1, le=2**31 - 1)]
    keys: Annotated[list[TrustedKey], Field(max_length=100)]
    issued_at: Utc


EnrolNode.model_rebuild()
