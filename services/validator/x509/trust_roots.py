"""Trust roots: the certificates that a chain may end at."""

from __future__ import annotations

from collections.abc import Iterable

from services.validator.lazy import lazy_property
from services.validator.text import pem
from services.validator.x509.certificates import ParsedCertificate, UnreadableCertificate
from services.validator.x509.distinguished_names import CanonicalName


class TrustRoots:
    """A set of trusted certificates, found by their subject.

    ``public``: those of them that browsers trust too.
    """

    def __init__(
        self,
        certificates: Iterable[ParsedCertificate],
        public: Iterable[ParsedCertificate] = (),
    ) -> None:
        self.certificates = tuple(certificates)
        self._ders = frozenset(certificate.der for certificate in self.certificates)
        self._public_ders = frozenset(certificate.der for certificate in public)
        self._by_subject: dict[CanonicalName, list[ParsedCertificate]] = {}
        for certificate in self.certificates:
            self._by_subject.setdefault(certificate.canonical_subject, []).append(certificate)

    @classmethod
    def from_pem(cls, *texts: str) -> TrustRoots:
        """Read every certificate of the texts.

        Raises UnreadableCertificate when a text has none, or a block that is none.
        """
        certificates = []
        for text in texts:
            document = pem.tokenise(text)
            if document.faults or not document.blocks:
                raise UnreadableCertificate("a trust root is not PEM")
            for block in document.blocks:
                if block.label != pem.CERTIFICATE:
                    raise UnreadableCertificate("a trust root is not a certificate")
                certificates.append(ParsedCertificate.from_der(block.body))
        return cls(certificates)

    def find_by_subject(self, subject: CanonicalName) -> list[ParsedCertificate]:
        return self._by_subject.get(subject, [])

    def is_public(self, root: ParsedCertificate) -> bool:
        """Check whether browsers trust ``root`` too."""
        return root.der in self._public_ders

    def __contains__(self, certificate: ParsedCertificate) -> bool:
        return certificate.der in self._ders

    @lazy_property
    def organisations(self) -> frozenset[str]:
        """The organisations of all roots, in folded case."""
        return frozenset(root.organisation for root in self.certificates if root.organisation)
