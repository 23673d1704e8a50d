"""An account's balance: ledger minus accrued usage (rule E6). Amounts are decimal strings with
their currency."""

from __future__ import annotations

from typing import Literal

from shared.contracts.base import Account, Amount, Contract, Currency, Utc


class BalanceView(Contract):
    """An account's balance and flags.

    ``limit`` is the amount below which the balance is low at present, None when no low-balance rule
    is on. ``hours_left`` is an estimate from the mean of the last closed hours with usage, None
    without any."""

    account: Account
    currency: Currency
    ledger: Amount
    accrued: Amount
    balance: Amount
    threshold: Amount | None
    limit: Amount | None
    low: bool
    depleted: bool
    overdue: bool = False
    hours_left: Amount | None


class BalanceEvent(Contract):
    """https.event.balance.<change>.v1: a flag changed; ``crossing`` numbers the changes.

    ``credited`` and ``refused`` answer a command, once each."""

    account: Account
    change: Literal["low", "depleted", "overdue", "recovered", "settled", "credited", "refused"]
    crossing: int
    balance: Amount
    limit: Amount | None
    currency: Currency
    hours_left: Amount | None
    reference: str | None = None
    codes: list[str] = []
    at: Utc
