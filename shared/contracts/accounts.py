"""An account's HTTPS as a whole: whether it is suspended (rule E7), and why."""

from __future__ import annotations

from typing import Literal

from shared.contracts.base import Account, Contract, Utc

Resumption = Literal["automatic", "by_hand"]


class Suspension(Contract):
    """Nodes refuse HTTPS; certificates are kept sealed. ``resumes``: by itself when the balance is
    above 0 again, or by hand; ``settled``: the balance is above 0 again, so that it may be resumed
    by hand."""

    reason: Literal["overdue"]
    since: Utc
    resumes: Resumption
    settled: bool


class ShowAccount(Contract):
    """https.rpc.account.show.v1"""

    account: Account


class AccountView(Contract):
    """``enabled``, ``disabled``, ``suspended``: domains by their state; ``expiring``: certificates
    that end within 30 days, ``expired`` included; ``suspension``: None while the account is not
    suspended."""

    account: Account
    suspension: Suspension | None
    resumption: Resumption
    domains: int
    enabled: int
    disabled: int
    suspended: int
    expiring: int
    expired: int


class SetResumption(Contract):
    """https.cmd.account.resumption.v1: how the account's suspensions end."""

    account: Account
    resumption: Resumption


class ResumeAccount(Contract):
    """https.cmd.account.resume.v1: ends a suspension by hand; refused while the balance is not
    above 0."""

    account: Account
