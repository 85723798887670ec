"""Online endpoints and deployments: the operations, and what they set in motion.

The document in the store is what is wanted. A task of its own brings it about: files, inference servers, then the
router; what a deployment ran before goes on serving until the new servers are ready, and is ended when its last
request is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest, Conflict, NotFound
from localazure.core.registry import Handler, Operation
from localazure.core.service import ServiceContext
from localazure.executors import processes
from localazure.ml.resources import require_workspace
from localazure.serving import files, pages, resources, tokens, traffic
from localazure.serving.autoscaling import Autoscaling
from localazure.serving.data_collector import Collected, DataCollector
from localazure.serving.managed_autoscaling import ManagedAutoscaling
from localazure.serving.monitor import Monitor
from localazure.serving.resources import Document
from localazure.serving.router import Router, RouterError
from localazure.serving.routing import (
    DeploymentRoute,
    EndpointRoute,
    access_log,
    configuration,
    scoring_path,
    swagger_path,
)
from localazure.serving.servers import Fleet, Instance, Servers, Spec, StartFailed

log = logging.getLogger(__name__)

_ENDPOINT, _DEPLOYMENT, _KEYS = "serving.endpoints", "serving.deployments", "serving.keys"
# What a deployment really runs: after an update that failed, not what its document says.
_LIVE = "serving.live"
_WORKSPACE = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.MachineLearningServices/workspaces/{workspace}"
)
_IN_PROGRESS = frozenset({"Creating", "Updating", "Deleting"})
# Two servers starting at once is what a small machine does best.
_STARTS_AT_ONCE = 2
_WATCH_SECONDS = 2.0
_DRAIN_POLL_SECONDS = 0.2
_MOST_LOG_LINES = 5000
_PAGE_LOG_LINES = 2000


class ServingService:
    """See the module. State that survives is in the store; `_running` is what is alive."""

    def __init__(self, context: ServiceContext) -> None:
        self._settings = context.settings
        self._store = context.store
        self._long_running = context.long_running
        self._assets: files.Assets = context.require("ml.assets")
        self._router = Router(context.settings)
        self._servers = Servers(context.settings)
        self._collector = DataCollector(context.settings, context.blobs, context.require("ml.assets"))
        self._running: dict[str, Fleet] = {}
        self._draining: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bringing: dict[str, asyncio.Task[None]] = {}
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._routing = asyncio.Lock()
        self._tokens = tokens.EndpointTokens(context.tokens, self._mode_of)
        self._autoscaling = Autoscaling(self._router, self._servers, self._running, self.deployment_named, self._let_go)
        self._monitor = Monitor(context.settings, self)
        self._managed = ManagedAutoscaling(context.settings, context.store, self, self._monitor, self._autoscaling)

    def operations(self) -> list[Operation]:
        endpoints = _WORKSPACE + "/onlineEndpoints"
        endpoint = endpoints + "/{endpoint}"
        deployments = endpoint + "/deployments"
        deployment = deployments + "/{deployment}"
        rows: list[tuple[str, str, str, Handler]] = [
            ("OnlineEndpoints_List", "GET", endpoints, self._list_endpoints),
            ("OnlineEndpoints_Get", "GET", endpoint, self._get_endpoint),
            ("OnlineEndpoints_CreateOrUpdate", "PUT", endpoint, self._put_endpoint),
            ("OnlineEndpoints_Delete", "DELETE", endpoint, self._delete_endpoint),
            ("OnlineEndpoints_ListKeys", "POST", endpoint + "/listKeys", self._list_keys),
            ("OnlineEndpoints_RegenerateKeys", "POST", endpoint + "/regenerateKeys", self._regenerate_keys),
            ("OnlineEndpoints_GetToken", "POST", endpoint + "/token", self._token),
            ("OnlineDeployments_List", "GET", deployments, self._list_deployments),
            ("OnlineDeployments_Get", "GET", deployment, self._get_deployment),
            ("OnlineDeployments_CreateOrUpdate", "PUT", deployment, self._put_deployment),
            ("OnlineDeployments_Delete", "DELETE", deployment, self._delete_deployment),
            ("OnlineDeployments_GetLogs", "POST", deployment + "/getLogs", self._get_logs),
        ]
        # Where links lead: Azure has Azure ML studio for it. A browser brings no token.
        page = Operation("OnlineEndpoints_Page", "GET", "/endpoints/realtime/{endpoint}/detail", self._page, None)
        return [
            *(Operation(name, method, path, handler, "arm") for name, method, path, handler in rows),
            *self._monitor.operations(endpoint, deployment),
            *self._managed.operations(),
            page,
        ]

    async def start(self) -> None:
        """Route at once (503 until ready), and start every deployment again in the background."""
        await self._collector.start(Route(f"/{tokens.PATH}/{{endpoint}}", self._tokens.judge))
        if reaped := await asyncio.to_thread(self._servers.reap):
            log.warning("%d inference servers of an earlier process were ended", reaped)
        for document in self._store.list(_ENDPOINT):
            if document["properties"]["provisioningState"] == "Deleting":
                self._forget_endpoint(document["name"])
            elif document["properties"]["provisioningState"] in _IN_PROGRESS:
                self._set_endpoint_state(document["name"], "Succeeded")
        for document in self._store.list(_DEPLOYMENT):
            endpoint, name = document["id"].split("/")[-3], document["name"]
            if document["properties"]["provisioningState"] == "Deleting":
                self._store.delete(_DEPLOYMENT, f"{endpoint}/{name}")
            elif document["properties"]["provisioningState"] != "Failed" or self._store.get(
                _LIVE, f"{endpoint}/{name}"
            ):
                self._bring(endpoint, name, None)
        self._spawn(self._watch())
        self._spawn(self._autoscaling.keep())
        self._spawn(self._managed.keep())

    async def stop(self) -> None:
        """End every server. The documents stay: the next start brings them back."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._servers.stop(each.instances, grace=2) for each in self._running.values()))
        self._running.clear()
        await self._collector.stop()

    # Endpoints.

    async def _list_endpoints(self, request: Request, identity: Identity) -> dict[str, Any]:
        require_workspace(self._settings, request.path_params)
        return {"value": self._store.list(_ENDPOINT)}

    async def _get_endpoint(self, request: Request, identity: Identity) -> Document:
        return self._endpoint(request)

    async def _put_endpoint(self, request: Request, identity: Identity) -> Response:
        require_workspace(self._settings, request.path_params)
        name = request.path_params["endpoint"]
        body = await _body(request)
        previous = self._store.get(_ENDPOINT, name)
        if previous and previous["properties"]["provisioningState"] in _IN_PROGRESS:
            # https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints (409)
            raise Conflict(f"An operation on endpoint '{name}' is in progress; try again when it has ended.")
        document = resources.endpoint_document(self._id(name), body, previous, identity.subject)
        keys = resources.keys_of(body)
        servable = {key.partition("/")[2] for key in self._running if key.startswith(f"{name}/")}
        resources.check_traffic(document["properties"]["traffic"], self._deployment_names(name), servable)
        document["properties"]["scoringUri"] = self._settings.router_url + scoring_path(name)
        document["properties"]["swaggerUri"] = self._settings.router_url + swagger_path(name)
        self._store.put(_ENDPOINT, name, document)
        kept = self._store.get(_KEYS, name) or {"primaryKey": _new_key(), "secondaryKey": _new_key()}
        self._store.put(_KEYS, name, kept | keys)
        operation = self._long_running.begin(document["id"])
        self._spawn(self._settle_endpoint(name, previous, operation))
        status = HTTPStatus.OK if previous else HTTPStatus.CREATED
        return JSONResponse(document, status, self._long_running.headers(operation, kind="status"))

    async def _settle_endpoint(self, name: str, previous: Document | None, operation: str) -> None:
        try:
            await self._route()
        except RouterError as error:
            # What clients read must be what is routed.
            if previous:
                self._store.put(_ENDPOINT, name, previous)
            else:
                self._set_endpoint_state(name, "Failed")
            self._long_running.fail(operation, AzureError(503, "RouterUnavailable", str(error)))
            return
        self._set_endpoint_state(name, "Succeeded")
        self._long_running.succeed(operation)

    async def _delete_endpoint(self, request: Request, identity: Identity) -> Response:
        require_workspace(self._settings, request.path_params)
        name = request.path_params["endpoint"]
        if self._store.get(_ENDPOINT, name) is None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        self._set_endpoint_state(name, "Deleting")
        operation = self._long_running.begin(self._id(name))
        self._spawn(self._remove_endpoint(name, operation))
        return Response(status_code=HTTPStatus.ACCEPTED, headers=self._long_running.headers(operation, kind="result"))

    async def _remove_endpoint(self, name: str, operation: str) -> None:
        deployments = self._deployment_names(name)
        self._forget_endpoint(name)
        for deployment in deployments:
            await self._end(name, deployment)
        try:
            await self._route()
        except RouterError as error:
            log.warning("endpoint %s is deleted; %s", name, error)
        # Another endpoint of this name begins anew.
        await asyncio.to_thread(traffic.forget, self.log_of(name))
        self._long_running.succeed(operation)

    async def _list_keys(self, request: Request, identity: Identity) -> dict[str, Any]:
        document = self._endpoint(request)
        resources.require_mode(document, "Key")
        kept = self._store.get(_KEYS, document["name"]) or {}
        return {name: kept[name] for name in ("primaryKey", "secondaryKey")}

    async def _regenerate_keys(self, request: Request, identity: Identity) -> Response:
        document = self._endpoint(request)
        resources.require_mode(document, "Key")
        name = document["name"]
        body = await _body(request)
        field = {"primary": "primaryKey", "secondary": "secondaryKey"}.get(str(body.get("keyType")).lower())
        if field is None:
            raise BadRequest("keyType must be Primary or Secondary.", "keyType")
        value = str(body.get("keyValue") or "")
        # Microsoft's SDK sends the current key along, and wants another one all the same.
        if not value or value == (self._store.get(_KEYS, name) or {}).get(field):
            value = _new_key()
        resources.check_key(value, "keyValue")
        self._store.update(_KEYS, name, lambda keys: keys | {field: value})
        operation = self._long_running.begin(self._id(name))
        self._spawn(self._settle_endpoint(name, self._store.get(_ENDPOINT, name), operation))
        return Response(status_code=HTTPStatus.ACCEPTED, headers=self._long_running.headers(operation, kind="result"))

    async def _token(self, request: Request, identity: Identity) -> dict[str, Any]:
        document = self._endpoint(request)
        resources.require_mode(document, "AMLToken")
        return self._tokens.issue(identity.subject, document["name"])

    def _mode_of(self, endpoint: str) -> tuple[str, str] | None:
        """An endpoint's authMode, and what tells it from an earlier one of the same name."""
        document = self._store.get(_ENDPOINT, endpoint)
        return (document["properties"]["authMode"], document["systemData"]["createdAt"]) if document else None

    async def _page(self, request: Request, identity: Identity) -> Response:
        name = request.path_params["endpoint"]
        document = self._store.get(_ENDPOINT, name)
        if document is None:
            raise NotFound(f"Online endpoint '{name}' was not found.", code="ResourceNotFound")
        log_file = access_log(self._router.site, name)
        lines = await asyncio.to_thread(processes.tail, log_file, _PAGE_LOG_LINES)
        deployments = self._store.list(_DEPLOYMENT, f"{name}/")
        return HTMLResponse(pages.endpoint_page(document, deployments, pages.usage(lines)))

    # Deployments.

    async def _list_deployments(self, request: Request, identity: Identity) -> dict[str, Any]:
        name = self._endpoint(request)["name"]
        return {"value": self._store.list(_DEPLOYMENT, f"{name}/")}

    async def _get_deployment(self, request: Request, identity: Identity) -> Document:
        return self._deployment(request)

    async def _put_deployment(self, request: Request, identity: Identity) -> Response:
        endpoint = self._endpoint(request)
        name, key = request.path_params["deployment"], _key(request)
        body = await _body(request)
        previous = self._store.get(_DEPLOYMENT, key)
        if previous and previous["properties"]["provisioningState"] in _IN_PROGRESS:
            raise Conflict(f"An operation on deployment '{key}' is in progress; try again when it has ended.")
        document = resources.deployment_document(name, body, endpoint, previous, identity.subject)
        await asyncio.to_thread(files.check_references, self._assets, document["properties"])
        self._store.put(_DEPLOYMENT, key, document)
        operation = self._long_running.begin(document["id"])
        self._bring(endpoint["name"], name, operation)
        status = HTTPStatus.OK if previous else HTTPStatus.CREATED
        return JSONResponse(document, status, self._long_running.headers(operation, kind="status"))

    async def _delete_deployment(self, request: Request, identity: Identity) -> Response:
        endpoint = self._endpoint(request)
        name, key = request.path_params["deployment"], _key(request)
        if self._store.get(_DEPLOYMENT, key) is None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        if share := endpoint["properties"]["traffic"].get(name):
            raise BadRequest(f"Deployment '{name}' has {share} % of the traffic; set it to 0 first.", "traffic")
        self._set_deployment_state(key, "Deleting")
        self._drop_from_traffic(endpoint["name"], name)
        operation = self._long_running.begin(f"{endpoint['id']}/deployments/{name}")
        self._spawn(self._remove_deployment(endpoint["name"], name, operation))
        return Response(status_code=HTTPStatus.ACCEPTED, headers=self._long_running.headers(operation, kind="result"))

    async def _remove_deployment(self, endpoint: str, name: str, operation: str) -> None:
        await self._end(endpoint, name)
        # Somebody may have written it back meanwhile.
        self._drop_from_traffic(endpoint, name)
        self._long_running.succeed(operation)

    def _drop_from_traffic(self, endpoint: str, name: str) -> None:
        """A deleted deployment isn't in the traffic map any more, not even with 0."""
        document = self._store.get(_ENDPOINT, endpoint)
        if document and name in document["properties"]["traffic"]:
            self._store.update(_ENDPOINT, endpoint, lambda current: _without_traffic(current, name))

    async def _get_logs(self, request: Request, identity: Identity) -> dict[str, Any]:
        document = self._deployment(request)
        body = await _body(request)
        tail = body.get("tail") or 100
        if not isinstance(tail, int) or not 0 < tail <= _MOST_LOG_LINES:
            raise BadRequest(f"tail must be a number of lines from 1 to {_MOST_LOG_LINES}.", "tail")
        container = str(body.get("containerType") or "InferenceServer")
        lines = files.log_lines(self._settings, request.path_params["endpoint"], document, container, tail)
        return {"content": "\n".join(lines) + "\n" if lines else ""}

    # What the monitor asks for.

    def endpoint_of(self, request: Request) -> Document:
        return self._endpoint(request)

    def deployment_of(self, request: Request) -> Document:
        return self._deployment(request)

    def fleets(self) -> Mapping[str, Fleet]:
        return self._running

    def log_of(self, endpoint: str) -> Path:
        return access_log(self._router.site, endpoint)

    def endpoint_named(self, endpoint: str) -> Document | None:
        return self._store.get(_ENDPOINT, endpoint)

    def deployment_named(self, key: str) -> Document | None:
        return self._store.get(_DEPLOYMENT, key)

    def resize(self, key: str, instances: int) -> bool:
        """Write down how many instances a deployment has; False if it is being changed, or gone."""
        try:
            self._store.update(_DEPLOYMENT, key, lambda document: resources.resized(document, instances, "Succeeded"))
            self._store.update(_LIVE, key, lambda document: resources.resized(document, instances))
        except (Conflict, KeyError):
            return False
        return True

    def collected(self) -> Mapping[tuple[int, str, str, bool], int]:
        return self._collector.counted

    # What is set in motion.

    def _bring(self, endpoint: str, name: str, operation: str | None) -> None:
        task = self._spawn(self._bring_up(endpoint, name, operation))
        self._bringing[f"{endpoint}/{name}"] = task

    async def _bring_up(self, endpoint: str, name: str, operation: str | None) -> None:
        """Make the deployment run what its document says; the servers before it go on until then.

        Without an operation (at the start) a deployment whose last update failed runs what it ran before.
        """
        key = f"{endpoint}/{name}"
        before: list[Instance] = []
        try:
            async with self._starts:
                document = self._store.get(_DEPLOYMENT, key)
                if document is None:
                    return
                failed_update = operation is None and document["properties"]["provisioningState"] == "Failed"
                if failed_update:
                    document = self._store.get(_LIVE, key) or document
                spec = await asyncio.to_thread(self._prepare, endpoint, document)
                before = await self._run(key, spec)
            await self._route()
        except (AzureError, StartFailed, RouterError, OSError) as error:
            failure = _failure(name, error)
            log.warning("%s: %s", key, failure.message)
            self._set_deployment_state(key, "Failed")
            # Whoever asks it by name is told its state.
            with contextlib.suppress(RouterError):
                await self._route()
            if operation:
                self._long_running.fail(operation, failure)
            return
        if not failed_update:
            self._store.put(_LIVE, key, document)
            self._set_deployment_state(key, "Succeeded")
        if operation:
            self._long_running.succeed(operation)
        log.info("%s runs on %s", key, ", ".join(self._running[key].addresses))
        if before:
            await self._drain(key, before)
        # The files of a failed update stay, with its log, until the next one.
        wanted = self._store.get(_DEPLOYMENT, key) or document
        keep = {spec.folder, files.folder_of(self._settings, endpoint, name) / files.digest(wanted)}
        await asyncio.to_thread(files.forget_versions, self._settings, endpoint, name, keep)

    async def _run(self, key: str, spec: Spec) -> list[Instance]:
        """Make a deployment run `spec`; the instances that are no longer wanted, to be drained. Raises StartFailed."""
        async with self._autoscaling.lock:
            current = self._running.get(key)
            if current and not current.given_up and replace(current.spec, instances=spec.instances) == spec:
                released = await self._servers.scale(current, self._autoscaling.count(key, current, spec.instances))
            else:
                self._running[key] = await self._servers.start(spec, self._reroute)
                released = current.release(0) if current else []
        self._draining |= {instance.address for instance in released}
        return released

    def _prepare(self, endpoint: str, document: Document) -> Spec:
        """The deployment's files in place, and what tells its scoring script where collected data goes. Blocks."""
        spec = files.prepare(self._settings, self._assets, endpoint, document)
        collected = Collected.parse(document["properties"].get("dataCollector"))
        more = self._collector.environment(spec.label, document["id"], collected, spec.folder)
        return replace(spec, environment={**spec.environment, **more})

    async def _end(self, endpoint: str, name: str) -> None:
        """Stop routing to a deployment, end its servers when they are idle, forget it."""
        key = f"{endpoint}/{name}"
        if task := self._bringing.pop(key, None):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._store.delete(_DEPLOYMENT, key)
        self._store.delete(_LIVE, key)
        if running := self._running.pop(key, None):
            released = running.release(0)
            self._draining |= {instance.address for instance in released}
            try:
                await self._route()
            except RouterError as error:
                log.warning("%s is deleted; %s", key, error)
            await self._drain(key, released)
        self._collector.forget(key)
        await asyncio.to_thread(files.forget_versions, self._settings, endpoint, name, set())

    async def _drain(self, key: str, instances: list[Instance]) -> None:
        """End servers that get no new requests, when the last one is answered (or has taken too long)."""
        addresses = {instance.address for instance in instances}
        loop = asyncio.get_running_loop()
        document = self._store.get(_DEPLOYMENT, key)
        end = loop.time() + (_timeout(document) if document else 30.0) + 1
        try:
            # A request may have been assigned and not be counted yet.
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
            while loop.time() < end and await self._router.open_requests(addresses):
                await asyncio.sleep(_DRAIN_POLL_SECONDS)
        except RouterError as error:
            log.warning("%s is ended without waiting for its requests: %s", key, error)
        finally:
            await self._servers.stop(instances)
            self._draining -= addresses

    def _reroute(self) -> None:
        """An instance came or went: tell the router at once."""
        self._spawn(self._try_to_route())

    async def _try_to_route(self) -> None:
        try:
            await self._route()
        except RouterError as error:
            log.warning("%s", error)

    async def _route(self) -> None:
        """Tell the router what is there now. Raises RouterError."""
        async with self._routing:
            await self._router.apply(configuration(self._router.site, self._routes(), self._draining))

    def _routes(self) -> list[EndpointRoute]:
        routes = []
        for document in self._store.list(_ENDPOINT):
            name = document["name"]
            deployments = []
            for each in self._store.list(_DEPLOYMENT, f"{name}/"):
                running = self._running.get(f"{name}/{each['name']}")
                addresses = running.addresses if running else ()
                state = each["properties"]["provisioningState"]
                limit = resources.request_limit(each)
                deployments.append(DeploymentRoute(each["name"], addresses, state, _timeout(each), limit))
            keys, verifier = tuple((self._store.get(_KEYS, name) or {}).values()), ""
            if document["properties"]["authMode"] != "Key":
                verifier = f"127.0.0.1:{self._settings.data_collector_port}/{tokens.PATH}/{name}"
            kubernetes = bool(document["properties"].get("compute"))
            traffic = document["properties"]["traffic"]
            routes.append(EndpointRoute(name, keys, kubernetes, traffic, tuple(deployments), verifier))
        return routes

    async def _watch(self) -> None:
        """Route as soon as the router answers, and again whenever it was started anew."""
        while True:
            try:
                await self._route()
                if await self._router.ensure():
                    log.warning("the router was started again; it knows its endpoints again")
                await self._monitor.look()
            except (RouterError, OSError) as error:
                log.warning("%s", error)
            await asyncio.sleep(_WATCH_SECONDS)

    async def _let_go(self, key: str, instances: list[Instance]) -> None:
        """Route by the fleets as they are now, and end what a fleet has released. Raises RouterError."""
        self._draining |= {instance.address for instance in instances}
        try:
            await self._route()
        finally:
            if instances:
                self._spawn(self._drain(key, instances))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a task of serving failed", exc_info=error)

    # Documents.

    def _endpoint(self, request: Request) -> Document:
        require_workspace(self._settings, request.path_params)
        name = request.path_params["endpoint"]
        document = self._store.get(_ENDPOINT, name)
        if document is None:
            raise NotFound(f"Online endpoint '{name}' was not found.", code="ResourceNotFound")
        return document

    def _deployment(self, request: Request) -> Document:
        self._endpoint(request)
        document = self._store.get(_DEPLOYMENT, _key(request))
        if document is None:
            raise NotFound(f"Online deployment '{_key(request)}' was not found.", code="ResourceNotFound")
        return document

    def _deployment_names(self, endpoint: str) -> list[str]:
        return [document["name"] for document in self._store.list(_DEPLOYMENT, f"{endpoint}/")]

    def _id(self, endpoint: str) -> str:
        return f"{self._settings.workspace_id}/onlineEndpoints/{endpoint}"

    def _forget_endpoint(self, name: str) -> None:
        self._store.delete(_ENDPOINT, name)
        self._store.delete(_KEYS, name)
        self._monitor.forget(name)

    def _set_endpoint_state(self, name: str, state: str) -> None:
        self._set_state(_ENDPOINT, name, state)

    def _set_deployment_state(self, key: str, state: str) -> None:
        self._set_state(_DEPLOYMENT, key, state)

    def _set_state(self, kind: str, key: str, state: str) -> None:
        def change(document: Document) -> Document:
            return document | {"properties": document["properties"] | {"provisioningState": state}}

        try:
            self._store.update(kind, key, change)
        except KeyError:
            # Deleted in the meantime.
            log.info("%s %s is gone; its state would be %s", kind, key, state)


