from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from shared.messaging.broker import quicken

LINE = st.binary(max_size=12).filter(lambda part: b"\r\n" not in part)


@given(st.lists(LINE, max_size=6))
def test_any_lines_are_read_as_the_library_reads_them(lines: list[bytes]) -> None:
    raw = b"\r\n".join(lines)
    assert QUICK._parse_header_lines(raw) == Client._parse_header_lines(raw)


@given(st.dictionaries(st.sampled_from(["ce-id", "ce-type", "Nats-Msg-Id", "Status"]), st.text(max_size=20)))
def test_headers_of_our_own_messages_are_read_as_the_library_reads_them(headers: dict[str, str]) -> None:
    raw = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items() if "\r\n" not in value)
    assert QUICK._parse_header_lines(raw) == Client._parse_header_lines(raw)


QUICK = quicken(Client())
