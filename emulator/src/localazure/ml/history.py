"""Run history: what the SDK reads to stream, download and tag a job, and the list of its children.

Paths are those of the unmodified SDK (azure-ai-ml 1.35, `_restclient/runhistory`); the service's own reference isn't
published.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, NotFound
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Store
from localazure.executors.command import NO_SERVICES, interactive
from localazure.ml import states
from localazure.ml.assets import JOBS, Assets, artifact_folder, output_asset_name
from localazure.ml.nodes import COMPUTES
from localazure.ml.resources import WORKSPACE, in_workspace, page, touched
from localazure.ml.submission import CHILDREN
from localazure.ml.workspace import ARTIFACT_CONTAINER
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.tracking.runs import TrackingError, TrackingRuns

_HISTORY = f"/history/v1.0{WORKSPACE}"
_RUN_TYPES = {
    "Command": "azureml.Command",
    "AutoML": "automl",
    "Sweep": "hyperdrive",
    "Pipeline": "azureml.PipelineRun",
}
# azure-ai-ml 1.35 looks an output up only if its type is one of these (measured); older ones wrote UriFolder.
_OUTPUT_TYPES = {
    "uri_file": "uri_file", "uri_folder": "uri_folder", "mltable": "mltable", "mlflow_model": "MLFlowModel",
    "custom_model": "CustomModel", "triton_model": "TritonModel",
}  # fmt: skip
_LOG_HOURS = 24


class HistoryService:
    """Answers the Run* operations of run history and the dataplane's look-ups of outputs."""

    def __init__(
        self, settings: Settings, store: Store, blobs: BlobStore, assets: Assets, tracking: TrackingRuns
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._assets = assets
        self._tracking = tracking

    def operations(self) -> list[Operation]:
        """Runs_* (with and without the experiment in the path) and the two batchGetResolvedUris."""

        def operation(name: str, method: str, path: str, handler: Handler) -> Operation:
            return Operation(name, method, path, in_workspace(self._settings, handler), "arm")

        found = [operation("Runs_GetRunData", "POST", f"{_HISTORY}/rundata", self._run_data)]
        for suffix, experiment in (("", ""), ("ByExperimentName", "/experiments/{experiment}")):
            run = f"{_HISTORY}{experiment}/runs/{{run}}"
            found += [
                operation(f"Runs_Get{suffix}", "GET", run, self._get),
                operation(f"Runs_AddOrModify{suffix}", "PATCH", run, self._modify),
                operation(f"Runs_GetDetails{suffix}", "GET", f"{run}/details", self._details),
                operation(f"Runs_GetChild{suffix}", "GET", f"{run}/children", self._children),
            ]
        services = f"{_HISTORY}/runs/{{run}}/serviceinstances/{{node}}"
        found.append(operation("Run_GetRunServiceInstances", "GET", services, self._services))
        data = f"/data/v1.0{WORKSPACE}/dataversion/batchGetResolvedUris"
        models = f"/modelregistry/v1.0{WORKSPACE}/models/batchGetResolvedUris"
        found.append(operation("DataVersion_BatchGetResolvedUris", "POST", data, self._data_uris))
        found.append(operation("Models_BatchGetResolvedUris", "POST", models, self._model_uris))
        return found

    async def _get(self, request: Request, identity: Identity) -> Answer:
        return self._run(self._find(request.path_params["run"]))

    async def _details(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["run"]
        job = self._find(name)
        logs = {}
        for log in job["run"].get("logs", []):
            blob = f"{artifact_folder(name)}/{log}"
            token = self._blobs.sas(ARTIFACT_CONTAINER, blob, permissions="r", hours=_LOG_HOURS).lstrip("?")
            logs[log] = f"{self._blobs.url(ARTIFACT_CONTAINER, blob)}?{token}"
        return {**self._run(job), "logFiles": logs}

    async def _services(self, request: Request, identity: Identity) -> Answer:
        """What became of the interactive services that a job asked for."""
        error = {"error": {"code": "NotImplemented", "message": NO_SERVICES}}
        asked = interactive(self._find(request.path_params["run"])["request"])
        found = {
            name: {"type": each["jobServiceType"], "status": "Failed", "error": error} for name, each in asked.items()
        }
        return {"instances": found}

    async def _run_data(self, request: Request, identity: Identity) -> Answer:
        content = await request.json()
        if not isinstance(content, dict) or not content.get("runId"):
            raise BadRequest("The request needs runId.", "runId")
        return {"runMetadata": self._run(self._find(content["runId"])), "runDefinition": None, "jobSpecification": None}

    async def _children(self, request: Request, identity: Identity) -> Answer:
        parent = request.path_params["run"]
        self._find(parent)
        found = [self._store.get(JOBS, each["name"]) for each in self._store.list(CHILDREN, f"{parent}/")]
        children = [job for job in found if job is not None]
        children.sort(key=lambda job: (job["run"].get("number", 0), job["resource"]["name"]))
        return page(request, self._settings, [self._run(job) for job in children])

    async def _modify(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["run"]
        self._find(name)
        content = await request.json()
        if not isinstance(content, dict):
            raise BadRequest("The request body must be a JSON object.")
        known = {"tags", "properties", "displayName", "description", "hidden", "runId"}
        if unknown := sorted(key for key, value in content.items() if key not in known and value is not None):
            raise BadRequest(
                f"Runs_AddOrModify: {', '.join(unknown)} can't be changed; {', '.join(sorted(known))} can."
            )

        def changed(job: dict[str, Any]) -> dict[str, Any]:
            properties = job["resource"]["properties"]
            for key in ("tags", "properties"):
                properties[key] = {**(properties.get(key) or {}), **(content.get(key) or {})}
            for key in ("displayName", "description"):
                if content.get(key) is not None:
                    properties[key] = content[key]
            if content.get("hidden") is not None:
                properties["isArchived"] = bool(content["hidden"])
            touched(job["resource"])
            return job

        job = self._store.update(JOBS, name, changed)
        if content.get("tags"):
            # The job's own tags are what counts; MLflow's copy is for its pages.
            with contextlib.suppress(TrackingError):
                await self._tracking.set_tags(name, content["tags"])
        return self._run(job)

    async def _data_uris(self, request: Request, identity: Identity) -> Answer:
        return {
            "values": {
                each: {"uri": self._assets.long_uri(each), "type": "UriFolder"} for each in await _values(request)
            }
        }

    async def _model_uris(self, request: Request, identity: Identity) -> Answer:
        return {
            "values": {each: {"path": self._assets.long_uri(each), "type": "uri"} for each in await _values(request)}
        }

    def _find(self, name: str) -> dict[str, Any]:
        job = self._store.get(JOBS, name)
        if job is None:
            raise NotFound(f"The run '{name}' was not found.", code="ResourceNotFound")
        return job

    def _run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job as run history shows it."""
        document, run = job["resource"], job["run"]
        name, properties = document["name"], document["properties"]
        parent = run.get("parent")
        error = run.get("error")
        return {
            "runId": name,
            "runUuid": str(uuid.uuid5(uuid.NAMESPACE_URL, document["id"])),
            "parentRunId": parent,
            "rootRunId": run.get("root") or parent or name,
            "status": properties["status"],
            "displayName": properties.get("displayName"),
            "description": properties.get("description"),
            "experimentId": run.get("experimentId") or properties.get("experimentName"),
            "name": name,
            "runType": run.get("runType") or _RUN_TYPES.get(properties["jobType"], "azureml.scriptrun"),
            "dataContainerId": f"dcid.{name}",
            "createdUtc": document["systemData"]["createdAt"],
            "startTimeUtc": run.get("startTimeUtc"),
            "endTimeUtc": run.get("endTimeUtc"),
            "properties": properties.get("properties") or {},
            "tags": properties.get("tags") or {},
            "hidden": bool(properties.get("isArchived")),
            "target": (properties.get("computeId") or "").rpartition("/")[2] or None,
            "compute": self._compute(properties),
            "outputs": self._outputs(name, job) if properties["status"] == states.COMPLETED else {},
            "warnings": [],
            "error": {"error": {**error, "details": []}} if error else None,
        }

    def _outputs(self, name: str, job: dict[str, Any]) -> dict[str, Any]:
        scope = f"azureml://locations/{self._settings.location}/workspaces/{self._settings.workspace}"
        found = {}
        for output, entry in job["run"]["outputs"].items():
            kind = entry["jobOutputType"]
            collection = "models" if kind.endswith("_model") else "data"
            found[output] = {
                "assetId": f"{scope}/{collection}/{output_asset_name(name, output)}/versions/1",
                "type": _OUTPUT_TYPES.get(kind, "uri_folder"),
            }
        return found

    def _compute(self, properties: dict[str, Any]) -> dict[str, Any] | None:
        name = (properties.get("computeId") or "").rpartition("/")[2]
        compute = self._store.get(COMPUTES, name) if name else None
        if compute is None:
            return None
        size = compute["properties"].get("properties", {}).get("vmSize")
        return {
            "target": name,
            "targetType": compute["properties"]["computeType"],
            "vmSize": size,
            "instanceType": size,
            "instanceCount": int((properties.get("resources") or {}).get("instanceCount") or 1),
        }


async def _values(request: Request) -> list[str]:
    content = await request.json()
    values = content.get("values") if isinstance(content, dict) else None
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise BadRequest("The request needs 'values', a list of asset ids.", "values")
    return values
