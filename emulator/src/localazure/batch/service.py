"""Batch endpoints: the operations, and invocations as jobs.

https://learn.microsoft.com/rest/api/azureml/batch-endpoints and .../batch-deployments. Nothing is running between two
invocations: a deployment is a description.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml
from starlette.requests import Request
from starlette.responses import Response

from localazure.batch import resources, scoring
from localazure.batch.resources import Document
from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, NotFound
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Store
from localazure.ml.assets import JOBS
from localazure.ml.resources import WORKSPACE, body, in_workspace, page, resource, touched
from localazure.settings import Settings

_ENDPOINTS, _DEPLOYMENTS = "batch.endpoints", "batch.deployments"
# Where Azure's management front end lists jobs; the SDK finds it by the workspace's discovery document.
_FRONT_END = f"/mferp/managementfrontend{WORKSPACE}"
_DEPLOYMENT_HEADER = "azureml-model-deployment"
# The SDK misspells the standard's repeatability-request-id.
_REPEATABILITY_HEADERS = ("repeatability-request-id", "repeatability_request-id")
_ANONYMOUS = "azureml_anonymous"
_MLFLOW = "mlflow_model"
_MODEL_DEPENDENCIES = {"dependencies": [{"pip": ["mlflow"]}]}


class Assets(Protocol):
    """What is needed of the workspace's assets (`ml.assets`)."""

    def code_folder(self, id: str) -> Path: ...
    def component(self, id: str) -> dict[str, Any]: ...
    def environment(self, id: str) -> dict[str, Any]: ...
    def model(self, id: str) -> dict[str, Any]: ...
    def resolve(self, uri: str) -> Path: ...


class Catalogue(Protocol):
    """Where assets of the service's own are registered (`ml.catalogue`)."""

    def add(self, path: str, name: str, version: str, properties: dict[str, Any]) -> dict[str, Any]: ...


class Submission(Protocol):
    """Where jobs begin (`ml.submission`)."""

    def submit(
        self, name: str, asked: dict[str, Any], *, parent: str | None = None, run: dict[str, Any] | None = None
    ) -> dict[str, Any]: ...


