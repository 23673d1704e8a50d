"""Numbers that anybody guesses, by the pattern of their bits (rule D6).

A faulty generator leaves few bits set, or the same bits in each of its words. Every bound here is
eight standard deviations away from a random number, so no sound key meets one.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

WORD_BITS = (8, 16, 32, 64, 128)
MIN_WORDS = 4
DEVIATIONS = 8
SHORT_BY_BITS = 64
"""A random scalar is this much shorter than its curve once in 2**64 keys."""


def find_pattern(number: int, bits: int) -> str | None:
    """Return the pattern of a secret number of ``bits`` bits as a clause; None for a random one."""
    if not _is_balanced(number.bit_count(), bits):
        return "nearly all of its bits are equal"
    for word in WORD_BITS:
        if bits < MIN_WORDS * word:
            continue
        # Bits that are the same in one word and in the next cancel each other.
        differing = (number ^ (number >> word)) & ((1 << (bits - word)) - 1)
        if not _is_balanced(differing.bit_count(), bits - word):
            return f"its words of {word} bits repeat"
    return None


def _is_balanced(set_bits: int, bits: int) -> bool:
    # A random number of n bits has n/2 set bits with a standard deviation of sqrt(n)/2.
    return abs(2 * set_bits - bits) <= DEVIATIONS * (isqrt(bits) + 1)


def find_scalar_weaknesses(scalar: int, order_bits: int, order: int) -> Iterator[str]:
    """Yield each weakness of the private scalar of a curve as a clause for a finding."""
    nearest = min(scalar, order - scalar)
    if nearest.bit_length() <= order_bits - SHORT_BY_BITS:
        yield "its secret number is so small that anybody finds it"
        return
    pattern = find_pattern(scalar, order_bits)
    if pattern:
        yield f"its secret number is no random one: {pattern}"
