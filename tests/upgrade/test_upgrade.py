"""The data folder of the version before is continued by this one, with nothing lost and nothing
counted twice."""

from __future__ import annotations

import json
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from deploy.embedded.dev_ca import CertificatePair
from tests.support.browser import OriginServer
from tests.upgrade.old_platform import (
    API,
    COUNTED,
    CREDIT,
    DOMAINS,
    NODES,
    STATIC,
    STORED_NAME,
    UNCOUNTED,
    WWW,
    Customer,
    Snapshot,
    browse,
    end_of_hour,
    fill,
    issue_pair,
    served_leaves,
    take_snapshot,
)
from tests.upgrade.releases import ROOT, WHEEL, Finished, Release, new_release, unpack_old_release

TOTAL = COUNTED + UNCOUNTED
MODULES = ("clients.cli.main", "deploy.embedded.platform", "services.config.app", "shared.subjects")


@dataclass(frozen=True)
class Upgrade:
    """A platform that the old version filled and the new one runs. ``served``: the leaf of each
    domain on each node right after the new start."""

    old: Release
    customer: Customer
    pairs: dict[str, CertificatePair]
    before: Snapshot
    after: Snapshot
    served: dict[str, list[str]]
    old_code: set[Path]
    new_code: set[Path]
    down: Finished
    old_exit_code: int | None

    @property
    def data(self) -> Path:
        return self.customer.data


@pytest.fixture(scope="module")
async def upgrade(scratch: Path) -> AsyncIterator[Upgrade]:
    folder = scratch / "upgrade"
    folder.mkdir()
    data = folder / "data"
    old = unpack_old_release(folder / "old")
    new = new_release()
    async with OriginServer() as origin, new.command_line(data) as new_edgetls:
        async with old.running(data, NODES) as old_up, old.command_line(data) as old_edgetls:
            customer = Customer(old_edgetls)
            pairs = await fill(customer, origin.port)
            before = await take_snapshot(customer)
            old_code = code_of_children(data)
            await browse(data, UNCOUNTED)
            # The new version's ``down`` stops it by SIGTERM.
            down = await new_edgetls.run("down", "--json")
            exit_code = await old_up.wait()
        async with new.running(data, NODES):
            customer = Customer(new_edgetls)
            served = {name: await served_leaves(data, name) for name in DOMAINS}
            await customer.wait_for_requests(TOTAL)
            after = await take_snapshot(customer)
            yield Upgrade(
                old=old,
                customer=customer,
                pairs=pairs,
                before=before,
                after=after,
                served=served,
                old_code=old_code,
                new_code=code_of_children(data),
                down=down,
                old_exit_code=exit_code,
            )


def code_of_children(data: Path) -> set[Path]:
    """Return the folders that the platform's own processes take their code from."""
    folders: set[Path] = set()
    for name, (pid, _) in json.loads((data / "pids.json").read_text())["pids"].items():
        # nats-server is not ours; PostgreSQL and nginx overwrite their environment.
        if name in ("nats", "postgres") or name.endswith("-nginx"):
            continue
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            key, _, value = variable.decode().partition("=")
            if key == "PYTHONPATH":
                folders.add(Path(value.split(":")[0]))
    return folders


def requests_of(snapshot: Snapshot) -> int:
    return sum(row["requests"] for row in snapshot.charges)


def test_migrations_that_the_old_version_applied_are_unchanged() -> None:
    """A database holds the checksum of each file: a service does not start when one differs."""
    with zipfile.ZipFile(WHEEL) as wheel:
        migrations = [name for name in wheel.namelist() if name.endswith(".sql")]
        assert len(migrations) > 20
        for name in migrations:
            assert (ROOT / name).read_bytes() == wheel.read(name), f"{name} was changed"


async def test_each_version_ran_its_own_code(upgrade: Upgrade) -> None:
    for file in await upgrade.old.imported_files(*MODULES):
        assert file.is_relative_to(upgrade.old.code)
    assert upgrade.old_code == {upgrade.old.code}
    assert upgrade.new_code == {ROOT}


async def test_the_new_down_stops_the_old_platform(upgrade: Upgrade) -> None:
    assert upgrade.down.code == 0, upgrade.down.err
    assert upgrade.down.json["done"].startswith("stopped (supervisor ")
    assert upgrade.old_exit_code == 0


async def test_addresses_and_keys_are_the_same(upgrade: Upgrade) -> None:
    # Ports may change: another program may have taken one in between.
    for key in ("credentials", "trust_roots", "trust", "operator_key", "submission_key"):
        assert upgrade.after.run_file[key] == upgrade.before.run_file[key]
    assert upgrade.after.run_file["postgres"] == upgrade.before.run_file["postgres"]


