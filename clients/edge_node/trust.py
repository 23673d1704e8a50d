"""The node's trust: the operator's pinned key, and the trust document and keyring that it signed.

Both are kept in the node's folder (public, or sealed to the node), so that a node starts without
the control plane. The private keys of the epochs are in memory only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
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
_MIN_REFRESH_SECONDS = 0.5
_ENROLMENT_CHECK_SECONDS = 0.2


@dataclass(frozen=True)
class _Document:
    """A signed document of the operator.

    ``key``: its key in the keyring bucket. ``accept``: takes a newer one, and returns False for an
    old one. ``copy``: the file that keeps it."""

    name: str
    key: str
    accept: Callable[[bytes], bool]
    copy: Path


class NodeTrust:
    """The keys that this node trusts, and the epoch keys that it holds.

    ``on_change`` is called when a newer document or keyring was accepted. Raises SettingsError when
    the operator's key, the trust file or the node's key cannot be used."""

    def __init__(self, settings: NodeSettings, clock: Clock | None = None) -> None:
        self._node = settings.node_id
        self._clock = clock or Clock()
        self._operator = _load_operator_key(settings)
        self._key = _load_node_key(settings)
        self._trust_document = _load_pinned_document(settings, self._operator)
        self._keyring_issued_at: datetime | None = None
        self._epochs: dict[int, PrivateKey] = {}
        self._documents = (
            _Document(
                "trust",
                subjects.KEYRING_TRUST,
                self.accept_trust,
                settings.node_folder / "trust.json",
            ),
            _Document(
                "node",
                subjects.keyring_node(self._node),
                self.accept_keyring,
                settings.node_folder / "keyring.json",
            ),
        )
        self._unsaved: dict[Path, str] = {}
        self._refresh_wanted = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self._load_copies()

    def verifier(self, purpose: str) -> Verifier:
        """Return the keys that are valid now for ``purpose`` (edge_sync, validator, billing)."""
        return Trust(self._trust_document, self._operator, self._clock.now()).verifier(purpose)

    def dateless_verifier(self, purpose: str) -> Verifier:
        """Return the keys for ``purpose`` without a look at their validity dates.

        For what was verified when it arrived: an expired key of a fleet without trouble must not
        end what is served. A key that must not count any more is taken out of the document."""
        keys = self._trust_document.keys
        return Verifier((key.key_id, key.public_key) for key in keys if key.purpose == purpose)

    @property
    def epochs(self) -> list[int]:
        """Return the epochs whose private keys this node holds, in order."""
        return sorted(self._epochs)

    def epoch_key(self, epoch: int) -> PrivateKey:
        """Return the private key of an epoch.

        Raises CannotOpen when the keyring lacks it; the keyring is then fetched again soon."""
        try:
            return self._epochs[epoch]
        except KeyError:
            self._refresh_wanted.set()
            raise CannotOpen(
                f"the node's keyring has no key of epoch {epoch}: it has {self.epochs}"
            ) from None

    def expect_epoch(self, epoch: int) -> None:
        """Fetch the keyring soon if it lacks the fleet's epoch, which a checkpoint names."""
        if epoch not in self._epochs:
            self._refresh_wanted.set()

    def request_refresh(self) -> None:
        """Look for newer documents soon: a message came that an unknown key has signed."""
        self._refresh_wanted.set()

    async def wait_for_enrolment(self) -> None:
        """Wait until the node holds an epoch's key: without one it could open no bundle."""
        if not self._epochs:
            log.warning("enrolment.awaited")
        while not self._epochs:
            self.request_refresh()
            await asyncio.sleep(_ENROLMENT_CHECK_SECONDS)

    def accept_trust(self, body: bytes) -> bool:
        """Take a trust document if it is newer; return False otherwise.

        Raises Unsigned or Malformed."""
        document = self._operator.open_bytes(Purpose.TRUST, body, TrustDocument)
        if document.serial <= self._trust_document.serial:
            return False
        self._trust_document = document
        return True

    def accept_keyring(self, body: bytes) -> bool:
        """Take the enrolment with its keyring if it is newer; return False otherwise.

        Raises Unsigned, Malformed, or CannotOpen when it is not for this node's key."""
        enrolment = self._operator.open_bytes(Purpose.ENROL, body, EnrolNode)
        if enrolment.node != self._node:
            raise Unsigned(f"the keyring of {enrolment.node} came as the keyring of {self._node}")
        if self._keyring_issued_at is not None and enrolment.issued_at <= self._keyring_issued_at:
            return False
        if enrolment.public_key != self._key.public().text:
            raise CannotOpen(
                f"{self._node} is enrolled with another key than EDGETLS_NODE_PRIVATE_KEY_FILE "
                "holds"
            )
        epochs = {}
        for sealed in enrolment.keyring:
            opened = self._key.open(sealed.box, epoch_info(self._node, sealed.epoch))
            epochs[sealed.epoch] = PrivateKey(opened.decode("ascii", "replace"))
        self._epochs = epochs
        self._keyring_issued_at = enrolment.issued_at
        return True

    async def keep_fresh(self, client: Client) -> None:
        """Fetch newer documents every 5 s, and soon after a request. Never returns."""
        while True:
            self._refresh_wanted.clear()
            await self.refresh(client)
            # Requests within half a second are answered by one refresh, however many come.
            await asyncio.sleep(_MIN_REFRESH_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS - _MIN_REFRESH_SECONDS):
                    await self._refresh_wanted.wait()

    async def refresh(self, client: Client) -> None:
        """Fetch the trust document and the keyring once, and keep what is newer."""
        for document in self._documents:
            try:
                await self._refresh_document(client, document)
            except (Poison, CannotOpen) as error:
                metrics.REJECTED.labels("trust", type(error).__name__).inc()
                log.warning("trust.rejected", what=document.name, error=str(error))
            except Transient as error:
                log.debug("trust.refresh_failed", error=str(error))
        await asyncio.to_thread(self._save_copies)

    async def _refresh_document(self, client: Client, document: _Document) -> None:
        bucket = subjects.BUCKET_KEYRINGS
        subject = subjects.kv_subject(bucket, document.key)
        found = await get_last(client, subjects.kv_stream(bucket), subject)
        if found is None or not found.body or not document.accept(found.body):
            return
        self._unsaved[document.copy] = found.body.decode()
        self.on_change()
        log.info("trust.updated", what=document.name, epochs=self.epochs)

    def _save_copies(self) -> None:
        """Write the newer documents to disk.

        A document that the disk refuses is in force all the same, and is written with the next
        refresh."""
        for copy, text in list(self._unsaved.items()):
            try:
                write_private(copy, text)
                del self._unsaved[copy]
            except OSError as error:
                log.error("trust.save_failed", file=copy.name, error=error.strerror)

    def _load_copies(self) -> None:
        for document in self._documents:
            try:
                document.accept(document.copy.read_bytes())
            except FileNotFoundError:
                continue
            except (EdgetlsError, OSError) as error:
                log.warning("trust.copy_rejected", file=document.copy.name, error=str(error))


def _load_operator_key(settings: NodeSettings) -> Verifier:
    text = read_secret(settings.operator_key_file, "EDGETLS_OPERATOR_KEY_FILE")
    try:
        return operator_verifier(text)
    except ValueError:
        raise SettingsError(
            f"EDGETLS_OPERATOR_KEY_FILE: {settings.operator_key_file} holds no Ed25519 key"
        ) from None


def _load_node_key(settings: NodeSettings) -> PrivateKey:
    path: Path = settings.node_private_key_file
    try:
        return PrivateKey(read_secret(path, "EDGETLS_NODE_PRIVATE_KEY_FILE"))
    except CannotOpen as error:
        raise SettingsError(f"EDGETLS_NODE_PRIVATE_KEY_FILE: {path}: {error}") from None


def _load_pinned_document(settings: NodeSettings, operator: Verifier) -> TrustDocument:
    text = read_secret(settings.trust_file, "EDGETLS_TRUST_FILE")
    try:
        return operator.open_bytes(Purpose.TRUST, text.encode(), TrustDocument)
    except Poison as error:
        raise SettingsError(f"EDGETLS_TRUST_FILE {settings.trust_file}: {error}") from None
