"""The commands on the fleet: nodes, epochs and trust, signed with the operator's fleet file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from clients.cli.command import Context, command
from clients.cli.output import format_date, format_second
from clients.cli.rotation import EpochRotation, rotate_epoch
from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile, FleetNode
from clients.fleet.keys import NodeCredentials, ensure_node
from clients.fleet.publish import send_commands
from clients.platform.connection import PlatformConnection
from shared import catalogue
from shared.contracts.edge import NodeView
from shared.contracts.queries import Nothing
from shared.errors import SettingsError, Unreachable

fleet_app = typer.Typer(
    help="Nodes, epochs and trust: show, enrol, label, drain, return, remove, rotate, trust "
    "(operator).",
    no_args_is_help=True,
)
LabelOption = Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")]
NodeArgument = Annotated[
    str, typer.Argument(help="Its id: lower-case letters, digits, hyphens.", metavar="NODE")
]
_VISIBLE_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.2
_RELOAD: Final = (
    "Make nats-server read its users again (SIGHUP; a platform of 'edgetls up' does it by itself)"
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.add_typer(fleet_app, name="fleet")


@command(fleet_app, "show", examples=["edgetls fleet show", "edgetls fleet show --json"])
async def show_fleet(context: Context) -> None:
    """Show every node: live or silent, in sync or behind, and its epochs."""
    async with context.platform("operator") as platform:
        view = await platform.fleet()
    context.output.data(view)
    context.output.show_table(
        view.nodes,
        {
            "node": lambda node: node.node,
            "state": lambda node: node.state,
            "in sync": lambda node: "yes" if node.in_sync else "no",
            "behind": lambda node: "-" if node.behind is None else node.behind,
            "epochs": lambda node: ", ".join(map(str, node.epochs)),
            "last seen": lambda node: format_second(node.last_seen, missing="never"),
            "labels": _format_labels,
        },
        empty="no nodes are enrolled",
    )
    context.output.line(
        f"epoch {view.epoch}, {view.domains} domains, bucket sequence {view.sequence}"
    )


@command(
    fleet_app,
    "enrol",
    examples=[
        "edgetls fleet enrol paris-1 --folder /etc/edgetls/paris-1 --label region=eu",
        "edgetls fleet enrol paris-1 --nkey UABC… --public-key MIIB…",
        "edgetls fleet enrol node-1",
    ],
)
async def enrol_node(
    context: Context,
    node: NodeArgument,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of its keys nats.nk, node.hpke; made if missing.")
    ] = None,
    nkey: Annotated[
        str | None, typer.Option(help="Public nkey of a node that made its own keys.")
    ] = None,
    public_key: Annotated[
        str | None, typer.Option(help="HPKE public key of such a node, base64.")
    ] = None,
    label: LabelOption = None,
) -> None:
    """Let a node into the fleet: add its NATS user, and seal every epoch's key to it.

    A node that is in the fleet file already needs its name only."""
    # The fleet file knows the node before edge_sync does: else a rotation between the two would
    # give the node no key of the new epoch. If the command then fails, the same call with the
    # node's name alone completes it. The node is marked as enrolled only when edge_sync shows it.
    given = _read_credentials(folder, nkey, public_key)
    fleet_file = context.profile.find_fleet_file()
    now = datetime.now(UTC)
    with FleetFile.edit(fleet_file) as fleet:
        if given is None and node not in fleet.nodes:
            raise SettingsError(
                f"{node} is not in the fleet file yet: name --folder, or --nkey and --public-key"
            )
        credentials = given or fleet.find_node(node)
        fleet.put_node(
            FleetNode(
                node=node,
                public_key=credentials.public_key,
                nkey=credentials.nkey,
                labels=_parse_labels(label or []),
            )
        )
        fleet.write_users()
    enrolment = commands.enrol_node(FleetFile.read(fleet_file), node, now)
    await _send_and_wait(context, enrolment, now, node, _is_enrolled)
    with FleetFile.edit(fleet_file) as fleet:
        fleet.mark_node(node, "enrolled")
    context.output.data({"node": node, "done": "enrolled"})
    context.output.line(f"{node} is enrolled. {_RELOAD}; then start its agent")


@command(
    fleet_app,
    "label",
    examples=["edgetls fleet label paris-1 --label region=eu --label city=paris"],
)
async def label_node(context: Context, node: NodeArgument, label: LabelOption = None) -> None:
    """Give a node these labels instead of those that it had."""
    labels = _parse_labels(label or [])
    now = datetime.now(UTC)
    fleet_file = context.profile.find_fleet_file()

    def has_labels(view: NodeView | None) -> bool:
        return view is not None and view.labels == labels

    relabel = commands.label_node(FleetFile.read(fleet_file), node, labels, now)
    await _send_and_wait(context, relabel, now, node, has_labels)
    # The next rotation enrols the nodes anew, with the labels of the fleet file.
    with FleetFile.edit(fleet_file) as fleet:
        fleet.put_node(fleet.find_node(node).model_copy(update={"labels": labels}))
    context.output.data({"node": node, "done": "labelled", "labels": labels})
    context.output.line(f"{node} is labelled")


@command(fleet_app, "drain", examples=["edgetls fleet drain paris-1"])
async def drain_node(context: Context, node: NodeArgument) -> None:
    """Stop counting a node for 'live everywhere'. It goes on serving until it is taken out of
    traffic."""
    fleet_file = context.profile.find_fleet_file()
    now = datetime.now(UTC)
    drain = commands.drain_node(FleetFile.read(fleet_file), node, now)
    await _send_and_wait(context, drain, now, node, _is_drained)
    with FleetFile.edit(fleet_file) as fleet:
        fleet.mark_node(node, "drained")
    context.output.data({"node": node, "done": "drained"})
    context.output.line(f"{node} is drained")


@command(fleet_app, "return", examples=["edgetls fleet return paris-1"])
async def return_node(context: Context, node: NodeArgument) -> None:
    """Count a drained node again."""
    fleet_file = context.profile.find_fleet_file()
    now = datetime.now(UTC)
    bring_back = commands.return_node(FleetFile.read(fleet_file), node, now)
    await _send_and_wait(context, bring_back, now, node, _is_enrolled)
    with FleetFile.edit(fleet_file) as fleet:
        fleet.mark_node(node, "enrolled")
    context.output.data({"node": node, "done": "returned"})
    context.output.line(f"{node} is returned")


@command(fleet_app, "remove", examples=["edgetls fleet remove paris-1"])
async def remove_node(context: Context, node: NodeArgument) -> None:
    """Take a node out for good: remove its NATS user, start a new epoch and seal every pair anew.

    The node keeps the keys that it held: the domains to re-key are listed."""
    fleet_file = context.profile.find_fleet_file()
    # An unknown node ends the command here, before anything is changed.
    FleetFile.read(fleet_file).find_node(node)
    async with context.connection("operator") as connection:
        rotation = await rotate_epoch(connection, fleet_file, context.output.note, without=node)
        await _wait_for_node(connection, node, _is_removed)
    rekey = sorted(rotation.domains)
    context.output.data(
        {"node": node, "done": "removed", "rekey": rekey, **_rotation_json(rotation)}
    )
    context.output.line(f"{node} is removed. {_RELOAD}")
    _show_rotation(context, rotation)
    context.output.show_rows(
        ("domains whose keys the node held (reissue their certificates)",),
        [(domain,) for domain in rekey],
        empty="the node held no keys",
    )


@command(fleet_app, "rotate", examples=["edgetls fleet rotate"])
async def rotate_keys(context: Context) -> None:
    """Start a new epoch, seal every kept pair to it and destroy the old epoch's key."""
    fleet_file = context.profile.find_fleet_file()
    async with context.connection("operator") as connection:
        rotation = await rotate_epoch(connection, fleet_file, context.output.note)
    context.output.data({"done": "rotated", **_rotation_json(rotation)})
    _show_rotation(context, rotation)


