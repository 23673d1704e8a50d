"""Keys that anybody can find: published ones, and numbers with a pattern (rule D6)."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.validator.keys.known_keys import is_known_key
from services.validator.keys.patterns import find_pattern
from shared.contracts.findings import Code
from tests.support.pki import ec_key, rsa_key
from tests.unit.validator.sound_pair import DOMAIN, ISSUING, accepted, codes, report_of

N = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int("f" * 48 + "c7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16),
}
P256, P384, P521 = ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()


def is_prime(number: int, rounds: int = 12) -> bool:
    if any(number % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 2 + rounds):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def prime_from(start: int) -> int:
    """Return the next prime whose predecessor has no factor in common with the exponent."""
    number = start | 1
    while not (is_prime(number) and (number - 1) % 65537):
        number += 2
    return number


def rsa_of(p: int, q: int) -> rsa.RSAPrivateKey:
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(65537, p * q)
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


RANDOM = random.Random(1)
TOP = 3 << 1022


def words(width: int, make: int) -> int:
    """Repeat a word of ``width`` bits over 1,024 bits, with the two highest bits set."""
    number = 0
    for _ in range(1024 // width):
        number = number << width | make
    return number | TOP


WEAK_PRIMES = {
    "few bits set": TOP | 1 << 700 | 1 << 333,
    "nearly all bits set": (1 << 1024) - 1 - (1 << 700) - (1 << 99),
    "a repeated word of 32 bits": words(32, RANDOM.getrandbits(32)),
    "a repeated word of 64 bits": words(64, RANDOM.getrandbits(64)),
    "words of 32 bits of which 7 are used": sum(
        RANDOM.getrandbits(7) << 32 * at for at in range(32)
    )
    | TOP,
    "bytes that all begin with the same bits": int.from_bytes(
        bytes([0xA0 | RANDOM.getrandbits(4) for _ in range(128)]), "big"
    )
    | TOP,
}


@pytest.mark.parametrize("case", WEAK_PRIMES)
def test_a_prime_with_a_pattern_is_weak(case: str) -> None:
    p = prime_from(WEAK_PRIMES[case])
    q = prime_from(RANDOM.getrandbits(1024) | TOP)
    judged = report_of(ISSUING.issue([DOMAIN], key=rsa_of(p, q)))
    assert codes(judged) == [Code.KEY_WEAK], judged.findings
    assert "no random one" in judged.findings[0].message


@pytest.mark.parametrize(
    ("scalar", "curve"),
    [
        (1, P256),
        (2, P256),
        (123456789, P384),
        (1, P521),
        (2**190, P256),
        (N["secp256r1"] - 1, P256),
        (N["secp384r1"] - 77, P384),
        (int("11" * 32, 16), P256),
        (int("0123456789abcdef" * 4, 16), P256),
        (int("deadbeef" * 8, 16), P256),
        (1 << 255 | 1 << 3, P256),
    ],
)
def test_a_scalar_that_anybody_guesses_is_weak(scalar: int, curve: ec.EllipticCurve) -> None:
    judged = report_of(ISSUING.issue([DOMAIN], key=ec.derive_private_key(scalar, curve)))
    assert codes(judged) == [Code.KEY_WEAK], judged.findings
    assert "secret number" in judged.findings[0].message
    assert str(scalar) not in judged.findings[0].message


# RFC 6979, A.2.5 and A.2.6.
RFC_6979 = [
    (0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, P256),
    (
        int(
            "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D8"
            "96D5724E4C70A825F872C9EA60D2EDF5",
            16,
        ),
        P384,
    ),
]


@pytest.mark.parametrize(("scalar", "curve"), RFC_6979)
def test_a_published_key_is_weak(scalar: int, curve: ec.EllipticCurve) -> None:
    judged = report_of(ISSUING.issue([DOMAIN], key=ec.derive_private_key(scalar, curve)))
    assert codes(judged) == [Code.KEY_WEAK]
    assert "published" in judged.findings[0].message


def test_random_keys_have_no_pattern() -> None:
    generator = random.Random(2)
    for bits in (256, 384, 521, 1024, 2048):
        for _ in range(2_000):
            assert find_pattern(generator.getrandbits(bits) | 1 << (bits - 1), bits) is None
    for key in (ec_key(), rsa_key()):
        judged = report_of(ISSUING.issue([DOMAIN], key=key))
        assert (accepted(judged), codes(judged)) == (True, [])
    assert not is_known_key(b"")
