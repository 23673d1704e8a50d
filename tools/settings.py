"""docs/settings.md, from the settings classes and the options of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Final, get_args

import typer
from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from clients.cli.main import command_line
from clients.edge_node.settings import NginxSettings, NodeSettings
from services.billing.settings import BillingSettings as Billing
from services.config.settings import ConfigSettings as Config
from services.edge_sync.settings import EdgeSyncSettings as EdgeSync
from services.validator.settings import ValidatorSettings as Validator
from shared.settings import ServiceSettings

_PROGRAMS: Final[tuple[tuple[str, type[BaseSettings], type[BaseSettings]], ...]] = (
    ("every service", ServiceSettings, BaseSettings),
    ("validator", Validator, ServiceSettings),
    ("config", Config, ServiceSettings),
    ("edge_sync", EdgeSync, ServiceSettings),
    ("billing", Billing, ServiceSettings),
    ("node: nginx and agent", NginxSettings, BaseSettings),
    ("node: agent", NodeSettings, NginxSettings),
)
"""Whose, the class, and the class whose settings are told elsewhere."""
_TYPES: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    SecretStr: "text, secret",
}
_HEAD: Final = """\
# Settings

Made from the code by `make docs`. Programs read their environment and nothing else. What has no
default must be set; a program without it, or with a wrong value, says which in one line and exits
with 2. Secrets are in files of their own, which only the program should be able to read.
"""
_UP: Final = """
`edgetls up` sets all of the above for what it starts. It uses what `EDGETLS_NATS_URL`,
`EDGETLS_CONFIG_DSN`, `EDGETLS_EDGE_SYNC_DSN`, `EDGETLS_BILLING_DSN`, `EDGETLS_FINANCE_DSN` and
`EDGETLS_TRUST_ROOTS_FILE` name instead of starting or making its own, and passes
`EDGETLS_LOG_LEVEL` on.
"""


def page() -> str:
    """The whole document. ValueError names a setting without a description."""
    return "\n".join(
        (
            _HEAD,
            "## Programs",
            table(("setting", "type", "default", "of", "what it is"), _programs()),
            _UP,
            "## Command line",
            "Of `edgetls`; each is also an option of the commands that use it.",
            "",
            table(("setting", "option", "default", "what it is"), _options()),
        )
    )


def _programs() -> list[tuple[str, ...]]:
    """One row a setting, however many programs have it."""
    whose: dict[tuple[str, str, str, str], list[str]] = {}
    for program, kind, known in _PROGRAMS:
        for name, field in kind.model_fields.items():
            if name not in known.model_fields:
                whose.setdefault(_described(kind, name, field), []).append(program)
    return [(*row[:3], ", ".join(programs), row[3]) for row, programs in whose.items()]


def _described(kind: type[BaseSettings], name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    if not field.description:
        raise ValueError(f"{kind.__module__}: {name} has no description")
    default = (
        "" if field.is_required() else "none" if field.default is None else _shown(field.default)
    )
    return (
        f"`{kind.model_config['env_prefix']}{name.upper()}`",
        _type(name, field),
        default,
        field.description,
    )


def _type(name: str, field: FieldInfo) -> str:
    """In words, with its bounds: ``whole number, 1 to 64``."""
    kind = next(
        (one for one in get_args(field.annotation) if one is not NoneType), field.annotation
    )
    if kind is Path:
        return "folder" if name.endswith("folder") else "file"
    words, least, most = _TYPES.get(kind, "text"), "", ""
    for bound in field.metadata:
        if isinstance(bound, Ge):
            least = f", {bound.ge} or more"
        elif isinstance(bound, Gt):
            least = f", above {bound.gt}"
        elif isinstance(bound, Le):
            most = f", at most {bound.le}"
    return words + least + most


def _options() -> list[tuple[str, ...]]:
    """Every option that the environment may give, once."""
    found = {}
    for command in _commands(typer.main.get_command(command_line())):
        for option in command.params:
            if option.envvar:
                default = "none" if option.default is None else _shown(option.default)
                text = getattr(option, "help", None) or ""
                found[str(option.envvar)] = (
                    f"`{option.envvar}`",
                    f"`{option.opts[0]}`",
                    default,
                    text,
                )
    return [found[name] for name in sorted(found)]


def _commands(one: Any) -> Iterator[Any]:
    """Of click, as typer packs it: the command, and those below it."""
    yield one
    for below in getattr(one, "commands", {}).values():
        yield from _commands(below)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
