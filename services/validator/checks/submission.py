"""What is judged: one pair, the domains it is for, and everything from outside, with what can be
learnt from it.

Each fact is worked out once, when a check first asks; a fact that cannot be had is None, and the
checks that need it are silent: the check that found why has spoken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from services.validator.keys import private_key
from services.validator.lazy import fact
from services.validator.text import embedded_keys, other_formats, pem
from services.validator.x509 import chains
from services.validator.x509.certificates import Certificate, Unreadable
from services.validator.x509.chains import Chain
from services.validator.x509.trust_roots import TrustRoots

MAX_CERTIFICATE_BYTES = 64 * 1024
MAX_KEY_BYTES = 16 * 1024
MAX_BLOCKS = 10
MAX_SANS = 1000
MAX_KNOWN_CAS = 256
PARAMETERS = ("EC PARAMETERS", "DSA PARAMETERS")
"""Labels of blocks that stand before a key and are dropped: the key says the same."""


@dataclass(frozen=True)
class Submission:
    """``domains``: lower-case A-labels. ``at``: the moment that validity is judged at.
    ``live_names``: the names that the certificate in use covers (rule D12). ``key_text`` None: it
    could not be had, and that was told already. ``repr`` shows neither field's text."""

    certificate_text: str = field(repr=False)
    key_text: str | None = field(repr=False)
    domains: tuple[str, ...]
    at: datetime
    roots: TrustRoots = field(repr=False)
    live_names: tuple[str, ...] = ()

    @fact
    def certificate_is_small(self) -> bool:
        return (
            _fits(self.certificate_text, MAX_CERTIFICATE_BYTES)
            and pem.count(self.certificate_text) <= MAX_BLOCKS
        )

    @fact
    def key_is_small(self) -> bool:
        return self.key_text is None or (
            _fits(self.key_text, MAX_KEY_BYTES) and pem.count(self.key_text) <= MAX_BLOCKS
        )

    @fact
    def certificate_document(self) -> pem.Document | None:
        return pem.tokenise(self.certificate_text) if self.certificate_is_small else None

    @fact
    def key_document(self) -> pem.Document | None:
        return (
            pem.tokenise(self.key_text) if self.key_text is not None and self.key_is_small else None
        )

    @fact
    def certificate_field_has_stray_key(self) -> bool:
        """A private key outside of the blocks, or in one that cannot be read."""
        document = self.certificate_document
        if document is None:
            return False
        if document.blocks or document.faults:
            return any(map(embedded_keys.key_in, document.strays))
        form = other_formats.by_text(self.certificate_text)
        return (
            embedded_keys.key_in(self.certificate_text)
            if form is None
            else form in embedded_keys.KEY_FORMS
        )

    @fact
    def key_field_has_stray_certificate(self) -> bool:
        document = self.key_document
        return document is not None and any(map(embedded_keys.certificate_in, document.strays))

    @fact
    def certificates(self) -> tuple[Certificate | Unreadable, ...]:
        """One for each CERTIFICATE block, in order."""
        document = self.certificate_document
        return (
            tuple(_read(block) for block in document.blocks if is_certificate(block))
            if document
            else ()
        )

    @fact
    def readable(self) -> tuple[Certificate, ...]:
        """The certificates, when the whole field is nothing but certificates; else none."""
        document = self.certificate_document
        if document is None or document.faults or not all(map(is_certificate, document.blocks)):
            return ()
        read = tuple(c for c in self.certificates if isinstance(c, Certificate))
        return (
            read
            if len(read) == len(self.certificates) and all(c.san_count <= MAX_SANS for c in read)
            else ()
        )

    @fact
    def repeated(self) -> tuple[Certificate, ...]:
        """Every certificate that stood in the field before."""
        ders = [c.der for c in self.readable]
        return tuple(c for at, c in enumerate(self.readable) if c.der in ders[:at])

    @fact
    def leaf(self) -> Certificate | None:
        """The certificate that is no CA, and of several the key's; with CAs only, the key's or the
        first."""
        ends = [c for c in self.readable if not c.is_ca] or list(self.readable)
        spki = self.key.spki if self.key else None
        return next(
            (c for c in ends if spki is not None and c.spki == spki), ends[0] if ends else None
        )

    @fact
    def chain(self) -> Chain | None:
        if self.leaf is None:
            return None
        others = [c for c in self.readable if c not in self.repeated and c.der != self.leaf.der]
        return chains.examine(self.leaf, others, self.roots, self.at)

    @fact
    def key_block(self) -> pem.Block | None:
        """The one private key of the key field, when the field is nothing else."""
        document = self.key_document
        if document is None or document.faults:
            return None
        blocks = [block for block in document.blocks if block.label not in PARAMETERS]
        return blocks[0] if len(blocks) == 1 and blocks[0].is_key else None

    @fact
    def key_shape(
        self,
    ) -> private_key.Shape | private_key.MalformedKey | private_key.EncryptedKey | None:
        block = self.key_block
        if block is None:
            return None
        if block.encrypted or block.label == "ENCRYPTED PRIVATE KEY":
            return private_key.EncryptedKey()
        try:
            return private_key.shape(block.label, block.body)
        except (private_key.MalformedKey, private_key.EncryptedKey) as fault:
            return fault

    @fact
    def weaknesses(self) -> tuple[str, ...]:
        """Of a key of a supported kind and size."""
        shape = self.key_shape
        return (
            tuple(shape.weaknesses())
            if isinstance(shape, private_key.Shape) and shape.supported
            else ()
        )

    @fact
    def loaded_key(self) -> private_key.PrivateKey | private_key.MalformedKey | None:
        if (
            self.key_block is None
            or not isinstance(self.key_shape, private_key.Shape)
            or not self.key_shape.supported
        ):
            return None
        try:
            return private_key.load(self.key_block.body, self.key_shape)
        except private_key.MalformedKey as fault:
            return fault

    @property
    def key(self) -> private_key.PrivateKey | None:
        return self.loaded_key if isinstance(self.loaded_key, private_key.PrivateKey) else None

    @fact
    def key_belongs(self) -> bool | None:
        """Public keys are equal and a signature proves it; a weak key is compared but never made to
        sign."""
        if self.key is None or self.leaf is None or self.leaf.public_key is None:
            return None
        if self.key.spki != self.leaf.spki:
            return False
        return bool(self.weaknesses) or self.key.proves(self.leaf.public_key)


def is_certificate(block: pem.Block) -> bool:
    """``X509 CERTIFICATE`` is an old name of the same."""
    return block.label in (pem.CERTIFICATE, "X509 CERTIFICATE")


def _fits(text: str, limit: int) -> bool:
    return len(text) <= limit and len(text.encode("utf-8", "surrogatepass")) <= limit


def _read(block: pem.Block) -> Certificate | Unreadable:
    """Read anew, but for CAs: a few hundred intermediates stand in nearly every upload of the
    world."""
    place = (block.body, block.index)
    known = _KNOWN_CAS.get(place)
    if known:
        return known
    try:
        read = Certificate.read(block.body, block.index)
    except Unreadable as fault:
        return fault
    if read.is_ca:
        if len(_KNOWN_CAS) >= MAX_KNOWN_CAS:
            _KNOWN_CAS.clear()
        _KNOWN_CAS[place] = read
    return read


_KNOWN_CAS: dict[tuple[bytes, int], Certificate] = {}
