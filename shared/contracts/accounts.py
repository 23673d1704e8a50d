"""An account's HTTPS as a whole: whether it is suspended, and why (rule E7)."""

from __future__ import annotations

from typing import Literal

from shared.contracts.base import Account, Contract, Utc

Resumption = Literal["automatic", "by_hand"]


class Suspension(Contract):
    """The suspension of an account: nodes refuse HTTPS, and the certificates are kept sealed.

    ``resumes`` says whether HTTPS returns by itself when the balance is above 0 again, or by a
    command. ``settled``: the balance is above 0 again, so that a command may resume it."""

    reason: Literal["overdue"]
    since: Utc
    resumes: Resumption
    settled: bool


class ShowAccount(Contract):
    """https.rpc.account.show.v1"""

    account: Account


class AccountView(Contract):
    """An account with the number of its domains by state.

    ``enabled``, ``disabled`` and ``suspended`` count domains. ``expiring`` counts certificates that
    end within 30 days, expired ones included. ``suspension`` is None while the account is not
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
    """https.cmd.account.resumption.v1: choose how the account's suspensions end."""

    account: Account
    resumption: Resumption


class ResumeAccount(Contract):
    """https.cmd.account.resume.v1: end a suspension. Refused while the balance is not above 0."""

    account: Account
