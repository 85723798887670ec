"""The older name of `notebookutils`; the same functions."""

from notebookutils import credentials, env, fs, notebook, runtime

__all__ = ["credentials", "env", "fs", "notebook", "runtime"]