def _failure(name: str, error: Exception) -> AzureError:
    """Why a deployment failed, for the client: with the container's last log lines."""
    if isinstance(error, AzureError):
        return error
    if isinstance(error, StartFailed):
        # https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints (ResourceNotReady)
        shown = "\n".join(error.lines)
        message = f"User container has crashed or terminated: {error}. Its last log lines:\n{shown}"
        return AzureError(400, "ResourceNotReady", message, name)
    if isinstance(error, RouterError):
        return AzureError(503, "RouterUnavailable", str(error), name)
    return AzureError(500, "InternalServerError", f"Deployment '{name}' failed: {error}", name)


def _without_traffic(document: Document, deployment: str) -> Document:
    traffic = {name: share for name, share in document["properties"]["traffic"].items() if name != deployment}
    return document | {"properties": document["properties"] | {"traffic": traffic}}


def _timeout(deployment: Document) -> float:
    return resources.seconds(deployment["properties"]["requestSettings"]["requestTimeout"])


def _key(request: Request) -> str:
    return f"{request.path_params['endpoint']}/{request.path_params['deployment']}"


def _new_key() -> str:
    return secrets.token_urlsafe(32)


async def _body(request: Request) -> dict[str, Any]:
    if not await request.body():
        return {}
    body = await request.json()
    if not isinstance(body, dict):
        raise BadRequest("The request's body must be a JSON object.", code="InvalidRequestContent")
    return body
