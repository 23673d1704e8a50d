"""The watch on expiry: by the test clock, across restarts and replicas, each notice once."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from deploy.embedded.ports import HOST
from shared import catalogue
from shared.contracts.domains import CertificateExpired, CertificateExpiring
from shared.ids import new_id
from tests.integration.config.harness import ConfigHarness, config_harness, domain_name
from tests.integration.config.test_library import deploy, hosts, results, stored, wildcard
from tests.support.waiting import until

NOTICES = (catalogue.EVENT_CERTIFICATE_EXPIRING, catalogue.EVENT_CERTIFICATE_EXPIRED)


@pytest.fixture(scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ConfigHarness]:
    """Two replicas with a clock that the tests move."""
    async with config_harness(tmp_path_factory.mktemp("expiry")) as harness:
        settings = {
            "EMBEDDED": "true",
            "TEST_CLOCK": harness.cluster.folder / "clock",
            "EXPIRY_SECONDS": 0.2,
        }
        await harness.start(**settings)
        await harness.start("config-2", **settings)
        yield harness


@pytest.fixture(autouse=True)
def plain_clock(harness: ConfigHarness) -> None:
    shift(harness, timedelta())


def shift(harness: ConfigHarness, by: timedelta) -> None:
    (harness.cluster.folder / "clock").write_text(str(by.total_seconds()))


def told(harness: ConfigHarness, domain: str) -> list[dict[str, Any]]:
    return [
        body
        for subject, body, _ in harness.events
        if subject in NOTICES and body["domain"] == domain
    ]


def days(harness: ConfigHarness, domain: str) -> list[int]:
    """The notices of a domain in order; 0: it ended."""
    return [body.get("days", 0) for body in told(harness, domain)]


async def served(harness: ConfigHarness, left: int, kind: str = "expires") -> str:
    """A domain whose certificate ends in ``left`` days of the plain clock."""
    domain = domain_name(kind)
    await harness.register(domain)
    await harness.enable(domain, days=left)
    return domain


async def until_told(harness: ConfigHarness, domain: str, expected: list[int]) -> None:
    await until(lambda: days(harness, domain) == expected, f"{domain} was told {expected}")


async def looked_again(harness: ConfigHarness, passed: int = 0) -> None:
    """Another look is over, ``passed`` days from now: a domain that was due is told."""
    shift(harness, timedelta(days=passed))
    await until_told(harness, await served(harness, passed + 5, "fence"), [7])


async def test_notices_come_at_30_14_7_and_1_days_and_at_the_end_once_each(
    harness: ConfigHarness,
) -> None:
    domain = await served(harness, 40)
    await looked_again(harness)
    assert days(harness, domain) == []
    expected = []
    for passed, notice in ((10, 30), (26, 14), (33, 7), (39, 1), (41, 0)):
        shift(harness, timedelta(days=passed, hours=1))
        expected.append(notice)
        await until_told(harness, domain, expected)
    await looked_again(harness, 60)
    assert days(harness, domain) == expected
    bodies = told(harness, domain)
    assert (
        CertificateExpiring.model_validate(bodies[0]).not_after
        == CertificateExpired.model_validate(bodies[-1]).not_after
    )
    assert {key for body in bodies for key in body} == {
        "domain",
        "account",
        "days",
        "not_after",
        "at",
    }


async def test_notices_that_passed_before_a_certificate_came_are_not_made_up_for(
    harness: ConfigHarness,
) -> None:
    domain = await served(harness, 5)
    await until_told(harness, domain, [7])
    ended = await served(harness, -1)
    await until_told(harness, ended, [0])


async def test_a_replacement_clears_the_notices_and_the_new_certificate_has_its_own(
    harness: ConfigHarness,
) -> None:
    domain = await served(harness, 5)
    await until_told(harness, domain, [7])
    await harness.enable(domain, days=60)
    await looked_again(harness, 7)
    assert days(harness, domain) == [7]
    shift(harness, timedelta(days=54))
    await until_told(harness, domain, [7, 7])


async def test_a_disable_ends_the_notices(harness: ConfigHarness) -> None:
    domain = await served(harness, 20)
    await until_told(harness, domain, [30])
    await harness.settled(await harness.disable(domain))
    await looked_again(harness, 15)
    assert days(harness, domain) == [30]


async def test_a_stored_certificate_that_comes_back_after_a_disable_is_not_told_twice(
    harness: ConfigHarness,
) -> None:
    family, title = domain_name("lib"), new_id()
    (domain,) = await hosts(harness, family, 1)
    await stored(harness, title, wildcard(harness, family, days=20))
    for _ in range(2):
        await results(harness, await deploy(harness, title, [domain]))
        await until_told(harness, domain, [30])
        await looked_again(harness)
        await harness.settled(await harness.disable(domain))
    assert days(harness, domain) == [30]


async def test_restarts_and_replicas_tell_it_once(harness: ConfigHarness) -> None:
    domains = [await served(harness, 20 + number) for number in range(6)]
    for domain in domains:
        await until_told(harness, domain, [30])
    harness.kill("config-2")
    harness.kill()
    shift(harness, timedelta(days=12))
    await harness.ready("config-2")
    await harness.ready()
    for domain in domains:
        await until(
            lambda domain=domain: len(days(harness, domain)) == 2,
            f"{domain} was told again",
        )
    await looked_again(harness, 12)
    assert [days(harness, domain) for domain in domains] == [[30, 14] for _ in domains]
    ids = [headers["ce-id"] for subject, body, headers in harness.events if subject in NOTICES]
    assert len(ids) == len(set(ids))


async def test_what_is_left_is_shown_as_metrics_without_names(harness: ConfigHarness) -> None:
    await served(harness, 3)
    await looked_again(harness)

    def shown() -> bool:
        found = 0.0
        for replica in harness.replicas.values():  # one of them watches
            url = f"http://{HOST}:{replica.health_port}/metrics"
            for line in urllib.request.urlopen(url).read().decode().splitlines():
                if line.startswith('edgetls_config_domains_by_days_left{days="7"}'):
                    found += float(line.split()[-1])
        return found > 0

    await until(shown, "the gauge counts them")
