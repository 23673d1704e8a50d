"""The price book: the tariff of an account in an hour, the faults of a book, and its changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Final

from services.billing.domain.rating import LIST_PRICES, LIST_TARIFFS, Tariff
from services.billing.domain.units import UnixHour, hour_of, hour_time
from shared.contracts.findings import Code, Finding, finding
from shared.contracts.prices import PlanOffer, Price, PriceBook, Tier
from shared.money import plain

ALWAYS: Final = UnixHour(-(2**31))
NEVER: Final = UnixHour(2**31 - 1)
DEFAULT_BOOK: Final = PriceBook(
    title="The list price that edgetls comes with",
    prices=[
        Price(id=LIST_TARIFFS[currency].id, currency=currency, tiers=[Tier(price=price)])
        for currency, price in LIST_PRICES.items()
    ],
)
PriceKey = tuple[str | None, str]
"""Account (None: the list price) and currency."""


@dataclass(frozen=True)
class _PricePeriod:
    """``tariff`` is valid in the hours [start, end)."""

    start: UnixHour
    end: UnixHour
    tariff: Tariff


class PriceLookup:
    """A price book, indexed. ``serial`` 0: the book that edgetls comes with."""

    def __init__(self, serial: int = 0, book: PriceBook = DEFAULT_BOOK) -> None:
        self.serial = serial
        self.book = book
        self._periods: dict[PriceKey, list[_PricePeriod]] = defaultdict(list)
        for price in book.prices:
            tiers = tuple((tier.above, plain(tier.price)) for tier in price.tiers)
            start = ALWAYS if price.start is None else hour_of(price.start)
            end = NEVER if price.end is None else hour_of(price.end)
            period = _PricePeriod(start, end, Tariff(price.id, tiers))
            self._periods[price.account, price.currency].append(period)
        for periods in self._periods.values():
            periods.sort(key=lambda period: -period.start)
        self.currencies = frozenset(
            currency for account, currency in self._periods if account is None
        )

    def tariff_at(self, account: str, currency: str, hour: UnixHour) -> Tariff:
        """Return the tariff of an account in an hour. KeyError for a currency without a price.

        The account's own price goes before the list price; of several valid ones the one that
        started last."""
        for key in ((account, currency), (None, currency)):
            for period in self._periods.get(key, ()):
                if period.start <= hour < period.end:
                    return period.tariff
        raise KeyError(f"no price for {currency}")

    def find_offer(self, plan: str, currency: str) -> tuple[PlanOffer, Decimal] | None:
        """Return the plan and its price, or None when it is not sold in this currency."""
        for offer in self.book.plans:
            if offer.id == plan and currency in offer.prices:
                return offer, offer.prices[currency]
        return None

    def boundary_hours(self) -> set[UnixHour]:
        """Return the hours in which a price starts or ends."""
        boundaries: set[UnixHour] = set()
        for periods in self._periods.values():
            for period in periods:
                boundaries.update((period.start, period.end))
        return boundaries

    def price_keys(self) -> set[PriceKey]:
        return set(self._periods)


def find_faults(book: PriceBook) -> list[Finding]:
    """Return the reasons why a book is inconsistent. Each names the entry at fault."""
    texts = [*_entry_faults(book), *_plan_faults(book), *_list_price_faults(book)]
    return [finding(Code.PRICES_INVALID, text, field="request") for text in texts]


def _entry_faults(book: PriceBook) -> Iterator[str]:
    ids: set[str] = set()
    starts: set[tuple[str | None, str, datetime | None]] = set()
    for price in book.prices:
        if price.id in ids:
            yield f"the price id {price.id!r} is used twice"
        ids.add(price.id)
        key = (price.account, price.currency, price.start)
        if key in starts:
            yield (
                f"price {price.id!r}: another one for the same account and currency starts "
                "at the same hour"
            )
        starts.add(key)
        for name, at in (("start", price.start), ("end", price.end)):
            if at is not None and at.timestamp() % 3600:
                yield f"price {price.id!r}: its {name} is not a full hour"
        if price.start is not None and price.end is not None and price.start >= price.end:
            yield f"price {price.id!r} ends before it starts"
        above = [tier.above for tier in price.tiers]
        if above[0] != 0 or any(low >= high for low, high in pairwise(above)):
            yield f"price {price.id!r}: its tiers must rise from 0"


def _plan_faults(book: PriceBook) -> Iterator[str]:
    seen: set[str] = set()
    twice: set[str] = set()
    for offer in book.plans:
        if offer.id in seen:
            twice.add(offer.id)
        seen.add(offer.id)
    for name in sorted(twice):
        yield f"the plan id {name!r} is used twice"


def _list_price_faults(book: PriceBook) -> Iterator[str]:
    """Each currency needs a list price without an end, or some hours would have no price."""
    listed: set[str] = set()
    used: set[str] = set()
    for price in book.prices:
        used.add(price.currency)
        if price.account is None and price.start is None and price.end is None:
            listed.add(price.currency)
    for offer in book.plans:
        used.update(offer.prices)
    for currency in sorted(used - listed):
        yield (
            f"{currency} has no list price without account, start and end: some hours would "
            "have no price"
        )


def find_retroactive_changes(
    old: PriceLookup, new: PriceLookup, first_free: UnixHour
) -> list[Finding]:
    """Return what ``new`` changes of hours before ``first_free``.

    Those hours were rated already, or are being rated now."""
    # Prices change only at boundaries of one of the two books: comparing them there is enough.
    hours = {ALWAYS}
    for hour in old.boundary_hours() | new.boundary_hours():
        if hour < first_free:
            hours.add(hour)
    texts: dict[str, None] = {}  # each text once, in order
    for account, currency in sorted(old.price_keys() | new.price_keys(), key=str):
        if currency not in new.currencies:
            texts[f"the prices in {currency} are gone"] = None
            continue
        if currency not in old.currencies:
            continue
        for hour in hours:
            before = old.tariff_at(account or "", currency, hour)
            if before != new.tariff_at(account or "", currency, hour):
                since = f"{hour_time(first_free):%Y-%m-%d %H:%M} UTC"
                name = account or "the list"
                texts[f"the {currency} price of {name} changes before {since}"] = None
                break
    return [finding(Code.PRICES_RETROACTIVE, text, field="request") for text in texts]


def describe_changes(old: PriceBook, new: PriceBook) -> list[str]:
    """Return a line for each price and plan that is added (+), removed (-) or changed (~)."""
    return [
        *_compare_entries("price", _describe_prices(old), _describe_prices(new)),
        *_compare_entries("plan", _describe_plans(old), _describe_plans(new)),
    ]


def _compare_entries(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(new.keys() - old.keys()):
        yield f"+ {kind} {name}: {new[name]}"
    for name in sorted(old.keys() - new.keys()):
        yield f"- {kind} {name}: {old[name]}"
    for name in sorted(new.keys() & old.keys()):
        if old[name] != new[name]:
            yield f"~ {kind} {name}: {old[name]} -> {new[name]}"


def _describe_prices(book: PriceBook) -> dict[str, str]:
    return {price.id: _describe_price(price) for price in book.prices}


def _describe_price(price: Price) -> str:
    tiers = []
    for tier in price.tiers:
        above = f" above {tier.above:,}" if tier.above else ""
        tiers.append(f"{plain(tier.price):f}{above}")
    period = []
    if price.start is not None:
        period.append(f"from {price.start:%Y-%m-%d %H:%M}")
    if price.end is not None:
        period.append(f"to {price.end:%Y-%m-%d %H:%M}")
    account = price.account or "everybody"
    when = " ".join(period) or "always"
    return f"{', '.join(tiers)} {price.currency} a 10,000 for {account} {when}"


def _describe_plans(book: PriceBook) -> dict[str, str]:
    texts = {}
    for offer in book.plans:
        amounts = []
        for currency, amount in sorted(offer.prices.items()):
            amounts.append(f"{plain(amount):f} {currency}")
        period = f"{offer.requests:,} requests in {offer.days} days"
        texts[offer.id] = f"{period} for {', '.join(amounts)}"
    return texts
