"""Lists of domains (rule C3): filters on covering indexes, pages by key, no chain and no key read
for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from services.config.domain.names import WILDCARD
from services.config.domain.views import SOON
from services.config.store import accounts
from shared.contracts.accounts import Suspension
from shared.contracts.domains import CertificateStatus, DomainState
from shared.contracts.queries import ListDomains
from shared.storage.pool import Connection, Pool

_LAST = "\U0010ffff"
_SHOWN = (
    "name, account, service_type, origin, settings, trust, suspended, revision, live_revision, "
    "registered_at,"
    " pending_id, served_until, served_source"
)
_STATES = {
    DomainState.DISABLED: "served_until is null",
    DomainState.ENABLED: "served_until is not null and not suspended",
    DomainState.SUSPENDED: "served_until is not null and suspended",
}
# As views.status() does: the gravest that holds of any of its pairs.
_NOW: Final = timedelta()
_CERTIFICATES: Final[dict[CertificateStatus, tuple[str, tuple[timedelta, ...]]]] = {
    "expired": ("served_until <= {}", (_NOW,)),
    "mismatch": ("served_until > {} and mismatched", (_NOW,)),
    "expires_soon": ("served_until > {} and served_until <= {} and not mismatched", (_NOW, SOON)),
    "ok": ("served_until > {} and not mismatched", (SOON,)),
}


@dataclass(frozen=True)
class Listed:
    """One row of a list. ``pairs``: JSON of the facts of the pairs that are served, without
    chains."""

    row: asyncpg.Record
    pairs: Sequence[asyncpg.Record]
    suspension: Suspension | None


@dataclass
class _Query:
    """Conditions and their parameters, numbered as they come."""

    parameters: list[Any] = field(default_factory=list)
    conditions: list[str] = field(default_factory=lambda: ["not removed"])

    def add(self, condition: str, *values: Any) -> None:
        """``{}`` in the condition stands for each value in turn."""
        self.conditions.append(condition.format(*(self.place(value) for value in values)))

    def place(self, value: Any) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    @property
    def where(self) -> str:
        return " and ".join(self.conditions)


async def page(
    pool: Pool, question: ListDomains, after: tuple[datetime | None, str], at: datetime, limit: int
) -> list[Listed]:
    """In the question's order; ``after``: when the last certificate of the page before ends, and
    its domain."""
    query = _filtered(question, after, at)
    order = "served_until, name" if question.order == "expiry" else "name"
    source = (
        f"domains where {query.where}"
        if question.covered_by is None
        else _covered(query, question, order, limit)
    )
    keys = f"select name from {source} order by {order} limit {query.place(limit)}"
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        names = [row["name"] for row in await connection.fetch(keys, *query.parameters)]
        return await _listed(connection, names)


def _filtered(question: ListDomains, after: tuple[datetime | None, str], at: datetime) -> _Query:
    query = _Query()
    if question.account is not None:
        query.add("account = {}", question.account)
    if question.state is not None:
        query.add(_STATES[question.state])
    if question.service_type is not None:
        query.add("service_type = {}", question.service_type.value)
    if question.source is not None:
        query.add("served_source = {}", question.source)
    if question.certificate is not None:
        condition, within = _CERTIFICATES[question.certificate]
        query.add(condition, *(at + time for time in within))
    if question.expires_within is not None:
        query.add("served_until <= {}", at + timedelta(days=question.expires_within))
    if question.prefix:
        prefix = question.prefix.lower()
        query.add("name >= {} and name < {}", prefix, prefix + _LAST)
    if question.suffix:
        query.add("right(name, {}::int) = {}", len(question.suffix), question.suffix.lower())
    if question.served_by is not None:
        query.add(
            "name in (select domain from pairs where fingerprint = {} and slot = 'live')",
            question.served_by,
        )
    if question.order == "expiry":
        query.add("served_until is not null")
        if after[0] is not None:
            query.add("(served_until, name) > ({}::timestamptz, {}::text)", *after)
    elif after[1]:
        query.add("name > {}", after[1])
    return query


def _covered(query: _Query, question: ListDomains, order: str, limit: int) -> str:
    """What the names cover (a wildcard one label, and itself): a page of each wildcard, and the
    names themselves."""
    covering = sorted({name.lower() for name in question.covered_by or ()})
    wild = f"{WILDCARD}."
    names = query.place(covering)
    parents = query.place([name.removeprefix(wild) for name in covering if name.startswith(wild)])
    under = f"name not like '{wild}%'"
    return (
        f"(select name, served_until from domains where name = any({names}::text[]) and "
        f"{query.where}"
        f" and not (parent = any({parents}::text[]) and {under})"
        f" union all select h.* from unnest({parents}::text[]) as p (parent) cross join lateral"
        f" (select name, served_until from domains where parent = p.parent and {under} and "
        f"{query.where}"
        f" order by {order} limit {query.place(limit)}) h) as fitting"
    )


async def _listed(connection: Connection, names: Sequence[str]) -> list[Listed]:
    rows = {
        row["name"]: row
        for row in await connection.fetch(
            f"select {_SHOWN} from domains where name = any($1::text[])",
            names,
        )
    }
    pairs: dict[str, list[asyncpg.Record]] = {}
    for pair in await connection.fetch(
        "select domain, source, name, facts from pairs where domain = any($1::text[]) and slot "
        "= 'live'"
        " order by domain, position",
        names,
    ):
        pairs.setdefault(pair["domain"], []).append(pair)
    suspended = await accounts.suspensions(
        connection, sorted({row["account"] for row in rows.values()})
    )
    return [
        Listed(rows[name], pairs.get(name, ()), suspended.get(rows[name]["account"]))
        for name in names
    ]
