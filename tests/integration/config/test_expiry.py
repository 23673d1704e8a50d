"""The watch on expiry: by the test clock, across restarts and replicas, each notice once."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from shared import catalogue
from shared.contracts.domains import CertificateExpired, CertificateExpiring
from shared.ids import new_id
from tests.integration.config.harness import HOST, Stage, name, stage
from tests.integration.config.test_library import deploy, hosts, results, stored, wildcard
from tests.support.waiting import until

NOTICES = (catalogue.EVENT_CERTIFICATE_EXPIRING, catalogue.EVENT_CERTIFICATE_EXPIRED)


@pytest.fixture(scope="module")
async def staged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Two replicas with a clock that the tests move."""
    async with stage(tmp_path_factory.mktemp("expiry")) as built:
        settings = {
            "EMBEDDED": "true",
            "TEST_CLOCK": built.backend.folder / "clock",
            "EXPIRY_SECONDS": 0.2,
        }
        await built.start(**settings)
        await built.start("config-2", **settings)
        yield built


@pytest.fixture(autouse=True)
def plain_clock(staged: Stage) -> None:
    shift(staged, timedelta())


def shift(staged: Stage, by: timedelta) -> None:
    (staged.backend.folder / "clock").write_text(str(by.total_seconds()))


def told(staged: Stage, domain: str) -> list[dict[str, Any]]:
    return [
        body
        for subject, body, _ in staged.events
        if subject in NOTICES and body["domain"] == domain
    ]


def days(staged: Stage, domain: str) -> list[int]:
    """The notices of a domain in order; 0: it ended."""
    return [body.get("days", 0) for body in told(staged, domain)]


async def served(staged: Stage, left: int, kind: str = "expires") -> str:
    """A domain whose certificate ends in ``left`` days of the plain clock."""
    domain = name(kind)
    await staged.register(domain)
    await staged.enable(domain, days=left)
    return domain


async def until_told(staged: Stage, domain: str, expected: list[int]) -> None:
    await until(lambda: days(staged, domain) == expected, f"{domain} was told {expected}")


async def looked_again(staged: Stage, passed: int = 0) -> None:
    """Another look is over, ``passed`` days from now: a domain that was due is told."""
    shift(staged, timedelta(days=passed))
    await until_told(staged, await served(staged, passed + 5, "fence"), [7])


async def test_notices_come_at_30_14_7_and_1_days_and_at_the_end_once_each(staged: Stage) -> None:
    domain = await served(staged, 40)
    await looked_again(staged)
    assert days(staged, domain) == []
    expected = []
    for passed, notice in ((10, 30), (26, 14), (33, 7), (39, 1), (41, 0)):
        shift(staged, timedelta(days=passed, hours=1))
        expected.append(notice)
        await until_told(staged, domain, expected)
    await looked_again(staged, 60)
    assert days(staged, domain) == expected
    bodies = told(staged, domain)
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
    staged: Stage,
) -> None:
    domain = await served(staged, 5)
    await until_told(staged, domain, [7])
    ended = await served(staged, -1)
    await until_told(staged, ended, [0])


async def test_a_replacement_clears_the_notices_and_the_new_certificate_has_its_own(
    staged: Stage,
) -> None:
    domain = await served(staged, 5)
    await until_told(staged, domain, [7])
    await staged.enable(domain, days=60)
    await looked_again(staged, 7)
    assert days(staged, domain) == [7]
    shift(staged, timedelta(days=54))
    await until_told(staged, domain, [7, 7])


async def test_a_disable_ends_the_notices(staged: Stage) -> None:
    domain = await served(staged, 20)
    await until_told(staged, domain, [30])
    await staged.settled(await staged.disable(domain))
    await looked_again(staged, 15)
    assert days(staged, domain) == [30]


async def test_a_stored_certificate_that_comes_back_after_a_disable_is_not_told_twice(
    staged: Stage,
) -> None:
    family, title = name("lib"), new_id()
    (domain,) = await hosts(staged, family, 1)
    await stored(staged, title, wildcard(staged, family, days=20))
    for _ in range(2):
        await results(staged, await deploy(staged, title, [domain]))
        await until_told(staged, domain, [30])
        await looked_again(staged)
        await staged.settled(await staged.disable(domain))
    assert days(staged, domain) == [30]


async def test_restarts_and_replicas_tell_it_once(staged: Stage) -> None:
    domains = [await served(staged, 20 + number) for number in range(6)]
    for domain in domains:
        await until_told(staged, domain, [30])
    staged.kill("config-2")
    staged.kill()
    shift(staged, timedelta(days=12))
    await staged.ready("config-2")
    await staged.ready()
    for domain in domains:
        await until(
            lambda domain=domain: len(days(staged, domain)) == 2,
            f"{domain} was told again",
            limit=20,
        )
    await looked_again(staged, 12)
    assert [days(staged, domain) for domain in domains] == [[30, 14] for _ in domains]
    ids = [headers["ce-id"] for subject, body, headers in staged.events if subject in NOTICES]
    assert len(ids) == len(set(ids))


async def test_what_is_left_is_shown_as_metrics_without_names(staged: Stage) -> None:
    await served(staged, 3)
    await looked_again(staged)

    def shown() -> bool:
        found = 0.0
        for port in staged.ports_of.values():  # one of them watches
            for line in (
                urllib.request.urlopen(f"http://{HOST}:{port}/metrics").read().decode().splitlines()
            ):
                if line.startswith('edgetls_config_domains_by_days_left{days="7"}'):
                    found += float(line.split()[-1])
        return found > 0

    await until(shown, "the gauge counts them", limit=20)
