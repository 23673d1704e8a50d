from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.billing.domain.price_book import (
    DEFAULT_BOOK,
    PriceLookup,
    describe_changes,
    find_faults,
    find_retroactive_changes,
)
from shared.contracts.prices import PlanOffer, Price, PriceBook, Tier

D = Decimal
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = int(NOW.timestamp()) // 3600
LIST = Price(id="list", currency="CNY", tiers=[Tier(price=D("0.05"))])


def _price(id: str, price: str = "0.04", **other: object) -> Price:
    return Price.model_validate({"id": id, "currency": "CNY", "tiers": [{"price": price}]} | other)


def test_an_accounts_own_price_counts_first_then_the_one_that_started_last() -> None:
    prices = PriceLookup(
        1,
        PriceBook(
            prices=[
                LIST,
                _price("may", start=NOW),
                _price("deal", "0.01", account="acme", end=NOW + timedelta(hours=5)),
            ]
        ),
    )
    assert prices.tariff_at("acme", "CNY", HOUR).id == "deal"
    assert prices.tariff_at("acme", "CNY", HOUR + 5).id == "may"
    assert prices.tariff_at("other", "CNY", HOUR - 1).id == "list"
    assert prices.tariff_at("other", "CNY", HOUR).id == "may"
    with pytest.raises(KeyError):
        prices.tariff_at("other", "USD", HOUR)


def test_a_price_has_no_more_digits_than_the_cost_of_one_request_can_carry() -> None:
    assert Tier(price=D("0.03333333333333")).price == D("0.03333333333333")
    for price in ("0.033333333333333", "1000001", "-1", "NaN"):
        with pytest.raises(ValueError, match="price"):
            _price("p", price)
    cost = (
        PriceLookup(1, PriceBook(prices=[_price("p", "0.00000000000001")]))
        .tariff_at("a", "CNY", HOUR)
        .amount(0, 1)
    )
    assert cost == D("0.000000000000000001")


@pytest.mark.parametrize(
    ("case", "book", "text"),
    [
        ("an id twice", [LIST, _price("list", start=NOW)], "used twice"),
        (
            "the same start twice",
            [LIST, _price("b", start=NOW), _price("c", start=NOW)],
            "starts at the same hour",
        ),
        ("half an hour", [LIST, _price("b", start=NOW + timedelta(minutes=30))], "not a full hour"),
        (
            "ends before it starts",
            [LIST, _price("b", start=NOW, end=NOW - timedelta(hours=1))],
            "ends before",
        ),
        (
            "tiers that fall",
            [LIST, _price("b", start=NOW, tiers=[{"price": "1"}, {"above": 0, "price": "1"}])],
            "rise",
        ),
        (
            "tiers that start late",
            [LIST, _price("b", start=NOW, tiers=[{"above": 5, "price": "1"}])],
            "rise",
        ),
        ("no list price", [_price("b", start=NOW)], "no list price"),
        (
            "a deal in a currency without list price",
            [LIST, _price("b", account="a", currency="USD")],
            "USD has no list",
        ),
    ],
)
def test_an_inconsistent_book_is_refused_with_the_place_of_the_fault(
    case: str, book: list[Price], text: str
) -> None:
    found = find_faults(PriceBook(prices=book))
    assert found and any(text in one.message for one in found), case


def test_the_book_that_edgetls_comes_with_is_consistent() -> None:
    assert find_faults(DEFAULT_BOOK) == []
    assert PriceLookup().currencies == {"CNY", "USD"}


def test_prices_of_hours_that_have_begun_cannot_change_and_later_ones_can() -> None:
    old = PriceLookup(1, PriceBook(prices=[LIST]))

    def found(*prices: Price) -> list[str]:
        return [
            one.code.value
            for one in find_retroactive_changes(
                old, PriceLookup(2, PriceBook(prices=list(prices))), HOUR + 1
            )
        ]

    later = NOW + timedelta(hours=1)
    assert (
        found(LIST, _price("next", start=later), _price("deal", account="acme", start=later)) == []
    )
    assert found(LIST, _price("next", start=NOW)) == ["prices.retroactive"]
    assert found(LIST, _price("deal", account="acme")) == ["prices.retroactive"]
    assert found(_price("list", "0.06")) == ["prices.retroactive"]
    assert found(_price("usd", currency="USD")) == ["prices.retroactive"]


def test_changes_are_described_line_by_line() -> None:
    new = PriceBook(
        prices=[LIST, _price("next", start=NOW)],
        plans=[PlanOffer(id="pack", requests=10_000_000, days=180, prices={"CNY": D(40)})],
    )
    assert describe_changes(PriceBook(prices=[LIST, _price("old")]), new) == [
        "+ price next: 0.04 CNY a 10,000 for everybody from 2026-05-01 12:00",
        "- price old: 0.04 CNY a 10,000 for everybody always",
        "+ plan pack: 10,000,000 requests in 180 days for 40 CNY",
    ]
