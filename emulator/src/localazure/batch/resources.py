"""Batch endpoints and deployments as Resource Manager documents: what a client may write, and what is kept of it.

Pure. Shapes: https://learn.microsoft.com/rest/api/azureml/batch-endpoints and .../batch-deployments (api-versions
2023-10-01 and 2024-01-01-preview, the ones Microsoft's SDK sends).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors.durations import seconds

Document = dict[str, Any]

# https://learn.microsoft.com/azure/machine-learning/reference-yaml-endpoint-batch
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{1,30})[A-Za-z0-9]")
# https://learn.microsoft.com/azure/machine-learning/reference-yaml-deployment-batch
_SETTINGS: Mapping[str, Any] = {
    "miniBatchSize": 10,
    "maxConcurrencyPerInstance": 1,
    "errorThreshold": -1,
    "outputAction": "AppendRow",
    "outputFileName": "predictions.csv",
    "loggingLevel": "Info",
}
_RETRIES: Mapping[str, Any] = {"maxRetries": 3, "timeout": "PT30S"}
_LEVELS = ("debug", "info", "warning")
_ACTIONS = ("AppendRow", "SummaryOnly")
_MOST_PROCESSES = 32
PIPELINE = "PipelineComponent"


def endpoint_properties(name: str, asked: Mapping[str, Any], deployments: Collection[str]) -> dict[str, Any]:
    """The properties of an endpoint after a PUT; `deployments` are those it has. BadRequest names what can't be."""
    check_name(name, "endpoint")
    mode = asked.get("authMode")
    if str(mode).lower() != "aadtoken":
        # https://learn.microsoft.com/azure/machine-learning/how-to-authenticate-batch-endpoint
        raise BadRequest(f"Batch endpoints take Microsoft Entra tokens only: authMode must be AADToken, not '{mode}'.",
                         "properties.authMode", "UserError")  # fmt: skip
    default = (asked.get("defaults") or {}).get("deploymentName") or None
    if default is not None and default not in deployments:
        known = ", ".join(sorted(deployments)) or "none"
        raise BadRequest(f"The default deployment '{default}' isn't there; the endpoint has {known}.",
                         "properties.defaults.deploymentName", "UserError")  # fmt: skip
    return {
        **{key: value for key, value in asked.items() if value is not None and key != "keys"},
        "authMode": "AADToken",
        "defaults": {"deploymentName": default},
        "properties": asked.get("properties") or {},
        "provisioningState": "Succeeded",
    }


