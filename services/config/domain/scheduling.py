"""In which order a domain's commands run, and which wait (docs/architecture.md, steps 2 and 3 of an
upload). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.config.domain.commands import Deploy, Event, Order, Settled
from services.config.domain.domain_machine import decide, evolve_all, overtakes, supersede
from services.config.domain.model import Domain, Known
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding


@dataclass
class Run:
    """What came of running a domain's waiting commands: the first ``ran`` of them did run, the
    others are held."""

    state: Domain | None
    events: list[Event] = field(default_factory=list)
    ran: int = 0

    def add(self, events: list[Event]) -> None:
        self.events += events
        self.state = evolve_all(self.state, events)


def run(
    state: Domain | None,
    orders: Sequence[Order],
    *,
    revisions: Iterator[int],
    at: datetime,
    known: Known | None = None,
) -> Run:
    """Runs ``orders`` (in the order of their stream) until one must wait for a verdict.

    A submission that is being judged holds back what comes after it, unless something that
    overtakes it is among that: what stands between the two runs in its turn then. So does a
    deployment that the library has not come to."""
    known = known or Known()
    done = Run(state)
    for index, order in enumerate(orders):
        current = done.state
        if current is not None and current.pending is not None:
            if not _is_overtaken(current, orders[index:], at, known):
                break
            done.add(supersede(current))
        if isinstance(order, Deploy) and current is not None and _waits(current, order):
            if not _is_overtaken(current, orders[index + 1 :], at, known):
                break
            done.add(
                [Settled(order.cause, Outcome.SUPERSEDED, (finding(Code.SUBMISSION_SUPERSEDED),))]
            )
            done.ran += 1
            continue
        done.add(decide(done.state, order, revision=next(revisions), at=at, known=known))
        done.ran += 1
    return done


def _is_overtaken(state: Domain, orders: Sequence[Order], at: datetime, known: Known) -> bool:
    """Whether one of ``orders`` overtakes when its turn comes: what stands before it may have it
    refused (a change of the trust, and then a deployment), so that is tried first."""
    ahead: Domain | None = replace(state, pending=None)
    for revision, order in enumerate(orders, start=state.revision + 1):
        if ahead is None or (isinstance(order, Deploy) and _waits(ahead, order)):
            continue
        if overtakes(ahead, order, at=at, known=known):
            return True
        ahead = evolve_all(ahead, decide(ahead, order, revision=revision, at=at, known=known))
    return False


def _waits(state: Domain, order: Deploy) -> bool:
    """The library has not come to the deployment yet; to be refused needs no waiting."""
    return not order.ready and state.owned_by(order.cause.account)
