"""An origin of a single test: it answers each connection by a function of the test."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from clients.edge_node.nginx.entry import EntryOrigin

AnswerConnection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_origin(
    answer: AnswerConnection,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Listen while the block runs; give the port. A connection closes when ``answer`` returns."""
    writers: set[asyncio.StreamWriter] = set()

    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await answer(reader, writer)
        finally:
            writer.close()
            writers.discard(writer)

    server = await asyncio.start_server(answer_and_close, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def origin_at(port: int) -> EntryOrigin:
    return EntryOrigin(addresses=(f"127.0.0.1:{port}",))
