"""Sealing by HPKE (RFC 9180) with the hybrid KEM ML-KEM-768 + X25519.

What is recorded today stays closed to a quantum computer. Base mode is anonymous and has no
replay protection: ``info`` binds every box to its purpose and context, and a message whose
sender matters is signed as well (signing.py).

Raw keys are base64 on the wire. Private: 64 bytes of ML-KEM seed + 32 bytes of X25519. Public:
1,184 + 32 bytes."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from shared.errors import CannotOpen

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_SEED, _MLKEM_PUBLIC, _X25519 = 64, 1184, 32


class PublicKey:
    """A recipient's public key. ``text`` is the raw key in base64."""

    def __init__(self, text: str) -> None:
        raw = _decode_raw_key(text, _MLKEM_PUBLIC + _X25519)
        self.text = text
        self._key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC:]),
        )

    def seal(self, plain: bytes, info: bytes) -> str:
        """Seal ``plain`` and return the box in base64. It opens only with the same ``info``."""
        return base64.b64encode(_SUITE.encrypt(plain, self._key, info)).decode()


class PrivateKey:
    """A recipient's private key. ``text()`` is the raw key in base64, for a file of mode 0600."""

    def __init__(self, text: str) -> None:
        raw = _decode_raw_key(text, _SEED + _X25519)
        self._mlkem = MLKEM768PrivateKey.from_seed_bytes(raw[:_SEED])
        self._x25519 = X25519PrivateKey.from_private_bytes(raw[_SEED:])
        self._key = MLKEM768X25519PrivateKey(self._mlkem, self._x25519)

    @classmethod
    def generate(cls) -> PrivateKey:
        """Make a new key."""
        raw = (
            MLKEM768PrivateKey.generate().private_bytes_raw()
            + X25519PrivateKey.generate().private_bytes_raw()
        )
        return cls(base64.b64encode(raw).decode())

    def text(self) -> str:
        """Return the raw key in base64."""
        return base64.b64encode(
            self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()
        ).decode()

    def public(self) -> PublicKey:
        """Return the public key."""
        raw = (
            self._mlkem.public_key().public_bytes_raw()
            + self._x25519.public_key().public_bytes_raw()
        )
        return PublicKey(base64.b64encode(raw).decode())

    def open(self, box: str, info: bytes) -> bytes:
        """Open a box and return the plain bytes. CannotOpen when it is for another key or
        context."""
        try:
            return _SUITE.decrypt(base64.b64decode(box, validate=True), self._key, info)
        except (InvalidTag, ValueError, binascii.Error):
            raise CannotOpen("the sealed box does not open with this key and context") from None


# Each context names its purpose first and ends with what identifies the box, so that a box that is
# copied into another place opens nowhere.
def submission_info(account: str, submission_id: str) -> bytes:
    """Return the context of a key that a submitter seals to the validator."""
    return b"\0".join((b"edgetls submission v1", account.encode(), submission_id.encode()))


def pair_info(account: str, pair_id: str, leaf_fingerprint: str) -> bytes:
    """Return the context of a key that the validator seals to the fleet."""
    return b"\0".join(
        (b"edgetls pair v1", account.encode(), pair_id.encode(), leaf_fingerprint.encode())
    )


def epoch_info(node: str, epoch: int) -> bytes:
    """Return the context of an epoch key that the operator seals to one node."""
    return b"\0".join((b"edgetls epoch v1", node.encode(), str(epoch).encode()))


def _decode_raw_key(text: str, length: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise CannotOpen("an HPKE key is not base64") from None
    if len(raw) != length:
        raise CannotOpen(f"an HPKE key has {len(raw)} bytes, not {length}")
    return raw
