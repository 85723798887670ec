"""Azure Monitor for online endpoints: the metrics operations, and what is measured for them.

Requests come from the router's log, which is there after a restart; instances are looked at every few seconds while
localazure runs (proc(5): on Linux only).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.registry import Operation
from localazure.serving import metrics, resources
from localazure.serving.metrics import Metric, Query, Sample
from localazure.serving.servers import Fleet
from localazure.serving.traffic import KEPT_MINUTES, PERCENTILES, Log
from localazure.settings import Settings

_SECONDS = 60
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CLASSES = 100  # of status codes
_PERCENT = 100.0


class Deployments(Protocol):
    """What is needed of the service. `endpoint` and `deployment` are documents; both raise NotFound."""

    def endpoint_of(self, request: Request) -> Mapping[str, Any]: ...

    def deployment_of(self, request: Request) -> Mapping[str, Any]: ...

    def fleets(self) -> Mapping[str, Fleet]: ...

    def log_of(self, endpoint: str) -> Path: ...

    def collected(self) -> Mapping[tuple[int, str, str, bool], int]: ...


@dataclass
class _Means:
    """A minute of an instance: the sums of what was seen, and how often."""

    processor: float = 0.0
    memory: float = 0.0
    seen: int = 0
    processor_seen: int = 0


@dataclass
class _Before:
    """An instance's processor time when it was last looked at."""

    seconds: float
    at: float


