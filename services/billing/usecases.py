"""The commands of billing: credits, thresholds, the close of an hour."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from services.billing import events
from services.billing.accruals import save_judged
from services.billing.balance import Standing, money_fault
from services.billing.metrics import CHARGES
from services.billing.rating import amount_of, minus, plain, price_of
from services.billing.store import accounts, usage
from services.billing.store.accounts import Credit, OpenHour, Posting
from shared import subjects
from shared.clock import Clock
from shared.contracts.commands import CloseHour, CreditBalance, SetThreshold
from shared.contracts.findings import Code
from shared.crypto.signing import parse
from shared.errors import Malformed
from shared.messaging.cloudevents import Delivery
from shared.storage import outbox
from shared.storage.pool import Connection, Pool

_CHUNK = 200
"""Accounts charged in one transaction: their rows are locked for as long as it takes."""


class Money:
    """The commands of COMMANDS_BILLING. Each is idempotent: a redelivery changes nothing and says nothing new."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool, self._clock = pool, clock

    async def handle(self, delivery: Delivery) -> None:
        if not delivery.id:
            raise Malformed("a command needs its ce-id")
        if delivery.subject == subjects.CMD_BALANCE_CREDIT:
            await self._credit(parse(CreditBalance, delivery.body), delivery.id)
        elif delivery.subject == subjects.CMD_BALANCE_THRESHOLD:
            await self._threshold(parse(SetThreshold, delivery.body), delivery.id, delivery.stream_time)
        elif delivery.subject == subjects.CMD_HOUR_CLOSE:
            await self.close(parse(CloseHour, delivery.body).until)
        else:
            raise Malformed("no command of billing")

    async def close(self, until: datetime) -> int:
        """Charges what is not charged yet of the hours that end at or before ``until``, rolls their usage up.

        The number of lines written; a second call finds nothing left to do."""
        past = int(until.timestamp()) // 3600
        lines = 0
        while names := await accounts.accounts_to_charge(self._pool, past, _CHUNK):
            lines += await self._charge(names, past)
        for hour in await usage.hours_to_roll(self._pool, past):
            async with self._pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
                await usage.roll_hour(connection, hour)
        return lines

    async def _charge(self, names: list[str], past: int) -> int:
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            standings = await accounts.lock(connection, names)
            postings = [
                _posting(hour, standings[hour.account]) for hour in await accounts.open_hours(connection, names, past)
            ]
            await accounts.post(connection, postings, now)
            recent = await accounts.recent(connection, names)
            charged = [
                _charged(standing, [p for p in postings if p.account == name], recent[name])
                for name, standing in standings.items()
            ]
            await save_judged(connection, charged, now)
        for posting in postings:
            CHARGES.labels(kind="charge" if posting.posting == 1 else "correction").inc()
        return len(postings)

    async def _credit(self, command: CreditBalance, command_id: str) -> None:
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            standing = (await accounts.lock(connection, [command.account]))[command.account]
            used = await accounts.credit_of(connection, command.account, command.reference)
            fault = money_fault(standing, command.currency)
            if fault is None and used is not None:
                if used == Credit(plain(command.amount), command.currency):
                    return
                fault = Code.BALANCE_REFERENCE
            if fault is not None:
                await _refuse(connection, standing, fault, command.reference, command_id, now)
                return
            credit = Credit(command.amount, command.currency)
            await accounts.add_credit(connection, command.account, command.reference, credit, command_id, now)
            after = replace(
                standing, currency=command.currency, entries=standing.entries + 1,
                ledger=minus(standing.ledger, -command.amount),
            )
            said = events.credited(after, command.reference, command_id, now)
            await save_judged(connection, [after], now, [said])
            CHARGES.labels(kind="credit").inc()

    async def _threshold(self, command: SetThreshold, command_id: str, sent: datetime) -> None:
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            standing = (await accounts.lock(connection, [command.account]))[command.account]
            fault = money_fault(standing, command.currency)
            if fault is not None:
                await _refuse(connection, standing, fault, None, command_id, now)
            elif await accounts.set_threshold(connection, command.account, sent):
                after = replace(standing, currency=command.currency, threshold=command.threshold)
                await save_judged(connection, [after], now)


async def _refuse(
    connection: Connection, standing: Standing, code: Code, reference: str | None, command_id: str, now: datetime
) -> None:
    """Once a command: a redelivery would say it with another time and balance, under the same id."""
    message = events.refused(standing, code, reference, command_id, now)
    if not await accounts.said(connection, message.id):
        await outbox.enqueue(connection, [message])


def _posting(hour: OpenHour, standing: Standing) -> Posting:
    money = standing.money
    return Posting(
        hour.account, hour.hour, hour.postings + 1, hour.requests, price_of(money), amount_of(hour.requests, money),
        money,
    )


def _charged(standing: Standing, postings: list[Posting], recent: tuple[int, int]) -> Standing:
    """What was accrued is now in the ledger: the balance stays, the limit moves. The first charge sets the currency."""
    requests = sum(posting.requests for posting in postings)
    return replace(
        standing, currency=standing.money if postings else standing.currency,
        entries=standing.entries + len(postings), accrued_requests=standing.accrued_requests - requests,
        ledger=minus(standing.ledger, amount_of(requests, standing.money)),
        recent_requests=recent[0], recent_hours=recent[1],
    )
