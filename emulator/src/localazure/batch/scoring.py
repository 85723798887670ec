"""An invocation of a deployment, made into the properties of a pipeline job.

A model deployment is a pipeline of the one step `batchscoring`, as in the service: a command component that starts
`localazure_compute.batch_driver` beside the user's scoring script. A pipeline deployment is a job of its component.
Pure. https://learn.microsoft.com/azure/machine-learning/how-to-access-data-batch-endpoints-jobs
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from localazure.batch import resources
from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors.durations import seconds

STEP = "batchscoring"
_DATA, _MODEL, SCORE = "job_data_path", "model", "score"
_KINDS = {
    "UriFile": "uri_file", "UriFolder": "uri_folder", "MLTable": "mltable", "MLFlowModel": "mlflow_model",
    "CustomModel": "custom_model", "TritonModel": "triton_model",
}  # fmt: skip
_SCORED = ("uri_file", "uri_folder")
# What an invocation may say otherwise than the deployment.
_OVERRIDES = ("miniBatchSize", "errorThreshold", "outputFileName")
_KNOWN = frozenset({"inputData", "outputData", "outputDataset", "name", "properties", "compute", "retrySettings",
                    "dataset", *_OVERRIDES})  # fmt: skip

Entry = dict[str, Any]


def inputs(body: Mapping[str, Any]) -> dict[str, Entry]:
    """`inputData` of an invocation as the inputs of an ARM job. BadRequest names the input."""
    return {name: _input(name, given or {}) for name, given in (body.get("inputData") or {}).items()}


def outputs(body: Mapping[str, Any]) -> dict[str, Entry]:
    """`outputData` of an invocation as the outputs of an ARM job."""
    found = {}
    for name, given in (body.get("outputData") or {}).items():
        kind = _KINDS.get(str(given.get("jobOutputType")))
        if kind is None:
            raise BadRequest(f"The output '{name}' has jobOutputType '{given.get('jobOutputType')}'; there are "
                             f"{', '.join(_KINDS)}.", f"outputData.{name}", "UserError")  # fmt: skip
        entry = {"jobOutputType": kind, "uri": given.get("uri"), "mode": given.get("mode")}
        found[name] = {key: value for key, value in entry.items() if value is not None}
    return found


def check(body: Mapping[str, Any]) -> None:
    """Refuses what an invocation can't say: BadRequest names it."""
    if unknown := sorted(set(body) - _KNOWN):
        raise BadRequest(f"An invocation doesn't know {', '.join(unknown)}; it knows {', '.join(sorted(_KNOWN))}.",
                         unknown[0], "UserError")  # fmt: skip
    if body.get("dataset"):
        raise NotImplementedOperation("BatchJobEndpoint_Create with a dataset of version 1")


def of_component(deployment: Mapping[str, Any], body: Mapping[str, Any], experiment: str) -> dict[str, Any]:
    """The job of a pipeline deployment. `deployment` are its properties."""
    if given := sorted(key for key in (*_OVERRIDES, "outputDataset", "compute", "retrySettings") if body.get(key)):
        raise BadRequest(f"{', '.join(given)} is for model deployments; this one is a pipeline component.", given[0],
                         "UserError")  # fmt: skip
    return {
        "jobType": "Pipeline",
        "componentId": resources.component_id(deployment),
        "experimentName": experiment,
        "inputs": inputs(body),
        "outputs": outputs(body),
        # An invocation is work that is wanted now, whatever was computed before.
        "settings": {"force_rerun": True, **resources.pipeline_settings(deployment)},
        "tags": dict(deployment["deploymentConfiguration"].get("tags") or {}),
    }


