"""Azure Monitor's autoscale settings of managed online deployments: the operations, and the loop that obeys them.

https://learn.microsoft.com/azure/machine-learning/how-to-autoscale-endpoints and
https://learn.microsoft.com/rest/api/monitor/autoscale-settings. Rules read what the metrics operations answer, of
minutes that are over, and profiles go by `localazure.core.clock`. The number of instances is the deployment's own
capacity: whoever reads the deployment sees it, and whoever writes another one is corrected when it is out of bounds.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localazure.core.auth import Identity
from localazure.core.clock import Clock
from localazure.core.errors import AzureError, BadRequest, Conflict, NotFound
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Store
from localazure.ml.resources import body, page
from localazure.serving import autoscale_webhooks, resources
from localazure.serving.autoscale_decision import decide
from localazure.serving.autoscale_settings import Profile, Resource, Setting, Trigger, require_object
from localazure.serving.autoscaling import Autoscaling
from localazure.serving.monitor import Monitor
from localazure.serving.resources import MOST_INSTANCES, Document
from localazure.serving.router import RouterError
from localazure.serving.servers import Fleet, StartFailed
from localazure.settings import Settings

log = logging.getLogger(__name__)

_SETTING, _COOLDOWN = "insights.autoscalesettings", "insights.autoscalesettings.cooldowns"
_TYPE = "Microsoft.Insights/autoscaleSettings"
_SUBSCRIPTION = "/subscriptions/{subscription}"
_GROUP = _SUBSCRIPTION + "/resourcegroups/{group}"
_PATH = "/providers/Microsoft.Insights/autoscalesettings"
_NAME = re.compile(r"[^<>*%&:?+/\\]{1,259}[^<>*%&:?+/\\. ]|[^<>*%&:?+/\\. ]")
# Azure's engine looks every 30 to 60 seconds. Metrics change once a minute; what looks oftener waits less.
_LOOK_SECONDS = 1.0
# The last requests of a minute are in the router's log by then.
_SETTLE_SECONDS = 3
_MINUTE = 60
_AFTER_FAILURE_SECONDS = 30.0


class Deployments(Protocol):
    """What is needed of the service: documents, servers, and the writing of a deployment's capacity."""

    def endpoint_named(self, endpoint: str) -> Document | None: ...

    def deployment_named(self, key: str) -> Document | None: ...

    def fleets(self) -> Mapping[str, Fleet]: ...

    def resize(self, key: str, instances: int) -> bool: ...


