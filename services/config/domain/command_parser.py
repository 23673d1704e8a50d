"""From a command's bytes to what the state machine is asked, and the key under which it waits its
turn. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from services.config.domain import library_entry, names, origins
from services.config.domain.commands import (
    Change,
    Disable,
    Hopeless,
    Order,
    Register,
    Remove,
    Reseal,
    Rollback,
    Submit,
)
from services.config.domain.model import Cause, Where
from shared import catalogue
from shared.contracts.accounts import ResumeAccount, SetResumption
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
from shared.contracts.findings import Code, finding
from shared.errors import Malformed, Refused
from shared.ids import derived_id

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_SHOWN, _SOURCE = 253, 256
NAMELESS: Final = "!"
"""How a key begins that stands for what names neither a domain nor a certificate."""
OfDomain = (
    RegisterDomain
    | RemoveDomain
    | SubmitCertificate
    | RollbackCertificate
    | DisableHttps
    | ChangeSettings
    | ResealPair
)
OfAccount = SetRoots | SetResumption | ResumeAccount
Message = OfDomain | StoreCertificate | DeployCertificate | DeleteCertificate | OfAccount
MODELS: Final[dict[str, type[Message]]] = {
    catalogue.CMD_DOMAIN_REGISTER: RegisterDomain,
    catalogue.CMD_DOMAIN_REMOVE: RemoveDomain,
    catalogue.CMD_CERTIFICATE_SUBMIT: SubmitCertificate,
    catalogue.CMD_CERTIFICATE_ROLLBACK: RollbackCertificate,
    catalogue.CMD_CERTIFICATE_STORE: StoreCertificate,
    catalogue.CMD_CERTIFICATE_DEPLOY: DeployCertificate,
    catalogue.CMD_CERTIFICATE_DELETE: DeleteCertificate,
    catalogue.CMD_ROOTS_SET: SetRoots,
    catalogue.CMD_ACCOUNT_RESUMPTION: SetResumption,
    catalogue.CMD_ACCOUNT_RESUME: ResumeAccount,
    catalogue.CMD_HTTPS_DISABLE: DisableHttps,
    catalogue.CMD_SETTINGS_CHANGE: ChangeSettings,
    catalogue.CMD_PAIR_RESEAL: ResealPair,
}


@dataclass(frozen=True)
class Place:
    """Where a command takes effect. ``key``: commands of one key run one after the other; ``name``:
    a domain in normal form, or a key of the account's library; None when it is neither (``why``
    refuses it then; such places share a few keys that nothing else has)."""

    key: str
    where: Where
    name: str | None
    why: Refused | None = None


@dataclass(frozen=True)
class Command:
    """A readable command and its places, each at least once."""

    id: str
    subject: str
    source: str
    body: Message
    places: tuple[Place, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(place.key for place in self.places))

    def at(self, key: str) -> list[Place]:
        """Several only where they are no domains."""
        return [place for place in self.places if place.key == key]


def read(message_id: str, subject: str, source: str, body: bytes) -> Command:
    """Malformed for an unknown command, a body that is not its contract, or an id that is missing
    or not usable."""
    model = MODELS.get(subject)
    if model is None:
        raise Malformed(f"no command {subject[:100]!r}")
    if not _IDENTIFIER.fullmatch(message_id):
        raise Malformed(
            "ce-id is missing or not an identifier of at most 128 letters, digits and _ . : -"
        )
    parsed = parse(model, body)
    if (
        isinstance(parsed, SubmitCertificate | StoreCertificate)
        and parsed.submission_id != message_id
    ):
        raise Malformed("submission_id is not the ce-id")
    origin = "".join(character for character in source if character.isprintable())[:_SOURCE]
    return Command(message_id, subject, origin, parsed, tuple(_places(parsed)))


def _places(body: Message) -> list[Place]:
    match body:
        case SetRoots() | SetResumption() | ResumeAccount():
            return [_library(body.account, "")]
        case StoreCertificate() | DeleteCertificate():
            return [_entry(body.account, body.name)]
        case DeployCertificate():
            entry = _entry(body.account, body.name)
            domains = [_domain(domain) for domain in body.domains]
            if entry.name is None:
                return _once(replace(place, name=None, why=entry.why) for place in domains)
            return _once([entry, *domains])
        case ResealPair(certificate=str(name)):
            return [_entry(body.account, name)]
        case ResealPair(domain=str(domain)):
            return [_domain(domain)]
        case ResealPair():
            raise Malformed("a reseal names a domain or a certificate")
    return [_domain(body.domain)]


def _once(places: Iterable[Place]) -> list[Place]:
    """Each place once: it gets one command.settled."""
    return list({(place.key, place.where): place for place in places}.values())


def _domain(text: str) -> Place:
    try:
        name = names.normalise(text)
    except Refused as refused:
        return Place(_unknown_key(text), Where(_printable(text)), None, refused)
    return Place(name, Where(name), name)


def _entry(account: str, name: str) -> Place:
    try:
        return _library(account, names.certificate(name))
    except Refused as refused:
        return Place(_unknown_key(name), Where(None, _printable(name)), None, refused)


def _library(account: str, name: str) -> Place:
    key = library_entry.entry_key(account, name)
    return Place(key, Where(None, name or None), key)


def _unknown_key(text: str) -> str:
    return f"{NAMELESS}{sha256(text.encode(errors='replace')).hexdigest()[:2]}"


def _printable(text: str) -> str:
    return (
        "".join(character if character.isprintable() else "?" for character in text)[:_SHOWN] or "?"
    )


def order(
    command: Command, place: Place, cause: Cause, *, allow_private_origins: bool
) -> Order | None:
    """What a domain's state machine is asked; None for a deployment, which needs the library."""
    if place.name is None:
        return Hopeless(cause, tuple(place.why.findings if place.why else ()))
    match command.body:
        case RegisterDomain() as body:
            return _register(place.name, body, cause, allow_private_origins)
        case RemoveDomain():
            return Remove(cause)
        case SubmitCertificate() as body:
            return _submit(body, cause)
        case RollbackCertificate():
            return Rollback(cause)
        case DisableHttps():
            return Disable(cause)
        case ChangeSettings() as body:
            return _change(body, cause, allow_private_origins)
        case ResealPair() as body:
            return Reseal(cause, body.pair_id, body.old_epoch, body.sealed_key)
    return None


