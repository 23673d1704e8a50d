"""The checks of what the two fields may hold (rules D1-D6 and D11).

``policies`` defines a check, and lists them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from services.validator.checks.submission import (
    MAX_BLOCKS,
    MAX_CERTIFICATE_BYTES,
    MAX_KEY_BYTES,
    MAX_SANS,
    PARAMETERS,
    PairSubmission,
    is_certificate,
)
from services.validator.keys.private_key import EncryptedKey, KeyDescription, MalformedKey
from services.validator.text import other_formats, pem
from services.validator.text.embedded_keys import KEY_FORMATS, contains_key
from services.validator.text.other_formats import (
    BASE64_HINTS,
    CERTIFICATE_HINTS,
    KEY_HINTS,
    OPENSSH_COMMAND,
    OtherFormat,
)
from services.validator.text.pem import PemBlock, PemDocument, PemOddity
from services.validator.x509 import parse_diagnosis
from services.validator.x509.certificates import ParsedCertificate, UnreadableCertificate
from shared.contracts.findings import Code, Finding, finding

_Field = Literal["certificate", "private_key"]
_CERTIFICATE_FIELD: Final = "certificate"
_KEY_FIELD: Final = "private_key"
_HINT_REISSUE = "Have it reissued without that, or with it in order: many clients refuse it."
_HINT_MARKS = (
    "Write it as -----BEGIN CERTIFICATE----- or -----END CERTIFICATE-----, with five hyphens on "
    "each side, or export the file again: openssl x509 -in cert.pem -out plain.pem"
)
_CONTAINERS = (OtherFormat.PKCS7, OtherFormat.PKCS12)
# Labels that a finding may name. Any other label is the submitter's text and is not repeated.
_KNOWN_LABELS = {
    "TRUSTED CERTIFICATE": "Convert it: openssl x509 -in cert.pem -out plain.pem",
    "X509 CRL": "",
    "DH PARAMETERS": "",
    "EC PARAMETERS": "",
    "PUBLIC KEY": "",
    "CERTIFICATE REQUEST": "",
    "NEW CERTIFICATE REQUEST": "",
    "ATTRIBUTE CERTIFICATE": "",
}


# The certificate field


def certificate_is_within_limits(submission: PairSubmission) -> Iterator[Finding]:
    """D11: at most 64 KiB, 10 blocks, and 1,000 names for each certificate."""
    if not submission.certificate_text_fits:
        yield finding(
            Code.CERTIFICATE_TOO_LARGE,
            _describe_excess("certificate", submission.certificate_text, MAX_CERTIFICATE_BYTES),
            field=_CERTIFICATE_FIELD,
        )
    for certificate in submission.certificates:
        if isinstance(certificate, ParsedCertificate) and certificate.san_count > MAX_SANS:
            yield finding(
                Code.CERTIFICATE_TOO_LARGE,
                f"Block {certificate.block} has {certificate.san_count:,} names; "
                f"{MAX_SANS:,} are allowed.",
                field=_CERTIFICATE_FIELD,
                block=certificate.block,
            )


def _describe_excess(field: str, text: str, limit: int) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        return f"The {field} field has {size:,} bytes; {limit:,} are allowed."
    return f"The {field} field has {pem.count_blocks(text):,} blocks; {MAX_BLOCKS} are allowed."


def certificate_is_pem(submission: PairSubmission) -> Iterator[Finding]:
    """D1: PEM only; another format is named, with the command that converts it."""
    document = submission.certificate_document
    if document is None:
        return
    if not document.blocks and not document.faults and not submission.certificate_field_hides_key:
        yield _no_certificate_finding(submission.certificate_text)
    formats = submission.certificate_field_formats
    for block, body_format in zip(document.blocks, formats, strict=True):
        found = other_formats.format_of_label(block.label)
        if found is None and is_certificate(block):
            found = body_format
        if found in (OtherFormat.PKCS7, OtherFormat.PKCS12, OtherFormat.JKS):
            yield _not_pem_finding(found, block.index)


def _no_certificate_finding(text: str) -> Finding:
    found = other_formats.format_of_text(text)
    if found in CERTIFICATE_HINTS:
        decode_first = ""
        if other_formats.is_base64(text):
            decode_first = BASE64_HINTS.get(found, "")
        return _not_pem_finding(found, None, decode_first)
    if "BEGIN CERTIFICATE" in text.upper():
        return finding(
            Code.CERTIFICATE_MALFORMED,
            "The BEGIN line of the certificate is damaged.",
            field=_CERTIFICATE_FIELD,
        )
    return finding(Code.CERTIFICATE_MISSING, field=_CERTIFICATE_FIELD)


def _not_pem_finding(found: OtherFormat, block: int | None, decode_first: str = "") -> Finding:
    return finding(
        Code.CERTIFICATE_NOT_PEM,
        f"The certificate field holds {found.value}, not PEM.",
        field=_CERTIFICATE_FIELD,
        block=block,
        hint=decode_first + CERTIFICATE_HINTS[found],
    )


def no_key_in_certificate_field(submission: PairSubmission) -> Iterator[Finding]:
    """D3: no private key among the certificates, and no certificate in the key field."""
    yield from _keys_in_certificate_field(submission)
    document = submission.key_document
    if document is None:
        return
    for block in document.blocks:
        if is_certificate(block):
            yield finding(
                Code.CERTIFICATE_CONTAINS_KEY,
                f"Block {block.index} of the key field is a certificate.",
                field=_KEY_FIELD,
                block=block.index,
            )
    if submission.key_field_hides_certificate:
        yield finding(
            Code.CERTIFICATE_CONTAINS_KEY, "The key field holds a certificate.", field=_KEY_FIELD
        )


def _keys_in_certificate_field(submission: PairSubmission) -> Iterator[Finding]:
    document = submission.certificate_document
    if document is None:
        return
    indexes = [fault.index for fault in document.faults if fault.is_key]
    formats = submission.certificate_field_formats
    for block, body_format in zip(document.blocks, formats, strict=True):
        if _is_key_block(block, body_format):
            indexes.append(block.index)
    for index in sorted(indexes):
        yield finding(
            Code.CERTIFICATE_CONTAINS_KEY,
            f"The certificate field holds a private key (block {index}).",
            field=_CERTIFICATE_FIELD,
            block=index,
        )
    if not indexes and submission.certificate_field_hides_key:
        yield finding(
            Code.CERTIFICATE_CONTAINS_KEY,
            "The certificate field holds a private key.",
            field=_CERTIFICATE_FIELD,
        )


def _is_key_block(block: PemBlock, body_format: OtherFormat | None) -> bool:
    """Check a block of the certificate field, whatever its label is."""
    if block.is_key or body_format in KEY_FORMATS:
        return True
    return block.encrypted and not is_certificate(block)


def certificate_field_holds_certificates_only(submission: PairSubmission) -> Iterator[Finding]:
    """D2: nothing but the leaf and its intermediates."""
    document = submission.certificate_document
    if document is None:
        return
    formats = submission.certificate_field_formats
    for block, body_format in zip(document.blocks, formats, strict=True):
        if is_certificate(block) or _is_key_block(block, body_format):
            continue
        label_format = other_formats.format_of_label(block.label)
        if label_format in _CONTAINERS:
            continue
        kind = "of another kind"
        if block.label in _KNOWN_LABELS:
            kind = f"labelled {block.label}"
        if label_format is None:
            hint = _KNOWN_LABELS.get(block.label, "")
        else:
            hint = CERTIFICATE_HINTS.get(label_format, "")
        yield finding(
            Code.CERTIFICATE_UNEXPECTED_BLOCK,
            f"Block {block.index} is {kind}, not a certificate.",
            field=_CERTIFICATE_FIELD,
            block=block.index,
            hint=hint,
        )


def certificates_are_readable(submission: PairSubmission) -> Iterator[Finding]:
    """Every block is base64 of one X.509 certificate in DER."""
    document = submission.certificate_document
    if document is None:
        return
    for fault in document.faults:
        if not fault.is_key:
            yield finding(
                Code.CERTIFICATE_MALFORMED,
                f"Block {fault.index} {fault.reason}.",
                field=_CERTIFICATE_FIELD,
                block=fault.index,
                hint=_HINT_MARKS if "damaged" in fault.reason else "",
            )
    blocks = [block for block in document.blocks if is_certificate(block)]
    for block, certificate in zip(blocks, submission.certificates, strict=True):
        if not isinstance(certificate, UnreadableCertificate):
            continue
        # A bundle or a key under the wrong label is reported by another check.
        if other_formats.format_of_der(block.body) in (*_CONTAINERS, *KEY_FORMATS):
            continue
        is_certificate_at_least = str(certificate).startswith(parse_diagnosis.FAULTY_CERTIFICATE)
        yield finding(
            Code.CERTIFICATE_MALFORMED,
            f"Block {block.index} cannot be read: {certificate}.",
            field=_CERTIFICATE_FIELD,
            block=block.index,
            hint=_HINT_REISSUE if is_certificate_at_least else "",
        )


def certificate_text_is_canonical(submission: PairSubmission) -> Iterator[Finding]:
    """D2: every repair is a notice, which strict mode makes a refusal."""
    document = submission.certificate_document
    code = Code.CERTIFICATE_NORMALISED
    if document is not None:
        yield from _oddity_findings(document, code, _CERTIFICATE_FIELD)
        for block in document.blocks:
            if is_certificate(block) and block.label != pem.CERTIFICATE:
                yield _normalised_finding(code, PemOddity.LABEL, _CERTIFICATE_FIELD, block.index)
    for certificate in submission.repeated_certificates:
        yield _normalised_finding(code, PemOddity.REPEATED, _CERTIFICATE_FIELD, certificate.block)


def _oddity_findings(document: PemDocument, code: Code, field: _Field) -> Iterator[Finding]:
    if not document.blocks:
        return
    for oddity, block in document.oddities:
        yield _normalised_finding(code, oddity, field, block)


def _normalised_finding(code: Code, oddity: PemOddity, field: _Field, block: int | None) -> Finding:
    place = ""
    if block is not None and block >= 0:
        place = f" (block {block})"
    return finding(code, f"Normalised: {oddity.value}{place}.", field=field, block=block)


# The key field


def key_is_within_limits(submission: PairSubmission) -> Iterator[Finding]:
    """D11: at most 16 KiB."""
    if not submission.key_text_fits:
        yield finding(
            Code.KEY_TOO_LARGE,
            _describe_excess("key", submission.key_text or "", MAX_KEY_BYTES),
            field=_KEY_FIELD,
        )


def key_is_pem(submission: PairSubmission) -> Iterator[Finding]:
    """D1: one private key in PEM, as PKCS#8, PKCS#1 or SEC 1."""
    document = submission.key_document
    if document is None:
        return
    for fault in document.faults:
        if pem.CERTIFICATE in fault.label:
            continue  # no_key_in_certificate_field reports it
        yield finding(
            Code.KEY_MALFORMED,
            f"Block {fault.index} of the key field {fault.reason}.",
            field=_KEY_FIELD,
            block=fault.index,
        )
    keys = [block for block in document.blocks if block.is_key]
    if not keys:
        if not document.faults:
            yield _no_key_finding(submission.key_text or "", document)
        return
    if len(keys) > 1:
        yield finding(
            Code.KEY_SEVERAL,
            f"The key field holds {len(keys)} private keys.",
            field=_KEY_FIELD,
            block=keys[1].index,
        )
    for block in document.blocks:
        if block.is_key or is_certificate(block) or block.label in PARAMETERS:
            continue
        yield finding(
            Code.KEY_MALFORMED,
            f"Block {block.index} of the key field is not a private key.",
            field=_KEY_FIELD,
            block=block.index,
        )


