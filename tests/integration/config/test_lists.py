"""Lists and search: what a filter finds, and pages that miss nothing and double nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared import catalogue
from shared.contracts.domains import DomainState, ServiceType
from shared.contracts.queries import DomainList, ListDomains
from shared.errors import Refused
from shared.ids import new_id
from tests.integration.config.harness import ConfigHarness

ACCOUNT = f"lists-{new_id()[:8]}"
TREE = f"{new_id()[:8]}.example.com"


@pytest.fixture(scope="module")
async def listed(harness: ConfigHarness) -> ConfigHarness:
    """Ten videos and two downloads, four of them with certificates that end in 5, 20, 40 and -1
    days."""
    for number in range(10):
        await harness.register(f"v{number}.{TREE}", ACCOUNT)
    for number in range(2):
        await harness.register(f"file{number}.deep.{TREE}", ACCOUNT, service_type="download")
    await harness.register(f"*.{TREE}", ACCOUNT)
    for number, days in ((0, 5), (1, 20), (2, 40), (3, -1)):
        await harness.enable(f"v{number}.{TREE}", ACCOUNT, days=days)
    return harness


async def page(harness: ConfigHarness, **asked: Any) -> DomainList:
    question = ListDomains.model_validate({"account": ACCOUNT, **asked})
    return await harness.ask(catalogue.RPC_DOMAIN_LIST, question)


async def found(harness: ConfigHarness, **asked: Any) -> list[str]:
    """First labels, over as many pages as it takes."""
    names: list[str] = []
    after: str | None = ""
    while after is not None:
        answer = await page(harness, **{"limit": 3, **asked, "after": after})
        names += [one.domain for one in answer.domains]
        after = answer.next
    return [name.split(".")[0] for name in names]


async def test_a_list_by_the_status_of_the_certificate_is_what_the_views_say(
    listed: ConfigHarness,
) -> None:
    for status, expected in (
        ("ok", ["v2"]),
        ("expires_soon", ["v0", "v1"]),
        ("expired", ["v3"]),
        ("mismatch", []),
    ):
        assert await found(listed, certificate=status) == expected, status
    await listed.database.execute(
        "update domains set mismatched = true where name = $1", f"v2.{TREE}"
    )
    assert await found(listed, certificate="mismatch") == ["v2"]
    await listed.database.execute(
        "update domains set mismatched = false where name = $1", f"v2.{TREE}"
    )


@pytest.mark.parametrize(
    "asked", [{"prefix": "a\0"}, {"suffix": "\0"}, {"after": "\0"}, {"covered_by": ["\0"]}]
)
async def test_what_no_name_holds_is_a_fault_of_the_question(
    listed: ConfigHarness, asked: dict[str, Any]
) -> None:
    question = {"account": ACCOUNT, **asked}
    reply = await listed.clients["platform"].request(
        catalogue.RPC_DOMAIN_LIST, json.dumps(question).encode(), timeout=5
    )
    assert [one["code"] for one in json.loads(reply.data)["refusal"]] == ["request.malformed"]


async def test_pages_come_in_order_of_the_name_and_miss_and_double_nothing(
    listed: ConfigHarness,
) -> None:
    everything = ["*", "file0", "file1", *(f"v{number}" for number in range(10))]
    for limit in (1, 2, 5, 13, 500):
        assert await found(listed, limit=limit) == everything


async def test_a_page_goes_on_where_it_ended_whatever_was_registered_and_removed_meanwhile(
    listed: ConfigHarness,
) -> None:
    first = await page(listed, limit=5, prefix="v")
    between, before = f"v1b.{TREE}", f"v5b.{TREE}"
    await listed.register(between, ACCOUNT)
    await listed.register(before, ACCOUNT)
    second = await page(listed, limit=500, prefix="v", after=first.next)
    assert [one.domain.split(".")[0] for one in second.domains] == [
        "v5",
        "v5b",
        "v6",
        "v7",
        "v8",
        "v9",
    ]
    for domain in (between, before):
        await listed.settled(await listed.remove(domain, ACCOUNT))


async def test_each_filter_finds_its_own_and_filters_hold_together(listed: ConfigHarness) -> None:
    assert await found(listed, state=DomainState.ENABLED) == ["v0", "v1", "v2", "v3"]
    assert len(await found(listed, state=DomainState.DISABLED)) == 9
    assert await found(listed, state=DomainState.SUSPENDED) == []
    assert await found(listed, service_type=ServiceType.DOWNLOAD) == ["file0", "file1"]
    assert await found(listed, source="custom") == ["v0", "v1", "v2", "v3"]
    assert await found(listed, source="stored") == []
    assert await found(listed, expires_within=0) == ["v3"]
    assert await found(listed, expires_within=30) == ["v0", "v1", "v3"]
    assert await found(listed, prefix="V1") == ["v1"]
    assert await found(listed, suffix=f"deep.{TREE}") == ["file0", "file1"]
    assert await found(
        listed, prefix="v", suffix=TREE, expires_within=30, state=DomainState.ENABLED
    ) == ["v0", "v1", "v3"]
    assert await found(listed, account="nobody") == []


async def test_the_first_to_end_comes_first_and_pages_hold(listed: ConfigHarness) -> None:
    for limit in (1, 2, 500):
        assert await found(listed, order="expiry", limit=limit) == ["v3", "v0", "v1", "v2"]
    assert await found(listed, order="expiry", expires_within=10) == ["v3", "v0"]
    with pytest.raises(Refused):
        await page(listed, order="expiry", after="not a next")


async def test_which_domains_a_certificate_serves_and_which_it_could(listed: ConfigHarness) -> None:
    (shown,) = (await page(listed, prefix="v0")).domains
    (certificate,) = shown.certificates
    assert certificate.chain == ""
    assert await found(listed, served_by=certificate.fingerprint) == ["v0"]
    assert await found(listed, covered_by=[f"*.{TREE}"]) == [
        "*",
        *(f"v{number}" for number in range(10)),
    ]
    assert await found(listed, covered_by=[f"*.{TREE}"], order="expiry") == ["v3", "v0", "v1", "v2"]
    assert await found(
        listed, covered_by=[f"*.deep.{TREE}", f"V7.{TREE}", "other.example.com"]
    ) == ["file0", "file1", "v7"]
    assert await found(listed, covered_by=[f"*.{TREE}"], account="nobody") == []


async def test_a_page_of_long_certificates_stays_under_what_a_message_may_hold(
    listed: ConfigHarness,
) -> None:
    account, count = f"long-{new_id()[:8]}", 60
    names = [f"n{number}.{account}.example.com" for number in range(count)]
    sans = [f"{'long' * 12}-{number}.example.com" for number in range(300)]
    for start in range(0, count, 20):
        for domain in names[start : start + 20]:
            await listed.register(domain, account)
            pair = listed.pair(domain, account).model_copy(update={"sans": [domain, *sans]})
            submission = await listed.submit(domain, account)
            await listed.verdict(await listed.until_asked(submission), pairs=[pair])
            await listed.settled(submission)
    question = ListDomains(account=account, limit=500)
    reply = await listed.clients["platform"].request(
        catalogue.RPC_DOMAIN_LIST, question.encode(), timeout=5
    )
    assert len(reply.data) < 512_000
    assert len(await found(listed, account=account, limit=500)) == count
