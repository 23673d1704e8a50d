"""In which order a domain's commands run, and which wait (docs/architecture.md, steps 2 and 3 of an upload). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.config.machine import decide, evolve_all, overtakes, supersede
from services.config.orders import Deploy, Disable, Event, Order, Remove, Settled, Submit
from services.config.state import Domain, Known
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding


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
    of the same owner is among that: this one overtakes it, and what stood between them runs in its turn. So does a
    deployment that the library has not come to yet."""
    done = Run(state)
    for index, order in enumerate(orders):
        if done.state is not None and done.state.pending is not None:
            current = done.state
            if not any(overtakes(current, later) for later in orders[index:]):
                break
            done.add(supersede(current))
        if isinstance(order, Deploy) and _waits(done.state, order):
            if not any(_ends(done.state, later) for later in orders[index + 1 :]):
                break
            done.add([Settled(order.cause, Outcome.SUPERSEDED, (finding(Code.SUBMISSION_SUPERSEDED),))])
            done.ran += 1
            continue
        done.add(decide(done.state, order, revision=next(revisions), at=at, known=known))
        done.ran += 1
    return done


def _waits(state: Domain | None, order: Deploy) -> bool:
    """The library has not come to the deployment yet; to be refused needs no waiting."""
    return not order.ready and state is not None and state.owned_by(order.cause.account)


def _ends(state: Domain | None, later: Order) -> bool:
    """Whether ``later`` overtakes a deployment that waits, as it would a submission that is being judged."""
    if state is None or not isinstance(later, Submit | Deploy | Disable | Remove):
        return False
    return state.owned_by(later.cause.account)
