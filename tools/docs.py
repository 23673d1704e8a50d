"""Generates docs/asyncapi/<service>.json, docs/findings.md and docs/settings.md: ``python -m
tools.docs [--check]``.

``--check`` writes nothing and exits 1 when a document differs from the code."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from shared import catalogue, subjects
from shared.catalogue_row import Direction, Query, Subject
from shared.contracts.base import Contract
from shared.contracts.findings import Code, Refusal
from tools import settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PARAMETERS = {
    "node": "The node's id: lower-case letters, digits and hyphens.",
    "key": "The domain's labels reversed, * as _wildcard: com.example.www.",
}
CE_HEADERS = {
    "ce-specversion": {"type": "string", "const": "1.0"},
    "ce-id": {"type": "string", "description": "Id of the message; of a command, its command id."},
    "ce-type": {"type": "string", "description": "The versioned subject, without a node's id."},
    "ce-source": {"type": "string", "description": "Who sends."},
    "ce-subject": {"type": "string", "description": "The domain or account that it is about."},
    "ce-time": {"type": "string", "format": "date-time"},
    "ce-causationid": {
        "type": "string",
        "description": "ce-id of the message that caused this one.",
    },
    "traceparent": {"type": "string", "description": "W3C trace context."},
    "Nats-Msg-Id": {
        "type": "string",
        "description": "ce-id, a colon and 16 hex digits of the body's SHA-256.",
    },
}
_LOGIN = (
    "An nkey (Ed25519) of its own for each user: the server sends a nonce, the client signs "
    "it. A user's rights are in "
    "shared/topology.py."
)
REQUIRED_HEADERS = ["ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time"]


def main(arguments: list[str]) -> int:
    wanted = {
        DOCS / "asyncapi" / f"{name}.json": _text(asyncapi(name)) for name in subjects.SERVICES
    }
    wanted[DOCS / "findings.md"] = findings()
    wanted[DOCS / "settings.md"] = settings.page()
    drifted = [
        path for path, text in wanted.items() if not path.exists() or path.read_text() != text
    ]
    if "--check" in arguments:
        for path in drifted:
            sys.stdout.write(f"{path.relative_to(ROOT)} differs from the code: run make docs\n")
        return 1 if drifted else 0
    for path in drifted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 0


def asyncapi(service: str) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of one service: what it receives and sends, replies and headers
    included."""
    rows = list(catalogue.directions_of(service))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    models: set[type[Contract]] = {Refusal}
    for _, row in rows:
        models.add(row.body)
        if row.signed is not None:
            models.add(row.signed)
        if isinstance(row, Query):
            models.add(row.answer)
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    document: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"edgetls {service}",
            "version": version,
            "description": __import__(f"services.{service}", fromlist=["__doc__"]).__doc__ or "",
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "nats:4222",
                "protocol": "nats",
                "security": [{"type": "asymmetricEncryption", "description": _LOGIN}],
            }
        },
        "channels": {},
        "operations": {},
        "components": {"messages": {}, "schemas": schemas["$defs"]},
    }
    for direction, row in rows:
        _add(document, direction, row)
    return document


def _add(document: dict[str, Any], direction: Direction, row: Subject) -> None:
    name = _channel_name(row)
    message = _message(document, row.body, row)
    channel: dict[str, Any] = {
        "address": row.address,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }
    parameters = {}
    for parameter, text in PARAMETERS.items():
        if f"{{{parameter}}}" in row.address:
            parameters[parameter] = {"description": text}
    if parameters:
        channel["parameters"] = parameters
    document["channels"][name] = channel
    operation: dict[str, Any] = {
        "action": direction,
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": _summary(row),
        "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
    }
    if isinstance(row, Query):
        operation["reply"] = _reply(document, name, row)
    document["operations"][f"{direction}-{name}"] = operation


def _reply(document: dict[str, Any], name: str, query: Query[Any, Any]) -> dict[str, Any]:
    answers = [_message(document, model, None) for model in (query.answer, Refusal)]
    reply = f"{name}-reply"
    document["channels"][reply] = {
        "address": None,
        "messages": {answer: {"$ref": f"#/components/messages/{answer}"} for answer in answers},
    }
    return {
        "address": {"location": "$message.header#/reply", "description": "The asker's own inbox."},
        "channel": {"$ref": f"#/channels/{reply}"},
        "messages": [{"$ref": f"#/channels/{reply}/messages/{answer}"} for answer in answers],
    }


def _message(document: dict[str, Any], model: type[Contract], row: Subject | None) -> str:
    name = model.__name__
    signed = row.signed if row is not None else None
    if signed is not None:
        name = f"Signed{signed.__name__}"
    payload: dict[str, Any] = {"$ref": f"#/components/schemas/{model.__name__}"}
    message: dict[str, Any] = {"name": name, "contentType": "application/json", "payload": payload}
    if signed is not None:
        message["summary"] = f"The JSON text of a {signed.__name__} in `payload`, signed."
        message["payload"] = {
            "allOf": [payload],
            "properties": {
                "payload": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"$ref": f"#/components/schemas/{signed.__name__}"},
                }
            },
        }
    if row is not None and row.cloud_event:
        message["headers"] = {
            "type": "object",
            "properties": CE_HEADERS,
            "required": REQUIRED_HEADERS,
        }
    document["components"]["messages"].setdefault(name, message)
    return name


def _channel_name(row: Subject) -> str:
    words = row.address.replace("{", "").replace("}", "").split(".")
    return "-".join(word for word in words if word not in ("https", "v1"))


def _summary(row: Subject) -> str:
    """Return the first paragraph of the docstring of the body's class, on one line."""
    model = row.signed or row.body
    paragraph = (model.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`") or row.body.__name__


def findings() -> str:
    """docs/findings.md from the enum."""
    head = [
        "# Findings",
        "",
        "Made from the code by `make docs`. A program branches on the code; the sentence is for",
        "people. `refusal` stops a command, `warning` and `notice` do not (`strict` makes "
        "notices refusals).",
        "",
    ]
    columns = ("code", "severity", "what happened", "for example", "how to fix it")
    rows = (
        (f"`{code.value}`", code.severity.value, code.sentence, code.example, code.hint)
        for code in Code
    )
    return "\n".join([*head, settings.table(columns, rows)])


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
