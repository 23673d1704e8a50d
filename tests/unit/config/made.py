"""Values for the tests of config's pure modules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from services.config.domain.commands import (
    ChangeCommand,
    DeployCommand,
    DisableCommand,
    RegisterCommand,
    RemoveCommand,
    ResealCommand,
    SubmitCommand,
    TargetVerdict,
)
from services.config.domain.model import Cause, Certificate, CommandContext
from shared import catalogue
from shared.contracts.base import SealedKey, Signed
from shared.contracts.commands import ChangeSettings, RedirectChange, SubmittedPair
from shared.contracts.domains import Origin, ServiceType
from shared.contracts.findings import Finding
from shared.contracts.judging import JudgedPair

AT = datetime(2026, 3, 1, tzinfo=UTC)
NAME = "www.example.com"
OWNER = "acme"
TITLE = "wild"
ORIGIN = Origin(scheme="https", host="origin.example.com", port=443)


def context(revision: int = 0, **others: Any) -> CommandContext:
    return CommandContext(AT, revision, **others)


def cause(id: str, account: str = OWNER, command: str = catalogue.CMD_HTTPS_DISABLE) -> Cause:
    return Cause(id, command, "test", account, AT)


def pair(leaf: str = "leaf", epoch: int = 1, sans: list[str] | None = None) -> JudgedPair:
    return JudgedPair(
        pair_id=f"pair-{leaf}",
        chain=f"chain of {leaf}",
        leaf_fingerprint=sha256(leaf.encode()).hexdigest(),
        subject=f"CN={NAME}",
        sans=sans or [NAME],
        issuer="CN=CA",
        key_type="RSA",
        key_bits=2048,
        not_before=AT - timedelta(days=1),
        not_after=AT + timedelta(days=89),
        sealed_key=SealedKey(epoch=epoch, box=""),
        attestation=Signed(key_id="v", payload="{}", signature=""),
    )


def register(id: str = "r", account: str = OWNER, **others: Any) -> RegisterCommand:
    return RegisterCommand(
        cause(id, account, catalogue.CMD_DOMAIN_REGISTER),
        NAME,
        others.get("service_type", ServiceType.VIDEO),
        others.get("origin", ORIGIN),
        "public",
    )


def submit(id: str, account: str = OWNER) -> SubmitCommand:
    sealed = SubmittedPair(certificate="PEM", sealed_key=SealedKey(epoch=0, box=""))
    return SubmitCommand(
        cause(id, account, catalogue.CMD_CERTIFICATE_SUBMIT), f"judge-{id}", (sealed,), False
    )


def accept(id: str, *leaves: str, epoch: int = 1) -> TargetVerdict:
    return TargetVerdict(id, tuple(pair(leaf, epoch) for leaf in leaves or ("leaf",)), ())


def refuse(id: str, *findings: Finding) -> TargetVerdict:
    return TargetVerdict(id, (), findings)


def kept(leaf: str = "wild", version: str = "v1", **others: Any) -> Certificate:
    """A certificate of the library, for every host of the family."""
    made = pair(leaf, sans=others.pop("sans", ["*.example.com"]))
    return Certificate(version, (made.model_copy(update=others),), "stored", TITLE, "entry")


def deploy(id: str, certificate: Certificate | None, *, ready: bool = True) -> DeployCommand:
    return DeployCommand(cause(id, command=catalogue.CMD_CERTIFICATE_DEPLOY), certificate, ready)


def disable(id: str = "d", account: str = OWNER) -> DisableCommand:
    return DisableCommand(cause(id, account))


def remove(id: str = "x", account: str = OWNER) -> RemoveCommand:
    return RemoveCommand(cause(id, account, catalogue.CMD_DOMAIN_REMOVE))


def redirect(mode: str, id: str = "c", account: str = OWNER) -> ChangeCommand:
    return change(id, account, redirect=RedirectChange.model_validate({"mode": mode}))


def change(id: str = "c", account: str = OWNER, **wanted: Any) -> ChangeCommand:
    body = ChangeSettings.model_validate({"domain": NAME, "account": account, **wanted})
    return ChangeCommand(cause(id, account, catalogue.CMD_SETTINGS_CHANGE), body)


def reseal(pair_id: str, old: int, new: int, id: str = "s") -> ResealCommand:
    return ResealCommand(
        cause(id, command=catalogue.CMD_PAIR_RESEAL), pair_id, old, SealedKey(epoch=new, box="bmV3")
    )
