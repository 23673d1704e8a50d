"""Submissions made to cost time: sizes, counts and graphs at or over every limit."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from itertools import permutations
from math import gcd, isqrt, lcm, prod

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.validator.text import pem as pem_text
from tests.support.pki import Authority, Leaf, distinguished, ec_key, pem, pkcs8, sign
from tests.support.unusual_certificates import encode_integer, encode_sequence

PairFields = tuple[str, str]
"""The texts of the certificate field and the key field."""
DOMAIN = "www.example.com"
ROOT_KEY = ec_key()
ROOT = Authority.create("Hostile Root", key=ROOT_KEY)
_RANDOM = random.Random(4)


def pkcs1_of(*numbers: int) -> str:
    """Encode any n, e, d, p, q, dP, dQ, qInv as an ``RSA PRIVATE KEY``."""
    return pem_text.encode_block(
        "RSA PRIVATE KEY", encode_sequence(*map(encode_integer, (0, *numbers)))
    )


@cache
def composite_numbers(bits: int) -> tuple[int, ...]:
    """Return RSA numbers that agree with each other, of factors that are not prime.

    They take as long to check as a real key, and are made in no time."""
    e, half = 65537, bits // 2
    small = prod(n for n in range(2, 2000) if all(n % d for d in range(2, isqrt(n) + 1)))
    while True:
        p, q = (_RANDOM.getrandbits(half) | 3 << half - 2 | 1 for _ in range(2))
        if gcd(p * q, small) != 1:
            continue
        group = lcm(p - 1, q - 1)
        if gcd(e, group) == 1 and gcd(p, q) == 1:
            d = pow(e, -1, group)
            return p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)


def leaf_with(public: object) -> x509.Certificate:
    return sign(
        distinguished(DOMAIN),
        public,
        ROOT.certificate,
        ROOT_KEY,
        identifiers=False,
        extensions=[(x509.SubjectAlternativeName([x509.DNSName(DOMAIN)]), False)],
    )


def rsa_public_key(n: int, e: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(e, n).public_key()


def rsa_of(bits: int) -> PairFields:
    """Return a leaf and its key, sound but for their size and factors."""
    numbers = composite_numbers(bits)
    return pem(leaf_with(rsa_public_key(numbers[0]))), pkcs1_of(*numbers)


def long_exponent() -> PairFields:
    """Use RSA of 8192 bits with an exponent of 8000 bits: each verification costs a hundred
    ordinary ones."""
    n = composite_numbers(8192)[0]
    return pem(leaf_with(rsa_public_key(n, (1 << 8000) + 1))), pkcs8(ec_key())


def slow_issuers() -> PairFields:
    """Add nine CAs of one name with such keys, each to be tried as the issuer."""
    key = ec_key()
    n = composite_numbers(8192)[0]
    fakes = [
        sign(
            distinguished("Slow CA"),
            rsa_public_key(n + 2 * i, (1 << 8000) + 1),
            ROOT.certificate,
            ROOT_KEY,
            ca=True,
            identifiers=False,
        )
        for i in range(9)
    ]
    leaf = sign(
        distinguished(DOMAIN),
        key.public_key(),
        fakes[0],
        ec_key(),
        identifiers=False,
        extensions=[(x509.SubjectAlternativeName([x509.DNSName(DOMAIN)]), False)],
    )
    return pem([leaf, *fakes]), pkcs8(key)


def thousand_names() -> PairFields:
    made = ROOT.issue([DOMAIN, *(f"h{n}.example.com" for n in range(999))])
    return made.chain_pem, made.key_pem


def deep_constraints() -> PairFields:
    """Use eight CAs with 200 permitted and 200 excluded names each over a leaf of 500 names."""
    authority = ROOT
    for depth in range(8):
        permitted = [x509.DNSName(f"p{n}.net") for n in range(200)] + [x509.DNSName("com")]
        excluded = [x509.DNSName(f"x{n}.com") for n in range(200)]
        authority = authority.intermediate(
            f"CA {depth}", extensions=[(x509.NameConstraints(permitted, excluded), True)]
        )
    made = authority.issue([DOMAIN, *(f"h{n}.a.com" for n in range(500))])
    return made.chain_pem, made.key_pem


def cross_signed() -> PairFields:
    """Use nine CA certificates of four keys on the slowest curve, which sign each other and lead to
    no root."""
    keys = [ec_key(ec.SECP521R1()) for _ in range(4)]
    own = [
        sign(distinguished(f"Ring {n}"), key.public_key(), None, key, ca=True)
        for n, key in enumerate(keys)
    ]
    ring = [
        sign(own[a].subject, keys[a].public_key(), own[b], keys[b], ca=True)
        for a, b in permutations(range(4), 2)
    ]
    made = Leaf(
        sign(
            distinguished(DOMAIN),
            (key := ec_key()).public_key(),
            own[0],
            keys[0],
            extensions=[(x509.SubjectAlternativeName([x509.DNSName(DOMAIN)]), False)],
        ),
        key,
    )
    return pem([made.certificate, *ring[:9]]), made.key_pem


def tiny_blocks(count: int = 10_000) -> PairFields:
    return "-----BEGIN X-----\nAA==\n-----END X-----\n" * count, pkcs8(ec_key())


def nested_der() -> PairFields:
    """Use a SEQUENCE in a SEQUENCE, ten thousand deep, as the certificate."""
    body = b""
    for _ in range(10_000):
        body = encode_sequence(body)
    return pem_text.encode_block("CERTIFICATE", body), pem_text.encode_block(
        "PRIVATE KEY", body[-10_000:]
    )


COSTLY_SUBMISSIONS: dict[str, Callable[[], PairFields]] = {
    "an RSA-16384 key and leaf": lambda: rsa_of(16384),
    "an RSA-8192 key of composites": lambda: rsa_of(8192),
    "an exponent of 8000 bits": long_exponent,
    "nine issuers with exponents of 8000 bits": slow_issuers,
    "a thousand names": thousand_names,
    "deep name constraints": deep_constraints,
    "nine cross-signed intermediates": cross_signed,
    "a PEM of 10,000 tiny blocks": tiny_blocks,
    "DER nested ten thousand deep": nested_der,
}
