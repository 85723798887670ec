"""What an asset's name leads to: local folders and files for jobs and deployments, from every spelling of a reference.

azureml:name:version   azureml:name@latest   azureml:/subscriptions/...        short names and prefixed ARM ids
/subscriptions/.../workspaces/{w}/{data|models|codes|environments}/{n}/versions/{v}
azureml://locations/{l}/workspaces/{w}/{data|models}/{n}/versions/{v}
azureml://registries/{r}/{data|models|codes|environments|components}/{n}/versions/{v}, .../labels/latest
azureml://jobs/{job}/outputs/{output}[/paths/{path}]      output `artifacts` is what the run logged
runs:/{job}/{path}                                        an artifact of the job's MLflow run
and every address of `localazure.storage.locations`
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from localazure.core.errors import AzureError, BadRequest, NotFound
from localazure.core.store import Store
from localazure.ml import job_components
from localazure.ml.catalogue import curated, versions_kind
from localazure.ml.workspace import ARTIFACT_CONTAINER, ARTIFACTSTORE, DATASTORES
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.storage.locations import Location, parse

JOBS = "ml.jobs"
REGISTRIES = "ml.registries"
# Microsoft's own, with the curated environments; nothing of it is on this machine.
PUBLIC_REGISTRY = "azureml"

_VERSION_ID = re.compile(
    r"(?:.*/workspaces/[^/]+|azureml://locations/[^/]+/workspaces/[^/]+|azureml://registries/(?P<registry>[^/]+))/"
    r"(?P<collection>data|models|codes|environments|components)/(?P<name>[^/]+)/(?P<by>versions|labels)/(?P<version>[^/]+)/?",
    re.IGNORECASE,
)
_SHORT = re.compile(r"(?P<name>[A-Za-z0-9][\w.\-]*)(?::(?P<version>[\w.\-]+)|@(?P<label>latest))")
_JOB_OUTPUT = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/(?P<output>[^/]+)(?:/paths(?:/(?P<path>.*))?|/?)")
_RUN = re.compile(r"runs:/(?P<job>[^/]+)/(?P<path>.+)")
_CURATED = re.compile(r"(?:.*/environments/|azureml:)AzureML-", re.IGNORECASE)
_ARTIFACT_OUTPUTS = frozenset({"artifacts", "default"})


def artifact_folder(job: str) -> str:
    """Where a run's own files live in the artifact store: logs, `./outputs`, `./logs`."""
    return f"ExperimentRun/dcid.{job}"