def library_order(command: Command, cause: Cause) -> library_entry.Asked:
    """What an entry's state machine is asked. SetRoots is not an entry's."""
    match command.body:
        case StoreCertificate() as body:
            request = derived_id(cause.command_id, "judge")
            return library_entry.Store(
                cause,
                body.name,
                request,
                tuple(body.pairs),
                body.trust,
                body.overwrite,
                body.strict,
            )
        case DeleteCertificate():
            return library_entry.Delete(cause)
        case DeployCertificate():
            domains = [
                place.key
                for place in command.places
                if place.name and not place.key.startswith(library_entry.MARK)
            ]
            return library_entry.Resolve(cause, tuple(domains))
        case ResealPair() as body:
            return Reseal(cause, body.pair_id, body.old_epoch, body.sealed_key)
    raise ValueError(f"{command.subject} is no command of the library")


def _submit(body: SubmitCertificate, cause: Cause) -> Order:
    try:
        name = "" if body.name is None else names.certificate(body.name)
    except Refused as refused:
        return Hopeless(cause, tuple(refused.findings))
    return Submit(
        cause, derived_id(cause.command_id, "judge"), tuple(body.pairs), body.strict, name
    )


def _change(body: ChangeSettings, cause: Cause, allow_private: bool) -> Order:
    if body.origin is None:
        return Change(cause, body)
    try:
        checked = origins.check(body.origin, allow_private=allow_private)
    except Refused as refused:
        return Hopeless(cause, tuple(refused.findings))
    return Change(cause, body.model_copy(update={"origin": checked}))


def _register(name: str, body: RegisterDomain, cause: Cause, allow_private: bool) -> Order:
    """Every fault at once, not the first."""
    findings = []
    checked = body.origin
    try:
        checked = origins.check(body.origin, allow_private=allow_private)
    except Refused as refused:
        findings += refused.findings
    service_type = _service_type(body.service_type)
    if service_type is None:
        findings.append(finding(Code.DOMAIN_SERVICE_TYPE_UNSUPPORTED, field="request"))
    if service_type is None or findings:
        return Hopeless(cause, tuple(findings))
    return Register(cause, name, service_type, checked, body.trust)


def _service_type(text: str) -> ServiceType | None:
    try:
        return ServiceType(text)
    except ValueError:
        return None
