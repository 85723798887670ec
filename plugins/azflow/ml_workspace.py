"""An Azure ML workspace over plain REST: the small questions that don't need the SDK's seconds of imports.

Resource Manager: https://learn.microsoft.com/rest/api/azureml/jobs, /datastores, /workspaces, /model-versions.
What runs were and did is in `azflow.ml_history`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.core import PipelineClient

    from azflow.credentials import AsyncRestClient

API_VERSION = "2024-04-01"
_NOT_FOUND = 404


class Workspace:
    """The workspace of a connection. Errors are azure-core's; `close` it (or `aclose`, in the triggerer)."""

    def __init__(self, connection: AzureConnection) -> None:
        self.connection = connection
        self._clients: dict[str, PipelineClient[Any, Any]] = {}
        self._async_client: AsyncRestClient | None = None

    # -- Resource Manager --------------------------------------------------------------------------------------------

    def job(self, name: str) -> dict[str, Any] | None:
        """GET .../jobs/{name}; None if there is none."""
        return self.get(self._job_url(name))

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
        self.call("POST", self._job_url(name, "/cancel"))

    def jobs(self, *, tag: str = "", properties: str = "", job_type: str = "") -> Iterator[dict[str, Any]]:
        """GET .../jobs: the workspace's jobs without their children, newest first; as many as the caller takes.

        :param tag: only those that have a tag of this name.
        :param properties: only those that have these properties, ``name=value,...``.
        :param job_type: ``Command``, ``Pipeline``, ...
        """
        asked = {"tag": tag, "properties": properties, "jobType": job_type}
        return self.pages(self.arm("/jobs", urlencode({name: value for name, value in asked.items() if value})))

    def put_job(self, name: str, properties: Mapping[str, Any]) -> dict[str, Any]:
        """PUT .../jobs/{name}: for jobs made of ids that the workspace knows; the SDK uploads what a YAML names."""
        return self.call("PUT", self._job_url(name), {"properties": dict(properties)})

    # -- versioned assets ----------------------------------------------------------------------------------------------

    def versions(self, collection: str, name: str) -> Iterator[dict[str, Any]]:
        """GET .../{collection}/{name}/versions, newest first; none if there is no such name.

        :param collection: ``models``, ``components``, ``data``, ``environments``.
        """
        return self.pages(self.arm(f"/{collection}/{quote(name)}/versions", "$orderBy=createdtime%20desc"))

    def version(self, collection: str, name: str, version: str) -> dict[str, Any] | None:
        """GET .../{collection}/{name}/versions/{version}; None if there is none."""
        return self.get(self.arm(f"/{collection}/{quote(name)}/versions/{quote(version)}"))

    def put_version(self, collection: str, name: str, version: str, properties: Mapping[str, Any]) -> dict[str, Any]:
        """PUT .../{collection}/{name}/versions/{version}; the service refuses to change what a version is."""
        return self.call(
            "PUT", self.arm(f"/{collection}/{quote(name)}/versions/{quote(version)}"), {"properties": dict(properties)}
        )

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
        self.put_version("data", name, version, properties)

    def asset_id(self, reference: str) -> str:
        """``azureml:<name>:<version>`` or ``azureml:<name>@latest`` of data or a model as the id that the service
        takes; other addresses as they are.

        :raises ConfigurationError: there is no such asset.
        """
        if not reference.startswith("azureml:") or reference.startswith("azureml://"):
            return reference
        text = reference.removeprefix("azureml:")
        if text.startswith("/"):
            return text
        name, _, version = text.partition(":")
        for collection in ("data", "models"):
            if version:
                found = self.version(collection, name, version)
            else:
                found = next(self.versions(collection, name.removesuffix("@latest")), None)
            if found is not None:
                return str(found["id"])
        raise ConfigurationError(f"The workspace {self.connection.workspace} has neither data nor a model {text!r}.")

    def datastore(self, name: str) -> dict[str, Any]:
        """The properties of a datastore (``accountName``, ``containerName``, ...)."""
        found = self.get(self.arm(f"/datastores/{quote(name)}"))
        if found is None:
            raise ConfigurationError(f"The workspace {self.connection.workspace} has no datastore {name!r}.")
        properties: dict[str, Any] = found["properties"]
        return properties

    # -- life --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release the worker's connections."""
        while self._clients:
            self._clients.popitem()[1].close()

    async def aclose(self) -> None:
        """Release the triggerer's connections."""
        if self._async_client is not None:
            await self._async_client.close()
            self._async_client = None

    # -- requests ----------------------------------------------------------------------------------------------------

    @cached_property
    def mlflow_url(self) -> str:
        """``https://<host>/mlflow/v1.0/subscriptions/...``: the workspace's MLflow server, asked for once.

        Azure ML gives it as ``azureml://``, a scheme only its own MLflow plug-in understands; the server is the same.
        """
        found = self.get(self.arm("")) or {}
        uri = str(found.get("properties", {}).get("mlFlowTrackingUri") or "")
        if not uri.startswith(("azureml://", "https://")):
            raise ConfigurationError(f"The workspace {self.connection.workspace} names no tracking server ({uri!r}).")
        return f"https://{uri.partition('://')[2]}".rstrip("/")

    def arm(self, path: str, query: str = "") -> str:
        """The address of something in the workspace, e.g. ``/jobs/x``; `query` is encoded already."""
        more = f"&{query}" if query else ""
        return f"{self.connection.ml_workspace_url}{path}?api-version={API_VERSION}{more}"

    def get(self, url: str) -> dict[str, Any] | None:
        """GET; None for 404."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self.call("GET", url)
        except ResourceNotFoundError:
            return None

    def pages(self, url: str, most: int = 10_000) -> Iterator[dict[str, Any]]:
        """GET of a list, page after page: its entries, at most `most`; none for 404."""
        count = 0
        while url:
            page = self.get(url) or {}
            for each in page.get("value") or []:
                yield each
                count += 1
                if count == most:
                    return
            url = str(page.get("nextLink") or "")

    def call(
        self,
        method: str,
        url: str,
        content: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        scope: str = "",
    ) -> dict[str, Any]:
        """One request; its JSON answer, ``{}`` without one. Errors are azure-core's.

        :param scope: of the token; empty: Resource Manager's.
        """
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
        from azure.core.rest import HttpRequest

        request = HttpRequest(method, url, json=content, headers=dict(headers or {}))
        response = self._sync(scope or self.connection.arm_scope).send_request(request)
        if response.status_code == _NOT_FOUND:
            raise ResourceNotFoundError(response=response)
        if response.status_code >= 400:  # noqa: PLR2004
            raise HttpResponseError(response=response)
        if not response.content:
            return {}
        answer: dict[str, Any] = response.json()
        return answer

    def _job_url(self, name: str, action: str = "") -> str:
        return self.arm(f"/jobs/{quote(name)}{action}")

    def _sync(self, scope: str) -> PipelineClient[Any, Any]:
        if scope not in self._clients:
            self._clients[scope] = self.connection.rest_client(scope)
        return self._clients[scope]
