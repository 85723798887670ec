"""Spark job definitions: artifacts that hold the payload of a Livy batch, and run as one.

Shapes: Azure/azure-rest-api-specs, specification/synapse/data-plane/Microsoft.Synapse/preview/2019-06-01-preview/
entityTypes/SparkJobDefinition.json and examples/SparkJobDefinitions_*.json. Executing answers 202 with the batch; its
`Location` answers 202 until the batch has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.synapse import livy_requests, versions
from localazure.synapse.artifacts import SOON, Artifacts, Kind
from localazure.synapse.batches import Batches
from localazure.synapse.livy_documents import ENDED, Document
from localazure.synapse.pools import Pools

KIND = "synapse.spark_job_definition"
_PATH = "/sparkJobDefinitions"
_RUN = "arcadiaSpark$$"
#: What a definition's job says beyond a batch's payload: Studio's own notes.
_NOTES = frozenset({"jobType", "language", "scanFolder"})
_REQUIRED = ("file", "driverMemory", "driverCores", "executorMemory", "executorCores", "numExecutors")


class SparkJobDefinitions(Artifacts):
    """Create, read, list, rename, delete, execute and debug Spark job definitions."""

    def __init__(self, settings: Settings, store: Store, pools: Pools, batches: Batches) -> None:
        kind = Kind(
            KIND,
            "spark job definition",
            "Microsoft.Synapse/workspaces/sparkjobdefinitions",
            "operationResults",
            _properties,
        )
        super().__init__(settings, store, kind)
        self._pools = pools
        self._batches = batches

    def operations(self) -> list[Operation]:
        """The artifact operations, and the results they lead to."""
        checked = versions.checked(versions.ARTIFACTS)
        prefix, one = "SparkJobDefinition_", _PATH + "/{name}"
        rows = [
            (prefix + "GetSparkJobDefinitionsByWorkspace", "GET", _PATH, self.list),
            (prefix + "CreateOrUpdateSparkJobDefinition", "PUT", one, self.put),
            (prefix + "GetSparkJobDefinition", "GET", one, self.get),
            (prefix + "DeleteSparkJobDefinition", "DELETE", one, self.delete),
            (prefix + "RenameSparkJobDefinition", "POST", one + "/rename", self.rename),
            (prefix + "ExecuteSparkJobDefinition", "POST", one + "/execute", self._execute),
            (prefix + "DebugSparkJobDefinition", "POST", "/debugSparkJobDefinition", self._debug),
            ("OperationResults_Get", "GET", "/operationResults/{operation}", self.result),
        ]
        return [Operation(name, method, path, checked(handler), "synapse") for name, method, path, handler in rows]

    async def result(self, request: Request, identity: Identity) -> Answer:
        """A run's batch (202 while it is active), or the result of a change of a definition."""
        operation = request.path_params["operation"]
        if not operation.startswith(_RUN):
            return await super().result(request, identity)
        pool, _, batch = operation.removeprefix(_RUN).partition("$$batch$$")
        return await self._answer(self._batches.document(pool, batch))

    async def _execute(self, request: Request, identity: Identity) -> Answer:
        definition = self.resource(request.path_params["name"])
        return await self._run(definition["name"], definition["properties"], identity)

    async def _debug(self, request: Request, identity: Identity) -> Answer:
        """Run a definition that isn't kept."""
        body = await request.json()
        properties = _properties(body)
        return await self._run(
            str(body.get("name") or properties["jobProperties"].get("name") or ""), properties, identity
        )

    async def _run(self, name: str, properties: Mapping[str, Any], identity: Identity) -> Response:
        pool = self._pools.resource(properties["targetBigDataPool"]["referenceName"])
        wanted, there = properties.get("requiredSparkVersion"), pool["properties"]["sparkVersion"]
        if wanted and str(wanted) != there:
            raise BadRequest(
                f"The Spark job definition requires Spark {wanted}; the pool {pool['name']!r} has Spark {there}.",
                "properties.requiredSparkVersion",
            )
        if properties.get("targetSparkConfiguration"):
            raise NotImplementedOperation("SparkJobDefinition_ExecuteSparkJobDefinition with targetSparkConfiguration")
        job = {
            key: value for key, value in properties["jobProperties"].items() if key not in _NOTES and value is not None
        }
        asked = livy_requests.parse(
            {"name": name, "artifactId": name, **job},
            "SparkJobDefinition_ExecuteSparkJobDefinition",
            is_batch=True,
        )
        return await self._answer(self._batches.submit(pool["name"], asked, identity.subject), HTTPStatus.ACCEPTED)

    async def _answer(self, batch: Document, status: HTTPStatus | None = None) -> Response:
        body = await self._batches.shown(batch, is_detailed=True)
        if status is None and batch["state"] in ENDED:
            return JSONResponse(body, HTTPStatus.OK)
        operation = f"{_RUN}{batch['sparkPoolName']}$$batch$${batch['id']}"
        location = f"{self._settings.api_url}/operationResults/{operation}?api-version=2020-12-01"
        return JSONResponse(body, HTTPStatus.ACCEPTED, {"Location": location, **SOON})


def _properties(body: Any) -> dict[str, Any]:
    """The definition of a request's body. Raises BadRequest naming what is wrong."""
    properties = body.get("properties") if isinstance(body, dict) else None
    if not isinstance(properties, dict):
        raise BadRequest('The body must be {"properties": {...}}, the properties being the definition.', "properties")
    pool = properties.get("targetBigDataPool")
    if not isinstance(pool, dict) or not isinstance(pool.get("referenceName"), str):
        raise BadRequest("targetBigDataPool must name a Spark pool.", "properties.targetBigDataPool.referenceName")
    if pool.get("type") not in (None, "BigDataPoolReference"):
        raise BadRequest("targetBigDataPool.type is BigDataPoolReference.", "properties.targetBigDataPool.type")
    job = properties.get("jobProperties")
    if not isinstance(job, dict):
        raise BadRequest("jobProperties is required.", "properties.jobProperties")
    for key in _REQUIRED:
        if job.get(key) is None:
            raise BadRequest(f"jobProperties.{key} is required.", f"properties.jobProperties.{key}")
    return properties
