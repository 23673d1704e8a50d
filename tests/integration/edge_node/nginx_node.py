"""A real nginx of the wheel in its own folder, an origin beside it, and connections to it."""

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from clients.edge_node.nginx import process
from clients.edge_node.nginx.dataplane import DataPlane, DataPlaneError
from clients.edge_node.nginx.entry import EntryOrigin, KeyType, NginxEntry, PemPair
from clients.edge_node.nginx_program import prepare_node
from clients.edge_node.usage.logs import UsageLogs
from tests.support.waiting import until

CA = trustme.CA()
_KEY_TYPES = {"rsa": trustme.KeyType.RSA, "ecdsa": trustme.KeyType.ECDSA}


@dataclass(frozen=True)
class HttpResponse:
    """A response. ``size``: bytes on the wire, head and body."""

    status: int
    headers: dict[str, str]
    body: bytes
    size: int


@dataclass(frozen=True)
class OriginRequest:
    line: str
    headers: dict[str, str]


def issue_pair(*names: str, key_type: KeyType = "ecdsa", ca: trustme.CA = CA) -> PemPair:
    """Issue a pair for the names; its chain holds the issuing intermediate if ``ca`` is one."""
    issued = ca.issue_cert(*names, key_type=_KEY_TYPES[key_type])
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return chain.decode(), issued.private_key_pem.bytes().decode(), key_type


def fingerprint_of(pair: PemPair) -> str:
    leaf = x509.load_pem_x509_certificate(pair[0].encode())
    return hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest()


class OriginServer:
    """Answers every request with ``answer`` and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[OriginRequest] = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._answer_requests, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    async def _answer_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                line, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
                self.requests.append(OriginRequest(line, headers))
                await reader.readexactly(int(headers.get("content-length", 0)))
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class HttpConnection:
    """One HTTP/1.1 connection to the node, kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def tls(self) -> ssl.SSLObject:
        found: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return found

    async def get(
        self, host: str, path: str = "/", method: str = "GET", **headers: str
    ) -> HttpResponse:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return await self.send_raw("\r\n".join([*lines, "", ""]).encode())

    async def send_raw(self, raw: bytes) -> HttpResponse:
        """Send the bytes of a request and return its response."""
        self._writer.write(raw)
        head = await self._reader.readuntil(b"\r\n\r\n")
        line, headers = _parse_head(head)
        if "content-length" in headers:
            body = await self._reader.readexactly(int(headers["content-length"]))
        else:
            body = await self._reader.read(-1)
        return HttpResponse(int(line.split()[1]), headers, body, len(head) + len(body))

    async def exchange_bytes(self, raw: bytes, until_seen: Callable[[bytes], bool]) -> bytes:
        """Send bytes that are not HTTP/1.1; return what arrives until ``until_seen`` accepts it."""
        self._writer.write(raw)
        received = b""
        async with asyncio.timeout(5):
            while not until_seen(received):
                data = await self._reader.read(65536)
                if not data:
                    break
                received += data
        return received

    async def __aenter__(self) -> "HttpConnection":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()


@dataclass
class NginxNode:
    """A node's nginx with its data plane, its usage logs and an origin."""

    layout: process.NginxLayout
    origin: OriginServer
    process: asyncio.subprocess.Process | None = field(default=None)

    @property
    def data_plane(self) -> DataPlane:
        return DataPlane(self.layout.run_folder)

    @property
    def usage_logs(self) -> UsageLogs:
        return UsageLogs(self.layout.folder / "usage")

    async def start(self) -> None:
        await asyncio.to_thread(prepare_node, self.layout)
        self.process = await asyncio.create_subprocess_exec(
            *process.nginx_command(self.layout),
            cwd=self.layout.folder,
            stdin=asyncio.subprocess.DEVNULL,
        )

        async def is_up() -> bool:
            assert self.process is not None
            assert self.process.returncode is None, "nginx ended at its start"
            try:
                return bool(await self.data_plane.boot_id())
            except DataPlaneError:
                return False

        await until(is_up, "nginx answers on its control socket", every=0.005)

    async def stop(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    def reopen_logs(self) -> None:
        process.reopen_logs(self.layout)

    async def wait_until_final(self, log_id: str) -> int:
        """Return the length of a rotated log with content, once no nginx has it open."""
        length = await until(lambda: self.usage_logs.final_length(log_id), f"log {log_id} is final")
        assert length
        return length

    async def put_entries(self, *entries: NginxEntry) -> None:
        """Put entries; those without an origin get this node's origin."""
        here = EntryOrigin(addresses=(f"127.0.0.1:{self.origin.port}",))
        filled = [
            entry if entry.origin != EntryOrigin() else replace(entry, origin=here)
            for entry in entries
        ]
        assert await self.data_plane.put_many(filled) == {}

    async def connect_https(self, sni: str, **options: Any) -> HttpConnection:
        context = client_context(**options)
        return HttpConnection(
            *await asyncio.open_connection(
                "127.0.0.1", self.layout.https_port, ssl=context, server_hostname=sni
            )
        )

    async def connect_http(self) -> HttpConnection:
        return HttpConnection(*await asyncio.open_connection("127.0.0.1", self.layout.http_port))

    async def get_https(
        self, sni: str, host: str | None = None, path: str = "/", **headers: str
    ) -> HttpResponse:
        async with await self.connect_https(sni) as visitor:
            return await visitor.get(host or sni, path, **headers)

    async def get_http(self, host: str, path: str = "/", **headers: str) -> HttpResponse:
        async with await self.connect_http() as visitor:
            return await visitor.get(host, path, **headers)


def https_entry(name: str, *pairs: PemPair, revision: int = 1, **settings: Any) -> NginxEntry:
    """Return an https entry; without a pair it gets a new ECDSA one."""
    return NginxEntry(name, revision, "https", pairs or (issue_pair(name),), **settings)


def client_context(
    alpn: tuple[str, ...] = (),
    version: ssl.TLSVersion | None = None,
    ciphers: str = "ALL:@SECLEVEL=0",
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    context.check_hostname = False
    context.set_ciphers(ciphers)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version is not None:
        context.maximum_version = version
    return context


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    line, *fields = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (item.split(":", 1) for item in fields)
    return line, {name.lower(): value.strip() for name, value in pairs}
