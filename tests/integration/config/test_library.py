"""The certificate library through the real broker and database; the test is the validator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shared import catalogue
from shared.contracts.base import SealedKey
from shared.contracts.certificates import (
    CommandResult,
    CommandView,
    DeleteCertificate,
    DeployCertificate,
    SetRoots,
    ShowCertificate,
    ShowCommand,
    ShowRoots,
    ShowUsage,
    StoreCertificate,
)
from shared.contracts.commands import ChangeSettings, ResealPair, SubmittedPair
from shared.contracts.domains import CommandSettled, Outcome
from shared.contracts.judging import JudgedPair
from shared.contracts.queries import PageSealed
from shared.errors import Refused
from shared.ids import new_id
from tests.integration.config.harness import CANARY, Stage, name
from tests.support.pki import Authority
from tests.support.waiting import until

ACCOUNT = "acme"


async def store(stage: Stage, title: str, account: str = ACCOUNT, **others: object) -> str:
    identity = new_id()
    pair = SubmittedPair(certificate="PEM", sealed_key=SealedKey(epoch=0, box=CANARY))
    body = StoreCertificate.model_validate(
        {"name": title, "account": account, "submission_id": identity, "pairs": [pair], **others}
    )
    return await stage.send(catalogue.CMD_CERTIFICATE_STORE, body, id=identity)


def wildcard(stage: Stage, family: str, account: str = ACCOUNT, days: int = 90) -> JudgedPair:
    """What the validator makes of a pair for the library: it vouches for every name of the leaf."""
    return stage.pair(f"*.{family}", account, days=days)


async def accept(stage: Stage, submission: str, pair: JudgedPair) -> None:
    await stage.verdict(await stage.asked(submission), pairs=[pair])


async def stored(stage: Stage, title: str, pair: JudgedPair, **others: object) -> CommandSettled:
    submission = await store(stage, title, **others)
    await accept(stage, submission, pair)
    return await stage.settled(submission)


async def deploy(stage: Stage, title: str, domains: list[str], account: str = ACCOUNT) -> str:
    body = DeployCertificate(name=title, account=account, domains=domains)
    return await stage.send(catalogue.CMD_CERTIFICATE_DEPLOY, body)


async def results(stage: Stage, command: str) -> dict[str | None, CommandResult]:
    async def ended() -> CommandView | None:
        view = await stage.ask(
            catalogue.RPC_COMMAND_SHOW,
            ShowCommand(command_id=command, account=ACCOUNT),
        )
        return view if view.results and not view.waiting else None

    view = await until(ended, f"{command} ended everywhere", limit=20)
    assert view is not None
    return {one.domain: one for one in view.results}


async def hosts(stage: Stage, family: str, count: int) -> list[str]:
    found = [f"h{number}.{family}" for number in range(count)]
    for domain in found:
        await stage.register(domain)
    return found


async def test_a_stored_pair_is_judged_once_and_served_on_fifty_domains_each_with_a_result(
    staged: Stage,
) -> None:
    family, title = name("lib"), new_id()
    domains = await hosts(staged, family, 48)
    other = name()
    await staged.register(other)
    settled = await stored(staged, title, wildcard(staged, family))
    assert (settled.outcome, settled.domain, settled.certificate) == (Outcome.APPLIED, None, title)
    command = await deploy(staged, title, [*domains, other, f"unknown.{family}"])
    ended = await results(staged, command)
    assert len(ended) == 50 and {ended[domain].outcome for domain in domains} == {Outcome.APPLIED}
    assert ended[other].codes == ["domain.mismatch"] and ended[f"unknown.{family}"].codes == [
        "domain.unknown"
    ]
    view = await staged.show(domains[0])
    assert (view.certificates[0].source, view.certificates[0].name) == ("stored", title)
    shown = await staged.ask(
        catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=title, account=ACCOUNT)
    )
    assert (shown.domains, shown.version) == (48, 1)


async def test_a_replaced_entry_is_followed_by_every_domain_that_uses_it(staged: Stage) -> None:
    family, title = name("lib"), new_id()
    domains = await hosts(staged, family, 3)
    await stored(staged, title, wildcard(staged, family))
    await results(staged, await deploy(staged, title, domains))
    taken = await staged.settled(await store(staged, title))
    assert taken.codes == ["certificate.name_taken"]
    await staged.enable(domains[2])
    pair = wildcard(staged, family)
    settled = await stored(staged, title, pair, overwrite=True)
    ended = await results(staged, settled.command_id)
    assert set(ended) == {None, domains[0], domains[1]}
    for domain in domains[:2]:
        assert ended[domain].outcome is Outcome.APPLIED
        assert (await staged.bundle(domain)).pairs[0].pair_id == pair.pair_id
    assert (await staged.bundle(domains[2])).pairs[0].pair_id != pair.pair_id
    usage = await staged.ask(
        catalogue.RPC_CERTIFICATE_USAGE, ShowUsage(name=title, account=ACCOUNT)
    )
    told = [(use.domain, use.live, use.current) for use in usage.uses]
    assert told == [*((domain, True, True) for domain in domains[:2]), (domains[2], False, False)]


async def test_a_domain_that_the_new_pair_does_not_cover_keeps_the_old_one(staged: Stage) -> None:
    family, title = name("lib"), new_id()
    (domain,) = await hosts(staged, family, 1)
    await stored(staged, title, wildcard(staged, family))
    await results(staged, await deploy(staged, title, [domain]))
    before = await staged.bundle(domain)
    settled = await stored(staged, title, wildcard(staged, name("else")), overwrite=True)
    ended = await results(staged, settled.command_id)
    assert (ended[None].outcome, ended[domain].codes[0]) == (Outcome.APPLIED, "domain.mismatch")
    assert (await staged.bundle(domain)).pairs == before.pairs


async def test_what_is_in_use_cannot_be_deleted_and_the_refusal_lists_the_domains(
    staged: Stage,
) -> None:
    family, title = name("lib"), new_id()
    domains = await hosts(staged, family, 2)
    await stored(staged, title, wildcard(staged, family))
    await results(staged, await deploy(staged, title, domains))
    delete = DeleteCertificate(name=title, account=ACCOUNT)
    refused = await staged.settled(await staged.send(catalogue.CMD_CERTIFICATE_DELETE, delete))
    assert refused.codes == ["certificate.in_use"]
    shown = (await results(staged, refused.command_id))[None]
    assert all(domain in shown.findings[0].message for domain in domains)
    for domain in domains:
        await staged.settled(await staged.disable(domain))
        assert not await staged.database.fetchval(
            "select count(*) from pairs where domain = $1", domain
        )
    shelved = await staged.ask(
        catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=title, account=ACCOUNT)
    )
    assert (shelved.domains, len(shelved.certificates)) == (0, 1)
    assert (
        await staged.settled(await staged.send(catalogue.CMD_CERTIFICATE_DELETE, delete))
    ).outcome is Outcome.APPLIED
    with pytest.raises(Refused, match=r"certificate\.unknown"):
        await staged.ask(
            catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=title, account=ACCOUNT)
        )


async def test_store_deploy_and_delete_in_one_breath_happen_in_that_order(staged: Stage) -> None:
    family, title = name("lib"), new_id()
    domains = await hosts(staged, family, 3)
    submission = await store(staged, title)
    deployed = await deploy(staged, title, domains)
    deleted = await staged.send(
        catalogue.CMD_CERTIFICATE_DELETE, DeleteCertificate(name=title, account=ACCOUNT)
    )
    await staged.asked(submission)
    assert not staged.said(catalogue.EVENT_COMMAND_SETTLED, deployed)
    await accept(staged, submission, wildcard(staged, family))
    assert {one.outcome for one in (await results(staged, deployed)).values()} == {Outcome.APPLIED}
    assert (await staged.settled(deleted)).codes == ["certificate.in_use"]


async def test_a_domain_of_its_own_pace_does_not_hold_up_the_others(staged: Stage) -> None:
    family, title = name("lib"), new_id()
    slow, quick = await hosts(staged, family, 2)
    await stored(staged, title, wildcard(staged, family))
    pending = await staged.submit(slow)
    await staged.asked(pending)
    settings = ChangeSettings(domain=slow, account=ACCOUNT, http2=True)
    held = await staged.send(catalogue.CMD_SETTINGS_CHANGE, settings)
    deployed = await deploy(staged, title, [slow, quick])
    ended = await results(staged, deployed)
    assert {one.outcome for one in ended.values()} == {Outcome.APPLIED}
    assert (await staged.settled(pending)).outcome is Outcome.SUPERSEDED
    assert (await staged.settled(held)).codes == ["https.not_enabled"]


async def test_a_deployment_that_is_refused_leaves_the_submission_before_it_alone(
    staged: Stage,
) -> None:
    domain = name()
    await staged.register(domain)
    submission = await staged.submit(domain)
    question = await staged.asked(submission)
    mistyped = await deploy(staged, f"mistyped-{new_id()}", [domain])
    await until(
        lambda: staged.database.fetchval(
            "select count(*) from deployments where command_id = $1", mistyped
        ),
        "the library has come to it",
    )
    await staged.verdict(question, pairs=[staged.pair(domain)])
    assert (await staged.settled(submission)).outcome is Outcome.APPLIED
    assert (await results(staged, mistyped))[domain].codes == ["certificate.unknown"]


async def test_what_waits_for_the_library_is_overtaken_by_a_disable(staged: Stage) -> None:
    family, title = name("lib"), new_id()
    (domain,) = await hosts(staged, family, 1)
    submission = await store(staged, title)
    await staged.asked(submission)
    deployed = await deploy(staged, title, [domain])
    disabled = await staged.settled(await staged.disable(domain))
    assert disabled.outcome is Outcome.UNCHANGED
    assert (await staged.settled(deployed)).outcome is Outcome.SUPERSEDED
    await accept(staged, submission, wildcard(staged, family))
    await staged.settled(submission)
    assert (await staged.show(domain)).certificates == []
    delete = await staged.send(
        catalogue.CMD_CERTIFICATE_DELETE, DeleteCertificate(name=title, account=ACCOUNT)
    )
    assert (await staged.settled(delete)).outcome is Outcome.APPLIED


async def test_names_are_judged_and_unique_in_an_account(staged: Stage) -> None:
    first, second, title = name(), name(), f"cert-{new_id()}"
    for domain in (first, second):
        await staged.register(domain)
    assert (await staged.settled(await store(staged, "no spaces"))).codes == [
        "certificate.name_invalid"
    ]
    unnamed = await deploy(staged, "no spaces", [first, second])
    assert {one.outcome for one in (await results(staged, unnamed)).values()} == {Outcome.REFUSED}
    submission = await staged.submit(first, title=title)
    await staged.verdict(await staged.asked(submission), pairs=[staged.pair(first)])
    await staged.settled(submission)
    assert (await staged.show(first)).certificates[0].name == title
    assert (await staged.settled(await staged.submit(second, title=title))).codes == [
        "certificate.name_taken"
    ]
    assert (await staged.settled(await store(staged, title, overwrite=True))).codes == [
        "certificate.name_taken"
    ]
    again = await staged.submit(first, title=title)
    await staged.verdict(await staged.asked(again), pairs=[staged.pair(first)])
    assert (await staged.settled(again)).outcome is Outcome.APPLIED
    await staged.enable(second)
    generated = (await staged.show(second)).certificates[0].name
    assert generated is not None and generated.startswith(f"{second}-")


async def test_library_pairs_are_paged_and_sealed_anew_with_the_others(staged: Stage) -> None:
    family, title = name("lib"), new_id()
    (domain,) = await hosts(staged, family, 1)
    pair = wildcard(staged, family)
    await stored(staged, title, pair)
    await results(staged, await deploy(staged, title, [domain]))
    found = [one for one in await _sealed(staged) if one.pair_id == pair.pair_id]
    assert {(one.domain, one.certificate) for one in found} == {(domain, None), (None, title)}
    for one in found:
        body = ResealPair(
            domain=one.domain,
            certificate=one.certificate,
            account=ACCOUNT,
            pair_id=one.pair_id,
            old_epoch=1,
            sealed_key=SealedKey(epoch=2, box="bmV3"),
        )
        command = await staged.send(catalogue.CMD_PAIR_RESEAL, body, user="operator")
        assert (await staged.settled(command)).outcome is Outcome.APPLIED
    assert not [one for one in await _sealed(staged) if one.pair_id == pair.pair_id]
    (other,) = await hosts(staged, name("else"), 1)
    assert (await results(staged, await deploy(staged, title, [other])))[other].codes == [
        "domain.mismatch"
    ]


async def _sealed(stage: Stage) -> list[object]:
    found: list[object] = []
    after: str | None = ""
    while after is not None:
        page = await stage.ask(
            catalogue.RPC_PAIR_SEALED,
            PageSealed(below=2, after=after, limit=7),
            "operator",
        )
        found += page.pairs
        after = page.next
    return found


async def test_a_name_that_a_rollback_could_bring_back_stays_taken(staged: Stage) -> None:
    first, second, title = name(), name(), f"cert-{new_id()}"
    for domain in (first, second):
        await staged.register(domain)
    for titled in (title, f"{title}-2"):
        submission = await staged.submit(first, title=titled)
        await staged.verdict(await staged.asked(submission), pairs=[staged.pair(first)])
        await staged.settled(submission)
    assert (await staged.settled(await staged.submit(second, title=title))).codes == [
        "certificate.name_taken"
    ]
    assert (await staged.settled(await store(staged, title))).codes == ["certificate.name_taken"]


async def test_what_a_rollback_could_bring_back_cannot_be_deleted(staged: Stage) -> None:
    family, title = name("lib"), new_id()
    (domain,) = await hosts(staged, family, 1)
    await stored(staged, title, wildcard(staged, family))
    await results(staged, await deploy(staged, title, [domain]))
    await staged.enable(domain)
    usage = await staged.ask(
        catalogue.RPC_CERTIFICATE_USAGE, ShowUsage(name=title, account=ACCOUNT)
    )
    assert [(use.domain, use.current, use.live) for use in usage.uses] == [(domain, True, False)]
    delete = DeleteCertificate(name=title, account=ACCOUNT)
    refused = (await results(staged, await staged.send(catalogue.CMD_CERTIFICATE_DELETE, delete)))[
        None
    ]
    assert (refused.codes, domain in refused.findings[0].message) == (["certificate.in_use"], True)
    assert "rollback" in refused.findings[0].message
    await staged.enable(domain)
    assert (
        await staged.settled(await staged.send(catalogue.CMD_CERTIFICATE_DELETE, delete))
    ).outcome is Outcome.APPLIED


async def test_own_roots_are_listed_and_reach_the_validator_when_trust_is_private(
    staged: Stage,
) -> None:
    account, domain = f"roots-{new_id()[:8]}", name()
    pem = Authority.create().pem
    refused = await staged.settled(
        await staged.send(catalogue.CMD_ROOTS_SET, SetRoots(account=account, roots="no PEM"))
    )
    assert refused.codes == ["roots.invalid"]
    body = SetRoots(account=account, roots=pem)
    assert (
        await staged.settled(await staged.send(catalogue.CMD_ROOTS_SET, body))
    ).outcome is Outcome.APPLIED
    assert (
        await staged.settled(await staged.send(catalogue.CMD_ROOTS_SET, body))
    ).outcome is Outcome.UNCHANGED
    shown = await staged.ask(catalogue.RPC_ROOTS_SHOW, ShowRoots(account=account))
    assert len(shown.roots) == 1 and shown.roots[0].subject
    await staged.register(domain, account=account)
    assert (await staged.asked(await staged.submit(domain, account))).context.private_roots is None
    trust = ChangeSettings(domain=domain, account=account, trust="private")
    await staged.settled(await staged.disable(domain, account))
    assert (
        await staged.settled(await staged.send(catalogue.CMD_SETTINGS_CHANGE, trust))
    ).outcome is Outcome.APPLIED
    question = await staged.asked(await staged.submit(domain, account))
    assert question.context.private_roots == [shown.roots[0].pem]
    library = await staged.asked(await store(staged, new_id(), account, trust="private"))
    assert library.context.private_roots == [shown.roots[0].pem]


async def test_a_store_that_no_verdict_comes_for_is_undecided(staged: Stage) -> None:
    title = new_id()
    began = datetime.now(UTC)
    settled = await staged.settled(await store(staged, title))
    assert settled.outcome is Outcome.UNDECIDED
    assert datetime.now(UTC) - began < timedelta(seconds=15)
    with pytest.raises(Refused, match=r"certificate\.unknown"):
        await staged.ask(
            catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=title, account=ACCOUNT)
        )
