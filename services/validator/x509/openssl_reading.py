"""Whether OpenSSL, and so the nginx of a node, loads a certificate (rule D13).

The certificate is given to OpenSSL in memory: no file, and no key.
"""

from __future__ import annotations

import ssl


def find_load_fault(data: bytes) -> str | None:
    """Return why OpenSSL does not load a certificate (DER), as a clause; None when it loads it."""
    # A TLS context decodes the certificate when it is added, but reads its extensions only when it
    # compares it with another of the same name: so it is added twice. With an extension that it
    # cannot read, OpenSSL neither serves nor verifies. The context is made anew each time (0.1 ms
    # of 0.3 ms), because a faulty certificate in it would spoil the next of the same name.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=data + data)
    except ssl.SSLError as error:
        if error.reason == "INVALID_CERTIFICATE":
            return "one of its extensions is invalid"
        return "one of its parts cannot be decoded"
    return None
