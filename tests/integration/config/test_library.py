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
from tests.integration.config.harness import SEALED_BOX, ConfigHarness, domain_name
from tests.support.pki import Authority
from tests.support.waiting import until

ACCOUNT = "acme"


async def store(
    harness: ConfigHarness, title: str, account: str = ACCOUNT, **others: object
) -> str:
    identity = new_id()
    pair = SubmittedPair(certificate="PEM", sealed_key=SealedKey(epoch=0, box=SEALED_BOX))
    body = StoreCertificate.model_validate(
        {"name": title, "account": account, "submission_id": identity, "pairs": [pair], **others}
    )
    return await harness.send(catalogue.CMD_CERTIFICATE_STORE, body, id=identity)


def wildcard(
    harness: ConfigHarness, family: str, account: str = ACCOUNT, days: int = 90
) -> JudgedPair:
    """What the validator makes of a pair for the library: it vouches for every name of the leaf."""
    return harness.pair(f"*.{family}", account, days=days)


async def accept(harness: ConfigHarness, submission: str, pair: JudgedPair) -> None:
    await harness.verdict(await harness.until_asked(submission), pairs=[pair])


async def stored(
    harness: ConfigHarness, title: str, pair: JudgedPair, **others: object
) -> CommandSettled:
    submission = await store(harness, title, **others)
    await accept(harness, submission, pair)
    return await harness.settled(submission)


async def deploy(
    harness: ConfigHarness, title: str, domains: list[str], account: str = ACCOUNT
) -> str:
    body = DeployCertificate(name=title, account=account, domains=domains)
    return await harness.send(catalogue.CMD_CERTIFICATE_DEPLOY, body)


async def results(harness: ConfigHarness, command: str) -> dict[str | None, CommandResult]:
    async def ended() -> CommandView | None:
        view = await harness.ask(
            catalogue.RPC_COMMAND_SHOW,
            ShowCommand(command_id=command, account=ACCOUNT),
        )
        return view if view.results and not view.waiting else None

    view = await until(ended, f"{command} ended everywhere")
    assert view is not None
    return {one.domain: one for one in view.results}


async def hosts(harness: ConfigHarness, family: str, count: int) -> list[str]:
    found = [f"h{number}.{family}" for number in range(count)]
    for domain in found:
        await harness.register(domain)
    return found


async def test_a_stored_pair_is_judged_once_and_served_on_fifty_domains_each_with_a_result(
    harness: ConfigHarness,
) -> None:
    family, title = domain_name("lib"), new_id()
    domains = await hosts(harness, family, 48)
    other = domain_name()
    await harness.register(other)
    settled = await stored(harness, title, wildcard(harness, family))
    assert (settled.outcome, settled.domain, settled.certificate) == (Outcome.APPLIED, None, title)
    command = await deploy(harness, title, [*domains, other, f"unknown.{family}"])
    ended = await results(harness, command)
    assert len(ended) == 50 and {ended[domain].outcome for domain in domains} == {Outcome.APPLIED}
    assert ended[other].codes == ["domain.mismatch"] and ended[f"unknown.{family}"].codes == [
        "domain.unknown"
    ]
    view = await harness.show(domains[0])
    assert (view.certificates[0].source, view.certificates[0].name) == ("stored", title)
    shown = await harness.ask(
        catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=title, account=ACCOUNT)
    )
    assert (shown.domains, shown.version) == (48, 1)


async def test_a_replaced_entry_is_followed_by_every_domain_that_uses_it(
    harness: ConfigHarness,
) -> None:
    family, title = domain_name("lib"), new_id()
    domains = await hosts(harness, family, 3)
    await stored(harness, title, wildcard(harness, family))
    await results(harness, await deploy(harness, title, domains))
    taken = await harness.settled(await store(harness, title))
    assert taken.codes == ["certificate.name_taken"]
    await harness.enable(domains[2])
    pair = wildcard(harness, family)
    settled = await stored(harness, title, pair, overwrite=True)
    ended = await results(harness, settled.command_id)
    assert set(ended) == {None, domains[0], domains[1]}
    for domain in domains[:2]:
        assert ended[domain].outcome is Outcome.APPLIED
        assert (await harness.bundle(domain)).pairs[0].pair_id == pair.pair_id
    assert (await harness.bundle(domains[2])).pairs[0].pair_id != pair.pair_id
    usage = await harness.ask(
        catalogue.RPC_CERTIFICATE_USAGE, ShowUsage(name=title, account=ACCOUNT)
    )
    told = [(use.domain, use.live, use.current) for use in usage.uses]
    assert told == [*((domain, True, True) for domain in domains[:2]), (domains[2], False, False)]


