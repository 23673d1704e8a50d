"""A real nginx of the wheel in its own folder, an origin beside it, and connections to it."""

import asyncio
import hashlib
import ssl
from dataclasses import replace
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from clients.edge_node.nginx import process
from clients.edge_node.nginx.dataplane import DataPlane, DataPlaneError
from clients.edge_node.nginx.entry import EntryOrigin, KeyType, NginxEntry, PemPair
from clients.edge_node.nginx_program import prepare_node
from clients.edge_node.usage.logs import UsageLogs
from deploy.embedded.launch import base_environment
from deploy.embedded.supervisor import ProcessSpec
from tests.support.browser import HttpConnection, HttpResponse, OriginServer
from tests.support.service_process import ServiceProcess
from tests.support.waiting import until

CA = trustme.CA()
_KEY_TYPES = {"rsa": trustme.KeyType.RSA, "ecdsa": trustme.KeyType.ECDSA}


def issue_pair(*names: str, key_type: KeyType = "ecdsa", ca: trustme.CA = CA) -> PemPair:
    """Issue a pair for the names; its chain holds the issuing intermediate if ``ca`` is one."""
    issued = ca.issue_cert(*names, key_type=_KEY_TYPES[key_type])
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return chain.decode(), issued.private_key_pem.bytes().decode(), key_type


def fingerprint_of(pair: PemPair) -> str:
    leaf = x509.load_pem_x509_certificate(pair[0].encode())
    return hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest()


class NginxNode:
    """A node's nginx with its data plane, its usage logs and an origin."""

    def __init__(self, layout: process.NginxLayout, origin: OriginServer) -> None:
        self.layout = layout
        self.origin = origin
        command = tuple(process.nginx_command(layout))
        self.nginx = ServiceProcess(
            ProcessSpec("nginx", command, base_environment(), layout.folder), layout.folder
        )

    @property
    def pid(self) -> int:
        """The pid of nginx's master process."""
        assert self.nginx.pid is not None, "nginx is down"
        return self.nginx.pid

    @property
    def data_plane(self) -> DataPlane:
        return DataPlane(self.layout.run_folder)

    @property
    def usage_logs(self) -> UsageLogs:
        return UsageLogs(self.layout.folder / "usage")

    async def start(self) -> None:
        await asyncio.to_thread(prepare_node, self.layout)
        await self.nginx.start()

        async def is_up() -> bool:
            assert self.nginx.pid is not None, "nginx ended at its start"
            try:
                return bool(await self.data_plane.boot_id())
            except DataPlaneError:
                return False

        await until(is_up, "nginx answers on its control socket", every=0.005)

    async def stop(self) -> None:
        await self.nginx.stop()

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
        return await HttpConnection.connect("127.0.0.1", self.layout.https_port, sni, context)

    async def connect_http(self) -> HttpConnection:
        return await HttpConnection.connect("127.0.0.1", self.layout.http_port)

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
