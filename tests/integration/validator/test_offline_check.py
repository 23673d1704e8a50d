"""The offline check, ``python -m services.validator check --jsonl``, as a process."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.pki import NOW, Authority
from tests.support.unusual_certificates import (
    COMMON_NAME,
    COUNTRY,
    PRINTABLE,
    UTF8,
    alter_certificate,
    encode_integer,
    encode_name,
    encode_pem,
)

COMMAND = [sys.executable, "-m", "services.validator"]


def test_lines_are_answered_one_by_one_while_input_is_open() -> None:
    root = Authority.create()
    leaf = root.intermediate().issue(["www.example.com"])
    request = {
        "id": "one",
        "certificate": leaf.chain_pem,
        "private_key": leaf.key_pem,
        "domain": "www.example.com",
        "at": NOW.isoformat(),
        "roots": root.pem,
    }
    with subprocess.Popen(
        [*COMMAND, "check", "--jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, expected in (
            (json.dumps(request), "accepted"),
            ("{", "refused"),
            (json.dumps(request), "accepted"),
        ):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["verdict"] == expected
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_unknown_arguments_print_the_usage() -> None:
    done = subprocess.run(
        [*COMMAND, "check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr


def test_oddities_of_a_certificate_print_no_warning() -> None:
    root = Authority.create()
    leaf = root.issue(["www.example.com"])
    odd = alter_certificate(
        leaf.certificate,
        root.key,
        serial=encode_integer(-5),
        subject=encode_name((COMMON_NAME, UTF8, "A" * 413), (COUNTRY, PRINTABLE, "USA")),
    )
    request = {
        "certificate": encode_pem(odd),
        "private_key": leaf.key_pem,
        "domain": "www.example.com",
        "at": NOW.isoformat(),
        "roots": root.pem,
    }
    done = subprocess.run(
        [*COMMAND, "check", "--jsonl"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "negative serial number" in done.stdout
    assert done.stderr == ""
