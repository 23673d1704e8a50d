"""What config may send to be judged is bounded: nobody's roots or names can fill a worker."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.contracts.judging import JudgeContext


@pytest.mark.parametrize(
    ("case", "fields", "fits"),
    [
        ("32 roots", {"private_roots": ["x"] * 32}, True),
        ("33 roots", {"private_roots": ["x"] * 33}, False),
        ("a root of 70,000 characters", {"private_roots": ["x" * 70_000]}, True),
        ("a longer one", {"private_roots": ["x" * 70_001]}, False),
        ("2,000 live names", {"live_names": ["example.com"] * 2000}, True),
        ("2,001 live names", {"live_names": ["example.com"] * 2001}, False),
        ("a name of 253 characters", {"live_names": ["x" * 253]}, True),
        ("a longer name", {"live_names": ["x" * 254]}, False),
    ],
)
def test_the_context_of_a_judgement_has_borders(
    case: str, fields: dict[str, list[str]], fits: bool
) -> None:
    if fits:
        assert JudgeContext(**fields)  # type: ignore[arg-type]
        return
    with pytest.raises(ValidationError):
        JudgeContext(**fields)  # type: ignore[arg-type]
