"""The child jobs of a running job: started, waited for, cancelled with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from localazure.core.errors import AzureError
from localazure.core.store import Store
from localazure.executors.job import Child
from localazure.ml import states
from localazure.ml.assets import JOBS
from localazure.ml.submission import CHILDREN, Submission

if TYPE_CHECKING:
    from localazure.ml.queue import JobQueue


class ChildJobs:
    """See executors.job.Children."""

    def __init__(self, queue: JobQueue, store: Store, submission: Submission, parent: dict[str, Any]) -> None:
        self._queue = queue
        self._store = store
        self._submission = submission
        self._parent = str(parent["resource"]["name"])
        self._experiment = parent["resource"]["properties"]["experimentName"]
        self._closed = False

    def add(self, name: str, properties: dict[str, Any], run: dict[str, Any]) -> None:
        """See Children."""
        self._submission.write_ended(name, self._in_experiment(properties), parent=self._parent, run=run)

    def record(
        self,
        name: str,
        properties: dict[str, Any],
        run: dict[str, Any],
        state: str,
        outputs: dict[str, dict[str, Any]],
    ) -> None:
        """See Children."""
        now = states.timestamp()
        ended = {"displayName": name, **self._in_experiment(properties), "status": state}
        times = {"startTimeUtc": now, "endTimeUtc": now, **run}
        self._submission.write_ended(name, ended, parent=self._parent, run=times, outputs=outputs)

    async def run(self, name: str, properties: dict[str, Any], *, run: dict[str, Any] | None = None) -> Child:
        """See Children."""
        if self._closed:
            raise asyncio.CancelledError  # a task that the runner left behind
        asked = self._in_experiment(properties)
        try:
            self._submission.submit(name, asked, parent=self._parent, run=run)
        except AzureError as error:
            self._submission.write_refused(name, asked, error, parent=self._parent, run=run or {})
        try:
            await self._queue.wait(name)
        except asyncio.CancelledError:
            self._queue.cancel(name)
            await asyncio.shield(self._queue.wait(name))
            raise
        return self._child(name)

    def cancel(self, name: str) -> None:
        """See Children."""
        if self.get(name) is not None:
            self._queue.cancel(name)

    def get(self, name: str) -> Child | None:
        """See Children."""
        return self._child(name) if self._store.get(CHILDREN, f"{self._parent}/{name}") else None

    async def close(self) -> None:
        """Ends the children that still run: none outlives its parent."""
        self._closed = True
        names = [str(each["name"]) for each in self._store.list(CHILDREN, f"{self._parent}/")]
        for name in names:
            self._queue.cancel(name)
        for name in names:
            await self._queue.wait(name)

    def _in_experiment(self, properties: dict[str, Any]) -> dict[str, Any]:
        return {"experimentName": self._experiment, **properties}

    def _child(self, name: str) -> Child:
        document = self._store.get(JOBS, name)
        assert document is not None
        properties = document["resource"]["properties"]
        run = document["run"]
        return Child(name, properties["status"], run.get("error"), run["outputs"], properties)
