"""Check that a pair loads before it is put, and which leaf a real handshake gets afterwards."""

import asyncio
import hashlib
import os
import ssl

from clients.edge_node.nginx.entry import KeyType
from shared.errors import EdgetlsError

_PROBE_LABEL = "edgetls-proof"
_CIPHERS_BY_KEY_TYPE: dict[KeyType, str] = {
    "rsa": "aRSA:@SECLEVEL=0",
    "ecdsa": "aECDSA:@SECLEVEL=0",
}


class PairUnusableError(EdgetlsError):
    """OpenSSL does not load the pair. The message holds OpenSSL's reason, no key and no PEM."""


def check_pair_loads(chain_pem: str, key_pem: str) -> None:
    """Load a pair as nginx would, in memory only. Raises PairUnusableError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The file has no name: it lives as long as its descriptor, and never on a disk.
    descriptor = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(f"{chain_pem.strip()}\n{key_pem.strip()}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_refuse_password)
    except ssl.SSLError as error:
        raise PairUnusableError(f"the pair does not load: {error.reason or 'unreadable'}") from None
    except _EncryptedKeyError:
        raise PairUnusableError("the pair does not load: its key has a password") from None
    finally:
        os.close(descriptor)


async def get_served_leaf(
    host: str, port: int, server_name: str, key_type: KeyType | None = None, timeout: float = 5.0
) -> str | None:
    """Make a real TLS handshake; return the SHA-256 of the served leaf in hex, None if refused.

    With ``key_type`` only a certificate of that type is accepted. It is asked for by TLS 1.2
    ciphers, since Python does not set the signature algorithms that TLS 1.3 goes by; so it needs a
    policy that allows TLS 1.2 or lower. Raises OSError if nothing listens and TimeoutError after
    ``timeout`` seconds."""
    context = _client_context(key_type)
    async with asyncio.timeout(timeout):
        try:
            _, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=server_name
            )
        except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
            return None
        try:
            leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.transport.abort()
        return hashlib.sha256(leaf).hexdigest()


def probe_name(name: str) -> str:
    """Return a server name that the entry ``name`` answers for.

    For a wildcard this is a host under it that no customer registers."""
    return name.replace("*", _PROBE_LABEL, 1) if name.startswith("*.") else name


def _client_context(key_type: KeyType | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    if key_type is None:
        context.set_ciphers("ALL:@SECLEVEL=0")
    else:
        context.set_ciphers(_CIPHERS_BY_KEY_TYPE[key_type])
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


class _EncryptedKeyError(Exception):
    pass


def _refuse_password() -> str:
    """Raise instead of giving a password: without it OpenSSL would ask the terminal for one."""
    raise _EncryptedKeyError