def _no_key_finding(text: str, document: PemDocument) -> Finding:
    found = _format_of_key_field(text, document)
    if found is OtherFormat.ENCRYPTED_KEY:
        return finding(Code.KEY_ENCRYPTED, field=_KEY_FIELD, hint=KEY_HINTS[found])
    if found in KEY_HINTS:
        decode_first = ""
        if not document.blocks and other_formats.is_base64(text):
            decode_first = BASE64_HINTS.get(found, "")
        return finding(
            Code.KEY_NOT_PEM,
            f"The key field holds {found.value}, not PEM.",
            field=_KEY_FIELD,
            hint=decode_first + KEY_HINTS[found],
        )
    if "PuTTY-User-Key-File" in text:
        return finding(
            Code.KEY_NOT_PEM,
            "The key field holds a PuTTY key, not PEM.",
            field=_KEY_FIELD,
            hint="Convert it: puttygen key.ppk -O private-openssh -o key.pem, then "
            + OPENSSH_COMMAND,
        )
    if not document.blocks and contains_key(text):
        return finding(
            Code.KEY_MALFORMED, "The BEGIN line of the key is damaged.", field=_KEY_FIELD
        )
    return finding(Code.KEY_MISSING, field=_KEY_FIELD)


def _format_of_key_field(text: str, document: PemDocument) -> OtherFormat | None:
    for block in document.blocks:
        found = other_formats.format_of_label(block.label)
        if found is not None:
            return found
    if document.blocks:
        return None
    return other_formats.format_of_text(text)


