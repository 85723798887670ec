"""A server over the stand-in session, on a port of its own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from localazure.core.auth import Tokens
from localazure.settings import Settings
from localazure.sql.principals import Identity
from localazure.tds.connection import Limits, Service
from localazure.tds.server import Server, tls_contexts

sys.path.insert(0, str(Path(__file__).parent))

from raw_client import RawClient
from standin import StandIn

LIMITS = Limits(message=4 << 20, login_seconds=2.0, connections=60)


class Running:
    """A server in a thread, and how to reach it."""

    def __init__(self, service: Service, settings: Settings, tokens: Tokens) -> None:
        self.service = service
        self.settings = settings
        self.tokens = tokens
        self.loop = asyncio.new_event_loop()
        self.server = Server(service)
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self.server.start(0), self.loop).result(20)

    def client(self, **options: object) -> RawClient:
        """A logged-in raw client."""
        client = RawClient(self.port, ca=self.settings.ca_certificate)
        given = {"user": self.service.login, "password": self.service.password, "database": self.service.database}
        client.log_in(**(given | options))
        return client

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture(scope="session")
def running(certified: Settings, tokens: Tokens) -> Iterator[Running]:
    root = duckdb.connect()
    classic, strict = tls_contexts(certified.server_certificate, certified.server_key)
    service = Service(
        database="azflow",
        login="sqladmin",
        password="local-only~secret",
        sts_url="https://localhost:1/tenant",
        tls=classic,
        strict_tls=strict,
        verify_token=lambda token: Identity(tokens.verify(token, "sql").subject, administrator=True, external=True),
        open_session=lambda who, application, host, database: StandIn(root, who.name, application, host),
        limits=LIMITS,
    )
    server = Running(service, certified, tokens)
    yield server
    server.stop()
    root.close()
