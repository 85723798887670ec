"""The job that a step of a pipeline becomes: node and component spec (snake_case) to an ARM job's properties.

Pure. https://learn.microsoft.com/azure/machine-learning/reference-yaml-component-command and
.../rest/api/azureml/jobs/create-or-update
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from localazure.core.errors import BadRequest
from localazure.executors import automl_wire, pipeline_parallel
from localazure.executors.pipeline_graph import Entry, Pipeline, Step, interpolate, is_literal, whole
from localazure.executors.search_space import KINDS, NUMBERS

_JOB_TYPES = {
    "command": "Command", "parallel": "Command", "sweep": "Sweep", "spark": "Spark", "automl": "AutoML",
    "pipeline": "Pipeline",
}  # fmt: skip
# What run history calls a step of each type.
STEP_TYPES = {
    "command": "PythonScriptStep", "parallel": "ParallelRunStep", "sweep": "HyperDriveStep", "spark": "SparkStep",
    "automl": "AutoMLStep", "pipeline": "PipelineStep",
}  # fmt: skip
RUN_TYPES = {
    "command": "azureml.StepRun", "parallel": "azureml.StepRun", "sweep": "hyperdrive", "spark": "azureml.StepRun",
    "automl": "automl", "pipeline": "azureml.PipelineRun",
}  # fmt: skip
_DISTRIBUTIONS = {"mpi": "Mpi", "pytorch": "PyTorch", "tensorflow": "TensorFlow", "ray": "Ray"}
_AUTOML_MORE = ("environmentId", "environmentVariables", "resources", "identity", "queueSettings")
# Their keys are the user's own.
_AS_THEY_ARE = frozenset({"properties", "environment_variables", "tags", "conf"})


def child(pipeline: Pipeline, step: Step, inputs: Mapping[str, Entry], outputs: Mapping[str, Entry]) -> dict[str, Any]:
    """The ARM properties of the step's job. `inputs` and `outputs` are the step's, resolved.

    Settings of the node win over the component's. BadRequest names the step's key.
    """
    node = bound(step.node, pipeline.inputs, f"jobs.{step.name}")
    compute = node.get("computeId") or node.get("compute")
    if step.kind != "spark" or not node.get("resources"):
        # A Spark step with resources of its own is serverless.
        compute = compute or pipeline.settings.default_compute or pipeline.compute
    properties = {
        "jobType": _JOB_TYPES[step.kind],
        "displayName": node.get("display_name") or step.name,
        "description": node.get("comment") or step.spec.get("description"),
        "tags": node.get("tags") or {},
        "computeId": _compute(compute),
        "outputs": dict(outputs),
        **_BUILDERS[step.kind](step, node, inputs, pipeline),
    }
    return {key: value for key, value in properties.items() if value is not None}


def outputs(pipeline: Pipeline, step: Step, asked: Mapping[str, str], name: str) -> dict[str, Entry]:
    """The step's outputs as ARM job outputs, at addresses for the child `name`.

    `asked` has the addresses of the pipeline's outputs that were asked for by address.
    """
    return _outputs(pipeline, step, asked, name, pipeline.settings.default_datastore)


def asked_outputs(pipeline: Pipeline, step: Step, asked: Mapping[str, str]) -> dict[str, Entry]:
    """The step's outputs as they are asked for: the same for every run of it."""
    return _outputs(pipeline, step, asked, "", None)


def _outputs(
    pipeline: Pipeline, step: Step, asked: Mapping[str, str], name: str, datastore: str | None
) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for output, sink in step.outputs.items():
        entry: Entry = {"jobOutputType": sink.kind}
        uri = sink.uri or (asked.get(sink.bound) if sink.bound else None)
        if uri is None and output == "artifacts":
            # The run's own files: `./outputs`, `./logs` and what it prints.
            uri = f"azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.{name}/"
        elif uri is None and datastore:
            end = "" if sink.kind == "uri_file" else "/"
            uri = f"azureml://datastores/{datastore.rpartition('/')[2]}/paths/azureml/{name}/{output}{end}"
        mode = sink.mode or (pipeline.outputs[sink.bound].get("mode") if sink.bound else None)
        for key, value in (("uri", uri), ("mode", mode), ("assetName", sink.name), ("assetVersion", sink.version)):
            if value is not None:
                entry[key] = value
        found[output] = entry
    return found


