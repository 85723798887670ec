"""Online endpoints and deployments as Resource Manager documents: what a client may write, and what it gets back.

Pure: values in, values out. Shapes: https://learn.microsoft.com/rest/api/azureml/online-endpoints and
.../online-deployments (api-versions 2022-02-01-preview and 2023-04-01-preview, the ones Microsoft's SDK sends).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Mapping
from typing import Any

from localazure.core.errors import BadRequest, Conflict, NotImplementedOperation
from localazure.executors import durations
from localazure.serving import scaling
from localazure.serving.data_collector import Collected

Document = dict[str, Any]

ENDPOINT_TYPE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints"
DEPLOYMENT_TYPE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments"

# https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas : 3 to 32 characters, letters, digits and -,
# a letter first, no - last. Deployments alike.
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{1,30})[A-Za-z0-9]")
# Caddy's header matcher reads a leading or trailing * as a wildcard.
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")

# What Azure fills in where a deployment says nothing:
# https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-kubernetes-online
_REQUEST_SETTINGS = {"maxConcurrentRequestsPerInstance": 1, "requestTimeout": "PT5S", "maxQueueWait": "PT0.5S"}
_PROBE = {"initialDelay": "PT10S", "period": "PT10S", "timeout": "PT2S", "successThreshold": 1, "failureThreshold": 30}
_LONGEST_TIMEOUT_SECONDS = 300.0
#: Of a deployment, on this machine.
MOST_INSTANCES = 8
_ALL = 100  # percent


def endpoint_document(identifier: str, body: Mapping[str, Any], previous: Document | None, author: str) -> Document:
    """The endpoint as it is kept after a PUT with `body`. Raises BadRequest, NotImplementedOperation.

    As on Azure, a PUT replaces the whole resource: without a traffic map all traffic is 0. Traffic isn't judged here
    (`check_traffic`). Keys of the caller's choice are taken by `keys_of` and never kept in the document.
    """
    name = identifier.rpartition("/")[2]
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"Endpoint name {name!r} is not valid: 3 to 32 letters, digits or '-', a letter first, no '-' last.", "name"
        )
    given = dict(body.get("properties") or {})
    given.pop("keys", None)
    if given.get("authMode") not in {"Key", "AMLToken", "AADToken"}:
        raise BadRequest("properties.authMode must be Key, AMLToken or AADToken.", "properties.authMode")
    if given["authMode"] == "AADToken" and given.get("compute"):
        # https://learn.microsoft.com/azure/machine-learning/concept-endpoints-online-auth#limitation
        message = "Microsoft Entra tokens (aad_token) are for managed online endpoints only; use key or aml_token."
        raise BadRequest(message, "properties.authMode")
    if previous and bool(previous["properties"].get("compute")) != bool(given.get("compute")):
        raise BadRequest("An endpoint can't change between managed and Kubernetes compute; delete it first.", "compute")
    if any((given.get("mirrorTraffic") or {}).values()):
        if given.get("compute"):
            # https://learn.microsoft.com/azure/machine-learning/how-to-safely-rollout-online-endpoints
            raise BadRequest("Mirror traffic isn't supported for Kubernetes online endpoints.", "mirrorTraffic")
        raise NotImplementedOperation("OnlineEndpoints_CreateOrUpdate with mirrorTraffic")
    properties = given | {"traffic": dict(given.get("traffic") or {}), "mirrorTraffic": {}}
    properties["properties"] = dict(given.get("properties") or {})
    properties["provisioningState"] = "Updating" if previous else "Creating"
    return resource_document(identifier, ENDPOINT_TYPE, body, properties, origin(previous, author))


def keys_of(body: Mapping[str, Any]) -> dict[str, str]:
    """The keys that a PUT of an endpoint brings along, if any. Raises BadRequest."""
    given = (body.get("properties") or {}).get("keys") or {}
    keys = {name: str(given[name]) for name in ("primaryKey", "secondaryKey") if given.get(name)}
    for name, value in keys.items():
        check_key(value, f"properties.keys.{name}")
    return keys


def require_mode(endpoint: Document, mode: str) -> None:
    """Raise BadRequest unless callers of the endpoint identify themselves by `mode`."""
    found = endpoint["properties"]["authMode"]
    if found != mode:
        instead = {
            "Key": "list its keys",
            "AMLToken": "ask for a token of its own (POST .../token)",
            "AADToken": "ask Microsoft Entra for a token for https://ml.azure.com",
        }[found]
        raise BadRequest(f"Endpoint '{endpoint['name']}' has authMode {found}: {instead}.", "authMode")


def check_key(value: str, target: str) -> None:
    """Raise BadRequest unless `value` may serve as a key."""
    if not _KEY.fullmatch(value):
        raise BadRequest("A key has 16 to 256 characters out of A-Z a-z 0-9 . _ ~ + / = -", target)


def check_traffic(traffic: Mapping[str, Any], deployments: Collection[str], servable: Collection[str]) -> None:
    """Raise BadRequest unless the map names existing deployments and sums to 0 or 100.

    `servable` are the deployments that have an instance to answer; the others may have 0 only.
    """
    for name, percent in traffic.items():
        if name not in deployments:
            known = ", ".join(sorted(deployments)) or "none"
            raise BadRequest(f"Traffic names deployment {name!r}, which doesn't exist (there is {known}).", "traffic")
        if isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= _ALL:
            raise BadRequest(f"Traffic of deployment {name!r} must be a whole number from 0 to 100.", "traffic")
        if percent and name not in servable:
            raise BadRequest(
                f"Deployment {name!r} isn't ready to take traffic (provisioning failed or runs).", "traffic"
            )
    total = sum(traffic.values())
    if total not in {0, _ALL}:
        raise BadRequest(f"The sum of traffic percentages must be 0 or 100; it is {total}.", "traffic")


def deployment_document(
    name: str, body: Mapping[str, Any], endpoint: Document, previous: Document | None, author: str
) -> Document:
    """The deployment as it is kept after a PUT with `body`. Raises BadRequest, NotImplementedOperation."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"Deployment name {name!r} is not valid: 3 to 32 letters, digits or '-', a letter first, no '-' last.",
            "name",
        )
    given = dict(body.get("properties") or {})
    kind = given.get("endpointComputeType") or "Managed"
    expected = "Kubernetes" if endpoint["properties"].get("compute") else "Managed"
    if kind != expected:
        raise BadRequest(f"The endpoint is {expected}; endpointComputeType is {kind}.", "endpointComputeType")
    _check_packaging(given)
    for feature in ("modelMountPath", "privateNetworkConnection"):
        if given.get(feature):
            raise NotImplementedOperation(f"OnlineDeployments_CreateOrUpdate with {feature}")
    properties = given | {
        "requestSettings": _REQUEST_SETTINGS | _given(given.get("requestSettings")),
        "livenessProbe": _PROBE | _given(given.get("livenessProbe")),
        "readinessProbe": _PROBE | _given(given.get("readinessProbe")),
        "scaleSettings": scaling.checked(given.get("scaleSettings"), kind == "Kubernetes", MOST_INSTANCES),
        # The SDK fails on a Kubernetes deployment without them.
        "containerResourceRequirements": given.get("containerResourceRequirements") or {},
        "properties": dict(given.get("properties") or {}),
        "environmentVariables": {k: str(v) for k, v in (given.get("environmentVariables") or {}).items()},
        "provisioningState": "Updating" if previous else "Creating",
    }
    if given.get("dataCollector"):
        properties["dataCollector"] = data_collector(given["dataCollector"])
    identifier = f"{endpoint['id']}/deployments/{name}"
    document = resource_document(identifier, DEPLOYMENT_TYPE, body, properties, origin(previous, author))
    document["sku"] = {"name": "Default"} | _given(body.get("sku"))
    document["sku"]["capacity"] = instances_of(document)
    for setting in ("requestSettings", "livenessProbe", "readinessProbe"):
        for field, value in properties[setting].items():
            if isinstance(value, str):
                seconds(value, f"properties.{setting}.{field}")
    if not 0 < seconds(properties["requestSettings"]["requestTimeout"]) <= _LONGEST_TIMEOUT_SECONDS:
        raise BadRequest("requestTimeout must be above 0 and at most 300 s.", "properties.requestSettings")
    at_once = properties["requestSettings"]["maxConcurrentRequestsPerInstance"]
    if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
        message = "maxConcurrentRequestsPerInstance must be a whole number above 0."
        raise BadRequest(message, "properties.requestSettings")
    return document


