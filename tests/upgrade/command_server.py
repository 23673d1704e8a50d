"""``python -P command_server.py``: runs ``edgetls`` commands one after the other, for whichever
release is on its path.

Each line of stdin is a JSON list of words; each answer is a JSON object with ``code``, ``out`` and
``err``. A process for each command would spend most of the test's time on imports.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

from clients.cli.main import run


def run_command(words: list[str]) -> dict[str, object]:
    """Run one command as its console script does."""
    sys.argv = ["edgetls", *words]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run()
            code: object = 0
        except SystemExit as ended:
            code = ended.code or 0
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def main() -> None:
    """Answer until the end of stdin."""
    answers = sys.stdout
    for line in sys.stdin:
        answers.write(json.dumps(run_command(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
