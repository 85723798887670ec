"""An Azure ML workspace over plain REST: the small questions that don't need the SDK's seconds of imports.

- Resource Manager: https://learn.microsoft.com/rest/api/azureml/jobs, /datastores, /workspaces
- run history and MLflow stand at the host that the workspace's tracking address names; run history has no published
  reference, the calls are those of ``azure-ai-ml`` (``_restclient/runhistory``). MLflow:
  https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.core import PipelineClient

    from azflow.credentials import AsyncRestClient

API_VERSION = "2024-04-01"
_LOG_BYTES = 64 * 1024
_CHILDREN = 500
#: Of the files a run logs, the user's own output; older runtimes call it otherwise.
_LOG_NAMES = ("std_log", "70_driver_log", "stdout", "stderr")
_NOT_FOUND = 404
_NO_RANGE = 416


class Workspace:
    """The workspace of a connection. Errors are azure-core's; `close` it (or `aclose`, in the triggerer)."""

    def __init__(self, connection: AzureConnection) -> None:
        self.connection = connection
        self._client: PipelineClient[Any, Any] | None = None
        self._async_client: AsyncRestClient | None = None

    # -- Resource Manager --------------------------------------------------------------------------------------------

    def job(self, name: str) -> dict[str, Any] | None:
        """GET .../jobs/{name}; None if there is none."""
        return self._get(self._job_url(name), missing_ok=True)

    async def ajob(self, name: str) -> dict[str, Any]:
        """As `job`, for the triggerer; a missing job is an error."""
        from azure.core.exceptions import HttpResponseError
        from azure.core.rest import HttpRequest

        if self._async_client is None:
            self._async_client = self.connection.async_rest_client(
                self.connection.resource_manager, self.connection.arm_scope
            )
        response = await self._async_client.send(HttpRequest("GET", self._job_url(name)))
        if response.status_code != 200:  # noqa: PLR2004
            raise HttpResponseError(response=response)
        found: dict[str, Any] = response.json()
        return found

    def cancel_job(self, name: str) -> None:
        """POST .../jobs/{name}/cancel: asks, and doesn't wait for the end."""
        self._call("POST", self._job_url(name, "/cancel"))

    def register_data(
        self,
        name: str,
        version: str,
        uri: str,
        *,
        data_type: str,
        tags: Mapping[str, str],
        referenced: Sequence[str] = (),
    ) -> None:
        """PUT .../data/{name}/versions/{version}: a pointer to `uri`; the same again changes nothing.

        The SDK would download an MLTable first, and ask the internet for its JSON schema.

        :param referenced: what an MLTable's paths lead to.
        """
        properties: dict[str, Any] = {"dataType": data_type, "dataUri": uri, "tags": dict(tags), "isAnonymous": False}
        if data_type == "mltable":
            properties["referencedUris"] = list(referenced)
        self._call("PUT", self._arm(f"/data/{quote(name)}/versions/{quote(version)}"), {"properties": properties})

    def datastore(self, name: str) -> dict[str, Any]:
        """The properties of a datastore (``accountName``, ``containerName``, ...)."""
        found = self._get(self._arm(f"/datastores/{quote(name)}"), missing_ok=True)
        if found is None:
            raise ConfigurationError(f"The workspace {self.connection.workspace} has no datastore {name!r}.")
        properties: dict[str, Any] = found["properties"]
        return properties

    # -- run history -------------------------------------------------------------------------------------------------

    def run_details(self, run_id: str) -> dict[str, Any]:
        """A run's error, and signed addresses of its log files (``logFiles``)."""
        return self._get(f"{self._history_url}/runs/{quote(run_id)}/details") or {}

    def child_runs(self, run_id: str) -> list[dict[str, Any]]:
        """The runs a run started, oldest first: ``runId``, ``status``, ``properties``, ``tags``..."""
        found: list[dict[str, Any]] = []
        url = f"{self._history_url}/runs/{quote(run_id)}/children"
        while url and len(found) < _CHILDREN:
            page = self._get(url) or {}
            found += page.get("value") or []
            url = page.get("nextLink") or ""
        return found

    def log_tail(self, run_id: str, lines: int = 40) -> list[str]:
        """The last lines the run printed, oldest first; none if it printed nothing."""
        files: Mapping[str, str] = self.run_details(run_id).get("logFiles") or {}
        # The user's log first, then any; of several processes' logs the first process's.
        names = sorted(files, key=lambda name: (not any(known in name for known in _LOG_NAMES), name))
        for name in names:
            if tail := _tail(files[name], lines):
                return tail
        return []

    # -- MLflow ------------------------------------------------------------------------------------------------------

    def tracked_run(self, run_id: str) -> dict[str, Any] | None:
        """MLflow's run, or None if nothing was ever tracked for it."""
        found = self._get(f"{self._mlflow_url}/api/2.0/mlflow/runs/get?run_id={quote(run_id)}", missing_ok=True)
        run: dict[str, Any] | None = found and found.get("run")
        return run

    def tracked_children(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """MLflow's runs whose parent is `run` (as `tracked_run` gives it)."""
        found: list[dict[str, Any]] = []
        token = None
        while len(found) < _CHILDREN:
            request = {
                "experiment_ids": [run["info"]["experiment_id"]],
                "filter": f"tags.mlflow.parentRunId = '{run['info']['run_id']}'",
                "max_results": 100,
            }
            if token:
                request["page_token"] = token
            page = self._call("POST", f"{self._mlflow_url}/api/2.0/mlflow/runs/search", request)
            found += page.get("runs") or []
            token = page.get("next_page_token")
            if not token:
                break
        return found

    # -- life --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release the worker's connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def aclose(self) -> None:
        """Release the triggerer's connections."""
        if self._async_client is not None:
            await self._async_client.close()
            self._async_client = None

    # -- steps -------------------------------------------------------------------------------------------------------

    @cached_property
    def _mlflow_url(self) -> str:
        """``https://<host>/mlflow/v1.0/subscriptions/...``"""
        found = self._get(self._arm("")) or {}
        uri = str(found.get("properties", {}).get("mlFlowTrackingUri") or "")
        if not uri.startswith(("azureml://", "https://")):
            raise ConfigurationError(f"The workspace {self.connection.workspace} names no tracking server ({uri!r}).")
        return f"https://{uri.partition('://')[2]}".rstrip("/")

    @cached_property
    def _history_url(self) -> str:
        # The region's host serves both; Microsoft's SDK finds it through its discovery address.
        return f"https://{urlsplit(self._mlflow_url).netloc}/history/v1.0{self.connection.ml_workspace_id}"

    def _job_url(self, name: str, action: str = "") -> str:
        return self._arm(f"/jobs/{quote(name)}{action}")

    def _arm(self, path: str) -> str:
        return f"{self.connection.ml_workspace_url}{path}?api-version={API_VERSION}"

    def _get(self, url: str, *, missing_ok: bool = False) -> dict[str, Any] | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._call("GET", url)
        except ResourceNotFoundError:
            if missing_ok:
                return None
            raise

    def _call(self, method: str, url: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
        from azure.core.rest import HttpRequest

        response = self._sync().send_request(HttpRequest(method, url, json=content))
        if response.status_code == _NOT_FOUND:
            raise ResourceNotFoundError(response=response)
        if response.status_code >= 400:  # noqa: PLR2004
            raise HttpResponseError(response=response)
        if not response.content:
            return {}
        answer: dict[str, Any] = response.json()
        return answer

    def _sync(self) -> PipelineClient[Any, Any]:
        if self._client is None:
            self._client = self.connection.rest_client()
        return self._client


def _tail(url: str, lines: int) -> list[str]:
    """The last lines behind a signed address. The address is a secret and stays out of messages."""
    from azure.storage.blob import BlobClient

    # azure-storage-blob splits a path-style and a host-style address alike.
    with BlobClient.from_blob_url(url) as blob:
        size = blob.get_blob_properties().size
        if size == 0:
            return []
        start = max(0, size - _LOG_BYTES)
        text = blob.download_blob(offset=start, length=size - start).readall().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
