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
from localazure.sql.capacity import ONLINE, Capacity
from localazure.sql.pool import Pool
from localazure.sql.serverless import Serverless
from localazure.storage.blobs import BlobStore
from localazure.tds.connection import Service
from localazure.tds.server import Server, tls_contexts

log = logging.getLogger("localazure.tds")

_WATCH_SECONDS = 1.0


def make_service(settings: Settings, pool: Pool, serverless: Serverless, tokens: Tokens) -> Service:
    """What the connections share, for one home."""
    classic, strict = tls_contexts(settings.server_certificate, settings.server_key)

    def subject_of(token: str) -> str:
        return tokens.verify(token, "sql").subject

    return Service(
        database=settings.sql_database,
        login=settings.sql_login,
        password=settings.sql_password,
        sts_url=f"{settings.api_url}/{settings.tenant_id}",
        tls=classic,
        strict_tls=strict,
        verify_token=subject_of,
        open_session=pool.session,
        serverless=serverless.session,
    )


async def serve(settings: Settings) -> None:
    """Listen until SIGTERM or SIGINT."""
    blobs = BlobStore(settings)
    pool, serverless = Pool(settings, blobs), Serverless(settings, blobs)
    store = Store(settings.store_file)
    pool.capacity = Capacity(store, settings.sql_database)
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
        await _until(stop, pool)
    finally:
        await server.close()
        pool.close()
        serverless.close()
        store.close()


async def _until(stop: asyncio.Event, pool: Pool) -> None:
    """Wait; about once a second tell how many requests run, and end the sessions of a pool that went offline."""
    told = -1
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _WATCH_SECONDS)
        active = pool.engine.requests.active()
        if active != told:
            told = active
            pool.capacity.report(active)
        if pool.capacity.status != ONLINE:
            for session in list(pool.engine.sessions.values()):
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
