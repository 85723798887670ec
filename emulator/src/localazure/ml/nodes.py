"""The nodes of computes: handed out in the order they were asked for, kept while idle, given up after that.

https://learn.microsoft.com/azure/machine-learning/how-to-create-attach-compute-cluster: a cluster grows from
`minNodeCount` to `maxNodeCount` as jobs need, and a node that is idle for `nodeIdleTimeBeforeScaleDown` leaves. A node
here is a right to run on this machine, there at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from localazure.core.store import Store
from localazure.executors.durations import seconds

COMPUTES = "ml.computes"
SERVERLESS = "serverless"  # what the SDK sends for no compute of the workspace's own
# Computes without a scale of their own: serverless, instances, clusters of Kubernetes.
_DEFAULT_NODES = 2
_DEFAULT_IDLE_SECONDS = 120.0


@dataclass
class Node:
    """One node. `job` is who holds it; `idle_since` (monotonic seconds) counts if nobody does."""

    id: str
    job: str | None
    idle_since: float = 0.0
    lost: bool = False


class Nodes:
    """A compute's nodes. First come, first served: a job that wants many isn't passed by jobs that want few.

    `size` is the most there can be, `minimum` the fewest. `idle_seconds` is how long an idle one stays; None: for ever.
    """

    def __init__(
        self,
        name: str,
        size: int,
        minimum: int = 0,
        idle_seconds: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.size = size
        self._name = name
        self._minimum = minimum
        self._idle_seconds = idle_seconds
        self._now = now
        self._ids = itertools.count(1)
        self._waiting: deque[tuple[int, str, asyncio.Future[None]]] = deque()
        self._nodes = [self._new(None) for _ in range(minimum)]

    @property
    def busy(self) -> int:
        """Nodes that jobs hold."""
        return sum(node.job is not None for node in self._nodes)

    @property
    def waiting(self) -> list[str]:
        """The jobs that wait, in their order."""
        return [job for _, job, _ in self._waiting]

    def present(self) -> list[Node]:
        """The nodes that are there: held ones, and idle ones whose time isn't over."""
        if self._idle_seconds is not None:
            oldest = self._now() - self._idle_seconds
            for node in [each for each in self._nodes if each.job is None and each.idle_since <= oldest]:
                if len(self._nodes) > self._minimum:
                    self._nodes.remove(node)
        while len(self._nodes) < min(self._minimum, self.size):
            self._nodes.append(self._new(None))
        return list(self._nodes)

    def would_wait(self, count: int) -> bool:
        """Whether `count` nodes aren't to be had at once."""
        return count > 0 and (bool(self._waiting) or self.busy + count > self.size)

    def scale(self, size: int, minimum: int, idle_seconds: float | None) -> None:
        """Another scale from now on. Jobs that run keep their nodes."""
        self.size, self._minimum, self._idle_seconds = size, minimum, idle_seconds
        for node in [each for each in self._nodes if each.job is None][: max(len(self._nodes) - size, 0)]:
            self._nodes.remove(node)
        self._hand_out()

    def lose(self, job: str) -> None:
        """The nodes of a job are taken away: preempted. They leave once the job has let go of them."""
        for node in self._nodes:
            node.lost = node.lost or node.job == job

    @asynccontextmanager
    async def held(self, count: int, job: str) -> AsyncIterator[None]:
        """`count` nodes, waited for and given back."""
        if self.would_wait(count):
            turn = asyncio.get_running_loop().create_future()
            entry = (count, job, turn)
            self._waiting.append(entry)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(job)  # handed out in the moment of the cancellation
                else:
                    with contextlib.suppress(ValueError):
                        self._waiting.remove(entry)
                    self._hand_out()
                raise
        else:
            self._take(count, job)
        try:
            yield
        finally:
            self._give_back(job)

    def _new(self, job: str | None) -> Node:
        digest = hashlib.sha256(f"{self._name} {next(self._ids)}".encode()).hexdigest()
        return Node(f"tvmps_{digest}_d", job, self._now())

    def _take(self, count: int, job: str) -> None:
        idle = [node for node in self.present() if node.job is None][:count]
        for node in idle:
            node.job = job
        self._nodes += [self._new(job) for _ in range(count - len(idle))]

    def _give_back(self, job: str) -> None:
        self._nodes = [node for node in self._nodes if not (node.job == job and node.lost)]
        for node in self._nodes:
            if node.job == job:
                node.job, node.idle_since = None, self._now()
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self.busy + self._waiting[0][0] <= self.size:
            count, job, turn = self._waiting.popleft()
            if not turn.done():
                self._take(count, job)
                turn.set_result(None)


class ComputeNodes:
    """The nodes of every compute, by its name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of: dict[str, Nodes] = {}

    def of(self, compute_id: str | None) -> Nodes:
        """The nodes of a compute, given its ARM id or name; None is serverless."""
        name = (compute_id or SERVERLESS).rpartition("/")[2]
        if name not in self._of:
            size, minimum, idle = self._scale(name)
            self._of[name] = Nodes(name, size, minimum, idle)
        return self._of[name]

    def changed(self, name: str) -> None:
        """The compute's document was written: its scale counts from now on."""
        if name in self._of:
            self._of[name].scale(*self._scale(name))

    def removed(self, name: str) -> None:
        """The compute is gone."""
        self._of.pop(name, None)

    def _scale(self, name: str) -> tuple[int, int, float | None]:
        document: dict[str, Any] = self._store.get(COMPUTES, name) or {}
        properties = document.get("properties", {})
        if properties.get("computeType") != "AmlCompute":
            return _DEFAULT_NODES, 0, 0.0
        scale = properties.get("properties", {}).get("scaleSettings") or {}
        idle = seconds(scale.get("nodeIdleTimeBeforeScaleDown"), "nodeIdleTimeBeforeScaleDown")
        most = scale.get("maxNodeCount")
        return (
            _DEFAULT_NODES if most is None else int(most),
            int(scale.get("minNodeCount") or 0),
            _DEFAULT_IDLE_SECONDS if idle is None else idle,
        )
