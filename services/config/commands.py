"""From a command's bytes to what the state machine is asked, and the key under which it waits its turn. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from services.config import names, origins
from services.config.orders import Change, Disable, Hopeless, Order, Register, Remove, Reseal, Submit
from services.config.state import Cause
from shared import subjects
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
from shared.crypto.signing import parse
from shared.errors import Malformed, Refused
from shared.ids import derived_id

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_SHOWN, _SOURCE = 253, 256
Message = (
    RegisterDomain | RemoveDomain | SubmitCertificate | DisableHttps | ChangeSettings | ResealPair
)
MODELS: Final[dict[str, type[Message]]] = {
    subjects.CMD_DOMAIN_REGISTER: RegisterDomain,
    subjects.CMD_DOMAIN_REMOVE: RemoveDomain,
    subjects.CMD_CERTIFICATE_SUBMIT: SubmitCertificate,
    subjects.CMD_HTTPS_DISABLE: DisableHttps,
    subjects.CMD_SETTINGS_CHANGE: ChangeSettings,
    subjects.CMD_PAIR_RESEAL: ResealPair,
}


@dataclass(frozen=True)
class Command:
    """A readable command. ``name``: the domain in normal form, None when it is none (``why`` refuses it then)."""

    id: str
    subject: str
    source: str
    body: Message
    name: str | None
    why: Refused | None = None

    @property
    def key(self) -> str:
        """Commands of one key run one after the other. What names no domain shares a few keys that no domain has."""
        if self.name is not None:
            return self.name
        return f"!{sha256(self.body.domain.encode()).hexdigest()[:2]}"

    @property
    def shown(self) -> str:
        """The domain as events and history name it: what was sent, made printable, where it is no domain."""
        if self.name is not None:
            return self.name
        text = "".join(character if character.isprintable() else "?" for character in self.body.domain)
        return text[:_SHOWN] or "?"


def read(message_id: str, subject: str, source: str, body: bytes) -> Command:
    """Malformed for an unknown command, a body that is not its contract, or an id that is missing or not usable."""
    model = MODELS.get(subject)
    if model is None:
        raise Malformed(f"no command {subject[:100]!r}")
    if not _IDENTIFIER.fullmatch(message_id):
        raise Malformed("ce-id is missing or not an identifier of at most 128 letters, digits and _ . : -")
    parsed = parse(model, body)
    if isinstance(parsed, SubmitCertificate) and parsed.submission_id != message_id:
        raise Malformed("submission_id is not the ce-id")
    origin = "".join(character for character in source if character.isprintable())[:_SOURCE]
    try:
        name, why = names.normalise(parsed.domain), None
    except Refused as refused:
        name, why = None, refused
    return Command(message_id, subject, origin, parsed, name, why)


def order(command: Command, cause: Cause, *, allow_private_origins: bool) -> Order:
    """What the state machine is asked."""
    if command.name is None:
        return Hopeless(cause, tuple(command.why.findings if command.why else ()))
    match command.body:
        case RegisterDomain() as body:
            return _register(command.name, body, cause, allow_private_origins)
        case RemoveDomain():
            return Remove(cause)
        case SubmitCertificate() as body:
            return Submit(cause, derived_id(cause.command_id, "judge"), tuple(body.pairs), body.strict)
        case DisableHttps():
            return Disable(cause)
        case ChangeSettings() as body:
            return Change(cause, body)
        case ResealPair() as body:
            return Reseal(cause, body.pair_id, body.old_epoch, body.sealed_key)


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


