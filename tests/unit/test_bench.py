"""What the table of the README says of itself."""

from __future__ import annotations

from bench import __main__ as bench


def test_the_table_names_the_command_that_measured() -> None:
    assert bench._command_text([]) == "make bench"
    assert bench._command_text(["--quick"]) == "python -m bench --quick"
