"""The life of a domain and of an upload, through the real broker and database."""

from __future__ import annotations

from hashlib import sha256

import pytest

from shared import catalogue
from shared.contracts.base import SealedKey
from shared.contracts.commands import ResealPair
from shared.contracts.domains import DomainState, Outcome
from shared.contracts.edge import BundleKind
from shared.contracts.findings import Code
from shared.contracts.queries import (
    GetBundle,
    ListDomains,
    PageBundles,
    PageSealed,
    ShowHistory,
    ShowSubmission,
)
from shared.errors import Refused
from tests.integration.config.harness import ConfigHarness, domain_name


async def test_a_registered_domain_is_shown_and_served_over_http_only(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    settled = await harness.register(domain.upper())
    assert settled.outcome is Outcome.APPLIED and settled.domain == domain
    view = await harness.show(domain)
    assert (view.state, view.revision, view.certificates) == (
        DomainState.DISABLED,
        settled.revision,
        [],
    )
    bundle = await harness.bundle(domain)
    assert (bundle.kind, bundle.revision, bundle.epoch) == (
        BundleKind.HTTP_ONLY,
        settled.revision,
        0,
    )
    assert bundle.origin is not None and bundle.origin.host == "origin.example.com"


async def test_an_accepted_submission_is_applied_with_its_cause_named_in_every_message(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    registered = await harness.register(domain)
    settled = await harness.enable(domain, name="leaf-1")
    assert (
        settled.outcome is Outcome.APPLIED
        and settled.revision is not None
        and registered.revision is not None
    )
    assert settled.revision > registered.revision
    changed = harness.changed(settled.command_id)
    assert (changed.change, changed.revision) == ("enabled", settled.revision)
    bundle = await harness.bundle(domain)
    assert (bundle.kind, bundle.epoch, bundle.pairs[0].pair_id) == (
        BundleKind.HTTPS,
        1,
        "pair-leaf-1",
    )
    view = await harness.show(domain)
    assert (view.state, view.certificates[0].status, view.certificates[0].days_left) == (
        DomainState.ENABLED,
        "ok",
        90,
    )


async def test_a_refused_submission_leaves_the_live_certificate_and_tells_its_findings(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    live = await harness.enable(domain, name="kept")
    submission = await harness.submit(domain)
    question = await harness.until_asked(submission)
    assert question.context.live_names == [domain]
    await harness.verdict(question, codes=(Code.KEY_MISMATCH,))
    settled = await harness.settled(submission)
    assert (settled.outcome, settled.codes, settled.revision) == (
        Outcome.REFUSED,
        ["key.mismatch"],
        None,
    )
    shown = await harness.ask(
        catalogue.RPC_SUBMISSION_SHOW, ShowSubmission(submission_id=submission)
    )
    assert [found.code for found in shown.findings] == [Code.KEY_MISMATCH]
    assert (await harness.bundle(domain)).revision == live.revision


async def test_a_disable_leaves_nothing_of_the_pair_in_any_table(harness: ConfigHarness) -> None:
    domain = domain_name()
    await harness.register(domain)
    for leaf in ("gone-1", "gone-2"):
        await harness.enable(domain, name=f"{domain}-{leaf}")
    refused = await harness.submit(domain)
    await harness.verdict(await harness.until_asked(refused), codes=(Code.KEY_MISMATCH,))
    await harness.settled(refused)
    settled = await harness.settled(await harness.disable(domain))
    assert settled.outcome is Outcome.APPLIED
    assert (await harness.bundle(domain)).kind is BundleKind.HTTP_ONLY
    shown = await harness.ask(catalogue.RPC_SUBMISSION_SHOW, ShowSubmission(submission_id=refused))
    assert shown.findings == []
    tables = [
        row["tablename"]
        for row in await harness.database.fetch(
            "select tablename from pg_tables where schemaname = 'public'"
        )
    ]
    for table in tables:
        for row in await harness.database.fetch(f"select t::text as text from {table} t"):
            assert f"{domain}-gone" not in row["text"], table
    assert not await harness.database.fetchval(
        "select count(*) from pairs where domain = $1", domain
    )


async def test_another_account_finds_no_domain_to_see_or_change(harness: ConfigHarness) -> None:
    domain = domain_name()
    await harness.register(domain)
    settled = await harness.settled(await harness.disable(domain, account="mallory"))
    assert settled.codes == ["domain.unknown"]
    unknown = await harness.settled(await harness.disable(domain_name(), account="mallory"))
    assert unknown.codes == settled.codes
    with pytest.raises(Refused, match=r"domain\.unknown"):
        await harness.show(domain, account="mallory")
    taken = await harness.register(domain, account="mallory")
    assert taken.codes == ["domain.taken"]


async def test_a_removed_domain_leaves_a_tombstone_and_may_be_registered_again_above_it(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    await harness.enable(domain)
    removed = await harness.settled(await harness.remove(domain))
    bundle = await harness.bundle(domain)
    assert (bundle.kind, bundle.revision) == (BundleKind.REMOVED, removed.revision)
    assert (bundle.pairs, bundle.origin) == ([], None)
    with pytest.raises(Refused):
        await harness.show(domain)
    again = await harness.register(domain, account="other")
    assert (
        again.outcome is Outcome.APPLIED
        and again.revision is not None
        and removed.revision is not None
    )
    assert again.revision > removed.revision
    assert [
        body["account"]
        for body in harness.events_of(catalogue.EVENT_DOMAIN_REMOVED, removed.command_id)
    ] == ["acme"]
    own = await harness.ask(
        catalogue.RPC_DOMAIN_HISTORY, ShowHistory(domain=domain, account="other")
    )
    assert len(own.entries) == 1
    everything = await harness.ask(
        catalogue.RPC_DOMAIN_HISTORY, ShowHistory(domain=domain, limit=2)
    )
    assert [entry.command for entry in everything.entries] == [
        catalogue.CMD_DOMAIN_REGISTER,
        catalogue.CMD_DOMAIN_REMOVE,
    ]
    assert everything.next is not None


async def test_a_wildcard_and_the_hosts_under_it_belong_to_one_account(
    harness: ConfigHarness,
) -> None:
    family = domain_name("family")
    assert (await harness.register(f"*.{family}")).outcome is Outcome.APPLIED
    assert (await harness.register(f"www.{family}", account="mallory")).codes == ["domain.taken"]
    assert (await harness.register(f"www.{family}")).outcome is Outcome.APPLIED
    assert (await harness.register(f"a.www.{family}", account="mallory")).outcome is Outcome.APPLIED
    assert (await harness.register(f"*.www.{family}")).codes == ["domain.taken"]


async def test_a_reseal_keeps_the_revision_and_raises_the_epoch_of_the_bundle(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    await harness.enable(domain, name=f"{domain}-old")
    live = await harness.enable(domain, name=f"{domain}-new")
    page = await harness.ask(catalogue.RPC_PAIR_SEALED, PageSealed(below=2, limit=500), "operator")
    kept = {pair.pair_id: pair for pair in page.pairs if pair.domain == domain}
    assert set(kept) == {f"pair-{domain}-old", f"pair-{domain}-new"}
    commands = []
    for pair_id in kept:
        body = ResealPair(
            domain=domain,
            account="acme",
            pair_id=pair_id,
            old_epoch=1,
            sealed_key=SealedKey(epoch=2, box="bmV3"),
        )
        commands.append(await harness.send(catalogue.CMD_PAIR_RESEAL, body, user="operator"))
        assert (await harness.settled(commands[-1])).outcome is Outcome.APPLIED
    bundle = await harness.bundle(domain)
    assert (bundle.revision, bundle.epoch, bundle.pairs[0].sealed_key.box) == (
        live.revision,
        2,
        "bmV3",
    )
    said = [
        body
        for command in commands
        for body in harness.events_of(catalogue.EVENT_DOMAIN_CHANGED, command)
    ]
    assert [(body["change"], body["revision"]) for body in said] == [("resealed", live.revision)]
    again = await harness.send(catalogue.CMD_PAIR_RESEAL, body, user="operator")
    assert (await harness.settled(again)).codes == ["pair.changed"]
    page = await harness.ask(catalogue.RPC_PAIR_SEALED, PageSealed(below=2, limit=500), "operator")
    assert domain not in {pair.domain for pair in page.pairs}


async def test_pages_give_every_domain_once_and_the_hash_of_its_exact_bundle(
    harness: ConfigHarness,
) -> None:
    own = sorted([domain_name("page") for _ in range(5)])
    for domain in own:
        await harness.register(domain, account="pager")
    listed: list[str] = []
    after: str | None = ""
    while after is not None:
        part = await harness.ask(
            catalogue.RPC_DOMAIN_LIST,
            ListDomains(account="pager", after=after, limit=2),
        )
        listed += [view.domain for view in part.domains]
        after = part.next
    assert listed == own
    hashes: dict[str, str] = {}
    after = ""
    while after is not None:
        rows = await harness.ask(
            catalogue.RPC_BUNDLE_PAGE, PageBundles(after=after, limit=3), "edge_sync"
        )
        assert [row.domain for row in rows.rows] == sorted(row.domain for row in rows.rows)
        hashes |= {row.domain: row.hash for row in rows.rows}
        after = rows.next
    for domain in own:
        answer = await harness.ask(catalogue.RPC_BUNDLE_GET, GetBundle(domain=domain), "edge_sync")
        assert answer.payload is not None
        assert sha256(answer.payload.encode()).hexdigest() == hashes[domain]
