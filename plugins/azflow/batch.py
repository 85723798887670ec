"""Batch endpoints from Airflow: deployed from YAML, invoked exactly once.

An invocation is a job. Its name can be chosen by whoever asks (``job_name`` of ``az ml batch-endpoint invoke``), so the
waiting loop finds it again like any job; the name also stands in the job's properties and decides the request's
repeatability id, for a service that chooses names itself.

https://learn.microsoft.com/azure/machine-learning/how-to-access-data-batch-endpoints-jobs
"""

from __future__ import annotations

import contextlib
import io
import json
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.endpoint_files import EndpointFiles, mapping_of, render_files
from azflow.errors import ConfigurationError, RunExists, SpecError, first_line
from azflow.job_files import origin, refusal, tag
from azflow.ml import AzureMLJobOperator
from azflow.ml_jobs import NIGHT_PROPERTY, SERVICE, AzureMLJobs, name_is_taken
from azflow.ml_workspace import Workspace
from azflow.online_endpoint import OPERATION_SECONDS
from azflow.remote import DIGEST_TAG, Found
from azflow.runs import RunsReference

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

#: Tag of a deployment that azflow made.
ORIGIN_TAG = "azflow.content"
#: Property of a job: the name that azflow asked for.
NAME_PROPERTY = "azflow.name"
_NAMESPACE = uuid.UUID("0d4f4d1e-52f0-5a53-8a0e-8f1a4c0a7f11")
#: https://learn.microsoft.com/rest/api/azureml/batch-endpoints, as azure-ai-ml writes them (BatchJobSchema).
_DATA_TYPES = {
    "uri_folder": "UriFolder",
    "uri_file": "UriFile",
    "mltable": "MLTable",
    "mlflow_model": "MLFlowModel",
    "custom_model": "CustomModel",
    "triton_model": "TritonModel",
}
#: What a model deployment's job calls its predictions; on Azure they are its step's.
_SCORE = "score"


class BatchInvocations(AzureMLJobs):
    """`azflow.remote.RemoteRuns` over the invocations of batch endpoints."""

    def shown(self, payload: Mapping[str, Any]) -> str:
        """The endpoint."""
        return f"batch endpoint {payload['endpoint']}"

    def lookup(self, name: str) -> Found | None:
        """The job called `name`, or the one that was asked for under it."""
        if (found := super().lookup(name)) is not None:
            # Tags are set after the invocation; the name alone says whose it is.
            return found if found.payload_digest != "none" else Found(found.id, found.state, None)
        job = next(self.workspace.jobs(properties=f"{NAME_PROPERTY}={name}"), None)
        if job is None:
            return None
        properties = job["properties"]
        digest = (properties.get("properties") or {}).get(DIGEST_TAG)
        return Found(str(job["name"]), self._state(properties, str(job["name"])), digest)

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """POST to the endpoint's scoring address; tags the job that comes of it."""
        from azure.core.exceptions import HttpResponseError

        endpoint, connection = str(payload["endpoint"]), self.workspace.connection
        resource = self.workspace.get(self.workspace.arm(f"/batchEndpoints/{quote(endpoint)}"))
        if resource is None:
            raise ConfigurationError(f"The workspace {connection.workspace} has no batch endpoint {endpoint!r}.")
        headers = {"repeatability-request-id": str(uuid.uuid5(_NAMESPACE, name))}
        if payload.get("deployment"):
            headers["azureml-model-deployment"] = str(payload["deployment"])
        own = {NAME_PROPERTY: name, DIGEST_TAG: tags.get(DIGEST_TAG, "")}
        if NIGHT_PROPERTY in tags:
            own[NIGHT_PROPERTY] = tags[NIGHT_PROPERTY]
        body = {"properties": {**payload["properties"], "name": name}}
        body["properties"]["properties"] = {**(body["properties"].get("properties") or {}), **own}
        try:
            job = self.workspace.call(
                "POST", resource["properties"]["scoringUri"], body, headers=headers, scope=connection.ml_scope
            )
        except HttpResponseError as problem:
            if name_is_taken(problem):
                raise RunExists(name, service=SERVICE) from None
            if problem.status_code in (400, 404):
                said = f"the service refuses the invocation: {first_line(problem)}"
                raise SpecError(self.shown(payload), "", said) from problem
            raise
        id = str(job.get("name") or name)
        self.history.tag(id, {key: tag(value) for key, value in tags.items()})
        return id

    def result(self, id: str) -> dict[str, Any]:
        """As the base class; where the predictions are, also if only the scoring step tells."""
        result = super().result(id)
        if _SCORE not in result["outputs"] and len(result["children"]) == 1:
            child = result["children"][0]["name"]
            result["outputs"][_SCORE] = f"azureml://jobs/{child}/outputs/{_SCORE}/paths/"
        return result


