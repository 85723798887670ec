"""Inputs, outputs and the expressions in a command that stand for them.

`${{inputs.x}}`, `${{outputs.x}}`, `${{search_space.x}}` and the optional part `$[[--flag ${{inputs.x}}]]`:
https://learn.microsoft.com/azure/machine-learning/reference-yaml-core-syntax#expressions-in-azure-machine-learning-jobs
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from localazure.core.errors import AzureError, BadRequest, NotImplementedOperation
from localazure.executors.job import AssetSource, JobFailed, Mount, RunningJob
from localazure.storage.locations import Location

_EXPRESSION = re.compile(r"\$\{\{\s*(?P<scope>[A-Za-z_]+)\.(?P<name>[A-Za-z0-9_.\-]+)\s*\}\}")
_OPTIONAL = re.compile(r"\$\[\[(?P<part>.*?)\]\]", re.DOTALL)
_SCOPES = ("inputs", "outputs", "search_space")
INPUT_TYPES = ("uri_file", "uri_folder", "mltable", "custom_model", "mlflow_model", "triton_model")
OUTPUT_TYPES = INPUT_TYPES
# https://learn.microsoft.com/rest/api/azureml/jobs/create-or-update#inputdeliverymode and #outputdeliverymode
INPUT_MODES = ("ReadOnlyMount", "ReadWriteMount", "Download", "Direct", "EvalMount", "EvalDownload")
OUTPUT_MODES = ("ReadWriteMount", "Upload", "Direct")
_READ_ONLY = frozenset({"ReadOnlyMount", "EvalMount"})
_EVALUATED = frozenset({"EvalMount", "EvalDownload"})
_FOLDERS = frozenset({"uri_folder", "mlflow_model", "triton_model"})
_PATH_KINDS = ("file", "folder", "pattern")
# Transformations of an MLTable that say how its files are read, not which rows or columns there are.
_READERS = ("read_delimited", "read_parquet", "read_json_lines", "read_delta_lake")


def validate(properties: Mapping[str, Any]) -> None:
    """Refuses inputs and outputs of an unknown type or mode: BadRequest, or NotImplementedOperation by name."""
    for name, entry in (properties.get("inputs") or {}).items():
        if entry is None or (kind := entry.get("jobInputType", "literal")) == "literal":
            continue
        if kind not in INPUT_TYPES:
            wanted = ", ".join(("literal", *INPUT_TYPES))
            raise BadRequest(f"The input '{name}' is of type '{kind}'; there are {wanted}.", f"inputs.{name}")
        _check_mode(f"inputs.{name}", entry, INPUT_MODES)
        if entry.get("mode") in _EVALUATED and kind != "mltable":
            raise BadRequest(f"The mode {entry['mode']} is for inputs of type mltable, not {kind}.", f"inputs.{name}")
    for name, entry in (properties.get("outputs") or {}).items():
        kind = (entry or {}).get("jobOutputType") or "uri_folder"
        if kind not in OUTPUT_TYPES:
            wanted = ", ".join(OUTPUT_TYPES)
            raise BadRequest(f"The output '{name}' is of type '{kind}'; there are {wanted}.", f"outputs.{name}")
        _check_mode(f"outputs.{name}", entry or {}, OUTPUT_MODES)


def _check_mode(where: str, entry: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if (mode := entry.get("mode")) and mode not in known:
        raise BadRequest(f"The mode of {where} is '{mode}'; there are {', '.join(known)}.", where)
    if entry.get("pathOnCompute"):
        raise NotImplementedOperation(f"Jobs_CreateOrUpdate with {where}.pathOnCompute")


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
    mode = entry.get("mode") or "ReadOnlyMount"
    if mode == "Direct":
        return str(await asyncio.to_thread(job.assets.uri, uri))
    folder = job.folder / "inputs" / name
    try:
        path = await asyncio.to_thread(_bring, job.assets, kind, mode, uri, folder)
    except AzureError as error:
        raise JobFailed(f"The input '{name}' can't be read: {error.message}") from error
    if mode == "ReadWriteMount":
        location = await asyncio.to_thread(job.assets.location, uri)
        job.mounts[name] = Mount(path, location, _state(path))
    elif mode in _READ_ONLY:
        _make_read_only(folder)
    return str(path)


def _bring(assets: AssetSource, kind: str, mode: str, uri: str, folder: Path) -> Path:
    source = assets.resolve(uri)
    if kind != "mltable":
        return _place(source, folder, kind, uri)
    if mode in _EVALUATED:
        return place_files(source, folder, assets, uri)
    return place_table(source, folder, assets, uri)


def _place(source: Path, folder: Path, kind: str, uri: str) -> Path:
    if kind == "uri_file" and source.is_dir():
        raise JobFailed(f"The input is declared as uri_file, but '{uri}' is a folder.")
    if kind in _FOLDERS and source.is_file():
        raise JobFailed(f"The input is declared as {kind}, but '{uri}' is a file.")
    if kind == "mlflow_model" and not (source / "MLmodel").exists():
        raise JobFailed(f"The input is declared as mlflow_model, but '{uri}' holds no file MLmodel.")
    return _copy(source, folder)


def _copy(source: Path, folder: Path) -> Path:
    """The job's own copy of a file or folder of the mirror, below `folder` under its name.

    A link to the mirror's file would cost nothing, but a job that opens it for writing would change the data of every
    other job. A copy takes 0.3 s a gigabyte and 0.1 ms a file (ext4, warm) and goes with the job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
    return target


