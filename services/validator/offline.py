"""``python -m services.validator check --jsonl``: judge pairs from standard input, one JSON object
a line.

In: ``{"id", "certificate", "private_key", "domain", "at", "roots", "strict"}``; ``at`` (RFC 3339)
is now where absent, ``roots`` (PEM) Mozilla's, ``strict`` false. Out, in the same order, one line
for each line that is not empty: ``{"id", "verdict": "accepted" | "refused", "findings": [{"code",
"severity", "field", "block", "message", "hint"}]}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Any

from services.validator.checks import judge
from services.validator.sandbox.forked_child import Guard, Stuck
from services.validator.text import pem
from services.validator.x509.certificates import Unreadable
from services.validator.x509.trust_roots import TrustRoots, mozilla
from shared.contracts.findings import Code, Finding, finding

MAX_LINE = 8 * 1024 * 1024
MAX_ROOTS_BYTES, MAX_ROOTS = 1024 * 1024, 1000
_ROOTS_KEPT = 16

# ISO 8601 has many forms more, of which none is meant.
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LEAP_SECOND = re.compile(r"(T[0-9]{2}:[0-9]{2}:)60")

Now = Callable[[], datetime]


class BadLine(ValueError):
    """The line is not a request; the text names the field at fault."""


def run(source: IO[bytes], sink: IO[str], now: Now) -> None:
    """Judges every line of ``source``; a line that is no request is refused like any other."""
    guard = Guard(lambda line: _packed(answer(line, now)))
    try:
        for line in _lines(source):
            sink.write(_judged_by(guard, line).decode("ascii") + "\n")
            sink.flush()
    finally:
        guard.close()


def _judged_by(guard: Guard, line: bytes) -> bytes:
    try:
        return guard(line)
    except Stuck:
        return _packed(
            _verdict(_named(line), [finding(Code.CERTIFICATE_UNJUDGEABLE, field="certificate")])
        )


def _packed(verdict: dict[str, Any]) -> bytes:
    return json.dumps(verdict, separators=(",", ":")).encode("ascii")


def _named(line: bytes) -> str | int | None:
    try:
        return _identity(_parsed(line))
    except BadLine:
        return None


def answer(line: bytes, now: Now) -> dict[str, Any]:
    """The verdict on one line."""
    identity: str | int | None = None
    try:
        request = _parsed(line)
        identity = _identity(request)
        findings = _judged(request, now)
    except BadLine as fault:
        findings = [
            finding(Code.REQUEST_MALFORMED, f"The line is not a request: {fault}.", field="request")
        ]
    except (KeyboardInterrupt, SystemExit):
        raise
    except (
        BaseException
    ):  # A line must never stop the others, nor a panic of a library, which is no Exception.
        findings = [finding(Code.CERTIFICATE_UNJUDGEABLE, field="certificate")]
    return _verdict(identity, findings)


def _verdict(identity: str | int | None, findings: list[Finding]) -> dict[str, Any]:
    accepted = judge.verdicts([""], findings)[""]
    return {
        "id": identity,
        "verdict": "accepted" if accepted else "refused",
        "findings": [_plain(f) for f in findings],
    }


def _judged(request: dict[str, Any], now: Now) -> list[Finding]:
    certificate, private_key, domain = (
        _text(request, name) for name in ("certificate", "private_key", "domain")
    )
    at, roots, strict = _moment(request, now), _roots(request), request.get("strict")
    if not isinstance(strict, bool | None):
        raise BadLine("strict is not a boolean")
    pair = judge.Texts(certificate, private_key)
    report = judge.judge([pair], [domain], at=at, roots=roots, strict=bool(strict))
    # One domain, so a refusal of it is a refusal.
    return [f.model_copy(update={"domain": None}) for f in report.findings]


def _plain(found: Finding) -> dict[str, Any]:
    return found.model_dump(
        mode="json", include={"code", "severity", "field", "block", "message", "hint"}
    )


def _parsed(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise BadLine(f"it is over {MAX_LINE:,} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine("it is not JSON in UTF-8") from None
    if not isinstance(request, dict):
        raise BadLine("it is not a JSON object")
    return request


def _identity(request: dict[str, Any]) -> str | int | None:
    identity = request.get("id")
    return identity if isinstance(identity, str | int) and not isinstance(identity, bool) else None


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise BadLine(f"{name} is not a string")
    return value


def _moment(request: dict[str, Any], now: Now) -> datetime:
    value = request.get("at")
    if value is None:
        return now()
    if not isinstance(value, str) or _RFC_3339.fullmatch(value) is None:
        raise BadLine("at is not an RFC 3339 time with its zone")
    try:
        return datetime.fromisoformat(_LEAP_SECOND.sub(r"\g<1>59", value.upper())).astimezone(UTC)
    except (OverflowError, ValueError):
        raise BadLine("at is not an RFC 3339 time with its zone") from None


def _roots(request: dict[str, Any]) -> TrustRoots:
    value = request.get("roots")
    if value is None:
        return _mozilla()
    text = _text(request, "roots")
    if len(text) > MAX_ROOTS_BYTES or pem.count(text) > MAX_ROOTS:
        raise BadLine(f"roots is over {MAX_ROOTS_BYTES:,} bytes or {MAX_ROOTS:,} certificates")
    try:
        return _own_roots(text)
    except Unreadable:
        raise BadLine("roots is not PEM of certificates") from None


@lru_cache(maxsize=1)
def _mozilla() -> TrustRoots:
    return mozilla()


@lru_cache(maxsize=_ROOTS_KEPT)
def _own_roots(text: str) -> TrustRoots:
    return TrustRoots.from_pem(text)


def _lines(source: IO[bytes]) -> Iterator[bytes]:
    """Lines without their ends; of one that is too long only enough to see that it is."""
    while line := source.readline(MAX_LINE + 2):
        whole = line
        while not whole.endswith(b"\n") and (whole := source.readline(MAX_LINE)):
            pass
        if line := line.strip(b"\r\n"):
            yield line
