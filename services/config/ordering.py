"""In which order a domain's commands run, and which wait (design §3, Order). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.config.machine import decide, evolve_all, overtakes, supersede
from services.config.orders import Event, Order
from services.config.state import Domain, Known


@dataclass
class Run:
    """What came of running a domain's waiting commands: the first ``ran`` of them did run, the others are held."""

    state: Domain | None
    events: list[Event] = field(default_factory=list)
    ran: int = 0

    def add(self, events: list[Event]) -> None:
        self.events += events
        self.state = evolve_all(self.state, events)


def run(
    state: Domain | None, orders: Sequence[Order], *, revisions: Iterator[int], at: datetime, known: Known | None = None
) -> Run:
    """Runs ``orders`` (in the order of their stream) until one must wait for a verdict.

    A submission that is being judged holds back what comes after it, unless a later submission, disable or removal
    of the same owner is among that: this one overtakes it, and what stood between them runs in its turn."""
    done = Run(state)
    for index, order in enumerate(orders):
        if done.state is not None and done.state.pending is not None:
            current = done.state
            if not any(overtakes(current, later) for later in orders[index:]):
                break
            done.add(supersede(current))
        done.add(decide(done.state, order, revision=next(revisions), at=at, known=known))
        done.ran += 1
    return done
