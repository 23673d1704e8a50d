"""Put domains into the running nginx and remove them, over its control sockets, without a reload.

nginx keeps two dictionaries, since its stream and http sides share no memory: entries (http) and
TLS policies (stream, which rejects unknown names). The data plane keeps them in step. A domain
that opens gets its policy last, a domain that closes loses its policy first: so a visitor is never
sent to a policy server that has no certificate for it.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clients.edge_node.nginx.entry import NginxEntry
from shared.errors import EdgetlsError

_ENTRIES_CHUNK_BYTES = 4 * 1024 * 1024
# A command must fit into the socket's buffer (208 KiB, overhead included), since nginx only peeks
# at it.
_POLICIES_CHUNK_BYTES = 48 * 1024
# A pool's name has up to seven addresses of 33 bytes.
_POOL_BYTES = 320
_NAMES_PER_REQUEST = 500
_Item = TypeVar("_Item")
_Pools = dict[str, object]
"""The origin of each pool of kept connections, as `conf/resolver.js` reads it."""


class DataPlaneError(EdgetlsError):
    """A control socket gave no answer, or an unexpected one. The message holds no key, no PEM."""


@dataclass(frozen=True)
class ZoneUsage:
    """The entry dictionary: number of entries, bytes of whole free pages."""

    entries: int
    free_bytes: int


class DataPlane:
    """The control sockets of one node's nginx, in ``run_folder``.

    Every method raises DataPlaneError when nginx is away."""

    def __init__(self, run_folder: Path, timeout: float = 5.0) -> None:
        self._folder = run_folder
        self._timeout = timeout

    async def put_many(self, entries: Iterable[NginxEntry]) -> dict[str, str]:
        """Put entries, each whole; where one is refused, what was served before stays.

        Return the refused names with the reason (a full zone); empty when all are in place."""
        closing = []
        opening = []
        for entry in entries:
            if entry.kind == "https":
                opening.append(entry)
            else:
                closing.append(entry)
        # Closing: policy first, then entry. Opening: entry first, then policy, and none for an
        # entry that was refused. The pools of their origins go with the policies.
        refused = await self._put_policies(closing, {})
        not_closed, pools = await self._put_entries(closing)
        not_opened, more_pools = await self._put_entries(opening)
        put = [entry for entry in opening if entry.name not in not_opened]
        refused |= not_closed | not_opened
        return refused | await self._put_policies(put, pools | more_pools)

    async def remove_many(self, names: Iterable[str]) -> None:
        """Remove names from both dictionaries. A name that is not there is no error."""
        for chunk in _chunks(sorted(names), lambda name: len(name) + 4, _POLICIES_CHUNK_BYTES):
            await self._send_policies({"put": {}, "remove": chunk, "pools": {}})
            await self._post("/remove", chunk)

    async def names_and_revisions(self) -> dict[str, int]:
        """Return every name in the entry dictionary with the revision that it holds."""
        names: list[str] = await self._post("/names", [])
        found: dict[str, int] = {}
        for start in range(0, len(names), _NAMES_PER_REQUEST):
            found |= await self._post("/revisions", names[start : start + _NAMES_PER_REQUEST])
        return found

    async def boot_id(self) -> str:
        """Return an id that lasts as long as the dictionaries.

        A new id means that they are empty and must be refilled."""
        return str((await self._post("/state", []))["boot"])

    async def zone_usage(self) -> ZoneUsage:
        """Return how full the entry dictionary is."""
        state = await self._post("/state", [])
        return ZoneUsage(entries=state["entries"], free_bytes=state["free"])

    async def _put_entries(self, entries: list[NginxEntry]) -> tuple[dict[str, str], _Pools]:
        """Return the refused names with the reason, and the pools of the origins."""
        refused: dict[str, str] = {}
        pools: _Pools = {}
        items = ((entry.name, entry.to_value()) for entry in entries)
        for chunk in _chunks(items, lambda item: len(item[1]) * 5 // 4, _ENTRIES_CHUNK_BYTES):
            answer = await self._post("/put", chunk)
            refused |= answer["refused"]
            pools |= answer["pools"]
        return refused, pools

    async def _put_policies(self, entries: list[NginxEntry], pools: _Pools) -> dict[str, str]:
        """Tell the stream side the policies of entries, and the origins of pools."""
        items: list[tuple[str, str, object]] = []
        items.extend(("put", entry.name, entry.policy) for entry in entries)
        items.extend(("pools", pool, origin) for pool, origin in pools.items())
        refused: dict[str, str] = {}
        for chunk in _chunks(items, _stream_item_size, _POLICIES_CHUNK_BYTES):
            command: dict[str, dict[str, object]] = {"put": {}, "pools": {}}
            for kind, name, value in chunk:
                command[kind][name] = value
            answer = await self._send_policies({**command, "remove": []})
            refused |= answer["refused"]
        return refused

    async def _post(self, path: str, body: object) -> Any:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.0\r\nHost: control\r\nContent-Length: {len(data)}\r\n\r\n"
        answer = await self._exchange("control.sock", head.encode() + data)
        status_line, _, rest = answer.partition(b"\r\n")
        if b" 200 " not in status_line + b" ":
            status = status_line.decode("ascii", "replace") or "no answer"
            raise DataPlaneError(f"nginx refused {path}: {status}")
        return _decode_answer(rest.partition(b"\r\n\r\n")[2], path)

    async def _send_policies(self, command: dict[str, object]) -> dict[str, dict[str, str]]:
        line = json.dumps(command).encode() + b"\n"
        answer = _decode_answer(await self._exchange("policy-control.sock", line), "policies")
        if not isinstance(answer, dict) or "refused" not in answer:
            raise DataPlaneError("nginx refused a change of policies")
        return answer

    async def _exchange(self, socket_name: str, request: bytes) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await _send_and_receive(self._folder, socket_name, request)
        except TimeoutError:
            raise DataPlaneError(f"{socket_name} did not answer within {self._timeout} s") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DataPlaneError(f"{socket_name} is not reachable: {reason}") from None


async def _send_and_receive(folder: Path, socket_name: str, request: bytes) -> bytes:
    # A unix address holds 108 bytes. Through a descriptor of the folder the address is short,
    # however deep the folder is.
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, f"/proc/self/fd/{descriptor}/{socket_name}")
        finally:
            os.close(descriptor)
        await loop.sock_sendall(connection, request)
        return await _read_to_end(connection)


async def _read_to_end(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := await asyncio.get_running_loop().sock_recv(connection, 256 * 1024):
            received += data
    except ConnectionResetError:
        # The stream side only peeks at a command, so its socket closes with unread bytes: a reset
        # comes after the answer.
        if not received:
            raise
    return received


def _decode_answer(body: bytes, request: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise DataPlaneError(f"nginx gave no complete answer to {request}") from None


def _stream_item_size(item: tuple[str, str, object]) -> int:
    kind, name, _ = item
    return len(name) + (_POOL_BYTES if kind == "pools" else 32)


def _chunks(
    items: Iterable[_Item], size: Callable[[_Item], int], limit: int
) -> Iterator[list[_Item]]:
    """Group items so that the sizes in a group add up to ``limit`` at most.

    An item that is larger than ``limit`` gets a group of its own."""
    group: list[_Item] = []
    total = 0
    for item in items:
        if group and total + size(item) > limit:
            yield group
            group = []
            total = 0
        group.append(item)
        total += size(item)
    if group:
        yield group
