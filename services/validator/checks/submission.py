"""One pair as it was submitted, with everything that the checks read from it.

Each property is computed once, when a check first reads it. A property that cannot be had is None,
and the checks that need it find nothing: the check that could not read it has reported that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from services.validator.keys import private_key
from services.validator.lazy import lazy_property
from services.validator.text import embedded_keys, other_formats, pem
from services.validator.text.other_formats import OtherFormat
from services.validator.text.pem import PemBlock, PemDocument
from services.validator.text.transport_damage import RepairedText, repair_text
from services.validator.x509 import chains
from services.validator.x509.certificates import ParsedCertificate, UnreadableCertificate
from services.validator.x509.chains import CertificateChain
from services.validator.x509.trust_roots import TrustRoots

MAX_CERTIFICATE_BYTES = 64 * 1024
MAX_KEY_BYTES = 16 * 1024
MAX_BLOCKS = 10
MAX_SANS = 1000
MAX_CACHED_CAS = 256
PARAMETERS = ("EC PARAMETERS", "DSA PARAMETERS")
"""Labels of blocks before a key. They are dropped: the key contains the same parameters."""


@dataclass(frozen=True)
class PairSubmission:
    """A certificate field and a key field, the domains they are for, and the context.

    ``key_text``: None when the key could not be opened, which was reported before.
    ``domains``: lower-case A-labels. ``at``: the moment for which validity is judged.
    ``live_names``: the names that the certificate in use covers (rule D12).
    ``repr`` hides both texts.
    """

    certificate_text: str = field(repr=False)
    key_text: str | None = field(repr=False)
    domains: tuple[str, ...]
    at: datetime
    roots: TrustRoots = field(repr=False)
    live_names: tuple[str, ...] = ()

    # The certificate field

    @lazy_property
    def certificate_text_fits(self) -> bool:
        if not _fits(self.certificate_text, MAX_CERTIFICATE_BYTES):
            return False
        return pem.count_blocks(self.repaired_certificate.text) <= MAX_BLOCKS

    @lazy_property
    def repaired_certificate(self) -> RepairedText:
        """The certificate field as it was before a program or form damaged it."""
        return repair_text(self.certificate_text)

    @lazy_property
    def certificate_document(self) -> PemDocument | None:
        """None when the text is over its limits."""
        if not self.certificate_text_fits:
            return None
        repaired = self.repaired_certificate
        return pem.tokenise(repaired.text, repaired.repairs)

    @lazy_property
    def certificate_field_formats(self) -> tuple[OtherFormat | None, ...]:
        """The format of each block's body, in the order of the blocks."""
        document = self.certificate_document
        if document is None:
            return ()
        return tuple([other_formats.format_of_der(block.body) for block in document.blocks])

    @lazy_property
    def certificate_field_hides_key(self) -> bool:
        """Whether a private key is outside of the blocks or in one that cannot be read."""
        document = self.certificate_document
        if document is None:
            return False
        if document.blocks or document.faults:
            outside_texts = [*document.outside_texts, *self._outside_texts_of_damaged_certificate]
            return any(map(embedded_keys.contains_key, outside_texts))
        found = other_formats.format_of_text(self.certificate_text)
        if found is None:
            return embedded_keys.contains_key(self.certificate_text)
        return found in embedded_keys.KEY_FORMATS

    @property
    def _outside_texts_of_damaged_certificate(self) -> tuple[str, ...]:
        """The pieces outside of blocks as they came: a repair may make a key unrecognisable."""
        if not self.repaired_certificate.repairs:
            return ()
        return pem.tokenise(self.certificate_text).outside_texts

    @lazy_property
    def certificates(self) -> tuple[ParsedCertificate | UnreadableCertificate, ...]:
        """One for each certificate block, in order."""
        document = self.certificate_document
        if document is None:
            return ()
        return tuple([_read_block(block) for block in document.blocks if is_certificate(block)])

    @lazy_property
    def readable_certificates(self) -> tuple[ParsedCertificate, ...]:
        """The certificates, when the whole field is nothing but certificates; else none."""
        document = self.certificate_document
        if document is None or document.faults:
            return ()
        if len(self.certificates) != len(document.blocks):
            return ()
        readable = []
        for certificate in self.certificates:
            if isinstance(certificate, UnreadableCertificate) or certificate.san_count > MAX_SANS:
                return ()
            readable.append(certificate)
        return tuple(readable)

    @lazy_property
    def repeated_certificates(self) -> tuple[ParsedCertificate, ...]:
        """Every certificate that is in the field once more before."""
        seen = set()
        repeated = []
        for certificate in self.readable_certificates:
            if certificate.der in seen:
                repeated.append(certificate)
            seen.add(certificate.der)
        return tuple(repeated)

    @lazy_property
    def leaf(self) -> ParsedCertificate | None:
        """The certificate that is no CA, and of several the one of the key, or else the first.

        If all are CAs, they are chosen from in the same way.
        """
        candidates = [found for found in self.readable_certificates if not found.is_ca]
        candidates = candidates or list(self.readable_certificates)
        if self.key is not None:
            for certificate in candidates:
                if certificate.spki == self.key.spki:
                    return certificate
        return candidates[0] if candidates else None

    @lazy_property
    def chain(self) -> CertificateChain | None:
        if self.leaf is None:
            return None
        others = []
        for certificate in self.readable_certificates:
            if certificate not in self.repeated_certificates and certificate.der != self.leaf.der:
                others.append(certificate)
        return chains.build_chain(self.leaf, others, self.roots, self.at)

    # The key field

    @lazy_property
    def key_text_fits(self) -> bool:
        text = self.key_text
        if text is None:
            return True
        if not _fits(text, MAX_KEY_BYTES):
            return False
        return pem.count_blocks(self.repaired_key.text) <= MAX_BLOCKS

    @lazy_property
    def repaired_key(self) -> RepairedText:
        """The key field as it was before a program or form damaged it."""
        return repair_text(self.key_text or "")

    @lazy_property
    def key_document(self) -> PemDocument | None:
        """None when there is no text or the text is over its limits."""
        if self.key_text is None or not self.key_text_fits:
            return None
        repaired = self.repaired_key
        return pem.tokenise(repaired.text, repaired.repairs)

    @lazy_property
    def key_field_hides_certificate(self) -> bool:
        """Whether a certificate is outside of the blocks or in one that cannot be read."""
        document = self.key_document
        if document is None:
            return False
        if any(pem.CERTIFICATE in fault.label for fault in document.faults):
            return True
        outside_texts = list(document.outside_texts)
        if self.key_text is not None and self.repaired_key.repairs:
            outside_texts += pem.tokenise(self.key_text).outside_texts
        return any(map(embedded_keys.contains_certificate, outside_texts))

    @lazy_property
    def key_block(self) -> PemBlock | None:
        """The one private key of the key field, when the field is nothing else."""
        document = self.key_document
        if document is None or document.faults:
            return None
        blocks = [block for block in document.blocks if block.label not in PARAMETERS]
        return blocks[0] if len(blocks) == 1 and blocks[0].is_key else None

    @lazy_property
    def key_description(
        self,
    ) -> private_key.KeyDescription | private_key.MalformedKey | private_key.EncryptedKey | None:
        block = self.key_block
        if block is None:
            return None
        if block.encrypted or block.label == "ENCRYPTED PRIVATE KEY":
            return private_key.EncryptedKey()
        try:
            return private_key.describe_key(block.label, block.body)
        except (private_key.MalformedKey, private_key.EncryptedKey) as fault:
            return fault

    @lazy_property
    def key_weaknesses(self) -> tuple[str, ...]:
        """Clauses on a key of a supported kind and size."""
        description = self.key_description
        if not isinstance(description, private_key.KeyDescription) or not description.supported:
            return ()
        weaknesses = list(description.find_weaknesses())
        if self.key is not None:
            weaknesses += self.key.find_weaknesses()
        return tuple(weaknesses)

    @lazy_property
    def loaded_key(self) -> private_key.LoadedKey | private_key.MalformedKey | None:
        block = self.key_block
        description = self.key_description
        if block is None or not isinstance(description, private_key.KeyDescription):
            return None
        if not description.supported:
            return None
        try:
            return private_key.load_key(block.body, description)
        except private_key.MalformedKey as fault:
            return fault

    @property
    def key(self) -> private_key.LoadedKey | None:
        return self.loaded_key if isinstance(self.loaded_key, private_key.LoadedKey) else None

    @lazy_property
    def key_matches_leaf(self) -> bool | None:
        """Whether the public keys are equal and a signature proves it; None when one is missing.

        A weak key is compared but never made to sign.
        """
        if self.key is None or self.leaf is None or self.leaf.public_key is None:
            return None
        if self.key.spki != self.leaf.spki:
            return False
        return bool(self.key_weaknesses) or self.key.proves_possession(self.leaf.public_key)


def is_certificate(block: PemBlock) -> bool:
    """Check the label; ``X509 CERTIFICATE`` is an old name of ``CERTIFICATE``."""
    return block.label in (pem.CERTIFICATE, "X509 CERTIFICATE")


def _fits(text: str, limit: int) -> bool:
    return len(text) <= limit and len(text.encode("utf-8", "surrogatepass")) <= limit


# A few hundred intermediates are in nearly every upload of the world, so CAs are parsed once for
# each worker. The key holds the whole DER, so a cached CA is exactly the submitted one, and the
# block index, which findings name. A flood of other CAs clears the cache and cannot grow it.
_cached_cas: dict[tuple[bytes, int], ParsedCertificate] = {}


def _read_block(block: PemBlock) -> ParsedCertificate | UnreadableCertificate:
    cached = _cached_cas.get((block.body, block.index))
    if cached is not None:
        return cached
    try:
        certificate = ParsedCertificate.from_der(block.body, block.index)
    except UnreadableCertificate as fault:
        return fault
    if certificate.is_ca:
        if len(_cached_cas) >= MAX_CACHED_CAS:
            _cached_cas.clear()
        _cached_cas[block.body, block.index] = certificate
    return certificate
