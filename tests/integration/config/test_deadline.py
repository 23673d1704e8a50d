"""The deadline of a judgement: time in which no validator is there does not count."""

from __future__ import annotations

import asyncio

from shared.contracts.domains import DomainState, Outcome
from tests.integration.config.harness import JUDGING_SECONDS, ConfigHarness, domain_name
from tests.integration.config.test_library import store, wildcard
from tests.support.waiting import until


async def test_a_submission_waits_while_no_validator_is_there_and_its_verdict_is_applied(
    harness: ConfigHarness,
) -> None:
    domain, title = domain_name(), domain_name("title")
    await harness.register(domain)
    await harness.stop_validator()
    try:
        submission = await harness.submit(domain)
        stored = await store(harness, title)
        for waiting in (submission, stored):
            await until(
                lambda waiting=waiting: harness.database.fetchval(
                    "select exists (select from outbox where subject like 'https.judge.%'"
                    " and headers ->> 'ce-causationid' = $1 and sent_at is not null)",
                    waiting,
                ),
                "the validator is asked",
            )
        await asyncio.sleep(JUDGING_SECONDS + 2)
        assert (await harness.show(domain)).pending_submission == submission
    finally:
        harness.start_validator()
    await harness.verdict(await harness.until_asked(submission), pairs=[harness.pair(domain)])
    assert (await harness.settled(submission)).outcome is Outcome.APPLIED
    assert (await harness.show(domain)).state is DomainState.ENABLED
    await harness.verdict(
        await harness.until_asked(stored), pairs=[wildcard(harness, domain_name("lib"))]
    )
    assert (await harness.settled(stored)).outcome is Outcome.APPLIED


async def test_once_a_validator_is_there_the_deadline_holds_again(harness: ConfigHarness) -> None:
    domain = domain_name()
    await harness.register(domain)
    await harness.stop_validator()
    try:
        submission = await harness.submit(domain)
        await asyncio.sleep(JUDGING_SECONDS)
    finally:
        harness.start_validator()
    await harness.until_asked(submission)
    assert (await harness.settled(submission)).codes == ["submission.undecided"]
