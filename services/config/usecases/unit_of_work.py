"""What one transaction does to domains and what it says: gathered, then written in bulk at its
end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.config.domain import outgoing_messages
from services.config.domain.commands import Event, JudgingBegan
from services.config.domain.model import Domain, Where
from services.config.store import domains, history
from shared.messages import Outgoing
from shared.storage import inbox, outbox
from shared.storage.inbox import Target
from shared.storage.pool import Connection


@dataclass
class Effects:
    """``roots``: the accounts' own, in PEM, for what is to be judged.
    ``ran``: targets that are settled; ``held``: those that wait for what is pending under their
    key."""

    at: datetime
    roots: Mapping[str, Sequence[str]] = field(default_factory=dict)
    saved: list[domains.Saved] = field(default_factory=list)
    recorded: list[history.Recorded] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    questions: list[Outgoing] = field(default_factory=list)
    ran: list[Target] = field(default_factory=list)
    held: list[Target] = field(default_factory=list)

    def keep(
        self, where: Where, before: Domain | None, after: Domain | None, events: Sequence[Event]
    ) -> None:
        """What a command did at one place, with its history and messages."""
        if after is not None and after != before:
            self.saved.append(domains.Saved(before, after))
        self.recorded.append(history.Recorded(where, events))
        for event in events:
            self.outgoing += outgoing_messages.caused(where, event, self.at)
            if (
                isinstance(event, JudgingBegan)
                and after is not None
                and event.pending == after.pending
            ):
                self.questions.append(
                    outgoing_messages.question(
                        after, event, self.roots.get(after.account, ()), self.at
                    )
                )

    async def write(self, connection: Connection) -> None:
        await domains.save(connection, self.saved, self.at)
        await history.write(connection, self.recorded, self.at)
        await outbox.enqueue(connection, self.outgoing)
        await outbox.enqueue(connection, self.questions, carries_pair=True)
        await inbox.finish(connection, self.ran)
        await inbox.hold(connection, self.held)
