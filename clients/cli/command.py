"""What all commands share: the connection's options, ``--json``, and how an exception becomes an
exit code."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec, cast

import structlog
import typer
from pydantic import ValidationError

from clients.cli.output import Exit, Out
from clients.cli.profile import DEFAULT_DATA, Place, Role
from clients.platform import Platform, connect
from clients.platform.connection import Reach
from shared.errors import EdgetlsError, Refused, SettingsError
from shared.observability.logs import Stderr

P = ParamSpec("P")
Action = Callable[Concatenate["Link", P], Coroutine[Any, Any, None]]
_PANEL: Final = "Connection"
_INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Link:
    """What a command gets besides its own arguments."""

    place: Place
    account: str
    patience: float
    out: Out

    @asynccontextmanager
    async def platform(self, role: Role = "platform") -> AsyncIterator[Platform]:
        login = self.place.login(role)
        async with await connect(
            login.url,
            login.seed_file,
            login.submission_key,
            user=login.user,
            patience=self.patience,
            ca_file=login.ca_file,
            source=f"edgetls-{login.user}",
        ) as platform:
            yield platform

    @asynccontextmanager
    async def reach(self, role: Role) -> AsyncIterator[Reach]:
        """The bare connection, for what is the operator's alone."""
        login = self.place.login(role)
        reach = await Reach.open(
            login.url, login.seed_file, login.user, self.patience, login.ca_file
        )
        try:
            yield reach
        finally:
            await reach.close()


def _option(
    name: str, kind: Any, default: Any, env: str, text: str, **others: Any
) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    info = typer.Option(
        flag,
        envvar=env,
        help=text,
        rich_help_panel=_PANEL,
        show_default=default is not None,
        **others,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def _finite(seconds: float) -> float:
    """Neither NaN nor endless: a wait has an end."""
    if not math.isfinite(seconds):
        raise typer.BadParameter("not a number of seconds")
    return seconds


_CONNECTION: Final = (
    _option("data", Path, DEFAULT_DATA, "EDGETLS_DATA", "Data folder of 'edgetls up'."),
    _option(
        "nats_url",
        str | None,
        None,
        "EDGETLS_NATS_URL",
        "Broker of another platform: nats://host:port.",
    ),
    _option(
        "nats_ca_file",
        Path | None,
        None,
        "EDGETLS_NATS_CA_FILE",
        "CAs of the broker's certificate, in PEM.",
    ),
    _option(
        "seed_file", Path | None, None, "EDGETLS_NATS_SEED_FILE", "nkey seed of the NATS user."
    ),
    _option(
        "submission_key_file",
        Path | None,
        None,
        "EDGETLS_SUBMISSION_KEY_FILE",
        "Public key to seal keys to.",
    ),
    _option("fleet_file", Path | None, None, "EDGETLS_FLEET_FILE", "The operator's fleet file."),
    _option("user", str | None, None, "EDGETLS_NATS_USER", "NATS user of the seed file."),
    _option("account", str, "demo", "EDGETLS_ACCOUNT", "The customer's account."),
    _option(
        "patience",
        float,
        10.0,
        "EDGETLS_PATIENCE",
        "Seconds to keep trying.",
        min=0.1,
        callback=_finite,
    ),
)
_JSON: Final = inspect.Parameter(
    "as_json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")],
)


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str]
) -> Callable[[Action[P]], Action[P]]:
    """Registers an asynchronous function as ``name``; its first argument is the Link, the others
    are typer's."""

    def register(action: Action[P]) -> Action[P]:
        own = list(inspect.signature(action, eval_str=True).parameters.values())[1:]

        def run(**given: Any) -> None:
            _run(action, given)

        expose(run, [*own, *_CONNECTION, _JSON], action)
        app.command(name, epilog=epilog(examples))(run)
        return action

    return register


def group(
    app: typer.Typer, name: str, action: Action[P], *, examples: Sequence[str]
) -> typer.Typer:
    """A command that has others under it: ``name`` alone runs ``action``; the others register on
    what this returns."""
    own = list(inspect.signature(action, eval_str=True).parameters.values())[1:]
    under = typer.Typer(name=name, invoke_without_command=True)

    def run(ctx: typer.Context, **given: Any) -> None:
        if ctx.invoked_subcommand is None:
            _run(action, given)

    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    expose(run, [context, *own, *_CONNECTION, _JSON], action)
    under.callback(epilog=epilog(examples))(run)
    app.add_typer(under)
    return under


def _run(action: Callable[..., Any], given: dict[str, Any]) -> None:
    place = Place(**{key: given.pop(key) for key in Place.__dataclass_fields__})
    link = Link(place, given.pop("account"), given.pop("patience"), Out(given.pop("as_json")))
    sys.exit(
        run_action(cast(Callable[..., Coroutine[Any, Any, None]], action)(link, **given), link.out)
    )


def expose(
    function: Callable[..., Any], parameters: Sequence[inspect.Parameter], like: Callable[..., Any]
) -> None:
    """Gives ``function`` the parameters that typer reads, and the name and help of ``like``."""
    ordered = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    function.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in ordered}
    function.__name__, function.__doc__ = like.__name__, like.__doc__


def epilog(examples: Sequence[str]) -> str:
    return "\n\n".join(("Examples:", *(f"  $ {example}" for example in examples)))


def run_action(action: Coroutine[Any, Any, None], out: Out, *, errors_as_json: bool = True) -> int:
    """Runs it to its end; the exit code. Every fault is one line for people, and JSON for
    programs."""
    quiet_logs()
    if not errors_as_json:
        out = Out(as_json=False)
    try:
        asyncio.run(action)
    except Refused as refused:
        out.data({"refusal": refused.findings})
        out.findings(refused.findings)
        return Exit.REFUSED
    except ValidationError as error:
        out.fault(_invalid(error), Exit.USAGE)
        return Exit.USAGE
    except InvalidOperation:
        out.fault("an amount is a decimal number, like 12.50", Exit.USAGE)
        return Exit.USAGE
    except (SettingsError, ValueError) as error:
        out.fault(str(error), Exit.USAGE)
        return Exit.USAGE
    except EdgetlsError as error:
        out.fault(str(error), Exit.UNREACHABLE)
        return Exit.UNREACHABLE
    except BrokenPipeError:
        # Whoever read has enough (``edgetls events | head``); what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except OSError as error:
        code = Exit.UNREACHABLE if error.filename is None else Exit.USAGE
        out.fault(f"{error.filename or type(error).__name__}: {error.strerror or error}", code)
        return code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        out.fault(
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            Exit.UNREACHABLE,
        )
        return Exit.UNREACHABLE
    return Exit.DONE


def quiet_logs() -> None:
    """Libraries' logs would mix with the output: errors only, and on stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=lambda *_: Stderr(),
    )
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)


def _invalid(error: ValidationError) -> str:
    faults = error.errors(include_input=False, include_url=False)
    return "not valid: " + "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults
    )
