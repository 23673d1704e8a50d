"""The fast decoder and the contract accept, read and refuse the same."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.billing.domain.wire_format import (
    WireBatch,
    WireCell,
    WirePrevious,
    WireRequest,
    pack_cells,
    read_batch,
    read_request,
    read_requests,
    unpack_cells,
)
from shared.contracts.usage import HttpsRequest, PreviousLog, UsageBatch, UsageCell
from shared.errors import Malformed

CELL = {"domain": "www.example.test", "minute": 29_000_000, "https_requests": 3}
BATCH = {"node": "n-1", "log": "log:1", "start": 0, "end": 10, "read_to": 10, "cells": [CELL]}
REQUEST = {
    "id": "r1",
    "source": "console",
    "time": "2026-01-01T00:00:00Z",
    "domain": "www.example.test",
    "bytes": 1,
    "status": 200,
    "node": "n-1",
}


@pytest.mark.parametrize(
    ("struct", "model"),
    [
        (WireBatch, UsageBatch),
        (WireCell, UsageCell),
        (WirePrevious, PreviousLog),
        (WireRequest, HttpsRequest),
    ],
)
def test_the_structs_have_the_fields_and_defaults_of_the_contract(
    struct: type[msgspec.Struct], model: Any
) -> None:
    fields = {
        field.name: None if field.required else field.default
        for field in msgspec.structs.fields(struct)
    }
    assert fields == {
        name: None if field.is_required() else field.default
        for name, field in model.model_fields.items()
    }


def _changed(base: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(
        {name: value for name, value in (base | changes).items() if value is not ...}
    ).encode()


FAULTS = [
    {"node": ...},
    {"node": "Up"},
    {"node": "-a"},
    {"node": "a\n"},
    {"node": "a" * 64},
    {"log": ""},
    {"log": "a b"},
    {"log": "a\n"},
    {"start": -1},
    {"end": 2**53 + 1},
    {"end": None},
    {"cells": None},
    {"cells": {}},
    {"extra": 1},
    {"cells": [{**CELL, "extra": 1}]},
    {"cells": [{**CELL, "https_requests": -1}]},
    {"bad_lines": -1},
    {"cells": [{**CELL, "domain": "a" * 254}]},
    {"cells": [{"domain": "a"}]},
    {"final": None},
    {"previous": {"log": "x"}},
    {"previous": {"log": "x", "length": -1}},
    {"read_to": 1.5},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_both_refuse_the_same_batches(fault: dict[str, Any]) -> None:
    body = _changed(BATCH, **fault)
    with pytest.raises(ValidationError):
        UsageBatch.model_validate_json(body)
    with pytest.raises(Malformed):
        read_batch(body)


REQUEST_FAULTS = [
    {"id": ""},
    {"id": "a b"},
    {"source": ...},
    {"time": "2026-01-01T00:00:00"},
    {"time": "yesterday"},
    {"domain": ""},
    {"domain": "a" * 254},
    {"bytes": -1},
    {"status": 99},
    {"status": 600},
    {"node": "UP"},
    {"more": 1},
    {"id": "a\nb"},
    {"id": "a\n"},
    {"id": "a" * 129},
    {"source": "a\nb"},
    {"node": "a\nb"},
    {"node": "a" * 64},
]


@pytest.mark.parametrize("fault", REQUEST_FAULTS, ids=str)
def test_both_refuse_the_same_requests(fault: dict[str, Any]) -> None:
    body = _changed(REQUEST, **fault)
    with pytest.raises(ValidationError):
        HttpsRequest.model_validate_json(body)
    with pytest.raises(Malformed):
        read_request(body)


@pytest.mark.parametrize("fault", REQUEST_FAULTS, ids=str)
def test_a_request_that_is_refused_alone_is_seen_among_others(fault: dict[str, Any]) -> None:
    good = _changed(REQUEST)
    assert read_requests([good, good]) == [read_request(good)] * 2
    for place in range(3):
        assert (
            read_requests([*[good] * place, _changed(REQUEST, **fault), *[good] * (2 - place)])
            is None
        )


@pytest.mark.parametrize("body", [b"", b"{},{}", b"null", b"1", b"\xff"])
def test_a_body_with_no_request_or_several_is_seen_among_others(body: bytes) -> None:
    good = _changed(REQUEST)
    assert read_requests([good, body]) is None
    assert read_requests([body, good]) is None
    assert read_requests([good, good + b"," + good]) is None


counts = st.integers(0, 2**53)
cells = st.builds(
    UsageCell,
    domain=st.text(max_size=60),
    minute=st.integers(-(2**40), 2**40),
    https_requests=counts,
    https_bytes=counts,
    http_requests=counts,
    http_bytes=counts,
)


previous_logs = st.none() | st.builds(PreviousLog, log=st.just("x"), length=counts)


@given(st.lists(cells, min_size=1, max_size=5), st.booleans(), previous_logs)
def test_the_decoder_reads_everything_that_the_contract_writes(
    made: list[UsageCell], final: bool, previous: PreviousLog | None
) -> None:
    batch = UsageBatch.model_validate(
        {**BATCH, "cells": made, "final": final, "previous": previous}
    )
    assert msgspec.to_builtins(read_batch(batch.encode())) == batch.model_dump()
    request = HttpsRequest.model_validate(REQUEST)
    assert read_request(request.encode()).time == request.time


@pytest.mark.parametrize("fault", [{"start": 11}, {"start": 10}])
def test_an_impossible_range_is_malformed(fault: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        read_batch(_changed(BATCH, **fault))


@pytest.mark.parametrize("body", [b"", b"\xff", b"null", b"[]", b'{"node":', b"\x00" * 10])
def test_a_body_that_is_no_json_object_is_malformed_and_not_echoed(body: bytes) -> None:
    for read in (read_batch, read_request):
        with pytest.raises(Malformed):
            read(body)
    with pytest.raises(Malformed) as refused:
        read_batch(_changed(BATCH, secret_field=1))
    assert "secret_field" not in str(refused.value)


@given(st.lists(cells, max_size=20))
def test_the_archive_gives_back_every_cell(made: list[UsageCell]) -> None:
    given_cells = [WireCell(**one.model_dump()) for one in made]
    assert unpack_cells(pack_cells(given_cells)) == [
        tuple(one.model_dump().values()) for one in made
    ]
