"""Synapse's notebook utilities (`notebookutils`, before that `mssparkutils`) for localazure's kernels.

https://learn.microsoft.com/azure/synapse-analytics/spark/microsoft-spark-utilities . What isn't implemented raises
NotImplementedError with its name.
"""

from notebookutils import credentials, env, fs, notebook, runtime

__all__ = ["credentials", "env", "fs", "mssparkutils", "notebook", "runtime"]


def __getattr__(name: str) -> object:
    if name == "mssparkutils":
        import mssparkutils

        return mssparkutils
    if name in ("lakehouse", "session", "udf", "variableLibrary", "data", "workspace", "fabricClient"):
        raise NotImplementedError(f"notebookutils.{name} is not implemented by localazure")
    raise AttributeError(f"module 'notebookutils' has no attribute {name!r}")