async def test_a_domain_that_the_new_pair_does_not_cover_keeps_the_old_one(
    harness: ConfigHarness,
) -> None:
    family, title = domain_name("lib"), new_id()
    (domain,) = await hosts(harness, family, 1)
    await stored(harness, title, wildcard(harness, family))
    await results(harness, await deploy(harness, title, [domain]))
    before = await harness.bundle(domain)
    settled = await stored(harness, title, wildcard(harness, domain_name("else")), overwrite=True)
    ended = await results(harness, settled.command_id)
    assert (ended[None].outcome, ended[domain].codes[0]) == (Outcome.APPLIED, "domain.mismatch")
    assert (await harness.bundle(domain)).pairs == before.pairs


async def test_what_is_in_use_cannot_be_deleted_and_the_refusal_lists_the_domains(
    harness: ConfigHarness,
) -> None:
    family, title = domain_name("lib"), new_id()
    domains = await hosts(harness, family, 2)
    await stored(harness, title, wildcard(harness, family))
    await results(harness, await deploy(harness, title, domains))
    delete = DeleteCertificate(name=title, account=ACCOUNT)
    refused = await harness.settled(await harness.send(catalogue.CMD_CERTIFICATE_DELETE, delete))
    assert refused.codes == ["certificate.in_use"]
    shown = (await results(harness, refused.command_id))[None]
    assert all(domain in shown.findings[0].message for domain in domains)
    for domain in domains:
        await harness.settled(await harness.disable(domain))
        assert not await harness.database.fetchval(
            "select count(*) from pairs where domain = $1", domain
        )
    shelved = await harness.ask(
        catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=title, account=ACCOUNT)
    )
    assert (shelved.domains, len(shelved.certificates)) == (0, 1)
    assert (
        await harness.settled(await harness.send(catalogue.CMD_CERTIFICATE_DELETE, delete))
    ).outcome is Outcome.APPLIED
    with pytest.raises(Refused, match=r"certificate\.unknown"):
        await harness.ask(
            catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=title, account=ACCOUNT)
        )


async def test_store_deploy_and_delete_in_one_breath_happen_in_that_order(
    harness: ConfigHarness,
) -> None:
    family, title = domain_name("lib"), new_id()
    domains = await hosts(harness, family, 3)
    submission = await store(harness, title)
    deployed = await deploy(harness, title, domains)
    deleted = await harness.send(
        catalogue.CMD_CERTIFICATE_DELETE, DeleteCertificate(name=title, account=ACCOUNT)
    )
    await harness.until_asked(submission)
    assert not harness.events_of(catalogue.EVENT_COMMAND_SETTLED, deployed)
    await accept(harness, submission, wildcard(harness, family))
    assert {one.outcome for one in (await results(harness, deployed)).values()} == {Outcome.APPLIED}
    assert (await harness.settled(deleted)).codes == ["certificate.in_use"]


async def test_a_domain_of_its_own_pace_does_not_hold_up_the_others(harness: ConfigHarness) -> None:
    family, title = domain_name("lib"), new_id()
    slow, quick = await hosts(harness, family, 2)
    await stored(harness, title, wildcard(harness, family))
    pending = await harness.submit(slow)
    await harness.until_asked(pending)
    settings = ChangeSettings(domain=slow, account=ACCOUNT, http2=True)
    held = await harness.send(catalogue.CMD_SETTINGS_CHANGE, settings)
    deployed = await deploy(harness, title, [slow, quick])
    ended = await results(harness, deployed)
    assert {one.outcome for one in ended.values()} == {Outcome.APPLIED}
    assert (await harness.settled(pending)).outcome is Outcome.SUPERSEDED
    assert (await harness.settled(held)).codes == ["https.not_enabled"]


