"""What the node believes: the operator's pinned key, the trust document and keyring that it signed.

Both are kept in the node's folder (public, or sealed to the node), so that a node starts without
the control plane. The epochs' private keys are in memory only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import structlog
from nats.aio.client import Client

from clients.edge_node import metrics
from clients.edge_node.settings import NodeSettings
from shared import subjects
from shared.clock import Clock
from shared.contracts.commands import EnrolNode, TrustDocument
from shared.crypto.sealing import PrivateKey, epoch_info
from shared.crypto.signing import Purpose, Trust, Verifier, operator_verifier
from shared.errors import CannotOpen, EdgetlsError, Poison, SettingsError, Transient, Unsigned
from shared.messaging.direct_get import get_last
from shared.private_files import write_private
from shared.settings import read_secret

log = structlog.get_logger()
_REFRESH_SECONDS = 5.0
_SOONEST_SECONDS = 0.5


class Trusted:
    """``on_change`` is called when a newer document or keyring was taken.

    Raises SettingsError when the operator's key, the trust file or the node's key cannot be
    used."""

    def __init__(self, settings: NodeSettings, clock: Clock | None = None) -> None:
        self._node = settings.node_id
        self._clock = clock or Clock()
        self._operator = _operator(settings)
        self._key = _node_key(settings)
        self._trust_copy = settings.node_folder / "trust.json"
        self._keyring_copy = settings.node_folder / "keyring.json"
        self._document = _pinned(settings, self._operator)
        self._issued: datetime | None = None
        self._epochs: dict[int, PrivateKey] = {}
        self._unsaved: dict[Path, str] = {}
        self._wanted = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self._read_copies()

    def verifier(self, purpose: str) -> Verifier:
        """The keys that may speak for ``purpose`` (edge_sync, validator, billing) now."""
        return Trust(self._document, self._operator, self._clock.now()).verifier(purpose)

    def ever(self, purpose: str) -> Verifier:
        """The same without a look at the clock, for what was verified when it came: an expired key
        of an untroubled fleet must not end what is served. One that must not count is dropped from
        the document."""
        return Verifier(
            (key.key_id, key.public_key) for key in self._document.keys if key.purpose == purpose
        )

    @property
    def epochs(self) -> list[int]:
        return sorted(self._epochs)

    def epoch_key(self, epoch: int) -> PrivateKey:
        """CannotOpen when the keyring lacks it; the keyring is fetched anew soon."""
        try:
            return self._epochs[epoch]
        except KeyError:
            self._wanted.set()
            raise CannotOpen(
                f"the node's keyring has no key of epoch {epoch}: it has {self.epochs}"
            ) from None

    def expect_epoch(self, epoch: int) -> None:
        """A checkpoint names the fleet's epoch: fetches the keyring soon when it is not in it."""
        if epoch not in self._epochs:
            self._wanted.set()

    def want(self) -> None:
        """Something came that is signed by a key that is not known: look for a newer document
        soon."""
        self._wanted.set()

    def offer_trust(self, body: bytes) -> bool:
        """Takes a trust document with a higher serial. Raises Unsigned or Malformed."""
        document = self._operator.open_bytes(Purpose.TRUST, body, TrustDocument)
        if document.serial <= self._document.serial:
            return False
        self._document = document
        return True

    def offer_keyring(self, body: bytes) -> bool:
        """Takes a newer enrolment with its keyring.

        Raises Unsigned, Malformed, or CannotOpen when it is not for this node's key."""
        enrolment = self._operator.open_bytes(Purpose.ENROL, body, EnrolNode)
        if enrolment.node != self._node:
            raise Unsigned(f"a keyring of {enrolment.node} came as that of {self._node}")
        if self._issued is not None and enrolment.issued_at <= self._issued:
            return False
        if enrolment.public_key != self._key.public().text:
            raise CannotOpen(
                f"{self._node} is enrolled with another key than EDGETLS_NODE_PRIVATE_KEY_FILE "
                "holds"
            )
        self._epochs = {
            one.epoch: PrivateKey(
                self._key.open(one.box, epoch_info(self._node, one.epoch)).decode(
                    "ascii", "replace"
                )
            )
            for one in enrolment.keyring
        }
        self._issued = enrolment.issued_at
        return True

    async def keep_fresh(self, client: Client) -> None:
        """Looks for a newer trust document and keyring every 5 s, and at once when one is
        missed."""
        while True:
            self._wanted.clear()
            await self.refresh(client)
            await asyncio.sleep(_SOONEST_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS - _SOONEST_SECONDS):
                    await self._wanted.wait()

    async def refresh(self, client: Client) -> None:
        for key, offer, copy in (
            (subjects.KEYRING_TRUST, self.offer_trust, self._trust_copy),
            (subjects.keyring_node(self._node), self.offer_keyring, self._keyring_copy),
        ):
            try:
                found = await get_last(
                    client,
                    subjects.kv_stream(subjects.BUCKET_KEYRINGS),
                    subjects.kv_subject(subjects.BUCKET_KEYRINGS, key),
                )
                if found is not None and found.body and offer(found.body):
                    self._unsaved[copy] = found.body.decode()
                    self.on_change()
                    log.info("trust.updated", what=key.split(".")[0], epochs=self.epochs)
            except (Poison, CannotOpen) as error:
                metrics.DROPPED.labels("trust", type(error).__name__).inc()
                log.warning("trust.dropped", what=key.split(".")[0], error=str(error))
            except Transient as error:
                log.debug("trust.away", error=str(error))
        await asyncio.to_thread(self._save_copies)

    def _save_copies(self) -> None:
        """What the disk does not take now is tried again with the next look: it counts already."""
        for copy, text in list(self._unsaved.items()):
            try:
                write_private(copy, text)
                del self._unsaved[copy]
            except OSError as error:
                log.error("trust.unwritable", file=copy.name, error=error.strerror)

    def _read_copies(self) -> None:
        for copy, offer in (
            (self._trust_copy, self.offer_trust),
            (self._keyring_copy, self.offer_keyring),
        ):
            try:
                offer(copy.read_bytes())
            except FileNotFoundError:
                continue
            except (EdgetlsError, OSError) as error:
                log.warning("trust.copy_unusable", file=copy.name, error=str(error))


def _operator(settings: NodeSettings) -> Verifier:
    text = read_secret(settings.operator_key_file, "EDGETLS_OPERATOR_KEY_FILE")
    try:
        return operator_verifier(text)
    except ValueError:
        raise SettingsError(
            f"EDGETLS_OPERATOR_KEY_FILE: {settings.operator_key_file} holds no Ed25519 key"
        ) from None


def _node_key(settings: NodeSettings) -> PrivateKey:
    path: Path = settings.node_private_key_file
    try:
        return PrivateKey(read_secret(path, "EDGETLS_NODE_PRIVATE_KEY_FILE"))
    except CannotOpen as error:
        raise SettingsError(f"EDGETLS_NODE_PRIVATE_KEY_FILE: {path}: {error}") from None


def _pinned(settings: NodeSettings, operator: Verifier) -> TrustDocument:
    text = read_secret(settings.trust_file, "EDGETLS_TRUST_FILE")
    try:
        return operator.open_bytes(Purpose.TRUST, text.encode(), TrustDocument)
    except Poison as error:
        raise SettingsError(f"EDGETLS_TRUST_FILE {settings.trust_file}: {error}") from None
