"""Commands of other services and operators. The command id is the ce-id; ``account`` is the account
that it is for."""

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
    """https.cmd.domain.register.v1: register a domain.

    config judges ``service_type``, so that its refusal has a code of its own."""

    domain: Annotated[str, Field(min_length=1, max_length=1000)]
    account: Account
    service_type: Annotated[str, Field(max_length=64)]
    origin: Origin
    trust: Literal["public", "private"] = "public"


class RemoveDomain(Contract):
    """https.cmd.domain.remove.v1: remove a domain."""

    domain: Name
    account: Account


# A certificate's name: at most 128 of letters, digits, ``_``, ``-`` and ``.``; config judges it, so
# that its refusal has a code of its own.
CertificateName = Annotated[str, Field(max_length=1000)]


class SubmittedPair(Contract):
    """A PEM chain and its private key, sealed to the submission key.

    ``info`` is shared.crypto.sealing.submission_info(). People put keys into the wrong field, and
    ``certificate`` travels and is stored as it is. So seal the chain as well, in
    ``sealed_certificate`` (epoch 0, the same ``info``): it then counts instead."""

    certificate: Annotated[str, Field(max_length=200_000, repr=False)] = ""
    sealed_certificate: SealedKey | None = None
    sealed_key: SealedKey


class SubmitCertificate(Contract):
    """https.cmd.certificate.submit.v1: enable HTTPS, or replace the certificate.

    ``submission_id`` equals ce-id. ``name`` is the certificate's name (rule B10); without one,
    config makes it."""

    domain: Name
    account: Account
    submission_id: Identifier
    pairs: Annotated[list[SubmittedPair], Field(min_length=1, max_length=2)]
    strict: bool = False
    name: CertificateName | None = None


class DisableHttps(Contract):
    """https.cmd.https.disable.v1: switch HTTPS off and erase the pair (rule B3)."""

    domain: Name
    account: Account


class RedirectChange(Contract):
    mode: RedirectMode | None = None
    status: Literal[301, 302, 307, 308] | None = None


class HstsChange(Contract):
    """A change of HSTS: an absent field stays as it is.

    While HSTS is off, ``max_age`` (seconds) switches it on and must be given."""

    max_age: Annotated[int, Field(ge=0, le=63_072_000)] | None = None
    include_subdomains: bool | None = None
    preload: bool | None = None


class ChangeSettings(Contract):
    """https.cmd.settings.change.v1: change settings; an absent field stays as it is (rule B7).

    ``origin`` and ``trust`` may change while HTTPS is off, too. Another ``trust`` applies to the
    next certificate."""

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
    """https.cmd.pair.reseal.v1 (operator): replace a pair's sealed key by one for a newer epoch.

    It is compared and set on the old epoch. The pair is named by the ``domain`` that keeps it, or
    by the ``certificate`` of the account's library."""

    domain: Name | None = None
    certificate: CertificateName | None = None
    account: Account
    pair_id: Identifier
    old_epoch: Epoch
    sealed_key: SealedKey


class CreditBalance(Contract):
    """https.cmd.balance.credit.v1: credit a balance; idempotent by (account, reference), rule
    E8."""

    account: Account
    reference: Identifier
    amount: Annotated[Amount, Field(gt=0)]
    currency: Currency


class SetThreshold(Contract):
    """https.cmd.balance.threshold.v1: set the account's own low-balance limit; None switches it off
    (rule E6)."""

    account: Account
    threshold: Annotated[Amount, Field(ge=0)] | None
    currency: Currency


class CloseHour(Contract):
    """https.cmd.hour.close.v1: charge the accrued usage of the hours that end at or before
    ``until`` (UTC).

    The current hour is the last that can be closed. Usage that arrives for an hour after that is a
    correction."""

    until: Utc


class PurchasePlan(Contract):
    """https.cmd.plan.purchase.v1: buy a plan of the price book from the balance.

    Idempotent by (account, reference). The plan begins with the hour of the purchase."""

    account: Account
    plan: Identifier
    reference: Identifier
    currency: Currency


class ApplyPriceBook(Contract):
    """https.cmd.price_book.apply.v1 (operator): replace the price book. ``base`` is the serial that
    was current at its preview."""

    base: Annotated[int, Field(ge=0, le=2**31 - 1)]
    book: PriceBook


# A raw public key, sealed box or signature in base64.
Key = Annotated[str, Field(max_length=4096)]


class EnrolNode(Contract):
    """https.cmd.node.enrol.v1, the payload of a Signed by the operator. ``public_key``: raw HPKE
    key in base64."""

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
    """https.cmd.node.drain.v1 (signed): stop counting a node for convergence. ``drained`` False
    brings it back."""

    node: NodeId
    drained: bool = True
    issued_at: Utc


class RemoveNode(Contract):
    """https.cmd.node.remove.v1 (signed): remove a node from the fleet."""

    node: NodeId
    issued_at: Utc


class LabelNode(Contract):
    """https.cmd.node.label.v1 (signed): set a node's labels."""

    node: NodeId
    labels: Labels
    issued_at: Utc


class EpochKey(Contract):
    """An epoch's public key: a Signed by the operator, in the bucket under epoch.<n>."""

    epoch: Annotated[Epoch, Field(ge=1)]
    public_key: Key
    issued_at: Utc


class StartEpoch(Contract):
    """https.cmd.epoch.start.v1 (signed): start an epoch, with the keyring of every remaining node.

    ``key_signature`` is the operator's signature over ``key`` (Purpose.EPOCH), for the bucket.
    ``keyrings`` are Signed EnrolNode (Purpose.ENROL), as each node reads its own from the bucket.
    """

    key: EpochKey
    key_signature: Key
    keyrings: Annotated[list[Signed], Field(max_length=10_000)]
    issued_at: Utc


class TrustedKey(Contract):
    """A public key (raw, base64) and its purpose: submission, validator, edge_sync or billing."""

    purpose: Literal["submission", "validator", "edge_sync", "billing"]
    key_id: Identifier
    public_key: Key
    not_before: Utc
    not_after: Utc


class TrustDocument(Contract):
    """https.cmd.trust.publish.v1 (signed) and the bucket's ``trust``: the public keys of the
    services, with their purpose and validity."""

    serial: Annotated[int, Field(ge=1, le=2**31 - 1)]
    keys: Annotated[list[TrustedKey], Field(max_length=100)]
    issued_at: Utc


EnrolNode.model_rebuild()
