"""What people read of a balance."""

from __future__ import annotations

from decimal import Decimal

import pytest

from clients.cli.money import balance_fields
from shared.contracts.balance import BalanceView


@pytest.mark.parametrize(
    ("low", "depleted", "overdue", "shown"),
    [
        (False, False, False, "none"),
        (True, False, False, "low"),
        (True, True, False, "low, depleted"),
        (True, True, True, "low, depleted, overdue"),
    ],
)
def test_every_flag_of_a_balance_is_shown(
    low: bool, depleted: bool, overdue: bool, shown: str
) -> None:
    view = BalanceView(
        account="acme",
        currency="CNY",
        ledger=Decimal(1),
        accrued=Decimal(2),
        balance=Decimal(-1),
        threshold=None,
        limit=None,
        low=low,
        depleted=depleted,
        overdue=overdue,
        hours_left=None,
    )
    assert dict(balance_fields(view))["flags"] == shown
