"""`notebookutils.runtime`: the run's context.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#runtime-utils
"""

from __future__ import annotations

from typing import Any

from localazure_compute import spark_session


def _context() -> dict[str, Any]:
    known = spark_session.context
    return {
        "notebookname": known.get("notebook", ""),
        "currentNotebookName": known.get("notebook", ""),
        "jobid": known.get("run_id", ""),
        "workspace": known.get("workspace", ""),
        "poolname": known.get("pool", ""),
        "isForPipeline": False,
        "isReferenceRun": False,
    }


def __getattr__(name: str) -> object:
    if name == "context":
        return _context()
    raise AttributeError(f"module 'notebookutils.runtime' has no attribute {name!r}")
