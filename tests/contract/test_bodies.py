"""Bodies are strict about what they do not know and silent about what they were given."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from pydantic import ValidationError

from shared.contracts.base import Signed
from shared.contracts.codec import parse
from shared.contracts.commands import CreditBalance, DisableHttps, SubmitCertificate
from shared.contracts.edge import Checkpoint
from shared.contracts.findings import Code, Severity, finding
from shared.contracts.judging import Attestation
from shared.crypto.signing import Purpose, Signer, Verifier
from shared.errors import Malformed, Unsigned

SECRET = "c2VjcmV0LWtleS1tYXRlcmlhbA"


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(Malformed, match="extra_forbidden"):
        parse(DisableHttps, b'{"domain":"a.example","account":"a","domian":"b"}')


def test_a_fault_names_the_field_and_never_the_value() -> None:
    with pytest.raises(Malformed) as error:
        parse(
            SubmitCertificate, f'{{"domain":"a.example","account":"a","pairs":"{SECRET}"}}'.encode()
        )
    assert "pairs" in str(error.value)
    assert SECRET not in str(error.value)


def test_pydantics_own_error_does_not_show_the_input_either() -> None:
    with pytest.raises(ValidationError) as error:
        SubmitCertificate.model_validate(
            {"domain": "a", "account": "a", "submission_id": "s", "pairs": SECRET}
        )
    assert SECRET not in str(error.value)


def test_money_travels_as_an_exact_decimal_string() -> None:
    credit = CreditBalance(account="a", reference="r", amount=Decimal("0.1"), currency="CNY")
    assert b'"amount":"0.1"' in credit.encode()
    assert parse(CreditBalance, credit.encode()).amount == Decimal("0.1")


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-1", "0"])
def test_an_amount_that_is_no_positive_number_is_refused(amount: str) -> None:
    with pytest.raises(Malformed):
        parse(
            CreditBalance,
            f'{{"account":"a","reference":"r","amount":"{amount}","currency":"CNY"}}'.encode(),
        )


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(Malformed):
        parse(
            Checkpoint,
            b'{"incarnation":"x","sequence":1,"root":"'
            + b"0" * 64
            + b'","domains":0,"epoch":1,"flush_seconds":1,"time":"2026-01-01T00:00:00"}',
        )


def test_every_code_has_a_noun_a_sentence_and_a_hint() -> None:
    for code in Code:
        noun, fault = code.value.split(".")
        assert noun.isidentifier()
        assert fault.isidentifier()
        assert code.sentence.endswith(".")
        assert code.hint
    assert len({code.value for code in Code}) == len(Code)


def test_a_finding_has_its_codes_severity_unless_another_is_given() -> None:
    assert finding(Code.CHAIN_WRONG_ORDER).severity is Severity.NOTICE
    assert finding(Code.CHAIN_WRONG_ORDER, severity=Severity.REFUSAL).severity is Severity.REFUSAL


def _attestation() -> Attestation:
    return Attestation(
        account="a",
        domains=["d.example"],
        pair_id="p",
        leaf_fingerprint="0" * 64,
        chain_hash="1" * 64,
    )


def test_a_signature_is_worth_nothing_for_another_purpose_key_or_payload() -> None:
    signer, other = Signer.generate("validator"), Signer.generate("validator")
    signed = signer.sign(Purpose.ATTESTATION, _attestation())
    mine = Verifier([("validator", signer.public_text())])
    assert mine.open(Purpose.ATTESTATION, signed, Attestation) == _attestation()
    for purpose, message, verifier in (
        (Purpose.BUNDLE, signed, mine),
        (Purpose.ATTESTATION, signed, Verifier([("validator", other.public_text())])),
        (Purpose.ATTESTATION, signed, Verifier([("edge_sync", signer.public_text())])),
        (
            Purpose.ATTESTATION,
            signed.model_copy(update={"payload": signed.payload.replace("d.ex", "e.ex")}),
            mine,
        ),
        (
            Purpose.ATTESTATION,
            Signed(key_id="validator", payload=signed.payload, signature=""),
            mine,
        ),
    ):
        with pytest.raises(Unsigned):
            verifier.open(purpose, message, Attestation)


def test_times_are_kept_in_utc() -> None:
    body = (
        b'{"incarnation":"x","sequence":1,"root":"'
        + b"0" * 64
        + (b'","domains":0,"epoch":1,"flush_seconds":1,"time":"2026-01-01T08:00:00+08:00"}')
    )
    assert parse(Checkpoint, body).time == datetime(2026, 1, 1, tzinfo=UTC)
