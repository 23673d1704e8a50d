"""Prices, plans, gaps and the audit by the command line, as an operator and finance use them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.ids import new_id
from tests.support.command_line import Edgetls
from tests.support.waiting import until

BOOK = """\
title = "A test's own"
[[prices]]
id = "list-cny"
currency = "CNY"
tiers = [{{ price = 0.05 }}]
[[prices]]
id = "list-usd"
currency = "USD"
tiers = [{{ price = 0.008 }}]
[[prices]]
id = "{price}"
currency = "CNY"
account = "{account}"
start = {start}
tiers = [{{ price = 0.05 }}, {{ above = 100_000_000, price = 0.04 }}]
[[plans]]
id = "{plan}"
requests = 10_000_000
days = 180
prices = {{ CNY = 45, USD = 7.2 }}
"""


async def test_a_price_book_is_previewed_applied_and_its_plan_bought(
    edgetls: Edgetls, scratch: Path
) -> None:
    plan, price, account = f"pack-{new_id()[:6]}", f"deal-{new_id()[:6]}", f"acct-{new_id()[:6]}"
    start = (datetime.now(UTC) + timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
    file = scratch / "prices.toml"
    file.write_text(
        BOOK.format(plan=plan, price=price, account=account, start=f"{start:%Y-%m-%dT%H:%M:%SZ}")
    )
    preview = await edgetls("prices", "preview", str(file))
    assert preview.code == 0, preview.err
    assert f"+ plan {plan}: 10,000,000 requests in 180 days for 45 CNY, 7.2 USD" in preview.out
    applied = await edgetls("prices", "apply", str(file), "--yes")
    assert applied.code == 0 and "applied: price book" in applied.out, applied.err
    assert plan in (await edgetls("prices", "show")).out
    file.write_text(file.read_text().replace("price = 0.008", "price = 0.009"))
    refused = await edgetls("prices", "apply", str(file), "--json")
    assert (refused.code, [one["code"] for one in refused.json["refusal"]]) == (
        1,
        ["prices.retroactive"],
    )
    own = ("--account", account)
    poor = await edgetls("plan", "buy", plan, "--reference", "one", "--json", *own)
    assert [one["code"] for one in poor.json["refusal"]] == ["balance.insufficient"]
    assert (await edgetls("balance", "credit", "50", "--reference", new_id(), *own)).code == 0
    bought = await edgetls("plan", "buy", plan, "--reference", plan, *own)
    assert bought.code == 0 and "10,000,000 requests until" in bought.out, bought.err
    listed = await edgetls("plan", "list", "--json", *own)
    assert [
        (p["requests"], p["used"], p["ended"]) for p in listed.json if p["reference"] == plan
    ] == [(10_000_000, 0, False)]
    broken = scratch / "broken.toml"
    broken.write_text("prices = 3")
    assert (await edgetls("prices", "preview", str(broken))).code == 2


async def test_nothing_is_missing_and_the_audit_agrees(edgetls: Edgetls) -> None:
    async def complete() -> bool:
        found = await edgetls("usage", "gaps", "--json")
        return found.code == 0 and found.json == []

    await until(complete, "no gaps")
    assert "no gaps" in (await edgetls("usage", "gaps")).out
    now = datetime.now(UTC)
    done = await edgetls(
        "audit",
        "--from",
        f"{now - timedelta(days=2):%Y-%m-%dT%H:00:00Z}",
        "--to",
        f"{now:%Y-%m-%dT%H:00:00Z}",
    )
    assert done.code == 0 and "everything agrees" in done.out, done.out + done.err
    assert (await edgetls("usage", "--from", f"{now:%Y-%m-%d}")).code == 0, (
        "the plain command is still there"
    )