def key_is_readable(submission: PairSubmission) -> Iterator[Finding]:
    """The DER is a private key, and its values make one."""
    for result in (submission.key_description, submission.loaded_key):
        if isinstance(result, MalformedKey) and not submission.key_weaknesses:
            yield finding(
                Code.KEY_MALFORMED,
                f"The private key cannot be read: {result}.",
                field=_KEY_FIELD,
                block=_key_block_index(submission),
            )


def key_has_no_password(submission: PairSubmission) -> Iterator[Finding]:
    """D4: neither PKCS#8 nor legacy PEM encryption."""
    if isinstance(submission.key_description, EncryptedKey):
        yield finding(Code.KEY_ENCRYPTED, field=_KEY_FIELD, block=_key_block_index(submission))


def key_text_is_canonical(submission: PairSubmission) -> Iterator[Finding]:
    """D2, for the key: every repair is a notice, which strict mode makes a refusal.

    EC PARAMETERS are dropped without a notice (D1).
    """
    if submission.key_document is not None:
        yield from _oddity_findings(submission.key_document, Code.KEY_NORMALISED, _KEY_FIELD)
    description = submission.key_description
    block = submission.key_block
    if block and isinstance(description, KeyDescription) and description.form != block.label:
        yield _normalised_finding(Code.KEY_NORMALISED, PemOddity.LABEL, _KEY_FIELD, block.index)


