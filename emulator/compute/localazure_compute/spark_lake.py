"""Spark's readers and writers on abfss paths, by way of a local mirror.

A local Spark has no ABFS driver. `install()` changes PySpark's DataFrameReader and DataFrameWriter so that

* a read copies what the path names (a file, a folder, a glob) into the mirror and reads it there: partition folders,
  several paths and `basePath` work; a path that isn't there raises AnalysisException PATH_NOT_FOUND, as abfss names it;
* a write lands in a staging folder first and is then published as blobs, `_SUCCESS` last; the modes `append`,
  `overwrite` (static and dynamic), `errorifexists` and `ignore` mean what they mean to Spark.

A path without a scheme is one of the default file system, the workspace's own container; `file:` is the local disk.
What needs a connector that isn't there is refused by name.
Reference: https://spark.apache.org/docs/3.5.9/sql-data-sources-load-save-functions.html
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pyspark import RDD, SparkContext
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql.readwriter import DataFrameReader, DataFrameWriter

from localazure_compute import lake, mounts
from localazure_compute.lake import Lake, LakePath

_connectors: dict[str, Connector] = {}
READERS = ("load", "parquet", "csv", "json", "text", "orc")
WRITERS = ("save", "parquet", "csv", "json", "text", "orc")
FORMATS = frozenset({"parquet", "csv", "json", "text", "orc", "binaryfile", "noop", "console", "memory", "rate"})
MARKER = "_SUCCESS"


def refuse(what: str, instead: str = "") -> NotImplementedError:
    """The error for something that localazure's Spark doesn't do."""
    return NotImplementedError(f"{what} is not implemented by localazure's Spark" + (f"; {instead}" if instead else ""))


class Mirror:
    """Local copies of lake folders, in `{folder}/{container}/{path}`, refreshed by ETag on every read."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self._lake = lake
        self._folder = folder
        self._etags: dict[Path, str] = {}

    @property
    def lake(self) -> Lake:
        return self._lake

    def local(self, path: LakePath) -> Path:
        """Where a path is mirrored, whether or not it is there yet."""
        return self._folder / path.container / path.path

    def fetch(self, text: str) -> str:
        """Bring what an abfss path names up to date; the local path. Raises AnalysisException PATH_NOT_FOUND."""
        path = lake.parse(text)
        fixed, has_wildcard = lake.split_wildcard(path.path)
        entries = [entry for entry in self._lake.entries(path.at(fixed)) if not entry.is_folder_marker]
        if not entries and (has_wildcard or self._lake.size(path) is None):
            raise path_not_found(text)
        if not entries:  # a single blob
            target = self.local(path)
            self._lake.download(path, target)
            return str(target)
        wanted: dict[Path, str] = {self.local(path.at(entry.path)): entry.etag for entry in entries}
        stale = [
            (path.at(entry.path), self.local(path.at(entry.path)))
            for entry in entries
            if self._etags.get(self.local(path.at(entry.path))) != entry.etag
        ]
        self._lake.each(self._lake.download, stale)
        self._etags.update(wanted)
        root = self.local(path.at(fixed))
        for known in [known for known in self._etags if known.is_relative_to(root) and known not in wanted]:
            known.unlink(missing_ok=True)
            del self._etags[known]
        local = self.local(path)
        if has_wildcard and not any(True for _ in self._folder.joinpath(path.container).glob(_as_glob(path.path))):
            raise path_not_found(text)
        return str(local)

    def fetch_file(self, path: LakePath) -> Path:
        """Bring one file up to date; where it is. Raises FileNotFoundError."""
        known, local = self._lake.properties(path), self.local(path)
        if known is None or known.is_folder_marker:
            raise FileNotFoundError(f"{path} doesn't exist")
        if self._etags.get(local) != known.etag or not local.is_file():
            self._lake.download(path, local)
            self._etags[local] = known.etag
        return local

    def fetch_files(self, folder: LakePath, names: list[str]) -> None:
        """Bring files below a folder that never change to the mirror. Raises FileNotFoundError."""
        missing = [name for name in names if not self.local(folder.child(name)).exists()]
        self._lake.each(self._lake.download, [(folder.child(n), self.local(folder.child(n))) for n in missing])

    def adopt(self, folder: LakePath) -> None:
        """What lies below the folder in the mirror was just published: it needn't be fetched."""
        for entry in self._lake.entries(folder):
            local = self.local(folder.at(entry.path))
            if local.is_file() and local.stat().st_size == entry.size:
                self._etags[local] = entry.etag

    def forget(self, file: Path) -> None:
        """The next read of a mirrored file fetches it again."""
        self._etags.pop(file, None)

    @property
    def scratch(self) -> Path:
        """A folder for what is in the mirror's shape and isn't the lake's."""
        return self._folder / ".scratch"

    def staging(self) -> Path:
        """A fresh folder name for a write; the folder doesn't exist yet."""
        folder = self._folder / ".staging"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def publish(self, staged: Path, target: LakePath, *, overwrite: bool, dynamic: bool) -> None:
        """Upload a finished write. `overwrite`: what was there goes first (`dynamic`: only the written partitions)."""
        files = [file for file in sorted(staged.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        if overwrite and dynamic:
            for partition in sorted(
                {file.parent.relative_to(staged).as_posix() for file in files if file.parent != staged}
            ):
                self._lake.delete_tree(target.child(partition))
            self._lake.delete(target.child(MARKER))
        elif overwrite:
            self._lake.delete_tree(target)
            self._lake.delete(target)
        data = [(file, target.child(file.relative_to(staged).as_posix())) for file in files if file.name != MARKER]
        self._lake.each(self._lake.upload, data)
        if (staged / MARKER).exists():
            self._lake.upload(staged / MARKER, target.child(MARKER))

    def unmap(self, text: str, host: str = "dfs.core.windows.net") -> str:
        """Local mirror paths in a message, shown as the abfss paths they stand for."""
        pattern = re.compile(rf"(?:file:)?/*{re.escape(str(self._folder).lstrip('/'))}/([^/\s]+)/")
        return pattern.sub(rf"abfss://\1@{self._lake.account}.{host}/", text)


def path_not_found(path: str) -> AnalysisException:
    error = AnalysisException(f"Path does not exist: {path}.")
    # PySpark puts the class in front of the message.
    error.error_class = "PATH_NOT_FOUND"
    return error


def _path_exists(path: str) -> AnalysisException:
    error = AnalysisException(f'Path {path} already exists. Set mode as "overwrite" to overwrite the existing path.')
    error.error_class = "PATH_ALREADY_EXISTS"
    return error


def _as_glob(path: str) -> str:
    # Hadoop's {a,b} has no counterpart in pathlib; what it would match is left to Spark.
    return re.sub(r"\{[^}]*\}", "*", path)


@dataclass(frozen=True)
class Connector:
    """A data source that isn't Spark's own: how `load` and `save` work on a path of the lake. `write`'s mode is lower
    case. Options are in `_lake_options` of reader and writer, partition columns in the writer's `_lake_partitions`.
    """

    read: Callable[[DataFrameReader, str], DataFrame]
    write: Callable[[DataFrameWriter, str, str], None]


def install(folder: Path, connectors: Callable[[Mirror], Mapping[str, Connector]] = lambda mirror: {}) -> Mirror:
    """Change PySpark's classes for this process. `folder` holds mirror and staging; `connectors` by their format."""
    mirror = Mirror(Lake.from_environment(), folder)
    _connectors.update(connectors(mirror))
    for name in READERS:
        setattr(DataFrameReader, name, _reading(getattr(DataFrameReader, name), mirror))
    for name in WRITERS:
        setattr(DataFrameWriter, name, _writing(getattr(DataFrameWriter, name), mirror))
    for cls in (DataFrameReader, DataFrameWriter):
        cls.format = _checked_format(cls.format)
        cls.option = _mapped_option(cls.option, mirror)
        cls.options = _mapped_options
    DataFrameWriter.mode = _recorded_mode(DataFrameWriter.mode)
    DataFrameWriter.partitionBy = _recorded_partitions(DataFrameWriter.partitionBy)
    DataFrame.writeTo = _refused("DataFrame.writeTo", "use DataFrame.write.saveAsTable")
    for name in ("textFile", "wholeTextFiles"):
        setattr(SparkContext, name, _reading_rdd(getattr(SparkContext, name), mirror))
    RDD.saveAsTextFile = _writing_rdd(RDD.saveAsTextFile, mirror)
    return mirror


def _reading(original: Callable[..., DataFrame], mirror: Mirror) -> Callable[..., DataFrame]:
    @functools.wraps(original)
    def read(self: DataFrameReader, *paths: Any, **named: Any) -> DataFrame:
        option = getattr(self, "_lake_path", None)
        if option is not None and not paths and not {"path", "paths"} & named.keys():
            paths = (option,)
        if original.__name__ == "load" and (
            connector := _connector(self, named.get("format", (*paths, None, None)[1]))
        ):
            self.options(**{key: each for key, each in named.items() if key not in ("path", "format", "schema")})
            path = named.get("path", paths[0] if paths else None)
            if not isinstance(path, str) or (text := mounts.resolved(path)) is None:
                raise AnalysisException(f"load() needs one path of the lake, not {path!r}.")
            return connector.read(self, text)
        if "format" in named or (original.__name__ == "load" and len(paths) > 1):
            _check_format(named.get("format", paths[1] if len(paths) > 1 else None))
        for key in ("path", "paths"):
            if key in named:
                named[key] = _fetched(named[key], mirror)
        # Only parquet takes paths in every position; elsewhere the rest are options.
        count = len(paths) if original.__name__ == "parquet" else 1
        return original(self, *(_fetched(path, mirror) for path in paths[:count]), *paths[count:], **named)

    return read


def _fetched(path: Any, mirror: Mirror) -> Any:
    if isinstance(path, list | tuple):
        return [_fetched(item, mirror) for item in path]
    text = mounts.resolved(path)
    return path if text is None else mirror.fetch(text)


def _writing(original: Callable[..., None], mirror: Mirror) -> Callable[..., None]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def write(self: DataFrameWriter, *args: Any, **named: Any) -> None:
        call = signature.bind(self, *args, **named)
        chosen = call.arguments.get("format")
        connector = _connector(self, chosen) if original.__name__ == "save" else None
        _check_format(chosen)
        text = mounts.resolved(call.arguments.get("path") or getattr(self, "_lake_path", None))
        mode = (call.arguments.get("mode") or getattr(self, "_lake_mode", None) or "errorifexists").lower()
        if connector is not None:
            if text is None:
                raise AnalysisException("save() needs a path of the lake.")
            self.partitionBy(*_flat(call.arguments.get("partitionBy") or ()))
            self.options(**call.arguments.get("options", {}))
            connector.write(self, text, mode)
            return
        if text is None:
            original(self, *args, **named)
            return
        target = lake.parse(text)
        if mode in ("error", "errorifexists", "ignore") and mirror.lake.exists(target):
            if mode == "ignore":
                return
            raise _path_exists(text)
        overwrite = mode == "overwrite"
        if overwrite:
            root = mirror.local(target).as_posix()
            if any(file.startswith(root + "/") for file in _input_files(self._df)):
                raise AnalysisException(f"Cannot overwrite a path that is also being read from: {text}.")
        staged = mirror.staging()
        call.arguments["path"] = str(staged)
        try:
            original(*call.args, **call.kwargs)
            mirror.publish(staged, target, overwrite=overwrite, dynamic=overwrite and _is_dynamic(self))
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    return write


def _reading_rdd(original: Callable[..., RDD[Any]], mirror: Mirror) -> Callable[..., RDD[Any]]:
    @functools.wraps(original)
    def read(self: SparkContext, path: str, *args: Any, **named: Any) -> RDD[Any]:
        return original(self, ",".join(_fetched(each, mirror) for each in path.split(",")), *args, **named)

    return read


def _writing_rdd(original: Callable[..., None], mirror: Mirror) -> Callable[..., None]:
    @functools.wraps(original)
    def write(self: RDD[Any], path: str, *args: Any, **named: Any) -> None:
        text = mounts.resolved(path)
        if text is None:
            original(self, path, *args, **named)
            return
        target = lake.parse(text)
        if mirror.lake.exists(target):
            raise _path_exists(text)
        staged = mirror.staging()
        try:
            original(self, str(staged), *args, **named)
            mirror.publish(staged, target, overwrite=False, dynamic=False)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    return write


def _connector(source: DataFrameReader | DataFrameWriter, format: Any) -> Connector | None:
    """The connector that a call's format, or the one chosen before, asks for."""
    name = format if isinstance(format, str) else getattr(source, "_lake_format", "")
    return _connectors.get(name.lower())


def _flat(names: Any) -> list[str]:
    """Column names, given singly or as lists."""
    names = [names] if isinstance(names, str) else names
    return [name for item in names for name in ([item] if isinstance(item, str) else item)]


def _input_files(frame: DataFrame) -> list[str]:
    """The files that a frame reads. Not by `inputFiles`, which plans the query: a connector would unload for it."""
    leaves = frame._jdf.queryExecution().analyzed().collectLeaves().iterator()
    found: list[str] = []
    while leaves.hasNext():
        leaf = leaves.next()
        if leaf.getClass().getSimpleName() == "LogicalRelation" and hasattr(leaf.relation(), "inputFiles"):
            found += [_local_file(file) for file in leaf.relation().inputFiles()]
    return found


def _local_file(url: str) -> str:
    """Spark's `file:///a/b%20c` as a path."""
    return "/" + unquote(url.removeprefix("file:")).lstrip("/")


def _is_dynamic(writer: DataFrameWriter) -> bool:
    option = getattr(writer, "_lake_partition_mode", None)
    mode = option or writer._spark.conf.get("spark.sql.sources.partitionOverwriteMode", "static")
    return str(mode).lower() == "dynamic"


def _check_format(name: Any) -> None:
    if isinstance(name, str) and name.lower() not in FORMATS | _connectors.keys():
        raise refuse(f"the data source {name!r}", "parquet, csv, json, text, orc and delta are")


def _checked_format(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def format(self: Any, source: str) -> Any:
        _check_format(source)
        self._lake_format = source
        return self if source.lower() in _connectors else original(self, source)

    return format


def _mapped_option(original: Callable[..., Any], mirror: Mirror) -> Callable[..., Any]:
    @functools.wraps(original)
    def option(self: Any, key: str, value: Any) -> Any:
        lowered = key.lower()
        self._lake_options = {**getattr(self, "_lake_options", {}), key: value}
        text = mounts.resolved(value) if lowered in ("path", "basepath") else None
        if lowered == "path" and text is not None:
            self._lake_path = value
            return self
        if lowered == "basepath" and text is not None:
            value = str(mirror.local(lake.parse(text)))
        if lowered == "partitionoverwritemode":
            # Spark is given an empty folder and has nothing to overwrite; publishing is what heeds it.
            self._lake_partition_mode = value
        return original(self, key, value)

    return option


def _mapped_options(self: Any, **options: Any) -> Any:
    for key, value in options.items():
        self.option(key, value)
    return self


def _recorded_mode(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def mode(self: DataFrameWriter, saveMode: str | None) -> DataFrameWriter:
        if saveMode:
            self._lake_mode = saveMode
        return original(self, saveMode)

    return mode


def _recorded_partitions(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def partitionBy(self: DataFrameWriter, *cols: Any) -> DataFrameWriter:
        if not _flat(cols):
            return self
        self._lake_partitions = _flat(cols)
        return original(self, *cols)

    return partitionBy


def _refused(what: str, instead: str) -> Callable[..., Any]:
    def refused(*_args: Any, **_named: Any) -> Any:
        raise refuse(what, instead)

    return refused


def mirror_folder() -> Path:
    """The folder for mirror and staging of this session."""
    return Path(os.environ.get("LOCALAZURE_SESSION_FOLDER") or ".").absolute() / "lake"