async def test_domains_are_the_same_with_their_settings_and_revisions(upgrade: Upgrade) -> None:
    assert len(upgrade.before.domains) == len(DOMAINS)
    assert {view["state"] for view in upgrade.before.domains} == {"enabled"}
    for before, after in zip(upgrade.before.domains, upgrade.after.domains, strict=True):
        assert after["revision"] >= before["revision"]
        assert after["live_revision"] >= before["live_revision"]
        revisions = {"revision": after["revision"], "live_revision": after["live_revision"]}
        assert after == before | revisions


async def test_the_library_is_the_same(upgrade: Upgrade) -> None:
    assert [entry["name"] for entry in upgrade.before.certificates] == [STORED_NAME]
    assert upgrade.after.certificates == upgrade.before.certificates


async def test_the_history_is_kept_with_the_refusal(upgrade: Upgrade) -> None:
    assert upgrade.after.histories == upgrade.before.histories
    refused = [entry for entry in upgrade.after.histories[WWW] if entry["outcome"] == "refused"]
    assert [entry["codes"] for entry in refused] == [["key.mismatch"]]


async def test_every_node_serves_the_same_certificates(upgrade: Upgrade) -> None:
    for name in DOMAINS:
        assert upgrade.served[name] == [upgrade.pairs[name].leaf] * NODES


async def test_every_request_is_counted_once(upgrade: Upgrade) -> None:
    """Those of the last moment too, which only the nodes' logs held at the stop."""
    assert sum(upgrade.before.by_domain.values()) == COUNTED
    assert sum(upgrade.before.by_node.values()) == COUNTED
    assert sum(upgrade.after.by_domain.values()) == TOTAL
    assert sum(upgrade.after.by_node.values()) == TOTAL
    for name, count in upgrade.before.by_domain.items():
        assert upgrade.after.by_domain[name] >= count


async def test_the_ledger_is_the_same_and_grows_by_the_late_requests_alone(
    upgrade: Upgrade,
) -> None:
    assert requests_of(upgrade.before) == COUNTED
    assert upgrade.after.charges == upgrade.before.charges
    assert upgrade.after.balance["ledger"] == upgrade.before.balance["ledger"]
    customer = upgrade.customer
    await customer.close_hour()
    charges = await customer.get("charges")
    assert sum(row["requests"] for row in charges) == TOTAL
    amount = sum(Decimal(row["amount"]) for row in charges)
    balance = await customer.get("balance", "show")
    assert Decimal(balance["balance"]) == Decimal(CREDIT) - amount
    # The audit counts again from the archive, which both versions wrote.
    start = end_of_hour() - timedelta(hours=2)
    period = ("--from", start.isoformat(), "--to", end_of_hour().isoformat())
    reports = await customer.get("audit", *period)
    assert all(report["agrees"] for report in reports), reports
    assert sum(report["requests"] for report in reports) == TOTAL


async def test_dead_letters_are_the_same_and_can_be_dropped(upgrade: Upgrade) -> None:
    assert len(upgrade.before.dead_letters) == 1
    assert upgrade.after.dead_letters == upgrade.before.dead_letters
    await upgrade.customer.run("dead", "drop", str(upgrade.after.dead_letters[0]["sequence"]))
    assert await upgrade.customer.get("dead", "list") == []


async def test_events_continue_without_a_gap_and_without_repetition(upgrade: Upgrade) -> None:
    before, after = upgrade.before.events, upgrade.after.events
    assert after[: len(before)] == before
    assert [event["sequence"] for event in after] == list(range(1, len(after) + 1))
    ids = [event["id"] for event in after]
    assert len(set(ids)) == len(ids)


async def test_streams_and_consumers_need_no_change(upgrade: Upgrade) -> None:
    plan = await upgrade.customer.get("topology", "plan")
    assert [change for change in plan if change["action"] != "same"] == []


async def test_new_uploads_follow_the_old_ones(upgrade: Upgrade) -> None:
    highest = max(view["revision"] for view in upgrade.after.domains)
    pair = issue_pair(upgrade.data, API)
    submitted = await upgrade.customer.submit(API, pair)
    assert submitted.json["revision"] > highest
    assert await served_leaves(upgrade.data, API) == [pair.leaf] * NODES


async def test_a_pair_that_the_old_version_replaced_can_be_rolled_back_to(
    upgrade: Upgrade,
) -> None:
    await upgrade.customer.run("rollback", WWW, "--wait")
    assert await served_leaves(upgrade.data, WWW) == [upgrade.pairs["previous"].leaf] * NODES


async def test_a_pair_that_the_old_version_stored_can_be_deployed(upgrade: Upgrade) -> None:
    pair = issue_pair(upgrade.data, STATIC)
    options = upgrade.customer.write_pair(STATIC, pair)
    await upgrade.customer.run("cert", "store", STORED_NAME, *options, "--overwrite", "--wait")
    assert await served_leaves(upgrade.data, STATIC) == [pair.leaf] * NODES
