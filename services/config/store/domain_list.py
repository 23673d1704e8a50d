"""Lists of domains (rule C3): filters on covering indexes, pages by key. They read no chain and no
key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from services.config.domain.names import WILDCARD
from services.config.domain.views import SHOW_EXPIRING
from services.config.store import accounts
from shared.contracts.accounts import Suspension
from shared.contracts.domains import CertificateStatus, DomainState
from shared.contracts.queries import ListDomains
from shared.storage.pool import Pool

_LAST = "\U0010ffff"
# One statement: one snapshot, one way to the database and back. ``origin`` and ``settings`` stay
# text, for most rows share one of few values (views.py reads each value once).
_PAGE = """
select d.name, d.account, d.service_type, d.origin::text as origin, d.settings::text as settings,
    d.trust, d.revision, d.live_revision, d.registered_at, d.pending_id, d.served_until,
    d.served_source, p.name as certificate_name, p.facts,
    a.account is not null as account_suspended, a.since, a.resumption, a.settled
from (select name from {source} order by {order} limit {limit}) k
join domains d on d.name = k.name
left join pairs p on p.domain = d.name and p.slot = 'live'
left join accounts a on a.account = d.account and a.suspended
order by {page_order}, p.position
"""
_STATES = {
    DomainState.DISABLED: "served_until is null",
    DomainState.ENABLED: "served_until is not null and not suspended",
    DomainState.SUSPENDED: "served_until is not null and suspended",
}
# As views.certificate_status() does: the gravest that holds of any of its pairs.
_NOW: Final = timedelta()
_CERTIFICATES: Final[dict[CertificateStatus, tuple[str, tuple[timedelta, ...]]]] = {
    "expired": ("served_until <= {}", (_NOW,)),
    "mismatch": ("served_until > {} and mismatched", (_NOW,)),
    "expires_soon": (
        "served_until > {} and served_until <= {} and not mismatched",
        (_NOW, SHOW_EXPIRING),
    ),
    "ok": ("served_until > {} and not mismatched", (SHOW_EXPIRING,)),
}


@dataclass(frozen=True)
class ListedDomain:
    """One row of a list. ``pairs``: a row for each pair that is served, with its facts as JSON."""

    row: asyncpg.Record
    pairs: Sequence[asyncpg.Record]
    suspension: Suspension | None


# Every filter is on columns that the index of its order holds (migration 0020), so that a page of
# 100,000 domains is found in the index alone, however few rows fit. Joins come after the limit.
@dataclass
class _Conditions:
    """Conditions of a query and their parameters, numbered in the order of ``add``."""

    parameters: list[Any] = field(default_factory=list)
    conditions: list[str] = field(default_factory=lambda: ["not removed"])

    def add(self, condition: str, *values: Any) -> None:
        """Add a condition; ``{}`` in it stands for each value in turn."""
        placeholders = [self.add_parameter(value) for value in values]
        self.conditions.append(condition.format(*placeholders))

    def add_parameter(self, value: Any) -> str:
        """Add a parameter and return its placeholder."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    @property
    def where(self) -> str:
        return " and ".join(self.conditions)


async def load_page(
    pool: Pool, question: ListDomains, after: tuple[datetime | None, str], at: datetime, limit: int
) -> list[ListedDomain]:
    """Return up to ``limit`` domains in the question's order.

    ``after``: when the last certificate of the page before ends (None in the order of names), and
    the name of its domain."""
    conditions = _page_conditions(question, after, at)
    order = "name"
    page_order = "d.name"
    if question.order == "expiry":
        order = "served_until, name"
        page_order = "d.served_until, d.name"
    if question.covered_by is None:
        source = f"domains where {conditions.where}"
    else:
        source = _covered_domains(conditions, question.covered_by, order, limit)
    # The limit stands in the statement: with a parameter the planner would guess how many rows it
    # has to join, and read whole tables.
    statement = _PAGE.format(source=source, order=order, limit=limit, page_order=page_order)
    return _group_rows(await pool.fetch(statement, *conditions.parameters))


def _page_conditions(
    question: ListDomains, after: tuple[datetime | None, str], at: datetime
) -> _Conditions:
    conditions = _Conditions()
    if question.account is not None:
        conditions.add("account = {}", question.account)
    if question.state is not None:
        conditions.add(_STATES[question.state])
    if question.service_type is not None:
        conditions.add("service_type = {}", question.service_type.value)
    if question.source is not None:
        conditions.add("served_source = {}", question.source)
    if question.certificate is not None:
        condition, within = _CERTIFICATES[question.certificate]
        conditions.add(condition, *(at + time for time in within))
    if question.expires_within is not None:
        conditions.add("served_until <= {}", at + timedelta(days=question.expires_within))
    if question.prefix:
        prefix = question.prefix.lower()
        conditions.add("name >= {} and name < {}", prefix, prefix + _LAST)
    if question.suffix:
        # Three times as fast as right(name, n) = suffix where no index helps.
        conditions.add("name like {}", "%" + _escape_like(question.suffix.lower()))
    if question.served_by is not None:
        conditions.add(
            "name in (select domain from pairs where fingerprint = {} and slot = 'live')",
            question.served_by,
        )
    if question.order == "expiry":
        conditions.add("served_until is not null")
        if after[0] is not None:
            conditions.add("(served_until, name) > ({}::timestamptz, {}::text)", *after)
    elif after[1]:
        conditions.add("name > {}", after[1])
    return conditions


def _covered_domains(
    conditions: _Conditions, covered_by: Sequence[str], order: str, limit: int
) -> str:
    """Return the source of domains that the names cover: a page of each wildcard, and the names
    themselves. A wildcard covers one label, and itself."""
    covering = sorted({name.lower() for name in covered_by})
    wildcard_parents = []
    for name in covering:
        if name.startswith(f"{WILDCARD}."):
            wildcard_parents.append(name.removeprefix(f"{WILDCARD}."))
    names = conditions.add_parameter(covering)
    parents = conditions.add_parameter(wildcard_parents)
    is_host = f"name not like '{WILDCARD}.%'"
    where = conditions.where
    return f"""(
        select name, served_until from domains
        where name = any({names}::text[]) and {where}
            and not (parent = any({parents}::text[]) and {is_host})
        union all
        select h.* from unnest({parents}::text[]) as p (parent) cross join lateral (
            select name, served_until from domains
            where parent = p.parent and {is_host} and {where}
            order by {order} limit {limit}) h) as fitting"""


def _group_rows(rows: Sequence[asyncpg.Record]) -> list[ListedDomain]:
    """Group rows, one for each pair or for a domain without pairs, by domain."""
    listed: list[ListedDomain] = []
    pairs: list[asyncpg.Record] = []
    name = None
    for row in rows:
        if row["name"] != name:
            name = row["name"]
            pairs = []
            suspension = accounts.build_suspension(row) if row["account_suspended"] else None
            listed.append(ListedDomain(row, pairs, suspension))
        if row["facts"] is not None:
            pairs.append(row)
    return listed


def _escape_like(text: str) -> str:
    """Return a text as a pattern of LIKE that matches the text itself."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
