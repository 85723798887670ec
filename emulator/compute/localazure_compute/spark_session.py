"""What a Synapse notebook finds: `spark`, `sc`, `notebookutils`, `mssparkutils`, `display`, `%%sql`, `%run`.

Runs inside the Jupyter kernel that `localazure_compute.notebook` starts: `start()` when the kernel comes up, `begin()`
when a run takes it. Nothing here talks to localazure's services but the lake.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from localazure_compute import notebook_source

DISPLAY_ROWS = 1000
PR_SET_PDEATHSIG = 1

#: The run's identity, set by begin(): run_id, notebook, workspace, pool, session_id, notebooks (artifacts' folder).
context: dict[str, Any] = {}


class NotebookExit(Exception):
    """`notebook.exit(value)`: ends the notebook as Succeeded. The host reads `value` from the message."""

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value


def start(conf: Mapping[str, str]) -> None:
    """Make the Spark session and fill the kernel's namespace."""
    _die_with_parent()
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    from localazure_compute import spark_runtime

    builder = SparkSession.builder.appName("synapse")
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    # Classes load and the code generator warms up now, while nobody waits: it saves seconds of the first query.
    spark.range(1000).selectExpr("id % 7 AS k").groupBy("k").count().orderBy("k").collect()
    spark_runtime.install()
    shell = _shell()
    shell.user_ns.update(_names())
    shell.register_magic_function(_sql_magic, "cell", "sql")
    shell.register_magic_function(_run_magic, "line", "run")


def begin(identity: Mapping[str, Any], conf: Mapping[str, str]) -> None:
    """A run takes the session: note who it is and apply its runtime configuration."""
    from pyspark.sql import SparkSession

    context.clear()
    context.update(identity)
    session = SparkSession.getActiveSession()
    assert session is not None, "start() comes first"
    for key, value in conf.items():
        session.conf.set(key, value)


def run_notebook(name: str, parameters: Mapping[str, Any], timeout: float | None = None) -> str:
    """Run another notebook in a namespace of its own in this session; its exit value ('' without one)."""
    namespace = {**_names(), "__name__": "__main__"}
    with _deadline(name, timeout):
        try:
            _execute(name, parameters, namespace)
        except NotebookExit as leave:
            return leave.value
    return ""


def _names() -> dict[str, Any]:
    from pyspark.sql import SparkSession

    import mssparkutils
    import notebookutils

    spark = SparkSession.getActiveSession()
    assert spark is not None
    return {
        "spark": spark,
        "sc": spark.sparkContext,
        "notebookutils": notebookutils,
        "mssparkutils": mssparkutils,
        "display": display,
    }


def display(value: Any, *more: Any, **named: Any) -> None:
    """Show values; a Spark DataFrame as a table of its first rows, as in Synapse."""
    from IPython import display as ipython
    from pyspark.sql import DataFrame

    shown = [item.limit(DISPLAY_ROWS).toPandas() if isinstance(item, DataFrame) else item for item in (value, *more)]
    ipython.display(*shown, **named)


def _sql_magic(line: str, cell: str | None = None) -> None:
    """`%%sql`: run the cell as Spark SQL and show its rows."""
    from pyspark.sql import SparkSession

    spark = SparkSession.getActiveSession()
    assert spark is not None
    for statement in (text.strip() for text in (cell or line).split(";\n")):
        if statement:
            display(spark.sql(statement.rstrip(";")))


def _run_magic(line: str) -> None:
    """`%run <notebook> {parameters}`: run another notebook in this one's namespace."""
    name, parameters = notebook_source.arguments(line)
    _execute(name, parameters, _shell().user_ns)


def _execute(name: str, parameters: Mapping[str, Any], namespace: dict[str, Any]) -> None:
    transform = _shell().transform_cell
    for cell in notebook_source.cells(_artifact(name), parameters):
        if cell.kind == "code" and cell.source.strip():
            code = compile(transform(notebook_source.runnable(cell.source)), f"<{name} cell {cell.index}>", "exec")
            exec(code, namespace)


def _artifact(name: str) -> dict[str, Any]:
    stem = name.rsplit("/", 1)[-1].removesuffix(".ipynb")
    path = Path(context.get("notebooks", "")) / f"{stem}.json"
    if not context.get("notebooks") or not path.is_file():
        raise FileNotFoundError(f"notebook {stem!r} isn't in the workspace {context.get('workspace', '')!r}")
    properties: dict[str, Any] = json.loads(path.read_text())
    return properties


@contextlib.contextmanager
def _deadline(name: str, seconds: float | None) -> Iterator[None]:
    if not seconds:
        yield
        return

    def expired(_signal: int, _frame: Any) -> None:
        raise TimeoutError(f"notebook {name!r} did not end within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _die_with_parent() -> None:
    # The kernel has a session of its own (Jupyter's choice): killing the host's group wouldn't reach it. Linux only;
    # elsewhere ipykernel notices within a second that its parent is gone.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _shell() -> Any:
    from IPython import get_ipython

    shell = get_ipython()
    assert shell is not None, "only inside a Jupyter kernel"
    return shell
