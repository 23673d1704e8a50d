"""The price book, and the plans that were bought (rules E1, E2, E8)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Account, Amount, Contract, Currency, Identifier, Mark, Utc, Whole
from shared.contracts.findings import Finding

Requests = Whole
Cost = Annotated[Amount, Field(ge=0)]
# The price of 10,000 requests: the price of one has four decimals more, and an amount carries 18.
Rate = Annotated[Amount, Field(ge=0, le=1_000_000, decimal_places=14)]


class Tier(Contract):
    """A price tier: ``price`` for 10,000 requests beyond the first ``above`` charged in the
    month (UTC)."""

    above: Requests = 0
    price: Rate


class Price(Contract):
    """A price, valid from ``start`` to ``end`` (full hours; None: without a limit).

    It is for one account or, without one, for all others. Among prices that are valid in an
    hour, an account's own one counts first, then the one that started last."""

    id: Identifier
    currency: Currency
    account: Account | None = None
    start: Utc | None = None
    end: Utc | None = None
    tiers: Annotated[list[Tier], Field(min_length=1, max_length=20)]


class PlanOffer(Contract):
    """A prepaid plan for sale: ``requests`` within ``days``; ``prices`` by currency."""

    id: Identifier
    requests: Annotated[Whole, Field(ge=1)]
    days: Annotated[int, Field(ge=1, le=1830)]
    prices: Annotated[dict[Currency, Cost], Field(min_length=1)]


class PriceBook(Contract):
    """The whole price book: applying one replaces the other."""

    title: Annotated[str, Field(max_length=200)] = ""
    prices: Annotated[list[Price], Field(min_length=1, max_length=5000)]
    plans: Annotated[list[PlanOffer], Field(max_length=500)] = []


class PriceBookView(Contract):
    """The current price book. ``serial`` counts the books that were applied; 0 is the list price
    that edgetls comes with."""

    serial: int
    book: PriceBook


class PreviewPriceBook(Contract):
    """https.rpc.price_book.preview.v1 (operator): show what a price book would change."""

    book: PriceBook


class PriceEffect(Contract):
    """The cost of the ``requests`` of the last 30 days at the prices that hold at the end of
    each book."""

    account: Account
    currency: Currency
    requests: int
    now: Amount
    then: Amount


class PricePreview(Contract):
    """What a price book would change; nothing is changed.

    ``findings`` empty: applying it on ``base`` will succeed. ``effects``: of the 200 accounts
    whose cost changes most."""

    base: int
    changes: list[str]
    effects: list[PriceEffect]
    findings: list[Finding]


class PriceBookEvent(Contract):
    """https.event.price_book.<applied|refused>.v1: how a price book's application ended."""

    serial: int
    change: Literal["applied", "refused"]
    codes: list[str] = []
    messages: list[str] = []
    at: Utc


class PlanView(Contract):
    """A plan that was bought. ``left`` is forfeited when it has ended (rule E2); ``used`` counts
    charged hours only."""

    account: Account
    reference: Identifier
    plan: Identifier
    requests: int
    used: int
    left: int
    start: Utc
    end: Utc
    ended: bool
    amount: Amount
    currency: Currency


class ListPlans(Contract):
    """https.rpc.plan.list.v1: plans of an account, the soonest to expire first."""

    account: Account
    after: Mark | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 500


class PlansPage(Contract):
    plans: list[PlanView]
    next: str | None


class PlanEvent(Contract):
    """https.event.plan.purchased.v1: a plan was bought."""

    plan: PlanView
    balance: Amount
    at: Utc
