"""Check rows of a charge export against FOCUS 1.2 (focus.finops.org/focus-specification/v1-2).

The rules are written from the requirements of its columns and have the ids of the specification's
conformance rules, e.g. ``ListCost-C-009-C``. Values are those of a CSV file: text, '' for null.
Rules of columns whose feature is not supported here (regions, resources, reservations) are left
out, but the columns are expected to be null.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Final

Row = Mapping[str, str]
MANDATORY: Final = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
)
"""Present in every dataset (CostAndUsage-D-005-M to 065-M)."""
CONDITIONAL: Final = (
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "CommitmentDiscountUnit",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedUnitPrice",
    "ListUnitPrice",
    "PricingCategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
)
"""Present because plans, metering, a public price list and negotiated prices are supported."""
RECOMMENDED: Final = ("ChargeFrequency", "InvoiceId", "ServiceSubcategory")
UNSUPPORTED: Final = (
    "AvailabilityZone",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
)
NEVER_NULL: Final = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
)
DECIMALS: Final = (
    "BilledCost",
    "CommitmentDiscountQuantity",
    "ConsumedQuantity",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "ListCost",
    "ListUnitPrice",
    "PricingQuantity",
)
TIMES: Final = ("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart")
ALLOWED: Final = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "CommitmentDiscountCategory": {"", "Spend", "Usage"},
    "CommitmentDiscountStatus": {"", "Used", "Unused"},
    "PricingCategory": {"", "Standard", "Committed", "Dynamic", "Other"},
    "ServiceCategory": {"Networking"},
    "ServiceSubcategory": {"Content Delivery"},
    "BillingCurrency": {"CNY", "USD"},
}
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_UNIT = re.compile(r"(\d+ )?[A-Z][A-Za-z]*s(/[A-Z][a-z]+)?")
"""Unit Format: plural units with capitals, a quantity before them where it is not one."""
_Rule = tuple[str, Callable[[Row], bool]]


def _number(text: str) -> Decimal:
    return Decimal(text)


def _implies(when: Callable[[Row], bool], then: Callable[[Row], bool]) -> Callable[[Row], bool]:
    return lambda row: not when(row) or then(row)


def _is(column: str, *values: str) -> Callable[[Row], bool]:
    return lambda row: row[column] in values


def _null(*columns: str) -> Callable[[Row], bool]:
    return lambda row: not any(row[column] for column in columns)


def _given(*columns: str) -> Callable[[Row], bool]:
    return lambda row: all(row[column] for column in columns)


def _product(price: str, cost: str) -> Callable[[Row], bool]:
    def holds(row: Row) -> bool:
        if not row[price] or not row["PricingQuantity"] or row["ChargeClass"] == "Correction":
            return True
        return _number(row[price]) * _number(row["PricingQuantity"]) == _number(row[cost])

    return holds


def _priced(row: Row) -> bool:
    """Usage and purchases that are no corrections: prices, quantities and SKUs are demanded of
    them."""
    return row["ChargeCategory"] in ("Usage", "Purchase") and row["ChargeClass"] != "Correction"


def _committed(row: Row) -> bool:
    return bool(row["CommitmentDiscountId"])


_purchase, _credit = _is("ChargeCategory", "Purchase"), _is("ChargeCategory", "Credit")
_PRICES: Final = (
    "ListUnitPrice",
    "ContractedUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "SkuId",
    "SkuPriceId",
)
RULES: Final[tuple[_Rule, ...]] = (
    *((f"{c} is never null", _given(c)) for c in NEVER_NULL),
    *((f"{c} has an allowed value", _is(c, *values)) for c, values in ALLOWED.items()),
    *(
        (f"{c} is a number", lambda r, c=c: not r[c] or bool(_NUMBER.fullmatch(r[c])))
        for c in DECIMALS
    ),  # type: ignore[misc]
    *((f"{c} is a time in UTC", lambda r, c=c: bool(_TIME.fullmatch(r[c]))) for c in TIMES),  # type: ignore[misc]
    *((f"{c} does not apply", _null(c)) for c in UNSUPPORTED),
    *((f"{c} of taxes is null", _implies(_is("ChargeCategory", "Tax"), _null(c))) for c in _PRICES),
    *((f"{c} of usage and purchases is given", _implies(_priced, _given(c))) for c in _PRICES),
    ("BillingPeriod: start before end", lambda r: r["BillingPeriodStart"] < r["BillingPeriodEnd"]),
    ("ChargePeriod: start before end", lambda r: r["ChargePeriodStart"] < r["ChargePeriodEnd"]),
    (
        "ChargeFrequency-C-004-C",
        _implies(_purchase, lambda r: r["ChargeFrequency"] != "Usage-Based"),
    ),
    ("ListUnitPrice-C-008-M", lambda r: not r["ListUnitPrice"] or _number(r["ListUnitPrice"]) >= 0),
    (
        "ContractedUnitPrice-C-009-C",
        lambda r: not r["ContractedUnitPrice"] or _number(r["ContractedUnitPrice"]) >= 0,
    ),
    ("ListCost-C-009-C", _product("ListUnitPrice", "ListCost")),
    ("ContractedCost-C-009-C", _product("ContractedUnitPrice", "ContractedCost")),
    ("EffectiveCost-C-005-C", _implies(_purchase, lambda r: _number(r["EffectiveCost"]) == 0)),
    ("EffectiveCost-C-010-C", _implies(_credit, lambda r: r["EffectiveCost"] == r["BilledCost"])),
    ("ListCost-C-008-C", _implies(_credit, lambda r: r["ListCost"] == r["BilledCost"])),
    ("ContractedCost-C-008-C", _implies(_credit, lambda r: r["ContractedCost"] == r["BilledCost"])),
    (
        "ConsumedQuantity-C-004-C",
        _implies(lambda r: r["ChargeCategory"] != "Usage", _null("ConsumedQuantity")),
    ),
    (
        "ConsumedQuantity-C-006-C",
        _implies(
            lambda r: (
                r["ChargeCategory"] == "Usage"
                and r["ChargeClass"] != "Correction"
                and r["CommitmentDiscountStatus"] != "Unused"
            ),
            _given("ConsumedQuantity"),
        ),
    ),
    (
        "ConsumedQuantity of what was not used",
        _implies(_is("CommitmentDiscountStatus", "Unused"), _null("ConsumedQuantity")),
    ),
    ("ConsumedUnit-C-004/005-C", lambda r: bool(r["ConsumedUnit"]) == bool(r["ConsumedQuantity"])),
    ("PricingUnit-C-005/006-C", lambda r: bool(r["PricingUnit"]) == bool(r["PricingQuantity"])),
    ("SkuMeter-C-004/005-C", lambda r: bool(r["SkuMeter"]) == bool(r["SkuId"])),
    ("SkuPriceDetails-C-004-C", _implies(_null("SkuPriceId"), _null("SkuPriceDetails"))),
    *(
        (f"{c} goes with CommitmentDiscountId", lambda r, c=c: bool(r[c]) == _committed(r))  # type: ignore[misc]
        for c in ("CommitmentDiscountCategory", "CommitmentDiscountName", "CommitmentDiscountType")
    ),
    (
        "CommitmentDiscountStatus is of usage",
        lambda r: (
            bool(r["CommitmentDiscountStatus"])
            == (_committed(r) and r["ChargeCategory"] == "Usage")
        ),
    ),
    (
        "CommitmentDiscountQuantity-C-006-C",
        _implies(lambda r: _committed(r) and _priced(r), _given("CommitmentDiscountQuantity")),
    ),
    (
        "CommitmentDiscountQuantity-C-008-C",
        _implies(lambda r: not _committed(r), _null("CommitmentDiscountQuantity")),
    ),
    (
        "CommitmentDiscountUnit-C-005/006-C",
        lambda r: bool(r["CommitmentDiscountUnit"]) == bool(r["CommitmentDiscountQuantity"]),
    ),
    (
        "PricingCategory of committed usage",
        _implies(
            lambda r: _committed(r) and r["ChargeCategory"] == "Usage",
            _is("PricingCategory", "Committed"),
        ),
    ),
    *(
        (f"{c} is a unit", lambda r, c=c: not r[c] or bool(_UNIT.fullmatch(r[c])))  # type: ignore[misc]
        for c in ("ConsumedUnit", "PricingUnit", "CommitmentDiscountUnit")
    ),
)


def unbalanced_commitments(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield the commitments whose effective cost is not what they were billed.

    The rows must have the whole of their term.
    """
    billed, effective = defaultdict[str, Decimal](Decimal), defaultdict[str, Decimal](Decimal)
    for row in rows:
        if row["CommitmentDiscountId"]:
            billed[row["CommitmentDiscountId"]] += _number(row["BilledCost"])
            effective[row["CommitmentDiscountId"]] += _number(row["EffectiveCost"])
    yield from (
        f"{one}: billed {billed[one]}, effective {effective[one]}"
        for one in billed
        if billed[one] != effective[one]
    )


def rule_violations(rows: list[dict[str, str]]) -> Iterator[str]:
    """Yield the rules that the rows of a file break, each with the row's number."""
    known = {*MANDATORY, *CONDITIONAL, *RECOMMENDED, *UNSUPPORTED}
    columns = set(rows[0]) if rows else known
    yield from (
        f"the column {column} is not FOCUS and has no x_"
        for column in columns - known
        if column[:2] != "x_"
    )
    if missing := known - columns:
        yield f"missing: {sorted(missing)}"
        return
    for number, row in enumerate(rows):
        yield from (f"row {number}: {rule}" for rule, holds in RULES if not holds(row))
    skus: dict[str, set[str]] = {}
    for row in rows:
        skus.setdefault(row["SkuPriceId"], set()).add(row["SkuId"])
    yield from (
        f"SkuPriceId-C-008-M: {price} is of {sku}"
        for price, sku in skus.items()
        if price and len(sku) > 1
    )
