"""The form that RFC 5280, 4.1 and the CA/Browser Forum demand of every certificate.

Clients hold CAs to it.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.validator.x509 import der
from services.validator.x509.der import NotDer
from services.validator.x509.der_layout import CertificateLayout, read_layout

MAX_SERIAL_LENGTH = 20
GENERALIZED_TIME = 0x18


def _accepted_algorithms() -> Iterator[bytes]:
    """Yield AlgorithmIdentifiers byte for byte, each with SHA-256, SHA-384 and SHA-512."""
    for last_arc in ("0b", "0c", "0d"):  # PKCS #1 v1.5
        yield bytes.fromhex(f"06092a864886f70d0101{last_arc}0500")
        # RFC 4055, 5 has verifiers take absent parameters too, and all clients do.
        yield bytes.fromhex(f"06092a864886f70d0101{last_arc}")
    for last_arc in ("02", "03", "04"):  # ECDSA
        yield bytes.fromhex(f"06082a8648ce3d0403{last_arc}")
    for last_arc, salt_length in (("01", 32), ("02", 48), ("03", 64)):  # RSASSA-PSS
        digest = f"300d06096086480165030402{last_arc}0500"
        yield bytes.fromhex(
            f"06092a864886f70d01010a3034a00f{digest}a11c301a06092a864886f70d010108{digest}"
            f"a2030201{salt_length:02x}"
        )


ACCEPTED_ALGORITHMS = frozenset(_accepted_algorithms())
_RSA_SHA2_START = bytes.fromhex("06092a864886f70d0101")


def find_profile_faults(data: bytes) -> Iterator[str]:
    """Yield each fault in the form of a certificate (its DER) as a clause for a finding."""
    try:
        layout = read_layout(data)
        yield from _serial_faults(data[layout.serial.start : layout.serial.end])
        yield from _algorithm_faults(data, layout)
        if layout.issuer.start == layout.issuer.end:
            yield "names no issuer"
    except NotDer:
        yield "is not DER"


def _serial_faults(serial: bytes) -> Iterator[str]:
    if serial[:1] >= b"\x80":
        yield "has a negative serial number"
    if len(serial) > MAX_SERIAL_LENGTH:
        yield (
            f"has a serial number of {len(serial)} octets, of which {MAX_SERIAL_LENGTH} are allowed"
        )


def _algorithm_faults(data: bytes, layout: CertificateLayout) -> Iterator[str]:
    inner = data[layout.signed_algorithm.start : layout.signed_algorithm.end]
    outer = data[layout.algorithm.start : layout.algorithm.end]
    if inner != outer:
        yield "names two signature algorithms that differ"


def has_accepted_algorithm(data: bytes) -> bool:
    """Check that clients accept the signature algorithm of a certificate as it is encoded."""
    try:
        layout = read_layout(data)
    except NotDer:
        return False
    return data[layout.algorithm.start : layout.algorithm.end] in ACCEPTED_ALGORITHMS


def is_beyond_library(data: bytes) -> bool:
    """Check for forms that all clients read and the path library refuses.

    They are an RSA signature algorithm without its NULL, and a year before 2050 as GeneralizedTime.
    """
    layout = read_layout(data)
    algorithm = data[layout.algorithm.start : layout.algorithm.end]
    if algorithm[:-1] == _RSA_SHA2_START:
        return True
    times = der.read_children(data, layout.validity)
    return any(
        time.tag == GENERALIZED_TIME and data[time.start : time.start + 4] < b"2050"
        for time in times
    )