class BatchEndpointInvokeOperator(AzureMLJobOperator):
    """Invokes a batch endpoint, exactly once, and returns what came out.

    XCom: as `AzureMLJobOperator`; ``outputs["score"]`` is the folder of a model deployment's predictions.

    :param endpoint: the endpoint's name at Azure.
    :param inputs: name -> address (a folder) or ``{"type", "path"}``, as ``az ml batch-endpoint invoke`` takes them;
        numbers and ``{"type": "string", "default"}`` are literals of a pipeline component. References
        ``azureml:<data>:<version>`` are resolved.
    :param outputs: name -> address (``azureml://datastores/...``) or ``{"type", "path"}``.
    :param deployment: empty: the endpoint's default.
    :param settings: other keys of the invocation, e.g. ``{"mini_batch_size": 10, "compute": {"instance_count": 2}}``.
    :param experiment: the job's; empty: the endpoint's name.
    """

    template_fields = ("endpoint", "inputs", "outputs", "deployment", "settings", "experiment")

    def __init__(self, *, endpoint: str, deployment: str = "", experiment: str = "", **kwargs: Any) -> None:
        super().__init__(job="", **kwargs)
        self.endpoint = endpoint
        self.deployment = deployment
        self.experiment = experiment

    def remote_runs(self) -> RunsReference:
        """The workspace's jobs."""
        return RunsReference("azflow.batch.BatchInvocations")

    def payload(self, context: Context) -> dict[str, Any]:
        """The invocation."""
        self.stamp(context, self.inputs)
        with contextlib.closing(Workspace(AzureConnection.load(self.conn_id))) as workspace:
            inputs = {name: data_input(value, workspace.asset_id) for name, value in self.inputs.items()}
        properties = invocation(inputs, self.outputs, self.settings, self.experiment)
        return {
            "endpoint": self.endpoint,
            "deployment": self.deployment,
            "properties": properties,
            "content": {"type": "pipeline"},
        }


def invocation(
    inputs: Mapping[str, Any], outputs: Mapping[str, Any], settings: Mapping[str, Any], experiment: str
) -> dict[str, Any]:
    """The ``properties`` of an invocation. Pure.

    :param inputs: as `data_input` makes them.
    :raises ConfigurationError: an output or a setting that invocations don't have.
    """
    properties: dict[str, Any] = {"inputData": dict(inputs)} if inputs else {}
    if outputs:
        properties["outputData"] = {name: _data_output(name, value) for name, value in outputs.items()}
    if experiment:
        properties["properties"] = {"experimentName": experiment}
    known = {
        "mini_batch_size": "miniBatchSize",
        "error_threshold": "errorThreshold",
        "output_file_name": "outputFileName",
        "retry_settings": "retrySettings",
        "compute": "compute",
    }
    for key, value in settings.items():
        if key not in known:
            raise ConfigurationError(f"An invocation has no setting {key!r}; it has {', '.join(known)}.")
        properties[known[key]] = _camel(value)
    return properties


