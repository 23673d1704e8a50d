"""Two replicas of config are killed and stopped in turn with the broker and PostgreSQL, while 2,000
commands come in: every kind of a domain's, and a library whose certificates are deployed, replaced,
followed and deleted meanwhile.

The same commands run once undisturbed, for other domains: the final states must be equal.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import catalogue
from shared import subjects as s
from shared.contracts.base import Contract, SealedKey
from shared.contracts.certificates import (
    DeleteCertificate,
    DeployCertificate,
    RollbackCertificate,
    StoreCertificate,
)
from shared.contracts.commands import (
    ChangeSettings,
    DisableHttps,
    HstsChange,
    RedirectChange,
    RegisterDomain,
    RemoveDomain,
    SubmitCertificate,
    SubmittedPair,
)
from shared.contracts.domains import Origin, RedirectMode
from shared.contracts.edge import Bundle
from shared.contracts.judging import JudgedPair, JudgeSubmission
from shared.messages import Outgoing
from shared.messaging.cloudevents import outgoing
from shared.messaging.publisher import Publisher
from tests.integration.config.harness import SEALED_BOX, ConfigHarness, config_harness
from tests.support.waiting import LIMIT_SECONDS, until

DOMAINS, PER_DOMAIN = 200, 10
WILD, SPARE = ("wild-0", "wild-1"), ("spare-0", "spare-1")
ACCOUNT = "replicas"
REPLICAS = ("config", "config-2")
VICTIMS = ("config", "nats", "config-2", "postgres", "a stopped config-2")
COMMANDS_BETWEEN_BLOWS = 110
LONGEST_PAUSE = timedelta(seconds=30)
"""Between a kill and the next command that is settled and told. A lease lives for 3 s, a start
takes 2 s; the rest is for a machine that is busy."""
LEAST_STOPPED_SECONDS = 6.0
"""Twice a lease's life: the other replica takes over every lease meanwhile."""
WHOLE_RUN_SECONDS = 180.0
"""A limit for 2,000 commands, which take 8 s on two quiet cores."""