def settings(deployment: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The deployment's properties with what the invocation overrides, checked."""
    found = {**deployment, **{key: body[key] for key in _OVERRIDES if body.get(key) is not None}}
    found["retrySettings"] = {**deployment["retrySettings"],
                              **{key: value for key, value in (body.get("retrySettings") or {}).items() if value
                                 is not None}}  # fmt: skip
    compute = body.get("compute") or {}
    if target := compute.get("target"):
        found["compute"] = target
    if count := compute.get("instanceCount"):
        found["resources"] = {**found["resources"], "instanceCount": count}
    if output := _score_output(body):
        found["outputFileName"] = output[1] or found["outputFileName"]
    resources.check_settings(found)
    return found


def component(wanted: Mapping[str, Any], *, environment: str, data_type: str, model_type: str | None) -> dict[str, Any]:
    """The component spec of a model deployment's step. `wanted` are its `settings`, `environment` an ARM id."""
    code = wanted.get("codeConfiguration") or {}
    nodes = wanted["resources"]["instanceCount"]
    retries = wanted["retrySettings"]
    options = {
        "nodes": nodes,
        "max-concurrency-per-instance": wanted["maxConcurrencyPerInstance"],
        "mini-batch-size": wanted["miniBatchSize"],
        "max-retries": retries["maxRetries"],
        "timeout": f"{seconds(retries['timeout'], 'timeout'):g}",
        "error-threshold": wanted["errorThreshold"],
        "output-action": {"AppendRow": "append_row", "SummaryOnly": "summary_only"}[wanted["outputAction"]],
        "output-file-name": wanted["outputFileName"],
        "logging-level": str(wanted["loggingLevel"]).lower(),
    }
    if code:
        options["script"] = code["scoringScript"]
    paths = {"input": f"inputs.{_DATA}", "output": f"outputs.{SCORE}"} | ({"model": f"inputs.{_MODEL}"}
                                                                          if model_type else {})  # fmt: skip
    command = " ".join(
        [
            "python -m localazure_compute.batch_driver",
            *(f'--{name} "${{{{{path}}}}}"' for name, path in paths.items()),
            *(f"--{name} {shlex.quote(str(value))}" for name, value in options.items()),
        ]
    )
    spec: dict[str, Any] = {
        "type": "command",
        "display_name": STEP,
        "is_deterministic": False,
        "inputs": {_DATA: {"type": data_type}, **({_MODEL: {"type": model_type}} if model_type else {})},
        "outputs": {SCORE: {"type": "uri_folder"}},
        "environment": f"azureml:{environment}",
        "command": command,
    }
    if code:
        spec["code"] = f"azureml:{code['codeId']}"
    if nodes > 1:
        # The nodes belong to the job; the driver on the first one starts the workers of all.
        spec["distribution"] = {"type": "mpi", "process_count_per_instance": 1}
        spec["resources"] = {"instance_count": nodes}
    return spec


def data_input(body: Mapping[str, Any]) -> Entry:
    """The one input of a model deployment."""
    given = inputs(body)
    if len(given) != 1:
        names = ", ".join(given) or "none"
        raise BadRequest(f"A model deployment is invoked with one input; there is {names}.", "inputData", "UserError")
    ((name, entry),) = given.items()
    kind = entry["jobInputType"]
    if kind not in _SCORED:
        # MLTable isn't supported by the service either: https://learn.microsoft.com/azure/machine-learning/
        # how-to-access-data-batch-endpoints-jobs#use-input-data-from-a-data-asset
        raise BadRequest(f"A model deployment takes {' or '.join(_SCORED)}; the input '{name}' is {kind}.",
                         f"inputData.{name}", "UserError")  # fmt: skip
    return entry


def of_model(
    wanted: Mapping[str, Any], body: Mapping[str, Any], *, component_id: str, data: Entry, model: Entry | None,
    experiment: str,
) -> dict[str, Any]:  # fmt: skip
    """The job of a model deployment: `component_id` is the step's, `data` and `model` are its inputs."""
    given = {_DATA: data, **({_MODEL: model} if model else {})}
    score: Entry = {"jobOutputType": "uri_folder"}
    if output := _score_output(body):
        score["uri"] = output[0]
    step = {
        "name": STEP,
        "type": "command",
        "componentId": component_id,
        "computeId": wanted["compute"],
        "inputs": {name: {"value": f"${{{{parent.inputs.{name}}}}}", "job_input_type": "literal"} for name in given},
        "outputs": {SCORE: {"value": f"${{{{parent.outputs.{SCORE}}}}}", "type": "literal"}},
        "environment_variables": dict(wanted["environmentVariables"]),
    }
    if wanted["resources"]["instanceCount"] > 1:
        step["resources"] = {"instance_count": wanted["resources"]["instanceCount"]}
    return {
        "jobType": "Pipeline",
        "experimentName": experiment,
        "jobs": {STEP: step},
        "inputs": given,
        "outputs": {SCORE: score},
        "settings": {"default_compute": wanted["compute"], "force_rerun": True, "continue_on_step_failure": False},
    }


def _input(name: str, given: Mapping[str, Any]) -> Entry:
    kind = str(given.get("jobInputType"))
    if kind == "Literal":
        return {"jobInputType": "literal", "value": str(given.get("value", ""))}
    if kind not in _KINDS:
        known = ", ".join(("Literal", *_KINDS))
        raise BadRequest(f"The input '{name}' has jobInputType '{kind}'; there are {known}.", f"inputData.{name}",
                         "UserError")  # fmt: skip
    if not given.get("uri"):
        raise BadRequest(f"The input '{name}' has no uri.", f"inputData.{name}", "UserError")
    mode = {"mode": given["mode"]} if given.get("mode") else {}
    return {"jobInputType": _KINDS[kind], "uri": given["uri"], **mode}


def _score_output(body: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Where a model deployment's results were asked to go: (folder's address, file name or None)."""
    if dataset := body.get("outputDataset"):
        datastore = str(dataset.get("datastoreId") or "").rpartition("/")[2]
        if not datastore:
            raise BadRequest("outputDataset needs a datastoreId.", "outputDataset", "UserError")
        return f"azureml://datastores/{datastore}/paths/{str(dataset.get('path') or '').strip('/')}/", None
    given = outputs(body)
    if not given:
        return None
    if len(given) > 1:
        raise BadRequest(f"A model deployment has one output; there are {', '.join(given)}.", "outputData", "UserError")
    (entry,) = given.values()
    if not (uri := entry.get("uri")):
        return None
    if entry["jobOutputType"] == "uri_file":
        folder, _, file = uri.rpartition("/")
        return f"{folder}/", file or None
    return f"{uri.rstrip('/')}/", None
