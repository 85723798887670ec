"""The storage account: Azurite's blob service, a client for it, and the addresses that lead into it."""

from __future__ import annotations

import asyncio

from localazure.core.registry import Operation
from localazure.core.service import Service, ServiceContext
from localazure.storage.blobs import BlobStore
from localazure.storage.locations import DATASTORE_CONTAINERS

_WAIT_SECONDS = 60.0


def build(context: ServiceContext) -> Service:
    """The storage service. Its wire protocol is Azurite's own; here are only the containers that must be there."""
    return _Storage(context.blobs, context.settings.container)


class _Storage:
    def __init__(self, blobs: BlobStore, container: str) -> None:
        self._blobs = blobs
        self._containers = sorted({container, *DATASTORE_CONTAINERS.values()})

    def operations(self) -> list[Operation]:
        return []

    async def start(self) -> None:
        await asyncio.to_thread(self._blobs.wait_until_ready, _WAIT_SECONDS)
        for container in self._containers:
            await asyncio.to_thread(self._blobs.create_container, container)

    async def stop(self) -> None:
        self._blobs.close()
