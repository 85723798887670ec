"""Synapse's notebook utilities (`notebookutils`, before that `mssparkutils`) for localazure's Spark.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities . What isn't implemented raises
NotImplementedError with its name.
"""

from notebookutils import credentials, env, fs, notebook, runtime, session

__all__ = ["credentials", "env", "fs", "help", "mssparkutils", "notebook", "runtime", "session"]

#: Microsoft Fabric's.
_REFUSED = ("lakehouse", "udf", "variableLibrary", "data", "workspace", "fabricClient", "warehouse", "connections")


def help() -> None:
    """Print the modules."""
    print("notebookutils: credentials, env, fs, notebook, runtime, session; each has help().")


def __getattr__(name: str) -> object:
    if name == "mssparkutils":
        import mssparkutils

        return mssparkutils
    if name in _REFUSED:
        raise NotImplementedError(f"notebookutils.{name} is not implemented by localazure: it is Microsoft Fabric's")
    raise AttributeError(f"module 'notebookutils' has no attribute {name!r}")