def bound(node: Mapping[str, Any], inputs: Mapping[str, Entry], where: str) -> dict[str, Any]:
    """The node with the literals of the pipeline's inputs in place of bindings; a value that is one keeps its type.

    Data stays a binding: what may be data (AutoML's tables) is resolved with the step's inputs.
    """

    def value(each: Any, key: str) -> Any:
        if isinstance(each, str):
            found = whole(each)
            if found is None:
                return interpolate(each, inputs, key) if "${{parent." in each.replace(" ", "") else each
            entry = inputs.get(found[1]) if found[0] == "inputs" else None
            return _typed(str(entry.get("value", ""))) if entry is not None and is_literal(entry) else each
        if isinstance(each, dict):
            return {name: value(inner, f"{key}.{name}") for name, inner in each.items()}
        if isinstance(each, list):
            return [value(inner, key) for inner in each]
        return each

    kept = {key: node[key] for key in ("inputs", "outputs") if key in node}
    changed: dict[str, Any] = value({key: each for key, each in node.items() if key not in kept}, where)
    return {**changed, **kept}


def _command(step: Step, node: Mapping[str, Any], inputs: Mapping[str, Entry], pipeline: Pipeline) -> dict[str, Any]:
    spec = step.spec
    variables = {**(spec.get("environment_variables") or {}), **(node.get("environment_variables") or {})}
    return {
        "inputs": dict(inputs),
        "componentId": step.component,
        "command": spec.get("command"),
        **_code(spec),
        "environmentVariables": variables,
        "distribution": _distribution(node.get("distribution") or spec.get("distribution")),
        "resources": _merged(spec.get("resources"), node.get("resources")),
        "limits": _limits(node.get("limits") or spec.get("limits"), "Command", f"jobs.{step.name}.limits"),
        "identity": camel(node.get("identity")),
        "services": {name: camel(each) for name, each in (node.get("services") or {}).items()} or None,
        "queueSettings": camel(node.get("queue_settings")),
    }  # fmt: skip


def _sweep(step: Step, node: Mapping[str, Any], inputs: Mapping[str, Entry], pipeline: Pipeline) -> dict[str, Any]:
    where = f"jobs.{step.name}"
    space = {name: _expression(each, f"{where}.search_space.{name}")
             for name, each in (node.get("search_space") or {}).items()}  # fmt: skip
    command = str(step.spec.get("command") or "")
    for name in space:
        # In a component, a hyperparameter is an input; in a sweep job it has a scope of its own.
        command = re.sub(rf"\$\{{\{{\s*inputs\.{re.escape(name)}\s*\}}\}}", f"${{{{search_space.{name}}}}}", command)
    trial = _command(step, {key: value for key, value in node.items() if key != "limits"}, inputs, pipeline)
    kept = ("codeId", "environmentId", "environmentVariables", "distribution", "resources")
    return {
        "inputs": dict(inputs),
        "trial": {"command": command, **{key: trial[key] for key in kept if trial.get(key)}},
        "searchSpace": space,
        "samplingAlgorithm": _sampling(node.get("sampling_algorithm"), f"{where}.sampling_algorithm"),
        "objective": _objective(node.get("objective"), f"{where}.objective"),
        "earlyTermination": _policy(node.get("early_termination"), f"{where}.early_termination"),
        "limits": _limits(node.get("limits"), "Sweep", f"{where}.limits"),
        "identity": trial["identity"],
        "queueSettings": trial["queueSettings"],
    }


def _parallel(step: Step, node: Mapping[str, Any], inputs: Mapping[str, Entry], pipeline: Pipeline) -> dict[str, Any]:
    """A command that starts the driver of batch scoring beside the user's script."""
    spec = {**step.spec, **{key: value for key, value in node.items() if value is not None}}
    task = {**(step.spec.get("task") or {}), **(node.get("task") or {})}
    kinds = {name: sink.kind for name, sink in step.outputs.items()}
    wanted = pipeline_parallel.read(step.name, spec, task, inputs, kinds)
    resources = _merged(step.spec.get("resources"), node.get("resources")) or {}
    nodes = int(resources.get("instanceCount") or 1)
    as_command = {**step.spec, "code": task.get("code"), "environment": task.get("environment"),
                  "command": wanted.command(nodes), "distribution": None}  # fmt: skip
    if nodes > 1:
        # The nodes are the job's; the driver on the first one starts the workers of all.
        as_command["distribution"] = {"type": "mpi", "process_count_per_instance": 1}
    near = {**inputs, wanted.data: {key: value for key, value in inputs[wanted.data].items() if key != "mode"}}
    return _command(dataclasses.replace(step, spec=as_command), {**node, "distribution": None}, near, pipeline)


