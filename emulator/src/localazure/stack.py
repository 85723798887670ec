"""The composition root: the only module that knows every service.

It builds settings, store, blobs and tokens, hands them to the services, and serves what they answer as one application
over TLS. The other processes (Azurite, TDS, MLflow, Caddy) are `localazure.supervisor`'s.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.requests import Request

from localazure import __version__
from localazure.core import certificates
from localazure.core.auth import Identity, Tokens
from localazure.core.operations import LongRunning
from localazure.core.registry import Api, Operation
from localazure.core.service import Service, ServiceContext
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore

log = logging.getLogger(__name__)

# In this order they are built and started; they stop in reverse.
SERVICES = ("identity", "storage", "keyvault", "ml", "serving", "batch", "synapse")

_GRACE_SECONDS = 5
# Longer than clients keep an idle connection, so that none is closed under a request.
_KEEP_ALIVE_SECONDS = 75


@dataclass(frozen=True)
class Stack:
    """Every service, wired and not started."""

    context: ServiceContext
    services: dict[str, Service]
    operations: dict[str, list[Operation]]

    def api(self) -> Api:
        """The application. Its lifespan starts and stops the services."""
        return Api((operation for listed in self.operations.values() for operation in listed), self.context.tokens,
                   self._life)  # fmt: skip

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        if interrupted := self.context.long_running.recover():
            log.warning("%d operations were interrupted by the last stop; they are failed now", interrupted)
        started: list[str] = []
        try:
            for name, service in self.services.items():
                # Before the attempt: a service that fails half-way has something to stop as well.
                started.append(name)
                await service.start()
                log.info("%s is started", name)
            yield
        finally:
            for name in reversed(started):
                try:
                    await self.services[name].stop()
                except Exception:
                    # The others must be stopped all the same.
                    log.exception("%s could not be stopped", name)
            self.context.store.close()


def compose(settings: Settings) -> Stack:
    """Build every service of this home. Nothing is started."""
    store = Store(settings.store_file)
    context = ServiceContext(
        settings=settings,
        store=store,
        blobs=BlobStore(settings),
        tokens=Tokens(settings),
        long_running=LongRunning(store, settings),
    )
    services: dict[str, Service] = {}
    operations: dict[str, list[Operation]] = {"core": [*context.long_running.operations(), *_own(settings)]}
    for name in SERVICES:
        service: Service = importlib.import_module(f"localazure.{name}").build(context)
        services[name] = service
        operations[name] = service.operations()
    return Stack(context, services, operations)


def serve(settings: Settings) -> None:
    """Run the API until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # One line for every request of ours to Azurite and Caddy would drown the rest.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    certificates.ensure(settings)
    uvicorn.run(
        compose(settings).api(),
        host=settings.bind_host,
        port=settings.api_port,
        ssl_certfile=str(settings.server_certificate),
        ssl_keyfile=str(settings.server_key),
        log_config=None,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        lifespan="on",
    )


def coverage(stack: Stack) -> str:
    """Every operation localazure answers, as a Markdown table."""
    rows = ["| Service | Operation | Request |", "|---|---|---|"]
    for service, operations in stack.operations.items():
        rows += [
            f"| {service} | {operation.name} | `{operation.method} {operation.path}` |"
            for operation in sorted(operations, key=lambda operation: operation.name)
        ]
    return "\n".join(rows)


def _own(settings: Settings) -> list[Operation]:
    async def health(request: Request, identity: Identity) -> dict[str, str]:
        return {"status": "healthy", "version": __version__, "home": str(settings.home)}

    return [Operation("Health_Get", "GET", "/healthz", health, None)]
