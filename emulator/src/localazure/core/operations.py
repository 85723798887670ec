"""Long-running operations of Azure ML, as Resource Manager defines them.

A request that takes time answers 201 or 202 with an address to ask again:
`Azure-AsyncOperation` leads to the state (`InProgress`, `Succeeded`, `Failed`), `Location` to the result (202 until it
is done, then 200 or the error). https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations
"""

from __future__ import annotations

import datetime
import uuid
from http import HTTPStatus
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, NotFound
from localazure.core.registry import Operation
from localazure.core.store import Store
from localazure.settings import Settings

_KIND = "operation"
_API_VERSION = "2024-04-01"
# Finished operations are kept this long; clients that ask later are told 404.
_KEEP = datetime.timedelta(days=1)


class LongRunning:
    """The states of long-running operations, kept in the store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def begin(self, subject: str) -> str:
        """A new operation on `subject` (an ARM id); its id."""
        operation = str(uuid.uuid4())
        self._store.put(
            _KIND,
            operation,
            {"id": operation, "subject": subject, "status": "InProgress", "startTime": _now(), "error": None},
        )
        return operation

    def succeed(self, operation: str) -> None:
        """Mark the operation done."""
        self._end(operation, {"status": "Succeeded"})

    def fail(self, operation: str, error: AzureError) -> None:
        """Mark the operation failed; the error is what clients are told."""
        self._end(operation, {"status": "Failed", "error": error.body()["error"], "httpStatus": error.status})

    def headers(self, operation: str, *, kind: Literal["status", "result"]) -> dict[str, str]:
        """The headers of the answer that starts (or continues) a wait.

        "status" is for creating and updating (`Azure-AsyncOperation`), "result" for deleting and cancelling
        (`Location`). Without `Retry-After` the SDKs wait 5 seconds and more.
        """
        if kind == "status":
            return {"Azure-AsyncOperation": self._url("mfeOperationsStatus", operation), "Retry-After": "1"}
        return {"Location": self._url("mfeOperationResults", operation), "Retry-After": "1"}

    def recover(self) -> int:
        """Fail what an earlier process left in progress and forget what is old; how many were failed."""
        interrupted = 0
        oldest = (datetime.datetime.now(datetime.UTC) - _KEEP).isoformat()
        for document in self._store.list(_KIND):
            if document["status"] == "InProgress":
                interrupted += 1
                self.fail(
                    document["id"],
                    AzureError(500, "OperationInterrupted", "localazure was stopped before the operation ended"),
                )
            elif document["startTime"] < oldest:
                self._store.delete(_KIND, document["id"])
        return interrupted

    def operations(self) -> list[Operation]:
        """The two addresses that the headers lead to."""
        base = "/subscriptions/{subscription}/providers/Microsoft.MachineLearningServices/locations/{location}"
        return [
            Operation("MfeOperationsStatus_Get", "GET", base + "/mfeOperationsStatus/{operation}", self._status, "arm"),
            Operation("MfeOperationResults_Get", "GET", base + "/mfeOperationResults/{operation}", self._result, "arm"),
        ]

    async def _status(self, request: Request, identity: Identity) -> Response:
        document = self._document(request.path_params["operation"])
        body: dict[str, Any] = {
            "id": request.url.path,
            "name": document["id"],
            "status": document["status"],
            "startTime": document["startTime"],
        }
        if document.get("endTime"):
            body["endTime"] = document["endTime"]
        if document["error"]:
            body["error"] = document["error"]
        headers = {"Retry-After": "1"} if document["status"] == "InProgress" else {}
        return JSONResponse(body, HTTPStatus.OK, headers)

    async def _result(self, request: Request, identity: Identity) -> Response:
        document = self._document(request.path_params["operation"])
        if document["status"] == "InProgress":
            return Response(status_code=HTTPStatus.ACCEPTED, headers=self.headers(document["id"], kind="result"))
        if document["error"]:
            return JSONResponse({"error": document["error"]}, document["httpStatus"])
        return Response(status_code=HTTPStatus.OK)

    def _document(self, operation: str) -> dict[str, Any]:
        document = self._store.get(_KIND, operation)
        if document is None:
            raise NotFound(f"There is no operation {operation!r}, or it ended more than a day ago.")
        return document

    def _end(self, operation: str, outcome: dict[str, Any]) -> None:
        self._store.update(_KIND, operation, lambda document: document | outcome | {"endTime": _now()})

    def _url(self, collection: str, operation: str) -> str:
        return (
            f"{self._settings.api_url}/subscriptions/{self._settings.subscription_id}"
            f"/providers/Microsoft.MachineLearningServices/locations/{self._settings.location}"
            f"/{collection}/{operation}?api-version={_API_VERSION}"
        )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()
