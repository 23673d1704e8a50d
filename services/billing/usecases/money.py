"""The commands of billing: credits, thresholds, plans, price books, the close of an hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from services.billing.domain import outgoing_messages
from services.billing.domain.balance import (
    AccountState,
    PricingContext,
    currency_fault,
    with_current_tariff,
)
from services.billing.domain.charging import BoughtPlan, ChargeLine, charge_hours
from services.billing.domain.price_book import PriceLookup, find_faults, find_retroactive_changes
from services.billing.domain.usage_aggregator import usage_ends
from services.billing.metrics import CHARGES, NOT_CHARGED
from services.billing.store import accounts, owners, plans, prices, usage
from services.billing.store.accounts import LedgerEntry
from services.billing.usecases.accrue import decide_and_save
from services.billing.usecases.isolate_failures import ACCOUNTS_TOGETHER, isolate_failures
from services.billing.usecases.reference_cache import ReferenceCache
from shared import catalogue
from shared.clock import Clock
from shared.contracts.codec import parse
from shared.contracts.commands import (
    ApplyPriceBook,
    CloseHour,
    CreditBalance,
    PurchasePlan,
    SetThreshold,
)
from shared.contracts.findings import Code, Finding, finding
from shared.errors import Malformed
from shared.messages import Outgoing
from shared.messaging.delivery import Delivery
from shared.money import minus, plain, plus, total
from shared.storage import outbox
from shared.storage.pool import Connection, Pool


class MoneyCommands:
    """The commands of COMMANDS_BILLING. Each is idempotent: a redelivery changes nothing and says
    nothing new."""

    def __init__(self, pool: Pool, cache: ReferenceCache, clock: Clock) -> None:
        self._pool, self._cache, self._clock = pool, cache, clock

    async def handle(self, delivery: Delivery) -> None:
        if not delivery.id:
            raise Malformed("a command needs its ce-id")
        if delivery.subject == catalogue.CMD_BALANCE_CREDIT:
            await self._credit(parse(CreditBalance, delivery.body), delivery.id)
        elif delivery.subject == catalogue.CMD_BALANCE_THRESHOLD:
            await self._threshold(
                parse(SetThreshold, delivery.body), delivery.id, delivery.stream_time
            )
        elif delivery.subject == catalogue.CMD_PLAN_PURCHASE:
            await self._purchase(parse(PurchasePlan, delivery.body), delivery.id)
        elif delivery.subject == catalogue.CMD_PRICE_BOOK_APPLY:
            await self._apply(parse(ApplyPriceBook, delivery.body), delivery.id)
        elif delivery.subject == catalogue.CMD_HOUR_CLOSE:
            await self._close(parse(CloseHour, delivery.body).until, delivery.id)
        else:
            raise Malformed("no command of billing")

    async def close(self, until: datetime) -> int:
        """Charges what is not charged yet of the hours that end at or before ``until``, rolls their
        usage up.

        The number of lines written; a second call finds nothing left to do."""
        past = int(until.timestamp()) // 3600
        lines, failed = 0, set[str]()
        while names := await accounts.find_accounts_to_charge(
            self._pool, past, ACCOUNTS_TOGETHER, failed
        ):
            lines += await isolate_failures(names, partial(self._charge, past=past), failed)
        NOT_CHARGED.set(len(failed))
        for hour in await usage.find_hours_to_roll(self._pool, past):
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read"),
            ):
                await usage.roll_hour(connection, hour)
        return lines

    async def _close(self, until: datetime, command_id: str) -> None:
        """Malformed when hours are among them that no usage can be of yet: their plans would end
        too early."""
        if until >= usage_ends(self._clock.now()) + timedelta(hours=1):
            raise Malformed("until lies after the hour that runs")
        lines = await self.close(until)
        async with self._pool.acquire() as connection, connection.transaction():
            await _say(
                connection,
                outgoing_messages.hour_closed_event(until, lines, command_id, self._clock.now()),
            )

    async def judge_depleted(self) -> int:
        """Whoever is depleted for too long becomes overdue though nothing moves (rule E7); how many
        were judged."""
        since = self._clock.now() - self._cache.overdue_after
        judged, seen = 0, set[str]()
        while names := await accounts.find_long_depleted(
            self._pool, since, ACCOUNTS_TOGETHER, seen
        ):
            judged += await isolate_failures(names, self._judge, seen)
            seen |= set(names)
        return judged

    async def _judge(self, names: list[str]) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, self._clock.now())
            await decide_and_save(
                connection,
                list((await accounts.lock_accounts(connection, names, terms)).values()),
                terms,
            )
        return len(names)

    async def _terms(self, connection: Connection, now: datetime) -> PricingContext:
        await self._cache.open(connection)
        return self._cache.terms(now)

    async def _charge(self, names: list[str], past: int) -> int:
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, now)
            standings = await accounts.lock_accounts(connection, names, terms)
            since = await accounts.first_hours_to_rate(connection, names, past)
            dues = await plans.load_charge_inputs(connection, since, past)
            made: dict[str, list[ChargeLine]] = {}
            for name, due in dues.items():
                made[name] = charge_hours(
                    due.hours,
                    due.packs,
                    due.left,
                    due.used,
                    partial(terms.prices.tariff, name, standings[name].money),
                )
            await accounts.post_lines(
                connection, made, {name: one.money for name, one in standings.items()}, now
            )
            await plans.record_plan_uses(connection, made, dues)
            forfeited = await plans.forfeit_plans(connection, names, made, past, now)
            await plans.end_plans(connection, names, past)
            after = await self._charged(connection, standings, made, forfeited, past, terms)
            await decide_and_save(connection, after, terms)
        lines = [line for each in made.values() for line in each]
        CHARGES.labels(kind="unused").inc(sum(forfeited.values()))
        for line in lines:
            CHARGES.labels(kind="charge" if line.posting == 1 else "correction").inc()
        return len(lines)

    async def _charged(
        self,
        connection: Connection,
        standings: dict[str, AccountState],
        made: dict[str, list[ChargeLine]],
        forfeited: Mapping[str, int],
        past: int,
        terms: PricingContext,
    ) -> list[AccountState]:
        """What was accrued is now in the ledger; the limit moves. The first charge sets the
        currency. ``forfeited``: lines of plans that ended, by account."""
        recent = await accounts.load_recent_charges(connection, list(standings))
        left = await plans.load_requests_left(connection, list(standings), terms.hour)
        tiers = await accounts.load_tier_uses(connection, list(standings.values()))
        after = []
        for name, standing in standings.items():
            lines = made.get(name, [])
            again = standing.rate_from is not None and standing.rate_from >= past
            after.append(
                standing._replace(
                    currency=standing.money if lines else standing.currency,
                    entries=standing.entries + len(lines) + forfeited.get(name, 0),
                    accrued_requests=standing.accrued_requests
                    - sum(line.requests for line in lines),
                    ledger=minus(standing.ledger, total(line.amount for line in lines)),
                    recent_amount=recent[name][0],
                    recent_hours=recent[name][1],
                    plan_left=left.get(name, 0),
                    tier_used=tiers.get(name, 0),
                    rate_from=standing.rate_from if again else None,
                )
            )
        return after

    async def _credit(self, command: CreditBalance, command_id: str) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, self._clock.now())
            standing = (await accounts.lock_accounts(connection, [command.account], terms))[
                command.account
            ]
            used = await accounts.find_entry(connection, command.account, command.reference)
            fault = currency_fault(standing, command.currency, terms.prices)
            entry = LedgerEntry(
                "credit", plain(command.amount), command.currency, command.reference
            )
            if fault is None and used is not None and used != entry:
                fault = Code.BALANCE_REFERENCE
            if fault is not None:
                await _refuse(connection, standing, fault, command.reference, command_id, terms.at)
                return
            if used is not None:
                await _say(
                    connection,
                    outgoing_messages.credited_event(
                        standing, command.reference, command_id, terms.at
                    ),
                )
                return
            after = await _book(connection, standing, entry, command_id, terms)
            said = outgoing_messages.credited_event(after, command.reference, command_id, terms.at)
            await decide_and_save(connection, [after], terms, [said])
            CHARGES.labels(kind="credit").inc()

    async def _purchase(self, command: PurchasePlan, command_id: str) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, self._clock.now())
            standing = (await accounts.lock_accounts(connection, [command.account], terms))[
                command.account
            ]
            used = await accounts.find_entry(connection, command.account, command.reference)
            bought = await plans.find_plan(connection, command.account, command.reference, terms.at)
            if bought is not None and (bought.plan, bought.currency) == (
                command.plan,
                command.currency,
            ):
                await _say(
                    connection,
                    outgoing_messages.purchased_event(standing, bought, command_id, terms.at),
                )
                return
            offer = terms.prices.offer(command.plan, command.currency)
            fault = currency_fault(standing, command.currency, terms.prices)
            if fault is None and (used is not None or offer is None or standing.balance < offer[1]):
                fault = (
                    Code.BALANCE_REFERENCE
                    if used
                    else Code.BALANCE_INSUFFICIENT
                    if offer
                    else Code.PLAN_UNKNOWN
                )
            if fault is not None or offer is None:
                await _refuse(
                    connection,
                    standing,
                    fault or Code.PLAN_UNKNOWN,
                    command.reference,
                    command_id,
                    terms.at,
                )
                return
            plan, price = offer
            pack = BoughtPlan(
                command.reference,
                plan.requests,
                terms.hour,
                terms.hour + plan.days * 24,
                plain(price),
            )
            entry = LedgerEntry(
                "plan", minus(Decimal(0), price), command.currency, command.reference
            )
            after = await _book(connection, standing, entry, command_id, terms)
            await plans.add_plan(
                connection, command.account, pack, command.plan, command.currency, terms.at
            )
            first = (
                terms.hour if standing.rate_from is None else min(standing.rate_from, terms.hour)
            )
            after = after._replace(plan_left=after.plan_left + plan.requests, rate_from=first)
            view = await plans.find_plan(connection, command.account, command.reference, terms.at)
            said = (
                [outgoing_messages.purchased_event(after, view, command_id, terms.at)]
                if view is not None
                else []
            )
            await decide_and_save(connection, [after], terms, said)
            CHARGES.labels(kind="plan").inc()

    async def _threshold(self, command: SetThreshold, command_id: str, sent: datetime) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, self._clock.now())
            standing = (await accounts.lock_accounts(connection, [command.account], terms))[
                command.account
            ]
            fault = currency_fault(standing, command.currency, terms.prices)
            if fault is not None:
                await _refuse(connection, standing, fault, None, command_id, terms.at)
            elif await accounts.set_threshold_time(connection, command.account, sent):
                after = standing._replace(currency=command.currency, threshold=command.threshold)
                await decide_and_save(connection, [with_current_tariff(after, terms)], terms)

    async def _apply(self, command: ApplyPriceBook, command_id: str) -> None:
        """Nobody rates meanwhile: the owners' lock holds the prices still, too."""
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            await owners.lock_owners_exclusive(connection)
            if await prices.find_serial(connection, command_id) is not None:
                return
            old = await prices.load_current_prices(connection)
            new = PriceLookup(old.serial + 1, command.book)
            found = review_price_book(old, command, int(now.timestamp()) // 3600 + 1)
            if not found:
                await prices.add_price_book(connection, new, command_id, now)
            await _say(
                connection,
                outgoing_messages.price_book_event(
                    old.serial if found else new.serial, found, command_id, now
                ),
            )


def review_price_book(old: PriceLookup, command: ApplyPriceBook, first_free: int) -> list[Finding]:
    """Why the book is not applied; ``first_free``: the first hour whose prices may still change."""
    found = find_faults(command.book)
    if not found:
        found = find_retroactive_changes(old, PriceLookup(0, command.book), first_free)
    if command.base != old.serial:
        found.append(
            finding(
                Code.PRICES_CHANGED, f"The current book is number {old.serial}, not {command.base}."
            )
        )
    return found


async def _book(
    connection: Connection,
    standing: AccountState,
    entry: LedgerEntry,
    command_id: str,
    terms: PricingContext,
) -> AccountState:
    """A ledger line that is no charge, and the standing after it."""
    await accounts.add_entry(connection, standing.account, entry, command_id, terms.at)
    after = standing._replace(
        currency=entry.currency,
        entries=standing.entries + 1,
        ledger=plus(standing.ledger, entry.amount),
    )
    return with_current_tariff(after, terms)


async def _refuse(
    connection: Connection,
    standing: AccountState,
    code: Code,
    reference: str | None,
    command_id: str,
    now: datetime,
) -> None:
    await _say(
        connection, outgoing_messages.refused_event(standing, code, reference, command_id, now)
    )


async def _say(connection: Connection, *messages: Outgoing) -> None:
    """Once a command: a redelivery would say it with another time and balance, under the same
    id."""
    fresh: Sequence[Outgoing] = [
        one for one in messages if not await accounts.is_in_outbox(connection, one.id)
    ]
    await outbox.enqueue(connection, fresh)
