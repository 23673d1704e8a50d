"""Rows of FOCUS 1.2 conform to the specification and add up to the ledger."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.export.focus import COLUMNS, FocusExport
from clients.export.list_prices import ListPrices
from clients.export.writers import CsvWriter
from shared.contracts.ledger import LedgerRow
from shared.contracts.prices import PriceBook
from tests.support.focus_rules import rule_violations, unbalanced_commitments

HOUR = datetime(2026, 5, 1, 13, tzinfo=UTC)
BOOK = PriceBook.model_validate(
    {
        "prices": [
            {
                "id": "cny",
                "currency": "CNY",
                "tiers": [{"above": 0, "price": "0.05"}, {"above": 10**6, "price": "0.04"}],
            },
            {"id": "usd", "currency": "USD", "tiers": [{"price": "0.008"}]},
            {"id": "acme", "currency": "CNY", "account": "acme", "tiers": [{"price": "0.03"}]},
            {
                "id": "cny-june",
                "currency": "CNY",
                "start": "2026-06-01T00:00:00Z",
                "tiers": [{"price": "0.06"}],
            },
        ]
    }
)


def make_line(kind: str = "charge", **changed: Any) -> LedgerRow:
    known: dict[str, Any] = {
        "id": 1,
        "account": "acme",
        "kind": kind,
        "booked_at": HOUR + timedelta(hours=1, seconds=3.5),
        "billed_at": HOUR,
        "late": False,
        "hour": HOUR,
        "requests": 5000,
        "price": "0.05",
        "price_id": "cny",
        "plan": None,
        "plan_cost": None,
        "amount": "-0.025",
        "currency": "CNY",
        "reference": None,
    }
    if kind in ("credit", "plan"):
        known |= {
            "hour": None,
            "price": None,
            "price_id": None,
            "requests": None,
            "reference": "pay-1",
        }
    return LedgerRow.model_validate(known | changed)


CASES = {
    "a charge": make_line(),
    "a charge by the account's own price": make_line(
        price="0.03", price_id="acme", amount="-0.015"
    ),
    "a charge of a higher tier": make_line(price="0.04", amount="-0.02"),
    "a correction within the month": make_line("correction", requests=-100, amount="0.0005"),
    "a correction of a settled month": make_line(
        "correction", late=True, billed_at=HOUR + timedelta(days=40), requests=7, amount="-0.000035"
    ),
    "usage from a plan": make_line(
        price="0", price_id=None, plan="plan-1", plan_cost="0.02", amount="0"
    ),
    "a plan": make_line("plan", amount="-9.9", plan="plan-1", price_id="pack-1m", requests=10**6),
    "the rest of a plan": make_line(
        "unused", price=None, price_id=None, plan="plan-1", plan_cost="9.88", amount="0"
    ),
    "a correction of a rest": make_line(
        "unused",
        price=None,
        price_id=None,
        plan="plan-1",
        plan_cost="-0.02",
        amount="0",
        requests=-7,
        late=True,
        billed_at=HOUR + timedelta(days=40),
    ),
    "a credit": make_line("credit", amount="100"),
    "dollars": make_line(currency="USD", price="0.008", price_id="usd", amount="-0.004"),
}


def write_rows(lines: Sequence[LedgerRow], zone: str = "UTC") -> list[dict[str, str]]:
    """Write lines as CSV and read the rows back."""
    stream = io.StringIO()
    place = ZoneInfo(zone)
    sheet = FocusExport(place, ListPrices(BOOK)).build_sheet()
    writer = CsvWriter(stream, sheet, place)
    for one in lines:
        writer.write(sheet.values(one))
    return list(csv.DictReader(io.StringIO(stream.getvalue())))


@pytest.mark.parametrize("case", CASES)
def test_a_row_of_each_kind_conforms_to_the_specification(case: str) -> None:
    assert list(rule_violations(write_rows([CASES[case]]))) == []


def test_a_file_of_all_kinds_conforms_and_adds_up() -> None:
    rows = write_rows(list(CASES.values()), "Asia/Shanghai")
    assert list(rule_violations(rows)) == []
    assert sum(Decimal(row["BilledCost"]) for row in rows) == -sum(
        case.amount for case in CASES.values()
    )


def test_over_its_term_a_plan_costs_what_it_was_billed() -> None:
    whole = [CASES[case] for case in ("a plan", "usage from a plan", "the rest of a plan")]
    assert list(unbalanced_commitments(write_rows(whole))) == []
    assert list(unbalanced_commitments(write_rows(whole[:2])))


def test_the_rules_notice_what_is_wrong() -> None:
    (row,) = write_rows([make_line()])
    for column, value in (
        ("ListCost", "9"),
        ("ChargeCategory", "Gift"),
        ("BillingPeriodStart", "2026-05-01"),
        ("ChargeFrequency", ""),
        ("PricingUnit", ""),
        ("CommitmentDiscountId", "x"),
    ):
        assert list(rule_violations([row | {column: value}])), column
    assert list(
        rule_violations([{name: value for name, value in row.items() if name != "BilledCost"}])
    ), "a column is missing"
    assert list(rule_violations([row | {"Colour": "red"}])), "an unknown column"


def test_the_columns_are_in_order_and_each_there_once() -> None:
    names = [column.name for column in COLUMNS]
    assert names == sorted(set(names), key=lambda name: (name.startswith("x_"), name))


@pytest.mark.parametrize(
    ("case", "column", "value"),
    [
        ("a charge", "ChargePeriodEnd", "2026-05-01T14:00:00Z"),
        ("a charge", "BillingPeriodStart", "2026-04-30T16:00:00Z"),
        ("a charge", "PricingQuantity", "0.5000"),
        ("a charge", "EffectiveCost", "0.025"),
        ("a charge by the account's own price", "ListUnitPrice", "0.05"),
        ("a charge by the account's own price", "ListCost", "0.025"),
        ("a charge of a higher tier", "ListUnitPrice", "0.04"),
        ("a correction of a settled month", "ChargeClass", "Correction"),
        ("a correction of a settled month", "BillingPeriodStart", "2026-05-31T16:00:00Z"),
        ("a correction of a settled month", "ChargePeriodStart", "2026-05-01T13:00:00Z"),
        ("a correction within the month", "ChargeClass", ""),
        ("usage from a plan", "BilledCost", "0"),
        ("usage from a plan", "EffectiveCost", "0.02"),
        ("usage from a plan", "CommitmentDiscountStatus", "Used"),
        ("usage from a plan", "ContractedCost", "0.025"),
        ("a plan", "BilledCost", "9.9"),
        ("a plan", "EffectiveCost", "0"),
        ("a plan", "CommitmentDiscountId", "acme/plan-1"),
        ("the rest of a plan", "BilledCost", "0"),
        ("the rest of a plan", "EffectiveCost", "9.88"),
        ("the rest of a plan", "ListCost", "0"),
        ("the rest of a plan", "CommitmentDiscountStatus", "Unused"),
        ("the rest of a plan", "CommitmentDiscountQuantity", "5000"),
        ("the rest of a plan", "ConsumedQuantity", ""),
        ("a credit", "BilledCost", "-100"),
        ("a credit", "ChargeCategory", "Credit"),
    ],
)
def test_a_column_has_its_value(case: str, column: str, value: str) -> None:
    (row,) = write_rows([CASES[case]], "Asia/Shanghai")
    assert row[column] == value


def test_the_list_price_is_the_one_that_held_in_the_hour() -> None:
    june = make_line(hour=datetime(2026, 6, 1, tzinfo=UTC), price="0.03", price_id="acme")
    assert ListPrices(BOOK)(june) == Decimal("0.06")
    assert ListPrices(PriceBook.model_validate({"prices": [BOOK.prices[1].model_dump()]}))(
        june
    ) == Decimal("0.03")


AMOUNTS = st.decimals(
    min_value=-(10**19), max_value=10**19, places=18, allow_nan=False, allow_infinity=False
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["charge", "correction", "credit", "plan"]), AMOUNTS), max_size=30
    )
)
def test_whatever_the_amounts_no_digit_is_lost(found: list[tuple[str, Decimal]]) -> None:
    lines = [make_line(kind, amount=amount) for kind, amount in found]
    rows = write_rows(lines)
    assert [Decimal(row["BilledCost"]) for row in rows] == [
        one.amount.copy_negate() for one in lines
    ]
