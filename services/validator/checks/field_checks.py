"""What may stand in the two fields (rules D1-D6, D11): checks of ``policies.CHECKS``, which says
what a check is.

Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from services.validator.checks.submission import (
    MAX_BLOCKS,
    MAX_CERTIFICATE_BYTES,
    MAX_KEY_BYTES,
    MAX_SANS,
    PARAMETERS,
    Submission,
    is_certificate,
)
from services.validator.keys import private_key
from services.validator.text import other_formats, pem
from services.validator.text.embedded_keys import KEY_FORMS, key_in
from services.validator.x509 import parse_diagnosis
from services.validator.x509.certificates import Certificate, Unreadable
from shared.contracts.findings import Code, Finding, finding

_Field = Literal["certificate", "private_key"]
_CERTIFICATE: Final = "certificate"
_KEY: Final = "private_key"
REISSUE = "Have it reissued without that, or with it in order: many clients refuse it."
_ALIEN_LABELS = {
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


def certificate_is_within_limits(submission: Submission) -> Iterator[Finding]:
    """D11: at most 64 KiB, 10 blocks, 1,000 names a certificate."""
    if not submission.certificate_is_small:
        yield finding(
            Code.CERTIFICATE_TOO_LARGE,
            _over("certificate", submission.certificate_text, MAX_CERTIFICATE_BYTES),
            field=_CERTIFICATE,
        )
    for c in submission.certificates:
        if isinstance(c, Certificate) and c.san_count > MAX_SANS:
            yield finding(
                Code.CERTIFICATE_TOO_LARGE,
                f"Block {c.block} has {c.san_count:,} names; {MAX_SANS:,} are allowed.",
                field=_CERTIFICATE,
                block=c.block,
            )


def _over(field: str, text: str, limit: int) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        return f"The {field} field has {size:,} bytes; {limit:,} are allowed."
    return f"The {field} field has {pem.count(text):,} blocks; {MAX_BLOCKS} are allowed."


def certificate_is_pem(submission: Submission) -> Iterator[Finding]:
    """D1: PEM only; other forms are named, with the command that converts them."""
    document = submission.certificate_document
    if document is None:
        return
    if (
        not document.blocks
        and not document.faults
        and not submission.certificate_field_has_stray_key
    ):
        yield from _no_certificate(submission.certificate_text)
    for block in document.blocks:
        form = other_formats.by_label(block.label) or (
            other_formats.by_body(block.body) if is_certificate(block) else None
        )
        if form in (other_formats.Form.PKCS7, other_formats.Form.PKCS12, other_formats.Form.JKS):
            yield _not_pem(form, block.index)


def _no_certificate(text: str) -> Iterator[Finding]:
    form = other_formats.by_text(text)
    if form in other_formats.CONVERT_CERTIFICATE:
        yield _not_pem(form, None, is_base64=other_formats.is_base64(text))
    elif "BEGIN CERTIFICATE" in text.upper():
        yield finding(
            Code.CERTIFICATE_MALFORMED,
            "The BEGIN line of the certificate is damaged.",
            field=_CERTIFICATE,
        )
    else:
        yield finding(Code.CERTIFICATE_MISSING, field=_CERTIFICATE)


def _not_pem(form: other_formats.Form, block: int | None, *, is_base64: bool = False) -> Finding:
    """``is_base64``: of its bytes alone, without armour."""
    hint = (
        other_formats.DECODE.get(form, "") if is_base64 else ""
    ) + other_formats.CONVERT_CERTIFICATE[form]
    return finding(
        Code.CERTIFICATE_NOT_PEM,
        f"The certificate field holds {form.value}, not PEM.",
        field=_CERTIFICATE,
        block=block,
        hint=hint,
    )


def fields_are_not_mixed(submission: Submission) -> Iterator[Finding]:
    """D3: a key among certificates, or a certificate in the key field."""
    document = submission.certificate_document
    if document:
        places = [block.index for block in document.blocks if _is_key(block)]
        places += [fault.index for fault in document.faults if fault.is_key]
        stray = not places and submission.certificate_field_has_stray_key
        for place in [*sorted(places), *([None] if stray else [])]:
            yield finding(
                Code.CERTIFICATE_CONTAINS_KEY,
                "The certificate field holds a private key"
                + (f" (block {place})." if place is not None else "."),
                field=_CERTIFICATE,
                block=place,
            )
    if submission.key_document:
        for block in submission.key_document.blocks:
            if is_certificate(block):
                yield finding(
                    Code.CERTIFICATE_CONTAINS_KEY,
                    f"Block {block.index} of the key field is a certificate.",
                    field=_KEY,
                    block=block.index,
                )
        if submission.key_field_has_stray_certificate:
            yield finding(
                Code.CERTIFICATE_CONTAINS_KEY, "The key field holds a certificate.", field=_KEY
            )


def _is_key(block: pem.Block) -> bool:
    return (
        block.is_key
        or (block.encrypted and not is_certificate(block))
        or other_formats.by_body(block.body) in KEY_FORMS
    )


def certificate_field_holds_certificates_only(submission: Submission) -> Iterator[Finding]:
    """D2: nothing but the leaf and its intermediates."""
    document = submission.certificate_document
    for block in document.blocks if document else ():
        if (
            is_certificate(block)
            or _is_key(block)
            or other_formats.by_label(block.label) in _CONTAINERS
        ):
            continue
        what = f"labelled {block.label}" if block.label in _ALIEN_LABELS else "of another kind"
        form = other_formats.by_label(block.label)
        hint = (
            other_formats.CONVERT_CERTIFICATE.get(form, "")
            if form
            else _ALIEN_LABELS.get(block.label, "")
        )
        yield finding(
            Code.CERTIFICATE_UNEXPECTED_BLOCK,
            f"Block {block.index} is {what}, not a certificate.",
            field=_CERTIFICATE,
            block=block.index,
            hint=hint,
        )


_CONTAINERS = (other_formats.Form.PKCS7, other_formats.Form.PKCS12)


def certificates_are_readable(submission: Submission) -> Iterator[Finding]:
    """Every block is base64 of one X.509 certificate in DER."""
    document = submission.certificate_document
    if document is None:
        return
    for fault in document.faults:
        if not fault.is_key:
            yield finding(
                Code.CERTIFICATE_MALFORMED,
                f"Block {fault.index} {fault.reason}.",
                field=_CERTIFICATE,
                block=fault.index,
            )
    blocks = [block for block in document.blocks if is_certificate(block)]
    for block, read in zip(blocks, submission.certificates, strict=True):
        if isinstance(read, Unreadable) and other_formats.by_body(block.body) not in (
            *_CONTAINERS,
            *KEY_FORMS,
        ):
            hint = REISSUE if str(read).startswith(parse_diagnosis.CERTIFICATE) else ""
            yield finding(
                Code.CERTIFICATE_MALFORMED,
                f"Block {block.index} cannot be read: {read}.",
                field=_CERTIFICATE,
                block=block.index,
                hint=hint,
            )


def certificate_text_is_canonical(submission: Submission) -> Iterator[Finding]:
    """D2: what was normalised is told; ``strict`` refuses it."""
    if submission.certificate_document:
        yield from _oddities(
            submission.certificate_document, Code.CERTIFICATE_NORMALISED, _CERTIFICATE
        )
        for block in submission.certificate_document.blocks:
            if is_certificate(block) and block.label != pem.CERTIFICATE:
                yield _normalised(
                    Code.CERTIFICATE_NORMALISED, pem.Oddity.LABEL, _CERTIFICATE, block.index
                )
    for c in submission.repeated:
        yield _normalised(Code.CERTIFICATE_NORMALISED, pem.Oddity.REPEATED, _CERTIFICATE, c.block)


def _oddities(document: pem.Document, code: Code, field: _Field) -> Iterator[Finding]:
    for oddity, block in document.oddities if document.blocks else ():
        yield _normalised(code, oddity, field, block)


def _normalised(code: Code, oddity: pem.Oddity, field: _Field, block: int | None) -> Finding:
    place = f" (block {block})" if block is not None and block >= 0 else ""
    return finding(code, f"Normalised: {oddity.value}{place}.", field=field, block=block)


# The key field


def key_is_within_limits(submission: Submission) -> Iterator[Finding]:
    """D11: at most 16 KiB."""
    if not submission.key_is_small:
        yield finding(
            Code.KEY_TOO_LARGE, _over("key", submission.key_text or "", MAX_KEY_BYTES), field=_KEY
        )


def key_is_pem(submission: Submission) -> Iterator[Finding]:
    """D1: one private key in PEM; PKCS#8, PKCS#1 and SEC 1 alike."""
    document = submission.key_document
    if document is None:
        return
    for fault in document.faults:
        yield finding(
            Code.KEY_MALFORMED,
            f"Block {fault.index} of the key field {fault.reason}.",
            field=_KEY,
            block=fault.index,
        )
    found = [block for block in document.blocks if block.is_key]
    if not found and not document.faults:
        yield _no_key(submission.key_text or "", document)
    if len(found) > 1:
        yield finding(
            Code.KEY_SEVERAL,
            f"The key field holds {len(found)} private keys.",
            field=_KEY,
            block=found[1].index,
        )
    for block in document.blocks:
        if (
            found
            and not block.is_key
            and not is_certificate(block)
            and block.label not in PARAMETERS
        ):
            yield finding(
                Code.KEY_MALFORMED,
                f"Block {block.index} of the key field is not a private key.",
                field=_KEY,
                block=block.index,
            )


