"""Jobs: submission under a name chosen by the client, look-up, lists, cancelling.

https://learn.microsoft.com/rest/api/azureml/jobs. One name is one job: the same content again is answered with the job
that
is there, other content with UserError / JobPropertyImmutable.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from localazure.core.auth import Identity, Tokens
from localazure.core.errors import Conflict, NotFound, Unauthorized
from localazure.core.operations import LongRunning
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.executors.command import TOKEN_PATH
from localazure.ml import states
from localazure.ml.assets import JOBS
from localazure.ml.queue import JobQueue
from localazure.ml.resources import WORKSPACE, body, in_workspace, page, touched, visible
from localazure.ml.schedules import SCHEDULE_PROPERTY
from localazure.ml.submission import MUTABLE, Submission, same_or_taken
from localazure.settings import Settings


class JobsService:
    """Answers Jobs_*."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        submission: Submission,
        queue: JobQueue,
        long_running: LongRunning,
        tokens: Tokens,
    ) -> None:
        self._tokens = tokens
        self._settings = settings
        self._store = store
        self._submission = submission
        self._queue = queue
        self._long_running = long_running
        self._waiting: set[asyncio.Task[None]] = set()

    def operations(self) -> list[Operation]:
        """Jobs_List, _Get, _CreateOrUpdate, _Cancel, _Delete, and the studio's address of a job."""
        rows = (
            ("Jobs_List", "GET", "/jobs", self._list),
            ("Jobs_Get", "GET", "/jobs/{name}", self._get),
            ("Jobs_CreateOrUpdate", "PUT", "/jobs/{name}", self._put),
            ("Jobs_Cancel", "POST", "/jobs/{name}/cancel", self._cancel),
            ("Jobs_Delete", "DELETE", "/jobs/{name}", self._delete),
        )
        found = [
            Operation(name, method, WORKSPACE + path, in_workspace(self._settings, handler), "arm")
            for name, method, path, handler in rows
        ]
        return [
            *found,
            # Where links to Azure ML studio lead (https://ml.azure.com/runs/<job>?wsid=...). A browser brings no token.
            Operation("Studio_GetRun", "GET", "/runs/{name}", self._studio, None),
            # What a managed identity on a compute asks; the secret stands in a header of its own.
            Operation("ManagedIdentity_GetToken", "GET", TOKEN_PATH, self._token, None),
        ]

    async def _token(self, request: Request, identity: Identity) -> Answer:
        """What a job's managed identity is answered."""
        job = self._tokens.verify(request.headers.get("secret", ""), "arm").subject
        document = self._store.get(JOBS, job.removeprefix("job:"))
        if not job.startswith("job:") or document is None or states.is_terminal(document):
            raise Unauthorized("The secret is no running job's.", "InvalidAuthenticationToken")
        return self._tokens.of_managed_identity(request.query_params.get("resource", ""))

    async def _studio(self, request: Request, identity: Identity) -> Answer:
        """The studio's place is taken by MLflow's user interface."""
        job = self._find(request.path_params["name"])
        return RedirectResponse(job["resource"]["properties"]["services"]["Studio"]["endpoint"])

    async def _get(self, request: Request, identity: Identity) -> Answer:
        resource_: dict[str, Any] = self._find(request.path_params["name"])["resource"]
        return resource_

    async def _list(self, request: Request, identity: Identity) -> Answer:
        query = request.query_params
        tag = query.get("tag", "")
        wanted = [pair.partition("=") for pair in query.get("properties", "").split(",") if pair]
        scheduled, schedule = query.get("scheduled", "").lower(), query.get("scheduleId")
        found = []
        for job in self._store.list(JOBS):
            document = job["resource"]
            properties = document["properties"]
            if job["run"].get("parent"):
                continue  # children are listed by run history
            if query.get("jobType") and query["jobType"].lower() != properties["jobType"].lower():
                continue
            if tag and tag not in (properties.get("tags") or {}):
                continue
            own = properties.get("properties") or {}
            by = own.get(SCHEDULE_PROPERTY)
            if (scheduled and (by is not None) != (scheduled == "true")) or (schedule and by != schedule):
                continue
            if all(key in own and (not equals or own[key] == value) for key, equals, value in wanted) and visible(
                request, document
            ):
                found.append(document)
        found.sort(key=lambda each: each["systemData"]["createdAt"], reverse=True)
        return page(request, self._settings, found, size=100)

    async def _put(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        asked = (await body(request))["properties"]
        if (known := self._store.get(JOBS, name)) is not None:
            return 200, self._update(known, asked)
        document = self._submission.submit(name, asked)
        return 201, document["resource"]

    async def _cancel(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        self._find(name)
        operation = self._long_running.begin(f"{self._settings.workspace_id}/jobs/{name}")
        self._queue.cancel(name)

        async def finish() -> None:
            await self._queue.wait(name)
            self._long_running.succeed(operation)

        task = asyncio.get_running_loop().create_task(finish())
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return Response(status_code=202, headers=self._long_running.headers(operation, kind="result"))

    async def _delete(self, request: Request, identity: Identity) -> Answer:
        """The job and the jobs below it; what they wrote stays in storage."""
        name = request.path_params["name"]
        if not states.is_terminal(self._find(name)):
            raise Conflict(f"The job '{name}' isn't over; cancel it first.", code="UserError")
        self._submission.forget(name)
        operation = self._long_running.begin(f"{self._settings.workspace_id}/jobs/{name}")
        self._long_running.succeed(operation)
        return Response(status_code=202, headers=self._long_running.headers(operation, kind="result"))

    def _update(self, known: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        """A PUT of a name that is taken: the mutable part is updated, anything else must be what it is."""
        old = same_or_taken(known, asked)["resource"]["properties"]
        changes = {key: value for key, value in asked.items() if key in MUTABLE and value is not None}
        if "properties" in changes:
            changes["properties"] = {**(old.get("properties") or {}), **changes["properties"]}

        def changed(job: dict[str, Any]) -> dict[str, Any]:
            job["resource"]["properties"].update(changes)
            touched(job["resource"])
            return job

        updated: dict[str, Any] = self._store.update(JOBS, known["resource"]["name"], changed)["resource"]
        return updated

    def _find(self, name: str) -> dict[str, Any]:
        job = self._store.get(JOBS, name)
        if job is None:
            raise NotFound(f"The job '{name}' was not found in the workspace.", code="ResourceNotFound")
        return job
