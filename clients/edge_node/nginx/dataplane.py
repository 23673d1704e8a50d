"""Client of the node's control sockets: what the agent tells nginx to serve, without a reload.

Two dictionaries are kept in step, since nginx's stream and http sides share no memory: entries
(http) and TLS policies (stream, which turns away what it does not know). A domain opens at the
policies last and closes there first, so that a visitor is never sent to a policy server that has no
certificate for it.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clients.edge_node.nginx.entry import Entry
from shared.errors import EdgetlsError

_ENTRIES_CHUNK = 4 * 1024 * 1024
# The order must fit into the socket's buffer (208 KiB, overhead included), since nginx only peeks
# at it.
_POLICIES_CHUNK = 48 * 1024
_NAMES_CHUNK = 500
_Item = TypeVar("_Item")


class DataPlaneError(EdgetlsError):
    """The control socket did not answer, or not as expected. The message holds no key and no
    PEM."""


@dataclass(frozen=True)
class ZoneUsage:
    """The entry dictionary: entries held, bytes of whole free pages."""

    entries: int
    free_bytes: int


class DataPlane:
    """One node's control sockets, in `run_folder`. Every method raises DataPlaneError when nginx is
    away."""

    def __init__(self, run_folder: Path, timeout: float = 5.0) -> None:
        self._folder = run_folder
        self._timeout = timeout

    async def put_many(self, entries: Iterable[Entry]) -> dict[str, str]:
        """Puts entries, each whole; what was served before stays where one is refused.

        Returns the refused names with the reason (a full zone): an empty dict means that all are in
        place.
        """
        entries = list(entries)
        closing = [entry for entry in entries if entry.kind != "https"]
        opening = [entry for entry in entries if entry.kind == "https"]
        refused = await self._put_policies(closing)
        refused |= await self._put_entries(closing)
        kept_out = await self._put_entries(opening)
        refused |= kept_out
        return refused | await self._put_policies(
            [entry for entry in opening if entry.name not in kept_out]
        )

    async def remove_many(self, names: Iterable[str]) -> None:
        """Removes names from both dictionaries; a name that is not there is no error."""
        for some in _chunks(sorted(names), lambda name: len(name) + 4, _POLICIES_CHUNK):
            await self._order_policies({"put": {}, "remove": some})
            await self._post("/remove", some)

    async def names_and_revisions(self) -> dict[str, int]:
        """Every name in the entry dictionary with the revision it holds."""
        names: list[str] = await self._post("/names", [])
        found: dict[str, int] = {}
        for start in range(0, len(names), _NAMES_CHUNK):
            found |= await self._post("/revisions", names[start : start + _NAMES_CHUNK])
        return found

    async def boot_id(self) -> str:
        """An id that lasts as long as the dictionaries: a new one means that they are empty and
        must be refilled."""
        return str((await self._post("/state", []))["boot"])

    async def zone_usage(self) -> ZoneUsage:
        """How full the entry dictionary is."""
        state = await self._post("/state", [])
        return ZoneUsage(state["entries"], state["free"])

    async def _put_entries(self, entries: list[Entry]) -> dict[str, str]:
        refused: dict[str, str] = {}
        items = ((entry.name, entry.to_value()) for entry in entries)
        for some in _chunks(items, lambda item: len(item[1]) * 5 // 4, _ENTRIES_CHUNK):
            refused |= (await self._post("/put", some))["refused"]
        return refused

    async def _put_policies(self, entries: list[Entry]) -> dict[str, str]:
        refused: dict[str, str] = {}
        items = ((entry.name, entry.policy) for entry in entries)
        for some in _chunks(items, lambda item: len(item[0]) + 32, _POLICIES_CHUNK):
            refused |= (await self._order_policies({"put": dict(some), "remove": []}))["refused"]
        return refused

    async def _post(self, path: str, body: object) -> Any:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.0\r\nHost: control\r\nContent-Length: {len(data)}\r\n\r\n"
        answer = await self._exchange("control.sock", head.encode() + data)
        status_line, _, rest = answer.partition(b"\r\n")
        if b" 200 " not in status_line + b" ":
            raise DataPlaneError(
                f"nginx refused {path}: {status_line.decode('ascii', 'replace') or 'no answer'}"
            )
        return _decode(rest.partition(b"\r\n\r\n")[2], path)

    async def _order_policies(self, order: dict[str, object]) -> dict[str, dict[str, str]]:
        answer = _decode(
            await self._exchange("policy-control.sock", json.dumps(order).encode() + b"\n"),
            "policies",
        )
        if not isinstance(answer, dict) or "refused" not in answer:
            raise DataPlaneError("nginx refused an order of policies")
        return answer

    async def _exchange(self, name: str, request: bytes) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await _round_trip(self._folder, name, request)
        except TimeoutError:
            raise DataPlaneError(f"{name} did not answer within {self._timeout} s") from None
        except OSError as error:
            raise DataPlaneError(
                f"{name} is not reachable: {error.strerror or type(error).__name__}"
            ) from None


async def _round_trip(folder: Path, name: str, request: bytes) -> bytes:
    # A unix address holds 108 bytes. By way of a descriptor of the folder it is short, however deep
    # the folder is.
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, f"/proc/self/fd/{descriptor}/{name}")
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
        # The stream side only peeks at an order, so its socket closes with unread bytes: a reset,
        # after the answer.
        if not received:
            raise
    return received


def _decode(body: bytes, what: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise DataPlaneError(f"nginx gave no whole answer to {what}") from None


def _chunks(
    items: Iterable[_Item], size: Callable[[_Item], int], limit: int
) -> Iterator[list[_Item]]:
    """Groups items so that the sizes of a group sum up to `limit` at most (or it has one item)."""
    group: list[_Item] = []
    total = 0
    for item in items:
        if group and total + size(item) > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield group
