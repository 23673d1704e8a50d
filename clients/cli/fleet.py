"""The fleet: nodes and epochs, by commands that the operator's fleet file signs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from clients.cli.command import Link, command
from clients.cli.rotation import Rotation, rotate
from clients.fleet import commands
from clients.fleet.fleet_file import FleetFile, FleetNode
from clients.fleet.keys import NodeCredentials, ensure_node
from clients.fleet.publish import send_commands
from clients.platform.connection import Reach
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
_KNOWN_SECONDS: Final = 15.0
_RELOAD: Final = "Have nats-server read its users again (SIGHUP; 'edgetls up' does it by itself)"


def add_to(app: typer.Typer) -> None:
    app.add_typer(fleet_app, name="fleet")


@command(fleet_app, "show", examples=["edgetls fleet show", "edgetls fleet show --json"])
async def show(link: Link) -> None:
    """Every node: live or silent, in sync or behind, and its epochs."""
    async with link.platform("operator") as platform:
        view = await platform.fleet()
    link.out.data(view)
    link.out.table(
        ("node", "state", "in sync", "behind", "epochs", "last seen", "labels"),
        [
            (
                n.node,
                n.state,
                "yes" if n.in_sync else "no",
                "-" if n.behind is None else n.behind,
                ", ".join(map(str, n.epochs)),
                "never" if n.last_seen is None else f"{n.last_seen:%Y-%m-%d %H:%M:%S}",
                ", ".join(f"{key}={value}" for key, value in sorted(n.labels.items())),
            )
            for n in view.nodes
        ],
        empty="no nodes are enrolled",
    )
    link.out.line(f"epoch {view.epoch}, {view.domains} domains, bucket sequence {view.sequence}")


@command(
    fleet_app,
    "enrol",
    examples=[
        "edgetls fleet enrol paris-1 --folder /etc/edgetls/paris-1 --label region=eu",
        "edgetls fleet enrol paris-1 --nkey UABC… --public-key MIIB…",
        "edgetls fleet enrol node-1",
    ],
)
async def enrol(
    link: Link,
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
    """Lets a node into the fleet: a NATS user, and every epoch's key sealed to it.

    A node that is in the fleet file already needs its name only."""
    named = _credentials(folder, nkey, public_key)
    fleet_file = link.place.fleet()
    now = datetime.now(UTC)
    with FleetFile.edit(fleet_file) as fleet:
        if named is None and node not in fleet.nodes:
            raise SettingsError(
                f"{node} is not in the fleet file yet: name --folder, or --nkey and --public-key"
            )
        credentials = named or fleet.find_node(node)
        fleet.put_node(
            FleetNode(
                node=node,
                public_key=credentials.public_key,
                nkey=credentials.nkey,
                labels=_labels(label or []),
            )
        )
        fleet.write_users()
    async with link.reach("operator") as reach:
        await send_commands(
            reach.client,
            [commands.enrol_node(FleetFile.read(fleet_file), node, now)],
            now,
            timeout=link.patience,
        )
        await _until(reach, node, _is("live", "silent"))
    with FleetFile.edit(fleet_file) as fleet:
        fleet.mark_node(node, "enrolled")
    link.out.data({"node": node, "done": "enrolled"})
    link.out.line(f"{node} is enrolled. {_RELOAD}; then start its agent")


@command(
    fleet_app,
    "label",
    examples=["edgetls fleet label paris-1 --label region=eu --label city=paris"],
)
async def relabel(link: Link, node: NodeArgument, label: LabelOption = None) -> None:
    """Gives a node these labels instead of those that it had."""
    labels, now = _labels(label or []), datetime.now(UTC)
    order = commands.label_node(FleetFile.read(link.place.fleet()), node, labels, now)
    async with link.reach("operator") as reach:
        await send_commands(reach.client, [order], now, timeout=link.patience)
        await _until(reach, node, lambda found: found is not None and found.labels == labels)
    with FleetFile.edit(
        link.place.fleet()
    ) as fleet:  # or the next rotation would enrol it with the old ones
        fleet.put_node(fleet.find_node(node).model_copy(update={"labels": labels}))
    link.out.data({"node": node, "done": "labelled", "labels": labels})
    link.out.line(f"{node} is labelled")


@command(fleet_app, "drain", examples=["edgetls fleet drain paris-1"])
async def drain(link: Link, node: NodeArgument) -> None:
    """The node no longer counts for 'live everywhere'; it goes on serving until it is taken out of
    traffic."""
    await _drain(link, node, drained=True)


@command(fleet_app, "return", examples=["edgetls fleet return paris-1"])
async def bring_back(link: Link, node: NodeArgument) -> None:
    """A drained node counts again."""
    await _drain(link, node, drained=False)


@command(fleet_app, "remove", examples=["edgetls fleet remove paris-1"])
async def remove(link: Link, node: NodeArgument) -> None:
    """Takes a node out for good: its NATS user goes, a new epoch starts, every pair is sealed anew.

    The node keeps what it held: the domains to re-key are listed."""
    FleetFile.read(link.place.fleet()).find_node(node)
    async with link.reach("operator") as reach:
        done = await rotate(reach, link.place.fleet(), link.out.note, without=node)
        await _until(reach, node, _is("removed"))
    link.out.data({"node": node, "done": "removed", "rekey": sorted(done.domains), **_told(done)})
    link.out.line(f"{node} is removed. {_RELOAD}")
    _report(link, done)
    link.out.table(
        ("domains whose keys the node held (reissue their certificates)",),
        [(d,) for d in sorted(done.domains)],
        empty="the node held no keys",
    )


@command(fleet_app, "rotate", examples=["edgetls fleet rotate"])
async def rotate_epoch(link: Link) -> None:
    """Starts a new epoch, seals every kept pair to it and destroys the old epoch's key."""
    async with link.reach("operator") as reach:
        done = await rotate(reach, link.place.fleet(), link.out.note)
    link.out.data({"done": "rotated", **_told(done)})
    _report(link, done)


