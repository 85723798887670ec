"""What a Synapse notebook finds: `spark`, `sc`, `notebookutils`, `mssparkutils`, `display`, `%%sql`, `%run`.

Runs inside the Jupyter kernel that `localazure_compute.notebook` starts: `start()` when the kernel comes up, `begin()`
when a run takes it. Nothing here talks to localazure's services but the lake.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from localazure_compute import notebook_source

DISPLAY_ROWS = 1000
PR_SET_PDEATHSIG = 1

#: The run's identity, set by begin(): run_id, notebook, workspace, pool, session_id, notebooks (artifacts' folder).
context: dict[str, Any] = {}
#: The one session, once there is one: other threads than the kernel's have no active session.
_sessions: list[Any] = []
#: Of each thread: the notebooks it runs for others, as (name, namespace).
_running = threading.local()


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
    from localazure_compute.spark_job import bound_memory

    spark_runtime.install()
    builder = SparkSession.builder.appName("synapse")
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    _sessions.append(spark)
    # The driver is two processes here, Python's and the JVM's; each may take what the driver has.
    if size := re.fullmatch(r"(\d+)m", conf.get("spark.driver.memory", "")):
        bound_memory(int(size[1]))
    # Classes load and the code generator warms up now, while nobody waits: it saves seconds of the first query.
    spark.range(1000).selectExpr("id % 7 AS k").groupBy("k").count().orderBy("k").collect()
    shell = _shell()
    shell.user_ns.update(_names())
    shell.register_magic_function(_sql_magic, "line_cell", "sql")
    shell.register_magic_function(_run_magic, "line", "run")
    shell.register_magic_function(_configure_magic, "cell", "configure")
    shell.register_magic_function(_pyspark_magic, "cell", "pyspark")
    for name in ("markdown", "md"):
        shell.register_magic_function(_markdown_magic, "cell", name)
    for name in notebook_source.REFUSED_MAGICS:
        shell.register_magic_function(_refused_magic(name), "cell", name.removeprefix("%%"))
    for name in notebook_source.REFUSED_LINE_MAGICS:
        shell.register_magic_function(_refused_magic(name), "line", name.removeprefix("%"))


def begin(identity: Mapping[str, Any], conf: Mapping[str, str]) -> None:
    """A run takes the session: note who it is and apply its runtime configuration."""
    context.clear()
    context.update(identity)
    for key, value in conf.items():
        _spark().conf.set(key, value)


def run_notebook(name: str, parameters: Mapping[str, Any], timeout: float | None = None) -> str:
    """Run another notebook in a namespace of its own in this session; its exit value ('' without one).

    `timeout` is for the whole notebook; inside another thread than the kernel's it is each cell's.
    """
    if threading.current_thread() is not threading.main_thread():
        return run_notebook_in_thread(name, parameters, timeout or 0)
    with _deadline(name, timeout):
        return _referenced(name, parameters, None)


def run_notebook_in_thread(name: str, parameters: Mapping[str, Any], cell_seconds: float) -> str:
    """`run_notebook` in any thread. A cell that takes longer than `cell_seconds` is interrupted: its Spark jobs are
    cancelled, and its Python gets a TimeoutError at its next step.
    """
    return _referenced(name, parameters, cell_seconds or None)


def _referenced(name: str, parameters: Mapping[str, Any], cell_seconds: float | None) -> str:
    namespace = {**_names(), "__name__": "__main__"}
    outer = getattr(_running, "stack", ())
    _running.stack = (*outer, (notebook_source.stem(name), namespace))
    try:
        _execute(name, parameters, namespace, cell_seconds)
    except NotebookExit as leave:
        return leave.value
    finally:
        _running.stack = outer
    return ""


def tree() -> list[str]:
    """The notebooks that are running here, each called by the one before it."""
    return [str(context.get("notebook", "")), *(name for name, _namespace in getattr(_running, "stack", ()))]


def check_workspace(workspace: str) -> None:
    """Raises NotImplementedError for the name of another workspace."""
    if workspace and workspace != context.get("workspace"):
        raise NotImplementedError(f"notebooks of another workspace ({workspace}) are not implemented by localazure")


def stop() -> None:
    """End Spark and the notebook."""
    _spark().stop()
    raise NotebookExit("")


def _names() -> dict[str, Any]:
    import mssparkutils
    import notebookutils

    spark = _spark()
    return {
        "spark": spark,
        "sc": spark.sparkContext,
        "notebookutils": notebookutils,
        "mssparkutils": mssparkutils,
        "display": display,
        "displayHTML": display_html,
    }


def display(value: Any, *more: Any, summary: bool = False, **named: Any) -> None:
    """Show values; a Spark DataFrame as a table of its first rows, or with `summary` of its columns' statistics.

    https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-data-visualization
    """
    from IPython import display as ipython
    from pyspark.sql import DataFrame

    def shown(item: Any) -> Any:
        if not isinstance(item, DataFrame):
            return item
        return (item.summary() if summary else item.limit(DISPLAY_ROWS)).toPandas()

    ipython.display(*map(shown, (value, *more)), **named)


def display_html(html: str = "") -> None:
    """`displayHTML`: show HTML."""
    from IPython import display as ipython

    ipython.display(ipython.HTML(html))


def _sql_magic(line: str, cell: str | None = None) -> None:
    """`%%sql`: run the cell as Spark SQL and show its rows."""
    spark = _spark()
    for statement in (text.strip() for text in (cell or line).split(";\n")):
        if statement:
            display(spark.sql(statement.rstrip(";")))


def _run_magic(line: str) -> None:
    """`%run <notebook> {parameters}`: run another notebook in this one's namespace."""
    name, parameters = notebook_source.arguments(line)
    stack = getattr(_running, "stack", ())
    _execute(name, parameters, stack[-1][1] if stack else _shell().user_ns)


