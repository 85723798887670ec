"""The Synapse service: what it answers, and its life."""

from __future__ import annotations

import logging
from dataclasses import replace

from starlette.requests import Request

from localazure.core.auth import Identity, Tokens
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.synapse.batches import Batches
from localazure.synapse.capacity import Capacity
from localazure.synapse.drivers import Drivers
from localazure.synapse.identities import SparkIdentities
from localazure.synapse.lake_databases import LakeDatabases
from localazure.synapse.livy_sessions import LivySessions
from localazure.synapse.notebooks import Notebooks
from localazure.synapse.pools import Pools
from localazure.synapse.runs import Runs
from localazure.synapse.sessions import Sessions
from localazure.synapse.spark_job_definitions import SparkJobDefinitions
from localazure.synapse.sql_pools import SqlPools

log = logging.getLogger(__name__)


class Synapse:
    """The development endpoint's service (`localazure.core.service.Service`)."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        warm: int = 1,
        *,
        sql_pools: SqlPools | None = None,
        blobs: BlobStore | None = None,
    ) -> None:
        # One session stands by for all pools, as long as the home's own pool says.
        self._sessions = Sessions(settings, store, warm, lambda: self._pools.idle_seconds(settings.spark_pool))
        self._notebooks = Notebooks(settings, store)
        self._pools = Pools(settings, store)
        self._capacity = Capacity(self._pools.extent)
        self._pools.watch(lambda _pool: self._capacity.serve())
        drivers = Drivers(settings, blobs or BlobStore(settings))
        self._batches = Batches(settings, store, drivers, self._pools, self._capacity)
        self._livy_sessions = LivySessions(settings, store, drivers, self._pools, self._capacity)
        self._pools.is_used = self._capacity.is_used
        self._definitions = SparkJobDefinitions(settings, store, self._pools, self._batches)
        self._sql_pools = sql_pools
        self._identities = SparkIdentities(Tokens(settings))
        self._lake_databases = LakeDatabases(settings, store, Tokens(settings))
        self._runs = Runs(settings, store, self._notebooks, self._pools, self._sessions, capacity=self._capacity)

    def operations(self) -> list[Operation]:
        """The implemented operations; any other of the endpoint is refused by method and path (`core.registry`)."""
        found = [*self._notebooks.operations(), *self._runs.operations()]
        woken = [replace(each, handler=self._waking(each.handler)) if each.audience else each for each in found]
        more = self._sql_pools.operations() if self._sql_pools else []
        livy = [*self._batches.operations(), *self._livy_sessions.operations(), *self._definitions.operations()]
        own = [*self._identities.operations(), *self._lake_databases.operations()]
        return [*woken, *self._pools.operations(), *livy, *own, *more]

    def _waking(self, handler: Handler) -> Handler:
        """Whoever talks to the endpoint is likely to run a notebook: the session that stands by is brought up."""

        async def woken(request: Request, identity: Identity) -> Answer:
            self._sessions.keep_warm()
            return await handler(request, identity)

        return woken

    async def start(self) -> None:
        """Fail the runs of an earlier life. No session is started before somebody asks for something."""
        if lost := self._runs.recover():
            log.warning("%d notebook run(s) were active when localazure ended; they are Failed now", lost)
        if lost := self._batches.recover():
            log.warning("%d Livy batch(es) were active when localazure ended; they are dead now", lost)
        if lost := self._livy_sessions.recover():
            log.warning("%d Livy session(s) were active when localazure ended; they are dead now", lost)
        self._notebooks.forget_operations()
        if self._sql_pools is not None:
            self._sql_pools.recover()
        await self._sessions.tidy()

    async def stop(self) -> None:
        """End runs and sessions."""
        if self._sql_pools is not None:
            await self._sql_pools.stop()
        self._sessions.start_no_more()
        await self._runs.stop()
        await self._batches.stop()
        await self._livy_sessions.stop()
        await self._sessions.stop()
