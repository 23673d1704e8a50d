"""Events, dead letters, and the topology of streams and consumers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from clients.cli.command import Link, command
from clients.cli.output import plain
from clients.platform import Event
from clients.platform.connection import Reach
from shared import catalogue, topology
from shared import subjects as s
from shared.catalogue_row import AnswerT, Query
from shared.contracts.findings import Code, finding
from shared.contracts.queries import DeadDone, DeadLetter, ListDead, OneDead
from shared.errors import Refused, SettingsError

dead_app = typer.Typer(
    help="What no service could handle: list, show, replay or drop.", no_args_is_help=True
)
topology_app = typer.Typer(
    help="Streams, consumers and buckets: compare or apply.", no_args_is_help=True
)
SequenceArgument = Annotated[
    int, typer.Argument(min=1, help="Its number in 'edgetls dead list'.", metavar="SEQUENCE")
]
_TYPE: Final = re.compile(
    re.escape(s.EVENTS_ALL.removesuffix(".>")) + r"(\.[A-Za-z0-9_-]+|\.\*)*(\.>)?"
)


async def events(
    link: Link,
    since: Annotated[
        int | None, typer.Option(min=1, help="Start at this sequence; 1: all that is kept.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Keep listening for new events.")
    ] = True,
    subject: Annotated[
        str, typer.Option("--type", help="Only these events; wildcards allowed.")
    ] = s.EVENTS_ALL,
) -> None:
    """Shows events in order, none missed and none twice; Ctrl-C ends it. With --json, one object a
    line."""
    if _TYPE.fullmatch(subject) is None:
        raise SettingsError(
            f"--type {subject!r} names no events: write {s.EVENTS_ALL!r}, or one type of them"
        )
    async with link.platform() as platform:
        async for event in platform.events(since, follow=follow, subject=subject):
            link.out.each(_event_json(event))
            link.out.line(_event_line(event))


@command(dead_app, "list", examples=["edgetls dead list", "edgetls dead list --json"])
async def dead_list(link: Link) -> None:
    """Every dead letter, of all services."""
    letters: list[DeadLetter] = []
    async with link.reach("operator") as reach:
        for service in s.DEAD_OWNERS:
            after: int | None = 0
            while after is not None:
                page = await reach.ask(catalogue.RPC_DEAD_LIST[service], ListDead(after=after))
                letters += page.letters
                after = page.next
    letters.sort(key=lambda letter: letter.sequence)
    link.out.data(letters)
    link.out.table(
        ("sequence", "time", "stream", "subject", "reason"),
        [
            (x.sequence, f"{x.time:%Y-%m-%d %H:%M:%S}", x.stream, x.subject, x.reason)
            for x in letters
        ],
        empty="no dead letters",
    )


@command(dead_app, "show", examples=["edgetls dead show 17"])
async def dead_show(link: Link, sequence: SequenceArgument) -> None:
    """One dead letter: why it died, its headers, and its body (none where it carried a sealed
    key)."""
    async with link.reach("operator") as reach:
        letter = await _ask_owner(reach, catalogue.RPC_DEAD_SHOW, sequence)
    link.out.data(letter)
    rows = [
        ("sequence", str(letter.sequence)),
        ("reason", letter.reason),
        ("subject", letter.subject),
        ("stream", letter.stream),
        ("time", f"{letter.time:%Y-%m-%d %H:%M:%S}"),
    ]
    link.out.table(
        ("", ""), [*rows, *sorted(letter.headers.items()), ("body", letter.body or "not kept")]
    )


@command(dead_app, "replay", examples=["edgetls dead replay 17"])
async def dead_replay(link: Link, sequence: SequenceArgument) -> None:
    """Sends its message again, once the cause is fixed."""
    await _settle_dead(link, catalogue.RPC_DEAD_REPLAY, sequence)


@command(dead_app, "drop", examples=["edgetls dead drop 17"])
async def dead_drop(link: Link, sequence: SequenceArgument) -> None:
    """Deletes it for good."""
    await _settle_dead(link, catalogue.RPC_DEAD_DROP, sequence)


@command(topology_app, "plan", examples=["edgetls topology plan", "edgetls topology plan --json"])
async def topology_plan(
    link: Link,
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Copies of each stream.")] = 1,
) -> None:
    """What 'apply' would change: nothing is changed."""
    async with link.reach("topology") as reach:
        _show_changes(
            link,
            await topology.plan(reach.client.jetstream(timeout=10), replicas),
            "would be changed",
        )


@command(
    topology_app,
    "apply",
    examples=["edgetls topology apply", "edgetls topology apply --replicas 3"],
)
async def topology_apply(
    link: Link,
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Copies of each stream.")] = 1,
) -> None:
    """Makes streams, consumers and buckets what shared/topology.py says; a second call changes
    nothing."""
    async with link.reach("topology") as reach:
        _show_changes(
            link, await topology.apply(reach.client.jetstream(timeout=10), replicas), "changed"
        )


def add_to(app: typer.Typer) -> None:
    command(
        app,
        "events",
        examples=[
            "edgetls events",
            "edgetls events --since 1 --no-follow --json",
            "edgetls events --type 'https.event.balance.>'",
        ],
    )(events)
    app.add_typer(dead_app, name="dead")
    app.add_typer(topology_app, name="topology")


async def _settle_dead(
    link: Link, queries: Mapping[str, Query[OneDead, DeadDone]], sequence: int
) -> None:
    async with link.reach("operator") as reach:
        done = await _ask_owner(reach, queries, sequence)
    link.out.data(done)
    link.out.line(f"dead letter {done.sequence}: {done.done}")


async def _ask_owner(
    reach: Reach, queries: Mapping[str, Query[OneDead, AnswerT]], sequence: int
) -> AnswerT:
    """Ask the services one after the other: the sequence does not tell which of them put the
    dead letter there, and the others do not know it."""
    for query in queries.values():
        try:
            return await reach.ask(query, OneDead(sequence=sequence))
        except Refused as refused:
            if [one.code for one in refused.findings] != [Code.DEAD_UNKNOWN]:
                raise
    raise Refused([finding(Code.DEAD_UNKNOWN)])


def _show_changes(link: Link, changes: list[topology.TopologyChange], done: str) -> None:
    link.out.data([vars(change) for change in changes])
    link.out.table(
        ("kind", "name", "action", "detail"),
        [(c.kind, c.name, c.action, c.detail) for c in changes if c.action != "same"],
        empty="nothing differs",
    )
    link.out.line(f"{sum(c.action != 'same' for c in changes)} of {len(changes)} {done}")


def _event_json(event: Event) -> dict[str, Any]:
    return {
        "sequence": event.sequence,
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "about": event.about,
        "time": event.time.isoformat(),
        "cause": event.cause,
        "body": event.body,
    }


def _event_line(event: Event) -> str:
    what = event.type.removeprefix(s.EVENTS_ALL.removesuffix(">")).removesuffix(".v1")
    told = (
        "outcome",
        "change",
        "revision",
        "codes",
        "days",
        "not_after",
        "nodes",
        "slowest_ms",
        "balance",
        "currency",
        "missing",
    )
    detail = " ".join(
        f"{key}={event.body[key]}" for key in told if event.body.get(key) not in (None, [], "")
    )
    return plain(
        f"{event.sequence:>6} {event.time:%H:%M:%S.%f}"[:-3] + f" {what:<18} {event.about} {detail}"
    )
