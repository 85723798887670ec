"""The listener, one `Connection` a client."""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
from pathlib import Path

from localazure.tds.channel import Channel
from localazure.tds.connection import Connection, Service
from localazure.tds.rows import warm_up

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


def tls_contexts(certificate: Path, key: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(for TDS 7.x, for TDS 8.0).

    TDS 7.x stops at TLS 1.2: a 1.3 server sends tickets after the handshake, for which [MS-TDS] has no place.
    TDS 8.0 negotiates its own name by ALPN: https://learn.microsoft.com/en-us/sql/relational-databases/security/networking/tds-8
    """
    classic = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    classic.minimum_version = classic.maximum_version = ssl.TLSVersion.TLSv1_2
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strict.minimum_version = ssl.TLSVersion.TLSv1_2
    strict.set_alpn_protocols(["tds/8.0"])
    for context in (classic, strict):
        context.load_cert_chain(certificate, key)
    return classic, strict


class Server:
    """Accepts clients until `close`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, port: int, host: str = LOOPBACK, *, serverless: bool = False) -> int:
        """Listen; the port (another one than asked for when that was 0). May be called again for another port.

        serverless: who connects here means the serverless pool, whatever name it gives the server.
        """
        await asyncio.get_running_loop().run_in_executor(None, warm_up)
        accept = functools.partial(self._accept, serverless)
        server = await asyncio.start_server(accept, host, port, backlog=256)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _accept(self, serverless: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")[:2]
        channel = Channel(reader, writer)
        if len(self._clients) >= self._service.limits.connections:
            # Before log-in there is no way to say why in TDS; a closed socket is what a full server shows.
            log.warning("refused %s:%s: %s connections are open", host, port, len(self._clients))
            channel.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await Connection(self._service, channel, f"{host}:{port}", serverless=serverless).serve()
        finally:
            self._clients.discard(task)

    async def close(self) -> None:
        """Stop listening and end every client's connection."""
        for server in self._servers:
            server.close()
        clients = set(self._clients)
        for task in clients:
            task.cancel()
        if clients:
            await asyncio.wait(clients, timeout=10)
