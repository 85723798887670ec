"""`notebookutils.session`: the Spark session of the notebook.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities#session-management
"""

from __future__ import annotations

from localazure_compute import spark_session
from notebookutils import _help

_REFUSED = {"restartPython": "a run is one Python process from its first cell to its last"}


def stop() -> None:
    """End the session, and with it the notebook: no further cell runs."""
    spark_session.stop()


def help(method: str = "") -> None:
    """Print what there is."""
    _help.show("notebookutils.session", globals(), method)


def __getattr__(name: str) -> object:
    if name in _REFUSED:
        raise NotImplementedError(f"notebookutils.session.{name} is not implemented by localazure: {_REFUSED[name]}")
    raise AttributeError(f"module 'notebookutils.session' has no attribute {name!r}")
