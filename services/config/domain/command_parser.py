"""From a command's bytes to its contract, its targets, and what a state machine is asked. Pure.

Intake parses a body once: an unknown command or a malformed body is a dead letter, and the targets'
keys are stored with the message. The runner reads a stored body once for each message, and takes
the target from the stored key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Final, cast

from services.config.domain import names, origins
from services.config.domain.commands import (
    ChangeCommand,
    DeleteCommand,
    DeployCommand,
    DisableCommand,
    DomainCommand,
    InvalidCommand,
    LibraryCommand,
    RegisterCommand,
    RemoveCommand,
    ResealCommand,
    ResolveDeployment,
    RollbackCommand,
    StoreCommand,
    SubmitCommand,
)
from services.config.domain.model import (
    INVALID_PREFIX,
    LIBRARY_PREFIX,
    Cause,
    CommandTarget,
    domain_target,
    library_key,
    library_target,
)
from shared import catalogue
from shared.contracts.accounts import ResumeAccount, SetResumption
from shared.contracts.base import Contract
from shared.contracts.certificates import (
    DeleteCertificate,
    DeployCertificate,
    RollbackCertificate,
    SetRoots,
    StoreCertificate,
)
from shared.contracts.codec import parse
from shared.contracts.commands import (
    ChangeSettings,
    DisableHttps,
    RegisterDomain,
    RemoveDomain,
    ResealPair,
    SubmitCertificate,
)
from shared.contracts.domains import ServiceType
from shared.contracts.findings import Code, Finding, finding
from shared.errors import Malformed, Refused
from shared.ids import derived_id
from shared.subjects import CONFIG

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_NAME_CHARACTERS: Final = 253
_SOURCE_CHARACTERS: Final = 256

# Commands for an account as a whole. They run under the account's own key.
AccountCommand = SetRoots | SetResumption | ResumeAccount
CommandBody = (
    RegisterDomain
    | RemoveDomain
    | SubmitCertificate
    | RollbackCertificate
    | DisableHttps
    | ChangeSettings
    | ResealPair
    | StoreCertificate
    | DeployCertificate
    | DeleteCertificate
    | AccountCommand
)
# The contract of each command, from its row of the catalogue.
CONTRACTS: Final[dict[str, type[Contract]]] = {
    row: row.body for row in catalogue.received_by(CONFIG, "command")
}


def parse_command(message_id: str, subject: str, body: bytes) -> CommandBody:
    """Return the contract in a command's body.

    Malformed for an unknown command, a body that is not its contract, or an id that is missing or
    not usable."""
    contract = CONTRACTS.get(subject)
    if contract is None:
        raise Malformed(f"no command {subject[:100]!r}")
    if not _IDENTIFIER.fullmatch(message_id):
        raise Malformed(
            "ce-id is missing or not an identifier of at most 128 letters, digits and _ . : -"
        )
    parsed = cast(CommandBody, parse(contract, body))
    submission_id = message_id
    if isinstance(parsed, SubmitCertificate | StoreCertificate):
        submission_id = parsed.submission_id
    if submission_id != message_id:
        raise Malformed("submission_id is not the ce-id")
    return parsed


def printable_source(source: str) -> str:
    """Return the sender's name as history keeps it."""
    printable = [character for character in source if character.isprintable()]
    return "".join(printable)[:_SOURCE_CHARACTERS]


def find_targets(body: CommandBody) -> list[CommandTarget]:
    """Return where a command takes effect: each place once, as each gets one command.settled.

    Malformed for a reseal that names no place."""
    match body:
        case SetRoots() | SetResumption() | ResumeAccount():
            return [library_target(library_key(body.account, ""))]
        case StoreCertificate() | DeleteCertificate():
            return [_entry_target(body.account, body.name)]
        case DeployCertificate():
            return _deployment_targets(body)
        case ResealPair(certificate=str(name)):
            return [_entry_target(body.account, name)]
        case ResealPair(domain=str(domain)):
            return [_domain_target(domain)]
        case ResealPair():
            raise Malformed("a reseal names a domain or a certificate")
    return [_domain_target(body.domain)]


def targets_of_key(body: CommandBody, key: str) -> list[CommandTarget]:
    """Return the targets of a command under one key; several only where the names are invalid."""
    # A stored key is a name in normal form already. Only names that have none are found again,
    # since several of them share a key.
    if key.startswith(INVALID_PREFIX):
        return [target for target in find_targets(body) if target.key == key]
    if key.startswith(LIBRARY_PREFIX):
        return [library_target(key)]
    if isinstance(body, DeployCertificate):
        findings = _entry_target(body.account, body.name).findings
        return [replace(domain_target(key), findings=findings)]
    return [domain_target(key)]


