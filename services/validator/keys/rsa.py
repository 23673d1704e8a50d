"""What makes an RSA key unfit, by arithmetic alone; it replaces the slow check of the library (D6).

Costs 0.05-0.4 ms where OpenSSL's own check costs 36 ms (2048 bits) to 3.9 s (8192 bits). No
primality test: a key whose parts agree and that signs for its leaf serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd, isqrt, prod
from typing import NamedTuple

MIN_BITS, MAX_BITS = 2048, 8192
MIN_EXPONENT = 65537
FERMAT_ROUNDS = 100


class Numbers(NamedTuple):
    """RFC 8017, A.1.2. ``repr`` hides them."""

    n: int
    e: int
    d: int
    p: int
    q: int
    dp: int
    dq: int
    qi: int

    def __repr__(self) -> str:
        return f"Numbers(<RSA of {self.n.bit_length()} bits>)"


def _primes(limit: int) -> list[int]:
    return [n for n in range(2, limit) if all(n % d for d in range(2, isqrt(n) + 1))]


_SMALL = prod(_primes(2000))

# Nemec et al., "The Return of Coppersmith's Attack" (CVE-2017-15361), and the authors' detector:
# the modulus lies in the group that 65537 generates modulo every one of these primes.
_ROCA = {
    prime: frozenset(pow(65537, k, prime) for k in range(prime - 1))
    for prime in _primes(168)
    if prime > 2
}


def consistent(key: Numbers) -> bool:
    """The parts agree: n = pq, e and d invert each other, and the CRT values are those of d, p and
    q."""
    n, e, d, p, q, dp, dq, qi = key
    return (
        min(p, q) > 1
        and p != q
        and p * q == n
        and 0 < d < n
        and e * d % (p - 1) == 1
        and e * d % (q - 1) == 1
        and dp == d % (p - 1)
        and dq == d % (q - 1)
        and 0 < qi < p
        and qi * q % p == 1
    )


def weaknesses(key: Numbers) -> Iterator[str]:
    """Each weakness as a clause for people; none for a sound key."""
    if key.e < MIN_EXPONENT or key.e % 2 == 0:
        yield f"its public exponent is even or below {MIN_EXPONENT}"
    if gcd(key.n, _SMALL) != 1:
        yield "its modulus has a small factor"
    if is_roca(key.n):
        yield "its modulus has the ROCA fingerprint (CVE-2017-15361)"
    if not consistent(key):
        yield "its parameters do not belong together"
        return
    if are_close(key.p, key.q):
        yield f"its primes are so close that Fermat's method finds them in {FERMAT_ROUNDS} rounds"
    if min(key.p, key.q).bit_length() * 4 < key.n.bit_length():
        yield "one of its primes is far too short"


def is_roca(n: int) -> bool:
    return all(n % prime in group for prime, group in _ROCA.items())


def are_close(p: int, q: int) -> bool:
    """Fermat's method tries a = ceil(sqrt(n)), a + 1, ... and ends at a = (p + q) / 2: count, do
    not try."""
    n = p * q
    start = isqrt(n - 1) + 1
    return (p + q) // 2 - start < FERMAT_ROUNDS
