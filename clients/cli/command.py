"""What every command shares: the options of the connection, ``--json``, and the exit codes."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from decimal import InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import structlog
import typer
from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup

from clients.cli.output import ExitCode, Output
from clients.cli.profile import DEFAULT_DATA, Profile, Role
from clients.platform import Platform, connect
from clients.platform.connection import PlatformConnection
from shared.errors import EdgetlsError, Refused, SettingsError
from shared.observability.logs import Stderr

P = ParamSpec("P")
_PANEL: Final = "Connection"
_INTERRUPTED: Final = 130
_LONGEST_MESSAGE: Final = 300


class Context(typer.Context):
    """What a command gets besides its own arguments, from the options that all commands share."""

    profile: Profile
    account: str
    timeout: float
    output: Output

    @asynccontextmanager
    async def platform(self, role: Role = "platform") -> AsyncIterator[Platform]:
        """Connect to the platform as the user of ``role``."""
        login = self.profile.find_login(role)
        async with await connect(
            login.url,
            login.seed_file,
            login.submission_key,
            user=login.user,
            timeout=self.timeout,
            ca_file=login.ca_file,
            source=f"edgetls-{login.user}",
        ) as platform:
            yield platform

    @asynccontextmanager
    async def connection(self, role: Role) -> AsyncIterator[PlatformConnection]:
        """Connect without the submission key, which only submissions need."""
        login = self.profile.find_login(role)
        connection = await PlatformConnection.open(
            login.url, login.seed_file, login.user, self.timeout, login.ca_file
        )
        try:
            yield connection
        finally:
            await connection.close()


Action = Callable[Concatenate[Context, P], Coroutine[Any, Any, None]]


def _check_finite(seconds: float) -> float:
    """Refuse NaN and infinity: a wait has an end."""
    if not math.isfinite(seconds):
        raise typer.BadParameter("not a number of seconds")
    return seconds


def read_shared_options(
    context: Context,
    data: Annotated[
        Path,
        typer.Option(
            envvar="EDGETLS_DATA", help="Data folder of 'edgetls up'.", rich_help_panel=_PANEL
        ),
    ] = DEFAULT_DATA,
    nats_url: Annotated[
        str | None,
        typer.Option(
            envvar="EDGETLS_NATS_URL",
            help="Broker of another platform: nats://host:port.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    nats_ca_file: Annotated[
        Path | None,
        typer.Option(
            envvar="EDGETLS_NATS_CA_FILE",
            help="CAs of the broker's certificate, in PEM.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    seed_file: Annotated[
        Path | None,
        typer.Option(
            envvar="EDGETLS_NATS_SEED_FILE",
            help="nkey seed of the NATS user.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    submission_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="EDGETLS_SUBMISSION_KEY_FILE",
            help="Public key to seal keys to.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    fleet_file: Annotated[
        Path | None,
        typer.Option(
            envvar="EDGETLS_FLEET_FILE",
            help="The operator's fleet file.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            envvar="EDGETLS_NATS_USER",
            help="NATS user of the seed file.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    account: Annotated[
        str,
        typer.Option(
            envvar="EDGETLS_ACCOUNT", help="The customer's account.", rich_help_panel=_PANEL
        ),
    ] = "demo",
    patience: Annotated[
        float,
        typer.Option(
            envvar="EDGETLS_PATIENCE",
            help="Seconds to keep trying.",
            rich_help_panel=_PANEL,
            min=0.1,
            callback=_check_finite,
        ),
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
) -> None:
    """Put the options that every command has into its context."""
    context.profile = Profile(
        data=data,
        nats_url=nats_url,
        nats_ca_file=nats_ca_file,
        seed_file=seed_file,
        submission_key_file=submission_key_file,
        fleet_file=fleet_file,
        user=user,
    )
    context.account = account
    context.timeout = patience
    context.output = Output(as_json)


def _build_shared_command() -> Any:
    app = typer.Typer(add_completion=False)
    app.command()(read_shared_options)
    return typer.main.get_command(app)


# How a command comes to the shared options without naming them: typer turns the function above into
# a command, as any other. Its parameters are added to each PlatformCommand, so that --help shows
# them and the parser reads them. Before the command's own function runs, ``invoke`` takes their
# values out again and passes them to the function above, which fills the Context.
_SHARED: Final = _build_shared_command()


class PlatformCommand(TyperCommand):
    """A command with the shared options."""

    context_class = Context

    def __init__(self, *, params: list[Any], **attributes: Any) -> None:
        super().__init__(params=[*params, *_SHARED.params], **attributes)

    def invoke(self, ctx: Any) -> Any:
        """Fill the context, then run the command."""
        _fill_context(ctx)
        return super().invoke(ctx)


class PlatformGroup(TyperGroup):
    """A command with the shared options, and with other commands under it."""

    context_class = Context

    def __init__(self, *, params: list[Any], **attributes: Any) -> None:
        super().__init__(params=[*params, *_SHARED.params], **attributes)

    def invoke(self, ctx: Any) -> Any:
        """Fill the context, then run the command or the one under it."""
        _fill_context(ctx)
        return super().invoke(ctx)


def _fill_context(context: Context) -> None:
    values = {option.name: context.params.pop(option.name) for option in _SHARED.params}
    context.invoke(_SHARED.callback, **values)


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str]
) -> Callable[[Action[P]], Action[P]]:
    """Register an asynchronous function as the command ``name``.

    Its first argument is the Context, called ``context``; the others are its own arguments and
    options, as typer reads them."""

    def register(action: Action[P]) -> Action[P]:
        decorate = app.command(name, cls=PlatformCommand, epilog=format_examples(examples))
        decorate(_make_runner(action))
        return action

    return register


def add_group(
    app: typer.Typer, name: str, action: Action[P], *, examples: Sequence[str]
) -> typer.Typer:
    """Register a command that has others under it, and return what those are registered on.

    ``name`` alone runs ``action``."""
    group = typer.Typer(name=name, cls=PlatformGroup, invoke_without_command=True)
    group.callback(epilog=format_examples(examples))(_make_runner(action))
    app.add_typer(group)
    return group


def _make_runner(action: Action[P]) -> Callable[..., None]:
    """Return the synchronous function that typer calls; it has the signature of ``action``."""

    # Through ``wraps`` typer reads the parameters of ``action``, and passes the Context to the one
    # that is annotated with it.
    @functools.wraps(action)
    def run(context: Context, *args: P.args, **given: P.kwargs) -> None:
        # Of a group with one of its commands: that one runs instead.
        if context.invoked_subcommand is None:
            sys.exit(run_action(action(context, *args, **given), context.output))

    return run


def format_examples(examples: Sequence[str]) -> str:
    """Return the examples as the last part of a command's help."""
    lines = ["Examples:"]
    for example in examples:
        lines.append(f"  $ {example}")
    return "\n\n".join(lines)


