"""``python -m services.validator check --jsonl``: judge pairs from standard input.

Each line in is a JSON object ``{"id", "certificate", "private_key", "domain", "at", "roots",
"strict"}``. Without ``at`` (RFC 3339) the time is now, without ``roots`` (PEM) they are Mozilla's,
without ``strict`` it is false. Each line out answers one line in that is not empty, in the same
order: ``{"id", "verdict": "accepted" | "refused", "findings": [{"code", "severity", "field",
"block", "message", "hint"}]}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Any

from services.validator.checks.judge import PairTexts, decide_domains, judge_pairs
from services.validator.mozilla_roots import load_mozilla_roots
from services.validator.sandbox.forked_child import ChildLost, ForkedChild
from services.validator.text import pem
from services.validator.x509.certificates import UnreadableCertificate
from services.validator.x509.trust_roots import TrustRoots
from shared.contracts.findings import Code, Finding, finding

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_ROOTS_BYTES = 1024 * 1024
MAX_ROOTS = 1000
_MAX_CACHED_ROOTS = 16

# ISO 8601 has many more forms, and none of them is accepted.
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LEAP_SECOND = re.compile(r"(T[0-9]{2}:[0-9]{2}:)60")

ReadClock = Callable[[], datetime]


class BadLine(ValueError):
    """The line is not a request. The text names the faulty field."""


def run(source: IO[bytes], sink: IO[str], now: ReadClock) -> None:
    """Answer every line of ``source`` in ``sink``; a line that is no request is refused."""
    child = ForkedChild(lambda line: _encode_answer(answer_line(line, now)))
    try:
        for line in _read_lines(source):
            sink.write(_answer_in_child(child, line).decode("ascii") + "\n")
            sink.flush()
    finally:
        child.close()


def _answer_in_child(child: ForkedChild, line: bytes) -> bytes:
    try:
        return child.ask(line)
    except ChildLost:
        return _encode_answer(_make_answer(_find_id(line), [_unjudgeable_finding()]))


def answer_line(line: bytes, now: ReadClock) -> dict[str, Any]:
    """Judge one line, and return its answer."""
    request_id: str | int | None = None
    try:
        request = _parse_request(line)
        request_id = _read_id(request)
        findings = _judge_request(request, now)
    except BadLine as fault:
        findings = [
            finding(Code.REQUEST_MALFORMED, f"The line is not a request: {fault}.", field="request")
        ]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # No line may stop the others, not even by a panic of a library, which is no Exception.
        findings = [_unjudgeable_finding()]
    return _make_answer(request_id, findings)


def _unjudgeable_finding() -> Finding:
    return finding(Code.CERTIFICATE_UNJUDGEABLE, field="certificate")


def _make_answer(request_id: str | int | None, findings: list[Finding]) -> dict[str, Any]:
    accepted = decide_domains([""], findings)[""]
    fields = {"code", "severity", "field", "block", "message", "hint"}
    return {
        "id": request_id,
        "verdict": "accepted" if accepted else "refused",
        "findings": [found.model_dump(mode="json", include=fields) for found in findings],
    }


def _encode_answer(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode("ascii")


def _judge_request(request: dict[str, Any], now: ReadClock) -> list[Finding]:
    pair = PairTexts(
        certificate=_read_text(request, "certificate"),
        private_key=_read_text(request, "private_key"),
    )
    domain = _read_text(request, "domain")
    at = _read_time(request, now)
    roots = _read_roots(request)
    strict = request.get("strict")
    if not isinstance(strict, bool | None):
        raise BadLine("strict is not a boolean")
    report = judge_pairs([pair], [domain], at=at, roots=roots, strict=bool(strict))
    # There is one domain, so a refusal of it is a refusal of all.
    return [found.model_copy(update={"domain": None}) for found in report.findings]


def _parse_request(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise BadLine(f"it is over {MAX_LINE_BYTES:,} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine("it is not JSON in UTF-8") from None
    if not isinstance(request, dict):
        raise BadLine("it is not a JSON object")
    return request


def _find_id(line: bytes) -> str | int | None:
    try:
        return _read_id(_parse_request(line))
    except BadLine:
        return None


def _read_id(request: dict[str, Any]) -> str | int | None:
    """Return the id, or None when there is none or it is of another type."""
    request_id = request.get("id")
    if isinstance(request_id, str | int) and not isinstance(request_id, bool):
        return request_id
    return None


def _read_text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise BadLine(f"{name} is not a string")
    return value


def _read_time(request: dict[str, Any], now: ReadClock) -> datetime:
    value = request.get("at")
    if value is None:
        return now()
    if not isinstance(value, str) or _RFC_3339.fullmatch(value) is None:
        raise BadLine("at is not an RFC 3339 time with its zone")
    try:
        return datetime.fromisoformat(_LEAP_SECOND.sub(r"\g<1>59", value.upper())).astimezone(UTC)
    except (OverflowError, ValueError):
        raise BadLine("at is not an RFC 3339 time with its zone") from None


def _read_roots(request: dict[str, Any]) -> TrustRoots:
    if request.get("roots") is None:
        return _mozilla_roots()
    text = _read_text(request, "roots")
    if len(text) > MAX_ROOTS_BYTES or pem.count_blocks(text) > MAX_ROOTS:
        raise BadLine(f"roots is over {MAX_ROOTS_BYTES:,} bytes or {MAX_ROOTS:,} certificates")
    try:
        return _parse_roots(text)
    except UnreadableCertificate:
        raise BadLine("roots is not PEM of certificates") from None


@lru_cache(maxsize=1)
def _mozilla_roots() -> TrustRoots:
    return load_mozilla_roots()


@lru_cache(maxsize=_MAX_CACHED_ROOTS)
def _parse_roots(text: str) -> TrustRoots:
    return TrustRoots.from_pem(text)


def _read_lines(source: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines that are not empty, without their ends.

    Of a line that is too long only the beginning is kept, enough to see that it is too long.
    """
    while line := source.readline(MAX_LINE_BYTES + 2):
        rest = line
        while not rest.endswith(b"\n"):
            rest = source.readline(MAX_LINE_BYTES)
            if not rest:
                break
        stripped = line.strip(b"\r\n")
        if stripped:
            yield stripped