@command(fleet_app, "trust", examples=["edgetls fleet trust", "edgetls fleet trust --json"])
async def publish_trust(context: Context) -> None:
    """Publish the fleet file's trust document: the keys whose signatures edge_sync and the nodes
    accept.

    A document that is not newer than theirs changes nothing."""
    fleet = FleetFile.read(context.profile.find_fleet_file())
    document = commands.publish_trust(fleet)
    async with context.connection("operator") as connection:
        await send_commands(
            connection.client, [document], datetime.now(UTC), timeout=context.timeout
        )
    keys = []
    for key in fleet.trust_keys:
        keys.append(
            {"purpose": key.purpose, "key_id": key.key_id, "not_after": key.not_after.isoformat()}
        )
    context.output.data({"serial": fleet.trust_serial, "keys": keys, "done": "published"})
    context.output.show_table(
        fleet.trust_keys,
        {
            "purpose": lambda key: key.purpose,
            "key": lambda key: key.key_id,
            "until": lambda key: format_date(key.not_after),
        },
    )
    context.output.line(
        f"trust document {fleet.trust_serial} is published: the nodes have it within seconds"
    )


async def _send_and_wait(
    context: Context,
    fleet_command: commands.FleetCommand,
    at: datetime,
    node: str,
    holds: Callable[[NodeView | None], bool],
) -> None:
    """Send a command and wait until edge_sync's view of the node shows that it was carried out."""
    # The PubAck only confirms that the command is stored. Its event cannot be waited for: a command
    # that changes nothing (the node is drained already) causes none. So its state is compared.
    async with context.connection("operator") as connection:
        await send_commands(connection.client, [fleet_command], at, timeout=context.timeout)
        await _wait_for_node(connection, node, holds)


