"""Lines for the offline check: sound pairs, each with one to three random changes by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from services.validator.text import pem as pem_text
from tests.support.pki import NOW, Authority, ec_key, pkcs1, rsa_key, sec1

Request = dict[str, Any]
DOMAIN = "www.example.com"
LETTERS = "AZaz09+/=\n\r-: \u00e9\ufeff\x00"
BITS = [
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n",
    "\r\n",
    "\n\n",
    "Proc-Type: 4,ENCRYPTED\n",
    "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    "\ufeff",
    "\x00",
]


def mutate_requests(count: int, seed: int = 1) -> Iterator[bytes]:
    chance = random.Random(seed)
    sound = _sound()
    for number in range(count):
        request = {**chance.choice(sound), "id": number}
        for _ in range(chance.randint(1, 3)):
            chance.choice(_CHANGES)(request, chance, sound)
        yield json.dumps(request).encode()


def _sound() -> list[Request]:
    root = Authority.create("Mutant Root")
    upper = root.intermediate("Upper")
    deep = upper.intermediate("Lower")
    rsa = Authority.create("RSA Root", key=rsa_key(2048, 2))
    leaves = [
        (root, upper.issue([DOMAIN])),
        (root, deep.issue([DOMAIN, "*.example.org"])),
        (root, root.issue([DOMAIN])),
        (rsa, rsa.intermediate("RSA CA", key=rsa_key(2048, 3)).issue([DOMAIN], key=rsa_key())),
    ]
    requests = [(top, leaf.chain_pem, leaf.key_pem) for top, leaf in leaves]
    requests.append((root, leaves[0][1].chain_pem, sec1(leaves[0][1].key, with_parameters=True)))
    requests.append((rsa, leaves[3][1].chain_pem, pkcs1(leaves[3][1].key)))
    return [
        {
            "certificate": chain,
            "private_key": key,
            "domain": DOMAIN,
            "at": NOW.isoformat(),
            "roots": top.pem,
        }
        for top, chain, key in requests
    ]


def _field(chance: random.Random) -> str:
    return chance.choice(["certificate", "private_key"])


def _letter(request: Request, chance: random.Random, _: list[Request]) -> None:
    name = _field(chance)
    text = str(request[name]) or "x"
    at = chance.randrange(len(text))
    request[name] = text[:at] + chance.choice(LETTERS) + text[at + chance.randint(0, 1) :]


def _body(request: Request, chance: random.Random, _: list[Request]) -> None:
    """Change bytes of the DER form, and encode it as PEM again."""
    name = _field(chance)
    blocks = pem_text.tokenise(str(request[name])).blocks
    if not blocks:
        return
    victim = chance.randrange(len(blocks))
    parts = []
    for index, block in enumerate(blocks):
        body = bytearray(block.body or b"\x30\x00")
        if index == victim:
            for _ in range(chance.randint(1, 3)):
                at = chance.randrange(len(body))
                body[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
                body = body or bytearray(b"\x30")
        parts.append(pem_text.encode_block(block.label, bytes(body)))
    request[name] = "".join(parts)


def _blocks(request: Request, chance: random.Random, _: list[Request]) -> None:
    """Shuffle the blocks, drop one, repeat one, or change a label."""
    name = _field(chance)
    parts = [
        pem_text.encode_block(b.label, b.body)
        for b in pem_text.tokenise(str(request[name])).blocks
        if b.body
    ]
    if not parts:
        return
    match chance.randrange(4):
        case 0:
            chance.shuffle(parts)
        case 1:
            parts.pop(chance.randrange(len(parts)))
        case 2:
            parts.append(chance.choice(parts))
        case _:
            parts[0] = (
                parts[0]
                .replace("CERTIFICATE", "X509 CERTIFICATE")
                .replace("PRIVATE KEY", "RSA PRIVATE KEY")
            )
    request[name] = "".join(parts)


def _piece(request: Request, chance: random.Random, _: list[Request]) -> None:
    name = _field(chance)
    text = str(request[name])
    at = chance.randint(0, len(text))
    request[name] = text[:at] + chance.choice(BITS) + text[at:]


def _cut(request: Request, chance: random.Random, _: list[Request]) -> None:
    name = _field(chance)
    text = str(request[name])
    start = chance.randint(0, len(text))
    request[name] = text[:start] + text[chance.randint(start, len(text)) :]


def _other(request: Request, chance: random.Random, sound: list[Request]) -> None:
    """Take a part of another pair."""
    name = chance.choice(["certificate", "private_key", "roots"])
    request[name] = chance.choice(sound)[name]


def _joined(request: Request, chance: random.Random, sound: list[Request]) -> None:
    name = _field(chance)
    request[name] = str(request[name]) + str(
        chance.choice(sound)[chance.choice(["certificate", "private_key"])]
    )


def _time(request: Request, chance: random.Random, _: list[Request]) -> None:
    request["at"] = (NOW + timedelta(days=chance.randint(-5000, 5000))).isoformat()


def _domain(request: Request, chance: random.Random, _: list[Request]) -> None:
    names = ["example.com", "a.example.org", "*.example.org", "b\u00fccher.example", "..", ""]
    request["domain"] = chance.choice(names)


def _strict(request: Request, _: random.Random, __: list[Request]) -> None:
    request["strict"] = True


def _kind(request: Request, chance: random.Random, _: list[Request]) -> None:
    """Set a field to a value of another type, or to none."""
    name = chance.choice(["certificate", "private_key", "domain", "at", "roots"])
    request[name] = chance.choice([None, 5, [], {}, True, "x"])


def _new_key(request: Request, _: random.Random, __: list[Request]) -> None:
    request["private_key"] = sec1(ec_key())


_CHANGES: list[Callable[[Request, random.Random, list[Request]], None]] = [
    _letter,
    _letter,
    _letter,
    _body,
    _body,
    _body,
    _body,
    _blocks,
    _blocks,
    _piece,
    _piece,
    _cut,
    _cut,
    _other,
    _joined,
    _time,
    _domain,
    _strict,
    _kind,
    _new_key,
]