def _make_read_only(folder: Path) -> None:
    """As a mount is: whoever isn't root can't write there. Root changes no more than its own copy."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


def _state(path: Path) -> dict[Path, tuple[int, int, int]]:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    found = {}
    for file in files:
        status = file.stat()
        found[file] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def place_table(source: Path, folder: Path, assets: AssetSource, uri: str) -> Path:
    """An MLTable whose paths are all local: the folder with its files, and a file MLTable with absolute paths for what
    was elsewhere. Relative paths stay: jobs copy the file MLTable beside tables that they write.

    https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable
    """
    table = _table(source, uri)
    _copy_beside(source, folder)
    apart = folder.with_name(f".{folder.name}.paths")
    asked = table["paths"]
    placed = [_local_path(entry, folder, apart / str(number), assets, uri) for number, entry in enumerate(asked)]
    # Columns that are taken from a file's path (include_path_column, extract_columns_from_partition_format) are to have
    # its address, not its place on this machine.
    sources = {
        next(iter(local.values())): _address(entry)
        for entry, local in zip(asked, placed, strict=True)
        if _is_elsewhere(_address(entry))
    }
    table["paths"] = [
        local if _is_elsewhere(_address(entry)) else {kind: str(entry[kind]).removeprefix("file:") for kind in local}
        for entry, local in zip(asked, placed, strict=True)
    ]
    if sources:
        table["metadata"] = {**(table.get("metadata") or {}), "sources": sources}
    (folder / "MLTable").write_text(yaml.safe_dump(table, sort_keys=False))
    return folder


def _address(entry: Mapping[str, Any]) -> str:
    """What a path of a table says; of a pattern the folder that all its matches are below."""
    path = str(next(entry[kind] for kind in _PATH_KINDS if kind in entry))
    return path if "*" not in path else path.partition("*")[0].rpartition("/")[0]


def _is_elsewhere(path: str) -> bool:
    return "://" in path or path.startswith("azureml:")


def place_files(source: Path, folder: Path, assets: AssetSource, uri: str) -> Path:
    """A folder of the files that an MLTable's paths name: what the modes eval_mount and eval_download mean.

    Which rows and columns a table has isn't a matter of files: such transformations are refused by name.
    """
    table = _table(source, uri)
    for step in table.get("transformations") or []:
        name = step if isinstance(step, str) else next(iter(step), "")
        if name not in _READERS:
            raise JobFailed(f"The MLTable '{uri}' has the transformation {name}; localazure evaluates to files only "
                            f"tables that are just read ({', '.join(_READERS)}).")  # fmt: skip
    beside, apart = folder.with_name(f".{folder.name}"), folder.with_name(f".{folder.name}.paths")
    _copy_beside(source, beside)
    folder.mkdir(parents=True, exist_ok=True)
    for number, entry in enumerate(table["paths"]):
        ((kind, path),) = _local_path(entry, beside, apart / str(number), assets, uri).items()
        base, found = _matching(kind, Path(path), beside)
        for file in found:
            target = folder / file.relative_to(base)
            if target.exists():
                raise JobFailed(f"Two paths of the MLTable '{uri}' hold a file '{target.relative_to(folder)}'.")
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    for each in (beside, apart):
        shutil.rmtree(each, ignore_errors=True)
    return folder


def _matching(kind: str, path: Path, beside: Path) -> tuple[Path, list[Path]]:
    """What a local path of a table stands for: the folder its names are relative to, and the files."""
    if kind == "file":
        return path.parent, [path]
    if kind == "folder":
        return path, [each for each in path.rglob("*") if each.is_file()]
    found = [each for each in beside.glob(str(path.relative_to(beside))) if each.is_file() and each.name != "MLTable"]
    return beside, sorted(found)


def _table(source: Path, uri: str) -> dict[str, Any]:
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
    found: dict[str, Any] = table
    return found


def _copy_beside(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)


def _local_path(entry: Any, table: Path, apart: Path, assets: AssetSource, uri: str) -> dict[str, str]:
    """A path of the table whose files are in `table` as a local one; what is elsewhere is copied to `apart`."""
    kind = next((kind for kind in _PATH_KINDS if isinstance(entry, dict) and kind in entry), None)
    if kind is None:
        raise JobFailed(f"A path of the MLTable '{uri}' is none of {', '.join(_PATH_KINDS)}: {entry}")
    path = str(entry[kind])
    if _is_elsewhere(path):
        # A pattern becomes the folder of what matches.
        local = _copy(assets.resolve(path), apart)
        return {"file" if local.is_file() else "folder": str(local)}
    local = (table / path.removeprefix("file:")).resolve()
    if not local.is_relative_to(table.resolve()):
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


async def upload(job: RunningJob, artifact_location: Location, *, failed: bool = False) -> None:
    """Sends every output to its address, what was changed in inputs mounted for writing to theirs, and `./outputs` and
    `./logs` to the run's artifacts.

    Of a job that failed, only what was mounted: that would be there on Azure, too.
    """
    for mount in job.mounts.values():
        await asyncio.to_thread(_write_back, job, mount)
    for name, output in job.outputs.items():
        path = job.folder / "outputs" / name
        if output.get("mode") == "Direct" or (failed and output.get("mode") == "Upload"):
            continue
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            job.note(f"output '{name}' is empty: nothing was written to {path}")
            continue
        if path.is_dir() and output["jobOutputType"] == "uri_file":
            raise JobFailed(f"The output '{name}' is declared as uri_file, but the job made a folder of it.")
        if path.is_file() and output["jobOutputType"] in _FOLDERS:
            raise JobFailed(f"The output '{name}' is declared as {output['jobOutputType']}, but the job made a file.")
        target = await asyncio.to_thread(job.assets.location, str(output["uri"]))
        sent = await asyncio.to_thread(job.blobs.upload_tree, path, target)
        job.note(f"output '{name}': {len(sent)} file(s) -> {output['uri']}")
    for folder in ("outputs", "logs"):
        path = job.working_directory / folder
        if path.is_dir() and any(path.iterdir()):
            await asyncio.to_thread(job.blobs.upload_tree, path, artifact_location.join(folder))


def _write_back(job: RunningJob, mount: Mount) -> None:
    now = _state(mount.path)

    def location(file: Path) -> Location:
        return mount.location if file == mount.path else mount.location.join(str(file.relative_to(mount.path)))

    for file, state in now.items():
        if mount.state.get(file) != state:
            job.blobs.upload_tree(file, location(file))
    for file in mount.state.keys() - now.keys():
        job.blobs.delete(location(file).container, location(file).path)


def discard(folder: Path) -> None:
    """Removes a job's folder, its read-only inputs included."""
    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o755)
    shutil.rmtree(folder, ignore_errors=True)
