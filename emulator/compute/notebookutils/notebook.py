"""`notebookutils.notebook`: leave a notebook with a value, run another one.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#notebook-utilities
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localazure_compute import spark_session

_REFUSED = (
    "runMultiple",
    "validateDAG",
    "create",
    "get",
    "update",
    "delete",
    "list",
    "getDefinition",
    "updateDefinition",
)


def exit(value: Any) -> None:
    """End this notebook as Succeeded with an exit value (text). Inside `try ... except Exception` it has no effect."""
    raise spark_session.NotebookExit("" if value is None else str(value))


def run(path: str, timeoutSeconds: float = 90, arguments: Mapping[str, Any] | None = None) -> str:
    """Run another notebook of the workspace in this Spark session; its exit value. Raises TimeoutError or its error."""
    return spark_session.run_notebook(path, arguments or {}, timeoutSeconds)


def __getattr__(name: str) -> object:
    if name in _REFUSED:
        raise NotImplementedError(f"notebookutils.notebook.{name} is not implemented by localazure")
    raise AttributeError(f"module 'notebookutils.notebook' has no attribute {name!r}")
