"""Rules D5 and D6: the key belongs to the leaf, is of a supported kind, and is not weak."""

from __future__ import annotations

import base64
import secrets
from functools import lru_cache
from itertools import count
from math import isqrt, lcm

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric import rsa as rsa_keys

from services.validator.keys.rsa import (
    FERMAT_ROUNDS,
    RsaNumbers,
    are_primes_close,
    find_weaknesses,
    is_roca,
)
from services.validator.text import pem as pem_text
from services.validator.x509 import der
from shared.contracts.findings import Code
from tests.support.costly_submissions import long_exponent, rsa_of
from tests.support.pki import ec_key, pkcs8, rsa_key
from tests.support.unusual_certificates import (
    element_bytes,
    encode_integer,
    encode_sequence,
    encode_tlv,
)
from tests.unit.validator.sound_pair import (
    DOMAIN,
    ISSUING,
    LEAF,
    accepted,
    codes,
    refusals,
    report,
    report_of,
)


def numbers(key: rsa_keys.RSAPrivateKey) -> RsaNumbers:
    k = key.private_numbers()
    return RsaNumbers(k.public_numbers.n, k.public_numbers.e, k.d, k.p, k.q, k.dmp1, k.dmq1, k.iqmp)


def as_pem(key: RsaNumbers, version: int = 0) -> str:
    return pem_text.encode_block(
        "RSA PRIVATE KEY", encode_sequence(*map(encode_integer, (version, *key)))
    )


def is_prime(n: int) -> bool:
    if any(n % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)):
        return False
    return all(pow(base, n - 1, n) == 1 for base in (2, 3, 5, 7))


@lru_cache(maxsize=1)
def roca_prime() -> int:
    """Return a prime as the faulty library made them: k * M + (65537 ** a mod M).

    M is the product of the first 39 primes or more (Nemec et al. 2017, section 2)."""
    small = [n for n in range(2, 360) if all(n % d for d in range(2, n))][:71]
    product = 1
    for prime in small:
        product *= prime
    while True:
        k = secrets.randbits(1024 - product.bit_length())
        candidate = k * product + pow(65537, secrets.randbits(200), product)
        if candidate.bit_length() >= 1000 and is_prime(candidate):
            return candidate


GOOD = numbers(rsa_key())


def test_a_sound_rsa_key_has_no_weakness() -> None:
    assert list(find_weaknesses(GOOD)) == []


@pytest.mark.parametrize(
    ("case", "key", "said"),
    [
        ("n is not p times q", GOOD._replace(n=GOOD.n + 2), "do not belong together"),
        ("p and q are 1 and n", GOOD._replace(p=1, q=GOOD.n), "do not belong together"),
        ("p and q are the same", GOOD._replace(n=GOOD.p**2, q=GOOD.p), "do not belong together"),
        ("d does not invert e", GOOD._replace(d=GOOD.d + 2), "do not belong together"),
        ("d is 0", GOOD._replace(d=0), "do not belong together"),
        ("dmp1 is another's", GOOD._replace(dp=GOOD.dp + 2), "do not belong together"),
        ("dmq1 is another's", GOOD._replace(dq=GOOD.dq + 2), "do not belong together"),
        ("iqmp does not invert q", GOOD._replace(qi=GOOD.qi + 1), "do not belong together"),
        ("e is 65535", GOOD._replace(e=65535), "public exponent"),
        ("e is 65538", GOOD._replace(e=65538), "public exponent"),
        ("the modulus has a factor under 2,000", GOOD._replace(n=GOOD.n * 1999), "small factor"),
    ],
)
def test_each_weakness_of_an_rsa_key_is_named(case: str, key: RsaNumbers, said: str) -> None:
    assert any(said in weakness for weakness in find_weaknesses(key)), case


def test_a_factor_of_2003_is_not_searched_for() -> None:
    assert not any(
        "small factor" in weakness for weakness in find_weaknesses(GOOD._replace(n=GOOD.n * 2003))
    )


def test_e_of_3_is_weak_and_of_65537_is_not() -> None:
    leaf = ISSUING.issue([DOMAIN], key=rsa.generate_private_key(3, 2048))
    assert refusals(report_of(leaf)) == [Code.KEY_WEAK]
    assert accepted(report_of(ISSUING.issue([DOMAIN], key=rsa_key())))


def fermat_rounds(n: int, most: int) -> int | None:
    """Run Fermat's method, and return how many values of ``a`` it tries."""
    a = isqrt(n - 1) + 1
    return next(
        (k + 1 for k in range(most) if isqrt((a + k) ** 2 - n) ** 2 == (a + k) ** 2 - n), None
    )


