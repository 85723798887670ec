"""Dedicated SQL pools in Resource Manager: get, list, pause, resume, scale; and the workspace they are in.

Shapes: Azure/azure-rest-api-specs, specification/synapse/resource-manager/Microsoft.Synapse/stable/2021-06-01,
sqlPool.json and workspace.json. https://learn.microsoft.com/rest/api/synapse/resourcemanager/sql-pools
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, Conflict, NotFound, NotImplementedOperation
from localazure.core.operations import LongRunning
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.sql import capacity
from localazure.sql.capacity import ONLINE, PAUSED, PAUSING, RESUMING, SCALING, Capacity
from localazure.synapse import scope

log = logging.getLogger(__name__)

_TRANSITION_SECONDS = 1.5
_ENDS = {PAUSING: PAUSED, RESUMING: ONLINE, SCALING: ONLINE}
_BASE = scope.PATH
_POOL = _BASE + "/sqlPools/{pool}"


class SqlPools:
    """The workspace's one dedicated pool. Its state is shared with the TDS process through the store."""

    def __init__(self, settings: Settings, store: Store, long_running: LongRunning) -> None:
        self._settings = settings
        self._long_running = long_running
        self._capacity = Capacity(store, settings.sql_database)
        self._tasks: set[asyncio.Task[None]] = set()

    def operations(self) -> list[Operation]:
        """What Resource Manager offers about pools, but making and deleting them."""
        rows: list[tuple[str, str, str, Callable[[Request, Identity], Any]]] = [
            ("Workspaces_Get", "GET", _BASE, self._workspace),
            ("SqlPools_ListByWorkspace", "GET", f"{_BASE}/sqlPools", self._list),
            ("SqlPools_Get", "GET", _POOL, self._get),
            ("SqlPools_Create", "PUT", _POOL, self._put),
            ("SqlPools_Update", "PATCH", _POOL, self._update),
            ("SqlPools_Pause", "POST", f"{_POOL}/pause", self._pause),
            ("SqlPools_Resume", "POST", f"{_POOL}/resume", self._resume),
            ("SqlPoolOperationResults_GetLocationHeaderResult", "GET", f"{_POOL}/operationResults/{{operation}}",
             self._result),
            ("SqlPoolDataWarehouseUserActivities_Get", "GET",
             f"{_POOL}/dataWarehouseUserActivities/{{activity}}", self._activities),
        ]  # fmt: skip
        return [Operation(name, method, path, handler, "arm") for name, method, path, handler in rows]

    def recover(self) -> None:
        """What was on its way when localazure ended has arrived."""
        end = _ENDS.get(self._capacity.status)
        if end is not None:
            self._capacity.write(status=end)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ---- handlers --------

    async def _workspace(self, request: Request, identity: Identity) -> Answer:
        scope.check(request, self._settings)
        settings = self._settings
        return {
            "id": scope.workspace_id(self._settings),
            "name": settings.workspace,
            "type": "Microsoft.Synapse/workspaces",
            "location": settings.location,
            "properties": {
                "provisioningState": "Succeeded",
                "defaultDataLakeStorage": {"accountUrl": settings.blob_url, "filesystem": settings.container},
                "sqlAdministratorLogin": settings.sql_login,
                "connectivityEndpoints": {
                    "dev": settings.api_url,
                    "sql": settings.sql_server,
                    "sqlOnDemand": settings.sql_server_ondemand,
                },
            },
        }

    async def _list(self, request: Request, identity: Identity) -> Answer:
        scope.check(request, self._settings)
        return {"value": [self._resource()]}

    async def _get(self, request: Request, identity: Identity) -> Answer:
        self._pool(request)
        return self._resource()

    async def _put(self, request: Request, identity: Identity) -> Answer:
        """The pool is there: putting it again may scale it."""
        scope.check(request, self._settings)
        if request.path_params["pool"].lower() != self._settings.sql_database.lower():
            raise NotImplementedOperation("SqlPools_Create of a second pool")
        return await self._update(request, identity)

    async def _update(self, request: Request, identity: Identity) -> Answer:
        """Tags at once; another size takes a moment, in which the pool takes no connections."""
        self._pool(request)
        body = await _body(request)
        sku = body.get("sku") or {}
        if "tags" in body:
            self._capacity.write(tags=dict(body["tags"] or {}))
        name = str(sku.get("name") or self._capacity.objective)
        known = {objective.lower(): objective for objective in capacity.OBJECTIVES}
        if name.lower() not in known:
            raise BadRequest(
                f"The sku '{name}' isn't one of a SQL pool's: {', '.join(capacity.OBJECTIVES)}.",
                "sku.name",
                "InvalidSku",
            )
        if known[name.lower()] == self._capacity.objective:
            return self._resource()
        if self._capacity.status == PAUSED:
            raise Conflict("A paused SQL pool can't be scaled: resume it first.", code="SqlPoolIsPaused")
        return self._change(SCALING, objective=known[name.lower()])

    async def _pause(self, request: Request, identity: Identity) -> Answer:
        self._pool(request)
        return self._resource() if self._capacity.status == PAUSED else self._change(PAUSING)

    async def _resume(self, request: Request, identity: Identity) -> Answer:
        self._pool(request)
        return self._resource() if self._capacity.status == ONLINE else self._change(RESUMING)

    async def _result(self, request: Request, identity: Identity) -> Answer:
        """202 while the pool is on its way, then the pool."""
        self._pool(request)
        if self._capacity.status in _ENDS:
            return Response(status_code=202, headers=self._headers(request.path_params["operation"]))
        return self._resource()

    async def _activities(self, request: Request, identity: Identity) -> Answer:
        """How many queries run: what to ask before a pause."""
        self._pool(request)
        if request.path_params["activity"].lower() != "current":
            raise NotFound("There is one set of activities: 'current'.")
        return {
            "id": f"{self._id()}/dataWarehouseUserActivities/current",
            "name": "current",
            "type": "Microsoft.Synapse/workspaces/sqlPools/dataWarehouseUserActivities",
            "properties": {"activeQueriesCount": self._capacity.active()},
        }

    # ---- state --------

    def _change(self, through: str, **changes: Any) -> Response:
        if self._capacity.status in _ENDS:
            raise Conflict(
                f"The SQL pool is {self._capacity.status}; the operation can't be started before that has ended.",
                code="ConflictingDatabaseOperation",
            )
        self._capacity.write(status=through)
        operation = self._long_running.begin(self._id())
        task = asyncio.ensure_future(self._arrive(operation, _ENDS[through], changes))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return JSONResponse(self._resource(), 202, self._headers(operation))

    async def _arrive(self, operation: str, status: str, changes: dict[str, Any]) -> None:
        await asyncio.sleep(_TRANSITION_SECONDS)
        self._capacity.write(status=status, **changes)
        self._long_running.succeed(operation)
        log.info("the SQL pool is %s, %s", status, self._capacity.objective)

    def _headers(self, operation: str) -> dict[str, str]:
        location = f"{self._settings.api_url}{self._id()}/operationResults/{operation}?api-version=2021-06-01"
        status = self._long_running.headers(operation, kind="status")
        return {**status, "Location": location}

    # ---- names --------

    def _pool(self, request: Request) -> None:
        scope.check(request, self._settings)
        name = request.path_params["pool"]
        if name.lower() != self._settings.sql_database.lower():
            raise NotFound(
                f"There is no SQL pool '{name}'; the workspace has '{self._settings.sql_database}'.",
                code="ResourceNotFound",
            )

    def _id(self) -> str:
        return f"{scope.workspace_id(self._settings)}/sqlPools/{self._settings.sql_database}"

    def _resource(self) -> dict[str, Any]:
        document = self._capacity.document()
        return {
            "id": self._id(),
            "name": self._settings.sql_database,
            "type": "Microsoft.Synapse/workspaces/sqlPools",
            "location": self._settings.location,
            "tags": document["tags"],
            "sku": {"name": document["objective"], "capacity": 0},
            "properties": {
                "status": document["status"],
                "provisioningState": "Succeeded",
                "collation": "SQL_Latin1_General_CP1_CI_AS",
                "maxSizeBytes": 263882790666240,
                "storageAccountType": "LRS",
            },
        }


async def _body(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise BadRequest(f"The body isn't JSON: {error}.", code="InvalidRequestContent") from None
    if not isinstance(found, dict):
        raise BadRequest("The body must be a JSON object.", code="InvalidRequestContent")
    return found
