"""An online endpoint by Azure Resource Manager: its traffic, keys, deployments and their logs.

Traffic is read, changed and written as the whole resource, exactly as the service gave it. The SDK's entity can't do
that: it drops ``mirrorTraffic`` on reading, so that writing it back erases the mirror, and an update without a traffic
map takes the endpoint down. It also needs none of the seconds that importing ``azure.ai.ml`` takes.

https://learn.microsoft.com/rest/api/azureml/online-endpoints
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, ServiceUnavailable

if TYPE_CHECKING:
    from azure.core import PipelineClient

    from azflow.credentials import AsyncRestClient

API_VERSION = "2024-04-01"
METRICS_API_VERSION = "2023-10-01"
PUBLIC_STUDIO = "https://ml.azure.com"

_NOT_FOUND = 404
_CONFLICT = 409
#: How long an operation on an endpoint may take, and how long another one's end is waited for; seconds.
OPERATION_SECONDS = 900.0
CONFLICT_SECONDS = 120.0
_FIRST_POLL_SECONDS = 0.2


class OnlineEndpoint:
    """One endpoint. Calls block; errors are ``azure.core``'s (`azflow.runs.airflow_edge` translates them)."""

    def __init__(self, connection: AzureConnection, name: str) -> None:
        self._connection = connection
        self.name = name
        self._url = f"{connection.ml_workspace_url}/onlineEndpoints/{quote(name)}"
        self._client: PipelineClient[Any, Any] | None = None
        self._async_client: AsyncRestClient | None = None

    # -- the endpoint ------------------------------------------------------------------------------------------------

    def read(self) -> dict[str, Any] | None:
        """The resource, or None if there is no such endpoint."""
        return self._get(self._url)

    def document(self) -> dict[str, Any]:
        """The resource.

        :raises ConfigurationError: there is no such endpoint.
        """
        found = self.read()
        if found is None:
            raise ConfigurationError(
                f"There is no online endpoint {self.name!r} in workspace {self._connection.workspace!r}."
            )
        return found

    def traffic(self) -> dict[str, int]:
        """Deployment -> percent, as it is now."""
        return traffic_of(self.document())

    def write_traffic(self, traffic: Mapping[str, int]) -> None:
        """Make `traffic` the endpoint's, in one write of the whole resource, and wait until it is.

        :raises ValueError: it doesn't sum to 100.
        """
        if sum(traffic.values()) != 100:  # noqa: PLR2004 - percent
            raise ValueError(f"traffic must sum to 100, not {sum(traffic.values())}: {dict(traffic)}")
        deadline = time.monotonic() + CONFLICT_SECONDS
        while True:
            document = self.document()
            document["properties"]["traffic"] = dict(traffic)
            response = self._send("PUT", self._url, document)
            if response.status_code != _CONFLICT or time.monotonic() > deadline:
                break
            time.sleep(1)
        self._raise_for_status(response)
        self._wait(response)

    def key(self) -> str:
        """The primary key. A secret."""
        response = self._send("POST", f"{self._url}/listKeys")
        self._raise_for_status(response)
        return str(response.json()["primaryKey"])

    @property
    def studio_url(self) -> str:
        """The endpoint's page in Azure ML studio."""
        cloud = self._connection.cloud
        portal = cloud.portal.rstrip("/") if cloud else PUBLIC_STUDIO
        workspace = quote(self._connection.ml_workspace_id)
        return (
            f"{portal}/endpoints/realtime/{quote(self.name)}/detail?wsid={workspace}&tid={self._connection.tenant_id}"
        )

    # -- its deployments ---------------------------------------------------------------------------------------------

    def deployments(self) -> dict[str, dict[str, Any]]:
        """Name -> resource."""
        found: dict[str, dict[str, Any]] = {}
        url: str | None = f"{self._url}/deployments"
        while url:
            page = self._get(url) or {}
            found |= {resource["name"]: resource for resource in page.get("value", [])}
            url = page.get("nextLink")
        return found

    def deployment(self, name: str) -> dict[str, Any] | None:
        """The resource, or None."""
        return self._get(f"{self._url}/deployments/{quote(name)}")

    async def adeployment(self, name: str) -> dict[str, Any] | None:
        """As `deployment`, for an event loop."""
        from azure.core.rest import HttpRequest

        request = HttpRequest("GET", f"{self._url}/deployments/{quote(name)}", params={"api-version": API_VERSION})
        if self._async_client is None:
            self._async_client = self._connection.async_rest_client(
                self._connection.resource_manager, self._connection.arm_scope, retries=True
            )
        response = await self._async_client.send(request)
        if response.status_code == _NOT_FOUND:
            return None
        self._raise_for_status(response)
        found: dict[str, Any] = response.json()
        return found

    def delete_deployment(self, name: str, *, wait: bool = True) -> None:
        """Delete a deployment (the service refuses if it has traffic); one that is gone already is no error."""
        response = self._send("DELETE", f"{self._url}/deployments/{quote(name)}")
        if response.status_code != _NOT_FOUND:
            self._raise_for_status(response)
            if wait:
                self._wait(response)

    def logs(self, deployment: str, lines: int) -> list[str]:
        """The last lines of the inference server's log, oldest first."""
        body = {"containerType": "InferenceServer", "tail": lines}
        response = self._send("POST", f"{self._url}/deployments/{quote(deployment)}/getLogs", body)
        self._raise_for_status(response)
        return str(response.json().get("content") or "").splitlines()[-lines:]

    # -- what it counted ---------------------------------------------------------------------------------------------

    def metric(self, name: str, wanted: str, since: datetime, until: datetime) -> dict[str, Any]:
        """One of the endpoint's metrics in Azure Monitor, minute by minute, as the service gives it.

        https://learn.microsoft.com/rest/api/monitor/metrics/list

        :param wanted: a filter over its dimensions.
        """
        span = "/".join(instant.astimezone(UTC).strftime("%FT%TZ") for instant in (since, until))
        query = urlencode(
            {
                "api-version": METRICS_API_VERSION,
                "metricnames": name,
                "timespan": span,
                "interval": "PT1M",
                "aggregation": "Average",
                "$filter": wanted,
            },
            quote_via=quote,
        )
        response = self._send("GET", f"{self._url}/providers/microsoft.insights/metrics?{query}")
        self._raise_for_status(response)
        return _json_of(response)

    # -- requests ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def aclose(self) -> None:
        """Close the event loop's connections."""
        if self._async_client is not None:
            await self._async_client.close()
            self._async_client = None

    def _get(self, url: str) -> dict[str, Any] | None:
        response = self._send("GET", url)
        if response.status_code == _NOT_FOUND:
            return None
        self._raise_for_status(response)
        found: dict[str, Any] = response.json()
        return found

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        from azure.core.rest import HttpRequest

        if self._client is None:
            self._client = self._connection.rest_client()
        params = {} if "api-version=" in url else {"api-version": API_VERSION}
        json = {} if method == "POST" and body is None else body
        return self._client.send_request(HttpRequest(method, url, params=params, json=json))

    def _raise_for_status(self, response: Any) -> None:
        from azure.core.exceptions import HttpResponseError

        if response.status_code >= 400:  # noqa: PLR2004
            raise HttpResponseError(message=error_of(response), response=response)

    def _wait(self, response: Any) -> None:
        """Wait for the end of a long-running operation. Bounded; raises its error.

        https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations
        """
        address = response.headers.get("Azure-AsyncOperation") or response.headers.get("Location")
        if not address:
            return
        deadline, pause = time.monotonic() + OPERATION_SECONDS, _FIRST_POLL_SECONDS
        while True:
            time.sleep(pause)
            state = self._send("GET", address)
            self._raise_for_status(state)
            body = _json_of(state)
            status = str(body.get("status", "")).lower() if state.status_code == 200 else "inprogress"  # noqa: PLR2004
            if status in ("failed", "canceled", "cancelled"):
                error = body.get("error") or {}
                raise ServiceUnavailable(
                    f"An operation on endpoint {self.name!r} ended as {status}: "
                    f"{error.get('code', '')}: {error.get('message', 'the service gave no reason')}"
                )
            # A Location answers 202 until it is done, then 200, mostly without a body.
            if status in ("succeeded", ""):
                return
            if time.monotonic() > deadline:
                raise ServiceUnavailable(
                    f"An operation on endpoint {self.name!r} didn't end within {OPERATION_SECONDS:.0f} s; it may go on."
                )
            pause = _retry_after(state)


def traffic_of(document: Mapping[str, Any]) -> dict[str, int]:
    """The traffic map of an endpoint's resource."""
    return {str(name): int(share) for name, share in (document["properties"].get("traffic") or {}).items()}


def error_of(response: Any) -> str:
    """What the service said was wrong: ``code: message``."""
    error = _json_of(response).get("error") or {}
    said = f"{error.get('code', '')}: {error.get('message', '')}".strip(": ")
    return said or f"HTTP {response.status_code}"


def _json_of(response: Any) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after(response: Any) -> float:
    try:
        return min(max(float(response.headers.get("Retry-After", 1)), 0.2), 30.0)
    except ValueError:
        return 1.0
