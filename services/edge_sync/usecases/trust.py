"""The trust document in use: the pinned one, or a newer one that the operator published."""

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
REFRESH_SECONDS = 30.0


class CurrentTrust:
    """The keys that edge_sync accepts.

    ``read_pinned`` reads and checks the trust file. Keys begin and cease to be valid, so the
    document is judged anew every 30 s. While that fails, the last good one stays in use."""

    def __init__(self, operator_key: str, read_pinned: Callable[[], Trust], clock: Clock) -> None:
        self._operator_key = operator_key
        self._read_pinned = read_pinned
        self._clock = clock
        self._trust = read_pinned()
        self._read_at = time.monotonic()
        self._published: Signed | None = None

    @property
    def operator(self) -> Verifier:
        """Return the verifier of the operator's key."""
        return self._trust.operator

    @property
    def validator(self) -> Verifier:
        """Return the verifier of the validator's keys that are valid now."""
        return self._refresh().verifier("validator")

    @property
    def edge_sync(self) -> Verifier:
        """Return the verifier of edge_sync's own keys that are valid now."""
        return self._refresh().verifier("edge_sync")

    def use_published(self, signed: Signed) -> None:
        """Use a document that the operator published, if its serial is higher than the file's."""
        self._published = signed
        self._read_at = -math.inf

    def check_signer(self, signer: Signer) -> None:
        """Raise SettingsError when nodes would refuse what ``signer`` signs."""
        document = self._trust.document
        proof = signer.sign(Purpose.CHECKPOINT, document)
        try:
            self.edge_sync.open(Purpose.CHECKPOINT, proof, type(document))
        except EdgetlsError:
            raise SettingsError(
                "EDGETLS_EDGE_SYNC_SIGNING_KEY_FILE: the trust document names no valid "
                f"edge_sync key {signer.key_id!r}"
                " like this one: publish a trust document with it, or use the key that it names"
            ) from None

    def _refresh(self) -> Trust:
        if time.monotonic() - self._read_at > REFRESH_SECONDS:
            self._read_at = time.monotonic()
            try:
                self._trust = self._read_newest()
            except EdgetlsError as error:
                log.warning("trust.kept", error=str(error))
        return self._trust

    def _read_newest(self) -> Trust:
        pinned = self._read_pinned()
        if self._published is None:
            return pinned
        published = Trust.read(self._operator_key, self._published, self._clock.now())
        if published.document.serial > pinned.document.serial:
            return published
        return pinned
