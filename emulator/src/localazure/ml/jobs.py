"""Jobs: submission under a name chosen by the client, look-up, lists, cancelling.

https://learn.microsoft.com/rest/api/azureml/jobs. One name is one job: the same content again is answered with the job
that
is there, other content with UserError / JobPropertyImmutable.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest, NotFound, NotImplementedOperation
from localazure.core.operations import LongRunning
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.executors.job import JobRunner
from localazure.ml import states
from localazure.ml.assets import JOBS, Assets, artifact_folder
from localazure.ml.queue import JobQueue, services
from localazure.ml.resources import WORKSPACE, body, in_workspace, page, resource, touched, visible
from localazure.ml.workspace import ARTIFACTSTORE, BLOBSTORE, COMPUTES
from localazure.settings import Settings

JOB_TYPES = ("Command", "AutoML", "Pipeline", "Sweep", "Spark")
_RUNNABLE = frozenset({"AmlCompute", "ComputeInstance", "Kubernetes"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,254}")
_MUTABLE = frozenset({"description", "tags", "displayName", "properties", "isArchived"})
_SERVER_SIDE = frozenset({"status", "services", "parentJobName"})
_TEMPLATE = re.compile(r"\$\{\{\s*(name|output_name|default_datastore)\s*\}\}")


class NameTaken(AzureError):
    """400 with the inner error that clients look for (reported of the service: azure-sdk-for-python PR 47389)."""

    def __init__(self, job_type: str) -> None:
        super().__init__(
            400,
            "UserError",
            "A job with this name already exists. If you are trying to create a new job, use a different name. If "
            "you are "
            f"trying to update an existing job, the existing job's {job_type} cannot be changed. Only description, "
            f"tags, "
            "displayName, properties, and isArchived can be updated.",
        )

    def body(self) -> dict[str, Any]:
        """The envelope, with `innererror`."""
        inner = {"code": "Immutable", "innererror": {"code": "JobPropertyImmutable"}}
        return {"error": {"code": self.code, "message": self.message, "innererror": inner}}


class JobsService:
    """Answers Jobs_*."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        assets: Assets,
        queue: JobQueue,
        runners: Mapping[str, JobRunner],
        long_running: LongRunning,
    ) -> None:
        self._settings = settings
        self._store = store
        self._assets = assets
        self._queue = queue
        self._runners = runners
        self._long_running = long_running
        self._waiting: set[asyncio.Task[None]] = set()

    def operations(self) -> list[Operation]:
        """Jobs_List, _Get, _CreateOrUpdate, _Cancel, and the studio's address of a job."""
        rows = (
            ("Jobs_List", "GET", "/jobs", self._list),
            ("Jobs_Get", "GET", "/jobs/{name}", self._get),
            ("Jobs_CreateOrUpdate", "PUT", "/jobs/{name}", self._put),
            ("Jobs_Cancel", "POST", "/jobs/{name}/cancel", self._cancel),
        )
        found = [
            Operation(name, method, WORKSPACE + path, in_workspace(self._settings, handler), "arm")
            for name, method, path, handler in rows
        ]
        # Where links to Azure ML studio lead (https://ml.azure.com/runs/<job>?wsid=...). A browser brings no token.
        return [*found, Operation("Studio_GetRun", "GET", "/runs/{name}", self._studio, None)]

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
            if all(key in own and (not equals or own[key] == value) for key, equals, value in wanted) and visible(
                request, document
            ):
                found.append(document)
        found.sort(key=lambda each: each["systemData"]["createdAt"], reverse=True)
        return page(request, self._settings, found, size=100)

    async def _put(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        asked = (await body(request))["properties"]
        known = self._store.get(JOBS, name)
        if known is not None:
            return self._update(known, asked)
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"'{name}' is not a valid job name: letters, digits, '-' and '_', up to 255, first a letter or digit.",
                "name",
                "UserError",
            )
        runner = self._runner(asked)
        self._check_compute(asked.get("computeId"))
        try:
            runner.validate(asked)
            document = self._new(name, asked)
        except NotFound as error:
            # 404 would mean the job itself, which clients take for "not submitted yet".
            raise BadRequest(error.message, error.target, "UserError") from error
        # Two submissions of one name at the same time: the second one finds the first.
        if not self._store.insert(JOBS, name, document):
            return self._update(self._find(name), asked)
        self._queue.submit(name)
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

    def _runner(self, asked: dict[str, Any]) -> JobRunner:
        kind = str(asked.get("jobType"))
        if kind in self._runners:
            return self._runners[kind]
        if kind in JOB_TYPES:
            raise NotImplementedOperation(f"Jobs_CreateOrUpdate with jobType {kind}")
        raise BadRequest(f"jobType must be one of {', '.join(JOB_TYPES)}, not '{kind}'.", "jobType", "UserError")

    def _check_compute(self, id: str | None) -> None:
        if not id:
            return  # serverless
        name = id.rpartition("/")[2]
        compute = self._store.get(COMPUTES, name)
        if compute is None:
            known = ", ".join(each["name"] for each in self._store.list(COMPUTES))
            raise BadRequest(
                f"The compute '{name}' was not found; the workspace has {known}.", "computeId", "UserError"
            )
        kind = compute["properties"]["computeType"]
        if kind not in _RUNNABLE:
            wanted = ", ".join(sorted(_RUNNABLE))
            message = f"The compute '{name}' is of type {kind}; this job needs one of {wanted}."
            raise BadRequest(message, "computeId", "UserError")

    def _new(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        outputs = {
            output: self._output(name, output, entry or {}) for output, entry in (asked.get("outputs") or {}).items()
        }
        shown = {key: value for key, value in outputs.items() if key != "default"}
        default = f"azureml://datastores/{ARTIFACTSTORE}/{artifact_folder(name)}"
        properties = {
            "displayName": name,
            "experimentName": "Default",
            "description": None,
            "isArchived": False,
            "inputs": {},
            **{key: value for key, value in asked.items() if value is not None},
            "tags": asked.get("tags") or {},
            "properties": asked.get("properties") or {},
            "outputs": {
                **shown,
                "default": {"uri": default, "jobOutputType": "uri_folder", "mode": "ReadWriteMount"},
            },
            "services": services(self._settings, name),
            "status": states.NOT_STARTED,
        }
        document = {
            "resource": resource(self._settings, f"jobs/{name}", properties),
            "request": asked,
            "run": {"parent": None, "states": [], "outputs": outputs},
        }
        return states.advance(document, states.STARTING)

    def _output(self, job: str, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        """A declared output with the address it will be written to."""
        kind = entry.get("jobOutputType") or "uri_folder"
        uri = entry.get("uri")
        if uri:
            values = {"name": job, "output_name": name, "default_datastore": BLOBSTORE}
            uri = _TEMPLATE.sub(lambda match: values[match[1]], uri)
            self._assets.location(uri)  # refused now, with the address in the message
        else:
            uri = f"azureml://datastores/{BLOBSTORE}/paths/azureml/{job}/{name}" + ("" if kind == "uri_file" else "/")
        return {**entry, "jobOutputType": kind, "uri": uri, "mode": entry.get("mode") or "ReadWriteMount"}

    def _update(self, known: dict[str, Any], asked: dict[str, Any]) -> Answer:
        """A PUT of a name that is taken: the mutable part is updated, anything else must be what it is."""
        old = known["resource"]["properties"]
        if _content(asked) not in (_content(known["request"]), _content(old)):
            raise NameTaken(old["jobType"])
        changes = {key: value for key, value in asked.items() if key in _MUTABLE and value is not None}
        if "properties" in changes:
            changes["properties"] = {**(old.get("properties") or {}), **changes["properties"]}

        def changed(job: dict[str, Any]) -> dict[str, Any]:
            job["resource"]["properties"].update(changes)
            touched(job["resource"])
            return job

        updated: dict[str, Any] = self._store.update(JOBS, known["resource"]["name"], changed)["resource"]
        return 200, updated

    def _find(self, name: str) -> dict[str, Any]:
        job = self._store.get(JOBS, name)
        if job is None:
            raise NotFound(f"The job '{name}' was not found in the workspace.", code="ResourceNotFound")
        return job


def _content(properties: dict[str, Any]) -> dict[str, Any]:
    """What a job is, without what may change or what the server adds; empty values are no values."""
    kept = {key: value for key, value in properties.items() if key not in _MUTABLE | _SERVER_SIDE}
    kept["outputs"] = {key: value for key, value in (properties.get("outputs") or {}).items() if key != "default"}
    cleaned: dict[str, Any] = _without_empty(kept)
    return cleaned


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        cleaned = {key: _without_empty(each) for key, each in value.items()}
        return {key: each for key, each in cleaned.items() if each not in (None, {}, [], "")}
    if isinstance(value, list):
        return [_without_empty(each) for each in value]
    return value
