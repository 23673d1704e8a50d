"""The price book: which tariff holds for an account in an hour, whether a book holds together, and
what a new one changes. Pure; hours are Unix time in hours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Final

from services.billing.domain.rating import LIST_PRICES, LIST_TARIFFS, Tariff
from shared.contracts.findings import Code, Finding, finding
from shared.contracts.prices import PlanOffer, Price, PriceBook, Tier
from shared.money import plain

ALWAYS: Final = -(2**31)
NEVER: Final = 2**31 - 1
DEFAULT_BOOK: Final = PriceBook(
    title="The list price that edgetls comes with",
    prices=[
        Price(id=LIST_TARIFFS[c].id, currency=c, tiers=[Tier(price=price)])
        for c, price in LIST_PRICES.items()
    ],
)


@dataclass(frozen=True)
class _PricePeriod:
    start: int
    end: int
    tariff: Tariff


class PriceLookup:
    """A book, ready to ask. ``serial`` 0: the one that edgetls comes with."""

    def __init__(self, serial: int = 0, book: PriceBook = DEFAULT_BOOK) -> None:
        self.serial, self.book = serial, book
        self._valid: dict[tuple[str | None, str], list[_PricePeriod]] = defaultdict(list)
        for price in book.prices:
            tiers = tuple((tier.above, plain(tier.price)) for tier in price.tiers)
            self._valid[price.account, price.currency].append(
                _PricePeriod(
                    hour_of(price.start, ALWAYS), hour_of(price.end, NEVER), Tariff(price.id, tiers)
                )
            )
        for found in self._valid.values():
            found.sort(key=lambda valid: -valid.start)
        self.currencies = frozenset(
            price.currency for price in book.prices if price.account is None
        )

    def tariff(self, account: str, currency: str, hour: int) -> Tariff:
        """The account's own price first, then the list price; of several the one that started
        last."""
        for key in ((account, currency), (None, currency)):
            for valid in self._valid.get(key, ()):
                if valid.start <= hour < valid.end:
                    return valid.tariff
        raise KeyError(f"no price for {currency}")

    def offer(self, plan: str, currency: str) -> tuple[PlanOffer, Decimal] | None:
        """The plan and what it costs."""
        found = next(
            (offer for offer in self.book.plans if offer.id == plan and currency in offer.prices),
            None,
        )
        return None if found is None else (found, found.prices[currency])

    def boundaries(self) -> set[int]:
        return {
            at
            for found in self._valid.values()
            for valid in found
            for at in (valid.start, valid.end)
        }

    @property
    def keys(self) -> set[tuple[str | None, str]]:
        return set(self._valid)


def hour_of(at: datetime | None, otherwise: int) -> int:
    return otherwise if at is None else int(at.timestamp()) // 3600


def find_faults(book: PriceBook) -> list[Finding]:
    """Why a book is inconsistent; each names the entry at fault."""
    texts = [*_entry_faults(book), *_list_faults(book)]
    return [finding(Code.PRICES_INVALID, text, field="request") for text in texts]


def _entry_faults(book: PriceBook) -> Iterator[str]:
    ids, starts = set(), set()
    for price in book.prices:
        if price.id in ids:
            yield f"the price id {price.id!r} is used twice"
        ids.add(price.id)
        key = price.account, price.currency, price.start
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
    offers = [offer.id for offer in book.plans]
    yield from (
        f"the plan id {name!r} is used twice"
        for name in sorted({o for o in offers if offers.count(o) > 1})
    )


def _list_faults(book: PriceBook) -> Iterator[str]:
    listed = {
        p.currency for p in book.prices if p.account is None and p.start is None and p.end is None
    }
    used = {p.currency for p in book.prices} | {
        currency for offer in book.plans for currency in offer.prices
    }
    for currency in sorted(used - listed):
        yield (
            f"{currency} has no list price without account, start and end: some hours would "
            "have no price"
        )


def find_retroactive_changes(old: PriceLookup, new: PriceLookup, first_free: int) -> list[Finding]:
    """What ``new`` changes of the hours before ``first_free``: they were rated already, or are
    being rated."""
    points = {at for at in old.boundaries() | new.boundaries() if at < first_free} | {ALWAYS}
    texts = []
    for account, currency in sorted(old.keys | new.keys, key=str):
        if currency not in new.currencies:
            texts.append(f"the prices in {currency} are gone")
            continue
        if currency not in old.currencies:
            continue
        if any(
            old.tariff(account or "", currency, at) != new.tariff(account or "", currency, at)
            for at in points
        ):
            texts.append(
                f"the {currency} price of {account or 'the list'} changes before "
                f"{_time(first_free)}"
            )
    return [
        finding(Code.PRICES_RETROACTIVE, text, field="request") for text in dict.fromkeys(texts)
    ]


def describe_changes(old: PriceBook, new: PriceBook) -> list[str]:
    """What a reader compares: entries that come, go or change, one line each."""
    lines = []
    for kind, before, after in (
        (
            "price",
            {p.id: _describe_price(p) for p in old.prices},
            {p.id: _describe_price(p) for p in new.prices},
        ),
        (
            "plan",
            {p.id: _describe_plan(p) for p in old.plans},
            {p.id: _describe_plan(p) for p in new.plans},
        ),
    ):
        lines += [
            f"+ {kind} {name}: {after[name]}" for name in sorted(after.keys() - before.keys())
        ]
        lines += [
            f"- {kind} {name}: {before[name]}" for name in sorted(before.keys() - after.keys())
        ]
        lines += [
            f"~ {kind} {name}: {before[name]} -> {after[name]}"
            for name in sorted(after.keys() & before.keys())
            if before[name] != after[name]
        ]
    return lines


def _describe_price(price: Price) -> str:
    who = price.account or "everybody"
    when = " ".join(
        f"{word} {at:%Y-%m-%d %H:%M}"
        for word, at in (("from", price.start), ("to", price.end))
        if at is not None
    )
    tiers = ", ".join(
        f"{plain(tier.price):f}" + (f" above {tier.above:,}" if tier.above else "")
        for tier in price.tiers
    )
    return f"{tiers} {price.currency} a 10,000 for {who} {when or 'always'}"


def _describe_plan(offer: PlanOffer) -> str:
    money = ", ".join(
        f"{plain(amount):f} {currency}" for currency, amount in sorted(offer.prices.items())
    )
    return f"{offer.requests:,} requests in {offer.days} days for {money}"


def _time(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m-%d %H:%M} UTC"