def run_action(
    action: Coroutine[Any, Any, None], output: Output, *, errors_as_json: bool = True
) -> int:
    """Run a command to its end and return the exit code.

    Every error is one line for people, and JSON for programs unless ``errors_as_json`` is off."""
    # asyncio.run turns Ctrl-C into a cancellation, so that the command closes its connections, and
    # raises KeyboardInterrupt when it has ended.
    silence_logs()
    if not errors_as_json:
        output = Output(as_json=False)
    try:
        asyncio.run(action)
    except Refused as refused:
        output.data({"refusal": refused.findings})
        output.show_findings(refused.findings)
        return ExitCode.REFUSED
    except BrokenPipeError:
        # The reader has enough (``edgetls events | head``). What is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        message, code = _describe_error(error)
        output.show_error(message, code)
        return code
    return ExitCode.DONE


def _describe_error(error: Exception) -> tuple[str, ExitCode]:
    """Return the line that an error prints, and its exit code."""
    # The order counts: ValidationError is a ValueError, SettingsError an EdgetlsError.
    match error:
        case ValidationError():
            return _describe_invalid(error), ExitCode.USAGE
        case InvalidOperation():
            return "an amount is a decimal number, like 12.50", ExitCode.USAGE
        case SettingsError() | ValueError():
            return str(error), ExitCode.USAGE
        case EdgetlsError():
            return str(error), ExitCode.UNREACHABLE
        case OSError(filename=None):
            return f"{type(error).__name__}: {error.strerror or error}", ExitCode.UNREACHABLE
        case OSError():
            return f"{error.filename}: {error.strerror or error}", ExitCode.USAGE
    text = " ".join(str(error).split())[:_LONGEST_MESSAGE]
    return f"unexpected {type(error).__name__}: {text}", ExitCode.UNREACHABLE


def _describe_invalid(error: ValidationError) -> str:
    faults = []
    for fault in error.errors(include_input=False, include_url=False):
        place = ".".join(map(str, fault["loc"]))
        faults.append(f"{place}: {fault['msg']}")
    return "not valid: " + "; ".join(faults)


def silence_logs() -> None:
    """Keep the logs of libraries out of the output: errors only, and on stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=lambda *_: Stderr(),
    )
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr)