def _no_key(text: str, document: pem.Document) -> Finding:
    form = next(
        (f for block in document.blocks if (f := other_formats.by_label(block.label))), None
    )
    form = form or (None if document.blocks else other_formats.by_text(text))
    if form is other_formats.Form.ENCRYPTED_KEY:
        return finding(Code.KEY_ENCRYPTED, field=_KEY, hint=other_formats.CONVERT_KEY[form])
    if form in other_formats.CONVERT_KEY:
        decode = (
            other_formats.DECODE.get(form, "")
            if not document.blocks and other_formats.is_base64(text)
            else ""
        )
        return finding(
            Code.KEY_NOT_PEM,
            f"The key field holds {form.value}, not PEM.",
            field=_KEY,
            hint=decode + other_formats.CONVERT_KEY[form],
        )
    if "PuTTY-User-Key-File" in text:
        return finding(
            Code.KEY_NOT_PEM,
            "The key field holds a PuTTY key, not PEM.",
            field=_KEY,
            hint="Convert it: puttygen key.ppk -O private-openssh -o key.pem, then "
            + other_formats.CONVERT_OPENSSH,
        )
    if not document.blocks and key_in(text):
        return finding(Code.KEY_MALFORMED, "The BEGIN line of the key is damaged.", field=_KEY)
    return finding(Code.KEY_MISSING, field=_KEY)


