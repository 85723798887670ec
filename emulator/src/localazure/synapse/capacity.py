"""How much of a Spark pool is in use, and who waits for a place.

A pool has nodes of one size; a job takes the cores and memory of its driver and executors from the moment it is
scheduled until it has ended. What exceeds the pool is refused; what doesn't fit at the moment waits in order (batches,
notebook runs) or is refused (interactive sessions), as
https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-concepts#examples has it. The limits of running
and waiting jobs are https://learn.microsoft.com/rest/api/synapse/concurrency-limits-spark-pools.

Besides, this machine runs `PLACES` Spark processes at a time whatever the pools would allow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from localazure.core.errors import AzureError, BadRequest

PLACES = 4
QUEUED = 200


@dataclass(frozen=True)
class Size:
    """What a job asks for. Memory in megabytes."""

    driver_cores: int
    driver_mb: int
    executor_cores: int
    executor_mb: int
    executors: int

    @property
    def vcores(self) -> int:
        return self.driver_cores + self.executor_cores * self.executors

    @property
    def megabytes(self) -> int:
        return self.driver_mb + self.executor_mb * self.executors


@dataclass(frozen=True)
class Extent:
    """What a pool has: the most nodes it may grow to, and a node's cores and memory (megabytes)."""

    pool: str
    nodes: int
    node_vcores: int
    node_mb: int

    @property
    def vcores(self) -> int:
        return self.nodes * self.node_vcores

    @property
    def megabytes(self) -> int:
        return self.nodes * self.node_mb

    def check(self, size: Size, prefix: str = "") -> None:
        """Raise BadRequest for a job that this pool can never run, naming the field or the limit."""
        for kind, cores, megabytes in (
            ("driver", size.driver_cores, size.driver_mb),
            ("executor", size.executor_cores, size.executor_mb),
        ):
            if kind == "executor" and not size.executors:
                continue
            if cores > self.node_vcores:
                raise BadRequest(
                    f"The {kind} asks for {cores} vcores. A node of the pool '{self.pool}' has {self.node_vcores}.",
                    f"{prefix}{kind}Cores",
                    "InvalidHttpRequestToLivy",
                )
            if megabytes > self.node_mb:
                raise BadRequest(
                    f"The {kind} asks for {megabytes} MB of memory. A node of the pool '{self.pool}' has "
                    f"{self.node_mb} MB.",
                    f"{prefix}{kind}Memory",
                    "InvalidHttpRequestToLivy",
                )
        if size.vcores > self.vcores:
            # The service's words: https://github.com/MicrosoftDocs/azure-docs/issues/99978
            raise BadRequest(
                f"Your Spark job requested {size.vcores} vcores. However, the pool '{self.pool}' has a {self.vcores} "
                "core limit. Try reducing the numbers of vcores requested or increasing your vcore quota.",
                f"{prefix}numExecutors",
                "InvalidHttpRequestToLivy",
            )
        if size.megabytes > self.megabytes:
            raise BadRequest(
                f"Your Spark job requested {size.megabytes} MB of memory. However, the pool '{self.pool}' has "
                f"{self.megabytes} MB. Try reducing the memory requested or increasing the pool's nodes.",
                f"{prefix}executorMemory",
                "InvalidHttpRequestToLivy",
            )


@dataclass
class _Use:
    """A pool's jobs that have a place."""

    vcores: int = 0
    megabytes: int = 0


class Capacity:
    """The places of all pools. Belongs to one event loop."""

    def __init__(self, extent: Callable[[str], Extent]) -> None:
        self._extent = extent
        self._used: dict[str, _Use] = {}
        self._taken = 0
        self._waiting: dict[str, deque[tuple[Size, asyncio.Future[None]]]] = {}

    def check_queue(self, pool: str) -> None:
        """Raise AzureError 429 if no further job may wait for the pool."""
        if len(self._waiting.get(pool.lower(), ())) >= QUEUED:
            raise AzureError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "TooManyRequests",
                f"The Spark pool '{pool}' has {QUEUED} queued jobs, its limit. Try again when some have ended.",
                headers={"Retry-After": "10"},
            )

    def used_vcores(self, pool: str) -> int:
        """The cores of the jobs that have a place."""
        use = self._used.get(pool.lower())
        return use.vcores if use else 0

    def is_used(self, pool: str) -> bool:
        """Whether a job has a place or waits for one."""
        return bool(self.used_vcores(pool) or self._waiting.get(pool.lower()))

    def is_free(self, pool: str, size: Size) -> bool:
        """Whether a job would get its place at once."""
        return not self._waiting.get(pool.lower()) and self._fits(self._extent(pool), size)

    @asynccontextmanager
    async def place(self, pool: str, size: Size) -> AsyncIterator[None]:
        """Wait for a place (in order) and keep it."""
        if self.is_free(pool, size):
            self._take(pool, size)
        else:
            await self._wait(pool, size)
        try:
            yield
        finally:
            self._give_back(pool, size)

    def serve(self) -> None:
        """Give places to those who wait and fit by now. After a pool has changed as well: a job that can't fit any more
        gets the error instead.
        """
        for pool, waiting in self._waiting.items():
            while waiting:
                size, turn = waiting[0]
                if turn.done():  # given up, and not yet gone from the queue
                    waiting.popleft()
                    continue
                try:
                    extent = self._extent(pool)
                    extent.check(size)
                except AzureError as error:
                    waiting.popleft()
                    turn.set_exception(error)
                    continue
                if not self._fits(extent, size):
                    break
                waiting.popleft()
                self._take(pool, size)
                turn.set_result(None)

    async def _wait(self, pool: str, size: Size) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(pool.lower(), deque())
        waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if (size, turn) in waiting:
                waiting.remove((size, turn))
                self.serve()  # who stood behind may fit
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                # The place came in the same moment.
                self._give_back(pool, size)
            raise

    def _take(self, pool: str, size: Size) -> None:
        use = self._used.setdefault(pool.lower(), _Use())
        use.vcores += size.vcores
        use.megabytes += size.megabytes
        self._taken += 1

    def _give_back(self, pool: str, size: Size) -> None:
        use = self._used[pool.lower()]
        use.vcores -= size.vcores
        use.megabytes -= size.megabytes
        self._taken -= 1
        self.serve()

    def _fits(self, extent: Extent, size: Size) -> bool:
        use = self._used.get(extent.pool.lower(), _Use())
        return (
            self._taken < PLACES
            and use.vcores + size.vcores <= extent.vcores
            and use.megabytes + size.megabytes <= extent.megabytes
        )
