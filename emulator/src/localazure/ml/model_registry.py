"""MLflow's model registry, which in Azure ML is the workspace's models: `registered_model_name=`, `models:/name/1`.

What a run registers becomes a model version of the workspace, with its files in the run's artifacts; every model of the
workspace, whoever made it, is found and downloaded by MLflow's clients.
https://mlflow.org/docs/latest/api_reference/rest-api.html and
https://learn.microsoft.com/azure/machine-learning/how-to-manage-models-mlflow
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest, Conflict, NotFound, NotImplementedOperation
from localazure.core.registry import Answer, Handler, Operation
from localazure.core.store import Store
from localazure.ml.assets import Assets, artifact_folder
from localazure.ml.catalogue import COLLECTIONS, CollectionHandlers, containers_kind, versions_kind
from localazure.ml.resources import WORKSPACE, in_workspace
from localazure.ml.workspace import ARTIFACT_CONTAINER, ARTIFACTSTORE
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.storage.locations import Location
from localazure.tracking.runs import TrackingError, TrackingRuns

_BASE = f"/mlflow/{{version}}{WORKSPACE}/api/2.0"
_MODELS = versions_kind("models")
_CONTAINERS = containers_kind("models")
# Where a model's files are, to a client: below the artifacts of MLflow's server, where nothing of that name is.
_ARTIFACTS = "azureml-models"
_STAGES = ("None", "Staging", "Production", "Archived")
_ERROR_CODES = {
    400: "INVALID_PARAMETER_VALUE", 404: "RESOURCE_DOES_NOT_EXIST", 409: "RESOURCE_ALREADY_EXISTS",
    501: "NOT_IMPLEMENTED",
}  # fmt: skip
_LOGGED = re.compile(
    r"(?:models:/|mlflow-artifacts:/[^/]+/models/)(?P<id>m-[0-9a-f]+)(?:/artifacts)?(?:/(?P<path>.*))?"
)
_RUN = re.compile(r"mlflow-artifacts:/(?P<experiment>[^/]+)/(?P<run>[^/]+)/artifacts/(?P<path>.+)")
_REGISTERED = re.compile(r"(?:models:/|mlflow-artifacts:/azureml-models/)(?P<name>[^/]+)/(?P<version>[^/]+)/?")
# MLflow's client adds the term on prompts by itself; there are none among the models.
_TERM = re.compile(
    r"\s*(?P<key>name|run_id|tags?\.(?:`[^`]+`|[\w.\-]+))\s*(?P<comparison>=|!=|I?LIKE)\s*'(?P<value>[^']*)'\s*",
    re.IGNORECASE,
)
_ORDERS = {
    "name": lambda each: each["name"],
    "version_number": lambda each: (len(each["version"]), each["version"]),
    "creation_timestamp": lambda each: each["creation_timestamp"],
    "last_updated_timestamp": lambda each: each["last_updated_timestamp"],
    "timestamp": lambda each: each["last_updated_timestamp"],
}  # fmt: skip


class _Refused(AzureError):
    """An error in MLflow's form: `{"error_code", "message"}`."""

    def __init__(self, error: AzureError) -> None:
        # The client raises on any status but 200; what it shows and looks at is the code.
        super().__init__(400 if error.status == 409 else error.status, error.code, error.message)  # noqa: PLR2004
        self._error_code = _ERROR_CODES.get(error.status, "INTERNAL_ERROR")

    def body(self) -> dict[str, Any]:
        """See AzureError."""
        return {"error_code": self._error_code, "message": self.message}