def data_input(value: Any, resolve: Any) -> dict[str, Any]:
    """One input as the service wants it. Pure but for `resolve`, which makes an id of a reference."""
    if isinstance(value, bool | int | float):
        return {"jobInputType": "Literal", "value": json.dumps(value)}
    if isinstance(value, str):
        return {"jobInputType": "UriFolder", "uri": resolve(value)}
    kind = str(value.get("type", "uri_folder")) if isinstance(value, Mapping) else ""
    if kind in _DATA_TYPES and value.get("path"):
        return {"jobInputType": _DATA_TYPES[kind], "uri": resolve(str(value["path"]))}
    if kind in ("string", "integer", "number", "boolean") and "default" in value:
        default = value["default"]
        return {"jobInputType": "Literal", "value": default if isinstance(default, str) else json.dumps(default)}
    raise ConfigurationError(f"An input must be an address or {{type, path}} or {{type, default}}, not {value!r}.")


def _data_output(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"jobOutputType": "UriFolder", "uri": value}
    kind = str(value.get("type", "uri_folder")) if isinstance(value, Mapping) else ""
    if kind not in _DATA_TYPES or not value.get("path"):
        raise ConfigurationError(f"The output {name} must be an address or {{type, path}}, not {value!r}.")
    return {"jobOutputType": _DATA_TYPES[kind], "uri": str(value["path"])}


