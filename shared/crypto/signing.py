"""Ed25519 signatures over ``purpose NUL payload``: a signature for one purpose is worth nothing
for another.

Every program pins the operator's key. The operator signs the trust document, which names the
keys of submission, validator, edge_sync and billing."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.contracts.base import Contract, Signed
from shared.contracts.codec import parse
from shared.contracts.commands import TrustDocument
from shared.errors import Unsigned

ContractT = TypeVar("ContractT", bound=Contract)
_FIELD = re.compile(r"[a-z0-9_]{1,30}")


class Purpose(StrEnum):
    """The purpose that a signature is bound to."""

    TRUST = "edgetls trust v1"
    ENROL = "edgetls enrol v1"
    DRAIN = "edgetls drain v1"
    REMOVE = "edgetls remove v1"
    LABEL = "edgetls label v1"
    EPOCH = "edgetls epoch v1"
    EPOCH_START = "edgetls epoch start v1"
    ATTESTATION = "edgetls attestation v1"
    BUNDLE = "edgetls bundle v1"
    CHECKPOINT = "edgetls checkpoint v1"
    SEALING = "edgetls sealing v1"
    CONFIRMATION = "edgetls confirmation v1"


class Signer:
    """A named private key. ``text()`` is the raw 32-byte key in base64, for a file of mode 0600."""

    def __init__(self, key_id: str, text: str) -> None:
        self.key_id = key_id
        self._key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(text))

    @classmethod
    def generate(cls, key_id: str) -> Signer:
        """Make a new key."""
        return cls(
            key_id, base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode()
        )

    def text(self) -> str:
        """Return the raw private key in base64."""
        return base64.b64encode(self._key.private_bytes_raw()).decode()

    def public_text(self) -> str:
        """Return the raw public key in base64."""
        return base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, purpose: Purpose, body: Contract | bytes) -> Signed:
        """Sign a contract's canonical bytes, or bytes as they are."""
        payload = body if isinstance(body, bytes) else body.encode()
        signature = self._key.sign(purpose.encode() + b"\0" + payload)
        return Signed(
            key_id=self.key_id,
            payload=payload.decode(),
            signature=base64.b64encode(signature).decode(),
        )


class Verifier:
    """The public keys, by id, whose signatures count for one role."""

    def __init__(self, keys: Iterable[tuple[str, str]]) -> None:
        self._keys = {
            name: Ed25519PublicKey.from_public_bytes(base64.b64decode(text)) for name, text in keys
        }

    def open(self, purpose: Purpose, signed: Signed, model: type[ContractT]) -> ContractT:
        """Check the signature and return the payload as ``model``.

        Unsigned without a valid signature; Malformed when the payload is not the model."""
        # The payload is verified as the bytes that were signed and parsed only afterwards.
        payload = signed.payload.encode()
        key = self._keys.get(signed.key_id)
        if key is None:
            raise Unsigned(f"signed by {signed.key_id!r}, who may not speak here ({purpose})")
        try:
            key.verify(
                base64.b64decode(signed.signature, validate=True),
                purpose.encode() + b"\0" + payload,
            )
        except (InvalidSignature, binascii.Error, ValueError):
            raise Unsigned(
                f"the signature of {signed.key_id!r} does not verify ({purpose})"
            ) from None
        return parse(model, payload)

    def open_bytes(self, purpose: Purpose, body: bytes, model: type[ContractT]) -> ContractT:
        """Read ``body`` as a Signed, then do as open()."""
        return self.open(purpose, parse(Signed, body), model)


class Trust:
    """The trust document, checked against the pinned operator key at a given time."""

    def __init__(self, document: TrustDocument, operator: Verifier, at: datetime) -> None:
        self.document, self.operator = document, operator
        self._valid = [key for key in document.keys if key.not_before <= at < key.not_after]

    @classmethod
    def read(cls, operator_key: str, signed: Signed, at: datetime) -> Trust:
        """Check and read the document. ``operator_key``: base64 of the pinned public key."""
        operator = operator_verifier(operator_key)
        return cls(operator.open(Purpose.TRUST, signed, TrustDocument), operator, at)

    def verifier(self, purpose: str) -> Verifier:
        """Return a Verifier of the keys that are valid for ``purpose``."""
        return Verifier(
            (key.key_id, key.public_key) for key in self._valid if key.purpose == purpose
        )

    def submission_key(self) -> str:
        """Return the HPKE public key that submitters seal to (base64). Unsigned when none is
        valid."""
        for key in self._valid:
            if key.purpose == "submission":
                return key.public_key
        raise Unsigned("the trust document names no valid submission key")


OPERATOR_KEY_ID = "operator"


def operator_verifier(operator_key: str) -> Verifier:
    """Return a Verifier that trusts the operator's key alone."""
    return Verifier([(OPERATOR_KEY_ID, operator_key)])