def deployment_properties(name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a deployment after a PUT, with the service's defaults. What it refers to isn't looked up."""
    check_name(name, "deployment")
    kept = {key: value for key, value in asked.items() if value is not None}
    kept |= {"properties": asked.get("properties") or {}, "provisioningState": "Succeeded"}
    if configuration := asked.get("deploymentConfiguration"):
        return {**kept, "deploymentConfiguration": _pipeline_configuration(configuration)}
    kept = {**_SETTINGS, **kept}
    retries = {key: each for key, each in (asked.get("retrySettings") or {}).items() if each is not None}
    kept["retrySettings"] = {**_RETRIES, **retries}
    kept["environmentVariables"] = {key: str(each) for key, each in (asked.get("environmentVariables") or {}).items()}
    resources = asked.get("resources") or {}
    kept["resources"] = {**resources, "instanceCount": resources.get("instanceCount") or 1}
    check_settings(kept)
    if not kept.get("compute"):
        raise BadRequest("A model deployment needs a compute.", "properties.compute", "UserError")
    code = asked.get("codeConfiguration") or {}
    if code and not (code.get("codeId") and code.get("scoringScript")):
        raise BadRequest("codeConfiguration needs a code and a scoring script.", "codeConfiguration", "UserError")
    if code and not asked.get("environmentId"):
        raise BadRequest("A deployment with a scoring script needs an environment.", "environmentId", "UserError")
    if not code and not model_id(asked):
        raise BadRequest("A deployment needs a model or a scoring script.", "properties.model", "UserError")
    return kept


def check_settings(properties: Mapping[str, Any]) -> None:
    """BadRequest unless the settings of a scoring are in range."""
    retries = properties["retrySettings"]
    for key, value, lowest in (
        ("miniBatchSize", properties["miniBatchSize"], 1),
        ("maxConcurrencyPerInstance", properties["maxConcurrencyPerInstance"], 1),
        ("errorThreshold", properties["errorThreshold"], -1),
        ("retrySettings.maxRetries", retries["maxRetries"], 0),
        ("resources.instanceCount", properties["resources"]["instanceCount"], 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise BadRequest(f"{key} must be a whole number from {lowest} on, not {value!r}.", key, "UserError")
    timeout = seconds(retries["timeout"], "retrySettings.timeout")
    if not timeout:
        raise BadRequest("retrySettings.timeout must be above 0.", "retrySettings.timeout", "UserError")
    processes = properties["maxConcurrencyPerInstance"] * properties["resources"]["instanceCount"]
    if processes > _MOST_PROCESSES:
        raise BadRequest(
            f"The deployment asks for {processes} worker processes; localazure runs up to {_MOST_PROCESSES} a job.",
            "maxConcurrencyPerInstance",
            "UserError",
        )
    if str(properties["loggingLevel"]).lower() not in _LEVELS:
        raise BadRequest(f"loggingLevel must be one of {', '.join(_LEVELS)}.", "loggingLevel", "UserError")
    if properties["outputAction"] not in _ACTIONS:
        raise BadRequest(f"outputAction must be one of {', '.join(_ACTIONS)}.", "outputAction", "UserError")
    file = str(properties["outputFileName"])
    if not file or file != file.rpartition("/")[2] or file in (".", ".."):
        raise BadRequest(f"outputFileName must be the name of a file, not '{file}'.", "outputFileName", "UserError")


def model_id(properties: Mapping[str, Any]) -> str | None:
    """The id of a deployment's model. NotImplementedOperation for a reference that is no asset's id."""
    reference = properties.get("model")
    if not reference:
        return None
    kind = reference.get("referenceType")
    if kind != "Id":
        raise NotImplementedOperation(f"BatchDeployments_CreateOrUpdate with a model of referenceType {kind}")
    return str(reference["assetId"])


def component_id(properties: Mapping[str, Any]) -> str | None:
    """The id of a pipeline deployment's component; None for a model deployment."""
    configuration = properties.get("deploymentConfiguration")
    return str(configuration["componentId"]["assetId"]) if configuration else None


def pipeline_settings(properties: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` of a pipeline deployment as a pipeline job has them; truth values may come as text."""
    found = {}
    for name, value in properties["deploymentConfiguration"]["settings"].items():
        # The service shows them as ComponentDeployment.Settings.<name>.
        truth = {"true": True, "false": False}.get(str(value).lower())
        found[name.rpartition(".")[2]] = value if truth is None else truth
    return found


def check_name(name: str, what: str) -> None:
    """BadRequest unless an endpoint or deployment may be called so."""
    if not _NAME.fullmatch(name):
        raise BadRequest(f"'{name}' is not a valid name of a batch {what}: 3 to 32 letters, digits or '-', a letter "
                         "first, no '-' last.", "name", "UserError")  # fmt: skip


def _pipeline_configuration(configuration: Mapping[str, Any]) -> dict[str, Any]:
    kind = configuration.get("deploymentConfigurationType", PIPELINE)
    if kind != PIPELINE:
        raise NotImplementedOperation(f"BatchDeployments_CreateOrUpdate with deploymentConfigurationType {kind}")
    if not (configuration.get("componentId") or {}).get("assetId"):
        raise BadRequest("A pipeline deployment needs a component.", "deploymentConfiguration.componentId", "UserError")
    return {**configuration, "deploymentConfigurationType": kind, "settings": configuration.get("settings") or {}}
