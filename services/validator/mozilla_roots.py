"""Mozilla's trust roots, read from the file that certifi ships.

Only this module reads a file for the judging; checks, keys, x509 and text are pure.
"""

from __future__ import annotations

from pathlib import Path

import certifi

from services.validator.text import pem
from services.validator.x509.certificates import ParsedCertificate, UnreadableCertificate
from services.validator.x509.trust_roots import TrustRoots


def load_mozilla_roots(extra: str = "") -> TrustRoots:
    """Load Mozilla's roots, and add those of the PEM text ``extra``, which browsers do not trust.

    Raises UnreadableCertificate when ``extra`` is not PEM of certificates.
    """
    bundle = Path(certifi.where()).read_text(encoding="ascii", errors="replace")
    public_roots = []
    for block in pem.tokenise(bundle).blocks:
        try:
            public_roots.append(ParsedCertificate.from_der(block.body))
        except UnreadableCertificate:
            # One odd root of the bundle must not take the others with it.
            continue
    extra_roots = TrustRoots.from_pem(extra).certificates if extra.strip() else ()
    return TrustRoots([*public_roots, *extra_roots], public=public_roots)
