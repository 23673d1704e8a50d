"""Start one of the node's two programs: ``python -m clients.edge_node nginx`` or ``… agent``.

``nginx`` becomes nginx in the foreground; ``agent`` runs the agent.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import NoReturn

from clients.edge_node.agent import run_agent
from clients.edge_node.nginx.process import NginxError
from clients.edge_node.nginx_program import exec_nginx
from clients.edge_node.settings import NginxSettings, NodeSettings
from shared.errors import EdgetlsError, SettingsError
from shared.faults import describe_unexpected
from shared.hardening import forbid_dumps
from shared.observability import logs
from shared.settings import load

EXIT_SETTINGS = 2


def run(arguments: list[str]) -> NoReturn:
    """Run the program that ``arguments`` names, and exit.

    Exits 2 with one line when a setting is wrong or nginx cannot run here, and 1 with one line
    when another error ended the program."""
    program = arguments[0] if len(arguments) == 1 else ""
    try:
        # Both programs hold keys in memory: no core dumps, and new files are for the owner alone.
        forbid_dumps()
        os.umask(0o077)
        if program == "nginx":
            exec_nginx(load(NginxSettings).layout())
        elif program == "agent":
            settings = load(NodeSettings)
            logs.setup(settings.user, settings.log_level)
            asyncio.run(run_agent(settings))
        else:
            raise SettingsError("say which program: nginx or agent")
    except (SettingsError, NginxError) as error:
        _exit_with(program, str(error), EXIT_SETTINGS)
    except EdgetlsError as error:
        _exit_with(program, str(error), 1)
    except OSError as error:
        _exit_with(program, f"{error.filename or 'the machine'}: {error.strerror}", EXIT_SETTINGS)
    except Exception as error:
        _exit_with(program, describe_unexpected(error), 1)
    sys.exit(0)


def _exit_with(program: str, text: str, code: int) -> NoReturn:
    sys.stderr.write(f"edgetls edge node {program}: {text}\n")
    sys.exit(code)


if __name__ == "__main__":
    run(sys.argv[1:])