def _configure_magic(line: str, cell: str) -> None:
    """`%%configure`: what the first cell says was applied when the session was started for this run."""
    asked = notebook_source.configuration(f"%%configure {line}\n{cell}")
    print("The session was started with: " + ", ".join(sorted(asked)) if asked else "Nothing is configured.")


def _refused_magic(name: str) -> Any:
    def refused(line: str, cell: str | None = None) -> None:
        raise notebook_source.UnsupportedNotebook(f"the magic {name} is not implemented by localazure")

    return refused


def _pyspark_magic(line: str, cell: str) -> None:
    """`%%pyspark`: Python, which the kernel speaks anyway."""
    _shell().run_cell(cell).raise_error()


def _markdown_magic(line: str, cell: str) -> None:
    """`%%markdown`: the cell, rendered."""
    from IPython import display as ipython

    ipython.display(ipython.Markdown(cell))


def _execute(
    name: str, parameters: Mapping[str, Any], namespace: dict[str, Any], cell_seconds: float | None = None
) -> None:
    transform = _shell().transform_cell
    for cell in notebook_source.cells(_artifact(name), parameters):
        if cell.kind == "code" and cell.source.strip():
            code = compile(transform(notebook_source.runnable(cell.source)), f"<{name} cell {cell.index}>", "exec")
            with _interrupted_after(f"cell {cell.index} of notebook {name!r}", cell_seconds):
                exec(code, namespace)


@contextlib.contextmanager
def _interrupted_after(what: str, seconds: float | None) -> Iterator[None]:
    """Interrupt this thread's Python and Spark when the time is up. For threads, which get no signals."""
    if not seconds:
        yield
        return
    from pyspark import SparkContext

    spark, thread, is_late = SparkContext._active_spark_context, threading.get_ident(), threading.Event()
    group = f"notebook {uuid.uuid4().hex}"
    if spark is not None:
        spark.setJobGroup(group, what, interruptOnCancel=True)

    def interrupt() -> None:
        is_late.set()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeoutError))
        if spark is not None:
            spark.cancelJobGroup(group)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException as error:
        if is_late.is_set():
            raise TimeoutError(f"{what} did not end within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def _artifact(name: str) -> dict[str, Any]:
    stem = notebook_source.stem(name)
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


def _spark() -> Any:
    assert _sessions, "start() comes first"
    return _sessions[0]


def _shell() -> Any:
    from IPython import get_ipython

    shell = get_ipython()
    assert shell is not None, "only inside a Jupyter kernel"
    return shell
