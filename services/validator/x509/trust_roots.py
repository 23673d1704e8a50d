"""Trust roots: Mozilla's, or an account's own. Reading files is here and nowhere else in the
judging."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import certifi

from services.validator.lazy import fact
from services.validator.text import pem
from services.validator.x509.certificates import Certificate, Unreadable
from services.validator.x509.distinguished_names import Canonical


class TrustRoots:
    """Certificates that a path may end at, found by their subject. ``public``: those that browsers
    trust, too."""

    def __init__(
        self, certificates: Iterable[Certificate], public: Iterable[Certificate] = ()
    ) -> None:
        self.certificates = tuple(certificates)
        self._public = frozenset(certificate.der for certificate in public)
        self._by_subject: dict[Canonical, list[Certificate]] = {}
        for certificate in self.certificates:
            self._by_subject.setdefault(certificate.subject_key, []).append(certificate)
        self._ders = frozenset(certificate.der for certificate in self.certificates)

    @classmethod
    def from_pem(cls, *texts: str) -> TrustRoots:
        """Every certificate of the texts; Unreadable when a block is none."""
        found = []
        for text in texts:
            document = pem.tokenise(text)
            if document.faults or not document.blocks:
                raise Unreadable("a trust root is not PEM")
            for block in document.blocks:
                if block.label != pem.CERTIFICATE:
                    raise Unreadable("a trust root is not a certificate")
                found.append(Certificate.read(block.body))
        return cls(found)

    def named(self, subject: Canonical) -> list[Certificate]:
        return self._by_subject.get(subject, [])

    def is_public(self, root: Certificate) -> bool:
        return root.der in self._public

    def __contains__(self, certificate: Certificate) -> bool:
        return certificate.der in self._ders

    @fact
    def organisations(self) -> frozenset[str]:
        return frozenset(name for root in self.certificates if (name := root.organisation))


def mozilla(extra: str = "") -> TrustRoots:
    """Mozilla's roots as certifi ships them, and those of the PEM text ``extra``."""
    bundle = Path(certifi.where()).read_text(encoding="ascii", errors="replace")
    found = []
    for block in pem.tokenise(bundle).blocks:
        try:
            found.append(Certificate.read(block.body))
        except Unreadable:
            continue  # One odd root of the bundle must not take the others with it.
    more = TrustRoots.from_pem(extra).certificates if extra.strip() else ()
    return TrustRoots([*found, *more], public=found)
