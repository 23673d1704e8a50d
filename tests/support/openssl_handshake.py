"""Ask OpenSSL about a pair: a real handshake in memory, with path and host name checks."""

from __future__ import annotations

import os
import ssl


def openssl_refusal(chain: str, key: str, roots: str, host: str, *, partial: bool = False) -> str:
    """Return why a client that trusts ``roots`` (PEM) refuses this server now; empty when it does
    not.

    ``partial``: a root need not have signed itself (X509_V_FLAG_PARTIAL_CHAIN)."""
    try:
        server = server_context(chain, key)
    except ssl.SSLError as error:
        return f"the pair does not load: {error.reason}"
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=roots)
    if partial:
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return _handshake(server, client, host)


def server_context(chain: str, key: str) -> ssl.SSLContext:
    """Load a pair from a file without a name; raises SSLError when OpenSSL refuses the pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    descriptor = os.memfd_create("pair")
    try:
        with os.fdopen(os.dup(descriptor), "w") as file:
            file.write(chain + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: "")
    finally:
        os.close(descriptor)
    return context


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return str(error.reason)
        if not ends:
            return ""
    return "the handshake did not end"