def key_is_of_a_supported_kind(submission: PairSubmission) -> Iterator[Finding]:
    """D6: RSA of 2048-8192 bits, or ECDSA on P-256, P-384 or P-521."""
    description = submission.key_description
    if isinstance(description, KeyDescription) and not description.supported:
        hint = ""
        if description.name == "OpenSSH":
            hint = f"Convert it: {OPENSSH_COMMAND}"
        yield finding(
            Code.KEY_UNSUPPORTED,
            f"The private key is {description.name}.",
            field=_KEY_FIELD,
            block=_key_block_index(submission),
            hint=hint,
        )


def leaf_key_is_of_a_supported_kind(submission: PairSubmission) -> Iterator[Finding]:
    """D6, for the leaf. It is silent where the private key was refused for the same reason."""
    leaf = submission.leaf
    if leaf is None or leaf.key_is_supported:
        return
    description = submission.key_description
    if isinstance(description, KeyDescription) and not description.supported:
        return
    yield finding(
        Code.KEY_UNSUPPORTED,
        f"The key of the certificate in block {leaf.block} is {leaf.key_name}.",
        field=_CERTIFICATE_FIELD,
        block=leaf.block,
    )


def key_is_not_weak(submission: PairSubmission) -> Iterator[Finding]:
    """D6: weak numbers, patterns of a faulty generator, parts that disagree, published keys."""
    for weakness in submission.key_weaknesses:
        yield finding(
            Code.KEY_WEAK,
            f"The private key is weak: {weakness}.",
            field=_KEY_FIELD,
            block=_key_block_index(submission),
        )


def key_belongs_to_the_leaf(submission: PairSubmission) -> Iterator[Finding]:
    """D5: equal public keys, proved by a signature."""
    leaf = submission.leaf
    if leaf and submission.key_matches_leaf is False:
        yield finding(
            Code.KEY_MISMATCH,
            f"The private key does not belong to the certificate in block {leaf.block}, "
            f"{leaf}, whose key is {leaf.key_name}.",
            field=_KEY_FIELD,
            block=_key_block_index(submission),
        )


def _key_block_index(submission: PairSubmission) -> int | None:
    return submission.key_block.index if submission.key_block else None