class Assets:
    """References to assets, resolved. Synchronous and thread-safe; what it returns must not be written to."""

    def __init__(self, store: Store, blobs: BlobStore, settings: Settings) -> None:
        self._store = store
        self._blobs = blobs
        self._settings = settings

    def code_folder(self, id: str) -> Path:
        """The folder of a code snapshot."""
        return self.resolve(self._asset("codes", id)["properties"]["codeUri"])

    def model(self, id: str) -> dict[str, Any]:
        """The ARM resource of a model version."""
        return self._asset("models", id)

    def model_folder(self, id: str) -> Path:
        """The folder of a registered model (for a single-file model: the file's folder)."""
        path = self.resolve(self.model(id)["properties"]["modelUri"])
        return path.parent if path.is_file() else path

    def data(self, id: str) -> dict[str, Any]:
        """The ARM resource of a data version."""
        return self._asset("data", id)

    def data_path(self, id: str) -> Path:
        """The file or folder of a data asset."""
        return self.resolve(self.data(id)["properties"]["dataUri"])

    def environment(self, id: str) -> dict[str, Any]:
        """The ARM resource of an environment version.

        Microsoft's curated ones (`azureml://registries/azureml/...`, and those every workspace has under names that
        begin with AzureML-) aren't here: an empty one stands for them.
        """
        if id.lower().startswith(f"azureml://registries/{PUBLIC_REGISTRY}/") or _CURATED.match(id):
            return {"id": id, "name": id.rpartition("/")[2], "properties": {}}
        return self._asset("environments", id)

    def component(self, id: str) -> dict[str, Any]:
        """The ARM resource of a component version."""
        return self._asset("components", id)

    def component_of_job(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The spec of a component, from the job it names as its source if it has no graph of its own."""
        name = job_components.source(spec)
        if name is None:
            return spec
        job = self._store.get(JOBS, name)
        if job is None or job["resource"]["properties"]["jobType"] != "Pipeline":
            raise BadRequest(f"There is no pipeline job '{name}' to make a component from.", "sourceJobId", "UserError")
        return job_components.made(spec, job["request"], lambda id: self.component(id)["properties"]["componentSpec"])

    def uri(self, reference: str) -> str:
        """The address that a reference stands for, with assets and job outputs followed to their end."""
        for _ in range(8):  # an asset may point at a job's output, that at a datastore
            step = self._followed(reference)
            if step is None:
                return reference
            reference = step
        raise BadRequest(f"'{reference}' leads from asset to asset without an end.", code="UserError")

    def location(self, reference: str) -> Location:
        """The place in storage that a reference stands for."""
        return parse(self.uri(reference), self._settings, self.datastores())

    def resolve(self, uri: str) -> Path:
        """The local file or folder behind a reference. NotFound names the reference and where it led."""
        if match := _RUN.fullmatch(uri):
            return self._run_artifact(match["job"], match["path"], uri)
        location = self.location(uri)
        try:
            return self._blobs.materialize(location)
        except NotFound as error:
            end = f"{self._settings.storage_account}/{location}"
            raise NotFound(f"There is nothing at '{_shown(uri)}' (blob '{end}').", code="UserError") from error

    def long_uri(self, reference: str) -> str:
        """The address in the long form that names the workspace: what the SDK can download from."""
        uri = self.uri(reference)
        prefix = "azureml://datastores/"
        if not uri.startswith(prefix):
            return uri
        scope = self._settings.workspace_id.replace("/providers/Microsoft.MachineLearningServices", "").lstrip("/")
        return f"azureml://{scope}/datastores/{uri.removeprefix(prefix)}"

    def registered_uri(self, reference: str) -> str:
        """The address under which a new asset's content is kept. What a run made is followed to storage, and must be
        there.

        The service does the same: a model registered from a job shows its place in a datastore. Blocks.
        """
        asked = reference
        if match := _RUN.fullmatch(reference):
            reference = f"azureml://jobs/{match['job']}/outputs/artifacts/paths/{match['path']}"
        if not _JOB_OUTPUT.fullmatch(reference):
            return reference
        place = self.location(reference)
        if not self._blobs.list(place.container, place.path):
            message = f"There is nothing at '{asked}' (blob '{self._settings.storage_account}/{place}')."
            raise BadRequest(message, code="UserError")
        return self.long_uri(reference)

    def same_place(self, one: str, other: str) -> bool:
        """Whether two addresses lead to the same place, in whatever spelling."""
        try:
            places = [self.location(each) for each in (one, other)]
        except AzureError:
            return one == other
        return places[0].container == places[1].container and places[0].path.rstrip("/") == places[1].path.rstrip("/")

    def datastores(self) -> dict[str, str]:
        """Every registered datastore: name -> container."""
        return {each["name"]: each["properties"]["containerName"] for each in self._store.list(DATASTORES)}

    def output_uri(self, job: str, output: str) -> str:
        """The address of a job's output; a path may be joined with '/'."""
        document = self._store.get(JOBS, job)
        if document is None:
            raise NotFound(f"The job '{job}' was not found.", code="ResourceNotFound")
        if output in _ARTIFACT_OUTPUTS:
            return f"azureml://datastores/{ARTIFACTSTORE}/paths/{artifact_folder(job)}/"
        outputs = document["run"]["outputs"]
        if output not in outputs:
            known = ", ".join(sorted(outputs)) or "none"
            raise NotFound(f"The job '{job}' has no output '{output}' (it has {known}).", code="UserError")
        return str(outputs[output]["uri"])

    def _followed(self, reference: str) -> str | None:
        """The next step from a reference to an address, None at its end."""
        if reference.startswith(("azureml:/subscriptions", "azureml:azureml:")):
            return reference.removeprefix("azureml:")
        if match := _JOB_OUTPUT.fullmatch(reference):
            uri = self.output_uri(match["job"], match["output"])
            return uri.rstrip("/") + "/" + match["path"] if match["path"] else uri
        if match := _VERSION_ID.fullmatch(reference):
            # An output's own asset id, as run history gives it.
            if output := _implicit_output(match["name"]):
                return self.output_uri(*output) if self._store.get(JOBS, output[0]) else None
            document = self._asset(match["collection"].lower(), reference)
        elif reference.startswith("azureml:") and (match := _SHORT.fullmatch(reference.removeprefix("azureml:"))):
            document = self._short(match)
        else:
            return None
        properties = document["properties"]
        address: str | None = properties.get("dataUri") or properties.get("modelUri") or properties.get("codeUri")
        if address is None:
            raise BadRequest(f"'{reference}' is no data, model or code asset.", code="UserError")
        return address

    def _short(self, match: re.Match[str]) -> dict[str, Any]:
        for collection in ("data", "models"):
            if document := self._lookup(collection, match["name"], match["version"]):
                return document
        raise NotFound(f"There is no data or model asset '{match[0]}' in the workspace.", code="UserError")

    def _asset(self, collection: str, id: str) -> dict[str, Any]:
        bare, registry = id if id.startswith("azureml://") else id.removeprefix("azureml:"), None
        if match := _VERSION_ID.fullmatch(bare):
            registry = self._registry(match["registry"], id)
            # Without a chosen default version, the default is the latest one.
            latest = match["by"].lower() == "labels" and match["version"] in ("latest", "default")
            name, version = match["name"], None if latest else match["version"]
        elif match := _SHORT.fullmatch(bare):
            name, version = match["name"], match["version"]
        else:
            raise BadRequest(
                f"'{id}' is not the id of a version in {collection} (.../{collection}/<name>/versions/<v>)."
            )
        document = self._lookup(collection, name, version, registry)
        if document is None and collection == "environments" and registry is None:
            document = curated(self._settings, name, version)
        if document is None:
            raise NotFound(f"'{name}:{version or 'latest'}' was not found in {collection} ('{id}').", code="UserError")
        return document

    def _registry(self, name: str | None, id: str) -> str | None:
        if name is None or self._store.get(REGISTRIES, name.lower()):
            return name
        if name.lower() == PUBLIC_REGISTRY:
            raise NotFound(f"'{id}' is in Microsoft's public registry, which isn't on this machine.", code="UserError")
        known = ", ".join(each["name"] for each in self._store.list(REGISTRIES)) or "none"
        raise NotFound(f"The registry '{name}' was not found ('{id}'); there are: {known}.", code="UserError")

    def _lookup(
        self, collection: str, name: str, version: str | None, registry: str | None = None
    ) -> dict[str, Any] | None:
        kind = versions_kind(collection, registry)
        if version is not None:
            return self._store.get(kind, f"{name}/{version}")
        versions = self._store.list(kind, f"{name}/")
        return max(versions, key=lambda each: each["systemData"]["createdAt"], default=None)

    def _run_artifact(self, job: str, path: str, uri: str) -> Path:
        # The queue has put there what the run logged, once the job completed.
        try:
            return self._blobs.materialize(Location(ARTIFACT_CONTAINER, f"{artifact_folder(job)}/{path}"))
        except NotFound as error:
            raise NotFound(f"The run '{job}' has no artifact '{path}' ('{uri}').", code="UserError") from error


def output_asset_name(job: str, output: str) -> str:
    """The name under which run history lists a job's output."""
    return f"azureml_{job}_output_{output}"


def _implicit_output(name: str) -> tuple[str, str] | None:
    match = re.fullmatch(r"azureml_(.+)_output_([A-Za-z0-9_\-]+?)", name)
    return (match[1], match[2]) if match else None


def _shown(uri: str) -> str:
    """The URI without its query, which may be a SAS."""
    return uri.partition("?")[0]
