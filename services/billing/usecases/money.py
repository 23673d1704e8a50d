"""The commands of billing: credits, thresholds, plans, price books, the close of an hour."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from services.billing.domain import outgoing_messages
from services.billing.domain.balance import (
    AccountState,
    PricingContext,
    currency_fault,
    with_current_tariff,
)
from services.billing.domain.charging import BoughtPlan
from services.billing.domain.price_book import PriceLookup, find_faults, find_retroactive_changes
from services.billing.domain.units import UnixHour, hour_of
from services.billing.domain.usage_aggregator import usage_ends
from services.billing.metrics import CHARGES
from services.billing.store import accounts, is_enqueued, ledger, owners, plans, prices
from services.billing.store.ledger import LedgerEntry
from services.billing.usecases.accrue import decide_and_save
from services.billing.usecases.hourly_jobs import HourCharging
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
from shared.contracts.prices import PlanOffer
from shared.errors import Malformed
from shared.messages import Outgoing
from shared.messaging.delivery import Delivery
from shared.money import minus, plain, plus
from shared.storage import outbox
from shared.storage.pool import Connection, Pool


class MoneyCommands:
    """The commands of COMMANDS_BILLING.

    Each is idempotent: a redelivery changes nothing and publishes nothing new."""

    def __init__(
        self, pool: Pool, cache: ReferenceCache, charging: HourCharging, clock: Clock
    ) -> None:
        self._pool = pool
        self._cache = cache
        self._charging = charging
        self._clock = clock

    async def handle(self, delivery: Delivery) -> None:
        """Run one command. Malformed when it is none of billing's, or not its contract."""
        if not delivery.id:
            raise Malformed("a command needs its ce-id")
        subject = delivery.subject
        body = delivery.body
        if subject == catalogue.CMD_BALANCE_CREDIT:
            await self._credit_balance(parse(CreditBalance, body), delivery.id)
        elif subject == catalogue.CMD_BALANCE_THRESHOLD:
            await self._set_threshold(parse(SetThreshold, body), delivery.id, delivery.stream_time)
        elif subject == catalogue.CMD_PLAN_PURCHASE:
            await self._purchase_plan(parse(PurchasePlan, body), delivery.id)
        elif subject == catalogue.CMD_PRICE_BOOK_APPLY:
            await self._apply_price_book(parse(ApplyPriceBook, body), delivery.id)
        elif subject == catalogue.CMD_HOUR_CLOSE:
            await self._close_hour(parse(CloseHour, body).until, delivery.id)
        else:
            raise Malformed("not a command of billing")

    async def _lock_account(
        self, connection: Connection, account: str
    ) -> tuple[AccountState, PricingContext]:
        await self._cache.refresh(connection)
        pricing = self._cache.pricing_at(self._clock.now())
        states = await accounts.lock_accounts(connection, [account], pricing)
        return states[account], pricing

    async def _credit_balance(self, command: CreditBalance, command_id: str) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            # The reference is the identity of a credit. When it comes again, by the same command or
            # a new one, the event is published again and nothing is booked. The account's lock
            # keeps two commands with the same reference apart.
            state, pricing = await self._lock_account(connection, command.account)
            used = await ledger.find_entry(connection, command.account, command.reference)
            entry = LedgerEntry(
                "credit", plain(command.amount), command.currency, command.reference
            )
            fault = currency_fault(state, command.currency, pricing.prices)
            if fault is None and used is not None and used != entry:
                fault = Code.BALANCE_REFERENCE
            if fault is not None:
                await _refuse(connection, state, fault, command.reference, command_id, pricing)
                return
            if used is not None:
                message = outgoing_messages.credited_event(
                    state, command.reference, command_id, pricing.at
                )
                await _enqueue_once(connection, message)
                return
            after = await _add_entry(connection, state, entry, command_id, pricing)
            message = outgoing_messages.credited_event(
                after, command.reference, command_id, pricing.at
            )
            await decide_and_save(connection, [after], pricing, [message])
            CHARGES.labels(kind="credit").inc()

    async def _purchase_plan(self, command: PurchasePlan, command_id: str) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            state, pricing = await self._lock_account(connection, command.account)
            used = await ledger.find_entry(connection, command.account, command.reference)
            bought = await plans.find_plan(
                connection, command.account, command.reference, pricing.at
            )
            if bought is not None and (bought.plan, bought.currency) == (
                command.plan,
                command.currency,
            ):
                message = outgoing_messages.purchased_event(state, bought, command_id, pricing.at)
                await _enqueue_once(connection, message)
                return
            offer = pricing.prices.find_offer(command.plan, command.currency)
            fault = _purchase_fault(state, command, used, offer, pricing)
            if offer is None or fault is not None:
                code = fault or Code.PLAN_UNKNOWN
                await _refuse(connection, state, code, command.reference, command_id, pricing)
                return
            await _book_plan(connection, state, command, offer, command_id, pricing)
            CHARGES.labels(kind="plan").inc()

    async def _set_threshold(
        self, command: SetThreshold, command_id: str, sent_at: datetime
    ) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            state, pricing = await self._lock_account(connection, command.account)
            fault = currency_fault(state, command.currency, pricing.prices)
            if fault is not None:
                await _refuse(connection, state, fault, None, command_id, pricing)
            elif await accounts.set_threshold_time(connection, command.account, sent_at):
                after = state._replace(currency=command.currency, threshold=command.threshold)
                await decide_and_save(connection, [with_current_tariff(after, pricing)], pricing)

    async def _apply_price_book(self, command: ApplyPriceBook, command_id: str) -> None:
        """Apply or refuse a price book.

        The exclusive lock of owners keeps out every transaction that rates usage."""
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            await owners.lock_owners_exclusive(connection)
            if await prices.find_serial(connection, command_id) is not None:
                return
            old = await prices.load_current_prices(connection)
            serial = old.serial
            findings = review_price_book(old, command, UnixHour(hour_of(now) + 1))
            if not findings:
                serial += 1
                new = PriceLookup(serial, command.book)
                await prices.add_price_book(connection, new, command_id, now)
            message = outgoing_messages.price_book_event(serial, findings, command_id, now)
            await _enqueue_once(connection, message)

    async def _close_hour(self, until: datetime, command_id: str) -> None:
        """Malformed for hours that can have no usage yet: their plans would end too early."""
        if until >= usage_ends(self._clock.now()) + timedelta(hours=1):
            raise Malformed("until lies after the hour that runs")
        lines = await self._charging.close_hours(until)
        async with self._pool.acquire() as connection, connection.transaction():
            now = self._clock.now()
            message = outgoing_messages.hour_closed_event(until, lines, command_id, now)
            await _enqueue_once(connection, message)