def to_domain_command(
    body: CommandBody, target: CommandTarget, cause: Cause, *, allow_private_origins: bool
) -> DomainCommand:
    """Return what the state machine of a domain is asked."""
    if target.findings:
        return InvalidCommand(cause, target.findings)
    match body:
        case RegisterDomain():
            return _register(target.key, body, cause, allow_private_origins)
        case RemoveDomain():
            return RemoveCommand(cause)
        case SubmitCertificate():
            return _submit(body, cause)
        case DeployCertificate():
            return DeployCommand(cause)
        case RollbackCertificate():
            return RollbackCommand(cause)
        case DisableHttps():
            return DisableCommand(cause)
        case ChangeSettings():
            return _change(body, cause, allow_private_origins)
        case ResealPair():
            return ResealCommand(cause, body.pair_id, body.old_epoch, body.sealed_key)
    raise ValueError(f"{cause.command} is no command of a domain")


def to_library_command(body: CommandBody, cause: Cause) -> LibraryCommand:
    """Return what the state machine of a library entry is asked."""
    match body:
        case StoreCertificate():
            return StoreCommand(
                cause,
                body.name,
                derived_id(cause.command_id, "judge"),
                tuple(body.pairs),
                body.trust,
                body.overwrite,
                body.strict,
            )
        case DeleteCertificate():
            return DeleteCommand(cause)
        case DeployCertificate():
            domains = []
            for target in find_targets(body):
                if not target.in_library and not target.findings:
                    domains.append(target.key)
            return ResolveDeployment(cause, tuple(domains))
        case ResealPair():
            return ResealCommand(cause, body.pair_id, body.old_epoch, body.sealed_key)
    raise ValueError(f"{cause.command} is no command of a library entry")


def _deployment_targets(body: DeployCertificate) -> list[CommandTarget]:
    """The deployment takes its turn in the library first, then on each domain. An invalid
    certificate name is refused on each domain, in its turn."""
    entry = _entry_target(body.account, body.name)
    targets = [_domain_target(domain) for domain in body.domains]
    if entry.findings:
        targets = [replace(target, findings=entry.findings) for target in targets]
    else:
        targets.insert(0, entry)
    return _each_once(targets)


def _each_once(targets: Iterable[CommandTarget]) -> list[CommandTarget]:
    places = {(target.key, target.domain, target.certificate): target for target in targets}
    return list(places.values())


def _domain_target(text: str) -> CommandTarget:
    try:
        return domain_target(names.normalise(text))
    except Refused as refused:
        return CommandTarget(_invalid_key(text), _printable(text), None, tuple(refused.findings))


def _entry_target(account: str, name: str) -> CommandTarget:
    try:
        return library_target(library_key(account, names.check_certificate_name(name)))
    except Refused as refused:
        return CommandTarget(_invalid_key(name), None, _printable(name), tuple(refused.findings))


def _invalid_key(text: str) -> str:
    """Return one of 256 keys that invalid names share: a flood of them is run in parallel and
    leaves few rows."""
    return f"{INVALID_PREFIX}{sha256(text.encode(errors='replace')).hexdigest()[:2]}"


def _printable(text: str) -> str:
    shown = ""
    for character in text[:_NAME_CHARACTERS]:
        shown += character if character.isprintable() else "?"
    return shown or "?"


def _submit(body: SubmitCertificate, cause: Cause) -> DomainCommand:
    name = ""
    if body.name is not None:
        try:
            name = names.check_certificate_name(body.name)
        except Refused as refused:
            return InvalidCommand(cause, tuple(refused.findings))
    request_id = derived_id(cause.command_id, "judge")
    return SubmitCommand(cause, request_id, tuple(body.pairs), body.strict, name)


def _change(body: ChangeSettings, cause: Cause, allow_private: bool) -> DomainCommand:
    if body.origin is None:
        return ChangeCommand(cause, body)
    try:
        checked = origins.check_origin(body.origin, allow_private=allow_private)
    except Refused as refused:
        return InvalidCommand(cause, tuple(refused.findings))
    return ChangeCommand(cause, body.model_copy(update={"origin": checked}))


def _register(name: str, body: RegisterDomain, cause: Cause, allow_private: bool) -> DomainCommand:
    """Check origin and service type, so that a refusal names every fault and not the first."""
    findings: list[Finding] = []
    origin = body.origin
    try:
        origin = origins.check_origin(body.origin, allow_private=allow_private)
    except Refused as refused:
        findings += refused.findings
    service_type = None
    try:
        service_type = ServiceType(body.service_type)
    except ValueError:
        findings.append(finding(Code.DOMAIN_SERVICE_TYPE_UNSUPPORTED, field="request"))
    if service_type is None or findings:
        return InvalidCommand(cause, tuple(findings))
    return RegisterCommand(cause, name, service_type, origin, body.trust)
