"""Properties of any text: it has an answer, in linear time, that repeats nothing of it."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.validator import offline
from services.validator.text import pem
from shared.contracts.findings import Code
from tests.support.pki import NOW, pkcs1, rsa_key
from tests.unit.validator.sound_pair import DOMAIN, LEAF, ROOT, codes, report

PIECES = st.sampled_from(
    [
        "-----BEGIN CERTIFICATE-----",
        "-----END CERTIFICATE-----",
        "-----BEGIN RSA PRIVATE KEY-----",
        "-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "-----BEGIN ",
        "-----",
        "\n",
        "\r\n",
        "\n\n",
        "\ufeff",
        " ",
        "MIIB",
        "AAAA",
        "=",
        "Proc-Type: 4,ENCRYPTED\n",
        "0\x82\x01",
        "\ufffd",
        "\udc80",
        LEAF.chain_pem,
        LEAF.key_pem,
        LEAF.chain_pem[:200],
        LEAF.key_pem[30:90],
        "é",
    ]
)
TEXTS = st.one_of(
    st.text(max_size=300), st.lists(PIECES | st.text(max_size=20), max_size=12).map("".join)
)
MARKER = "zebraquartz"
FRAMES = st.sampled_from(
    [
        "{}",
        "-----BEGIN {}-----",
        "-----BEGIN X-----\n{}\n-----END X-----",
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    ]
)


@settings(max_examples=300, deadline=None)
@given(certificate=TEXTS, key=TEXTS, strict=st.booleans())
def test_any_text_has_an_answer(certificate: str, key: str, strict: bool) -> None:
    judged = report(certificate, key, strict=strict)
    assert judged.pairs or codes(judged)


@settings(max_examples=200, deadline=None)
@given(before=TEXTS, after=TEXTS, inside=FRAMES)
def test_no_finding_repeats_what_was_submitted(before: str, after: str, inside: str) -> None:
    text = before + inside.format(MARKER) + after
    upper = before + inside.format(MARKER.upper()) + after
    for fields in ((text, text), (upper, upper), (LEAF.chain_pem, text), (upper, LEAF.key_pem)):
        said = " ".join(f.message + f.hint for f in report(*fields).findings)
        assert MARKER not in said.lower()


@settings(max_examples=200, deadline=None)
@given(
    body=st.binary(min_size=1, max_size=400), label=st.sampled_from(["CERTIFICATE", "PRIVATE KEY"])
)
def test_canonical_pem_is_a_fixed_point(body: bytes, label: str) -> None:
    text = pem.encode_block(label, body)
    document = pem.tokenise(text)
    assert [(b.label, b.body) for b in document.blocks] == [(label, body)]
    assert (document.faults, document.oddities) == ((), ())
    assert pem.encode_block(document.blocks[0].label, document.blocks[0].body) == text


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_normalised_text_needs_no_second_normalisation(text: str) -> None:
    again = "".join(pem.encode_block(b.label, b.body) for b in pem.tokenise(text).blocks if b.body)
    document = pem.tokenise(again)
    assert (document.faults, document.oddities) == ((), ())


@settings(max_examples=300, deadline=None)
@given(data=st.data(), key=st.sampled_from([LEAF.key_pem, pkcs1(rsa_key())]))
def test_a_damaged_key_is_never_accepted_by_another_leaf_nor_crashes(
    data: st.DataObject, key: str
) -> None:
    at = data.draw(st.integers(0, len(key) - 1))
    letter = data.draw(st.sampled_from("AZaz09+/=\n-"))
    judged = report(key=key[:at] + letter + key[at + 1 :])
    if judged.pairs:
        assert judged.pairs[0].key == LEAF.key_pem


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_chain_is_accepted_only_as_the_same_chain(data: st.DataObject) -> None:
    text = LEAF.chain_pem
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("AZaz09+/=\n-"))
    judged = report(text[:at] + letter + text[at + 1 :])
    if judged.pairs:
        assert judged.pairs[0].chain == LEAF.chain_pem


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Return ``sound`` with a few bytes changed, removed or added."""
    body = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at, how = (
            draw(st.integers(0, len(body) - 1)),
            draw(st.sampled_from(["change", "change", "drop", "add"])),
        )
        if how == "drop":
            del body[at]
        else:
            body[at : at + (how == "change")] = bytes([draw(st.integers(0, 255))])
    return bytes(body)


BODIES = [
    body.body for body in pem.tokenise(LEAF.chain_pem + LEAF.key_pem + pkcs1(rsa_key())).blocks
]


@settings(max_examples=500, deadline=None)
@given(
    leaf=damaged(BODIES[0]),
    issuer=st.just(BODIES[1]) | damaged(BODIES[1]),
    key=damaged(BODIES[2]) | damaged(BODIES[3]),
)
def test_damaged_der_is_refused_and_never_crashes(leaf: bytes, issuer: bytes, key: bytes) -> None:
    chain = pem.encode_block("CERTIFICATE", leaf) + pem.encode_block("CERTIFICATE", issuer)
    for judged in (report(chain, pem.encode_block("PRIVATE KEY", key)), report(chain)):
        assert judged.pairs == () or judged.pairs[0].chain == LEAF.chain_pem