def _camel(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    made = {}
    for key, each in value.items():
        first, *rest = str(key).split("_")
        made[first + "".join(part.capitalize() for part in rest)] = _camel(each)
    return made


class BatchDeployOperator(AzflowOperator):
    """Puts a model or a pipeline component on a batch endpoint, from ``endpoint.yml`` and ``deployment.yml``.

    The endpoint is created if it isn't there. The deployment's name stands for what is deployed (model version, code,
    YAML), so that trying again finds what is there. It becomes the endpoint's default: that decides who scores.

    Of the deployments that azflow made before, the newest are kept: Azure allows twenty an endpoint.

    XCom: ``{"endpoint", "deployment", "created", "default", "scoring_uri", "deleted": [name]}``.

    :param endpoint: folder below include/ml/endpoints; its files see ``endpoint``, ``deployment`` and
        ``registered_model``.
    :param registered_model: the model's id; a template; empty for a pipeline component, which deployment.yml names as
        ``azureml:<component>:<version>``.
    :param default: whether invocations without a deployment's name go to it.
    :param keep: how many of azflow's deployments stay, this one included.
    """

    template_fields = ("endpoint", "registered_model")
    ui_color = "#fdf0d5"

    def __init__(
        self, *, endpoint: str, registered_model: str = "", default: bool = True, keep: int = 5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.endpoint = endpoint
        self.registered_model = registered_model
        self.default = default
        self.keep = keep
        self._files: EndpointFiles | None = None

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the fields, then the YAML files."""
        super().render_template_fields(context, jinja_env)
        with airflow_edge(self.conn_id):
            environment = jinja_env or self.get_template_env()
            self._files = render_files(self.endpoint, environment, context, self.registered_model)

    def execute(self, context: Context) -> dict[str, Any]:
        """Create what isn't there, and make it the default."""
        with airflow_edge(self.conn_id):
            files = self._files
            if files is None:
                raise ConfigurationError(f"{self.task_id}: its templates were not rendered.")
            connection = AzureConnection.load(self.conn_id)
            night = context["night"]  # type: ignore[typeddict-item]
            with contextlib.closing(Workspace(connection)) as workspace:
                address = f"/batchEndpoints/{quote(files.name)}"
                there = workspace.get(workspace.arm(f"{address}/deployments/{quote(files.deployment)}"))
                created = there is None or there["properties"].get("provisioningState") == "Failed"
                if created:
                    self._create(
                        connection, files, origin(night), endpoint_is_there=workspace.get(workspace.arm(address))
                    )
                document = workspace.get(workspace.arm(address)) or {}
                defaults = document["properties"].get("defaults") or {}
                if self.default and defaults.get("deploymentName") != files.deployment:
                    document["properties"]["defaults"] = {"deploymentName": files.deployment}
                    document = workspace.call("PUT", workspace.arm(address), document)
                deleted = self._delete_older(workspace, address, document, files.deployment)
        state = "deployed" if created else "is there"
        self.log.info("%s on batch endpoint %s: %s.", files.deployment, files.name, state)
        return {
            "endpoint": files.name,
            "deployment": files.deployment,
            "created": created,
            "default": self.default,
            "scoring_uri": document["properties"].get("scoringUri"),
            "deleted": deleted,
        }

    def _delete_older(self, workspace: Workspace, address: str, endpoint: Mapping[str, Any], current: str) -> list[str]:
        """Delete all but the newest of azflow's deployments; never the default."""
        default = (endpoint["properties"].get("defaults") or {}).get("deploymentName")
        ours = [
            each
            for each in workspace.pages(workspace.arm(f"{address}/deployments"))
            if ORIGIN_TAG in (each.get("tags") or {}) and each["name"] not in (current, default)
        ]
        ours.sort(key=lambda each: str((each.get("systemData") or {}).get("createdAt") or ""), reverse=True)
        names = [str(each["name"]) for each in ours[max(0, self.keep - 1) :]]
        for name in names:
            workspace.call("DELETE", workspace.arm(f"{address}/deployments/{quote(name)}"))
            self.log.info("Deleted the older deployment %s.", name)
        return names

    def _create(
        self, connection: AzureConnection, files: EndpointFiles, tags: Mapping[str, str], endpoint_is_there: object
    ) -> None:
        from azure.ai.ml import load_batch_endpoint
        from azure.core.exceptions import HttpResponseError, ResourceExistsError

        client, source = connection.ml_client(), files.folder / "deployment.yml"
        shown = f"include/ml/endpoints/{self.endpoint}/deployment.yml"
        try:
            if endpoint_is_there is None:
                endpoint = load_batch_endpoint(io.StringIO(files.endpoint), relative_origin=str(source))
                with contextlib.suppress(ResourceExistsError):  # somebody was faster
                    client.batch_endpoints.begin_create_or_update(endpoint).result(OPERATION_SECONDS)
            deployment = self._load(files)
            deployment.tags = {**(deployment.tags or {}), **tags, ORIGIN_TAG: files.digest}
            client.batch_deployments.begin_create_or_update(deployment).result(OPERATION_SECONDS)
        except HttpResponseError as problem:
            if problem.status_code == 400:  # noqa: PLR2004
                raise SpecError(shown, "", f"the service refuses the deployment: {first_line(problem)}") from problem
            raise
        except Exception as problem:
            if type(problem).__module__.startswith(("azure.ai.ml", "marshmallow")):
                raise refusal(shown, problem, source, subject="batch deployment") from problem
            raise

    def _load(self, files: EndpointFiles) -> Any:
        """The deployment as the SDK's entity: it has one loader for models and one for pipeline components."""
        # What `az ml batch-deployment create` uses; the package doesn't export them.
        from azure.ai.ml.entities._load_functions import (
            load_model_batch_deployment,
            load_pipeline_component_batch_deployment,
        )

        content = mapping_of(files.deployment_yaml, self.endpoint, "deployment.yml")
        text, place = io.StringIO(files.deployment_yaml), str(files.folder / "deployment.yml")
        if content.get("type") != "pipeline" and "component" not in content:
            return load_model_batch_deployment(text, relative_origin=place)
        if not str(content.get("component", "")).startswith("azureml:"):
            shown = f"include/ml/endpoints/{self.endpoint}/deployment.yml"
            raise SpecError(shown, "component", "must be a published one: azureml:<name>:<version>")
        return load_pipeline_component_batch_deployment(text, relative_origin=place)
