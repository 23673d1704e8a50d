from __future__ import annotations

import pytest

from services.config.domain import origins
from shared.contracts.domains import Origin
from shared.contracts.findings import Code
from shared.errors import Refused


def origin(host: str) -> Origin:
    return Origin(scheme="http", host=host, port=80)


@pytest.mark.parametrize(
    ("sentence", "host", "code"),
    [
        ("loopback", "127.0.0.1", Code.ORIGIN_FORBIDDEN),
        ("anywhere in loopback", "127.9.9.9", Code.ORIGIN_FORBIDDEN),
        ("loopback of IPv6", "::1", Code.ORIGIN_FORBIDDEN),
        ("loopback in brackets", "[::1]", Code.ORIGIN_FORBIDDEN),
        ("loopback inside IPv6", "::ffff:127.0.0.1", Code.ORIGIN_FORBIDDEN),
        ("a private address behind NAT64", "64:ff9b::10.0.0.1", Code.ORIGIN_FORBIDDEN),
        ("a private address in 6to4", "2002:a00:1::1", Code.ORIGIN_FORBIDDEN),
        ("link-local, the cloud's metadata", "169.254.169.254", Code.ORIGIN_FORBIDDEN),
        ("link-local of IPv6", "fe80::1", Code.ORIGIN_FORBIDDEN),
        ("private", "10.1.2.3", Code.ORIGIN_FORBIDDEN),
        ("private of IPv6", "fd00::1", Code.ORIGIN_FORBIDDEN),
        ("shared address space", "100.64.0.1", Code.ORIGIN_FORBIDDEN),
        ("unspecified", "0.0.0.0", Code.ORIGIN_FORBIDDEN),
        ("multicast", "224.0.0.1", Code.ORIGIN_FORBIDDEN),
        ("localhost by name", "LOCALHOST", Code.ORIGIN_FORBIDDEN),
        ("localhost under a name", "a.localhost", Code.ORIGIN_FORBIDDEN),
        ("an address in short", "127.1", Code.ORIGIN_INVALID),
        ("an address as one number", "2130706433", Code.ORIGIN_INVALID),
        ("an address in hexadecimal", "0x7f000001", Code.ORIGIN_INVALID),
        ("an address in octal", "0177.0.0.1", Code.ORIGIN_INVALID),
        ("a host with its port", "origin.example.com:80", Code.ORIGIN_INVALID),
        ("a wildcard", "*.example.com", Code.ORIGIN_INVALID),
        ("no host name", "exa mple.com", Code.ORIGIN_INVALID),
    ],
)
def test_an_origin_that_nodes_must_not_reach_is_refused(
    sentence: str, host: str, code: Code
) -> None:
    with pytest.raises(Refused) as refused:
        origins.check_origin(origin(host), allow_private=False)
    assert refused.value.findings[0].code is code, sentence


@pytest.mark.parametrize(
    ("host", "stored"),
    [
        ("Origin.Example.com", "origin.example.com"),
        ("8.8.8.8", "8.8.8.8"),
        ("[2606:4700::1111]", "2606:4700::1111"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("origin", "origin"),
    ],
)
def test_a_public_origin_is_kept_in_normal_form(host: str, stored: str) -> None:
    assert origins.check_origin(origin(host), allow_private=False).host == stored


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "localhost"])
def test_a_setting_allows_private_origins(host: str) -> None:
    assert origins.check_origin(origin(host), allow_private=True).host == host


def test_a_setting_does_not_allow_what_is_no_host() -> None:
    with pytest.raises(Refused):
        origins.check_origin(origin("127.1"), allow_private=True)
