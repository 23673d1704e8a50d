"""The append-only ledger: credits, plans, charges and corrections. Its pages for queries too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

from services.billing.domain.charging import ChargeLine
from services.billing.domain.units import UnixHour, hour_from, hour_of, hour_time
from services.billing.domain.usage_aggregator import AccountHour
from services.billing.store import Reader
from shared.contracts.findings import Code, finding
from shared.contracts.queries import QueryCharges
from shared.contracts.usage import ChargeRow
from shared.errors import Refused
from shared.money import plain, total
from shared.storage.pool import Connection

_FIND_ENTRY: Final = """
select kind, amount, currency, reference from ledger where account = $1 and reference = $2
"""
_ADD_ENTRY: Final = """
insert into ledger (account, kind, amount, currency, reference, plan, command_id, at)
values ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_POST: Final = """
insert into ledger
    (account, kind, amount, currency, hour, posting, line, requests, price, price_id, plan,
    plan_cost, at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
_POST_HOUR: Final = """
update account_hours set charged = charged + $3, amount = amount + $4, postings = $5
where account = $1 and hour = $2
"""
_CHARGES: Final = """
select id, account, kind, hour, requests, price, amount, currency, price_id, plan from ledger
where account = $1 and hour >= $2 and hour < $3 and (hour, id) > ($4, $5) and kind <> 'unused'
order by hour, id limit $6
"""
_BEFORE_ALL: Final = UnixHour(-1)


class LedgerEntry(NamedTuple):
    """A ledger line that is no charge: a credit (above 0) or a plan that was bought (below 0)."""

    kind: Literal["credit", "plan"]
    amount: Decimal
    currency: str
    reference: str


async def find_entry(connection: Connection, account: str, reference: str) -> LedgerEntry | None:
    """Return the entry that used a reference, or None."""
    row = await connection.fetchrow(_FIND_ENTRY, account, reference)
    if row is None:
        return None
    return LedgerEntry(row["kind"], plain(row["amount"]), row["currency"], row["reference"])


async def add_entry(
    connection: Connection, account: str, entry: LedgerEntry, command_id: str, at: datetime
) -> None:
    """Write an entry. The account is locked and its reference is not used yet."""
    plan = entry.reference if entry.kind == "plan" else None
    await connection.execute(
        _ADD_ENTRY,
        account,
        entry.kind,
        entry.amount,
        entry.currency,
        entry.reference,
        plan,
        command_id,
        at,
    )


async def post_lines(
    connection: Connection,
    made: Mapping[str, Sequence[ChargeLine]],
    currencies: Mapping[str, str],
    at: datetime,
) -> None:
    """Write the charge lines of locked accounts, and count them as charged in their hours.

    The first lines of an hour are its charge, later ones are corrections."""
    rows = []
    hours: dict[AccountHour, list[ChargeLine]] = defaultdict(list)
    for account, lines in made.items():
        for line in lines:
            rows.append(_ledger_row(account, currencies[account], line, at))
            hours[account, line.hour].append(line)
    await connection.executemany(_POST, rows)
    updates = []
    for (account, hour), lines in hours.items():
        requests = sum(line.requests for line in lines)
        amount = total(line.amount for line in lines)
        updates.append((account, hour, requests, amount, lines[0].posting))
    await connection.executemany(_POST_HOUR, updates)


def _ledger_row(account: str, currency: str, line: ChargeLine, at: datetime) -> tuple[Any, ...]:
    return (
        account,
        "charge" if line.posting == 1 else "correction",
        -line.amount,
        currency,
        line.hour,
        line.posting,
        line.line,
        line.requests,
        line.price,
        line.price_id,
        line.plan,
        line.plan_cost,
        at,
    )


async def page_charges(connection: Reader, question: QueryCharges) -> list[tuple[int, ChargeRow]]:
    """Return charge lines with their ledger number, in order of (hour, number).

    ``after`` of the question: charge_mark() of the last one seen."""
    hour, number = _parse_mark(question.after)
    rows = await connection.fetch(
        _CHARGES,
        question.account,
        max(hour_from(question.start), 0),
        max(hour_from(question.end), 0),
        hour,
        number,
        question.limit,
    )
    charges = []
    for row in rows:
        charge = ChargeRow(
            account=row["account"],
            hour=hour_time(row["hour"]),
            kind=row["kind"],
            requests=row["requests"],
            price=plain(row["price"]),
            amount=plain(-row["amount"]),
            currency=row["currency"],
            price_id=row["price_id"],
            plan=row["plan"],
        )
        charges.append((row["id"], charge))
    return charges


def charge_mark(number: int, row: ChargeRow) -> str:
    """Return the mark of a page's last line, after which the next page begins."""
    return f"{hour_of(row.hour)}|{number}"


def _parse_mark(mark: str | None) -> tuple[UnixHour, int]:
    if mark is None:
        return _BEFORE_ALL, -1
    hour, _, number = mark.partition("|")
    if not (hour.isdecimal() and number.isdecimal() and len(hour) < 9 and len(number) < 18):
        raise Refused([finding(Code.REQUEST_MALFORMED, "At fault: after", field="request")])
    return UnixHour(int(hour)), int(number)
