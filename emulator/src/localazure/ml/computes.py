"""Computes: clusters, instances and attached ones, as resources with a scale that jobs feel.

https://learn.microsoft.com/rest/api/azureml/compute
"""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, Conflict, NotFound, NotImplementedOperation
from localazure.core.operations import LongRunning
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Store
from localazure.executors.durations import seconds
from localazure.ml.attached_spark import AttachedSpark
from localazure.ml.nodes import COMPUTES, ComputeNodes, Node
from localazure.ml.resources import WORKSPACE, body, in_workspace, page, resource, touched
from localazure.ml.states import timestamp
from localazure.settings import Settings

_KINDS = ("AmlCompute", "ComputeInstance", "Kubernetes", "SynapseSpark")
_KNOWN = (*_KINDS, "AKS", "DataFactory", "DataLakeAnalytics", "Databricks", "HDInsight", "VirtualMachine")
_ATTACHED = frozenset({"Kubernetes", "SynapseSpark"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9\-]{1,31}")
_PRIORITIES = ("Dedicated", "LowPriority")
_DEFAULT_SCALE = {"minNodeCount": 0, "nodeIdleTimeBeforeScaleDown": "PT2M"}
_FIRST_PORT = 50000


class ComputeService:
    """Answers Compute_*."""

    def __init__(
        self, settings: Settings, store: Store, nodes: ComputeNodes, long_running: LongRunning, spark: AttachedSpark
    ) -> None:
        self._settings = settings
        self._store = store
        self._nodes = nodes
        self._long_running = long_running
        self._spark = spark

    def operations(self) -> list[Operation]:
        """Compute_*, as Microsoft's OpenAPI files name them."""

        def operation(name: str, method: str, path: str, handler: Handler) -> Operation:
            return Operation(name, method, WORKSPACE + path, in_workspace(self._settings, handler), "arm")

        return [
            operation("Compute_List", "GET", "/computes", self._list),
            operation("Compute_Get", "GET", "/computes/{name}", self._get),
            operation("Compute_CreateOrUpdate", "PUT", "/computes/{name}", self._put),
            operation("Compute_Update", "PATCH", "/computes/{name}", self._patch),
            operation("Compute_Delete", "DELETE", "/computes/{name}", self._delete),
            operation("Compute_ListNodes", "POST", "/computes/{name}/listNodes", self._list_nodes),
            operation("Compute_Start", "POST", "/computes/{name}/start", self._start),
            operation("Compute_Stop", "POST", "/computes/{name}/stop", self._stop),
            operation("Compute_Restart", "POST", "/computes/{name}/restart", self._start),
        ]

    def seed(self) -> None:
        """The computes a new workspace has."""
        scale = {**_DEFAULT_SCALE, "maxNodeCount": 2}
        limits = {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}
        computes: dict[str, tuple[str, dict[str, Any]]] = {
            "cpu-cluster": ("AmlCompute", {"vmSize": "STANDARD_DS3_V2", "scaleSettings": scale}),
            "aks": ("Kubernetes", {"namespace": "default", "defaultInstanceType": "defaultinstancetype",
                                   "instanceTypes": {"defaultinstancetype": limits}}),
            "synapse-spark": ("SynapseSpark", {}),
        }  # fmt: skip
        for name, (kind, inner) in computes.items():
            # Once: a compute that was deleted stays so.
            if self._store.insert("ml.seeded", f"computes/{name}", {}) and self._store.get(COMPUTES, name) is None:
                self._store.put(COMPUTES, name, self._document(name, {}, {"computeType": kind, "properties": inner}))

    async def _list(self, request: Request, identity: Identity) -> Answer:
        return page(request, self._settings, [self._shown(each) for each in self._store.list(COMPUTES)])

    async def _get(self, request: Request, identity: Identity) -> Answer:
        return self._shown(self._find(request.path_params["name"]))

    async def _put(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        if not _NAME.fullmatch(name):
            raise BadRequest(f"'{name}' is not a valid compute name: 2 to 32 letters, digits and '-', first a letter.")
        content = await body(request)
        known = self._store.get(COMPUTES, name)
        document = self._document(name, content, content["properties"])
        if known is not None:
            self._check_change(known, document)
            document = touched({**document, "systemData": known["systemData"]})
            document["properties"]["createdOn"] = known["properties"].get("createdOn")
        self._store.put(COMPUTES, name, document)
        self._nodes.changed(name)
        return (201 if known is None else 200), self._shown(document)

    async def _patch(self, request: Request, identity: Identity) -> Answer:
        document = self._find(request.path_params["name"])
        asked = ((await body(request))["properties"].get("properties") or {}).get("scaleSettings")
        if document["properties"]["computeType"] != "AmlCompute" or not asked:
            raise BadRequest("Only the scaleSettings of a compute of type AmlCompute can be updated.", code="UserError")
        inner = document["properties"]["properties"]
        inner["scaleSettings"] = {**inner["scaleSettings"], **asked}
        _check_scale(inner["scaleSettings"])
        self._store.put(COMPUTES, document["name"], touched(document))
        self._nodes.changed(document["name"])
        return self._shown(document)

    async def _delete(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        self._find(name)
        nodes = self._nodes.of(name)
        if jobs := sorted({node.job for node in nodes.present() if node.job} | set(nodes.waiting)):
            raise Conflict(f"The compute '{name}' has jobs that aren't over: {', '.join(jobs)}.", code="UserError")
        self._store.delete(COMPUTES, name)
        self._nodes.removed(name)
        return Response(status_code=200)

    async def _list_nodes(self, request: Request, identity: Identity) -> Answer:
        document = self._find(request.path_params["name"])
        if (kind := document["properties"]["computeType"]) != "AmlCompute":
            raise BadRequest(f"The compute '{document['name']}' is of type {kind}: it has no list of nodes.")
        nodes = self._nodes.of(document["name"]).present()
        return {"computeType": "AmlCompute", "nodes": [_shown_node(each, port) for port, each in enumerate(nodes)]}

    async def _start(self, request: Request, identity: Identity) -> Answer:
        return self._become(request.path_params["name"], "Running", "Start")

    async def _stop(self, request: Request, identity: Identity) -> Answer:
        return self._become(request.path_params["name"], "Stopped", "Stop")

    def _become(self, name: str, state: str, operation: str) -> Response:
        document = self._find(name)
        if (kind := document["properties"]["computeType"]) != "ComputeInstance":
            raise BadRequest(f"The compute '{name}' is of type {kind}; instances are started and stopped.")
        nodes = self._nodes.of(name)
        if state == "Stopped" and nodes.busy:
            raise Conflict(f"The compute instance '{name}' runs a job; cancel it first.", code="UserError")
        last = {"operationName": operation, "operationTime": timestamp(), "operationStatus": "Succeeded"}
        document["properties"]["properties"] |= {"state": state, "lastOperation": last}
        self._store.put(COMPUTES, name, touched(document))
        waited = self._long_running.begin(document["id"])
        self._long_running.succeed(waited)
        return Response(status_code=202, headers=self._long_running.headers(waited, kind="result"))

    def _document(self, name: str, content: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        kind = asked.get("computeType")
        if kind not in _KINDS:
            if kind in _KNOWN:
                raise NotImplementedOperation(f"Compute_CreateOrUpdate with computeType {kind}")
            raise BadRequest(f"computeType must be one of {', '.join(_KNOWN)}, not '{kind}'.", "computeType")
        now = timestamp()
        properties = {
            **{key: value for key, value in asked.items() if value is not None},
            "computeType": kind,
            "computeLocation": self._settings.location,
            "provisioningState": "Succeeded",
            "provisioningErrors": None,
            "isAttachedCompute": kind in _ATTACHED,
            "disableLocalAuth": bool(asked.get("disableLocalAuth")),
            "createdOn": now,
            "modifiedOn": now,
            "properties": self._inner(kind, asked.get("properties") or {}, asked.get("resourceId")),
        }
        more = {key: content[key] for key in ("tags", "identity", "sku") if content.get(key)}
        return resource(
            self._settings, f"computes/{name}", properties, location=content.get("location") or self._settings.location,
            **more,
        )  # fmt: skip

    def _inner(self, kind: str, asked: dict[str, Any], resource_id: str | None) -> dict[str, Any]:
        given = {key: value for key, value in asked.items() if value is not None}
        if kind == "AmlCompute":
            if not given.get("vmSize"):
                raise BadRequest("A compute of type AmlCompute needs vmSize.", "vmSize", "UserError")
            if (priority := given.setdefault("vmPriority", "Dedicated")) not in _PRIORITIES:
                raise BadRequest(f"vmPriority must be one of {', '.join(_PRIORITIES)}, not '{priority}'.", "vmPriority")
            scale = {**_DEFAULT_SCALE, "maxNodeCount": 1, **(given.get("scaleSettings") or {})}
            _check_scale(scale)
            # Write-only, as in Azure; nobody can log in to a node here.
            (given.get("userAccountCredentials") or {}).pop("adminUserPassword", None)
            return {"osType": "Linux", "remoteLoginPortPublicAccess": "NotSpecified", **given, "scaleSettings": scale}
        if kind == "ComputeInstance":
            if not given.get("vmSize"):
                raise BadRequest("A compute of type ComputeInstance needs vmSize.", "vmSize", "UserError")
            return {"applicationSharingPolicy": "Shared", **given, "state": "Running"}
        if kind == "SynapseSpark":
            return self._spark.attach(resource_id)
        return {"namespace": "default", **given}

    def _check_change(self, known: dict[str, Any], document: dict[str, Any]) -> None:
        name, old, new = known["name"], known["properties"], document["properties"]
        if old["computeType"] != new["computeType"]:
            raise BadRequest(f"The compute '{name}' is of type {old['computeType']}; that can't be changed.")
        for key in ("vmSize", "vmPriority"):
            if (was := old["properties"].get(key)) != (now := new["properties"].get(key)) and was:
                raise BadRequest(f"The {key} of the compute '{name}' is {was}; it can't become {now}.", key)

    def _find(self, name: str) -> dict[str, Any]:
        document = self._store.get(COMPUTES, name)
        if document is None:
            raise NotFound(f"The compute '{name}' was not found in the workspace.", code="ResourceNotFound")
        return document

    def _shown(self, document: dict[str, Any]) -> dict[str, Any]:
        """The resource with what its nodes do now."""
        properties = document["properties"]
        if properties["computeType"] != "AmlCompute":
            return document
        nodes = self._nodes.of(document["name"])
        present = nodes.present()
        running = nodes.busy
        lost = sum(node.lost for node in present)
        counts = {
            "idleNodeCount": len(present) - running,
            "runningNodeCount": running - lost,
            "preparingNodeCount": 0,
            "unusableNodeCount": 0,
            "leavingNodeCount": 0,
            "preemptedNodeCount": lost,
        }
        live = {
            "allocationState": "Steady",
            "allocationStateTransitionTime": properties.get("modifiedOn"),
            "currentNodeCount": len(present),
            "targetNodeCount": len(present),
            "nodeStateCounts": counts,
            "errors": None,
        }
        return {**document, "properties": {**properties, "properties": {**properties["properties"], **live}}}


def _check_scale(scale: dict[str, Any]) -> None:
    least, most = int(scale["minNodeCount"]), int(scale["maxNodeCount"])
    if not 0 <= least <= most:
        message = f"minNodeCount ({least}) must lie between 0 and maxNodeCount ({most})."
        raise BadRequest(message, "scaleSettings", "UserError")
    seconds(scale.get("nodeIdleTimeBeforeScaleDown"), "scaleSettings.nodeIdleTimeBeforeScaleDown")


def _shown_node(node: Node, number: int) -> dict[str, Any]:
    return {
        "nodeId": node.id,
        "port": _FIRST_PORT + number,
        "publicIpAddress": None,
        "privateIpAddress": "127.0.0.1",
        "nodeState": "preempted" if node.lost else "running" if node.job else "idle",
        "runId": node.job,
    }