@command(fleet_app, "trust", examples=["edgetls fleet trust", "edgetls fleet trust --json"])
async def publish_trust(link: Link) -> None:
    """Publishes the fleet file's trust document: whose keys edge_sync and the nodes believe.

    A document that is not newer than theirs changes nothing."""
    fleet = FleetFile.read(link.place.fleet())
    order = commands.publish_trust(fleet)
    async with link.reach("operator") as reach:
        await send_commands(reach.client, [order], datetime.now(UTC), timeout=link.patience)
    keys = [
        {"purpose": key.purpose, "key_id": key.key_id, "not_after": key.not_after.isoformat()}
        for key in fleet.trust_keys
    ]
    link.out.data({"serial": fleet.trust_serial, "keys": keys, "done": "published"})
    link.out.table(
        ("purpose", "key", "until"),
        [(key.purpose, key.key_id, f"{key.not_after:%Y-%m-%d}") for key in fleet.trust_keys],
    )
    link.out.line(
        f"trust document {fleet.trust_serial} is published: the nodes have it within seconds"
    )


async def _drain(link: Link, node: str, *, drained: bool) -> None:
    fleet_file = link.place.fleet()
    now = datetime.now(UTC)
    fleet = FleetFile.read(fleet_file)
    order = (commands.drain_node if drained else commands.return_node)(fleet, node, now)
    async with link.reach("operator") as reach:
        await send_commands(reach.client, [order], now, timeout=link.patience)
        await _until(reach, node, _is("drained") if drained else _is("live", "silent"))
    with FleetFile.edit(fleet_file) as changed:
        changed.mark_node(node, "drained" if drained else "enrolled")
    done = "drained" if drained else "returned"
    link.out.data({"node": node, "done": done})
    link.out.line(f"{node} is {done}")


def _is(*states: str) -> Callable[[NodeView | None], bool]:
    return lambda found: _state(found) in states


def _state(found: NodeView | None) -> str:
    """A removed node may also be gone from edge_sync's view."""
    return "removed" if found is None else found.state


async def _until(reach: Reach, node: str, holds: Callable[[NodeView | None], bool]) -> None:
    """Until edge_sync shows the node so."""
    deadline = time.monotonic() + _KNOWN_SECONDS
    while True:
        view = await reach.ask(catalogue.RPC_FLEET_SHOW, Nothing())
        found = next((one for one in view.nodes if one.node == node), None)
        if holds(found):
            return
        if time.monotonic() > deadline:
            raise Unreachable(
                f"the command is stored, but edge_sync shows {node} as {_state(found)} after "
                f"{_KNOWN_SECONDS:g} s: see "
                "its log and 'edgetls dead list' (a command that the operator's key did not "
                "sign dies there)"
            )
        await asyncio.sleep(0.2)


def _credentials(
    folder: Path | None, nkey: str | None, public_key: str | None
) -> NodeCredentials | None:
    """None when nothing was named."""
    if not (folder or nkey or public_key):
        return None
    if folder is not None and not (nkey or public_key):
        return ensure_node(folder)
    if folder is None and nkey and public_key:
        return NodeCredentials(nkey, public_key)
    raise SettingsError("name either --folder, or --nkey and --public-key")


def _labels(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise SettingsError(f"--label {text!r} is not key=value")
        found[key] = value
    return found


def _told(done: Rotation) -> dict[str, object]:
    return {
        "epoch": done.epoch,
        "resealed": len(done.pairs),
        "unopened": sorted(done.unopened),
        "destroyed_epochs": done.destroyed,
    }


def _report(link: Link, done: Rotation) -> None:
    destroyed = ", ".join(map(str, done.destroyed)) or "none"
    link.out.line(
        f"epoch {done.epoch}: {len(done.pairs)} pairs sealed anew; destroyed epoch keys: "
        f"{destroyed}"
    )
    if done.unopened:
        link.out.line(
            f"{len(done.unopened)} pairs open with no key of the fleet file, so the old keys "
            "are kept: submit their "
            "certificates again"
        )
