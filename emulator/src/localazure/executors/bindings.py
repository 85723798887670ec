"""Inputs, outputs and the expressions in a command that stand for them.

`${{inputs.x}}`, `${{outputs.x}}`, `${{search_space.x}}` and the optional part `$[[--flag ${{inputs.x}}]]`:
https://learn.microsoft.com/azure/machine-learning/reference-yaml-core-syntax#expressions-in-azure-machine-learning-jobs
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from localazure.core.errors import AzureError
from localazure.executors.job import AssetSource, JobFailed, RunningJob
from localazure.storage.locations import Location

_EXPRESSION = re.compile(r"\$\{\{\s*(?P<scope>[A-Za-z_]+)\.(?P<name>[A-Za-z0-9_.\-]+)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(?P<part>.*?)\]\]", re.DOTALL)
_SCOPES = ("inputs", "outputs", "search_space")
_COPIED_MODES = frozenset({"Download", "EvalDownload"})
_PATH_KINDS = ("file", "folder", "pattern")


def expand(command: str, values: Mapping[str, Mapping[str, str]]) -> str:
    """The command with every expression replaced. JobFailed names what isn't declared.

    `values` maps a scope (inputs, outputs, search_space) to name -> text. Values are inserted as they are: quoting is
    the command's business, as in the service.
    """

    def known(match: re.Match[str]) -> str | None:
        return values.get(match["scope"], {}).get(match["name"])

    def part(match: re.Match[str]) -> str:
        return match["part"] if all(known(found) for found in _EXPRESSION.finditer(match["part"])) else ""

    def value(match: re.Match[str]) -> str:
        found = known(match)
        if found is None:
            if match["scope"] not in _SCOPES:
                raise JobFailed(f"The command uses {match[0]}; expressions of jobs begin with {', '.join(_SCOPES)}.")
            declared = ", ".join(sorted(values.get(match["scope"], {}))) or "none"
            raise JobFailed(
                f"The command uses {match[0]}, but the job declares no such name ({match['scope']}: {declared})."
            )
        return found

    return _EXPRESSION.sub(value, _OPTIONAL.sub(part, command))


async def inputs(job: RunningJob) -> dict[str, str]:
    """Brings every input near: name -> literal value or local path. JobFailed names the input and its address."""
    found: dict[str, str] = {}
    for name, entry in (job.properties.get("inputs") or {}).items():
        if entry is not None:
            found[name] = await bring(job, name, entry)
    return found


async def bring(job: RunningJob, name: str, entry: dict[str, Any]) -> str:
    """One input: its literal value, or where it is on this machine."""
    kind = entry.get("jobInputType", "literal")
    if kind == "literal":
        return str(entry.get("value", ""))
    uri = entry.get("uri") or entry.get("value")
    if not uri:
        raise JobFailed(f"The input '{name}' has no uri.")
    if entry.get("mode") == "Direct":
        return str(await asyncio.to_thread(job.assets.uri, uri))
    try:
        source = await asyncio.to_thread(job.assets.resolve, uri)
        folder = job.folder / "inputs" / name
        if kind == "mltable":
            return str(await asyncio.to_thread(place_table, source, folder, job.assets, uri))
        return str(await asyncio.to_thread(_place, source, folder, kind, entry.get("mode"), uri))
    except AzureError as error:
        raise JobFailed(f"The input '{name}' can't be read: {error.message}") from error


def _place(source: Path, folder: Path, kind: str, mode: str | None, uri: str) -> Path:
    if kind == "uri_file" and source.is_dir():
        raise JobFailed(f"The input is declared as uri_file, but '{uri}' is a folder.")
    if kind in ("uri_folder", "mlflow_model") and source.is_file():
        raise JobFailed(f"The input is declared as {kind}, but '{uri}' is a file.")
    if kind == "mlflow_model" and not (source / "MLmodel").exists():
        raise JobFailed(f"The input is declared as mlflow_model, but '{uri}' holds no file MLmodel.")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    # A mount is read-only on Azure, so that its files may be the mirror's own; but it is a folder of its own: MLflow,
    # for one, refuses a model whose folder is a link to elsewhere.
    copy = shutil.copyfile if mode in _COPIED_MODES else _link
    shutil.copytree(source, target, copy_function=copy) if source.is_dir() else copy(source, target)
    return target


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def place_table(source: Path, folder: Path, assets: AssetSource, uri: str) -> Path:
    """An MLTable whose paths are all local: the folder with its files, and a file MLTable with absolute paths.

    https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable
    """
    definition = source / "MLTable"
    if not source.is_dir() or not definition.is_file():
        raise JobFailed(f"'{uri}' is no mltable: there is no file MLTable in it.")
    try:
        table = yaml.safe_load(definition.read_text())
    except yaml.YAMLError as error:
        raise JobFailed(f"The file MLTable of '{uri}' is not YAML: {error}") from error
    paths = table.get("paths") if isinstance(table, dict) else None
    if not isinstance(paths, list) or not paths:
        raise JobFailed(f"The file MLTable of '{uri}' has no list 'paths'.")
    table["paths"] = [_local_path(entry, source, assets, uri) for entry in paths]
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name != "MLTable":
            (folder / file.name).symlink_to(file)
    (folder / "MLTable").write_text(yaml.safe_dump(table, sort_keys=False))
    return folder


def _local_path(entry: Any, source: Path, assets: AssetSource, uri: str) -> dict[str, str]:
    kind = next((kind for kind in _PATH_KINDS if isinstance(entry, dict) and kind in entry), None)
    if kind is None:
        raise JobFailed(f"A path of the MLTable '{uri}' is none of {', '.join(_PATH_KINDS)}: {entry}")
    path = str(entry[kind])
    if "://" in path or path.startswith("azureml:"):
        # A pattern becomes the folder of what matches.
        local = assets.resolve(path)
        return {"file" if local.is_file() else "folder": str(local)}
    local = (source / path.removeprefix("file:")).resolve()
    if not local.is_relative_to(source.resolve()):
        raise JobFailed(f"A path of the MLTable '{uri}' leads out of its folder: {path}")
    if kind != "pattern" and not local.exists():
        raise JobFailed(f"The MLTable '{uri}' names {path}, which isn't there.")
    return {kind: str(local)}


def output_paths(job: RunningJob) -> dict[str, str]:
    """Where the job writes each output: name -> local path (folders are made)."""
    found: dict[str, str] = {}
    for name, output in job.outputs.items():
        if output.get("mode") == "Direct":
            found[name] = str(output["uri"])
            continue
        path = job.folder / "outputs" / name
        if output["jobOutputType"] == "uri_file":
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            path.mkdir(parents=True, exist_ok=True)
        found[name] = str(path)
    return found


async def upload(job: RunningJob, artifact_location: Location) -> None:
    """Sends every output to its address, `./outputs` and `./logs` to the run's artifacts."""
    for name, output in job.outputs.items():
        path = job.folder / "outputs" / name
        if output.get("mode") == "Direct":
            continue
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            job.note(f"output '{name}' is empty: nothing was written to {path}")
            continue
        target = await asyncio.to_thread(job.assets.location, str(output["uri"]))
        sent = await asyncio.to_thread(job.blobs.upload_tree, path, target)
        job.note(f"output '{name}': {len(sent)} file(s) -> {output['uri']}")
    for folder in ("outputs", "logs"):
        path = job.working_directory / folder
        if path.is_dir() and any(path.iterdir()):
            await asyncio.to_thread(job.blobs.upload_tree, path, artifact_location.join(folder))