class ModelRegistryService:
    """Answers MLflow's registry calls below the workspace's tracking address. `artifacts` answers for all other paths
    of MLflow's artifacts.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        blobs: BlobStore,
        assets: Assets,
        tracking: TrackingRuns,
        artifacts: Handler,
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._assets = assets
        self._tracking = tracking
        self._artifacts = artifacts
        collection = next(row for row in COLLECTIONS if row.path == "models")
        self._models = CollectionHandlers(settings, store, collection, assets)

    def operations(self) -> list[Operation]:
        """ModelRegistryService of MLflow, a row a call, and the files of models."""
        rows: tuple[tuple[str, str, str, Callable[[dict[str, Any]], Any]], ...] = (
            ("CreateRegisteredModel", "POST", "registered-models/create", self._create_model),
            ("GetRegisteredModel", "GET", "registered-models/get", self._get_model),
            ("SearchRegisteredModels", "GET", "registered-models/search", self._search_models),
            ("UpdateRegisteredModel", "PATCH", "registered-models/update", self._update_model),
            ("DeleteRegisteredModel", "DELETE", "registered-models/delete", self._delete_model),
            ("RenameRegisteredModel", "POST", "registered-models/rename", self._unsupported("rename")),
            ("SetRegisteredModelTag", "POST", "registered-models/set-tag", self._tag_model),
            ("DeleteRegisteredModelTag", "DELETE", "registered-models/delete-tag", self._tag_model),
            ("GetLatestVersions", "POST", "registered-models/get-latest-versions", self._latest),
            ("SetRegisteredModelAlias", "POST", "registered-models/alias", self._unsupported("alias")),
            ("DeleteRegisteredModelAlias", "DELETE", "registered-models/alias", self._unsupported("alias")),
            ("GetModelVersionByAlias", "GET", "registered-models/alias", self._unsupported("alias")),
            ("CreateModelVersion", "POST", "model-versions/create", self._create_version),
            ("GetModelVersion", "GET", "model-versions/get", self._get_version),
            ("SearchModelVersions", "GET", "model-versions/search", self._search_versions),
            ("UpdateModelVersion", "PATCH", "model-versions/update", self._update_version),
            ("TransitionModelVersionStage", "POST", "model-versions/transition-stage", self._transition),
            ("DeleteModelVersion", "DELETE", "model-versions/delete", self._delete_version),
            ("SetModelVersionTag", "POST", "model-versions/set-tag", self._tag_version),
            ("DeleteModelVersionTag", "DELETE", "model-versions/delete-tag", self._tag_version),
            ("GetModelVersionDownloadUri", "GET", "model-versions/get-download-uri", self._download_uri),
        )
        found = [
            Operation(f"MLflow_{name}", method, f"{_BASE}/mlflow/{path}", self._call(answer), "arm")
            for name, method, path, answer in rows
        ]
        listing = f"{_BASE}/mlflow-artifacts/artifacts"
        file = f"{listing}/{_ARTIFACTS}/{{name}}/{{number}}/{{rest:path}}"
        return [
            *found,
            Operation("MLflow_ListModelArtifacts", "GET", listing, self._scoped(self._list_files), "arm"),
            Operation("MLflow_DownloadModelArtifact", "GET", file, self._scoped(self._file), "arm"),
        ]

    def _call(self, answer: Callable[[dict[str, Any]], Any]) -> Handler:
        async def handled(request: Request, identity: Identity) -> Answer:
            if request.method == "GET":
                asked: dict[str, Any] = dict(request.query_params)
                if orders := request.query_params.getlist("order_by"):
                    asked["order_by"] = orders
            else:
                asked = await request.json()
            if not isinstance(asked, dict):
                raise BadRequest("The request body must be a JSON object.")
            found: dict[str, Any] = await answer(asked)
            return found

        return self._scoped(handled)

    def _scoped(self, handler: Handler) -> Handler:
        async def handled(request: Request, identity: Identity) -> Answer:
            try:
                return await handler(request, identity)
            except AzureError as error:
                raise _Refused(error) from error

        return in_workspace(self._settings, handled)

    @staticmethod
    def _unsupported(what: str) -> Callable[[dict[str, Any]], Any]:
        async def refused(asked: dict[str, Any]) -> dict[str, Any]:
            raise NotImplementedOperation(f"MLflow's registry call {what} of a model")

        return refused

    # -- registered models

    async def _create_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = _needed(asked, "name")
        if self._store.get(_CONTAINERS, name):
            raise Conflict(f"Registered Model (name={name}) already exists.")
        self._models.contain(name, {"description": asked.get("description"), "tags": _tags(asked)})
        return {"registered_model": self._shown_model(self._container(name))}

    async def _get_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"registered_model": self._shown_model(self._container(_needed(asked, "name")))}

    async def _search_models(self, asked: dict[str, Any]) -> dict[str, Any]:
        return _found(asked, "registered_models", [self._shown_model(each) for each in self._store.list(_CONTAINERS)])

    async def _update_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"registered_model": self._changed_model(asked, description=asked.get("description"))}

    async def _delete_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = self._container(_needed(asked, "name"))["name"]
        for version in self._versions(name):
            self._store.delete(_MODELS, f"{name}/{version['name']}")
        self._store.delete(_CONTAINERS, name)
        return {}

    async def _tag_model(self, asked: dict[str, Any]) -> dict[str, Any]:
        tags = _retagged(self._container(_needed(asked, "name")), asked)
        self._changed_model(asked, tags=tags)
        return {}

    async def _latest(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = self._container(_needed(asked, "name"))["name"]
        stages = asked.get("stages") or _STAGES
        newest: dict[str, dict[str, Any]] = {}
        for version in self._versions(name):
            newest.setdefault(_stage(version), version)
        return {"model_versions": [self._shown(newest[stage]) for stage in stages if stage in newest]}

    # -- versions

    async def _create_version(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = str(self._container(_needed(asked, "name"))["name"])
        run = asked.get("run_id") or None
        uri, made_by = await self._kept(_needed(asked, "source"), run)
        numbers = [int(each["name"]) for each in self._versions(name) if each["name"].isdecimal()]
        version = str(max(numbers, default=0) + 1)
        local = await asyncio.to_thread(self._assets.resolve, uri)
        properties = {
            "modelUri": uri,
            "modelType": "mlflow_model" if (local / "MLmodel").is_file() else "custom_model",
            "description": asked.get("description"),
            "tags": _tags(asked),
        }
        if made_by:
            properties["jobName"] = made_by
        await asyncio.to_thread(self._models.write, name, version, properties)
        return {"model_version": self._shown(self._version({"name": name, "version": version}))}

    async def _get_version(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"model_version": self._shown(self._version(asked))}

    async def _search_versions(self, asked: dict[str, Any]) -> dict[str, Any]:
        names = [each["name"] for each in self._store.list(_CONTAINERS)]
        return _found(asked, "model_versions", [self._shown(each) for name in names for each in self._versions(name)])

    async def _update_version(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"model_version": self._changed(asked, description=asked.get("description"))}

    async def _transition(self, asked: dict[str, Any]) -> dict[str, Any]:
        stage = next((each for each in _STAGES if each.lower() == str(asked.get("stage")).lower()), None)
        if stage is None:
            raise BadRequest(f"Invalid Model Version stage: {asked.get('stage')}. Value must be one of {_STAGES}.")
        version = self._version(asked)
        if str(asked.get("archive_existing_versions")).lower() == "true":
            for other in self._versions(_name(version)):
                if _stage(other) == stage and other["name"] != version["name"]:
                    self._changed({"name": _name(version), "version": other["name"]}, stage="Archived")
        return {"model_version": self._changed(asked, stage=stage)}

    async def _delete_version(self, asked: dict[str, Any]) -> dict[str, Any]:
        version = self._version(asked)
        self._store.delete(_MODELS, f"{_name(version)}/{version['name']}")
        return {}

    async def _tag_version(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._changed(asked, tags=_retagged(self._version(asked), asked))
        return {}

    async def _download_uri(self, asked: dict[str, Any]) -> dict[str, Any]:
        version = self._version(asked)
        return {"artifact_uri": f"mlflow-artifacts:/{_ARTIFACTS}/{_name(version)}/{version['name']}"}

    # -- files

    async def _list_files(self, request: Request, identity: Identity) -> Answer:
        place, _, path = request.query_params.get("path", "").strip("/").partition("/")
        if place != _ARTIFACTS:
            return await self._artifacts(request, identity)
        name, _, rest = path.partition("/")
        version, _, inside = rest.partition("/")
        folder = await self._local(name, version, inside)
        if folder.is_file():
            return {"files": []}
        entries = sorted(folder.iterdir())
        return {
            "files": [
                {"path": each.name, "is_dir": each.is_dir(), **({} if each.is_dir() else {"file_size": _size(each)})}
                for each in entries
            ]
        }

    async def _file(self, request: Request, identity: Identity) -> Answer:
        params = request.path_params
        file = await self._local(params["name"], params["number"], params["rest"])
        if not file.is_file():
            raise NotFound(f"There is no file '{params['rest']}' in the model.")
        return FileResponse(file)

    async def _local(self, name: str, version: str, path: str) -> Path:
        document = self._version({"name": name, "version": version})
        root = await asyncio.to_thread(self._assets.resolve, document["properties"]["modelUri"])
        if root.is_file():
            # A model of one file: a folder with that file in it, to a client.
            root = root.parent if not path or path == root.name else root
        found = (root / path).resolve()
        if not found.is_relative_to(root.resolve()) or not found.exists():
            raise NotFound(f"The model {name}, version {version}, has no '{path}'.")
        return found

    async def _kept(self, source: str, run: str | None) -> tuple[str, str | None]:
        """The address of what is registered, and the run that made it. What a run logged is sent to its artifacts in
        the workspace's storage first: a job's own artifacts get there when it ends.
        """
        if match := _LOGGED.fullmatch(source):
            try:
                model = await self._tracking.logged_model(match["id"])
            except TrackingError as error:
                raise BadRequest(f"The logged model '{source}' isn't to be had: {error}") from error
            run = run or model.run
            path = "/".join(part for part in (model.name, match["path"]) if part)
            folder = model.folder / (match["path"] or "")
        elif match := _RUN.fullmatch(source):
            run, path = match["run"], match["path"].strip("/")
            root = self._settings.home / "mlflow" / "artifacts" / match["experiment"] / run / "artifacts"
            folder = (root / path).resolve()
            if not folder.is_relative_to(root.resolve()):
                raise BadRequest(f"'{source}' leads out of the run's artifacts.")
        elif match := _REGISTERED.fullmatch(source):
            original = self._version(match.groupdict())["properties"]
            return str(original["modelUri"]), run or original.get("jobName")
        else:
            return await asyncio.to_thread(self._assets.registered_uri, source), run
        if not folder.exists():
            raise BadRequest(f"There is nothing at '{source}': log the model before it is registered.")
        target = Location(ARTIFACT_CONTAINER, f"{artifact_folder(run or match[1])}/{path}")
        await asyncio.to_thread(self._blobs.upload_tree, folder, target)
        return self._assets.long_uri(f"azureml://datastores/{ARTIFACTSTORE}/paths/{target.path}"), run

    # -- documents

    def _container(self, name: str) -> dict[str, Any]:
        document = self._store.get(_CONTAINERS, name)
        if document is None:
            raise NotFound(f"Registered Model with name={name} not found")
        return document

    def _version(self, asked: dict[str, Any]) -> dict[str, Any]:
        name, version = _needed(asked, "name"), _needed(asked, "version")
        document = self._store.get(_MODELS, f"{name}/{version}")
        if document is None:
            raise NotFound(f"Model Version (name={name}, version={version}) not found")
        return document

    def _versions(self, name: str) -> list[dict[str, Any]]:
        """The newest first."""
        found = self._store.list(_MODELS, f"{name}/")
        return sorted(found, key=lambda each: each["systemData"]["createdAt"], reverse=True)

    def _changed(self, asked: dict[str, Any], **changes: Any) -> dict[str, Any]:
        known = self._version(asked)
        wanted = {"modelUri": known["properties"]["modelUri"], **changes}
        return self._shown(self._models.write(_name(known), known["name"], wanted)[1])

    def _changed_model(self, asked: dict[str, Any], **changes: Any) -> dict[str, Any]:
        name = _needed(asked, "name")
        self._container(name)

        def changed(document: dict[str, Any]) -> dict[str, Any]:
            document["properties"] |= changes
            return document

        return self._shown_model(self._store.update(_CONTAINERS, name, changed))

    def _shown_model(self, container: dict[str, Any]) -> dict[str, Any]:
        newest: dict[str, dict[str, Any]] = {}
        for version in self._versions(container["name"]):
            newest.setdefault(_stage(version), version)
        return {**_described(container), "latest_versions": [self._shown(each) for each in newest.values()]}

    def _shown(self, document: dict[str, Any]) -> dict[str, Any]:
        properties = document["properties"]
        return {
            **_described(document),
            "name": _name(document),
            "version": document["name"],
            "current_stage": _stage(document),
            "source": properties["modelUri"],
            "run_id": properties.get("jobName") or "",
            "status": "READY",
        }


def _described(document: dict[str, Any]) -> dict[str, Any]:
    properties, system = document["properties"], document["systemData"]
    return {
        "name": document["name"],
        "description": properties.get("description") or "",
        "creation_timestamp": _milliseconds(system["createdAt"]),
        "last_updated_timestamp": _milliseconds(system["lastModifiedAt"]),
        "tags": [{"key": key, "value": str(value)} for key, value in (properties.get("tags") or {}).items()],
    }


def _name(version: dict[str, Any]) -> str:
    return str(version["id"]).split("/")[-3]


def _stage(version: dict[str, Any]) -> str:
    return str(version["properties"].get("stage") or _STAGES[0])


def _size(file: Path) -> int:
    return file.stat().st_size


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _needed(asked: dict[str, Any], key: str) -> str:
    if not asked.get(key):
        raise BadRequest(f"Missing value for required parameter '{key}'.")
    return str(asked[key])


def _tags(asked: dict[str, Any]) -> dict[str, str]:
    return {str(each["key"]): str(each.get("value", "")) for each in asked.get("tags") or []}


def _retagged(document: dict[str, Any], asked: dict[str, Any]) -> dict[str, str]:
    """The tags with one more, or, where no value is given, one less."""
    tags, key = dict(document["properties"].get("tags") or {}), _needed(asked, "key")
    if "value" in asked:
        tags[key] = str(asked["value"])
    else:
        tags.pop(key, None)
    return tags


def _found(asked: dict[str, Any], key: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The page of `found` that is asked for by `filter`, `order_by`, `max_results` and `page_token`."""
    text = asked.get("filter") or ""
    for term in re.split(r"\bAND\b", text, flags=re.IGNORECASE) if text.strip() else ():
        match = _TERM.fullmatch(term)
        if match is None:
            raise NotImplementedOperation(f"The filter '{term.strip()}' of MLflow's registry")
        found = [each for each in found if _holds(each, match)]
    orders = asked.get("order_by") or []
    for order in reversed([orders] if isinstance(orders, str) else orders):
        field, _, direction = str(order).strip().partition(" ")
        if field not in _ORDERS or direction.strip().upper() not in ("", "ASC", "DESC"):
            raise BadRequest(f"Invalid order_by clause '{order}'; there are {', '.join(_ORDERS)} with ASC or DESC.")
        found = sorted(found, key=_ORDERS[field], reverse=direction.strip().upper() == "DESC")
    start, length = int(asked.get("page_token") or 0), int(asked.get("max_results") or 100)
    more = {"next_page_token": str(start + length)} if start + length < len(found) else {}
    return {key: found[start : start + length], **more}


def _holds(shown: dict[str, Any], term: re.Match[str]) -> bool:
    """Whether a model or version meets one term of a filter."""
    key, comparison, value = term["key"], term["comparison"].upper(), term["value"]
    if key.lower() in ("name", "run_id"):
        actual = shown.get(key.lower())
    else:
        tag = key.partition(".")[2].strip("`")
        actual = next((each["value"] for each in shown["tags"] if each["key"] == tag), None)
    if comparison == "!=":
        # MLflow's own server compares what is there; a missing tag is no prompt, and no other value either.
        return actual is None or actual != value
    if comparison == "=":
        return bool(actual == value)
    pattern = ".*".join(re.escape(part) for part in value.split("%"))
    flags = re.IGNORECASE if comparison == "ILIKE" else re.NOFLAG
    return actual is not None and re.fullmatch(pattern, actual, flags) is not None
