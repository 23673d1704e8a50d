"""Run the validator.

``python -m services.validator`` runs the service, ``python -m services.validator check --jsonl``
judges offline.
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Run the service or the offline check; return the exit code, 2 for unknown arguments."""
    # The imports are here because the offline check needs none of the service's, and starts faster.
    if not arguments:
        from services.validator.app import run

        run()
        return 0
    if arguments == ["check", "--jsonl"]:
        return _check_lines()
    sys.stderr.write("usage: python -m services.validator [check --jsonl]\n")
    return 2


def _check_lines() -> int:
    from services.validator import offline
    from shared.clock import Clock
    from shared.hardening import forbid_dumps

    forbid_dumps()
    try:
        offline.run(sys.stdin.buffer, sys.stdout, Clock().now)
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
