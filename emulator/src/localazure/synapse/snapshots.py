"""A run's snapshot: the notebook as it was submitted, with the cells as they were executed. Pure.

Shape: RunNotebookSnapshot in runNotebook.json (2022-03-01-preview) and examples/RunNotebook_GetSnapshot.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OWN_METADATA = frozenset({"papermill", "execution", "synapse"})


def snapshot(document: Mapping[str, Any], executed: Mapping[str, Any] | None) -> dict[str, Any]:
    """The snapshot of a run. Before the first cell has run (`executed` is None) the cells are the submitted ones."""
    resource = document["resource"]
    properties = dict(resource["properties"])
    if executed is not None:
        properties["cells"] = [_cell(cell, properties["cells"]) for cell in executed["cells"]]
    return {
        "id": document["runId"],
        "notebook": document["notebook"],
        "parameters": document["parameters"],
        "notebookContent": resource | {"properties": properties},
        "sparkPool": document["sparkPool"],
        "sessionId": document["sessionId"],
        "sessionOptions": document["sessionOptions"],
        "honorSessionTimeToLive": document["honorSessionTimeToLive"],
        "exitValue": document["exitValue"],
    }


def _cell(cell: Mapping[str, Any], submitted: list[dict[str, Any]]) -> dict[str, Any]:
    index = cell["metadata"].get("synapse", {}).get("index")
    metadata = {key: value for key, value in cell["metadata"].items() if key not in _OWN_METADATA}
    if index is not None:
        # As it was written, first-line magics and all.
        metadata = dict(submitted[index].get("metadata") or {})
    shown: dict[str, Any] = {
        "cell_type": cell["cell_type"],
        "metadata": metadata,
        "source": submitted[index]["source"] if index is not None else cell["source"],
    }
    if cell["cell_type"] == "code":
        shown["outputs"] = cell.get("outputs", [])
        shown["execution_count"] = cell.get("execution_count")
    return shown