def key_is_readable(submission: Submission) -> Iterator[Finding]:
    """Its DER is a private key whose values make one."""
    for fault in (submission.key_shape, submission.loaded_key):
        if isinstance(fault, private_key.MalformedKey) and not submission.weaknesses:
            yield finding(
                Code.KEY_MALFORMED,
                f"The private key cannot be read: {fault}.",
                field=_KEY,
                block=_key_block(submission),
            )


def key_has_no_password(submission: Submission) -> Iterator[Finding]:
    """D4: neither PKCS#8 nor legacy PEM encryption."""
    if isinstance(submission.key_shape, private_key.EncryptedKey):
        yield finding(Code.KEY_ENCRYPTED, field=_KEY, block=_key_block(submission))


def key_text_is_canonical(submission: Submission) -> Iterator[Finding]:
    """D2, for the key: told, and refused when ``strict``. EC PARAMETERS are dropped without a word
    (D1)."""
    if submission.key_document:
        yield from _oddities(submission.key_document, Code.KEY_NORMALISED, _KEY)
    shape, block = submission.key_shape, submission.key_block
    if block and isinstance(shape, private_key.Shape) and shape.form != block.label:
        yield _normalised(Code.KEY_NORMALISED, pem.Oddity.LABEL, _KEY, block.index)


def key_is_of_a_supported_kind(submission: Submission) -> Iterator[Finding]:
    """D6: RSA 2048-8192, ECDSA on P-256, P-384, P-521."""
    shape = submission.key_shape
    if isinstance(shape, private_key.Shape) and not shape.supported:
        yield finding(
            Code.KEY_UNSUPPORTED,
            f"The private key is {shape.name}.",
            field=_KEY,
            block=_key_block(submission),
            hint=f"Convert it: {other_formats.CONVERT_OPENSSH}" if shape.name == "OpenSSH" else "",
        )


def leaf_key_is_of_a_supported_kind(submission: Submission) -> Iterator[Finding]:
    """D6, by the leaf; said once, by the key if there is one."""
    leaf, shape = submission.leaf, submission.key_shape
    told = isinstance(shape, private_key.Shape) and not shape.supported
    if leaf and not leaf.key_fits and not told:
        yield finding(
            Code.KEY_UNSUPPORTED,
            f"The key of the certificate in block {leaf.block} is {leaf.key_name}.",
            field=_CERTIFICATE,
            block=leaf.block,
        )


def key_is_not_weak(submission: Submission) -> Iterator[Finding]:
    """D6: exponent, small factors, ROCA, close primes, parameters that disagree."""
    for weakness in submission.weaknesses:
        yield finding(
            Code.KEY_WEAK,
            f"The private key is weak: {weakness}.",
            field=_KEY,
            block=_key_block(submission),
        )


def key_belongs_to_the_leaf(submission: Submission) -> Iterator[Finding]:
    """D5: equal public keys, proved by a signature."""
    leaf = submission.leaf
    if leaf and submission.key_belongs is False:
        yield finding(
            Code.KEY_MISMATCH,
            f"The private key does not belong to the certificate in block {leaf.block}, "
            f"{leaf}, whose key is {leaf.key_name}.",
            field=_KEY,
            block=_key_block(submission),
        )


def _key_block(submission: Submission) -> int | None:
    return submission.key_block.index if submission.key_block else None