def _spark(step: Step, node: Mapping[str, Any], inputs: Mapping[str, Entry], pipeline: Pipeline) -> dict[str, Any]:
    spec = step.spec
    entry = node.get("entry") or spec.get("entry") or {}
    if "file" in entry:
        entry = {"sparkJobEntryType": "SparkJobPythonEntry", "file": entry["file"]}
    elif "class_name" in entry:
        entry = {"sparkJobEntryType": "SparkJobScalaEntry", "className": entry["class_name"]}
    conf = {**(spec.get("conf") or {}), **(node.get("conf") or {})}
    return {
        "inputs": dict(inputs),
        "componentId": step.component,
        **_code(spec),
        "entry": entry,
        "args": node.get("args") or spec.get("args"),
        "conf": {key: str(value) for key, value in conf.items()},
        **{name: node.get(key) or spec.get(key)
           for name, key in (("pyFiles", "py_files"), ("jars", "jars"), ("files", "files"), ("archives", "archives"))},
        "environmentVariables": node.get("environment_variables"),
        "resources": camel(node.get("resources")),
        "identity": camel(node.get("identity") or spec.get("identity")),
    }  # fmt: skip


def _automl(step: Step, node: Mapping[str, Any], inputs: Mapping[str, Entry], pipeline: Pipeline) -> dict[str, Any]:
    for role, entry in inputs.items():
        if not entry.get("uri"):
            where = f"jobs.{step.name}.{role}"
            raise BadRequest(f"{where} must be a table: an mltable's path, or a binding to one.", where, "UserError")
    made = automl_wire.from_pipeline_node({**node, "outputs": None}, inputs)
    return {"taskDetails": made["taskDetails"], **{key: made[key] for key in _AUTOML_MORE if made.get(key)}}


def _pipeline(step: Step, node: Mapping[str, Any], inputs: Mapping[str, Entry], pipeline: Pipeline) -> dict[str, Any]:
    settings = pipeline.settings
    compute = node.get("computeId") or settings.default_compute or pipeline.compute
    handed_down = {
        "default_compute": compute,
        "default_datastore": settings.default_datastore,
        "continue_on_step_failure": settings.continue_on_step_failure,
        "force_rerun": settings.force_rerun,
    }
    return {
        "inputs": dict(inputs),
        "componentId": step.component,
        "settings": {key: value for key, value in handed_down.items() if value is not None},
    }


_Builder = Callable[[Step, Mapping[str, Any], Mapping[str, Entry], Pipeline], dict[str, Any]]
_BUILDERS: dict[str, _Builder] = {
    "command": _command,
    "sweep": _sweep,
    "parallel": _parallel,
    "spark": _spark,
    "automl": _automl,
    "pipeline": _pipeline,
}


def camel(value: Any) -> Any:
    """Keys of the snake_case wire form as ARM has them; keys that are the user's own stay."""
    if isinstance(value, dict):
        return {_camel(key): each if key in _AS_THEY_ARE else camel(each) for key, each in value.items()}
    if isinstance(value, list):
        return [camel(each) for each in value]
    return value


def arm_id(reference: str | None) -> str | None:
    """`azureml:/subscriptions/...` as the ARM id it stands for; other references as they are."""
    prefixed = ("azureml:/subscriptions/", "azureml:azureml:")
    return reference.removeprefix("azureml:") if reference and reference.startswith(prefixed) else reference


def _code(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"codeId": arm_id(spec.get("code")), "environmentId": arm_id(spec.get("environment"))}


def _compute(reference: Any) -> str | None:
    """No id for serverless compute, which needs none."""
    if not reference:
        return None
    text = str(reference).removeprefix("azureml:")
    return None if text.rpartition("/")[2].lower() == "serverless" else text


