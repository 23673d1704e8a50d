"""A node does not fetch from internal addresses (rule A5)."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from clients.edge_node.serving.origins import (
    OriginResolver,
    is_allowed,
    is_own,
    is_public,
    with_port,
)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::a00:1",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not is_allowed(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_a_public_address_is_fine(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_the_machines_own_address_is_noticed() -> None:
    assert is_own(ipaddress.ip_address("127.0.0.1"))
    assert not is_own(ipaddress.ip_address("192.0.2.1"))


def test_an_ipv6_address_gets_brackets_beside_its_port() -> None:
    assert with_port("::1", 443) == "[::1]:443"
    assert with_port("192.0.2.1", 80) == "192.0.2.1:80"


async def test_a_refused_origin_has_no_address_unless_private_ones_are_allowed() -> None:
    changed: list[str] = []
    assert await OriginResolver(False, changed.append).get_addresses("127.0.0.1") == ()
    assert await OriginResolver(True, changed.append).get_addresses("127.0.0.1") == ("127.0.0.1",)
    assert await OriginResolver(True, changed.append).get_addresses("localhost") != ()


async def test_an_origin_that_does_not_resolve_is_unknown_and_is_not_waited_for_long() -> None:
    started = asyncio.get_running_loop().time()
    assert await OriginResolver(True, lambda host: None).get_addresses("nothing.invalid") == ()
    assert asyncio.get_running_loop().time() - started < 2
