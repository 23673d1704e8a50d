"""Sealing certificates and private keys before they leave this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shared.contracts.base import SealedKey
from shared.contracts.commands import SubmittedPair
from shared.crypto.sealing import PublicKey, submission_info
from shared.errors import CannotOpen, SettingsError
from shared.settings import read_secret


class PairSealer:
    """Seals pairs to the submission key. ``submission_key`` None: every pair is an error."""

    def __init__(self, submission_key: PublicKey | None) -> None:
        self._submission_key = submission_key

    def seal_pairs(
        self, account: str, submission_id: str, pairs: Sequence[tuple[str, str | bytes]]
    ) -> list[SubmittedPair]:
        """Seal pairs of (certificate, private key), bound to the account and the submission.

        SettingsError without a submission key."""
        sealed = []
        for certificate, private_key in pairs:
            sealed.append(
                SubmittedPair(
                    sealed_certificate=self._seal(account, submission_id, certificate),
                    sealed_key=self._seal(account, submission_id, private_key),
                )
            )
        return sealed

    def _seal(self, account: str, submission_id: str, text: str | bytes) -> SealedKey:
        """Certificates are sealed, too: a key that was put into the wrong field must not leave in
        clear."""
        if self._submission_key is None:
            raise SettingsError("no submission key was given: it is needed to seal private keys")
        if isinstance(text, str):
            text = text.encode()
        # The validator opens it with the same context only, so a box that is copied into a command
        # of another account or submission stays closed.
        info = submission_info(account, submission_id)
        return SealedKey(epoch=0, box=self._submission_key.seal(text, info))


def read_submission_key(key: str | Path) -> PublicKey:
    """Read a submission key in base64, or the file that holds one; SettingsError when it is not
    one."""
    try:
        if isinstance(key, Path):
            return PublicKey(read_secret(key, "the submission key"))
        return PublicKey(key.strip())
    except (CannotOpen, ValueError) as error:
        raise SettingsError(f"the submission key is not one: {error}") from None
