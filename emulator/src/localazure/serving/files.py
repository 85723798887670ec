"""A deployment's files on disk, laid out as in Azure's container.

    <home>/deployments/<endpoint>/<deployment>/<digest>/
        code/                                       the code configuration's folder
        azureml-models/<model>/<version>/<folder>   AZUREML_MODEL_DIR is .../<version>: the model's folder name is kept
        storage-initializer.log                     what was put where
        inference-server-<n>.log

https://learn.microsoft.com/azure/machine-learning/how-to-deploy-online-endpoints (AZUREML_MODEL_DIR)
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from localazure.core.errors import AzureError, BadRequest
from localazure.executors import environments, processes
from localazure.executors.requirements import Requirements
from localazure.serving import resources
from localazure.serving.servers import Probe, Spec
from localazure.settings import Settings

_MODEL_ID = re.compile(r"models/(?P<name>[^/]+)/versions/(?P<version>[^/]+)$|^azureml:(?P<n>[^:/]+):(?P<v>[^:/]+)$")


_SERVER = "azureml-inference-server-http"
_COLLECTOR = "azureml-ai-monitoring"
_MLFLOW = "mlflow_model"
# The scoring script of a deployment without one, under the name that Azure gives it.
_GENERATED = "mlflow_score_script.py"
_GENERATED_TEXT = "from localazure_compute.online_mlflow import init, run  # noqa: F401\n"
# Of a deployment's properties, those that no instance knows.
_OUTSIDE = frozenset({"provisioningState", "scaleSettings"})


class Assets(Protocol):
    """What is needed of the workspace's assets (`ml.assets`)."""

    def code_folder(self, id: str) -> Path: ...

    def model_folder(self, id: str) -> Path: ...

    def model(self, id: str) -> dict[str, Any]: ...

    def environment(self, id: str) -> dict[str, Any]: ...

    def resolve(self, uri: str) -> Path: ...