def next_prime(n: int) -> int:
    return next(candidate for candidate in count(n | 1, 2) if is_prime(candidate))


@pytest.mark.parametrize("bits", [8, 200, 256, 257, 258, 259, 260, 261, 262, 300, 500])
def test_primes_are_close_exactly_when_fermats_method_ends_within_a_hundred_rounds(
    bits: int,
) -> None:
    p = next_prime(1 << 511)
    q = next_prime(p + (1 << bits))
    assert are_primes_close(p, q) == (fermat_rounds(p * q, FERMAT_ROUNDS) is not None)


def test_close_primes_are_weak() -> None:
    p = next_prime(1 << 1023)
    q = next_prime(p + 2)
    d = pow(65537, -1, lcm(p - 1, q - 1))
    key = RsaNumbers(p * q, 65537, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))
    assert [weakness for weakness in find_weaknesses(key) if "Fermat" in weakness]


def test_the_roca_fingerprint_is_seen_and_ordinary_moduli_are_not() -> None:
    n = roca_prime() * roca_prime()
    assert is_roca(n)
    assert not is_roca(GOOD.n)


def test_a_roca_modulus_is_refused_as_weak() -> None:
    assert any(
        "ROCA" in weakness for weakness in find_weaknesses(GOOD._replace(n=roca_prime() ** 2))
    )


@pytest.mark.parametrize(
    ("case", "change"),
    [("dmp1", {"dp": GOOD.dp + 2}), ("iqmp", {"qi": GOOD.qi + 1}), ("d", {"d": GOOD.d + 2})],
)
def test_an_inconsistent_key_is_weak_and_never_made_to_sign(
    case: str, change: dict[str, int]
) -> None:
    leaf = ISSUING.issue([DOMAIN], key=rsa_key())
    assert refusals(report(leaf.chain_pem, as_pem(GOOD._replace(**change)))) == [Code.KEY_WEAK], (
        case
    )


def test_a_key_of_the_right_modulus_made_from_its_numbers_is_accepted() -> None:
    leaf = ISSUING.issue([DOMAIN], key=rsa_key())
    assert accepted(report(leaf.chain_pem, as_pem(GOOD)))


def test_rsa_with_more_than_two_primes_is_named() -> None:
    judged = report(key=as_pem(GOOD, version=1))
    assert Code.KEY_UNSUPPORTED in refusals(judged)
    assert "more than two primes" in judged.findings[0].message


@pytest.mark.parametrize(
    ("case", "make", "name"),
    [
        ("RSA of 1024 bits", lambda: rsa_key(1024), "RSA of 1024 bits"),
        ("RSA of 2047 bits or fewer", lambda: rsa_key(2040), "RSA of 2040 bits"),
        ("Ed25519", ed25519.Ed25519PrivateKey.generate, "Ed25519"),
        ("Ed448", ed448.Ed448PrivateKey.generate, "Ed448"),
        ("DSA", lambda: dsa.generate_private_key(2048), "DSA"),
        ("P-224", lambda: ec_key(ec.SECP224R1()), "P-224"),
        ("secp256k1", lambda: ec_key(ec.SECP256K1()), "secp256k1"),
        ("brainpoolP256r1", lambda: ec_key(ec.BrainpoolP256R1()), "brainpoolP256r1"),
    ],
)
def test_a_key_of_another_kind_or_size_is_refused_by_name(
    case: str, make: object, name: str
) -> None:
    leaf = ISSUING.issue([DOMAIN], key=make())  # type: ignore[operator]
    judged = report_of(leaf)
    assert refusals(judged) == [Code.KEY_UNSUPPORTED], case
    assert name in judged.findings[0].message


def test_sm2_is_refused_by_name() -> None:
    body = base64.b64decode("".join(pkcs8(ec_key()).split("\n")[1:-2]))
    p256, sm2 = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a811ccf5501822d")
    judged = report(key=pem_text.encode_block("PRIVATE KEY", body.replace(p256, sm2)))
    assert refusals(judged) == [Code.KEY_UNSUPPORTED]
    assert "SM2" in judged.findings[0].message


def test_a_huge_rsa_key_is_refused_by_its_size_before_it_is_loaded() -> None:
    n = (1 << 16383) + 1
    judged = report(key=as_pem(RsaNumbers(n, 65537, 3, 3, 3, 3, 3, 3)))
    assert refusals(judged) == [Code.KEY_UNSUPPORTED]
    assert "RSA of 16384 bits" in judged.findings[0].message