def review_price_book(
    old: PriceLookup, command: ApplyPriceBook, first_free: UnixHour
) -> list[Finding]:
    """Return the reasons why a book is not applied.

    ``first_free``: the first hour whose prices may still change."""
    findings = find_faults(command.book)
    if not findings:
        findings = find_retroactive_changes(old, PriceLookup(0, command.book), first_free)
    if command.base != old.serial:
        text = f"The current book is number {old.serial}, not {command.base}."
        findings.append(finding(Code.PRICES_CHANGED, text))
    return findings


def _purchase_fault(
    state: AccountState,
    command: PurchasePlan,
    used: LedgerEntry | None,
    offer: tuple[PlanOffer, Decimal] | None,
    pricing: PricingContext,
) -> Code | None:
    fault = currency_fault(state, command.currency, pricing.prices)
    if fault is not None:
        return fault
    if used is not None:
        return Code.BALANCE_REFERENCE
    if offer is None:
        return Code.PLAN_UNKNOWN
    if state.balance < offer[1]:
        return Code.BALANCE_INSUFFICIENT
    return None


async def _book_plan(
    connection: Connection,
    state: AccountState,
    command: PurchasePlan,
    offer: tuple[PlanOffer, Decimal],
    command_id: str,
    pricing: PricingContext,
) -> None:
    """Write the plan and its ledger line. It covers hours from the running one on."""
    plan_offer, price = offer
    plan = BoughtPlan(
        reference=command.reference,
        requests=plan_offer.requests,
        start=pricing.hour,
        end=UnixHour(pricing.hour + plan_offer.days * 24),
        price=plain(price),
    )
    entry = LedgerEntry("plan", minus(Decimal(0), price), command.currency, command.reference)
    after = await _add_entry(connection, state, entry, command_id, pricing)
    await plans.add_plan(
        connection, command.account, plan, command.plan, command.currency, pricing.at
    )
    # The running hour may be charged in part: it must be rated anew, now with the plan.
    rate_from = pricing.hour
    if state.rate_from is not None:
        rate_from = min(state.rate_from, rate_from)
    after = after._replace(plan_left=after.plan_left + plan.requests, rate_from=rate_from)
    view = await plans.find_plan(connection, command.account, command.reference, pricing.at)
    messages = []
    if view is not None:
        messages.append(outgoing_messages.purchased_event(after, view, command_id, pricing.at))
    await decide_and_save(connection, [after], pricing, messages)


async def _add_entry(
    connection: Connection,
    state: AccountState,
    entry: LedgerEntry,
    command_id: str,
    pricing: PricingContext,
) -> AccountState:
    """Write a ledger line that is no charge; return the account after it."""
    await ledger.add_entry(connection, state.account, entry, command_id, pricing.at)
    after = state._replace(
        currency=entry.currency,
        entries=state.entries + 1,
        ledger=plus(state.ledger, entry.amount),
    )
    return with_current_tariff(after, pricing)


async def _refuse(
    connection: Connection,
    state: AccountState,
    code: Code,
    reference: str | None,
    command_id: str,
    pricing: PricingContext,
) -> None:
    message = outgoing_messages.refused_event(state, code, reference, command_id, pricing.at)
    await _enqueue_once(connection, message)


async def _enqueue_once(connection: Connection, message: Outgoing) -> None:
    """Write a message to the outbox, unless it is there.

    A redelivered command would make it with another time and balance, under the same id."""
    if not await is_enqueued(connection, message.id):
        await outbox.enqueue(connection, [message])
