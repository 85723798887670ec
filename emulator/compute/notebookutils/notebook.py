"""`notebookutils.notebook`: leave a notebook with a value, run other ones.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#notebook-utilities
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from localazure_compute import notebook_graph, spark_session
from notebookutils import _help

_FABRIC = "it is Microsoft Fabric's"
_REFUSED = dict.fromkeys(("create", "get", "update", "delete", "list", "getDefinition", "updateDefinition"), _FABRIC)


def exit(value: Any) -> None:
    """End this notebook as Succeeded with an exit value (text). Inside `try ... except Exception` it has no effect."""
    raise spark_session.NotebookExit("" if value is None else str(value))


def run(
    path: str,
    timeoutSeconds: float = 90,
    arguments: Mapping[str, Any] | None = None,
    workspace: str = "",
) -> str:
    """Run another notebook of the workspace in this Spark session; its exit value. Raises TimeoutError or its error."""
    spark_session.check_workspace(workspace)
    return spark_session.run_notebook(path, arguments or {}, timeoutSeconds)


def runMultiple(dag: Sequence[str] | Mapping[str, Any], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run notebooks side by side, in the order of their dependencies; {name: {"exitVal", "exception"}}.

    `dag`: their paths, or {"activities": [{"name", "path", "timeoutPerCellInSeconds", "args", "retry",
    "retryIntervalInSeconds", "dependencies"}], "timeoutInSeconds", "concurrency"}. Raises RunMultipleFailedException,
    whose `result` has all of them, if one failed; ValueError for what is no graph.
    """
    return notebook_graph.run(notebook_graph.parse(dag), spark_session.run_notebook_in_thread)


def validateDAG(dag: Sequence[str] | Mapping[str, Any]) -> bool:
    """Whether `runMultiple` would take it. Raises ValueError saying what is wrong."""
    notebook_graph.parse(dag)
    return True


def help(method: str = "") -> None:
    """Print what there is."""
    _help.show("notebookutils.notebook", globals(), method)


def __getattr__(name: str) -> object:
    if name in _REFUSED:
        raise NotImplementedError(f"notebookutils.notebook.{name} is not implemented by localazure: {_REFUSED[name]}")
    raise AttributeError(f"module 'notebookutils.notebook' has no attribute {name!r}")
