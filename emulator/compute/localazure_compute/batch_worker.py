"""One worker process of batch scoring: it loads the scoring script, calls `init()` once, `run` for each mini-batch, and
`shutdown()` at the end if there is one.

https://learn.microsoft.com/azure/machine-learning/how-to-batch-scoring-script
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import sys
import traceback
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any

from localazure_compute import batch_tables


@dataclass(frozen=True)
class Options:
    """What every worker is told. Without a `script` the model is an MLflow model. `keep`: results go to a file;
    `arguments` are the script's own; `tabular`: a mini-batch is a table, of the one file that holds it.
    """

    script: Path | None
    model: str
    output: Path
    logs: Path
    logging_level: str
    keep: bool
    arguments: tuple[str, ...] = ()
    tabular: bool = False

    @property
    def parts(self) -> Path:
        """Where workers leave the results of mini-batches."""
        return self.logs.parent / ".parts"


def work(channel: connection.Connection, options: Options, node: int, number: int) -> None:
    """The process: answers each (number, files) with ("done", results) or ("failed", trace) until nobody asks."""
    _redirect(options.logs / "user", f"node{node}", process_name(number))
    logging.basicConfig(level=options.logging_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # A registered model keeps its folder's or file's name below this one, as in the service.
    os.environ["AZUREML_MODEL_DIR"] = str(Path(options.model).parent) if options.model else ""
    os.environ["AZUREML_BI_OUTPUT_PATH"] = str(options.output)
    options.parts.mkdir(exist_ok=True)
    # Scripts read their arguments in init(), from the command line.
    sys.argv = [str(options.script or ""), *options.arguments]
    try:
        script = _loaded(options)
        if init := getattr(script, "init", None):
            init()
        run = script.run
    except BaseException:
        channel.send(("init failed", traceback.format_exc()))
        return
    channel.send(("ready",))
    while True:
        try:
            batch, files = channel.recv()
        except EOFError:
            # https://learn.microsoft.com/azure/machine-learning/how-to-use-parallel-job-in-pipeline (entry script)
            if shutdown := getattr(script, "shutdown", None):
                shutdown()
            return
        try:
            text, results = rows(run(batch_tables.read(files[0]) if options.tabular else list(files)))
            if options.keep:
                # Under its name only when it is whole: a mini-batch that is tried again leaves nothing twice.
                half = options.parts / f"{batch}.{number}.new"
                half.write_text(text)
                half.rename(options.parts / f"{batch:09d}")
            channel.send(("done", results))
        except Exception:
            channel.send(("failed", traceback.format_exc()))


def rows(result: Any) -> tuple[str, int]:
    """What `run` returned as text, a line a row, and the number of rows.

    A DataFrame's rows are separated by blanks, without header and index, as the service writes them; anything else is
    written element by element. TypeError for what is neither.
    """
    if hasattr(result, "to_csv"):
        return result.to_csv(sep=" ", header=False, index=False, lineterminator="\n"), len(result)
    if hasattr(result, "tolist"):
        result = result.tolist()
    if not isinstance(result, list | tuple):
        raise TypeError(f"run() must return a pandas DataFrame or an array; it returned {type(result).__name__}.")
    return "".join(f"{each}\n" for each in result), len(result)


def collect(options: Options, target: Path) -> None:
    """The results of all mini-batches in one file, in the order of the input's files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as whole:
        for part in sorted(options.parts.glob("[0-9]" * 9)):
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    shutil.rmtree(options.parts, ignore_errors=True)


def process_name(number: int) -> str:
    """What logs call a worker."""
    return f"process{number:03d}"


def _loaded(options: Options) -> ModuleType:
    if options.script is None:
        from localazure_compute import batch_mlflow

        batch_mlflow.MODEL = options.model
        return batch_mlflow
    # Modules beside the script are importable, as in the service.
    sys.path.insert(0, str(options.script.parent))
    spec = importlib.util.spec_from_file_location("scoring_script", options.script)
    if spec is None or spec.loader is None:
        raise ImportError(f"{options.script} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, "run", None)):
        raise AttributeError(f"{options.script.name} has no function run(mini_batch)")
    return module


def _redirect(logs: Path, node: str, process: str) -> None:
    for stream, number in (("stdout", 1), ("stderr", 2)):
        file = logs / stream / node / f"{process}.{stream}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, number)
        os.close(target)
    for text in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            text.reconfigure(line_buffering=True)  # type: ignore[union-attr]
