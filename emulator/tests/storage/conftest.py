"""A real Azurite for the client's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import port_leases
import pytest

from localazure import supervisor
from localazure.executors import processes
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore


@pytest.fixture(scope="session")
def blobs(certified: Settings) -> Iterator[BlobStore]:
    settings = replace(certified, port_base=port_leases.lease())
    azurite = next(program for program in supervisor.programs(settings) if program.name == "azurite")
    (settings.home / "azurite").mkdir(exist_ok=True)
    process = processes.start(
        azurite.command(), env=os.environ | azurite.environment, cwd=settings.home, log=settings.logs / "azurite.log"
    )
    store = BlobStore(settings)
    try:
        store.wait_until_ready(30)
        store.create_container("lake")
        yield store
    finally:
        store.close()
        process.terminate()
