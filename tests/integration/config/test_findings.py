"""What was found is told in full, for every command that is refused or warned, and under whose
name."""

from __future__ import annotations

from typing import Any

import pytest

from shared import catalogue
from shared.contracts.accounts import SetResumption
from shared.contracts.base import Contract
from shared.contracts.certificates import (
    CommandResult,
    DeployCertificate,
    SetRoots,
    ShowCommand,
)
from shared.contracts.commands import ChangeSettings
from shared.contracts.queries import ShowHistory, ShowSubmission
from shared.errors import Refused
from shared.ids import new_id
from tests.integration.config.harness import ConfigHarness, domain_name
from tests.integration.config.test_library import results, store, stored, wildcard
from tests.support.factories import ACCOUNT


async def ended(harness: ConfigHarness, subject: str, body: Contract) -> CommandResult:
    """The one end of a command, with what was found."""
    command = await harness.send(subject, body)
    await harness.settled(command)
    view = await harness.ask(catalogue.RPC_COMMAND_SHOW, ShowCommand(command_id=command))
    (result,) = view.results
    return result


async def test_a_disable_drops_the_findings_before_it_and_keeps_the_codes(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    body = ChangeSettings(domain=domain, account=ACCOUNT, http2=True)
    before = await ended(harness, catalogue.CMD_SETTINGS_CHANGE, body)
    assert before.findings
    await harness.settled(await harness.disable(domain))
    view = await harness.ask(catalogue.RPC_COMMAND_SHOW, ShowCommand(command_id=before.command_id))
    assert (view.results[0].findings, view.results[0].codes) == ([], ["https.not_enabled"])
    assert (await ended(harness, catalogue.CMD_SETTINGS_CHANGE, body)).findings


async def test_a_submission_is_shown_while_it_is_judged_and_when_it_was(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    for place in ((domain, None), (None, new_id())):
        submission = (
            await harness.submit(domain) if place[1] is None else await store(harness, place[1])
        )
        await harness.until_asked(submission)
        shown = await harness.ask(
            catalogue.RPC_SUBMISSION_SHOW, ShowSubmission(submission_id=submission)
        )
        assert (shown.outcome, shown.domain, shown.certificate) == (None, *place)
        await harness.settled(submission)
        shown = await harness.ask(
            catalogue.RPC_SUBMISSION_SHOW, ShowSubmission(submission_id=submission)
        )
        assert [found.code.value for found in shown.findings] == ["submission.undecided"]


async def test_results_come_in_pages(harness: ConfigHarness) -> None:
    domains = [f"no domain {number}" for number in range(5)]
    body = DeployCertificate(name=new_id(), account=ACCOUNT, domains=domains)
    command = await harness.send(catalogue.CMD_CERTIFICATE_DEPLOY, body)
    await results(harness, command)
    told: list[str | None] = []
    after: int | None = 0
    while after is not None:
        question = ShowCommand(command_id=command, after=after, limit=2)
        page = await harness.ask(catalogue.RPC_COMMAND_SHOW, question)
        told += [one.domain for one in page.results]
        after = page.next
    assert sorted(filter(None, told)) == domains


async def test_what_was_ordered_of_an_account_as_a_whole_is_its_history(
    harness: ConfigHarness,
) -> None:
    account, title = f"told-{new_id()[:8]}", new_id()
    pair = wildcard(harness, domain_name("lib"), account)
    await stored(harness, title, pair, account=account)
    await ended(harness, catalogue.CMD_ROOTS_SET, SetRoots(account=account, roots="no PEM"))
    await ended(
        harness,
        catalogue.CMD_ACCOUNT_RESUMPTION,
        SetResumption(account=account, resumption="by_hand"),
    )
    await harness.register(domain_name(), account)
    first = await harness.ask(catalogue.RPC_DOMAIN_HISTORY, ShowHistory(account=account, limit=2))
    assert [(one.command, one.account, one.domain) for one in first.entries] == [
        (catalogue.CMD_ACCOUNT_RESUMPTION, account, None),
        (catalogue.CMD_ROOTS_SET, account, None),
    ]
    rest = await harness.ask(
        catalogue.RPC_DOMAIN_HISTORY, ShowHistory(account=account, before=first.next)
    )
    assert [(one.certificate, one.outcome) for one in rest.entries] == [(title, "applied")]
    with pytest.raises(Refused, match=r"request\.malformed"):
        await harness.ask(catalogue.RPC_DOMAIN_HISTORY, ShowHistory())


async def test_no_key_of_the_inbox_is_shown_outside(harness: ConfigHarness) -> None:
    def about(command: str) -> list[tuple[str, Any, Any]]:
        return [
            (headers["ce-subject"], body["domain"], body["certificate"])
            for _, body, headers in harness.events
            if headers["ce-causationid"] == command
        ]

    title = f"bad {new_id()}"
    command = await store(harness, title)
    await harness.settled(command)
    assert about(command) == [(ACCOUNT, None, title)]
    command = await harness.send(catalogue.CMD_ROOTS_SET, SetRoots(account=ACCOUNT, roots="no PEM"))
    await harness.settled(command)
    assert about(command) == [(ACCOUNT, None, None)]
    looks_like = f"@{ACCOUNT}/{title}"
    settled = await harness.register(looks_like)
    assert about(settled.command_id) == [(looks_like, looks_like, None)]
    assert not await harness.database.fetchval(
        "select count(*) from history where starts_with(domain, '@') and command_id <> $1",
        settled.command_id,
    )
