"""The workspace's MLflow address: `https://.../mlflow/v1.0{workspace}/...`, passed on to MLflow's server.

Azure ML's tracking URI is this path below the workspace's host, behind Resource Manager's tokens
(https://learn.microsoft.com/azure/machine-learning/how-to-use-mlflow-configure-tracking). A run's id is the job's
name: MLflow's server
was told so (`localazure_compute.tracking_server`), nothing is translated here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from localazure.core.auth import Identity
from localazure.core.errors import AzureError
from localazure.core.registry import Answer, Operation
from localazure.settings import Settings

_PATH = (
    "/mlflow/{version}/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.MachineLearningServices/workspaces/{workspace}/{rest:path}"
)
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# RFC 9110, 7.6.1: these belong to one connection. The token is ours, MLflow has none.
_NOT_PASSED_ON = frozenset(
    {"host", "authorization", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade",
     "proxy-authorization", "accept-encoding"}
)  # fmt: skip
_NOT_PASSED_BACK = frozenset({"connection", "keep-alive", "transfer-encoding", "server", "date"})


class TrackingProxy:
    """Answers below the workspace's tracking URI."""

    def __init__(self, settings: Settings, before: Callable[[], Awaitable[None]] | None = None) -> None:
        """`before` is waited for ahead of every request: that the runs of jobs are there."""
        self._settings = settings
        self._before = before
        self._client: httpx.AsyncClient | None = None

    def operations(self) -> list[Operation]:
        """MLflow's REST interface as a whole: which of its calls exist is MLflow's business."""
        return [
            Operation(f"MLflow_{method.title()}", method, _PATH, self.pass_on, "arm", body_limit=None)
            for method in _METHODS
        ]

    async def close(self) -> None:
        """Close the connections to MLflow's server."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def pass_on(self, request: Request, identity: Identity) -> Answer:
        """MLflow's own answer to the request."""
        params = request.path_params
        if (
            params["version"].lower() not in ("v1.0", "v2.0")
            or params["workspace"].lower() != self._settings.workspace.lower()
        ):
            raise AzureError(404, "ResourceNotFound", f"There is no tracking server at {request.url.path}.")
        if self._before is not None:
            await self._before()
        if self._client is None:
            # A long read time-out: MLflow answers artifacts and searches late on a busy machine.
            timeout = httpx.Timeout(300, connect=5)
            self._client = httpx.AsyncClient(base_url=self._settings.mlflow_url, timeout=timeout, trust_env=False)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _NOT_PASSED_ON]
        # The path as it came: an artifact's name may hold an encoded slash.
        raw = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1").partition("?")[0]
        rest = "/".join(raw.lstrip("/").split("/")[10:])
        url = f"{self._settings.mlflow_url}/{rest}" + (f"?{request.url.query}" if request.url.query else "")
        with_body = request.method in ("POST", "PUT", "PATCH") or "content-length" in request.headers
        content: AsyncIterator[bytes] | None = request.stream() if with_body else None
        outgoing = self._client.build_request(request.method, url, headers=headers, content=content)
        try:
            answer = await self._client.send(outgoing, stream=True)
        except httpx.TransportError as error:
            message = f"The tracking server isn't ready yet ({type(error).__name__}); try again."
            raise AzureError(503, "ServiceUnavailable", message, headers={"Retry-After": "2"}) from error
        back = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_PASSED_BACK}
        if "content-length" in back and int(back["content-length"]) == 0:
            await answer.aclose()
            return Response(status_code=answer.status_code, headers=back)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, back, background=BackgroundTask(answer.aclose))
