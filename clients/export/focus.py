"""Rows of FOCUS 1.2, the FinOps Open Cost and Usage Specification. Pure.

One line of the ledger is one row, so that the sum of ``BilledCost`` is the ledger's sum with the
other sign, to the last digit.

Source: FOCUS 1.2 (focus.finops.org/focus-specification/v1-2), "Columns". Where it leaves a choice:
- BilledCost, EffectiveCost: a plan is billed with its purchase and takes effect with its use.
  EffectiveCost is 0 on the purchase ("Effective Cost"), BilledCost is 0 on the use ("Billed Cost").
- ChargeCategory: a top-up of the balance is a Credit, the only value for incoming money ("Charge
  Category"). Leave those rows out if only costs are wanted.
- ChargeClass is Correction only for usage of a month that was settled before ("Charge Class": a
  correction within the current billing period has none). The charge period of such a row is the
  hour that it corrects.
- A plan is a commitment discount on usage ("Commitment Discount ID" and the columns after it). The
  rest of a plan at its end is a row with the status Unused, so that the sum of EffectiveCost over
  the plan's term equals its billed cost ("Effective Cost").
- Contracted prices are the account's own. Neither they nor list prices contain a commitment
  discount ("Contracted Unit Price", "List Unit Price"). Both costs are the price times
  PricingQuantity, in units of 10,000 requests ("Unit Format").
- InvoiceId is null: invoices are made elsewhere, from statements ("Invoice ID").
- Columns that do not apply (regions, resources, sub accounts, tags) are present and null, for
  readers of older versions.
- Own columns begin with ``x_`` ("Column Naming and Ordering").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from clients.export.sheets import ExportSheet, SheetColumn, Value
from shared.contracts.ledger import LedgerRow
from shared.money import negated, plus, times

UNIT: Final = 10_000
"""Number of requests that a price is for."""
SERVICE: Final = "HTTPS Secure Acceleration"
COLUMNS: Final = (
    SheetColumn("AvailabilityZone"),
    SheetColumn("BilledCost", "decimal"),
    SheetColumn("BillingAccountId"),
    SheetColumn("BillingAccountName"),
    SheetColumn("BillingAccountType"),
    SheetColumn("BillingCurrency"),
    SheetColumn("BillingPeriodEnd", "time"),
    SheetColumn("BillingPeriodStart", "time"),
    SheetColumn("ChargeCategory"),
    SheetColumn("ChargeClass"),
    SheetColumn("ChargeDescription"),
    SheetColumn("ChargeFrequency"),
    SheetColumn("ChargePeriodEnd", "time"),
    SheetColumn("ChargePeriodStart", "time"),
    SheetColumn("CommitmentDiscountCategory"),
    SheetColumn("CommitmentDiscountId"),
    SheetColumn("CommitmentDiscountName"),
    SheetColumn("CommitmentDiscountQuantity", "decimal"),
    SheetColumn("CommitmentDiscountStatus"),
    SheetColumn("CommitmentDiscountType"),
    SheetColumn("CommitmentDiscountUnit"),
    SheetColumn("ConsumedQuantity", "decimal"),
    SheetColumn("ConsumedUnit"),
    SheetColumn("ContractedCost", "decimal"),
    SheetColumn("ContractedUnitPrice", "decimal"),
    SheetColumn("EffectiveCost", "decimal"),
    SheetColumn("InvoiceId"),
    SheetColumn("InvoiceIssuerName"),
    SheetColumn("ListCost", "decimal"),
    SheetColumn("ListUnitPrice", "decimal"),
    SheetColumn("PricingCategory"),
    SheetColumn("PricingQuantity", "decimal"),
    SheetColumn("PricingUnit"),
    SheetColumn("ProviderName"),
    SheetColumn("PublisherName"),
    SheetColumn("RegionId"),
    SheetColumn("RegionName"),
    SheetColumn("ResourceId"),
    SheetColumn("ResourceName"),
    SheetColumn("ResourceType"),
    SheetColumn("ServiceCategory"),
    SheetColumn("ServiceName"),
    SheetColumn("ServiceSubcategory"),
    SheetColumn("SkuId"),
    SheetColumn("SkuMeter"),
    SheetColumn("SkuPriceDetails"),
    SheetColumn("SkuPriceId"),
    SheetColumn("SubAccountId"),
    SheetColumn("SubAccountName"),
    SheetColumn("SubAccountType"),
    SheetColumn("Tags"),
    SheetColumn("x_BookedAt", "time"),
    SheetColumn("x_LedgerId", "integer"),
    SheetColumn("x_LedgerKind"),
    SheetColumn("x_Reference"),
)
ListPrice = Callable[[LedgerRow], Decimal]
"""Returns the published price of 10,000 requests for the usage of a line, in its currency."""


@dataclass(frozen=True)
class FocusExport:
    """Makes the sheet of FOCUS rows.

    ``zone``: the time zone of the bill; its months are the billing periods. ``provider``: the name
    of the seller, publisher and invoice issuer."""

    zone: ZoneInfo
    list_price: ListPrice
    provider: str = "edgetls"

    def build_sheet(self) -> ExportSheet[LedgerRow]:
        """Return the sheet of ledger lines as FOCUS rows."""

        def values(line: LedgerRow) -> Sequence[Value]:
            row = self.build_row(line)
            return [row.get(column.name) for column in COLUMNS]

        return ExportSheet("focus", COLUMNS, values, utc=True)

    def build_row(self, line: LedgerRow) -> Mapping[str, Value]:
        """Return the columns of one line; those that are missing are null."""
        start, end = _billing_period(line.billed_at, self.zone)
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
            # FOCUS allows no fractions of a second ("Date/Time Format").
            "x_BookedAt": line.booked_at.replace(microsecond=0),
            "x_LedgerId": line.id,
            "x_LedgerKind": line.kind,
            "x_Reference": line.reference,
            **self._build_charge(line),
        }

    def _build_charge(self, line: LedgerRow) -> Mapping[str, Value]:
        """Return the columns that depend on the kind of the line."""
        match line.kind:
            case "credit":
                return _build_credit(line)
            case "plan":
                return _build_purchase(line)
            case "unused":
                return _build_unused(line, self.list_price(line))
            case _:
                return _build_usage(line, self.list_price(line))


def _build_unused(line: LedgerRow, list_price: Decimal) -> Mapping[str, Value]:
    """Describe the rest of a plan at its end. Nothing was consumed, but its cost takes effect."""
    usage = _build_usage(line.model_copy(update={"requests": 0}), list_price)
    return {
        **usage,
        "ChargeDescription": f"Left unused of plan {line.plan}: {line.requests} requests",
        "ConsumedQuantity": None,
        "ConsumedUnit": None,
        **_describe_commitment(line, line.requests or 0, "Unused"),
    }


def _build_usage(line: LedgerRow, list_price: Decimal) -> Mapping[str, Value]:
    """Describe a charge of usage or its correction."""
    requests = line.requests or 0
    price = line.price or Decimal(0)
    hour = line.hour or line.billed_at
    # Prices are for 10,000 requests. Shifting the point is exact, a division might not be.
    quantity = Decimal(requests).scaleb(-4)
    category = "Standard"
    contracted = price
    commitment: Mapping[str, Value] = {}
    # What a plan covers is priced at the list price and costs 0: the plan has been paid for.
    if line.plan:
        category = "Committed"
        contracted = list_price
        commitment = _describe_commitment(line, requests, "Used")
    return {
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": hour,
        "ChargePeriodEnd": hour + timedelta(hours=1),
        "ChargeDescription": _describe_usage(line, hour, requests, price),
        "ConsumedQuantity": Decimal(requests),
        "ConsumedUnit": "Requests",
        "PricingQuantity": quantity,
        "PricingUnit": f"{UNIT} Requests",
        "PricingCategory": category,
        "ListUnitPrice": list_price,
        "ListCost": times(list_price, quantity),
        "ContractedUnitPrice": contracted,
        "ContractedCost": times(contracted, quantity),
        "EffectiveCost": plus(negated(line.amount), line.plan_cost or Decimal(0)),
        "SkuId": "https-requests",
        "SkuMeter": "HTTPS Requests",
        "SkuPriceId": line.price_id or "list",
        **commitment,
    }


def _build_purchase(line: LedgerRow) -> Mapping[str, Value]:
    """Describe the purchase of a plan."""
    cost = negated(line.amount)
    plan = line.price_id or line.reference
    return {
        "ChargeCategory": "Purchase",
        "ChargeFrequency": "One-Time",
        **_build_charge_period(line.billed_at),
        "ChargeDescription": f"Request plan {plan}, bought as {line.reference}",
        "PricingCategory": "Standard",
        "PricingQuantity": Decimal(1),
        "PricingUnit": "Plans",
        "ListUnitPrice": cost,
        "ListCost": cost,
        "ContractedUnitPrice": cost,
        "ContractedCost": cost,
        "EffectiveCost": Decimal(0),
        "SkuId": f"request-plan/{plan}",
        "SkuMeter": "Request Plans",
        "SkuPriceId": f"request-plan/{plan}/{line.currency}",
        **_describe_commitment(line, line.requests or 0, None),
    }


def _build_credit(line: LedgerRow) -> Mapping[str, Value]:
    """Describe a top-up of the balance."""
    cost = negated(line.amount)
    return {
        "ChargeCategory": "Credit",
        "ChargeFrequency": "One-Time",
        **_build_charge_period(line.billed_at),
        "ChargeDescription": f"Credit {line.reference}",
        "ListCost": cost,
        "ContractedCost": cost,
        "EffectiveCost": cost,
    }


def _describe_commitment(line: LedgerRow, requests: int, status: str | None) -> Mapping[str, Value]:
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


def _describe_usage(line: LedgerRow, hour: datetime, requests: int, price: Decimal) -> str:
    names = {"charge": "HTTPS requests", "correction": "Correction of HTTPS requests"}
    kind = names.get(line.kind, line.kind)
    rate = f"at {price:f} {line.currency} for {UNIT}"
    if line.plan:
        rate = f"from plan {line.plan}"
    return f"{kind} of {hour:%Y-%m-%d %H:%M} UTC: {requests} {rate}"


def _build_charge_period(at: datetime) -> Mapping[str, Value]:
    """Return the hour of booking, as the charge period of a line without one."""
    start = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return {"ChargePeriodStart": start, "ChargePeriodEnd": start + timedelta(hours=1)}


def _billing_period(at: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return start and exclusive end of the month in ``zone`` that ``at`` lies in, in UTC."""
    # ``fold``: the first of two equal hours, should the month begin when clocks are set back.
    first = at.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first.astimezone(UTC), following.astimezone(UTC)
