"""Text that was damaged on its way is put right with a notice, or refused for its real fault."""

from __future__ import annotations

import base64
import html
import json
import quopri
import textwrap
import time
from urllib.parse import quote, quote_plus

import pytest

from services.validator.text.transport_damage import repair_text
from shared.contracts.findings import Code, Severity
from tests.support.pki import pem
from tests.unit.validator.sound_pair import LEAF, accepted, codes, refusals, report

CHAIN = LEAF.chain_pem
KEY = LEAF.key_pem


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def escaped_as_json(text: str) -> str:
    """Escape as programs do that write every character but letters as an escape."""
    return "".join(c if c.isalnum() or c in " -" else f"\\u{ord(c):04X}" for c in text)


DAMAGES = {
    "line ends as two characters": lambda text: text.replace("\n", "\\n"),
    "line ends of Windows as four": lambda text: text.replace("\n", "\\r\\n"),
    "line ends that were escaped twice": lambda text: text.replace("\n", "\\\\n"),
    "a string of JSON": lambda text: json.dumps(text),
    "a string of PHP's JSON": lambda text: json.dumps(text).replace("/", "\\/"),
    "escapes of .NET": lambda text: escaped_as_json(text),
    "lines of a program's source": lambda text: " +\n".join(
        f'  "{line}\\n"' for line in text.splitlines()
    ),
    "a line continued by backslashes": lambda text: text.replace("\n", "\\n\\\n"),
    "base64": base64_of,
    "base64 on lines": lambda text: textwrap.fill(base64_of(text), 76),
    "base64 with a line end": lambda text: base64_of(text) + "\n",
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "a secret of Kubernetes": lambda text: f"data:\n  tls.crt: {base64_of(text)}\n",
    "a data URI": lambda text: f"data:application/x-pem-file;base64,{base64_of(text)}",
    "hexadecimal": lambda text: text.encode().hex(),
    "percent encoding": lambda text: quote(text, safe=""),
    "a form": quote_plus,
    "a form read without its percent signs' plus": lambda text: text.replace("+", " "),
    "UTF-16 read as Latin-1": lambda text: text.encode("utf-16").decode("latin-1"),
    "UTF-16 read as UTF-16 of the other order": lambda text: text.encode("utf-16-le").decode(
        "latin-1"
    ),
    "full-width characters": lambda text: "".join(
        chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in text
    ),
    "zero-width spaces": lambda text: text.replace("\n", "\u200b\n"),
    "no-break spaces": lambda text: text.replace("BEGIN ", "BEGIN\u00a0"),
    "soft hyphens": lambda text: text.replace("MII", "MI\u00adI"),
    "line separators": lambda text: text.replace("\n", "\u2028"),
    "marks of direction": lambda text: f"\u202a{text}\u202c".replace("-----B", "\u2066-----B"),
    "form feeds": lambda text: text.replace("\n", "\f\n"),
    "HTML entities": lambda text: html.escape(text).replace("\n", "&#10;").replace("+", "&#43;"),
    "HTML line breaks": lambda text: text.replace("\n", "<br>\n"),
    "quoted-printable": lambda text: (
        quopri.encodestring(text.encode()).decode().replace("=\n", "=\n")
    ),
    "a quoted e-mail": lambda text: "".join(f"> {line}\n" for line in text.splitlines()),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_put_right_with_a_notice(case: str) -> None:
    damage = DAMAGES[case]
    judged = report(damage(CHAIN), damage(KEY))
    assert accepted(judged), judged.findings
    assert {found.severity for found in judged.findings} <= {Severity.NOTICE}
    if damage(CHAIN) != CHAIN:
        assert Code.CERTIFICATE_NORMALISED in codes(judged)
    assert judged.pairs[0].chain == CHAIN
    strict = report(damage(CHAIN), damage(KEY), strict=True)
    assert accepted(strict) is (codes(judged) == [])


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_key_in_the_certificate_field_is_still_seen(case: str) -> None:
    damage = DAMAGES[case]
    for text in (damage(KEY), CHAIN + damage(KEY), damage(CHAIN + KEY), damage(KEY) + "\n" + CHAIN):
        judged = report(text)
        assert Code.CERTIFICATE_CONTAINS_KEY in refusals(judged), judged.findings
        for found in judged.findings:
            assert KEY.splitlines()[1] not in found.message + found.hint


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_certificate_in_the_key_field_is_still_seen(case: str) -> None:
    damage = DAMAGES[case]
    judged = report(key=damage(pem(LEAF.certificate)))
    assert Code.CERTIFICATE_CONTAINS_KEY in refusals(judged), judged.findings


def test_an_encoded_line_end_after_the_last_block_is_no_other_text() -> None:
    judged = report(CHAIN.replace("\n", "\\n"))
    assert codes(judged) == [Code.CERTIFICATE_NORMALISED]


def test_a_sound_text_is_left_as_it_is() -> None:
    for text in (CHAIN, KEY, "", "hello", "subject=/C=DE\n" + CHAIN, "100 % \\ sure\n"):
        repaired = repair_text(text)
        assert (repaired.text, repaired.repairs) == (text, ())


def test_what_stands_around_the_blocks_is_no_damage() -> None:
    judged = report('C:\\new\\chain.pem: 100%25 "sure" &amp; so on\n' + CHAIN)
    assert [found.message for found in judged.findings] == ["Normalised: text around the blocks."]


BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("\u2013\u2014\u2013BEGIN CERTIFICATE\u2013\u2014\u2013", END),
        ("\u2014-\u2014-BEGIN CERTIFICATE\u2014-", "\u2014-\u2014-END CERTIFICATE\u2014-"),
        ("-----BEGIN-----", "-----END-----"),
        ("----BEGIN CERTIFICATE----", "----END CERTIFICATE----"),
        ("BEGIN CERTIFICATE", "END CERTIFICATE"),
        ("-----begin certificate-----", "-----end certificate-----"),
        ("=====BEGIN CERTIFICATE=====", "=====END CERTIFICATE====="),
        ("-----BEGINCERTIFICATE-----", "-----ENDCERTIFICATE-----"),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_one_damaged_block_is_named_and_nothing_else_is_refused(
    begin: str, end: str, at: int
) -> None:
    blocks = [pem(LEAF.certificate), pem(LEAF.issuers)]
    blocks[at] = blocks[at].replace(BEGIN, begin).replace(END, end)
    judged = report("".join(blocks))
    found = judged.findings[0]
    assert refusals(judged) == [Code.CERTIFICATE_MALFORMED], judged.findings
    assert (found.block, found.message) == (at, f"Block {at} has a damaged BEGIN line.")
    assert "five hyphens" in found.hint


def test_an_unfinished_certificate_in_the_key_field_is_told_as_that() -> None:
    body = KEY.splitlines()[1]
    broken = KEY.replace(body, body[:20] + "-----BEGIN CERTIFICATE-----\n" + body[20:])
    judged = report(key=broken)
    assert Code.CERTIFICATE_CONTAINS_KEY in refusals(judged)
    assert Code.CERTIFICATE_UNJUDGEABLE not in codes(judged)


def test_a_damaged_end_line_is_named() -> None:
    judged = report(CHAIN.replace(END, "\u2014\u2014END CERTIFICATE\u2014\u2014", 1))
    assert (judged.findings[0].block, judged.findings[0].message) == (
        0,
        "Block 0 has a damaged END line.",
    )


def test_a_body_that_is_no_base64_is_described_without_being_repeated() -> None:
    line = CHAIN.splitlines()[2]
    judged = report(CHAIN.replace(line, line[:20] + "\u20ac" + line[21:], 1))
    assert judged.findings[0].message == (
        "Block 0 is not base64 (its line 2 has the character U+20AC)."
    )
    judged = report(CHAIN.replace(line, line[:-1], 1))
    assert judged.findings[0].message == (
        "Block 0 is not base64 (characters are missing, or its padding is wrong)."
    )


def test_a_certificate_that_was_cut_short_is_told_as_that() -> None:
    lines = pem(LEAF.certificate).splitlines()
    judged = report("\n".join([*lines[:3], *lines[-1:]]) + "\n")
    assert "it is cut short" in judged.findings[0].message
    assert refusals(judged) == [Code.CERTIFICATE_MALFORMED]


def test_hostile_text_is_repaired_in_linear_time() -> None:
    for text in (
        "\\" * 60_000,
        "%0A" * 20_000,
        "LS0tLS1CRUdJTi" * 4_000,
        "-----BEGIN " * 10 + "&#10;" * 12_000,
        "\u2014" * 60_000 + "BEGIN",
        ("> " * 30_000),
        "BEGIN " * 10_000,
        "=3D" * 20_000,
        "2d2d2d2d2d424547494e" * 3_000,
        " " * 60_000 + "END",
        "\t>" * 30_000,
        "-- " * 20_000 + "END",
        '"' + " " * 60_000,
        "<br" + " " * 60_000,
        BEGIN + "\\" * 60_000 + END,
        BEGIN + '"  ' * 20_000 + END,
    ):
        began = time.process_time()
        report(text[: 64 * 1024])
        assert time.process_time() - began < 1, text[:20]