class ManagedAutoscaling:
    """See the module. Cool-downs are in the store: they outlive a restart."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        deployments: Deployments,
        monitor: Monitor,
        autoscaling: Autoscaling,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = Clock(settings.clock_file)
        self._deployments = deployments
        self._monitor = monitor
        self._autoscaling = autoscaling
        self._readings: dict[Trigger, float | None] = {}
        self._read_until = datetime.min.replace(tzinfo=UTC)
        self._said: dict[str, str] = {}
        self._paused: dict[str, float] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def operations(self) -> list[Operation]:
        """AutoscaleSettings_*."""
        one = _GROUP + _PATH + "/{setting}"
        rows: list[tuple[str, str, str, Handler]] = [
            ("AutoscaleSettings_ListByResourceGroup", "GET", _GROUP + _PATH, self._list),
            ("AutoscaleSettings_ListBySubscription", "GET", _SUBSCRIPTION + _PATH, self._list),
            ("AutoscaleSettings_Get", "GET", one, self._get),
            ("AutoscaleSettings_CreateOrUpdate", "PUT", one, self._put),
            ("AutoscaleSettings_Update", "PATCH", one, self._patch),
            ("AutoscaleSettings_Delete", "DELETE", one, self._delete),
        ]
        return [Operation(name, method, path, handler, "arm") for name, method, path, handler in rows]

    # Operations.

    async def _list(self, request: Request, identity: Identity) -> Answer:
        self._require(request)
        return page(request, self._settings, self._store.list(_SETTING))

    async def _get(self, request: Request, identity: Identity) -> Answer:
        return self._find(request)

    async def _put(self, request: Request, identity: Identity) -> Answer:
        self._require(request)
        name = request.path_params["setting"]
        if not _NAME.fullmatch(name):
            raise BadRequest(f"'{name}' is not a valid name of an autoscale setting.", "name")
        asked = await body(request)
        if not asked.get("location"):
            message = "The location property is required for this definition."
            raise BadRequest(message, "location", "LocationRequired")
        known = self._store.get(_SETTING, name.lower())
        group = f"/subscriptions/{self._settings.subscription_id}/resourceGroups/{self._settings.resource_group}"
        properties = {
            "enabled": True,
            "notifications": [],
            **{key: value for key, value in asked["properties"].items() if value is not None},
            "name": name,
            "targetResourceLocation": self._settings.location,
        }
        author = resources.origin(known, identity.subject)
        document = resources.resource_document(f"{group}{_PATH}/{name}", _TYPE, asked, properties, author)
        self._keep(document, known)
        return JSONResponse(document, HTTPStatus.OK if known else HTTPStatus.CREATED)

    async def _patch(self, request: Request, identity: Identity) -> Answer:
        """Tags and properties that are named take the place of those that were there."""
        known = self._find(request)
        asked = await request.json()
        given = asked.get("properties") or {} if isinstance(asked, dict) else None
        if not isinstance(given, dict):
            raise BadRequest("The request body must be a JSON object.", code="InvalidRequestContent")
        changes = {key: value for key, value in given.items() if value is not None}
        document = {
            **known,
            "tags": known["tags"] if asked.get("tags") is None else require_object(asked["tags"], "tags"),
            "properties": {**known["properties"], **changes, "name": known["name"]},
            "systemData": resources.origin(known, identity.subject),
        }
        self._keep(document, known)
        return document

    async def _delete(self, request: Request, identity: Identity) -> Answer:
        self._require(request)
        name = request.path_params["setting"].lower()
        self._store.delete(_COOLDOWN, name)
        return Response(status_code=HTTPStatus.OK if self._store.delete(_SETTING, name) else HTTPStatus.NO_CONTENT)

    def _keep(self, document: Document, known: Document | None) -> None:
        """Store a setting that can be carried out. Raises what is wrong with it."""
        setting = Setting.parse(document["properties"], MOST_INSTANCES)
        autoscale_webhooks.check(document["properties"]["notifications"])
        before = known["properties"] if known else {}
        # A setting outlives its deployment, and can then still be disabled.
        if any(before.get(name) != document["properties"][name] for name in ("targetResourceUri", "profiles")):
            self._check_target(setting.target)
            for resource in setting.resources:
                if self._document_of(resource) is None:
                    raise BadRequest(f"There is no {resource.id} whose metric could be read.", "metricResourceUri")
        for other in self._store.list(_SETTING):
            same = other["properties"]["targetResourceUri"].lower() == setting.target.id.lower()
            if same and other["name"].lower() != document["name"].lower():
                raise Conflict(f"{setting.target.id} has an autoscale setting already: {other['name']}.")
        self._store.put(_SETTING, document["name"].lower(), document)

    def _check_target(self, target: Resource) -> None:
        found = self._document_of(target)
        if found is None:
            # https://github.com/Azure/azure-powershell/issues/11710
            raise BadRequest(
                f"The target resource {target.id} was not found.", "targetResourceUri", "TargetResourceNotFound"
            )
        if found["properties"].get("endpointComputeType") == "Kubernetes":
            # https://learn.microsoft.com/azure/machine-learning/how-to-kubernetes-inference-routing-azureml-fe#autoscaling
            raise BadRequest(
                "Autoscale settings are for managed online deployments; a Kubernetes deployment is scaled by its own "
                "scaleSettings (TargetUtilization).",
                "targetResourceUri",
            )

    def _require(self, request: Request) -> None:
        known = {"subscription": self._settings.subscription_id, "group": self._settings.resource_group}
        for name, wanted in request.path_params.items():
            if name in known and wanted.lower() != known[name].lower():
                kind = "Subscription" if name == "subscription" else "ResourceGroup"
                raise NotFound(f"The {kind} '{wanted}' was not found.", code=f"{kind}NotFound")

    def _find(self, request: Request) -> Document:
        self._require(request)
        name = request.path_params["setting"]
        found = self._store.get(_SETTING, name.lower())
        if found is None:
            # https://github.com/Azure/azure-cli/issues/11754
            group = self._settings.resource_group
            message = f"The Resource '{_TYPE.lower()}/{name}' under resource group '{group}' was not found."
            raise NotFound(message, code="ResourceNotFound")
        return found

    def _document_of(self, resource: Resource) -> Document | None:
        settings = self._settings
        here = (settings.subscription_id, settings.resource_group, settings.workspace)
        there = (resource.subscription, resource.group, resource.workspace)
        if [name.lower() for name in here] != [name.lower() for name in there]:
            return None
        if resource.deployment is None:
            return self._deployments.endpoint_named(resource.endpoint)
        return self._deployments.deployment_named(resource.key)

    # What carries the settings out.

    async def keep(self) -> None:
        """Look and scale, for ever."""
        try:
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                for document in self._store.list(_SETTING):
                    await self._try(document)
        finally:
            for task in self._telling:
                task.cancel()

    async def _try(self, document: Document) -> None:
        """One look at one setting. What fails is tried again after a while; the other settings don't wait for it."""
        name = document["name"]
        if self._paused.get(name, 0.0) > time.monotonic():
            return
        try:
            await self._look(document)
        except Exception as error:
            self._paused[name] = time.monotonic() + _AFTER_FAILURE_SECONDS
            expected = isinstance(error, AzureError | RouterError | StartFailed | OSError)
            log.warning("autoscale setting %s: %s", name, error, exc_info=not expected)

    async def _look(self, document: Document) -> None:
        setting = Setting.parse(document["properties"], MOST_INSTANCES)
        key = setting.target.key
        fleet, deployment = self._deployments.fleets().get(key), self._deployments.deployment_named(key)
        profile = setting.active(self._clock.now()) if setting.enabled else None
        if profile is None or fleet is None or deployment is None:
            return
        if deployment["properties"]["provisioningState"] != "Succeeded":
            return
        readings = [await self._reading(rule.trigger) for rule in profile.rules]
        before = len(fleet.instances)
        decision = decide(profile, readings, before, self._cooling(document["name"]), MOST_INSTANCES)
        if decision.instances == before:
            self._say(document["name"], profile, decision.reason)
            return
        # What is wanted first, then what brings it about, as with every change of a deployment.
        if not self._deployments.resize(key, decision.instances):
            return
        try:
            if not await self._autoscaling.bring(key, fleet, decision.instances):
                return
        except StartFailed:
            self._deployments.resize(key, before)
            raise
        log.info("%s: %d instances instead of %d (%s)", key, decision.instances, before, decision.reason)
        if decision.cooldown is not None:
            until = datetime.now(UTC) + timedelta(seconds=decision.cooldown)
            self._store.put(_COOLDOWN, document["name"].lower(), {"until": until.isoformat()})
        told = asyncio.create_task(autoscale_webhooks.tell(document, deployment, before, decision.instances))
        self._telling.add(told)
        told.add_done_callback(self._telling.discard)

    async def _reading(self, trigger: Trigger) -> float | None:
        """A rule's value over its window, or None if there is nothing to read."""
        settled = int(time.time() - _SETTLE_SECONDS) // _MINUTE * _MINUTE
        until = datetime.fromtimestamp(settled, UTC)
        if until != self._read_until:
            self._readings, self._read_until = {}, until
        if trigger not in self._readings:
            document = self._document_of(trigger.resource)
            answer = await self._monitor.asked(document, trigger.query(until)) if document else None
            self._readings[trigger] = trigger.over_time(answer) if answer else None
        return self._readings[trigger]

    def _cooling(self, name: str) -> bool:
        known = self._store.get(_COOLDOWN, name.lower())
        return known is not None and datetime.now(UTC) < datetime.fromisoformat(known["until"])

    def _say(self, name: str, profile: Profile, reason: str) -> None:
        """Log which profile holds, and what keeps it from scaling, once."""
        said = f"profile '{profile.name}'" + (f": {reason}" if reason else "")
        if self._said.get(name) != said:
            self._said[name] = said
            log.info("autoscale setting %s, %s", name, said)
