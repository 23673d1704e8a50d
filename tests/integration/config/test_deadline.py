"""The deadline of a judgement: time in which no validator is there does not count."""

from __future__ import annotations

import asyncio

from shared.contracts.domains import DomainState, Outcome
from tests.integration.config.harness import JUDGING_SECONDS, Stage, name
from tests.integration.config.test_library import store, wildcard
from tests.support.waiting import until


async def test_a_submission_waits_while_no_validator_is_there_and_its_verdict_is_applied(
    staged: Stage,
) -> None:
    domain, title = name(), name("title")
    await staged.register(domain)
    await staged.stop_validator()
    try:
        submission = await staged.submit(domain)
        stored = await store(staged, title)
        for waiting in (submission, stored):
            await until(
                lambda waiting=waiting: staged.database.fetchval(
                    "select exists (select from outbox where subject like 'https.judge.%'"
                    " and headers ->> 'ce-causationid' = $1 and sent_at is not null)",
                    waiting,
                ),
                "the validator is asked",
            )
        await asyncio.sleep(JUDGING_SECONDS + 2)
        assert (await staged.show(domain)).pending_submission == submission
    finally:
        staged.start_validator()
    await staged.verdict(await staged.asked(submission), pairs=[staged.pair(domain)])
    assert (await staged.settled(submission)).outcome is Outcome.APPLIED
    assert (await staged.show(domain)).state is DomainState.ENABLED
    await staged.verdict(await staged.asked(stored), pairs=[wildcard(staged, name("lib"))])
    assert (await staged.settled(stored)).outcome is Outcome.APPLIED


async def test_once_a_validator_is_there_the_deadline_holds_again(staged: Stage) -> None:
    domain = name()
    await staged.register(domain)
    await staged.stop_validator()
    try:
        submission = await staged.submit(domain)
        await asyncio.sleep(JUDGING_SECONDS)
    finally:
        staged.start_validator()
    await staged.asked(submission)
    assert (await staged.settled(submission)).codes == ["submission.undecided"]
