"""Parallel steps: a script's `run(mini_batch)` over the files of a folder or the rows of a table.

Pure. https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-parallel and
.../how-to-use-parallel-job-in-pipeline. The work is done by `localazure_compute.batch_driver`, as in batch endpoints.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation

_OWN = re.compile(r"\$\{\{\s*(?P<scope>inputs|outputs)\.(?P<name>[A-Za-z0-9_.\-]+)\s*\}\}")
_SIZE = re.compile(r"(?P<number>\d+)\s*(?P<unit>[kmg]b)?", re.IGNORECASE)
_UNITS = {"": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3}
# The service's defaults: 10 files, or 1 MB of a table, a mini-batch.
_FILES = 10
_BYTES = 1024**2
_RETRIES = 2
_TIMEOUT = 60
_UNLIMITED = -1
_FILE_NAME = "parallel_run_step.txt"  # of the results, where an output is a folder


@dataclass(frozen=True)
class Parallel:
    """A parallel step's settings. `data` is the input that is divided, `rows` the output that results go to."""

    data: str
    tabular: bool
    script: str
    arguments: str
    rows: str | None
    rows_in_file: bool
    size: int
    keys: tuple[str, ...]
    processes: int
    retries: int
    timeout: float
    error_threshold: int
    mini_batch_error_threshold: int
    logging_level: str

    def command(self, nodes: int) -> str:
        """The command of the job; expressions in it are the step's own."""
        options: dict[str, Any] = {
            "script": shlex.quote(self.script),
            "nodes": nodes,
            "max-concurrency-per-instance": self.processes,
            "mini-batch-size": self.size,
            "max-retries": self.retries,
            "timeout": f"{self.timeout:g}",
            "error-threshold": self.error_threshold,
            "mini-batch-error-threshold": self.mini_batch_error_threshold,
            "logging-level": self.logging_level.lower(),
            "input": f'"${{{{inputs.{self.data}}}}}"',
            "output": f'"${{{{outputs.{self.rows}}}}}"' if self.rows else ".",
            "output-action": "append_row" if self.rows else "summary_only",
            "output-file-name": _FILE_NAME,
        }
        if self.keys:
            options["partition-keys"] = shlex.quote(",".join(self.keys))
        flags = ["--tabular" if self.tabular else "--recursive", *(["--output-is-file"] if self.rows_in_file else [])]
        parts = ["python -m localazure_compute.batch_driver"]
        parts += [f"--{name} {value}" for name, value in options.items()]
        return " ".join([*parts, *flags, "--", self.arguments])


def read(
    step: str, spec: Mapping[str, Any], task: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, str]
) -> Parallel:
    """The settings of a step from its component's and node's fields (`spec`) and its task. BadRequest names the key.

    `inputs` are the step's, resolved; `outputs` maps its outputs to their types.
    """
    where = f"jobs.{step}"
    kind = str(task.get("type") or "run_function")
    if kind not in ("run_function", "function"):
        raise NotImplementedOperation(f"A parallel step with a task of type {kind} (step '{step}')")
    if not task.get("entry_script"):
        raise _bad(f"{where}.task.entry_script", f"The parallel step '{step}' names no entry_script.")
    data = _named(spec.get("input_data"), "inputs", f"{where}.input_data")
    entry = inputs.get(data)
    if entry is None or entry.get("jobInputType") == "literal":
        raise _bad(f"{where}.input_data", f"The parallel step '{step}' divides its input '{data}', which must be data.")
    tabular = entry["jobInputType"] == "mltable"
    keys = spec.get("partition_keys") or ()
    if isinstance(keys, str):
        keys = json.loads(keys) if keys.startswith("[") else [keys]
    if keys and not tabular:
        raise NotImplementedOperation(f"A parallel step with partition_keys over files (step '{step}')")
    rows = (
        _named(task["append_row_to"], "outputs", f"{where}.task.append_row_to") if task.get("append_row_to") else None
    )
    if rows and rows not in outputs:
        known = ", ".join(sorted(outputs)) or "none"
        raise _bad(
            f"{where}.task.append_row_to", f"The parallel step '{step}' has no output '{rows}' (it has {known})."
        )
    retry = spec.get("retry_settings") or {}
    return Parallel(
        data=data,
        tabular=tabular,
        script=str(task["entry_script"]),
        arguments=str(task.get("program_arguments") or task.get("args") or ""),
        rows=rows,
        rows_in_file=bool(rows) and outputs[str(rows)] == "uri_file",
        size=_size(spec.get("mini_batch_size"), _BYTES if tabular else _FILES, f"{where}.mini_batch_size"),
        keys=tuple(str(key) for key in keys),
        processes=_whole(spec.get("max_concurrency_per_instance"), 1, f"{where}.max_concurrency_per_instance"),
        retries=_whole(retry.get("max_retries"), _RETRIES, f"{where}.retry_settings.max_retries"),
        timeout=float(_whole(retry.get("timeout"), _TIMEOUT, f"{where}.retry_settings.timeout")),
        error_threshold=_whole(spec.get("error_threshold"), _UNLIMITED, f"{where}.error_threshold"),
        mini_batch_error_threshold=_whole(
            spec.get("mini_batch_error_threshold"), _UNLIMITED, f"{where}.mini_batch_error_threshold"
        ),
        logging_level=str(spec.get("logging_level") or "INFO"),
    )


def _named(text: Any, scope: str, where: str) -> str:
    match = _OWN.fullmatch(str(text or "").strip())
    if match is None or match["scope"] != scope:
        raise _bad(where, f"{where} must be ${{{{{scope}.<name>}}}}, not '{text}'.")
    return match["name"]


def _size(value: Any, default: int, where: str) -> int:
    if value in (None, "", 0, "0"):  # the SDK sends 0 beside partition_keys
        return default
    match = _SIZE.fullmatch(str(value).strip())
    size = int(match["number"]) * _UNITS[(match["unit"] or "").lower()] if match else 0
    if size < 1:
        raise _bad(where, f"{where} must be a number of files, or bytes such as 100kb, not '{value}'.")
    return size


def _whole(value: Any, default: int, where: str) -> int:
    if value is None:
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise _bad(where, f"{where} must be a whole number, not '{value}'.") from None


def _bad(where: str, message: str) -> BadRequest:
    return BadRequest(message, where, "UserError")
