"""The older name of `notebookutils`; the same functions."""

from notebookutils import __getattr__, credentials, env, fs, help, notebook, runtime, session

__all__ = ["__getattr__", "credentials", "env", "fs", "help", "notebook", "runtime", "session"]