async def test_a_deployment_that_is_refused_leaves_the_submission_before_it_alone(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    submission = await harness.submit(domain)
    question = await harness.until_asked(submission)
    mistyped = await deploy(harness, f"mistyped-{new_id()}", [domain])
    await until(
        lambda: harness.database.fetchval(
            "select count(*) from deployments where command_id = $1", mistyped
        ),
        "the library has come to it",
    )
    await harness.verdict(question, pairs=[harness.pair(domain)])
    assert (await harness.settled(submission)).outcome is Outcome.APPLIED
    assert (await results(harness, mistyped))[domain].codes == ["certificate.unknown"]


async def test_what_waits_for_the_library_is_overtaken_by_a_disable(harness: ConfigHarness) -> None:
    family, title = domain_name("lib"), new_id()
    (domain,) = await hosts(harness, family, 1)
    submission = await store(harness, title)
    await harness.until_asked(submission)
    deployed = await deploy(harness, title, [domain])
    disabled = await harness.settled(await harness.disable(domain))
    assert disabled.outcome is Outcome.UNCHANGED
    assert (await harness.settled(deployed)).outcome is Outcome.SUPERSEDED
    await accept(harness, submission, wildcard(harness, family))
    await harness.settled(submission)
    assert (await harness.show(domain)).certificates == []
    delete = await harness.send(
        catalogue.CMD_CERTIFICATE_DELETE, DeleteCertificate(name=title, account=ACCOUNT)
    )
    assert (await harness.settled(delete)).outcome is Outcome.APPLIED


async def test_names_are_judged_and_unique_in_an_account(harness: ConfigHarness) -> None:
    first, second, title = domain_name(), domain_name(), f"cert-{new_id()}"
    for domain in (first, second):
        await harness.register(domain)
    assert (await harness.settled(await store(harness, "no spaces"))).codes == [
        "certificate.name_invalid"
    ]
    unnamed = await deploy(harness, "no spaces", [first, second])
    assert {one.outcome for one in (await results(harness, unnamed)).values()} == {Outcome.REFUSED}
    submission = await harness.submit(first, title=title)
    await harness.verdict(await harness.until_asked(submission), pairs=[harness.pair(first)])
    await harness.settled(submission)
    assert (await harness.show(first)).certificates[0].name == title
    assert (await harness.settled(await harness.submit(second, title=title))).codes == [
        "certificate.name_taken"
    ]
    assert (await harness.settled(await store(harness, title, overwrite=True))).codes == [
        "certificate.name_taken"
    ]
    again = await harness.submit(first, title=title)
    await harness.verdict(await harness.until_asked(again), pairs=[harness.pair(first)])
    assert (await harness.settled(again)).outcome is Outcome.APPLIED
    await harness.enable(second)
    generated = (await harness.show(second)).certificates[0].name
    assert generated is not None and generated.startswith(f"{second}-")


async def test_library_pairs_are_paged_and_sealed_anew_with_the_others(
    harness: ConfigHarness,
) -> None:
    family, title = domain_name("lib"), new_id()
    (domain,) = await hosts(harness, family, 1)
    pair = wildcard(harness, family)
    await stored(harness, title, pair)
    await results(harness, await deploy(harness, title, [domain]))
    found = [one for one in await _sealed(harness) if one.pair_id == pair.pair_id]
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
        command = await harness.send(catalogue.CMD_PAIR_RESEAL, body, user="operator")
        assert (await harness.settled(command)).outcome is Outcome.APPLIED
    assert not [one for one in await _sealed(harness) if one.pair_id == pair.pair_id]
    (other,) = await hosts(harness, domain_name("else"), 1)
    assert (await results(harness, await deploy(harness, title, [other])))[other].codes == [
        "domain.mismatch"
    ]


async def _sealed(harness: ConfigHarness) -> list[object]:
    found: list[object] = []
    after: str | None = ""
    while after is not None:
        page = await harness.ask(
            catalogue.RPC_PAIR_SEALED,
            PageSealed(below=2, after=after, limit=7),
            "operator",
        )
        found += page.pairs
        after = page.next
    return found


async def test_a_name_that_a_rollback_could_bring_back_stays_taken(harness: ConfigHarness) -> None:
    first, second, title = domain_name(), domain_name(), f"cert-{new_id()}"
    for domain in (first, second):
        await harness.register(domain)
    for titled in (title, f"{title}-2"):
        submission = await harness.submit(first, title=titled)
        await harness.verdict(await harness.until_asked(submission), pairs=[harness.pair(first)])
        await harness.settled(submission)
    assert (await harness.settled(await harness.submit(second, title=title))).codes == [
        "certificate.name_taken"
    ]
    assert (await harness.settled(await store(harness, title))).codes == ["certificate.name_taken"]


async def test_what_a_rollback_could_bring_back_cannot_be_deleted(harness: ConfigHarness) -> None:
    family, title = domain_name("lib"), new_id()
    (domain,) = await hosts(harness, family, 1)
    await stored(harness, title, wildcard(harness, family))
    await results(harness, await deploy(harness, title, [domain]))
    await harness.enable(domain)
    usage = await harness.ask(
        catalogue.RPC_CERTIFICATE_USAGE, ShowUsage(name=title, account=ACCOUNT)
    )
    assert [(use.domain, use.current, use.live) for use in usage.uses] == [(domain, True, False)]
    delete = DeleteCertificate(name=title, account=ACCOUNT)
    refused = (
        await results(harness, await harness.send(catalogue.CMD_CERTIFICATE_DELETE, delete))
    )[None]
    assert (refused.codes, domain in refused.findings[0].message) == (["certificate.in_use"], True)
    assert "rollback" in refused.findings[0].message
    await harness.enable(domain)
    assert (
        await harness.settled(await harness.send(catalogue.CMD_CERTIFICATE_DELETE, delete))
    ).outcome is Outcome.APPLIED


async def test_own_roots_are_listed_and_reach_the_validator_when_trust_is_private(
    harness: ConfigHarness,
) -> None:
    account, domain = f"roots-{new_id()[:8]}", domain_name()
    pem = Authority.create().pem
    refused = await harness.settled(
        await harness.send(catalogue.CMD_ROOTS_SET, SetRoots(account=account, roots="no PEM"))
    )
    assert refused.codes == ["roots.invalid"]
    body = SetRoots(account=account, roots=pem)
    assert (
        await harness.settled(await harness.send(catalogue.CMD_ROOTS_SET, body))
    ).outcome is Outcome.APPLIED
    assert (
        await harness.settled(await harness.send(catalogue.CMD_ROOTS_SET, body))
    ).outcome is Outcome.UNCHANGED
    shown = await harness.ask(catalogue.RPC_ROOTS_SHOW, ShowRoots(account=account))
    assert len(shown.roots) == 1 and shown.roots[0].subject
    await harness.register(domain, account=account)
    assert (
        await harness.until_asked(await harness.submit(domain, account))
    ).context.private_roots is None
    trust = ChangeSettings(domain=domain, account=account, trust="private")
    await harness.settled(await harness.disable(domain, account))
    assert (
        await harness.settled(await harness.send(catalogue.CMD_SETTINGS_CHANGE, trust))
    ).outcome is Outcome.APPLIED
    question = await harness.until_asked(await harness.submit(domain, account))
    assert question.context.private_roots == [shown.roots[0].pem]
    library = await harness.until_asked(await store(harness, new_id(), account, trust="private"))
    assert library.context.private_roots == [shown.roots[0].pem]


async def test_a_store_that_no_verdict_comes_for_is_undecided(harness: ConfigHarness) -> None:
    title = new_id()
    began = datetime.now(UTC)
    settled = await harness.settled(await store(harness, title))
    assert settled.outcome is Outcome.UNDECIDED
    assert datetime.now(UTC) - began < timedelta(seconds=15)
    with pytest.raises(Refused, match=r"certificate\.unknown"):
        await harness.ask(
            catalogue.RPC_CERTIFICATE_SHOW, ShowCertificate(name=title, account=ACCOUNT)
        )
