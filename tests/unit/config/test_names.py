from __future__ import annotations

import pytest

from services.config.domain import names
from shared.contracts.findings import Code
from shared.errors import Refused


@pytest.mark.parametrize(
    ("sentence", "text", "stored"),
    [
        ("capitals become small", "WWW.Example.COM", "www.example.com"),
        ("a U-label becomes an A-label", "bücher.example", "xn--bcher-kva.example"),
        ("a U-label in capitals too", "BÜCHER.example", "xn--bcher-kva.example"),
        ("an A-label stays", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a wildcard over two labels", "*.Example.com", "*.example.com"),
        ("a wildcard over three", "*.img.example.com", "*.img.example.com"),
        ("digits and hyphens inside", "a-1.2b.example", "a-1.2b.example"),
        ("a label of 63", f"{'a' * 63}.example", f"{'a' * 63}.example"),
    ],
)
def test_a_name_is_stored_as_lower_case_a_labels(sentence: str, text: str, stored: str) -> None:
    assert names.normalise(text) == stored, sentence


@pytest.mark.parametrize(
    ("sentence", "text", "position"),
    [
        ("nothing at all", "", 1),
        ("one label is no domain", "localhost", 9),
        ("an underscore", "exa_mple.com", 4),
        ("a space at the end", "example.com ", 12),
        ("a trailing dot", "example.com.", 13),
        ("two dots", "a..example.com", 3),
        ("a hyphen first", "a.-b.com", 3),
        ("a hyphen last", "a.b-.com", 4),
        ("a star inside a label", "w*.example.com", 2),
        ("a star that is not first", "a.*.example.com", 3),
        ("a star over one label", "*.com", 5),
        ("an address", "192.0.2.1", 9),
        ("a NUL", "a\0b.example.com", 2),
        ("a heart, which IDNA 2008 does not know", "i♥.example", 2),
        ("a Kelvin sign is not a k", "a.\u212aa.example", 3),
        ("a label of 64", f"{'a' * 64}.example", 64),
        ("hyphens in third and fourth place", "ab--c.example", 3),
        ("an A-label that decodes to nothing", "xn--a.example", 1),
        ("a full-width dot", "www。example.com", 4),
    ],
)
def test_anything_else_is_refused_with_the_position_of_the_fault(
    sentence: str, text: str, position: int
) -> None:
    with pytest.raises(Refused) as refused:
        names.normalise(text)
    (found,) = refused.value.findings
    assert found.code is Code.DOMAIN_INVALID
    assert found.message.startswith(f"At position {position}:"), (sentence, found.message)


def test_254_characters_are_one_too_many() -> None:
    label = "a" * 62
    assert len(names.normalise(".".join([label] * 4)[:-1] + "a")) == 251
    with pytest.raises(Refused, match="253 at most"):
        names.normalise(".".join([label] * 4) + ".example")
