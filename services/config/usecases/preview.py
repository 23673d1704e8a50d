"""What a command would do as things are now: the same decisions as for real, with nothing
written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from services.config.domain import command_parser, domain_machine, library_entry, trust_roots, views
from services.config.domain.command_parser import Command, Place
from services.config.domain.commands import Deploy, Settled
from services.config.domain.model import Cause, Domain
from services.config.store import accounts, domains
from services.config.store import library as store
from services.config.store.families import Families
from services.config.usecases import suspend
from shared import catalogue
from shared.clock import Clock
from shared.contracts.accounts import ResumeAccount, SetResumption
from shared.contracts.certificates import (
    DeployCertificate,
    Difference,
    Effect,
    Preview,
    PreviewCommand,
    RootView,
    SetRoots,
)
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.errors import Malformed, Refused
from shared.storage.pool import Connection, Pool

_JUDGED: Final = (catalogue.CMD_CERTIFICATE_SUBMIT, catalogue.CMD_CERTIFICATE_STORE)
_UNSEEN: Final = frozenset(
    {"revision", "live_revision", "pending_submission", "registered_at", "suspension"}
)
_OF_CERTIFICATE: Final = ("source", "name", "fingerprint", "not_after", "subject")
Value = str | None


class Previews:
    """Reads in one snapshot; what waits in the inbox is not counted in."""

    def __init__(self, pool: Pool, clock: Clock, *, allow_private_origins: bool) -> None:
        self._pool, self._clock, self._allow_private = pool, clock, allow_private_origins

    async def preview(self, question: PreviewCommand) -> Preview:
        """Refused where it cannot be tried: a submission (https.rpc.certificate.check.v1 does
        that), no command."""
        if question.command in (*_JUDGED, catalogue.CMD_PAIR_RESEAL):
            hint = "Try a pair by https.rpc.certificate.check.v1 (edgetls check)."
            raise Refused(
                [finding(Code.REQUEST_MALFORMED, "This command has no preview.", hint=hint)]
            )
        try:
            command = command_parser.read(
                "preview", question.command, "preview", question.body.encode()
            )
        except Malformed as error:
            raise Refused([finding(Code.REQUEST_MALFORMED, str(error), field="request")]) from None
        cause = Cause(
            command.id, command.subject, command.source, command.body.account, self._clock.now()
        )
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read"),
        ):
            effects = [
                effect
                for place in command.places
                if (effect := await self._effect(connection, command, place, cause)) is not None
            ]
        return Preview(effects=effects)

    async def _effect(
        self, connection: Connection, command: Command, place: Place, cause: Cause
    ) -> Effect | None:
        """None for a deployment's place in the library, where nothing ends."""
        if place.name is not None and place.key.startswith(library_entry.MARK):
            if isinstance(command.body, SetRoots | SetResumption | ResumeAccount):
                return await self._of_account(connection, command.body, place, cause)
            return await self._in_library(connection, command, place, cause)
        before = (
            (await domains.load(connection, [place.key])).get(place.key) if place.name else None
        )
        order = command_parser.order(
            command, place, cause, allow_private_origins=self._allow_private
        )
        if order is None and isinstance(command.body, DeployCertificate):
            key = library_entry.entry_key(command.body.account, command.body.name)
            entry = (await store.load(connection, [key])).get(key)
            order = Deploy(cause, entry.certificate if entry else None)
        if order is None:
            raise Refused([finding(Code.REQUEST_MALFORMED, "This command has no preview.")])
        registers = place.name is not None and command.subject == catalogue.CMD_DOMAIN_REGISTER
        families = await Families.lock(connection, [place.key] if registers else [])
        revision = (before.revision if before else 0) + 1
        events = domain_machine.decide(
            before, order, revision=revision, at=cause.received_at, known=families.known(place.key)
        )
        after = domain_machine.evolve_all(before, events)
        return self._told(events, place, self._view(before, cause), self._view(after, cause))

    async def _in_library(
        self, connection: Connection, command: Command, place: Place, cause: Cause
    ) -> Effect | None:
        if isinstance(command.body, DeployCertificate):
            return None
        account, name = library_entry.owner(place.key)
        entry = (await store.load(connection, [place.key])).get(place.key)
        known = await store.known(connection, place.key, account, name, entry.id if entry else None)
        events = library_entry.decide(
            entry,
            command_parser.library_order(command, cause),
            at=cause.received_at,
            known=replace(known, unsettled=False),
        )
        after = library_entry.evolve_all(entry, events)
        shown = [
            dict(
                _flat(
                    "certificate",
                    views.stored_view(one, 0, cause.received_at).model_dump(mode="json"),
                )
            )
            if one
            else {}
            for one in (entry, after)
        ]
        return self._told(events, place, *shown)

    async def _of_account(
        self,
        connection: Connection,
        body: SetRoots | SetResumption | ResumeAccount,
        place: Place,
        cause: Cause,
    ) -> Effect | None:
        if isinstance(body, SetRoots):
            before = (await store.roots_of(connection, [body.account])).get(body.account, [])
            settled, wanted = trust_roots.settle(cause, body.roots, before)
            kept = trust_roots.read("".join(before))
            after = kept if settled.outcome is Outcome.REFUSED else wanted
            return self._told([settled], place, _listed(kept), _listed(after))
        resumption, suspension = await accounts.lock(connection, body.account)
        settled = suspend.settle(body, cause, resumption, suspension)
        ended = suspend.resumes(body, suspension)
        chosen = body.resumption if isinstance(body, SetResumption) else resumption
        shown = [
            {"resumption": way, "suspended": str(suspended).lower()}
            for way, suspended in (
                (resumption, suspension is not None),
                (chosen, suspension is not None and not ended),
            )
        ]
        return self._told([settled], place, *shown)

    def _view(self, domain: Domain | None, cause: Cause) -> dict[str, Value]:
        """Empty where the command's account sees no domain."""
        if domain is None or not domain.owned_by(cause.account):
            return {}
        view = views.domain_view(domain, None, cause.received_at).model_dump(
            mode="json", exclude=set(_UNSEEN)
        )
        return dict(_flat("", view))

    @staticmethod
    def _told(
        events: Sequence[object],
        place: Place,
        before: Mapping[str, Value],
        after: Mapping[str, Value],
    ) -> Effect | None:
        settled = [
            event
            for event in events
            if isinstance(event, Settled) and event.cause.command_id == "preview"
        ]
        if not settled:
            return None
        changes = [
            Difference(field=field, before=before.get(field), after=after.get(field))
            for field in dict.fromkeys([*before, *after])
            if before.get(field) != after.get(field)
        ]
        return Effect(
            domain=place.where.domain,
            certificate=place.where.certificate,
            outcome=settled[-1].outcome,
            changes=changes,
            findings=[
                found.model_copy(update={"domain": place.where.domain})
                for found in settled[-1].findings
            ],
        )


def _listed(found: Sequence[RootView]) -> dict[str, Value]:
    return {f"roots.{root.fingerprint[:16]}": root.subject for root in found}


def _flat(path: str, value: Any) -> Iterator[tuple[str, Value]]:
    """``settings.http2`` -> ``false``; of a certificate only what tells it from another."""
    if isinstance(value, dict):
        kept = {
            key: item
            for key, item in value.items()
            if "fingerprint" not in value or key in _OF_CERTIFICATE
        }
        for key, item in kept.items():
            yield from _flat(f"{path}.{key}" if path else key, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _flat(f"{path}.{index}", item)
    else:
        yield (
            path,
            None
            if value is None
            else str(value).lower()
            if isinstance(value, bool)
            else str(value),
        )