async def _wait_for_node(
    connection: PlatformConnection, node: str, holds: Callable[[NodeView | None], bool]
) -> None:
    """Ask edge_sync until its view of the node holds; Unreachable when it does not in time."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while True:
        fleet = await connection.ask(catalogue.RPC_FLEET_SHOW, Nothing())
        view = next((one for one in fleet.nodes if one.node == node), None)
        if holds(view):
            return
        if time.monotonic() > deadline:
            raise Unreachable(
                f"the command is stored, but edge_sync shows {node} as {_state_of(view)} after "
                f"{_VISIBLE_SECONDS:g} s: see its log and 'edgetls dead list' (a command that the "
                "operator's key did not sign becomes a dead letter)"
            )
        await asyncio.sleep(_POLL_SECONDS)


def _state_of(view: NodeView | None) -> str:
    """A removed node can also be missing in edge_sync's view."""
    return "removed" if view is None else view.state


def _is_enrolled(view: NodeView | None) -> bool:
    return _state_of(view) in ("live", "silent")


def _is_drained(view: NodeView | None) -> bool:
    return _state_of(view) == "drained"


def _is_removed(view: NodeView | None) -> bool:
    return _state_of(view) == "removed"


def _read_credentials(
    folder: Path | None, nkey: str | None, public_key: str | None
) -> NodeCredentials | None:
    """Return the named credentials, None when none are named. A folder without keys gets new
    ones."""
    if not (folder or nkey or public_key):
        return None
    if folder is not None and not (nkey or public_key):
        return ensure_node(folder)
    if folder is None and nkey and public_key:
        return NodeCredentials(nkey, public_key)
    raise SettingsError("name either --folder, or --nkey and --public-key")


def _parse_labels(texts: list[str]) -> dict[str, str]:
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise SettingsError(f"--label {text!r} is not key=value")
        labels[key] = value
    return labels


def _format_labels(node: NodeView) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))


def _rotation_json(rotation: EpochRotation) -> dict[str, object]:
    return {
        "epoch": rotation.epoch,
        "resealed": len(rotation.pairs),
        "unopened": sorted(rotation.unopened),
        "destroyed_epochs": rotation.destroyed,
    }


def _show_rotation(context: Context, rotation: EpochRotation) -> None:
    destroyed = ", ".join(map(str, rotation.destroyed)) or "none"
    context.output.line(
        f"epoch {rotation.epoch}: {len(rotation.pairs)} pairs sealed anew; destroyed epoch keys: "
        f"{destroyed}"
    )
    if rotation.unopened:
        context.output.line(
            f"{len(rotation.unopened)} pairs open with no key of the fleet file, so the old keys "
            "are kept: submit their certificates again"
        )
