"""The commands of billing: credits, thresholds, plans, price books, the close of an hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from services.billing.domain import outgoing_messages
from services.billing.domain.balance import Standing, Terms, money_fault, priced
from services.billing.domain.charging import Line, Pack, charge
from services.billing.domain.price_book import Prices, faults, retroactive
from services.billing.domain.usage_aggregator import usage_ends
from services.billing.metrics import CHARGES, NOT_CHARGED
from services.billing.store import accounts, owners, plans, prices, usage
from services.billing.store.accounts import Entry
from services.billing.usecases.accrue import save_judged
from services.billing.usecases.isolate_failures import CHUNK, alone_where_it_fails
from services.billing.usecases.reference_cache import Book
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


class Money:
    """The commands of COMMANDS_BILLING. Each is idempotent: a redelivery changes nothing and says
    nothing new."""

    def __init__(self, pool: Pool, book: Book, clock: Clock) -> None:
        self._pool, self._book, self._clock = pool, book, clock

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
        while names := await accounts.accounts_to_charge(self._pool, past, CHUNK, failed):
            lines += await alone_where_it_fails(names, partial(self._charge, past=past), failed)
        NOT_CHARGED.set(len(failed))
        for hour in await usage.hours_to_roll(self._pool, past):
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
                outgoing_messages.hour_closed(until, lines, command_id, self._clock.now()),
            )

    async def judge_depleted(self) -> int:
        """Whoever is depleted for too long becomes overdue though nothing moves (rule E7); how many
        were judged."""
        since = self._clock.now() - self._book.overdue_after
        judged, seen = 0, set[str]()
        while names := await accounts.long_depleted(self._pool, since, CHUNK, seen):
            judged += await alone_where_it_fails(names, self._judge, seen)
            seen |= set(names)
        return judged

    async def _judge(self, names: list[str]) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, self._clock.now())
            await save_judged(
                connection, list((await accounts.lock(connection, names, terms)).values()), terms
            )
        return len(names)

    async def _terms(self, connection: Connection, now: datetime) -> Terms:
        await self._book.open(connection)
        return self._book.terms(now)

    async def _charge(self, names: list[str], past: int) -> int:
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, now)
            standings = await accounts.lock(connection, names, terms)
            since = await accounts.first_open_hours(connection, names, past)
            dues = await plans.due(connection, since, past)
            made: dict[str, list[Line]] = {}
            for name, due in dues.items():
                made[name] = charge(
                    due.hours,
                    due.packs,
                    due.left,
                    due.used,
                    partial(terms.prices.tariff, name, standings[name].money),
                )
            await accounts.post(
                connection, made, {name: one.money for name, one in standings.items()}, now
            )
            await plans.record(connection, made, dues)
            forfeited = await plans.forfeit(connection, names, made, past, now)
            await plans.end(connection, names, past)
            after = await self._charged(connection, standings, made, forfeited, past, terms)
            await save_judged(connection, after, terms)
        lines = [line for each in made.values() for line in each]
        CHARGES.labels(kind="unused").inc(sum(forfeited.values()))
        for line in lines:
            CHARGES.labels(kind="charge" if line.posting == 1 else "correction").inc()
        return len(lines)

    async def _charged(
        self,
        connection: Connection,
        standings: dict[str, Standing],
        made: dict[str, list[Line]],
        forfeited: Mapping[str, int],
        past: int,
        terms: Terms,
    ) -> list[Standing]:
        """What was accrued is now in the ledger; the limit moves. The first charge sets the
        currency. ``forfeited``: lines of plans that ended, by account."""
        recent = await accounts.recent(connection, list(standings))
        left = await plans.left(connection, list(standings), terms.hour)
        tiers = await accounts.tiers(connection, list(standings.values()))
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
            standing = (await accounts.lock(connection, [command.account], terms))[command.account]
            used = await accounts.entry_of(connection, command.account, command.reference)
            fault = money_fault(standing, command.currency, terms.prices)
            entry = Entry("credit", plain(command.amount), command.currency, command.reference)
            if fault is None and used is not None and used != entry:
                fault = Code.BALANCE_REFERENCE
            if fault is not None:
                await _refuse(connection, standing, fault, command.reference, command_id, terms.at)
                return
            if used is not None:
                await _say(
                    connection,
                    outgoing_messages.credited(standing, command.reference, command_id, terms.at),
                )
                return
            after = await _book(connection, standing, entry, command_id, terms)
            said = outgoing_messages.credited(after, command.reference, command_id, terms.at)
            await save_judged(connection, [after], terms, [said])
            CHARGES.labels(kind="credit").inc()

    async def _purchase(self, command: PurchasePlan, command_id: str) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, self._clock.now())
            standing = (await accounts.lock(connection, [command.account], terms))[command.account]
            used = await accounts.entry_of(connection, command.account, command.reference)
            bought = await plans.show(connection, command.account, command.reference, terms.at)
            if bought is not None and (bought.plan, bought.currency) == (
                command.plan,
                command.currency,
            ):
                await _say(
                    connection, outgoing_messages.purchased(standing, bought, command_id, terms.at)
                )
                return
            offer = terms.prices.offer(command.plan, command.currency)
            fault = money_fault(standing, command.currency, terms.prices)
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
            pack = Pack(
                command.reference,
                plan.requests,
                terms.hour,
                terms.hour + plan.days * 24,
                plain(price),
            )
            entry = Entry("plan", minus(Decimal(0), price), command.currency, command.reference)
            after = await _book(connection, standing, entry, command_id, terms)
            await plans.buy(
                connection, command.account, pack, command.plan, command.currency, terms.at
            )
            first = (
                terms.hour if standing.rate_from is None else min(standing.rate_from, terms.hour)
            )
            after = after._replace(plan_left=after.plan_left + plan.requests, rate_from=first)
            view = await plans.show(connection, command.account, command.reference, terms.at)
            said = (
                [outgoing_messages.purchased(after, view, command_id, terms.at)]
                if view is not None
                else []
            )
            await save_judged(connection, [after], terms, said)
            CHARGES.labels(kind="plan").inc()

    async def _threshold(self, command: SetThreshold, command_id: str, sent: datetime) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            terms = await self._terms(connection, self._clock.now())
            standing = (await accounts.lock(connection, [command.account], terms))[command.account]
            fault = money_fault(standing, command.currency, terms.prices)
            if fault is not None:
                await _refuse(connection, standing, fault, None, command_id, terms.at)
            elif await accounts.set_threshold(connection, command.account, sent):
                after = standing._replace(currency=command.currency, threshold=command.threshold)
                await save_judged(connection, [priced(after, terms)], terms)

    async def _apply(self, command: ApplyPriceBook, command_id: str) -> None:
        """Nobody rates meanwhile: the owners' lock holds the prices still, too."""
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            await owners.change_owners(connection)
            if await prices.serial_of(connection, command_id) is not None:
                return
            old = await prices.current(connection)
            new = Prices(old.serial + 1, command.book)
            found = review(old, command, int(now.timestamp()) // 3600 + 1)
            if not found:
                await prices.add(connection, new, command_id, now)
            await _say(
                connection,
                outgoing_messages.price_book(
                    old.serial if found else new.serial, found, command_id, now
                ),
            )


def review(old: Prices, command: ApplyPriceBook, first_free: int) -> list[Finding]:
    """Why the book is not applied; ``first_free``: the first hour whose prices may still change."""
    found = faults(command.book)
    if not found:
        found = retroactive(old, Prices(0, command.book), first_free)
    if command.base != old.serial:
        found.append(
            finding(
                Code.PRICES_CHANGED, f"The current book is number {old.serial}, not {command.base}."
            )
        )
    return found


async def _book(
    connection: Connection, standing: Standing, entry: Entry, command_id: str, terms: Terms
) -> Standing:
    """A ledger line that is no charge, and the standing after it."""
    await accounts.add_entry(connection, standing.account, entry, command_id, terms.at)
    after = standing._replace(
        currency=entry.currency,
        entries=standing.entries + 1,
        ledger=plus(standing.ledger, entry.amount),
    )
    return priced(after, terms)


async def _refuse(
    connection: Connection,
    standing: Standing,
    code: Code,
    reference: str | None,
    command_id: str,
    now: datetime,
) -> None:
    await _say(connection, outgoing_messages.refused(standing, code, reference, command_id, now))


async def _say(connection: Connection, *messages: Outgoing) -> None:
    """Once a command: a redelivery would say it with another time and balance, under the same
    id."""
    fresh: Sequence[Outgoing] = [
        one for one in messages if not await accounts.said(connection, one.id)
    ]
    await outbox.enqueue(connection, fresh)