def has_code(properties: Mapping[str, Any]) -> bool:
    """Whether a deployment brings a scoring script."""
    return bool((properties.get("codeConfiguration") or {}).get("codeId"))


def _check_packaging(given: Mapping[str, Any]) -> None:
    """Raise BadRequest unless it is said what runs: script and environment, or an MLflow model that needs neither."""
    code = given.get("codeConfiguration") or {}
    if bool(code.get("codeId")) != bool(code.get("scoringScript")):
        raise BadRequest("codeConfiguration needs codeId and scoringScript, both.", "properties.codeConfiguration")
    if not has_code(given):
        if not given.get("model"):
            raise BadRequest("There is neither codeConfiguration nor a model.", "properties.codeConfiguration")
        if given.get("endpointComputeType") == "Kubernetes":
            # https://learn.microsoft.com/azure/machine-learning/how-to-deploy-mlflow-models#deployment-tools
            raise BadRequest(
                "A Kubernetes deployment needs codeConfiguration and environmentId: only managed online endpoints "
                "generate them for an MLflow model.",
                "properties.codeConfiguration",
            )
    elif not given.get("environmentId"):
        raise BadRequest("properties.environmentId is missing.", "properties.environmentId")


def data_collector(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a deployment collects, in Azure's spelling. Raises BadRequest, NotImplementedOperation."""
    collected = Collected.parse(given)
    if (given.get("requestLogging") or {}).get("captureHeaders"):
        # Where headers stand in a collected line isn't in Microsoft's documentation.
        raise NotImplementedOperation("OnlineDeployments_CreateOrUpdate with dataCollector.requestLogging")
    names = {collection.name for collection in collected.collections} if collected else set()
    collections = {
        name: {**entry, "dataCollectionMode": "Enabled" if name.lower() in names else "Disabled"}
        for name, entry in (given.get("collections") or {}).items()
    }
    return {**given, "collections": collections}


def instances_of(deployment: Document) -> int:
    """How many instances a deployment wants. Raises BadRequest."""
    capacity = (deployment.get("sku") or {}).get("capacity")
    capacity = 1 if capacity is None else capacity
    if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= MOST_INSTANCES:
        raise BadRequest(f"sku.capacity must be a whole number from 1 to {MOST_INSTANCES} here.", "sku.capacity")
    scale = scaling.Scale.parse((deployment.get("properties") or {}).get("scaleSettings"))
    return scale.clamped(capacity) if scale else capacity


def resized(deployment: Document, instances: int, wanted: str | None = None) -> Document:
    """The deployment with another number of instances. Raises Conflict unless its state is `wanted`, if one is."""
    state = deployment["properties"]["provisioningState"]
    if wanted and state != wanted:
        raise Conflict(f"Deployment '{deployment['name']}' is {state}.")
    return deployment | {"sku": deployment["sku"] | {"capacity": instances}}


def request_limit(deployment: Document) -> int | None:
    """How many requests an instance may have at once; None on Kubernetes, where requests wait in a queue.

    https://learn.microsoft.com/azure/machine-learning/how-to-troubleshoot-online-endpoints (429)
    """
    properties = deployment["properties"]
    if properties.get("endpointComputeType") == "Kubernetes":
        return None
    return 2 * int(properties["requestSettings"]["maxConcurrentRequestsPerInstance"])


def seconds(duration: str, target: str = "duration") -> float:
    """An ISO 8601 duration in seconds. Raises BadRequest."""
    return durations.seconds(duration, target) or 0.0


def resource_document(
    identifier: str, type_: str, body: Mapping[str, Any], properties: dict[str, Any], system_data: dict[str, str]
) -> Document:
    """A resource of Resource Manager, with what `body` says beside its properties."""
    made: Document = {
        "id": identifier,
        "name": identifier.rpartition("/")[2],
        "type": type_,
        "location": body.get("location"),
        "tags": dict(body.get("tags") or {}),
        "properties": properties,
        "systemData": system_data,
    }
    for field in ("identity", "kind"):
        if body.get(field) is not None:
            made[field] = body[field]
    return made


def origin(previous: Document | None, author: str) -> dict[str, str]:
    """Who made and changed a resource, and when (Resource Manager's systemData)."""
    now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
    created = {"createdAt": now, "createdBy": author, "createdByType": "Application"}
    changed = {"lastModifiedAt": now, "lastModifiedBy": author, "lastModifiedByType": "Application"}
    return (previous["systemData"] if previous else created) | changed


def _given(value: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: item for key, item in (value or {}).items() if item is not None}
