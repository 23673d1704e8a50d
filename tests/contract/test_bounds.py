"""Whatever comes from outside is bounded before it reaches a database, another message or a log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from shared import catalogue, subjects
from shared.contracts.base import Contract, Whole
from shared.contracts.commands import CloseHour, CreditBalance
from shared.contracts.ledger import Kind, QueryLedger

OWN = {
    catalogue.JUDGE_SUBMISSION,
    catalogue.VERDICT_SUBMISSION,
    *catalogue.kept_by(subjects.STREAM_EVENTS),
}
"""Said by one service to another."""
ELSEWHERE = {"UsageCell.minute", "Tier.price", "CreditBalance.amount", "SetThreshold.threshold"}
"""A cell with a minute that cannot be is set aside by itself, and its range counts (rule E5); a
schema cannot say how many digits an amount may have."""
MODELS = sorted(
    {
        model
        for service in subjects.SERVICES
        for row in catalogue.received_by(service)
        if row not in OWN
        for model in (row.body, row.signed)
        if model is not None
    },
    key=lambda model: model.__name__,
)


def _unbounded(place: str, part: dict[str, Any]) -> Iterator[str]:
    limits = {
        "integer": {"maximum", "exclusiveMaximum"},
        "array": {"maxItems"},
        "string": {"maxLength", "pattern", "enum", "const", "format"},
    }
    kind = part.get("type")
    if (
        kind in limits
        and not limits[kind] & part.keys()
        and "enum" not in part
        and "const" not in part
    ):
        yield place
    if kind == "object" and "properties" not in part and part.get("additionalProperties"):
        if "maxProperties" not in part and "enum" not in part.get("propertyNames", {}):
            yield place
        yield from _unbounded(f"{place}.*", part["additionalProperties"])
    for name, of_it in part.get("properties", {}).items():
        yield from _unbounded(f"{part.get('title', place)}.{name}", of_it)
    for choice in (*part.get("anyOf", ()), *part.get("prefixItems", ())):
        yield from _unbounded(place, choice)
    if "items" in part:
        yield from _unbounded(f"{place}[]", part["items"])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_whole_number_text_and_list_of_a_message_from_outside_has_a_limit(
    model: type[Contract],
) -> None:
    schema = model.model_json_schema()
    found = {
        place
        for part in (schema, *schema.get("$defs", {}).values())
        for place in _unbounded("", part)
    }
    assert found - ELSEWHERE == set()


@pytest.mark.parametrize("number", [-1, 2**53 + 1, 2**63, 10**400])
def test_a_whole_number_is_none_that_a_reader_of_json_or_a_bigint_column_would_not_hold(
    number: int,
) -> None:
    class Counted(Contract):
        count: Whole

    with pytest.raises(ValidationError):
        Counted.model_validate_json(f'{{"count": {number}}}')


@pytest.mark.parametrize(
    "amount", ['"1e38"', '"1e400000000"', "1e300", '"0.0000000000000000001"', '"NaN"']
)
def test_an_amount_has_at_most_38_digits_however_it_is_written(amount: str) -> None:
    with pytest.raises(ValidationError):
        CreditBalance.model_validate_json(
            f'{{"account": "a", "reference": "r", "currency": "EUR", "amount": {amount}}}'
        )


def test_a_time_that_leaves_the_calendar_in_utc_is_a_fault_of_the_message() -> None:
    for text in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        with pytest.raises(ValidationError, match="outside the years"):
            CloseHour.model_validate_json(f'{{"until": "{text}"}}')
    assert CloseHour(until=datetime(9999, 12, 31, tzinfo=UTC)).until.year == 9999


def test_every_kind_of_ledger_line_can_be_asked_for_at_once() -> None:
    question = {
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-02-01T00:00:00Z",
        "kinds": list(get_args(Kind)),
    }
    assert QueryLedger.model_validate(question).kinds == list(get_args(Kind))
    with pytest.raises(ValidationError):
        QueryLedger.model_validate({**question, "kinds": [*get_args(Kind), "credit"]})