def digest(document: Mapping[str, Any]) -> str:
    """A name for what a deployment runs; the same as long as nothing changes that an instance would notice."""
    properties = {key: value for key, value in document["properties"].items() if key not in _OUTSIDE}
    text = json.dumps({"properties": properties}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def folder_of(settings: Settings, endpoint: str, deployment: str) -> Path:
    """The folder of all versions of a deployment."""
    return settings.home / "deployments" / endpoint / deployment


def prepare(settings: Settings, assets: Assets, endpoint: str, document: Mapping[str, Any]) -> Spec:
    """Ready the environment, put code and model in place (once for a digest), say what to run.

    Blocks; raises AzureError.
    """
    properties = document["properties"]
    name = document["name"]
    folder = folder_of(settings, endpoint, name) / digest(document)
    environment = _environment(assets, properties)
    python = _python(settings, environment, properties, name, folder)
    code = folder / "code"
    script = properties["codeConfiguration"]["scoringScript"] if resources.has_code(properties) else _GENERATED
    model_dir = _model_dir(folder, properties.get("model"))
    if not (folder / "storage-initializer.log").exists():
        _fill(folder, assets, properties, code, model_dir)
    entry_script = (code / script).resolve()
    if not entry_script.is_file() or not entry_script.is_relative_to(code.resolve()):
        there = ", ".join(sorted(path.name for path in code.iterdir())[:20])
        raise BadRequest(f"scoringScript '{script}' is not in the code folder, which holds: {there}.", "scoringScript")
    image = dict(environment.variables) if isinstance(environment, Requirements) else {}
    return Spec(
        label=f"{endpoint}/{name}",
        python=python,
        folder=folder,
        code=code,
        entry_script=entry_script,
        model_dir=model_dir,
        environment=image | _variables(properties),
        instances=resources.instances_of(dict(document)),
        readiness=probe(properties["readinessProbe"]),
        liveness=probe(properties["livenessProbe"]),
        workers=_workers(properties),
    )


def _variables(properties: Mapping[str, Any]) -> dict[str, str]:
    """A deployment's variables, and its queue's limit. Managed endpoints have none: they refuse what is too much."""
    variables = dict(properties["environmentVariables"])
    if properties.get("endpointComputeType") == "Kubernetes":
        wait = resources.seconds(properties["requestSettings"]["maxQueueWait"])
        variables["LOCALAZURE_MAX_QUEUE_WAIT"] = f"{wait:g}"
    return variables


def _workers(properties: Mapping[str, Any]) -> int:
    """How many processes answer in an instance: WORKER_COUNT, as in Azure's images.

    Kubernetes' router hands an instance maxConcurrentRequestsPerInstance requests at once, so more would idle.
    """
    given = str(properties["environmentVariables"].get("WORKER_COUNT") or "1")
    if not given.isdigit() or not int(given):
        raise BadRequest(f"The environment variable WORKER_COUNT must be a whole number above 0, not '{given}'.")
    if properties.get("endpointComputeType") == "Kubernetes":
        return min(int(given), int(properties["requestSettings"]["maxConcurrentRequestsPerInstance"]))
    return int(given)


def _environment(assets: Assets, properties: Mapping[str, Any]) -> dict[str, Any] | Requirements:
    """What a deployment's Python must have: its environment's packages; without one, those that its model names."""
    if properties.get("environmentId"):
        return environments.asked_for(assets.environment(properties["environmentId"]), assets.resolve)
    conda = assets.model_folder(properties["model"]) / "conda.yaml"
    if not conda.is_file():
        raise BadRequest(
            f"The model '{properties['model']}' has no conda.yaml that says what it needs; name an environment.",
            "properties.model",
        )
    return {"properties": {"condaFile": conda.read_text()}}


def _python(
    settings: Settings,
    environment: dict[str, Any] | Requirements,
    properties: Mapping[str, Any],
    deployment: str,
    folder: Path,
) -> Path:
    """The interpreter of a deployment's environment. A built one gets the inference server, too."""

    def log() -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "image-build.log"

    _, there = environments.installed(settings.compute_python)
    server = [f"{_SERVER}=={there[_SERVER]}"] if _SERVER in there else [_SERVER]
    if not resources.has_code(properties) and properties.get("dataCollector"):
        server.append(_COLLECTOR)
    try:
        return environments.ready_blocking(environment, settings, log, server)
    except environments.EnvironmentFailed as error:
        message = f"The environment of deployment '{deployment}' can't be had. {error.message}"
        raise BadRequest(message, "environmentId", code="EnvironmentNotSatisfied") from error


def probe(document: Mapping[str, Any]) -> Probe:
    """A probe's settings, in seconds."""
    return Probe(
        initial_delay=resources.seconds(document["initialDelay"]),
        period=resources.seconds(document["period"]),
        timeout=resources.seconds(document["timeout"]),
        failure_threshold=int(document["failureThreshold"]),
    )


def check_references(assets: Assets, properties: Mapping[str, Any]) -> None:
    """Raise AzureError unless model and environment are in the workspace and fit together. Blocks."""
    if properties.get("environmentId"):
        assets.environment(properties["environmentId"])
    if properties.get("model"):
        kind = assets.model(properties["model"])["properties"].get("modelType")
        if not resources.has_code(properties) and kind != _MLFLOW:
            message = f"A deployment without codeConfiguration needs a model of type {_MLFLOW}, not {kind}."
            raise BadRequest(message, "properties.codeConfiguration")


def log_lines(settings: Settings, endpoint: str, document: Mapping[str, Any], container: str, tail: int) -> list[str]:
    """The last lines of what a deployment's containers logged: `InferenceServer` or `StorageInitializer`. Blocks."""
    folder = folder_of(settings, endpoint, document["name"]) / digest(document)
    names = ["storage-initializer.log"]
    if container.lower() == "inferenceserver":
        names = sorted(path.name for path in folder.glob("inference-server-*.log"))
    lines: list[str] = []
    for name in names:
        if len(names) > 1:
            lines.append(f"--- {name}")
        lines += processes.tail(folder / name, tail)
    return lines


def forget_versions(settings: Settings, endpoint: str, deployment: str, keep: Collection[Path]) -> None:
    """Remove a deployment's folders but those in `keep`."""
    root = folder_of(settings, endpoint, deployment)
    for version in root.glob("*"):
        if version not in keep:
            shutil.rmtree(version, ignore_errors=True)
    if not keep:
        shutil.rmtree(root, ignore_errors=True)


def _model_dir(folder: Path, model: str | None) -> Path | None:
    if not model:
        return None
    match = _MODEL_ID.search(model)
    if not match:
        raise BadRequest(f"'{model}' is not the id of a registered model.", "properties.model")
    name, version = match["name"] or match["n"], match["version"] or match["v"]
    return folder / "azureml-models" / name / version


def _fill(folder: Path, assets: Assets, properties: Mapping[str, Any], code: Path, model_dir: Path | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    done: list[str] = []
    try:
        if resources.has_code(properties):
            source = assets.code_folder(properties["codeConfiguration"]["codeId"])
            shutil.copytree(source, code)
            done.append(f"code: {properties['codeConfiguration']['codeId']}")
        else:
            code.mkdir(parents=True)
            (code / _GENERATED).write_text(_GENERATED_TEXT)
            done.append(f"code: {_GENERATED}, for an MLflow model")
        if model_dir:
            source = assets.model_folder(properties["model"])
            if source.is_dir():
                shutil.copytree(source, model_dir / source.name)
            else:
                model_dir.mkdir(parents=True)
                shutil.copy2(source, model_dir / source.name)
            done.append(f"model: {properties['model']} -> {model_dir / source.name}")
    except OSError as error:
        raise AzureError(500, "StorageInitializerFailed", f"Code or model couldn't be put in place: {error}") from error
    # Written last: a folder without it is half made.
    (folder / "storage-initializer.log").write_text("\n".join(done) + "\n")