@pytest.mark.parametrize(
    ("case", "make"),
    [
        ("RSA 2048", rsa_key),
        ("RSA 3072", lambda: rsa_key(3072)),
        ("P-256", ec_key),
        ("P-384", lambda: ec_key(ec.SECP384R1())),
        ("P-521", lambda: ec_key(ec.SECP521R1())),
    ],
)
def test_every_supported_kind_is_accepted(case: str, make: object) -> None:
    assert accepted(report_of(ISSUING.issue([DOMAIN], key=make()))), case  # type: ignore[operator]


@pytest.mark.parametrize(
    ("case", "key"),
    [
        ("another key of the same kind", ec_key()),
        ("a key of another kind", rsa_key()),
        ("another curve", ec_key(ec.SECP384R1())),
    ],
)
def test_a_key_that_is_not_the_leafs_is_a_mismatch(case: str, key: object) -> None:
    assert refusals(report(key=pkcs8(key))) == [Code.KEY_MISMATCH], case


def test_the_issuers_key_is_a_mismatch_too() -> None:
    assert refusals(report(key=pkcs8(ISSUING.key))) == [Code.KEY_MISMATCH]


def test_a_key_that_carries_the_leafs_public_key_but_not_its_secret_fails_the_proof() -> None:
    other, own = ec_key(), LEAF.key
    public = own.public_key().public_numbers()
    body = base64.b64decode("".join(pkcs8(other).split("\n")[1:-2]))
    foreign = other.public_key().public_numbers()
    forged = body.replace(
        foreign.x.to_bytes(32, "big") + foreign.y.to_bytes(32, "big"),
        public.x.to_bytes(32, "big") + public.y.to_bytes(32, "big"),
    )
    assert refusals(report(key=pem_text.encode_block("PRIVATE KEY", forged))) in (
        [Code.KEY_MISMATCH],
        [Code.KEY_MALFORMED],
    )


def test_without_a_readable_certificate_the_key_is_judged_alone() -> None:
    assert codes(report("", pkcs8(rsa_key(1024)))) == [
        Code.CERTIFICATE_MISSING,
        Code.KEY_UNSUPPORTED,
    ]


@pytest.mark.parametrize(("bits", "fits"), [(2047, False), (2048, True)])
def test_rsa_keys_begin_at_2048_bits(bits: int, fits: bool) -> None:
    judged = report_of(ISSUING.issue([DOMAIN], key=rsa_key(bits)))
    assert refusals(judged) == ([] if fits else [Code.KEY_UNSUPPORTED])
    assert accepted(judged) is fits


@pytest.mark.parametrize(("bits", "fits"), [(8192, True), (8194, False)])
def test_rsa_keys_end_at_8192_bits(bits: int, fits: bool) -> None:
    """These keys are of composites and cannot sign: a real one takes a minute to find."""
    certificate, key = rsa_of(bits)
    judged = report(certificate, key)
    assert (Code.KEY_UNSUPPORTED in codes(judged)) is not fits
    assert f"RSA of {bits} bits" in " ".join(f.message for f in judged.findings)
    assert not accepted(judged)


def test_an_rsa_leaf_with_an_exponent_over_64_bits_is_unsupported() -> None:
    certificate, key = long_exponent()
    assert Code.KEY_UNSUPPORTED in codes(report(certificate, key))


def test_a_dsa_key_after_its_parameters_is_refused_by_name() -> None:
    block = "-----BEGIN {0}-----\nMAMCAQA=\n-----END {0}-----\n"
    judged = report(key=block.format("DSA PARAMETERS") + block.format("DSA PRIVATE KEY"))
    assert refusals(judged) == [Code.KEY_UNSUPPORTED]
    assert "DSA" in judged.findings[0].message


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_second_version_of_pkcs8_with_its_public_key_is_taken(kind: str) -> None:
    made = ISSUING.issue([DOMAIN], key=rsa_key() if kind == "rsa" else ec_key())
    body = pem_text.tokenise(made.key_pem).blocks[0].body
    first, algorithm, key = (element_bytes(body, part) for part in der.read_sequence(body)[:3])
    assert first == encode_integer(0)
    newer = encode_sequence(
        encode_integer(1), algorithm, key, encode_tlv(0x81, b"\0" + b"a public key")
    )
    judged = report(made.chain_pem, pem_text.encode_block("PRIVATE KEY", newer))
    assert (accepted(judged), codes(judged)) == (True, [])
    assert judged.pairs[0].key == made.key_pem
