"""Commands read, verdicts checked, views shown."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import pytest

from services.config.domain import command_parser, judging, outgoing_messages, views
from services.config.domain.commands import DomainCommand, InvalidCommand, RegisterCommand
from services.config.domain.events import Settled
from services.config.domain.model import CommandTarget, domain_target
from shared import catalogue
from shared.contracts.base import SealedKey
from shared.contracts.commands import DisableHttps, RegisterDomain, SubmitCertificate, SubmittedPair
from shared.contracts.domains import Outcome
from shared.contracts.findings import Code, finding
from shared.contracts.judging import Attestation, Verdict
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.errors import Malformed, Poison, Unsigned
from tests.unit.config.made import AT, NAME, ORIGIN, OWNER, cause, pair

SIGNER = Signer.generate("v")
VERIFIER = Verifier([("v", SIGNER.public_text())])


def registration(domain: str, service_type: str = "video") -> bytes:
    body = RegisterDomain(domain=domain, account=OWNER, service_type=service_type, origin=ORIGIN)
    return body.encode()


@pytest.mark.parametrize(
    ("sentence", "id", "subject", "body"),
    [
        ("an unknown command", "a", "https.cmd.domain.invent.v1", b"{}"),
        (
            "no ce-id",
            "",
            catalogue.CMD_HTTPS_DISABLE,
            DisableHttps(domain=NAME, account=OWNER).encode(),
        ),
        (
            "a ce-id with spaces",
            "a b",
            catalogue.CMD_HTTPS_DISABLE,
            DisableHttps(domain=NAME, account=OWNER).encode(),
        ),
        (
            "a ce-id without end",
            "a" * 129,
            catalogue.CMD_HTTPS_DISABLE,
            DisableHttps(domain=NAME, account=OWNER).encode(),
        ),
        ("not JSON", "a", catalogue.CMD_HTTPS_DISABLE, b"{"),
        (
            "a field too many",
            "a",
            catalogue.CMD_HTTPS_DISABLE,
            b'{"domain":"a.b.c","account":"x","force":true}',
        ),
        (
            "a submission whose id is not its own",
            "a",
            catalogue.CMD_CERTIFICATE_SUBMIT,
            SubmitCertificate(
                domain=NAME,
                account=OWNER,
                submission_id="b",
                pairs=[SubmittedPair(certificate="", sealed_key=SealedKey(epoch=0, box=""))],
            ).encode(),
        ),
    ],
)
def test_what_is_no_command_is_malformed(sentence: str, id: str, subject: str, body: bytes) -> None:
    with pytest.raises(Malformed):
        command_parser.parse_command(id, subject, body)


def read(domain: str, service_type: str = "video") -> tuple[CommandTarget, DomainCommand]:
    """The one target of a registration, and what the domain is asked."""
    body = command_parser.parse_command(
        "a", catalogue.CMD_DOMAIN_REGISTER, registration(domain, service_type)
    )
    (target,) = command_parser.find_targets(body)
    assert command_parser.targets_of_key(body, target.key) == [target]
    command = command_parser.to_domain_command(
        body, target, cause("a"), allow_private_origins=False
    )
    return target, command


def test_commands_of_one_domain_have_one_key_however_it_is_written() -> None:
    assert {read(name)[0].key for name in (NAME, NAME.upper())} == {NAME}


def test_a_name_that_is_no_domain_is_shown_printable_and_refused_with_its_position() -> None:
    target, command = read("a\0b.example.com")
    assert target.findings and (target.domain, target.certificate) == ("a?b.example.com", None)
    assert target.key.startswith("!") and len(target.key) == 3
    assert isinstance(command, InvalidCommand)
    assert command.findings[0].message.startswith("At position 2")


def test_an_unsupported_service_type_is_refused_by_its_own_code() -> None:
    _, command = read(NAME, "mining")
    assert isinstance(command, InvalidCommand)
    assert [found.code for found in command.findings] == [Code.DOMAIN_SERVICE_TYPE_UNSUPPORTED]


@pytest.mark.parametrize(
    "service_type", ["image_small_file", "download", "video", "live_streaming"]
)
def test_the_four_service_types_are_taken(service_type: str) -> None:
    assert isinstance(read(NAME, service_type)[1], RegisterCommand)


def verdict(signer: Signer = SIGNER, **changed: object) -> Verdict:
    judged = pair()
    word = Attestation.model_validate(
        {
            "account": OWNER,
            "domains": [NAME],
            "pair_id": judged.pair_id,
            "leaf_fingerprint": judged.leaf_fingerprint,
            "chain_hash": sha256(judged.chain.encode()).hexdigest(),
            **changed,
        }
    )
    signed = judged.model_copy(update={"attestation": signer.sign(Purpose.ATTESTATION, word)})
    return Verdict(
        submission_id="s", account=OWNER, accepted={NAME: True}, findings=[], pairs=[signed]
    )


def test_a_verdict_that_is_vouched_for_is_taken() -> None:
    judging.verify_verdict(verdict(), VERIFIER)
    assert judging.verdict_on(verdict(), NAME).pairs[0].pair_id == "pair-leaf"


@pytest.mark.parametrize(
    ("sentence", "changed"),
    [
        ("another account", {"account": "mallory"}),
        ("another domain", {"domains": ["other.example.com"]}),
        ("another pair", {"pair_id": "other"}),
        ("another leaf", {"leaf_fingerprint": "0" * 64}),
        ("another chain", {"chain_hash": "0" * 64}),
    ],
)
def test_a_signature_that_speaks_of_something_else_is_worth_nothing(
    sentence: str, changed: dict[str, object]
) -> None:
    with pytest.raises(Unsigned):
        judging.verify_verdict(verdict(**changed), VERIFIER)


def test_a_strangers_signature_is_worth_nothing() -> None:
    with pytest.raises(Unsigned):
        judging.verify_verdict(verdict(Signer.generate("v")), VERIFIER)


def test_a_verdict_that_accepts_without_a_pair_or_leaves_the_key_unsealed_is_poison() -> None:
    bare = verdict().model_copy(update={"pairs": []})
    with pytest.raises(Malformed):
        judging.verify_verdict(bare, VERIFIER)
    one = verdict()
    unsealed = one.pairs[0].model_copy(update={"sealed_key": SealedKey(epoch=0, box="")})
    with pytest.raises(Poison):
        judging.verify_verdict(one.model_copy(update={"pairs": [unsealed]}), VERIFIER)


@pytest.mark.parametrize(
    ("days", "sans", "status"),
    [
        (0, None, "ok"),
        (59, None, "expires_soon"),
        (89, None, "expired"),
        (0, ["other.example.com"], "mismatch"),
        (0, ["*.example.com"], "ok"),
    ],
)
def test_a_certificate_has_the_status_of_its_days_and_names(
    days: int, sans: list[str] | None, status: str
) -> None:
    assert views.certificate_status(pair(sans=sans), NAME, AT + timedelta(days=days)) == status


def test_an_event_of_a_refusal_carries_codes_once_and_no_sentence() -> None:
    found = finding(Code.KEY_MISMATCH, "canary")
    (message,) = outgoing_messages.event_messages(
        domain_target(NAME), Settled(cause("a"), Outcome.REFUSED, (found, found)), AT
    )
    assert b"canary" not in message.body and message.body.count(b"key.mismatch") == 1
    assert message.headers["ce-causationid"] == "a"


@pytest.mark.parametrize(
    ("san", "domain", "shown"),
    [
        (NAME, NAME, "ok"),
        ("*.example.com", NAME, "ok"),
        ("*.example.com", "example.com", "mismatch"),
        ("*.example.com", "a.www.example.com", "mismatch"),
        (
            "*.com",
            "example.com",
            "mismatch",
        ),  # as for the validator and the nodes: `*.com` covers nothing
        ("*.com", "*.com", "ok"),
    ],
)
def test_a_view_calls_a_mismatch_what_the_validator_and_the_nodes_refuse(
    san: str, domain: str, shown: str
) -> None:
    assert views.certificate_status(pair(sans=[san]), domain, AT) == shown