@dataclass
class Monitor:
    """The operations, and the measurements behind them."""

    settings: Settings
    deployments: Deployments
    _logs: dict[str, Log] = field(default_factory=dict)
    _instances: dict[tuple[str, int, str], _Means] = field(default_factory=dict)
    _capacity: dict[tuple[str, int, str, str], int] = field(default_factory=dict)
    _before: dict[int, _Before] = field(default_factory=dict)
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def operations(self, endpoint: str, deployment: str) -> list[Operation]:
        """What is answered below the paths of endpoints and deployments."""
        below = "/providers/Microsoft.Insights"
        return [
            Operation("Metrics_List", "GET", f"{endpoint}{below}/metrics", self._endpoint, "arm"),
            Operation("MetricDefinitions_List", "GET", f"{endpoint}{below}/metricDefinitions", self._defined, "arm"),
            Operation("Metrics_List", "GET", f"{deployment}{below}/metrics", self._deployment, "arm"),
            Operation(
                "MetricDefinitions_List",
                "GET",
                f"{deployment}{below}/metricDefinitions",
                self._deployment_defined,
                "arm",
            ),
        ]

    async def look(self) -> None:
        """Read the logs on, and look at every instance. Called every few seconds."""
        fleets = self.deployments.fleets()
        for endpoint in {label.partition("/")[0] for label in fleets}:
            await self._read(endpoint)
        self._measure(fleets)

    async def asked(self, document: Mapping[str, Any], query: Query) -> Any:
        """The answer to a query about an endpoint or a deployment, by its document."""
        name = document["name"]
        if document["type"] == resources.DEPLOYMENT_TYPE:
            label = f"{document['id'].split('/')[-3]}/{name}"
            samples = {metric.name: list(self._measured(metric, label)) for metric in query.metrics}
        else:
            log = await self._read(name)
            samples = {metric.name: list(self._requests(metric, query, log, name)) for metric in query.metrics}
        return metrics.answer(query, document["id"], document["type"], self.settings.location, samples)

    def forget(self, endpoint: str) -> None:
        """An endpoint is deleted."""
        if log := self._logs.pop(endpoint, None):
            log.close()
        self._instances = {k: v for k, v in self._instances.items() if not k[0].startswith(f"{endpoint}/")}
        self._capacity = {k: v for k, v in self._capacity.items() if not k[0].startswith(f"{endpoint}/")}

    # Operations.

    async def _endpoint(self, request: Request, identity: Identity) -> Any:
        document = self.deployments.endpoint_of(request)
        query = Query.parse(request.query_params, metrics.ENDPOINT, resources.ENDPOINT_TYPE, datetime.now(UTC))
        return await self.asked(document, query)

    async def _deployment(self, request: Request, identity: Identity) -> Any:
        document = self.deployments.deployment_of(request)
        query = Query.parse(request.query_params, metrics.DEPLOYMENT, resources.DEPLOYMENT_TYPE, datetime.now(UTC))
        return await self.asked(document, query)

    async def _defined(self, request: Request, identity: Identity) -> Any:
        document = self.deployments.endpoint_of(request)
        return metrics.definitions(metrics.ENDPOINT, document["id"], resources.ENDPOINT_TYPE)

    async def _deployment_defined(self, request: Request, identity: Identity) -> Any:
        document = self.deployments.deployment_of(request)
        return metrics.definitions(metrics.DEPLOYMENT, document["id"], resources.DEPLOYMENT_TYPE)

    # Samples.

    def _requests(self, metric: Metric, query: Query, log: Log, endpoint: str) -> Iterator[Sample]:
        if metric.name.startswith("DataCollection"):
            yield from self._events(metric, endpoint)
            return
        for number, minute in log.minutes.items():
            if metric.name == "RequestsPerMinute":
                for outcome, count in minute.outcomes.items():
                    dimensions = {
                        "deployment": outcome.deployment,
                        "statusCode": str(outcome.status),
                        "statusCodeClass": f"{outcome.status // _CLASSES}xx",
                        "modelStatusCode": str(outcome.model_status),
                    }
                    yield Sample(number, dimensions, float(count))
            elif metric.name == "NetworkBytes":
                yield Sample(number, {}, minute.sent_bytes / _SECONDS)
            else:
                # Percentiles of all requests aren't made from those of the deployments.
                split = "deployment" in {*query.wanted, *query.excluded}
                names = {outcome.deployment for outcome in minute.outcomes} if split else {None}
                for name in names:
                    if found := minute.latency(name):
                        value = found.total / found.count
                        if metric.name != "RequestLatency":
                            value = found.percentiles[PERCENTILES.index(int(metric.name.rpartition("_P")[2]))]
                        yield Sample(number, {"deployment": name or ""}, value, found.count)

    def _events(self, metric: Metric, endpoint: str) -> Iterator[Sample]:
        wanted = metric.name == "DataCollectionErrorsPerMinute"
        for (minute, label, collection, dropped), count in self.deployments.collected().items():
            owner, _, deployment = label.partition("/")
            if owner == endpoint and dropped == wanted:
                yield Sample(minute, {"deployment": deployment, "type": collection, "reason": "refused"}, float(count))

    def _measured(self, metric: Metric, label: str) -> Iterator[Sample]:
        if metric.name == "DeploymentCapacity":
            for (owner, minute, instance, state), count in self._capacity.items():
                if owner == label:
                    yield Sample(minute, {"instanceId": instance, "State": state}, float(count))
            return
        for (owner, minute, instance), means in self._instances.items():
            if owner == label:
                if metric.name == "CpuMemoryUtilizationPercentage":
                    yield Sample(minute, {"instanceId": instance}, means.memory / means.seen, means.seen)
                elif means.processor_seen:
                    value = means.processor / means.processor_seen
                    yield Sample(minute, {"instanceId": instance}, value, means.processor_seen)

    async def _read(self, endpoint: str) -> Log:
        async with self._reading:
            log = self._logs.get(endpoint)
            if log is None:
                log = self._logs[endpoint] = Log(self.deployments.log_of(endpoint))
            await asyncio.to_thread(log.read)
        return log

    def _measure(self, fleets: Mapping[str, Fleet]) -> None:
        now, minute = time.monotonic(), int(time.time()) // _SECONDS
        memory = _memory()
        alive = set()
        for label, fleet in fleets.items():
            for instance in fleet.instances:
                name = f"instance-{instance.number}"
                self._capacity[(label, minute, name, "Running" if instance.up else "Starting")] = 1
                pid = instance.pid
                used = usage(pid) if pid else None
                if pid is None or used is None or memory is None:
                    continue
                alive.add(pid)
                means = self._instances.setdefault((label, minute, name), _Means())
                seconds, resident = used
                means.memory += _PERCENT * resident / memory
                means.seen += 1
                if before := self._before.get(pid):
                    share = (seconds - before.seconds) / max(now - before.at, 0.001) / (os.cpu_count() or 1)
                    # A worker that ended takes its processor time along.
                    means.processor += _PERCENT * max(share, 0.0)
                    means.processor_seen += 1
                self._before[pid] = _Before(seconds, now)
        self._before = {pid: before for pid, before in self._before.items() if pid in alive}
        oldest = minute - KEPT_MINUTES
        if next(iter(self._capacity), ("", minute))[1] < oldest:
            self._instances = {key: value for key, value in self._instances.items() if key[1] >= oldest}
            self._capacity = {key: value for key, value in self._capacity.items() if key[1] >= oldest}


def usage(pid: int) -> tuple[float, int] | None:
    """Processor seconds and resident bytes of a process and all below it; None if it is gone, or this isn't Linux."""
    try:
        pids = [pid, *_below(pid)]
        fields = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in pids]
    except OSError:
        return None
    # proc(5): utime and stime are fields 14 and 15, rss is 24; the command before field 3 is cut off here.
    return sum(int(each[11]) + int(each[12]) for each in fields) / _TICKS, sum(int(each[21]) for each in fields) * _PAGE


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _below(int(child))


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * _PAGE
    except (ValueError, OSError):
        return None
