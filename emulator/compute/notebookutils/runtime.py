"""`notebookutils.runtime`: the run's context.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#runtime-utils
"""

from __future__ import annotations

from typing import Any

from localazure_compute import spark_session


def _context() -> dict[str, Any]:
    known, tree = spark_session.context, spark_session.tree()
    run = known.get("run_id", "")
    return {
        "notebookname": tree[-1] if tree else known.get("notebook", ""),
        "currentNotebookName": tree[-1] if tree else known.get("notebook", ""),
        "isForPipeline": False,
        "isReferenceRun": len(tree) > 1,
        "referenceTreePath": "/".join(tree) if len(tree) > 1 else "",
        "rootNotebookName": known.get("notebook", ""),
        "rootRunId": run,
        "currentRunId": run,
        "jobid": run,
        "activityId": run,
        "clusterid": str(known.get("session_id", "")),
        "sessionId": known.get("session_id", ""),
        "poolname": known.get("pool", ""),
        "workspace": known.get("workspace", ""),
        "userId": known.get("user", ""),
    }


def __getattr__(name: str) -> object:
    if name == "context":
        return _context()
    raise AttributeError(f"module 'notebookutils.runtime' has no attribute {name!r}")