def _merged(one: Any, other: Any) -> dict[str, Any] | None:
    """Resources of component and node, the node's in front."""
    found: dict[str, Any] = {**(camel(one) or {}), **{key: each for key, each in (camel(other) or {}).items() if each}}
    return found or None


def _distribution(given: Any) -> dict[str, Any] | None:
    if not given:
        return None
    kind = given.get("distribution_type") or _DISTRIBUTIONS.get(str(given.get("type")).lower(), given.get("type"))
    rest = {key: each for key, each in given.items() if key not in ("type", "distribution_type")}
    return {"distributionType": kind, **camel(rest)}


def _limits(given: Any, kind: str, where: str) -> dict[str, Any] | None:
    if not given:
        return None
    found = {**camel(given), "jobLimitsType": kind}
    for key in ("timeout", "trialTimeout"):
        # The SDK sends seconds for a sweep's step and an ISO 8601 duration for a command's (measured).
        if isinstance(found.get(key), int | float):
            found[key] = f"PT{int(found[key])}S"
    for key in ("maxTotalTrials", "maxConcurrentTrials"):
        if found.get(key) is not None and not isinstance(found[key], int):
            raise BadRequest(f"{where}: {key} must be a whole number, not '{found[key]}'.", where, "UserError")
    return found


def _sampling(given: Any, where: str) -> dict[str, Any]:
    if isinstance(given, dict):
        found = camel({key: each for key, each in given.items() if key not in ("type", "sampling_algorithm_type")})
        if found.get("rule"):
            found["rule"] = str(found["rule"]).capitalize()
        kind = given.get("type") or given.get("sampling_algorithm_type")
        return {"samplingAlgorithmType": str(kind).capitalize(), **found}
    if not given:
        raise BadRequest(f"{where}: a sweep needs a sampling algorithm.", where, "UserError")
    return {"samplingAlgorithmType": str(given).capitalize()}


def _objective(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict) or not given.get("primary_metric"):
        raise BadRequest(f"{where}: a sweep needs an objective with goal and primary_metric.", where, "UserError")
    return {"goal": str(given.get("goal")).capitalize(), "primaryMetric": given["primary_metric"]}


def _policy(given: Any, where: str) -> dict[str, Any] | None:
    if not given:
        return None
    kind = str(given.get("policy_type") or given.get("type") or "")
    rest = camel({key: each for key, each in given.items() if key not in ("type", "policy_type")})
    return {"policyType": kind if "_" not in kind and kind != kind.lower() else _pascal(kind), **rest}


def _expression(given: Any, where: str) -> list[Any]:
    """`{type: uniform, min_value: 0, max_value: 1}` -> `["uniform", [0, 1]]`, ARM's form of a distribution."""
    if isinstance(given, list):
        return given
    kind = str(given.get("type")) if isinstance(given, dict) else ""
    if kind == "choice":
        if not isinstance(given.get("values"), list):
            raise BadRequest(f"{where}: a choice needs a list of values.", where, "UserError")
        return ["choice", [[_option(each, where) for each in given["values"]]]]
    if kind not in NUMBERS:
        known = ", ".join(KINDS)
        raise BadRequest(f"{where}: '{given}' is no distribution; there are {known}.", where, "UserError")
    if missing := [name for name in NUMBERS[kind] if given.get(name) is None]:
        raise BadRequest(f"{where}: {kind} needs {', '.join(missing)}.", where, "UserError")
    return [kind, [given[name] for name in NUMBERS[kind]]]


def _option(given: Any, where: str) -> Any:
    """A choice's value; one that is an object may hold distributions itself."""
    if not isinstance(given, dict):
        return given
    return {key: _expression(each, where) if isinstance(each, dict) and "type" in each else each
            for key, each in given.items()}  # fmt: skip


def _typed(text: str) -> Any:
    """A literal in a setting: a number or truth value where it is one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = json.loads(text)
    except ValueError:
        return text
    return number if isinstance(number, int | float) else text


def _camel(key: str) -> str:
    head, *tail = key.split("_")
    return head + "".join(part.capitalize() for part in tail)


def _pascal(text: str) -> str:
    return "".join(part.capitalize() for part in text.split("_"))
