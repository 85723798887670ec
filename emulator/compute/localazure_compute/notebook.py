"""The host of one notebook run: a Jupyter kernel with Spark, driven by papermill.

    python -m localazure_compute.notebook <folder>

`folder` belongs to one session. Files in it are the whole protocol; each is replaced as a whole:

    session.json   read    {"conf": {...}}: Spark configuration for the session
    request.json   read    {"runId", "notebook", "properties", "parameters", "conf", "context"}; the host starts its
                           kernel without it (a warm session) and waits until it comes
    status.json    written {"state": "Starting"|"Idle"|"Running"|"Succeeded"|"Failed",
                           "exitValue", "error", "failedCell"}
    output.ipynb   written the executed notebook, after every cell

The host ends after one run, when its parent is gone, or on SIGTERM; kernel and JVM always end with it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill.iorw
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from localazure_compute import notebook_source

START_TIMEOUT = 120
POLL = 0.05
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
    """Serve one run; 0 unless the session couldn't be started."""
    parent = os.getppid()
    manager = AsyncKernelManager(kernel_name="python3")

    def leave(_signal: int, _frame: Any) -> None:
        _kill_kernel(manager)
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=_follow, args=(parent, manager), daemon=True).start()
    _write(folder, {"state": "Starting"})
    session = json.loads((folder / "session.json").read_text())
    try:
        _start_kernel(manager, folder, session["conf"])
    except Exception as error:
        _kill_kernel(manager)
        _write(folder, _failed(error))
        return 1
    _write(folder, {"state": "Idle"})
    try:
        while not (folder / "request.json").exists():
            time.sleep(POLL)
        request = json.loads((folder / "request.json").read_text())
        _write(folder, {"state": "Running"})
        _write(folder, run(manager, folder, request))
    except Exception as error:
        # Whatever broke here isn't the notebook's; it still must end the run, with a name.
        _write(folder, _failed(error))
        raise
    finally:
        _kill_kernel(manager)
    return 0


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
            traceback = [_ANSI.sub("", line) for line in item["traceback"]]
            index = cell.metadata.get("synapse", {}).get("index")
            where = f"cell {position if index is None else index}"
            error = {"ename": item["ename"], "evalue": item["evalue"], "traceback": [f"Error in {where}:", *traceback]}
            return {"state": "Failed", "error": _unmirrored(error, mirror), "failedCell": index}
    return {"state": "Succeeded", "exitValue": ""}


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


def _start_kernel(manager: AsyncKernelManager, folder: Path, conf: dict[str, str]) -> None:
    environment = {**os.environ, "LOCALAZURE_SESSION_FOLDER": str(folder)}
    run_sync(manager.start_kernel)(env=environment, cwd=str(folder))
    _execute_silently(manager, _READY_CODE.format(conf=conf))


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


def _follow(parent: int, manager: AsyncKernelManager) -> None:
    """End with the parent: a run nobody records any more must not go on writing to the lake."""
    while os.getppid() == parent:
        time.sleep(0.5)
    _kill_kernel(manager)
    os._exit(1)


def _kill_kernel(manager: AsyncKernelManager) -> None:
    provisioner = manager.provisioner
    pid = getattr(provisioner, "pid", None)
    if pid:
        # The kernel leads a group of its own; the JVM is in it.
        for kill, target in ((os.killpg, pid), (os.kill, pid)):
            try:
                kill(target, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
            break


def _write(folder: Path, status: dict[str, Any]) -> None:
    draft = folder / "status.json.new"
    draft.write_text(json.dumps(status))
    draft.replace(folder / "status.json")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
