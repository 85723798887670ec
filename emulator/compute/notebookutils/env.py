"""`notebookutils.env`: who and where this run is.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#environment-utilities
"""

from __future__ import annotations

from localazure_compute import spark_session
from notebookutils import _help


def getUserName() -> str:
    """The name of who started the run (here the application's id)."""
    return str(spark_session.context.get("user", ""))


def getUserId() -> str:
    """The object id of who started the run."""
    return str(spark_session.context.get("user", ""))


def getJobId() -> str:
    """The id of the run, also in `synfs:` paths."""
    return str(spark_session.context.get("run_id", ""))


def getWorkspaceName() -> str:
    """The workspace's name."""
    return str(spark_session.context.get("workspace", ""))


def getPoolName() -> str:
    """The Spark pool's name."""
    return str(spark_session.context.get("pool", ""))


def getClusterId() -> str:
    """The session's id."""
    return str(spark_session.context.get("session_id", ""))


def help(method: str = "") -> None:
    """Print what there is."""
    _help.show("notebookutils.env", globals(), method)
