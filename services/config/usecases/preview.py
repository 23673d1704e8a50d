"""Return what a command would do as things are now: the same decisions as for real, with nothing
written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from services.config.domain import (
    command_parser,
    domain_machine,
    library_entry,
    scheduling,
    trust_roots,
    views,
)
from services.config.domain.command_parser import AccountCommand, CommandBody
from services.config.domain.commands import DeployCommand, RegisterCommand
from services.config.domain.events import Event, Settled, refused
from services.config.domain.model import (
    Cause,
    CommandContext,
    CommandTarget,
    Domain,
    LibraryEntry,
    library_key,
)
from services.config.store import accounts, domains, library
from services.config.store.families import lock_families
from services.config.usecases import suspend
from shared import catalogue
from shared.clock import Clock
from shared.contracts.accounts import ResumeAccount, SetResumption
from shared.contracts.certificates import (
    DeployCertificate,
    Effect,
    FieldChange,
    Preview,
    PreviewCommand,
    RootView,
    SetRoots,
)
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.errors import Malformed, Refused
from shared.storage.pool import Connection, Pool

_PREVIEW_ID: Final = "preview"
_WITHOUT_PREVIEW: Final = (
    catalogue.CMD_CERTIFICATE_SUBMIT,
    catalogue.CMD_CERTIFICATE_STORE,
    catalogue.CMD_PAIR_RESEAL,
)
_HIDDEN_FIELDS: Final = frozenset(
    {"revision", "live_revision", "pending_submission", "registered_at", "suspension"}
)
_CERTIFICATE_FIELDS: Final = ("source", "name", "fingerprint", "not_after", "subject")
FieldValues = dict[str, str | None]


class CommandPreviews:
    """Previews read in one snapshot. Commands that wait in the inbox are not counted in."""

    def __init__(self, pool: Pool, clock: Clock, *, allow_private_origins: bool) -> None:
        self._pool = pool
        self._clock = clock
        self._allow_private_origins = allow_private_origins

    async def preview_command(self, question: PreviewCommand) -> Preview:
        """Answer https.rpc.command.preview.v1.

        Refused for what is no command, and for a submission: https.rpc.certificate.check.v1 tries
        that."""
        if question.command in _WITHOUT_PREVIEW:
            hint = "Try a pair by https.rpc.certificate.check.v1 (edgetls check)."
            raise Refused(
                [finding(Code.REQUEST_MALFORMED, "This command has no preview.", hint=hint)]
            )
        try:
            body = command_parser.parse_command(
                _PREVIEW_ID, question.command, question.body.encode()
            )
        except Malformed as error:
            raise Refused([finding(Code.REQUEST_MALFORMED, str(error), field="request")]) from None
        cause = Cause(_PREVIEW_ID, question.command, _PREVIEW_ID, body.account, self._clock.now())
        effects = []
        # One snapshot for all targets. Not read only: an account's row is locked as for real, which
        # ends with the transaction.
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read"),
        ):
            for target in command_parser.find_targets(body):
                effect = await self._preview_target(connection, body, target, cause)
                if effect is not None:
                    effects.append(effect)
        return Preview(effects=effects)

    async def _preview_target(
        self, connection: Connection, body: CommandBody, target: CommandTarget, cause: Cause
    ) -> Effect | None:
        """Return None for a deployment's place in the library, where no command ends."""
        if not target.in_library:
            return await self._preview_domain(connection, body, target, cause)
        if isinstance(body, SetRoots | SetResumption | ResumeAccount):
            return await _preview_account(connection, body, target, cause)
        if isinstance(body, DeployCertificate):
            return None
        return await _preview_entry(connection, body, target, cause)

    async def _preview_domain(
        self, connection: Connection, body: CommandBody, target: CommandTarget, cause: Cause
    ) -> Effect | None:
        if target.findings:
            # Invalid names are refused without a look at any state.
            return _effect([refused(cause, *target.findings)], target, {}, {})
        before = (await domains.load_domains(connection, [target.key])).get(target.key)
        command = command_parser.to_domain_command(
            body, target, cause, allow_private_origins=self._allow_private_origins
        )
        if isinstance(command, DeployCommand) and isinstance(body, DeployCertificate):
            key = library_key(body.account, body.name)
            entry = (await library.load_entries(connection, [key])).get(key)
            stored = None if entry is None else entry.certificate
            command = replace(command, stored=stored, ready=True)
        registered = [command.name] if isinstance(command, RegisterCommand) else []
        families = await lock_families(connection, registered)
        context = CommandContext(
            cause.received_at,
            revision=(before.revision if before else 0) + 1,
            holders=families.holders_beside(target.key),
        )
        events = scheduling.decide_now(domain_machine, before, command, context)
        after = scheduling.evolve_all(domain_machine, before, events)
        return _effect(events, target, _domain_fields(before, cause), _domain_fields(after, cause))