def test_the_worst_texts_within_the_limit_are_read_at_once() -> None:
    size = 64 * 1024
    for piece in (
        "-",
        "-----BEGIN ",
        "-----END ",
        "-----BEGIN A-----",
        "\n",
        "MIIB",
        "0\x82",
        "Proc-Type:",
        " ",
        "\r",
    ):
        text = (piece * (size // len(piece)))[:size]
        began = time.perf_counter()
        pem.tokenise(text)
        report(text, text[: 16 * 1024])
        assert time.perf_counter() - began < 0.5, repr(piece)


def run(*lines: bytes) -> list[dict[str, Any]]:
    sink = io.StringIO()
    offline.run(io.BytesIO(b"\n".join(lines)), sink, lambda: datetime(2026, 1, 15, tzinfo=UTC))
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def line(**change: object) -> bytes:
    request = {
        "id": "a",
        "certificate": LEAF.chain_pem,
        "private_key": LEAF.key_pem,
        "domain": DOMAIN,
        "at": NOW.isoformat(),
        "roots": ROOT.pem,
        **change,
    }
    return json.dumps({name: value for name, value in request.items() if value is not ...}).encode()


def test_offline_answers_each_line_in_order_and_never_stops() -> None:
    answers = run(
        line(),
        b"nonsense",
        b"",
        line(id=7, domain="other.example.com"),
        b"[]",
        b'"x"',
        b"\xff\xfe",
        line(id="b", roots=...),
        line(id="c", at=..., strict=True),
    )
    assert [(a["id"], a["verdict"]) for a in answers] == [
        ("a", "accepted"),
        (None, "refused"),
        (7, "refused"),
        (None, "refused"),
        (None, "refused"),
        (None, "refused"),
        ("b", "refused"),
        ("c", "accepted"),
    ]
    assert answers[1]["findings"] == [
        {
            "code": "request.malformed",
            "severity": "refusal",
            "field": "request",
            "block": None,
            "message": "The line is not a request: it is not JSON in UTF-8.",
            "hint": Code.REQUEST_MALFORMED.hint,
        }
    ]


def test_offline_refuses_a_faulty_request_and_keeps_its_id() -> None:
    for change in (
        {"certificate": ...},
        {"private_key": None},
        {"domain": 5},
        {"at": "yesterday"},
        {"at": "2026-01-15T12:00:00"},
        {"roots": "none"},
        {"roots": ["x"]},
        {"strict": "yes"},
        {"at": 5},
    ):
        (answer,) = run(line(**change))
        assert (answer["id"], answer["verdict"]) == ("a", "refused"), change
        assert [f["code"] for f in answer["findings"]] == ["request.malformed"], change


def test_offline_takes_a_domain_in_any_form() -> None:
    assert run(line(domain="WWW.Example.com"))[0]["verdict"] == "accepted"
    for text in ("not a name", "w\ud800w.com", "www.example.com.", "", "\0"):
        refused = run(line(domain=text))[0]
        assert [f["code"] for f in refused["findings"]] == ["domain.invalid"]


def test_offline_refuses_a_line_without_end() -> None:
    answers = run(b'{"id": "' + b"x" * (offline.MAX_LINE_BYTES + 10), line())
    assert [a["verdict"] for a in answers] == ["refused", "accepted"]


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(max_size=60).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")))
def test_offline_answers_any_line(junk: bytes) -> None:
    assert len(run(junk, line())) == (2 if junk.strip(b"\r\n") else 1)


def test_offline_takes_every_form_of_rfc_3339_and_no_other_of_iso_8601() -> None:
    taken = [
        "2026-01-15T12:00:00Z",
        "2026-01-15t12:00:00z",
        "2026-01-15T20:00:00+08:00",
        "2026-01-15T12:00:00.5Z",
        "2026-01-15T12:00:00.123456789Z",
        "2026-01-15T23:59:60Z",
    ]
    assert {answer["verdict"] for answer in run(*(line(at=at) for at in taken))} == {"accepted"}
    refused = [
        "2026-W03-4T12:00:00Z",
        "20260115T120000Z",
        "2026-01-15T12Z",
        "2026-01-15T12:00Z",
        "2026-01-15",
        "2026-01-15 12:00:00Z",
        "2026-01-15T12:00:00",
        "2026-01-15T12:00:00+0000",
        "2026-01-15T12:00:00,5Z",
        "2026-01-15T12:00:00+00:00:30",
        "2026-13-15T12:00:00Z",
        "9999-12-31T23:59:59-12:00",
        "0001-01-01T00:00:00+12:00",
        "2026-01-15T12:00:00Z\n",
        "\u0662026-01-15T12:00:00Z",
        "",
    ]
    for answer, at in zip(run(*(line(at=at) for at in refused)), refused, strict=True):
        assert [f["code"] for f in answer["findings"]] == ["request.malformed"], at
