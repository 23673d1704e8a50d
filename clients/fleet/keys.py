"""Keys in files of mode 0600. Every ``ensure_*`` makes its file on the first call and only reads it
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
    """The public half of a node's keys: its NATS user (``U…``) and its HPKE public key (base64)."""

    nkey: str
    public_key: str


def ensure_node(folder: Path) -> NodeCredentials:
    """Make a node's two private keys in ``folder``; they never leave the node.

    ``nats.nk``: the nkey seed. ``node.hpke``: the HPKE private key."""
    private_folder(folder)
    nkey = ensure_nkey(folder / NODE_SEED)
    public_key = ensure_hpke(folder / NODE_KEY).public().text
    return NodeCredentials(nkey=nkey, public_key=public_key)


def ensure_nkey(path: Path) -> str:
    """Return the public nkey of the user seed in ``path``."""
    if not path.exists():
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        write_private(path, seed.decode() + "\n")
    # The text of a fault could quote the seed: it is replaced, not chained.
    try:
        pair = nkeys.from_seed(bytearray(read_secret(path, "nkey seed").encode()))
    except (nkeys.NkeysError, ValueError):
        raise SettingsError(
            f"{path} is not an nkey user seed: restore it, or delete it to make a new one"
        ) from None
    return str(pair.public_key.decode())


def ensure_hpke(path: Path) -> PrivateKey:
    """Return the HPKE private key in ``path`` (base64 text)."""
    if not path.exists():
        write_private(path, PrivateKey.generate().text() + "\n")
    return PrivateKey(read_secret(path, "HPKE private key"))


def ensure_signer(path: Path, key_id: str) -> Signer:
    """Return the Ed25519 key in ``path``, which holds ``<key id> <base64>``.

    ``key_id`` names the key when it is made; a key that exists keeps its own id."""
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
