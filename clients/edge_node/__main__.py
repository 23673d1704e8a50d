"""``python -m clients.edge_node nginx``: becomes nginx, in the foreground. ``… agent``: the
agent."""

from __future__ import annotations

import asyncio
import sys
from typing import NoReturn

from clients.edge_node.agent import serve
from clients.edge_node.hardening import no_dumps
from clients.edge_node.nginx.process import NginxError, exec_nginx
from clients.edge_node.settings import NginxSettings, NodeSettings
from shared.errors import EdgetlsError, SettingsError
from shared.faults import describe_unexpected
from shared.observability import logs
from shared.settings import load

EXIT_SETTINGS = 2


def run(arguments: list[str]) -> NoReturn:
    """Exits 2 with one line when a setting is at fault or nginx cannot run here, 1 when something
    else ended it."""
    program = arguments[0] if len(arguments) == 1 else ""
    try:
        no_dumps()
        if program == "nginx":
            exec_nginx(load(NginxSettings).layout())
        elif program == "agent":
            _agent()
        else:
            raise SettingsError("say which program: nginx or agent")
    except (SettingsError, NginxError) as error:
        _end(program, str(error), EXIT_SETTINGS)
    except EdgetlsError as error:
        _end(program, str(error), 1)
    except OSError as error:
        _end(program, f"{error.filename or 'the machine'}: {error.strerror}", EXIT_SETTINGS)
    except Exception as error:
        _end(program, describe_unexpected(error), 1)
    sys.exit(0)


def _agent() -> None:
    settings = load(NodeSettings)
    logs.setup(settings.user, settings.log_level)
    asyncio.run(serve(settings))


def _end(program: str, text: str, code: int) -> NoReturn:
    sys.stderr.write(f"edgetls edge node {program}: {text}\n")
    sys.exit(code)


if __name__ == "__main__":
    run(sys.argv[1:])
