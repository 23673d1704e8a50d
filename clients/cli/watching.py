"""The operators' commands: events, dead letters, and the topology of streams and consumers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from clients.cli.command import Context, command
from clients.cli.output import format_second, printable
from clients.platform import Event
from clients.platform.connection import PlatformConnection
from shared import catalogue, topology
from shared import subjects as s
from shared.catalogue_row import AnswerT, Query
from shared.contracts.findings import Code, finding
from shared.contracts.queries import DeadDone, DeadLetter, ListDead, OneDead
from shared.errors import Refused, SettingsError

dead_app = typer.Typer(
    help="Messages that no service could handle: list, show, replay or drop.",
    no_args_is_help=True,
)
topology_app = typer.Typer(
    help="Streams, consumers and buckets: compare or apply.", no_args_is_help=True
)
SequenceArgument = Annotated[
    int, typer.Argument(min=1, help="Its number in 'edgetls dead list'.", metavar="SEQUENCE")
]
ReplicasOption = Annotated[int, typer.Option(min=1, max=5, help="Copies of each stream.")]
_JETSTREAM_SECONDS: Final = 10
_EVENT_TYPE: Final = re.compile(
    re.escape(s.EVENTS_ALL.removesuffix(".>")) + r"(\.[A-Za-z0-9_-]+|\.\*)*(\.>)?"
)
_SHOWN_FIELDS: Final = (
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
"""The fields of an event's body that its line shows, where they have a value."""


async def follow_events(
    context: Context,
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
    """Show events in order, none missed and none twice; Ctrl-C ends it. With --json, one object a
    line."""
    if _EVENT_TYPE.fullmatch(subject) is None:
        raise SettingsError(
            f"--type {subject!r} names no events: write {s.EVENTS_ALL!r}, or one type of them"
        )
    async with context.platform() as platform:
        async for event in platform.events(since, follow=follow, subject=subject):
            context.output.data_line(_event_json(event))
            context.output.line(_event_line(event))


@command(dead_app, "list", examples=["edgetls dead list", "edgetls dead list --json"])
async def list_dead_letters(context: Context) -> None:
    """List the dead letters of all services."""
    # Each service answers for the dead letters that it put there itself. All are in one stream, so
    # the sequence puts them in order.
    letters: list[DeadLetter] = []
    async with context.connection("operator") as connection:
        for service in s.DEAD_OWNERS:
            query = catalogue.RPC_DEAD_LIST[service]
            async for page in connection.ask_pages(query, ListDead()):
                letters += page.letters
    letters.sort(key=lambda letter: letter.sequence)
    context.output.show_list(
        letters,
        {
            "sequence": lambda letter: letter.sequence,
            "time": lambda letter: format_second(letter.time),
            "stream": lambda letter: letter.stream,
            "subject": lambda letter: letter.subject,
            "reason": lambda letter: letter.reason,
        },
        empty="no dead letters",
    )


@command(dead_app, "show", examples=["edgetls dead show 17"])
async def show_dead_letter(context: Context, sequence: SequenceArgument) -> None:
    """Show a dead letter: why it died, its headers, and its body (none where it carried a sealed
    key)."""
    async with context.connection("operator") as connection:
        letter = await _ask_owner(connection, catalogue.RPC_DEAD_SHOW, sequence)
    fields: list[tuple[str, object]] = [
        ("sequence", letter.sequence),
        ("reason", letter.reason),
        ("subject", letter.subject),
        ("stream", letter.stream),
        ("time", format_second(letter.time)),
    ]
    fields += sorted(letter.headers.items())
    fields.append(("body", letter.body or "not kept"))
    context.output.show_record(letter, fields)


@command(dead_app, "replay", examples=["edgetls dead replay 17"])
async def replay_dead_letter(context: Context, sequence: SequenceArgument) -> None:
    """Send the message of a dead letter again, once the cause is fixed."""
    await _settle_dead_letter(context, catalogue.RPC_DEAD_REPLAY, sequence)


@command(dead_app, "drop", examples=["edgetls dead drop 17"])
async def drop_dead_letter(context: Context, sequence: SequenceArgument) -> None:
    """Delete a dead letter for good."""
    await _settle_dead_letter(context, catalogue.RPC_DEAD_DROP, sequence)


@command(topology_app, "plan", examples=["edgetls topology plan", "edgetls topology plan --json"])
async def plan_topology(context: Context, replicas: ReplicasOption = 1) -> None:
    """Show what 'apply' would change; change nothing."""
    async with context.connection("topology") as connection:
        jetstream = connection.client.jetstream(timeout=_JETSTREAM_SECONDS)
        _show_changes(context, await topology.plan(jetstream, replicas), "would be changed")


@command(
    topology_app,
    "apply",
    examples=["edgetls topology apply", "edgetls topology apply --replicas 3"],
)
async def apply_topology(context: Context, replicas: ReplicasOption = 1) -> None:
    """Create or change streams, consumers and buckets as this version needs them. A second call
    changes nothing."""
    async with context.connection("topology") as connection:
        jetstream = connection.client.jetstream(timeout=_JETSTREAM_SECONDS)
        _show_changes(context, await topology.apply(jetstream, replicas), "changed")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    command(
        app,
        "events",
        examples=[
            "edgetls events",
            "edgetls events --since 1 --no-follow --json",
            "edgetls events --type 'https.event.balance.>'",
        ],
    )(follow_events)
    app.add_typer(dead_app, name="dead")
    app.add_typer(topology_app, name="topology")


async def _settle_dead_letter(
    context: Context, queries: Mapping[str, Query[OneDead, DeadDone]], sequence: int
) -> None:
    async with context.connection("operator") as connection:
        done = await _ask_owner(connection, queries, sequence)
    context.output.data(done)
    context.output.line(f"dead letter {done.sequence}: {done.done}")


async def _ask_owner(
    connection: PlatformConnection, queries: Mapping[str, Query[OneDead, AnswerT]], sequence: int
) -> AnswerT:
    """Ask the services one after the other: the sequence does not tell which of them put the
    dead letter there, and the others do not know it."""
    for query in queries.values():
        try:
            return await connection.ask(query, OneDead(sequence=sequence))
        except Refused as refused:
            if [one.code for one in refused.findings] != [Code.DEAD_UNKNOWN]:
                raise
    raise Refused([finding(Code.DEAD_UNKNOWN)])


def _show_changes(context: Context, changes: list[topology.TopologyChange], done: str) -> None:
    different = [change for change in changes if change.action != "same"]
    context.output.data([vars(change) for change in changes])
    context.output.show_table(
        different,
        {
            "kind": lambda change: change.kind,
            "name": lambda change: change.name,
            "action": lambda change: change.action,
            "detail": lambda change: change.detail,
        },
        empty="nothing differs",
    )
    context.output.line(f"{len(different)} of {len(changes)} {done}")


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
    name = event.type.removeprefix(s.EVENTS_ALL.removesuffix(">")).removesuffix(".v1")
    details = []
    for field in _SHOWN_FIELDS:
        value = event.body.get(field)
        if value not in (None, [], ""):
            details.append(f"{field}={value}")
    # Milliseconds: three of the six decimals.
    time = f"{event.time:%H:%M:%S.%f}"[:-3]
    return printable(f"{event.sequence:>6} {time} {name:<18} {event.about} {' '.join(details)}")
