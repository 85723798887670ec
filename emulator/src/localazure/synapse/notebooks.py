"""Notebooks as workspace artifacts.

Shapes: Azure/azure-rest-api-specs, specification/synapse/data-plane/Microsoft.Synapse/preview/
2021-06-01-preview/notebooks.json.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.synapse import versions
from localazure.synapse.artifacts import Artifacts, Kind

KIND = "synapse.notebook"
_NBFORMAT = 4


class Notebooks(Artifacts):
    """Create, read, list, rename and delete notebooks."""

    def __init__(self, settings: Settings, store: Store) -> None:
        kind = Kind(KIND, "notebook", "Microsoft.Synapse/workspaces/notebooks", "notebookOperationResults", _properties)
        super().__init__(settings, store, kind)

    def operations(self) -> list[Operation]:
        """The notebook artifact operations."""
        checked = versions.checked(versions.ARTIFACTS)
        rows = [
            ("Notebook_GetNotebooksByWorkspace", "GET", "/notebooks", self.list),
            ("Notebook_GetNotebookSummaryByWorkSpace", "GET", "/notebooksSummary", self._summary),
            ("Notebook_CreateOrUpdateNotebook", "PUT", "/notebooks/{name}", self.put),
            ("Notebook_GetNotebook", "GET", "/notebooks/{name}", self.get),
            ("Notebook_RenameNotebook", "POST", "/notebooks/{name}/rename", self.rename),
            ("Notebook_DeleteNotebook", "DELETE", "/notebooks/{name}", self.delete),
            ("NotebookOperationResult_Get", "GET", "/notebookOperationResults/{operation}", self.result),
        ]
        return [Operation(name, method, path, checked(handler), "synapse") for name, method, path, handler in rows]

    async def _summary(self, request: Request, identity: Identity) -> Answer:
        keys = ("id", "name", "type", "etag")
        return {"value": [{key: document[key] for key in keys} | {"properties": {}} for document in self.all()]}


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
