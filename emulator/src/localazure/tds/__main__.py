"""``python -m localazure.tds --home HOME``: the SQL pool's process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from pathlib import Path

from localazure.core.auth import Tokens
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.sql import logins
from localazure.sql.capacity import ONLINE, Capacity
from localazure.sql.lake_databases import LakeDatabases
from localazure.sql.pool import Pool
from localazure.sql.principals import Identity
from localazure.sql.serverless import Serverless
from localazure.storage.blobs import BlobStore
from localazure.tds.connection import Service
from localazure.tds.server import Server, tls_contexts

log = logging.getLogger("localazure.tds")

_WATCH_SECONDS = 1.0


def make_service(settings: Settings, pool: Pool, serverless: Serverless, tokens: Tokens) -> Service:
    """What the connections share, for one home."""
    classic, strict = tls_contexts(settings.server_certificate, settings.server_key)

    def identity_of(token: str) -> Identity:
        """The workspace's service principal is its Entra administrator; others are who their token says."""
        found = tokens.verify(token, "sql")
        name = str(found.claims.get("upn") or found.claims.get("unique_name") or found.subject)
        return Identity(name, administrator=found.subject == tokens.object_id, external=True)

    def sign_in(name: str, password: str, at_serverless: bool) -> Identity | None:
        return logins.sign_in(serverless.master if at_serverless else pool.master_pool, name, password)

    return Service(
        database=settings.sql_database,
        login=settings.sql_login,
        password=settings.sql_password,
        sts_url=f"{settings.api_url}/{settings.tenant_id}",
        tls=classic,
        strict_tls=strict,
        verify_token=identity_of,
        open_session=pool.session,
        serverless=serverless.session,
        sign_in=sign_in,
    )


async def serve(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT."""
    blobs = BlobStore(settings)
    pool, serverless = Pool(settings, blobs), Serverless(settings, blobs)
    store = Store(settings.store_file)
    pool.capacity = Capacity(store, settings.sql_database)
    lake = LakeDatabases(store, serverless)
    await asyncio.to_thread(lake.synchronise)
    server = Server(make_service(settings, pool, serverless, Tokens(settings)))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        port = await server.start(settings.tds_port, settings.bind_host)
        await server.start(settings.serverless_port, settings.bind_host, serverless=True)
        log.info(
            "TDS on %s:%s, database %s; serverless on :%s",
            settings.bind_host,
            port,
            settings.sql_database,
            settings.serverless_port,
        )
        await _until(stop, pool, lake)
    finally:
        await server.close()
        pool.close()
        serverless.close()
        store.close()


async def _until(stop: asyncio.Event, pool: Pool, lake: LakeDatabases) -> None:
    """Wait; about once a second tell how many requests run, end the sessions of a pool that went offline, and show
    what Spark made meanwhile, which on Azure takes seconds as well.
    """
    told = -1
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _WATCH_SECONDS)
        await asyncio.to_thread(lake.synchronise)
        active = pool.engine.requests.active()
        if active != told:
            told = active
            pool.capacity.report(active)
        if pool.capacity.status != ONLINE:
            for session in list(pool.engine.sessions.values()):
                if session.pool is pool:
                    session.disconnect()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m localazure.tds", description=__doc__)
    parser.add_argument(
        "--home",
        type=Path,
        help="home folder; default $LOCALAZURE_HOME or var/localazure",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(Settings.load(arguments.home)))


if __name__ == "__main__":
    main()
