"""Whose word counts: the pinned trust document, or a newer one that the operator published
since."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog

from shared.clock import Clock
from shared.contracts.base import Signed
from shared.crypto.signing import Purpose, Signer, Trust, Verifier
from shared.errors import EdgetlsError, SettingsError

log = structlog.get_logger()
KEEP_SECONDS = 30.0


class Trusted:
    """``pinned``: reads the trust file, checked. Keys begin and end to be valid: judged anew every
    30 s."""

    def __init__(self, operator_key: str, pinned: Callable[[], Trust], clock: Clock) -> None:
        self._operator_key, self._pinned, self._clock = operator_key, pinned, clock
        self._trust = pinned()
        self._read_at = time.monotonic()
        self._published: Signed | None = None

    @property
    def operator(self) -> Verifier:
        return self._trust.operator

    @property
    def validator(self) -> Verifier:
        return self._now().verifier("validator")

    @property
    def own(self) -> Verifier:
        return self._now().verifier("edge_sync")

    def publish(self, signed: Signed) -> None:
        """A document that edge_sync keeps; it counts when its serial is higher than that of the
        file."""
        self._published = signed
        self._read_at = -math.inf

    def require(self, signer: Signer) -> None:
        """SettingsError when nodes would refuse what ``signer`` signs."""
        proof = signer.sign(Purpose.CHECKPOINT, self._trust.document)
        try:
            self._now().verifier("edge_sync").open(
                Purpose.CHECKPOINT, proof, type(self._trust.document)
            )
        except EdgetlsError:
            raise SettingsError(
                "EDGETLS_EDGE_SYNC_SIGNING_KEY_FILE: the trust document names no valid "
                f"edge_sync key {signer.key_id!r}"
                " like this one: publish a trust document with it, or use the key that it names"
            ) from None

    def _now(self) -> Trust:
        if time.monotonic() - self._read_at > KEEP_SECONDS:
            self._read_at = time.monotonic()
            try:
                self._trust = self._newest()
            except EdgetlsError as error:
                log.warning("trust.kept", error=str(error))
        return self._trust

    def _newest(self) -> Trust:
        pinned = self._pinned()
        if self._published is None:
            return pinned
        published = Trust.read(self._operator_key, self._published, self._clock.now())
        return published if published.document.serial > pinned.document.serial else pinned
