"""Spark pools (Synapse calls them Big Data pools): made and changed in Resource Manager, read at the workspace.

Shapes: Azure/azure-rest-api-specs, specification/synapse/resource-manager/Microsoft.Synapse/stable/2021-06-01/
bigDataPool.json and specification/synapse/data-plane/Microsoft.Synapse/stable/2020-12-01/bigDataPools.json. The pool of
the settings is always there. https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-pool-configurations
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, Conflict, NotFound, NotImplementedOperation
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.synapse import scope, versions
from localazure.synapse.capacity import Extent

SPARK_VERSION = "3.5"
KIND = "synapse.spark_pool"
#: Node sizes of the family MemoryOptimized: vcores, GB of memory.
NODE_SIZES = {
    "Small": (4, 32),
    "Medium": (8, 64),
    "Large": (16, 128),
    "XLarge": (32, 256),
    "XXLarge": (64, 432),
    "XXXLarge": (80, 504),
}
#: "Head node and two or more worker nodes": https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-pool-configurations
_LEAST_NODES, _MOST_NODES = 3, 200
_LEAST_DELAY = 5
_MINUTE = 60.0
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9]{0,14}$")
_TYPE = "Microsoft.Synapse/workspaces/bigDataPools"
_POOLS = scope.PATH + "/bigDataPools"
#: What would need packages from the network or hardware that isn't there.
_REFUSED = ("libraryRequirements", "customLibraries", "sparkConfigProperties", "isComputeIsolationEnabled")
_KEPT = frozenset({
    "autoPause", "autoScale", "cacheSize", "creationDate", "defaultSparkLogFolder", "dynamicExecutorAllocation",
    "isAutotuneEnabled", "lastSucceededTimestamp", "nodeCount", "nodeSize", "nodeSizeFamily", "provisioningState",
    "sessionLevelPackagesEnabled", "sparkEventsFolder", "sparkVersion", *_REFUSED,
})  # fmt: skip
_DEFAULT: dict[str, Any] = {
    "sparkVersion": SPARK_VERSION,
    "nodeSizeFamily": "MemoryOptimized",
    "nodeSize": "Small",
    "nodeCount": 3,
    "autoScale": {"enabled": True, "minNodeCount": 3, "maxNodeCount": 6},
    "autoPause": {"enabled": True, "delayInMinutes": 30},
    "sessionLevelPackagesEnabled": False,
}


class Pools:
    """The workspace's Spark pools."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._watchers: list[Callable[[str], None]] = []
        #: Whether a pool has active jobs, by its owner's word.
        self.is_used: Callable[[str], bool] = lambda pool: False

    def operations(self) -> list[Operation]:
        """The workspace's operations, and Resource Manager's."""
        checked = versions.checked(versions.ARTIFACTS)
        one = _POOLS + "/{name}"
        return [
            Operation("BigDataPools_List", "GET", "/bigDataPools", checked(self._list), "synapse"),
            Operation("BigDataPools_Get", "GET", "/bigDataPools/{name}", checked(self._get), "synapse"),
            Operation("BigDataPools_ListByWorkspace", "GET", _POOLS, self._list_in_arm, "arm"),
            Operation("BigDataPools_Get", "GET", one, self._get_in_arm, "arm"),
            Operation("BigDataPools_CreateOrUpdate", "PUT", one, self._put, "arm"),
            Operation("BigDataPools_Update", "PATCH", one, self._patch, "arm"),
            Operation("BigDataPools_Delete", "DELETE", one, self._delete, "arm"),
        ]

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Have a function called with a pool's name whenever it was made, changed or deleted."""
        self._watchers.append(watcher)

    def resource(self, name: str) -> dict[str, Any]:
        """A pool. Raises NotFound, naming those there are."""
        document = self._store.get(KIND, name.lower())
        if document is None and name.lower() == self._settings.spark_pool.lower():
            document = self._document(self._settings.spark_pool, {}, _DEFAULT)
        if document is None:
            there = ", ".join(repr(pool["name"]) for pool in self.all())
            raise NotFound(
                f"Spark pool {name!r} is not in workspace {self._settings.workspace!r}; there is {there}.",
                name,
                "ComputeNotFound",
            )
        return document

    def all(self) -> list[dict[str, Any]]:
        """Every pool, by name."""
        made = {document["name"].lower(): document for document in self._store.list(KIND)}
        own = self._settings.spark_pool.lower()
        if own not in made:
            made[own] = self.resource(own)
        return [made[name] for name in sorted(made)]

    def extent(self, name: str) -> Extent:
        """What the pool has, at its largest. Raises NotFound."""
        resource = self.resource(name)
        properties = resource["properties"]
        vcores, gigabytes = NODE_SIZES[properties["nodeSize"]]
        scaling = properties["autoScale"]
        nodes = scaling["maxNodeCount"] if scaling.get("enabled") else properties["nodeCount"]
        return Extent(resource["name"], nodes, vcores, gigabytes * 1024)

    def idle_seconds(self, name: str) -> float | None:
        """So long after the last use of the pool its idle Spark processes end; None if never."""
        pause = self.resource(name)["properties"]["autoPause"]
        return pause["delayInMinutes"] * _MINUTE if pause.get("enabled") else None

    # The workspace's operations.
    async def _list(self, request: Request, identity: Identity) -> Answer:
        return {"value": self.all()}

    async def _get(self, request: Request, identity: Identity) -> Answer:
        return self.resource(request.path_params["name"])

    # Resource Manager's.
    async def _list_in_arm(self, request: Request, identity: Identity) -> Answer:
        scope.check(request, self._settings)
        return {"value": self.all()}

    async def _get_in_arm(self, request: Request, identity: Identity) -> Answer:
        scope.check(request, self._settings)
        return self.resource(request.path_params["name"])

    async def _put(self, request: Request, identity: Identity) -> Answer:
        scope.check(request, self._settings)
        name = request.path_params["name"]
        if not _NAME.match(name):
            raise BadRequest(
                f"{name!r} can't name a Spark pool: a letter, then up to 14 letters and digits.",
                "bigDataPoolName",
                "InvalidBigDataPoolName",
            )
        body = _object(await request.json(), "The body")
        if not isinstance(body.get("location"), str) or not body["location"]:
            raise BadRequest("location is required.", "location", "LocationRequired")
        known = next((pool for pool in self.all() if pool["name"].lower() == name.lower()), None)
        properties = _properties(_object(body.get("properties") or {}, "properties"))
        document = self._document(
            known["name"] if known else name,
            _object(body.get("tags") or {}, "tags"),
            (known["properties"] if known else {}) | properties,
        )
        self._store.put(KIND, name.lower(), document)
        self._changed(document["name"])
        return document

    async def _patch(self, request: Request, identity: Identity) -> Answer:
        """As on Azure only tags can be patched."""
        scope.check(request, self._settings)
        document = dict(self.resource(request.path_params["name"]))
        body = _object(await request.json(), "The body")
        if unknown := sorted(set(body) - {"tags"}):
            raise BadRequest(f"Only tags can be patched, not {unknown[0]}; put the whole pool.", unknown[0])
        document["tags"] = _object(body.get("tags") or {}, "tags")
        self._store.put(KIND, document["name"].lower(), document)
        return document

    async def _delete(self, request: Request, identity: Identity) -> Answer:
        scope.check(request, self._settings)
        name = request.path_params["name"]
        if name.lower() == self._settings.spark_pool.lower():
            raise Conflict(f"The pool {name!r} belongs to the home's settings and can't be deleted.", name)
        if self.is_used(name):
            raise Conflict(f"The pool {name!r} has active jobs; cancel them first.", name, "SparkPoolInUse")
        if not self._store.delete(KIND, name.lower()):
            return HTTPStatus.NO_CONTENT, None
        self._changed(name)
        return HTTPStatus.OK, {}

    def _changed(self, name: str) -> None:
        for watcher in self._watchers:
            watcher(name)

    def _document(self, name: str, tags: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
        made = properties.get("creationDate") or datetime.datetime.now(datetime.UTC).isoformat()
        return {
            "id": f"{scope.workspace_id(self._settings)}/bigDataPools/{name}",
            "name": name,
            "type": _TYPE,
            "location": self._settings.location,
            "tags": tags,
            "properties": properties | {"provisioningState": "Succeeded", "creationDate": made},
        }


def _properties(given: dict[str, Any]) -> dict[str, Any]:
    """A pool's properties, checked, with what isn't said filled in."""
    if unknown := sorted(set(given) - _KEPT):
        raise BadRequest(f"A Spark pool has no property {unknown[0]!r}.", f"properties.{unknown[0]}")
    for key in _REFUSED:
        if given.get(key):
            raise NotImplementedOperation(f"BigDataPools_CreateOrUpdate with {key}")
    named = {size.lower(): size for size in NODE_SIZES}
    node_size = str(given.get("nodeSize") or "Small")
    if node_size.lower() not in named:
        raise BadRequest(f"nodeSize is one of {', '.join(NODE_SIZES)}, not {node_size!r}.", "properties.nodeSize")
    family = given.get("nodeSizeFamily") or "MemoryOptimized"
    if family != "MemoryOptimized":
        raise NotImplementedOperation(f"BigDataPools_CreateOrUpdate with nodeSizeFamily {family!r}")
    version = str(given.get("sparkVersion") or SPARK_VERSION)
    if version != SPARK_VERSION:
        raise NotImplementedOperation(f"BigDataPools_CreateOrUpdate with sparkVersion {version!r} (it is 3.5 here)")
    scaling = _object(given.get("autoScale") or {"enabled": False}, "properties.autoScale")
    if scaling.get("enabled"):
        fewest = _whole(scaling.get("minNodeCount"), "autoScale.minNodeCount", _LEAST_NODES, _MOST_NODES)
        _whole(scaling.get("maxNodeCount"), "autoScale.maxNodeCount", fewest, _MOST_NODES)
    nodes = given.get("nodeCount")
    if nodes is None and not scaling.get("enabled"):
        raise BadRequest("nodeCount is required without autoScale.", "properties.nodeCount")
    pause = _object(given.get("autoPause") or {"enabled": False}, "properties.autoPause")
    if pause.get("enabled"):
        _whole(pause.get("delayInMinutes"), "autoPause.delayInMinutes", _LEAST_DELAY, 7 * 24 * 60)
    return {
        **given,
        "nodeSize": named[node_size.lower()],
        "nodeSizeFamily": family,
        "sparkVersion": version,
        "nodeCount": scaling["minNodeCount"]
        if nodes is None
        else _whole(nodes, "nodeCount", _LEAST_NODES, _MOST_NODES),
        "autoScale": scaling,
        "autoPause": pause,
        "sessionLevelPackagesEnabled": bool(given.get("sessionLevelPackagesEnabled")),
    }


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be an object.", what)
    return value


def _whole(value: Any, what: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadRequest(f"{what} must be between {least} and {most}, not {value!r}.", f"properties.{what}")
    return value
