"""Notebooks as workspace artifacts.

Shapes: Azure/azure-rest-api-specs, specification/synapse/data-plane/Microsoft.Synapse/preview/
2021-06-01-preview/notebooks.json. Writing and deleting answer 202 with a `Location`; the result there
is the resource (200) or nothing (204).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest, NotFound
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.synapse import versions

KIND = "synapse.notebook"
_RESULT = "synapse.operation"
_TYPE = "Microsoft.Synapse/workspaces/notebooks"
_NBFORMAT = 4
# https://learn.microsoft.com/azure/data-factory/naming-rules (Synapse's artifacts share them)
_NAME = re.compile(r"^[A-Za-z0-9_](?:[^<>*#.%&:\\+?/]{0,259})$")
#: Operations are done when they are answered; SDKs would wait 30 s without this, and a whole second with Retry-After.
_SOON = {"x-ms-retry-after-ms": "100"}


class Notebooks:
    """Create, read, list and delete notebooks. Documents keep the resource as Azure shows it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store

    def operations(self) -> list[Operation]:
        """The notebook artifact operations."""
        checked = versions.checked(versions.ARTIFACTS)
        rows = [
            ("Notebook_GetNotebooksByWorkspace", "GET", "/notebooks", self._list),
            ("Notebook_GetNotebookSummaryByWorkSpace", "GET", "/notebooksSummary", self._summary),
            ("Notebook_CreateOrUpdateNotebook", "PUT", "/notebooks/{name}", self._put),
            ("Notebook_GetNotebook", "GET", "/notebooks/{name}", self._get),
            ("Notebook_DeleteNotebook", "DELETE", "/notebooks/{name}", self._delete),
            ("NotebookOperationResult_Get", "GET", "/notebookOperationResults/{operation}", self._result),
        ]
        return [Operation(name, method, path, checked(handler), "synapse") for name, method, path, handler in rows]

    def resource(self, name: str) -> dict[str, Any]:
        """A notebook. Raises NotFound, naming it."""
        document = self._store.get(KIND, name.lower())
        if document is None:
            raise NotFound(
                f"Notebook {name!r} is not in workspace {self._settings.workspace!r}.", name, "ArtifactNotFound"
            )
        return document

    def all(self) -> Iterator[dict[str, Any]]:
        """Every notebook, by name."""
        yield from self._store.list(KIND)

    def forget_operations(self) -> None:
        """Drop the results nobody asks for any more: those of an earlier life."""
        for document in self._store.list(_RESULT):
            self._store.delete(_RESULT, document["id"])

    async def _list(self, request: Request, identity: Identity) -> Answer:
        return {"value": list(self.all())}

    async def _summary(self, request: Request, identity: Identity) -> Answer:
        keys = ("id", "name", "type", "etag")
        return {"value": [{key: document[key] for key in keys} | {"properties": {}} for document in self.all()]}

    async def _get(self, request: Request, identity: Identity) -> Answer:
        document = self.resource(request.path_params["name"])
        if request.headers.get("if-none-match") == document["etag"]:
            return Response(status_code=HTTPStatus.NOT_MODIFIED)
        return document

    async def _put(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        if not _NAME.match(name):
            raise BadRequest(
                f"{name!r} can't name a notebook: up to 260 characters, none of <>*#.%&:\\+?/",
                "name",
                "InvalidArtifactName",
            )
        body = await request.json()
        properties = _properties(body)
        if body.get("name") not in (None, name):
            raise BadRequest(f"The body names the notebook {body['name']!r}, the address {name!r}.", "name")
        known = self._store.get(KIND, name.lower())
        wanted = request.headers.get("if-match")
        if wanted and wanted != "*" and (known is None or known["etag"] != wanted):
            raise AzureError(412, "PreconditionFailed", f"Notebook {name!r} isn't at the ETag of If-Match.", name)
        resource = {
            "id": (
                f"/subscriptions/{self._settings.subscription_id}/resourceGroups/{self._settings.resource_group}"
                f"/providers/Microsoft.Synapse/workspaces/{self._settings.workspace}/notebooks/{name}"
            ),
            "name": name,
            "type": _TYPE,
            "etag": str(uuid.uuid4()),
            "properties": properties,
        }
        self._store.put(KIND, name.lower(), resource)
        return self._accepted({"name": name})

    async def _delete(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        if not self._store.delete(KIND, name.lower()):
            raise NotFound(
                f"Notebook {name!r} is not in workspace {self._settings.workspace!r}.", name, "ArtifactNotFound"
            )
        return self._accepted({"name": None})

    def _accepted(self, result: dict[str, Any]) -> Response:
        operation = str(uuid.uuid4())
        self._store.put(_RESULT, operation, {"id": operation, **result})
        location = f"{self._settings.api_url}/notebookOperationResults/{operation}?api-version=2020-12-01"
        return JSONResponse({}, HTTPStatus.ACCEPTED, {"Location": location, **_SOON})

    async def _result(self, request: Request, identity: Identity) -> Answer:
        operation = request.path_params["operation"]
        result = self._store.get(_RESULT, operation)
        if result is None:
            raise NotFound(f"There is no notebook operation {operation!r}.", operation)
        if result["name"] is None:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return self.resource(result["name"])


def _properties(body: Any) -> dict[str, Any]:
    """The notebook of a request's body. Raises BadRequest naming what is wrong."""
    properties = body.get("properties") if isinstance(body, dict) else None
    if not isinstance(properties, dict):
        raise BadRequest('The body must be {"name", "properties"}, the properties being the notebook.', "properties")
    if properties.get("nbformat") != _NBFORMAT:
        raise BadRequest(f"nbformat must be 4, not {properties.get('nbformat')!r}.", "properties.nbformat")
    if not isinstance(properties.get("nbformat_minor"), int):
        raise BadRequest("nbformat_minor must be a number.", "properties.nbformat_minor")
    if not isinstance(properties.get("metadata"), dict):
        raise BadRequest("metadata must be an object.", "properties.metadata")
    cells = properties.get("cells")
    if not isinstance(cells, list):
        raise BadRequest("cells must be a list.", "properties.cells")
    for index, cell in enumerate(cells):
        source = cell.get("source") if isinstance(cell, dict) else None
        lines = source if isinstance(source, list) else [source]
        if not isinstance(cell, dict) or not all(isinstance(line, str) for line in lines):
            raise BadRequest(
                f"cell {index} needs cell_type, metadata and source (text or list of lines).", "properties.cells"
            )
        if cell.get("cell_type") not in ("code", "markdown", "raw"):
            raise BadRequest(f"cell {index} has the cell_type {cell.get('cell_type')!r}.", "properties.cells")
    return properties
