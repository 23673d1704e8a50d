"""What a command would change, asked of the real service."""

from __future__ import annotations

import pytest

from shared import catalogue
from shared.contracts.accounts import ResumeAccount, SetResumption
from shared.contracts.base import Contract
from shared.contracts.certificates import (
    DeleteCertificate,
    PreviewCommand,
    RollbackCertificate,
    SetRoots,
)
from shared.contracts.commands import ChangeSettings, DisableHttps
from shared.contracts.domains import Origin, Outcome
from shared.contracts.findings import Code
from tests.integration.config.harness import ConfigHarness, domain_name
from tests.support.pki import Authority

ACCOUNT = "acme"


async def test_a_preview_tells_what_would_change_and_changes_nothing(
    harness: ConfigHarness,
) -> None:
    domain = domain_name()
    await harness.register(domain)
    await harness.enable(domain)
    before = await harness.show(domain)
    body = ChangeSettings(
        domain=domain,
        account=ACCOUNT,
        http2=True,
        origin=Origin(scheme="https", host="new.example.com", port=443),
    )
    question = PreviewCommand(command=catalogue.CMD_SETTINGS_CHANGE, body=body.model_dump_json())
    preview = await harness.ask(catalogue.RPC_COMMAND_PREVIEW, question)
    (effect,) = preview.effects
    assert effect.outcome is Outcome.APPLIED
    changed = {one.field: (one.before, one.after) for one in effect.changes}
    assert changed["settings.http2"] == ("false", "true")
    assert changed["origin.host"] == ("origin.example.com", "new.example.com")
    back = RollbackCertificate(domain=domain, account=ACCOUNT)
    preview = await harness.ask(
        catalogue.RPC_COMMAND_PREVIEW,
        PreviewCommand(command=catalogue.CMD_CERTIFICATE_ROLLBACK, body=back.model_dump_json()),
    )
    assert [found.code for found in preview.effects[0].findings] == [Code.CERTIFICATE_NO_PREVIOUS]
    assert (await harness.show(domain)) == before


@pytest.mark.parametrize(
    ("subject", "body", "outcome", "told"),
    [
        (
            catalogue.CMD_ROOTS_SET,
            SetRoots(account="tried", roots="no PEM"),
            Outcome.REFUSED,
            "roots.invalid",
        ),
        (
            catalogue.CMD_ROOTS_SET,
            SetRoots(account="tried", roots=Authority.create("Tried Root").pem),
            Outcome.APPLIED,
            "Tried",
        ),
        (catalogue.CMD_ROOTS_SET, SetRoots(account="tried", roots=""), Outcome.UNCHANGED, ""),
        (catalogue.CMD_ACCOUNT_RESUME, ResumeAccount(account="tried"), Outcome.UNCHANGED, ""),
        (
            catalogue.CMD_ACCOUNT_RESUMPTION,
            SetResumption(account="tried", resumption="by_hand"),
            Outcome.APPLIED,
            "by_hand",
        ),
        (
            catalogue.CMD_CERTIFICATE_DELETE,
            DeleteCertificate(account="tried", name="bad name"),
            Outcome.REFUSED,
            "'bad name'",
        ),
        (
            catalogue.CMD_HTTPS_DISABLE,
            DisableHttps(account="tried", domain="no.example.com"),
            Outcome.REFUSED,
            "domain='no.example.com'",
        ),
    ],
)
async def test_every_command_but_a_submission_has_a_preview(
    harness: ConfigHarness, subject: str, body: Contract, outcome: Outcome, told: str
) -> None:
    question = PreviewCommand(command=subject, body=body.model_dump_json())
    preview = await harness.ask(catalogue.RPC_COMMAND_PREVIEW, question)
    (effect,) = preview.effects
    assert effect.outcome is outcome and told in str(preview)
    assert "@" not in str(preview)