async def _preview_entry(
    connection: Connection, body: CommandBody, target: CommandTarget, cause: Cause
) -> Effect | None:
    before = (await library.load_entries(connection, [target.key])).get(target.key)
    context = await library.load_entry_context(connection, target.key, before, cause.received_at)
    context = replace(context, unsettled=False)
    command = command_parser.to_library_command(body, cause)
    events = library_entry.decide(before, command, context)
    after = scheduling.evolve_all(library_entry, before, events)
    return _effect(events, target, _entry_fields(before, cause), _entry_fields(after, cause))


async def _preview_account(
    connection: Connection, body: AccountCommand, target: CommandTarget, cause: Cause
) -> Effect | None:
    if isinstance(body, SetRoots):
        pem = (await library.load_roots(connection, [body.account])).get(body.account, [])
        settled, wanted = trust_roots.decide_roots(cause, body.roots, pem)
        kept = trust_roots.read_roots("".join(pem))
        after = kept if settled.outcome is Outcome.REFUSED else wanted
        return _effect([settled], target, _root_fields(kept), _root_fields(after))
    state = await accounts.lock_account(connection, body.account)
    settled = suspend.decide_outcome(body, cause, state)
    suspended = state.suspension is not None
    stays_suspended = suspended and not suspend.ends_suspension(body, state.suspension)
    resumption = body.resumption if isinstance(body, SetResumption) else state.resumption
    before_fields = _account_fields(state.resumption, suspended)
    return _effect([settled], target, before_fields, _account_fields(resumption, stays_suspended))


def _effect(
    events: Sequence[Event],
    target: CommandTarget,
    before: Mapping[str, str | None],
    after: Mapping[str, str | None],
) -> Effect | None:
    """Return the outcome at a target with the fields that differ; None where nothing ends."""
    settled = None
    for event in events:
        if isinstance(event, Settled) and event.cause.command_id == _PREVIEW_ID:
            settled = event
    if settled is None:
        return None
    changes = []
    for field in dict.fromkeys([*before, *after]):
        if before.get(field) != after.get(field):
            changes.append(
                FieldChange(field=field, before=before.get(field), after=after.get(field))
            )
    findings = []
    for found in settled.findings:
        findings.append(found.model_copy(update={"domain": target.domain}))
    return Effect(
        domain=target.domain,
        certificate=target.certificate,
        outcome=settled.outcome,
        changes=changes,
        findings=findings,
    )


def _domain_fields(domain: Domain | None, cause: Cause) -> FieldValues:
    """Return the fields of a domain; empty where the command's account sees no domain."""
    fields: FieldValues = {}
    if domain is not None and domain.owned_by(cause.account):
        view = views.view_domain(domain, None, cause.received_at)
        _add_fields(fields, "", view.model_dump(mode="json", exclude=set(_HIDDEN_FIELDS)))
    return fields


def _entry_fields(entry: LibraryEntry | None, cause: Cause) -> FieldValues:
    fields: FieldValues = {}
    if entry is not None:
        view = views.view_entry(entry, 0, cause.received_at)
        _add_fields(fields, "certificate", view.model_dump(mode="json"))
    return fields


def _root_fields(roots: Sequence[RootView]) -> FieldValues:
    return {f"roots.{root.fingerprint[:16]}": root.subject for root in roots}


def _account_fields(resumption: str, suspended: bool) -> FieldValues:
    return {"resumption": resumption, "suspended": str(suspended).lower()}


def _add_fields(fields: FieldValues, path: str, value: Any) -> None:
    """Add a JSON value under dotted paths: ``settings.http2`` -> ``false``.

    Of a certificate only what tells it from another one is added."""
    if isinstance(value, dict):
        for key, item in value.items():
            if "fingerprint" not in value or key in _CERTIFICATE_FIELDS:
                _add_fields(fields, f"{path}.{key}" if path else key, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _add_fields(fields, f"{path}.{index}", item)
    elif value is None:
        fields[path] = None
    elif isinstance(value, bool):
        fields[path] = str(value).lower()
    else:
        fields[path] = str(value)