@dataclass(frozen=True)
class CommandRun:
    """The commands of one run. ``name`` is in its domains, and its ids begin with it."""

    name: str

    def domain(self, index: int) -> str:
        return f"d{index}.{self.name}.example.com"

    def first(self, index: int) -> list[Outgoing]:
        """Return the registration and the first submission of a domain.

        They are carried out before the others: then it is certain what overtakes what.
        """
        return [self._register(index, 0, self.account), self._submit(index, 1, "a")]

    def others(self, index: int) -> list[Outgoing]:
        """Return a domain's other commands, in the order in which they are sent.

        Of four domains one is disabled and enabled again (every second of these is removed at the
        end), one is rolled back, and one gets a certificate of the library, which may overtake its
        submission.
        """
        changes = [
            self._settings(index, 2, redirect=RedirectChange(mode=RedirectMode.TO_HTTPS)),
            self._settings(index, 3, redirect=RedirectChange(status=308)),
            self._register(index, 4, self.account),
            self._submit(index, 5, "b"),
            self._settings(index, 6, http2=True),
        ]
        if index % 4:
            return [
                *changes,
                self._settings(index, 7, hsts=HstsChange(max_age=3600)),
                self._eighth_command(index),
                self._settings(index, 9, tls_min="1.3"),
            ]
        body = DisableHttps(domain=self.domain(index), account=self.account)
        changes += [
            self._message(index, 7, catalogue.CMD_HTTPS_DISABLE, body),
            self._submit(index, 8, "c"),
        ]
        if index % 8:
            return [*changes, self._settings(index, 9, http2=True)]
        gone = RemoveDomain(domain=self.domain(index), account=self.account)
        return [*changes, self._message(index, 9, catalogue.CMD_DOMAIN_REMOVE, gone)]

    def library_entries(self) -> list[Outgoing]:
        """Return the commands that store certificates: some for all domains, some for none."""
        return [self._store(title, 1) for title in (*WILD, *SPARE)]

    def library_changes(self) -> list[Outgoing]:
        """Return replacements, which the domains that use an entry follow, and deletions of the
        unused entries."""
        gone = [DeleteCertificate(name=title, account=self.account) for title in SPARE]
        return [
            *(self._store(title, 2) for title in WILD),
            *(
                self._of_library(f"{body.name}-gone", catalogue.CMD_CERTIFICATE_DELETE, body)
                for body in gone
            ),
        ]

    @property
    def account(self) -> str:
        """The run's own: names of certificates belong to an account."""
        return f"{ACCOUNT}-{self.name}"

    def _eighth_command(self, index: int) -> Outgoing:
        domain = self.domain(index)
        if index % 4 == 1:
            body = RollbackCertificate(domain=domain, account=self.account)
            return self._message(index, 8, catalogue.CMD_CERTIFICATE_ROLLBACK, body)
        if index % 4 == 2:
            wild = DeployCertificate(
                name=WILD[index // 4 % len(WILD)], account=self.account, domains=[domain]
            )
            return self._message(index, 8, catalogue.CMD_CERTIFICATE_DEPLOY, wild)
        return self._register(index, 8, "another")

    def _store(self, title: str, version: int) -> Outgoing:
        identity = f"lib-{self.name}-{title}-{version}"
        pair = SubmittedPair(
            certificate=f"{title}-{version}", sealed_key=SealedKey(epoch=0, box=SEALED_BOX)
        )
        body = StoreCertificate(
            name=title,
            account=self.account,
            submission_id=identity,
            pairs=[pair],
            overwrite=version > 1,
        )
        return self._of_library(f"{title}-{version}", catalogue.CMD_CERTIFICATE_STORE, body)

    def _of_library(self, number: str, subject: str, body: Contract) -> Outgoing:
        return outgoing(
            subject,
            body,
            source="platform",
            about=self.account,
            at=datetime.now(UTC),
            id=f"lib-{self.name}-{number}",
        )

    def _register(self, index: int, number: int, account: str) -> Outgoing:
        origin = Origin(scheme="http", host="origin.example.com", port=80)
        body = RegisterDomain(
            domain=self.domain(index), account=account, service_type="video", origin=origin
        )
        return self._message(index, number, catalogue.CMD_DOMAIN_REGISTER, body)

    def _submit(self, index: int, number: int, certificate: str) -> Outgoing:
        pair = SubmittedPair(certificate=certificate, sealed_key=SealedKey(epoch=0, box=SEALED_BOX))
        body = SubmitCertificate(
            domain=self.domain(index),
            account=self.account,
            submission_id=self._id(index, number),
            pairs=[pair],
        )
        return self._message(index, number, catalogue.CMD_CERTIFICATE_SUBMIT, body)

    def _settings(self, index: int, number: int, **wanted: Any) -> Outgoing:
        body = ChangeSettings(domain=self.domain(index), account=self.account, **wanted)
        return self._message(index, number, catalogue.CMD_SETTINGS_CHANGE, body)

    def _id(self, index: int, number: int) -> str:
        return f"{self.name}-{index}-{number}"

    def _message(self, index: int, number: int, subject: str, body: Contract) -> Outgoing:
        return outgoing(
            subject,
            body,
            source="platform",
            about=self.domain(index),
            at=datetime.now(UTC),
            id=self._id(index, number),
        )


@pytest.fixture
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ConfigHarness]:
    async with config_harness(tmp_path_factory.mktemp("replicas")) as harness:
        for replica in REPLICAS:
            await harness.start(replica, JUDGING_SECONDS=120)
        validator = asyncio.create_task(_accept_everything(harness))
        yield harness
        validator.cancel()
        await asyncio.gather(validator, return_exceptions=True)


async def _accept_everything(harness: ConfigHarness) -> None:
    """Answer every question of judging; the leaf is named after domain and certificate."""
    done: set[str] = set()
    while True:
        for identity, question in list(harness.questions.items()):
            if identity not in done:
                done.add(identity)
                await harness.verdict(question, pairs=[_judged_pair(harness, question)])
        await asyncio.sleep(0.01)


def _judged_pair(harness: ConfigHarness, question: JudgeSubmission) -> JudgedPair:
    certificate = question.pairs[0].certificate
    if not question.domains:
        return harness.pair(
            f"*.{question.account.removeprefix(ACCOUNT + '-')}.example.com",
            question.account,
            name=certificate,
        )
    (domain,) = question.domains
    return harness.pair(domain, question.account, name=f"{domain.split('.')[0]}-{certificate}")


