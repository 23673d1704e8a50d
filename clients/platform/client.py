"""Platform: the commands, queries and events of edgetls as one asynchronous object."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Final

from clients.platform import convergence, events
from clients.platform.billing_commands import BillingCommands
from clients.platform.command_outcomes import CommandOutcomes
from clients.platform.config_commands import ConfigCommands
from clients.platform.connection import PlatformConnection
from clients.platform.convergence import ConvergedRevision, OnProgress
from clients.platform.queries import PlatformQueries
from clients.platform.sealing import PairSealer, read_submission_key
from shared import subjects
from shared.crypto.sealing import PublicKey

TIMEOUT_SECONDS: Final = 10.0
CONVERGED_SECONDS: Final = 60.0


async def connect(
    url: str,
    seed_file: Path,
    submission_key: str | Path | None = None,
    *,
    user: str = "platform",
    timeout: float = TIMEOUT_SECONDS,
    ca_file: Path | None = None,
    source: str | None = None,
) -> Platform:
    """Log in to NATS.

    ``url``: nats://host:port, several separated by commas. ``seed_file``: the user's nkey seed.
    ``submission_key``: what private keys are sealed to (base64, or the file that holds it; pin it,
    never fetch it). ``timeout``: seconds that a call keeps trying. ``source``: the sender's name in
    the history.

    Unreachable when no server answers; SettingsError when the login is refused or a file does not
    hold what it should."""
    key = None
    if submission_key is not None:
        key = read_submission_key(submission_key)
    connection = await PlatformConnection.open(url, Path(seed_file), user, timeout, ca_file)
    return Platform(connection, key, source or user)


class Platform(AbstractAsyncContextManager["Platform"]):
    """Commands, queries and events over one connection.

    Its parts do the work: ConfigCommands, CommandOutcomes, BillingCommands and PlatformQueries,
    where each method is documented. Their methods are methods of the platform, too, so that
    ``platform.submit(...)`` needs no second layer of the same signatures."""

    def __init__(
        self, connection: PlatformConnection, submission_key: PublicKey | None, source: str
    ) -> None:
        self.connection = connection
        self.outcomes = CommandOutcomes(connection)
        sealer = PairSealer(submission_key)

        # Commands to config, and trying them out
        commands = ConfigCommands(connection, self.outcomes, sealer, source)
        self.register = commands.register
        self.remove = commands.remove
        self.submit = commands.submit
        self.disable = commands.disable
        self.change_settings = commands.change_settings
        self.send_command = commands.send_command
        self.rollback = commands.rollback
        self.store = commands.store
        self.deploy = commands.deploy
        self.delete_certificate = commands.delete_certificate
        self.set_roots = commands.set_roots
        self.resume_account = commands.resume_account
        self.set_resumption = commands.set_resumption
        self.check = commands.check
        self.preview = commands.preview

        # How they end
        self.settled = self.outcomes.settled
        self.results = self.outcomes.results

        # Commands to billing, with their outcomes
        billing = BillingCommands(connection, source)
        self.credit = billing.credit
        self.buy_plan = billing.buy_plan
        self.threshold = billing.threshold
        self.close_hour = billing.close_hour
        self.apply_price_book = billing.apply_price_book

        # Queries
        queries = PlatformQueries(connection)
        self.show = queries.show
        self.list_domains = queries.list_domains
        self.all_domains = queries.all_domains
        self.account = queries.account
        self.history = queries.history
        self.submission = queries.submission
        self.command = queries.command
        self.certificate = queries.certificate
        self.certificates = queries.certificates
        self.certificate_usage = queries.certificate_usage
        self.certificate_fits = queries.certificate_fits
        self.roots = queries.roots
        self.convergence = queries.convergence
        self.fleet = queries.fleet
        self.logs = queries.logs
        self.usage = queries.usage
        self.usage_rows = queries.usage_rows
        self.ledger_rows = queries.ledger_rows
        self.statement = queries.statement
        self.price_book = queries.price_book
        self.charges = queries.charges
        self.balance = queries.balance
        self.plans = queries.plans

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self.connection.close()

    async def converged(
        self,
        domain: str,
        revision: int,
        on_progress: OnProgress | None = None,
        *,
        limit: float = CONVERGED_SECONDS,
    ) -> ConvergedRevision:
        """Wait until every live node has served ``revision``, or a later one, in a real handshake.

        ``on_progress`` is called as nodes come in. Unreachable after ``limit`` seconds, with the
        missing nodes."""
        return await convergence.wait_converged(
            self.connection, domain, revision, on_progress, limit
        )

    def events(
        self,
        since: int | None = None,
        *,
        follow: bool = True,
        subject: str = subjects.EVENTS_ALL,
    ) -> AsyncIterator[events.Event]:
        """Yield events in stream order, none missed, none twice.

        ``since``: the first sequence (1: all that is kept, 30 days); None: from now on. Without
        ``follow`` it ends with the newest. Remember ``sequence`` + 1 to go on later."""
        return events.read_events(self.connection, since, subject, follow=follow)

    async def last_event(self) -> int:
        """Return the sequence of the newest event, 0 when there is none."""
        return await events.last_sequence(self.connection)
