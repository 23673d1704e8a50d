"""Keys in files of mode 0600. Every ``ensure_*`` makes the file on its first call and only reads it
later."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import nkeys  # type: ignore[import-untyped]

from shared.crypto.sealing import PrivateKey
from shared.crypto.signing import Signer
from shared.errors import SettingsError
from shared.private_files import private_folder, write_private
from shared.settings import read_secret

NODE_SEED = "nats.nk"
NODE_KEY = "node.hpke"


@dataclass(frozen=True)
class NodeCredentials:
    """What the fleet must know of a node: its NATS user (``U…``) and its HPKE public key
    (base64)."""

    nkey: str
    public_key: str


def ensure_node(folder: Path) -> NodeCredentials:
    """``nats.nk`` (nkey seed) and ``node.hpke`` (private key) in ``folder``; they never leave the
    node."""
    private_folder(folder)
    return NodeCredentials(
        ensure_nkey(folder / NODE_SEED), ensure_hpke(folder / NODE_KEY).public().text
    )


def ensure_nkey(path: Path) -> str:
    """The public nkey of the user seed in ``path``."""
    if not path.exists():
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        write_private(path, seed.decode() + "\n")
    try:
        pair = nkeys.from_seed(bytearray(read_secret(path, "nkey seed").encode()))
    except (nkeys.NkeysError, ValueError):
        raise SettingsError(
            f"{path} is not an nkey user seed: restore it, or delete it to make a new one"
        ) from None
    return str(pair.public_key.decode())


def ensure_hpke(path: Path) -> PrivateKey:
    """The HPKE private key in ``path`` (base64 text)."""
    if not path.exists():
        write_private(path, PrivateKey.generate().text() + "\n")
    return PrivateKey(read_secret(path, "HPKE private key"))


def ensure_signer(path: Path, key_id: str) -> Signer:
    """The Ed25519 key in ``path``: ``<key id> <base64>``; ``key_id`` names it when it is made."""
    if not path.exists():
        signer = Signer.generate(key_id)
        write_private(path, f"{signer.key_id} {signer.text()}\n")
    try:
        found_id, text = read_secret(path, "signing key").split()
        return Signer(found_id, text)
    except ValueError:
        raise SettingsError(
            f"{path} is not a signing key: it must hold '<key id> <base64 of 32 bytes>'"
        ) from None
