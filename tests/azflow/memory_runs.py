"""A remote service in memory for the tests of the waiting loop. It keeps Azure ML's promise: one run a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from azflow.errors import RunExists, ServiceUnavailable
from azflow.runs import DIGEST_TAG, Found, RunFailure, RunState, RunStates

STATES = RunStates(
    "Memory run",
    active=("Queued", "Running", "Cancelling"),
    succeeded=("Completed",),
    failed=("Failed",),
    cancelled=("Canceled",),
)


@dataclass
class Run:
    name: str
    payload: dict[str, Any]
    tags: dict[str, str]
    word: str
    polls: int = 0


@dataclass
class Service:
    """What happens to runs, and what happened."""

    runs: dict[str, Run] = field(default_factory=dict)
    polls_until_end: int = 0
    end: str = "Completed"
    failing_polls: list[BaseException] = field(default_factory=list)
    lose_answers: int = 0  # so many submissions are carried out but answered by an error
    cancels: list[str] = field(default_factory=list)
    failing_cancels: int = 0
    lookups: int = 0
    concurrent: int = 0
    most_concurrent: int = 0
    opened: int = 0
    closed: int = 0

    @property
    def created(self) -> int:
        return len(self.runs)


SERVICE = Service()


def reset(**settings: Any) -> Service:
    """A new, empty service, with `settings`."""
    SERVICE.__init__(**settings)  # type: ignore[misc]
    return SERVICE


class MemoryRuns:
    """`RemoteRuns` over `SERVICE`."""

    def __init__(self, connection: Any, shard: str = "a") -> None:
        self.connection = connection
        SERVICE.opened += 1

    def lookup(self, name: str) -> Found | None:
        SERVICE.lookups += 1
        run = SERVICE.runs.get(name)
        return None if run is None else Found(name, STATES.of(run.word, id=name), run.tags.get(DIGEST_TAG))

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        run = Run(name, dict(payload), dict(tags), "Queued")
        if SERVICE.runs.setdefault(name, run) is not run:  # atomic, and no lock that a killed test could leave locked
            raise RunExists(name, service="Memory run")
        if SERVICE.lose_answers:
            SERVICE.lose_answers -= 1
            raise ServiceUnavailable("the connection broke after the request was sent")
        return name

    def state(self, id: str) -> RunState:
        if SERVICE.failing_polls:
            raise SERVICE.failing_polls.pop(0)
        run = SERVICE.runs[id]
        run.polls += 1
        if STATES.of(run.word, id=id).is_terminal:
            return STATES.of(run.word, id=id)
        if run.polls > SERVICE.polls_until_end:
            run.word = SERVICE.end
        elif run.word == "Queued":
            run.word = "Running"
        return STATES.of(run.word, id=id)

    async def astate(self, id: str) -> RunState:
        import asyncio

        SERVICE.concurrent += 1
        SERVICE.most_concurrent = max(SERVICE.concurrent, SERVICE.most_concurrent)
        try:
            await asyncio.sleep(0.001)
            return self.state(id)
        finally:
            SERVICE.concurrent -= 1

    def cancel(self, id: str) -> None:
        if SERVICE.failing_cancels:
            SERVICE.failing_cancels -= 1
            raise ServiceUnavailable("busy")
        SERVICE.cancels.append(id)
        SERVICE.runs[id].word = "Canceled"

    def result(self, id: str) -> dict[str, Any]:
        return {"name": id, "answer": SERVICE.runs[id].payload["x"]}

    def failure(self, id: str) -> RunFailure:
        return RunFailure("out of memory", ["epoch 1", "Killed"])

    def url(self, id: str) -> str:
        return f"https://service/runs/{id}"

    def close(self) -> None:
        SERVICE.closed += 1
