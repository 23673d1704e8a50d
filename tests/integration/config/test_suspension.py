"""Suspension by billing's word: what the nodes are given, what is kept, and how it ends."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from shared import catalogue
from shared.contracts.accounts import AccountView, ResumeAccount, SetResumption, ShowAccount
from shared.contracts.balance import BalanceEvent
from shared.contracts.domains import DomainState, Outcome
from shared.contracts.edge import BundleKind
from shared.contracts.queries import ShowHistory
from shared.ids import new_id
from tests.integration.config.harness import ConfigHarness, domain_name
from tests.support.waiting import until


async def tell(
    harness: ConfigHarness, account: str, change: Literal["overdue", "settled"], crossing: int
) -> str:
    subject = (
        catalogue.EVENT_BALANCE_OVERDUE if change == "overdue" else catalogue.EVENT_BALANCE_SETTLED
    )
    event = BalanceEvent(
        account=account,
        change=change,
        crossing=crossing,
        balance=Decimal(-1 if change == "overdue" else 1),
        limit=None,
        currency="USD",
        hours_left=None,
        at=datetime.now(UTC),
    )
    return await harness.send(subject, event, user="billing")


async def https(harness: ConfigHarness, account: str) -> str:
    domain = domain_name("suspend")
    await harness.register(domain, account)
    await harness.enable(domain, account)
    return domain


async def until_kind(harness: ConfigHarness, domain: str, kind: BundleKind) -> None:
    async def is_so() -> bool:
        return (await harness.bundle(domain)).kind is kind

    await until(is_so, f"{domain} is {kind}")


async def account_of(harness: ConfigHarness, account: str) -> AccountView:
    return await harness.ask(catalogue.RPC_ACCOUNT_SHOW, ShowAccount(account=account))


async def test_an_overdue_account_is_refused_by_nodes_and_gets_its_certificates_back_when_it_paid(
    harness: ConfigHarness,
) -> None:
    account, other = f"late-{new_id()[:8]}", f"paid-{new_id()[:8]}"
    domains = [await https(harness, account) for _ in range(3)]
    plain, others = domain_name("plain"), await https(harness, other)
    await harness.register(plain, account)
    before = await harness.bundle(domains[0])
    overdue = await tell(harness, account, "overdue", 1)
    for domain in domains:
        await until_kind(harness, domain, BundleKind.SUSPENDED)
    bundle = await harness.bundle(domains[0])
    assert bundle.revision > before.revision and bundle.pairs == []
    view = await harness.show(domains[0], account)
    assert view.state is DomainState.SUSPENDED and view.certificates
    assert view.suspension is not None and (view.suspension.reason, view.suspension.resumes) == (
        "overdue",
        "automatic",
    )
    shown = await account_of(harness, account)
    assert shown.suspension is not None and not shown.suspension.settled
    assert (shown.domains, shown.enabled, shown.disabled, shown.suspended) == (4, 0, 1, 3)
    assert (await harness.show(plain, account)).state is DomainState.DISABLED
    assert (await harness.bundle(others)).kind is BundleKind.HTTPS
    assert harness.changed_all(overdue) == dict.fromkeys(domains, "suspended")

    settled = await tell(harness, account, "settled", 2)
    for domain in domains:
        await until_kind(harness, domain, BundleKind.HTTPS)
    assert (await harness.bundle(domains[0])).pairs == before.pairs
    assert (await harness.show(domains[0], account)).suspension is None
    assert (await account_of(harness, account)).enabled == 3
    await until(
        lambda: harness.changed_all(settled) == dict.fromkeys(domains, "resumed"),
        "everybody is told",
    )


async def test_a_suspension_holds_for_what_is_registered_and_enabled_later(
    harness: ConfigHarness,
) -> None:
    account = f"late-{new_id()[:8]}"
    await tell(harness, account, "overdue", 1)

    async def suspended() -> bool:
        return (await account_of(harness, account)).suspension is not None

    await until(suspended, "the account is suspended")
    domain = domain_name("later")
    await harness.register(domain, account)
    settled = await harness.enable(domain, account)
    assert settled.outcome is Outcome.APPLIED
    bundle = await harness.bundle(domain)
    assert (bundle.kind, bundle.pairs) == (BundleKind.SUSPENDED, [])
    await tell(harness, account, "settled", 2)
    await until_kind(harness, domain, BundleKind.HTTPS)


async def test_words_that_come_late_or_twice_change_nothing(harness: ConfigHarness) -> None:
    account = f"late-{new_id()[:8]}"
    domain = await https(harness, account)
    await tell(harness, account, "settled", 5)
    await tell(harness, account, "overdue", 4)
    await tell(harness, account, "overdue", 6)
    await until_kind(harness, domain, BundleKind.SUSPENDED)
    await tell(harness, account, "overdue", 6)
    await tell(harness, account, "settled", 7)
    await until_kind(harness, domain, BundleKind.HTTPS)
    history = await harness.ask(catalogue.RPC_DOMAIN_HISTORY, ShowHistory(domain=domain))
    words = [entry.command for entry in history.entries if entry.command.startswith("https.event")]
    assert words == [catalogue.EVENT_BALANCE_SETTLED, catalogue.EVENT_BALANCE_OVERDUE]


async def test_a_suspension_half_done_when_config_dies_is_finished_and_done_once(
    harness: ConfigHarness,
) -> None:
    account = f"late-{new_id()[:8]}"
    domains = [domain_name("many") for _ in range(300)]
    await harness.database.executemany(
        "insert into domains (name, parent, account, service_type, origin, trust, settings, "
        "suspended, removed,"
        " revision, registered_revision, registered_at, bundle, bundle_hash, bundle_epoch) "
        "values ($1, 'example.com',"
        ' $2, \'video\', \'{"scheme": "http", "host": "origin.example.com", "port": 80}\', '
        "'public', '{}', false,"
        " false, 1, 1, now(), '', '', 0)",
        [(domain, account) for domain in domains],
    )
    cause = await tell(harness, account, "overdue", 1)
    told = "select count(*) from history where command_id = $1"
    await until(lambda: harness.database.fetchval(told, cause), "it began", every=0.001)
    harness.kill()
    done = "select count(*) from domains where account = $1 and suspended"

    async def all_done() -> bool:
        return bool(await harness.database.fetchval(done, account) == len(domains))

    await until(all_done, "every domain is suspended")
    assert await harness.database.fetchval(told, cause) == len(domains)
    await harness.ready()
    await harness.database.execute("delete from domains where account = $1", account)


async def test_an_account_set_so_is_resumed_by_hand_and_only_with_a_balance_above_0(
    harness: ConfigHarness,
) -> None:
    account = f"hand-{new_id()[:8]}"
    domain = await https(harness, account)
    by_hand = SetResumption(account=account, resumption="by_hand")
    for expected in (Outcome.APPLIED, Outcome.UNCHANGED):
        sent = await harness.send(catalogue.CMD_ACCOUNT_RESUMPTION, by_hand, user="operator")
        assert (await harness.settled(sent)).outcome is expected
    resume = ResumeAccount(account=account)
    nothing = await harness.settled(
        await harness.send(catalogue.CMD_ACCOUNT_RESUME, resume, user="operator")
    )
    assert nothing.outcome is Outcome.UNCHANGED
    await tell(harness, account, "overdue", 1)
    await until_kind(harness, domain, BundleKind.SUSPENDED)
    refused = await harness.settled(
        await harness.send(catalogue.CMD_ACCOUNT_RESUME, resume, user="operator")
    )
    assert (refused.outcome, refused.codes) == (Outcome.REFUSED, ["account.overdue"])
    await tell(harness, account, "settled", 2)

    async def settled() -> bool:
        suspension = (await account_of(harness, account)).suspension
        return suspension is not None and suspension.settled and suspension.resumes == "by_hand"

    await until(settled, "the balance is settled, the account still suspended")
    assert (await harness.bundle(domain)).kind is BundleKind.SUSPENDED
    done = await harness.settled(await harness.send(catalogue.CMD_ACCOUNT_RESUME, resume))
    assert done.outcome is Outcome.APPLIED
    await until_kind(harness, domain, BundleKind.HTTPS)
