"""Rows of FOCUS 1.2, the FinOps Open Cost and Usage Specification: one row for one line of the
ledger, so that the sum of ``BilledCost`` is the ledger's sum with the other sign, to the last
digit. Pure.

Source: FOCUS 1.2 (focus.finops.org/focus-specification/v1-2), "Columns". Where it leaves a choice:
- BilledCost, EffectiveCost: what a plan prepaid is billed with its purchase and effective with its
  use. EffectiveCost is 0 on the purchase ("Effective Cost"), BilledCost 0 on the use ("Billed
  Cost").
- ChargeCategory: a top-up of the balance is a Credit, the only value for money that comes in
  ("Charge Category"); leave those rows out where cost alone is wanted.
- ChargeClass is Correction only for usage of a month that was settled before ("Charge Class": a
  correction within the current billing period has none). The charge period of such a row is the
  hour that it corrects.
- A plan is a commitment discount on usage ("Commitment Discount ID" and the columns after it). What
  was left of it at its end is a row with the status Unused, so that EffectiveCost over its term is
  what it was billed ("Effective Cost").
- Contracted prices are the account's own and know no commitment discount, list prices neither
  ("Contracted Unit Price", "List Unit Price"); both costs are the price times PricingQuantity, in
  units of 10,000 requests ("Unit Format").
- InvoiceId is null: invoices are written elsewhere, from statements ("Invoice ID").
- Columns that do not apply (regions, resources, sub accounts, tags) are there and null, for readers
  of older versions.
- Own columns begin with ``x_`` ("Column Naming and Ordering").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from clients.export.sheets import Column, Sheet, Value
from shared.contracts.ledger import LedgerRow
from shared.money import negated, plus, times

UNIT: Final = 10_000
"""Requests that a price is for: ten to the fourth."""
SERVICE: Final = "HTTPS Secure Acceleration"
COLUMNS: Final = (
    Column("AvailabilityZone"),
    Column("BilledCost", "decimal"),
    Column("BillingAccountId"),
    Column("BillingAccountName"),
    Column("BillingAccountType"),
    Column("BillingCurrency"),
    Column("BillingPeriodEnd", "time"),
    Column("BillingPeriodStart", "time"),
    Column("ChargeCategory"),
    Column("ChargeClass"),
    Column("ChargeDescription"),
    Column("ChargeFrequency"),
    Column("ChargePeriodEnd", "time"),
    Column("ChargePeriodStart", "time"),
    Column("CommitmentDiscountCategory"),
    Column("CommitmentDiscountId"),
    Column("CommitmentDiscountName"),
    Column("CommitmentDiscountQuantity", "decimal"),
    Column("CommitmentDiscountStatus"),
    Column("CommitmentDiscountType"),
    Column("CommitmentDiscountUnit"),
    Column("ConsumedQuantity", "decimal"),
    Column("ConsumedUnit"),
    Column("ContractedCost", "decimal"),
    Column("ContractedUnitPrice", "decimal"),
    Column("EffectiveCost", "decimal"),
    Column("InvoiceId"),
    Column("InvoiceIssuerName"),
    Column("ListCost", "decimal"),
    Column("ListUnitPrice", "decimal"),
    Column("PricingCategory"),
    Column("PricingQuantity", "decimal"),
    Column("PricingUnit"),
    Column("ProviderName"),
    Column("PublisherName"),
    Column("RegionId"),
    Column("RegionName"),
    Column("ResourceId"),
    Column("ResourceName"),
    Column("ResourceType"),
    Column("ServiceCategory"),
    Column("ServiceName"),
    Column("ServiceSubcategory"),
    Column("SkuId"),
    Column("SkuMeter"),
    Column("SkuPriceDetails"),
    Column("SkuPriceId"),
    Column("SubAccountId"),
    Column("SubAccountName"),
    Column("SubAccountType"),
    Column("Tags"),
    Column("x_BookedAt", "time"),
    Column("x_LedgerId", "integer"),
    Column("x_LedgerKind"),
    Column("x_Reference"),
)
ListPrice = Callable[[LedgerRow], Decimal]
"""The published price of 10,000 requests for the usage of a line, in its currency."""


@dataclass(frozen=True)
class Focus:
    """``zone``: of the bill, whose months are the billing periods; ``provider``: who sells,
    publishes and invoices."""

    zone: ZoneInfo
    list_price: ListPrice
    provider: str = "edgetls"

    def sheet(self) -> Sheet[LedgerRow]:
        return Sheet("focus", COLUMNS, self._values, utc=True)

    def _values(self, line: LedgerRow) -> Sequence[Value]:
        row = self.row(line)
        return [row.get(column.name) for column in COLUMNS]

    def row(self, line: LedgerRow) -> Mapping[str, Value]:
        """Columns that are not in it are null."""
        start, end = _month(line.billed_at, self.zone)
        own = {"credit": _credit, "plan": _purchase, "unused": self._unused}.get(line.kind)
        return {
            "BillingAccountId": line.account,
            "BillingAccountName": line.account,
            "BillingAccountType": "Customer Account",
            "BillingCurrency": line.currency,
            "BillingPeriodStart": start,
            "BillingPeriodEnd": end,
            "BilledCost": negated(line.amount),
            "InvoiceIssuerName": self.provider,
            "ProviderName": self.provider,
            "PublisherName": self.provider,
            "ServiceCategory": "Networking",
            "ServiceName": SERVICE,
            "ServiceSubcategory": "Content Delivery",
            "ChargeClass": "Correction" if line.late else None,
            "x_BookedAt": _second(line.booked_at),
            "x_LedgerId": line.id,
            "x_LedgerKind": line.kind,
            "x_Reference": line.reference,
            **(own(line) if own else _usage(line, self.list_price(line))),
        }

    def _unused(self, line: LedgerRow) -> Mapping[str, Value]:
        """Nothing was consumed or priced: its quantities are none and 0, its cost is effective all
        the same."""
        usage = dict(_usage(line.model_copy(update={"requests": 0}), self.list_price(line)))
        left = f"Left unused of plan {line.plan}: {line.requests} requests"
        return usage | {
            "ChargeDescription": left,
            "ConsumedQuantity": None,
            "ConsumedUnit": None,
            **_commitment(line, line.requests or 0, "Unused"),
        }


def _usage(line: LedgerRow, list_price: Decimal) -> Mapping[str, Value]:
    requests, price, hour = (
        line.requests or 0,
        line.price or Decimal(0),
        line.hour or line.billed_at,
    )
    quantity = Decimal(requests).scaleb(-4)
    contracted = list_price if line.plan else price
    return {
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": hour,
        "ChargePeriodEnd": hour + timedelta(hours=1),
        "ChargeDescription": _described(line, hour, requests, price),
        "ConsumedQuantity": Decimal(requests),
        "ConsumedUnit": "Requests",
        "PricingQuantity": quantity,
        "PricingUnit": f"{UNIT} Requests",
        "PricingCategory": "Committed" if line.plan else "Standard",
        "ListUnitPrice": list_price,
        "ListCost": times(list_price, quantity),
        "ContractedUnitPrice": contracted,
        "ContractedCost": times(contracted, quantity),
        "EffectiveCost": plus(negated(line.amount), line.plan_cost or Decimal(0)),
        "SkuId": "https-requests",
        "SkuMeter": "HTTPS Requests",
        "SkuPriceId": line.price_id or "list",
        **(_commitment(line, requests, "Used") if line.plan else {}),
    }


def _purchase(line: LedgerRow) -> Mapping[str, Value]:
    cost = negated(line.amount)
    return {
        "ChargeCategory": "Purchase",
        "ChargeFrequency": "One-Time",
        **_moment(line.billed_at),
        "ChargeDescription": (
            f"Request plan {line.price_id or line.reference}, bought as {line.reference}"
        ),
        "PricingCategory": "Standard",
        "PricingQuantity": Decimal(1),
        "PricingUnit": "Plans",
        "ListUnitPrice": cost,
        "ListCost": cost,
        "ContractedUnitPrice": cost,
        "ContractedCost": cost,
        "EffectiveCost": Decimal(0),
        "SkuId": f"request-plan/{line.price_id or line.reference}",
        "SkuMeter": "Request Plans",
        "SkuPriceId": f"request-plan/{line.price_id or line.reference}/{line.currency}",
        **_commitment(line, line.requests or 0, None),
    }


def _credit(line: LedgerRow) -> Mapping[str, Value]:
    cost = negated(line.amount)
    return {
        "ChargeCategory": "Credit",
        "ChargeFrequency": "One-Time",
        **_moment(line.billed_at),
        "ChargeDescription": f"Credit {line.reference}",
        "ListCost": cost,
        "ContractedCost": cost,
        "EffectiveCost": cost,
    }


def _commitment(line: LedgerRow, requests: int, status: str | None) -> Mapping[str, Value]:
    identity = line.plan or line.reference
    return {
        "CommitmentDiscountId": f"{line.account}/{identity}",
        "CommitmentDiscountName": identity,
        "CommitmentDiscountCategory": "Usage",
        "CommitmentDiscountType": "Request Plan",
        "CommitmentDiscountStatus": status,
        "CommitmentDiscountQuantity": Decimal(requests),
        "CommitmentDiscountUnit": "Requests",
    }


def _described(line: LedgerRow, hour: datetime, requests: int, price: Decimal) -> str:
    kind = {"charge": "HTTPS requests", "correction": "Correction of HTTPS requests"}.get(
        line.kind, line.kind
    )
    by = f"from plan {line.plan}" if line.plan else f"at {price:f} {line.currency} for {UNIT}"
    return f"{kind} of {hour:%Y-%m-%d %H:%M} UTC: {requests} {by}"


def _moment(at: datetime) -> Mapping[str, Value]:
    """The charge period of what has none: the hour that it was booked in."""
    start = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return {"ChargePeriodStart": start, "ChargePeriodEnd": start + timedelta(hours=1)}


def _month(at: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    first = at.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first.astimezone(UTC), following.astimezone(UTC)


def _second(at: datetime) -> datetime:
    """The date format of FOCUS knows no fractions ("Date/Time Format")."""
    return at.replace(microsecond=0)