class BatchService:
    """See the module."""

    def __init__(
        self, settings: Settings, store: Store, *, assets: Assets, catalogue: Catalogue, submission: Submission
    ) -> None:
        self._settings = settings
        self._store = store
        self._assets = assets
        self._catalogue = catalogue
        self._submission = submission

    def operations(self) -> list[Operation]:
        """BatchEndpoints_* and BatchDeployments_*, the scoring address, and the lists of jobs."""
        endpoints = "/batchEndpoints"
        endpoint = endpoints + "/{endpoint}"
        deployments = endpoint + "/deployments"
        deployment = deployments + "/{deployment}"
        rows: list[tuple[str, str, str, Handler]] = [
            ("BatchEndpoints_List", "GET", endpoints, self._list_endpoints),
            ("BatchEndpoints_Get", "GET", endpoint, self._get_endpoint),
            ("BatchEndpoints_CreateOrUpdate", "PUT", endpoint, self._put_endpoint),
            ("BatchEndpoints_Update", "PATCH", endpoint, self._patch_endpoint),
            ("BatchEndpoints_Delete", "DELETE", endpoint, self._delete_endpoint),
            ("BatchEndpoints_ListKeys", "POST", endpoint + "/listkeys", self._list_keys),
            ("BatchDeployments_List", "GET", deployments, self._list_deployments),
            ("BatchDeployments_Get", "GET", deployment, self._get_deployment),
            ("BatchDeployments_CreateOrUpdate", "PUT", deployment, self._put_deployment),
            ("BatchDeployments_Update", "PATCH", deployment, self._patch_deployment),
            ("BatchDeployments_Delete", "DELETE", deployment, self._delete_deployment),
        ]
        found = [(name, method, WORKSPACE + path, handler) for name, method, path, handler in rows]
        found += [
            ("BatchJobEndpoint_List", "GET", f"{_FRONT_END}{endpoint}/jobs", self._list_jobs),
            ("BatchJobDeployment_List", "GET", f"{_FRONT_END}{deployment}/jobs", self._list_jobs),
        ]
        scoped = [
            Operation(name, method, path, in_workspace(self._settings, handler), "arm")
            for name, method, path, handler in found
        ]
        invoked = "/batch/{endpoint}/jobs"
        return [
            *scoped,
            Operation("BatchJobEndpoint_Create", "POST", invoked, self._invoke, "arm"),
            Operation("BatchJobEndpoint_Get", "GET", invoked + "/{job}", self._get_job, "arm"),
        ]

    async def start(self) -> None:
        """Nothing runs between invocations."""

    async def stop(self) -> None:
        """The jobs are the queue's."""

    # Endpoints.

    async def _list_endpoints(self, request: Request, identity: Identity) -> Answer:
        return page(request, self._settings, self._store.list(_ENDPOINTS))

    async def _get_endpoint(self, request: Request, identity: Identity) -> Answer:
        return self._endpoint(request)

    async def _put_endpoint(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["endpoint"]
        content = await body(request)
        known = self._store.get(_ENDPOINTS, name)
        properties = resources.endpoint_properties(name, content["properties"], self._names(name))
        properties["scoringUri"] = f"{self._settings.api_url}/batch/{name}/jobs"
        document = self._document(f"batchEndpoints/{name}", content, properties, known)
        self._store.put(_ENDPOINTS, name, document)
        return (201 if known is None else 200), document

    async def _patch_endpoint(self, request: Request, identity: Identity) -> Answer:
        self._endpoint(request)
        content = await request.json()
        if not isinstance(content, dict) or set(content) - {"tags", "identity"}:
            raise BadRequest("BatchEndpoints_Update changes tags and identity; anything else takes a PUT.")
        return self._store.update(_ENDPOINTS, request.path_params["endpoint"], lambda old: touched(old | content))

    async def _delete_endpoint(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["endpoint"]
        for deployment in self._names(name):
            self._store.delete(_DEPLOYMENTS, f"{name}/{deployment}")
        return Response(status_code=200 if self._store.delete(_ENDPOINTS, name) else 204)

    async def _list_keys(self, request: Request, identity: Identity) -> Answer:
        name = self._endpoint(request)["name"]
        raise BadRequest(
            f"The endpoint '{name}' takes Microsoft Entra tokens: it has no keys.", "authMode", "UserError"
        )

    # Deployments.

    async def _list_deployments(self, request: Request, identity: Identity) -> Answer:
        name = self._endpoint(request)["name"]
        return page(request, self._settings, self._store.list(_DEPLOYMENTS, f"{name}/"))

    async def _get_deployment(self, request: Request, identity: Identity) -> Answer:
        return self._deployment(request)

    async def _put_deployment(self, request: Request, identity: Identity) -> Answer:
        endpoint, name = self._endpoint(request)["name"], request.path_params["deployment"]
        content = await body(request)
        properties = resources.deployment_properties(name, content["properties"])
        try:
            await asyncio.to_thread(self._check_references, properties)
        except NotFound as error:
            # 404 would mean the deployment itself.
            raise BadRequest(error.message, error.target, "UserError") from error
        known = self._store.get(_DEPLOYMENTS, f"{endpoint}/{name}")
        document = self._document(f"batchEndpoints/{endpoint}/deployments/{name}", content, properties, known)
        self._store.put(_DEPLOYMENTS, f"{endpoint}/{name}", document)
        return (201 if known is None else 200), document

    async def _patch_deployment(self, request: Request, identity: Identity) -> Answer:
        self._deployment(request)
        content = await request.json()
        properties = (content.get("properties") or {}) if isinstance(content, dict) else {}
        if not isinstance(content, dict) or set(content) - {"tags", "properties"} or set(properties) - {"description"}:
            raise BadRequest("BatchDeployments_Update changes tags and description; anything else takes a PUT.")

        def changed(old: Document) -> Document:
            tags = content.get("tags", old.get("tags"))
            return touched({**old, "tags": tags, "properties": {**old["properties"], **properties}})

        return self._store.update(_DEPLOYMENTS, _key(request), changed)

    async def _delete_deployment(self, request: Request, identity: Identity) -> Answer:
        endpoint = self._endpoint(request)
        name = request.path_params["deployment"]
        if not self._store.delete(_DEPLOYMENTS, _key(request)):
            return Response(status_code=204)
        if endpoint["properties"]["defaults"]["deploymentName"] == name:
            endpoint["properties"]["defaults"] = {"deploymentName": None}
            self._store.put(_ENDPOINTS, endpoint["name"], touched(endpoint))
        return Response(status_code=200)

    def _check_references(self, properties: Mapping[str, Any]) -> None:
        """Refuses a deployment that no invocation could run. Blocks."""
        if id := resources.component_id(properties):
            kind = self._assets.component(id)["properties"]["componentSpec"].get("type")
            if kind != "pipeline":
                raise BadRequest(f"A deployment takes a component of type pipeline, not {kind}.", "componentId",
                                 "UserError")  # fmt: skip
            return
        if environment := properties.get("environmentId"):
            self._assets.environment(environment)
        if code := properties.get("codeConfiguration"):
            folder = self._assets.code_folder(code["codeId"])
            if not (folder / code["scoringScript"]).is_file():
                there = ", ".join(sorted(path.name for path in folder.iterdir())[:20])
                raise BadRequest(f"The scoring script '{code['scoringScript']}' is not in the code folder, which holds "
                                 f"{there}.", "codeConfiguration.scoringScript", "UserError")  # fmt: skip
        if model := resources.model_id(properties):
            self._check_model(model, scripted=bool(code))

    def _check_model(self, id: str, *, scripted: bool) -> None:
        model = self._assets.model(id)
        if scripted:
            return
        kind = model["properties"].get("modelType")
        if kind != _MLFLOW:
            raise BadRequest(f"The model '{id}' is of type {kind}: only an MLflow model needs no scoring script.",
                             "codeConfiguration", "UserError")  # fmt: skip
        flavors = self._mlmodel(model).get("flavors") or {}
        if "python_function" not in flavors:
            known = ", ".join(sorted(flavors)) or "none"
            raise BadRequest(f"Batch deployments take MLflow models with the pyfunc flavor; '{id}' has {known}.",
                             "properties.model", "UserError")  # fmt: skip

    def _mlmodel(self, model: Mapping[str, Any]) -> dict[str, Any]:
        file = self._assets.resolve(model["properties"]["modelUri"]) / "MLmodel"
        if not file.is_file():
            raise BadRequest(f"The model '{model['id']}' holds no file MLmodel.", "properties.model", "UserError")
        found: dict[str, Any] = yaml.safe_load(file.read_text()) or {}
        return found

    # Invocations.

    async def _invoke(self, request: Request, identity: Identity) -> Answer:
        endpoint = self._endpoint(request)
        content = (await body(request))["properties"]
        scoring.check(content)
        deployment = self._invoked(endpoint, request.headers.get(_DEPLOYMENT_HEADER))
        repeated = next((request.headers[name] for name in _REPEATABILITY_HEADERS if name in request.headers), None)
        # A request that is sent again after a lost answer finds its job.
        own = uuid.uuid5(uuid.NAMESPACE_URL, f"{endpoint['id']}@{repeated}") if repeated else uuid.uuid4()
        name = str(content.get("name") or f"batchjob-{own}")
        said = {key: value for key, value in (content.get("properties") or {}).items() if value is not None}
        experiment = said.pop("experimentName", None) or endpoint["name"]
        try:
            asked = await asyncio.to_thread(self._job, deployment, content, experiment)
        except NotFound as error:
            raise BadRequest(error.message, error.target, "UserError") from error
        asked["properties"] = said
        run = {"batchEndpoint": endpoint["name"], "batchDeployment": deployment["name"]}
        return 201, self._shown(self._submission.submit(name, asked, run=run))

    async def _list_jobs(self, request: Request, identity: Identity) -> Answer:
        endpoint = self._endpoint(request)["name"]
        wanted = request.path_params.get("deployment")
        if wanted is not None:
            self._deployment(request)
        found = [
            self._shown(job)
            for job in self._store.list(JOBS)
            if job["run"].get("batchEndpoint") == endpoint and wanted in (None, job["run"]["batchDeployment"])
        ]
        found.sort(key=lambda each: each["systemData"]["createdAt"], reverse=True)
        return page(request, self._settings, found, size=100)

    async def _get_job(self, request: Request, identity: Identity) -> Answer:
        endpoint, name = self._endpoint(request)["name"], request.path_params["job"]
        job = self._store.get(JOBS, name)
        if job is None or job["run"].get("batchEndpoint") != endpoint:
            raise NotFound(f"The endpoint '{endpoint}' has no job '{name}'.", code="ResourceNotFound")
        return self._shown(job)

    def _invoked(self, endpoint: Document, asked: str | None) -> Document:
        """The deployment an invocation goes to: the one asked for, the default one, or the only one."""
        names = self._names(endpoint["name"])
        chosen = (
            asked or endpoint["properties"]["defaults"]["deploymentName"] or (names[0] if len(names) == 1 else None)
        )
        if chosen is None:
            raise BadRequest(f"The endpoint '{endpoint['name']}' has no default deployment (it has "
                             f"{', '.join(names) or 'none'}).", "defaults.deploymentName", "UserError")  # fmt: skip
        found = self._store.get(_DEPLOYMENTS, f"{endpoint['name']}/{chosen}")
        if found is None:
            raise NotFound(f"The endpoint '{endpoint['name']}' has no deployment '{chosen}' (it has "
                           f"{', '.join(names) or 'none'}).", code="ResourceNotFound")  # fmt: skip
        return found

    def _job(self, deployment: Document, content: Mapping[str, Any], experiment: str) -> dict[str, Any]:
        """The properties of the job of an invocation. Blocks: the model may have to be brought."""
        properties = deployment["properties"]
        if resources.component_id(properties):
            return scoring.of_component(properties, content, experiment)
        wanted = scoring.settings(properties, content)
        data = scoring.data_input(content)
        id = resources.model_id(properties)
        model = self._assets.model(id) if id else None
        kind = (model["properties"].get("modelType") or "custom_model") if model else None
        environment = wanted.get("environmentId") or self._environment_of(model)
        spec = scoring.component(wanted, environment=environment, data_type=data["jobInputType"], model_type=kind)
        version = _digest(spec)
        # Anonymous, as what the SDK registers of a pipeline's inline steps.
        component = self._catalogue.add(
            "components", _ANONYMOUS, version, {"componentSpec": {**spec, "name": _ANONYMOUS, "version": version},
                                                "isAnonymous": True}
        )  # fmt: skip
        given = {"jobInputType": kind, "uri": id} if model else None
        return scoring.of_model(
            wanted, content, component_id=component["id"], data=data, model=given, experiment=experiment
        )

    def _environment_of(self, model: Mapping[str, Any] | None) -> str:
        """The environment that an MLflow model says it needs, registered."""
        assert model is not None
        file = self._assets.resolve(model["properties"]["modelUri"]) / "conda.yaml"
        conda = file.read_text() if file.is_file() else yaml.safe_dump(_MODEL_DEPENDENCIES)
        name = f"batch-{model['id'].split('/')[-3]}"
        return str(self._catalogue.add("environments", name, _digest(conda), {"condaFile": conda})["id"])

    # Documents.

    def _shown(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """A job as invocations and their lists show it."""
        document, properties = job["resource"], job["resource"]["properties"]
        return {
            "id": document["id"],
            "name": document["name"],
            "type": "Microsoft.MachineLearningServices/workspaces/batchEndpoints/jobs",
            "properties": {
                "status": properties["status"],
                "name": document["name"],
                "experimentName": properties["experimentName"],
                "inputs": properties["inputs"],
                "outputs": properties["outputs"],
                "deployment": job["run"].get("batchDeployment"),
            },
            "systemData": document["systemData"],
        }

    def _document(
        self, path: str, content: Mapping[str, Any], properties: dict[str, Any], known: Document | None
    ) -> Document:
        more: dict[str, Any] = {key: content[key] for key in ("identity", "kind", "sku") if content.get(key)}
        more["location"] = content.get("location") or self._settings.location
        more["tags"] = content.get("tags") or {}
        if known is None:
            return resource(self._settings, path, properties, **more)
        return touched({**known, **more, "properties": properties})

    def _endpoint(self, request: Request) -> Document:
        name = request.path_params["endpoint"]
        document = self._store.get(_ENDPOINTS, name)
        if document is None:
            raise NotFound(f"The batch endpoint '{name}' was not found.", code="ResourceNotFound")
        return document

    def _deployment(self, request: Request) -> Document:
        self._endpoint(request)
        document = self._store.get(_DEPLOYMENTS, _key(request))
        if document is None:
            raise NotFound(f"The batch deployment '{_key(request)}' was not found.", code="ResourceNotFound")
        return document

    def _names(self, endpoint: str) -> list[str]:
        return [document["name"] for document in self._store.list(_DEPLOYMENTS, f"{endpoint}/")]


def _key(request: Request) -> str:
    return f"{request.path_params['endpoint']}/{request.path_params['deployment']}"


def _digest(content: Any) -> str:
    """A version for what is the same whenever its content is."""
    return str(uuid.UUID(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]))