@pytest.mark.timeout(900)
async def test_commands_survive_every_death_with_the_states_of_an_undisturbed_run(
    harness: ConfigHarness,
) -> None:
    undisturbed, disturbed = CommandRun("calm"), CommandRun("hit")
    await _carry_out_commands(harness, undisturbed)
    blows: list[tuple[str, datetime]] = []
    disturbing = asyncio.create_task(_disturb(harness, disturbed, blows))
    try:
        await _carry_out_commands(harness, disturbed)
    finally:
        disturbing.cancel()
        await asyncio.gather(disturbing, return_exceptions=True)
    for replica in REPLICAS:
        await harness.ready(replica)
    assert {victim for victim, _ in blows} == set(VICTIMS)
    assert await _final_states(harness, disturbed) == await _final_states(harness, undisturbed)
    await _assert_settled_once_and_in_order(harness, undisturbed)
    await _assert_settled_once_and_in_order(harness, disturbed)
    kept = [(title, 2, f"pair-{title}-2") for title in WILD]
    assert await _library_entries(harness, undisturbed) == kept
    assert await _library_entries(harness, disturbed) == kept
    await _assert_nothing_told_twice(harness)
    await _assert_short_pauses(harness, disturbed, blows)


async def _carry_out_commands(harness: ConfigHarness, run: CommandRun) -> None:
    indices = range(DOMAINS)
    await _send(harness, [run.library_entries(), *(run.first(index) for index in indices)])
    await _until_settled(harness, run, 2 * DOMAINS)
    await _until_library_settled(harness, run, len(run.library_entries()))
    others = [run.others(index) for index in indices]
    # Half of what is deployed follows, the other half finds what it would have followed.
    await _send(harness, [*others[: DOMAINS // 2], run.library_changes(), *others[DOMAINS // 2 :]])
    await _until_settled(harness, run, PER_DOMAIN * DOMAINS)
    await _until_library_settled(
        harness, run, len(run.library_entries()) + len(run.library_changes())
    )


async def _send(harness: ConfigHarness, queues: Sequence[Sequence[Outgoing]]) -> None:
    """Send each queue in order, all queues at once; wait for a broker that is away."""
    publisher = Publisher(harness.clients["platform"])

    async def send(messages: Sequence[Outgoing]) -> None:
        for message in messages:
            await publisher.publish(message, timeout=LIMIT_SECONDS)

    await asyncio.gather(*(send(queue) for queue in queues))


async def _count_settled(harness: ConfigHarness, run: CommandRun) -> int:
    """Return how many commands of domains are settled; -1 while the database is away."""
    try:
        return int(
            await harness.database.fetchval(
                "select count(*) from history where command_id like $1", f"{run.name}-%", timeout=30
            )
        )
    except Exception:
        return -1


async def _until_settled(harness: ConfigHarness, run: CommandRun, goal: int) -> None:
    async def reached() -> bool:
        return await _count_settled(harness, run) >= goal

    await until(
        reached,
        f"{goal} commands of the run {run.name} are settled",
        limit=WHOLE_RUN_SECONDS,
        every=0.05,
    )


async def _until_library_settled(harness: ConfigHarness, run: CommandRun, goal: int) -> None:
    """Wait until the library's commands are settled and no deployment is left to follow."""

    async def reached() -> bool:
        try:
            return bool(
                await harness.database.fetchval(
                    "select (select count(*) from history where command_id like $1 and domain "
                    "= '') = $2 and not exists"
                    " (select from deployments)",
                    f"lib-{run.name}-%",
                    goal,
                    timeout=30,
                )
            )
        except Exception:
            return False

    await until(
        reached,
        f"{goal} commands of the library of {run.name} are settled",
        limit=WHOLE_RUN_SECONDS,
        every=0.05,
    )


async def _library_entries(harness: ConfigHarness, run: CommandRun) -> list[tuple[str, int, str]]:
    rows = await harness.database.fetch(
        "select c.name, c.version, p.pair_id from certificates c join certificate_pairs p "
        "using (key)"
        " where account = $1 order by name",
        run.account,
    )
    return [tuple(row) for row in rows]


async def _disturb(
    harness: ConfigHarness, run: CommandRun, blows: list[tuple[str, datetime]]
) -> None:
    """Hit the next victim whenever some more commands were settled and the last one is back."""
    goal = 0
    for victim in itertools.cycle(VICTIMS):
        goal += COMMANDS_BETWEEN_BLOWS
        await _until_settled(harness, run, goal)
        goal = max(goal, await _count_settled(harness, run))
        for replica in REPLICAS:
            await harness.ready(replica)
        blows.append((victim, datetime.now(UTC)))
        if victim == "a stopped config-2":
            await _stop_for_a_while(harness)
        elif victim in REPLICAS:
            harness.kill(victim)
        else:
            harness.cluster.kill(victim)


async def _stop_for_a_while(harness: ConfigHarness) -> None:
    """Stop a replica until the other has settled and told something without it.

    The stopped one keeps its connections and whatever it had locked.
    """
    harness.suspend("config-2")
    stopped_at, began = datetime.now(UTC), time.monotonic()

    async def other_goes_on() -> bool:
        if time.monotonic() - began < LEAST_STOPPED_SECONDS:
            return False
        return bool(
            await harness.database.fetchval(
                "select exists (select from history where settled_at > $1)"
                " and exists (select from outbox where sent_at > $1)",
                stopped_at,
            )
        )

    try:
        await until(other_goes_on, "config goes on while config-2 is stopped", every=0.1)
    finally:
        harness.resume("config-2")


async def _final_states(harness: ConfigHarness, run: CommandRun) -> dict[str, Any]:
    rows = await harness.database.fetch(
        "select name, removed, pending_id, bundle from domains where name like $1",
        f"%.{run.name}.example.com",
    )
    assert len(rows) == DOMAINS
    states = {}
    for row in rows:
        bundle = Bundle.model_validate_json(row["bundle"])
        states[row["name"].split(".")[0]] = (
            bundle.kind,
            row["removed"],
            row["pending_id"],
            bundle.settings,
            [pair.pair_id for pair in bundle.pairs],
        )
    return states


async def _assert_settled_once_and_in_order(harness: ConfigHarness, run: CommandRun) -> None:
    """What overtakes nothing is settled in the order in which it was sent."""
    rows = await harness.database.fetch(
        "select command_id, domain, command, outcome, revision from history where command_id "
        "like $1 order by id",
        f"{run.name}-%",
    )
    counts = Counter(row["command_id"] for row in rows)
    assert len(counts) == DOMAINS * PER_DOMAIN and set(counts.values()) == {1}
    order: dict[str, list[int]] = {}
    for row in rows:
        if row["command"] != catalogue.CMD_CERTIFICATE_SUBMIT:
            order.setdefault(row["domain"], []).append(int(row["command_id"].split("-")[2]))
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert not [row for row in rows if row["outcome"] == "undecided"]


async def _assert_nothing_told_twice(harness: ConfigHarness) -> None:
    """Every message of the outbox was sent, and EVENTS holds each once."""
    await until(
        lambda: harness.database.fetchval(
            "select not exists (select from outbox where sent_at is null)"
        ),
        "all is sent",
    )
    doubled = await harness.database.fetch(
        "select message_id from outbox group by message_id having count(*) > 1"
    )
    assert not doubled
    admin = (await harness.cluster.client("topology")).jetstream(timeout=30)
    for subject in (catalogue.EVENT_COMMAND_SETTLED, catalogue.EVENT_DOMAIN_CHANGED):
        written = await harness.database.fetchval(
            "select count(*) from outbox where subject = $1", subject
        )
        info = await admin.stream_info(s.STREAM_EVENTS, subjects_filter=subject)
        assert info.state.subjects == {subject: written}


async def _assert_short_pauses(
    harness: ConfigHarness, run: CommandRun, blows: Sequence[tuple[str, datetime]]
) -> None:
    """Whichever replica was killed, commands went on to be settled and told soon.

    (``_stop_for_a_while`` has seen it of a stopped one.)
    """
    last = await harness.database.fetchval(
        "select max(settled_at) from history where command_id like $1", f"{run.name}-%"
    )
    for victim, at in blows:
        if victim not in REPLICAS or at >= last:
            continue
        settled = await harness.database.fetchval(
            "select min(settled_at) from history where settled_at > $1", at
        )
        sent = await harness.database.fetchval(
            "select min(sent_at) from outbox where sent_at > $1", at
        )
        pause = max(settled, sent) - at
        assert pause <= LONGEST_PAUSE, f"{victim}: nothing for {pause}, blows: {blows}"
