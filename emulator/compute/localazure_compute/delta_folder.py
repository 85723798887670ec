"""A Delta table of the lake: read at a version, changed by whole commits.

delta-rs works on the mirror's copy of the table; what it wrote is then published: data files first, and last the
commit's log file, which is created only if nobody else made that version meanwhile. So a reader of the lake sees a
version whole or not at all, and of two writers one fails with ConcurrentModificationException.
https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import deltalake
import pyarrow as pa
import pyarrow.dataset as ds
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql.types import StructType

from localazure_compute.lake import LakePath
from localazure_compute.spark_lake import Mirror

LOG = "_delta_log"
_VERSION = re.compile(r"^(\d{20})\.json$")
#: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#table-features that change what the files say.
_CHANGE_ROWS = frozenset({"deletionVectors", "columnMapping", "v2Checkpoint", "typeWidening"})
_PLAIN_READER = 1
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


class ConcurrentModificationException(PySparkException):
    """Another writer made the version that this one was about to make. Nothing was changed; try again."""


def not_a_table(path: LakePath) -> AnalysisException:
    error = AnalysisException(f"`{path}` is not a Delta table.")
    error.error_class = "DELTA_TABLE_NOT_FOUND"
    return error


class DeltaFolder:
    """One table, by its path."""

    def __init__(self, mirror: Mirror, path: LakePath) -> None:
        self.mirror = mirror
        self.path = path
        self.local = mirror.local(path)

    @property
    def exists(self) -> bool:
        """Whether there is a table."""
        return next(self.mirror.lake.entries(self.path.child(LOG)), None) is not None

    def table(self, version: int | str | None = None, *, with_files: bool = False) -> deltalake.DeltaTable:
        """The table at its newest version, or at a version or moment. Raises AnalysisException.

        `with_files`: what delta-rs itself will read is fetched as well.
        """
        if not self.exists:
            raise not_a_table(self.path)
        self.mirror.fetch(str(self.path if with_files else self.path.child(LOG)))
        try:
            table = deltalake.DeltaTable(self.local)
            if isinstance(version, int) and not 0 <= version <= table.version():
                raise AnalysisException(
                    f"Cannot time travel Delta table to version {version}. Available versions: [0, {table.version()}]."
                )
            if version is not None:
                table.load_as_version(version)
        except deltalake.exceptions.DeltaError as error:
            raise _spark_error(error, self.path) from error
        _check_features(table, self.path)
        return table

    def files(self, table: deltalake.DeltaTable) -> list[Path]:
        """The table's files at that version, on local disk."""
        actions = pa.table(table.get_add_actions(flatten=True))
        names = [unquote(str(name)) for name in actions.column("path").to_pylist()]
        for column in table.metadata().partition_columns:
            values = actions.column(f"partition.{column}").to_pylist()
            for name, value in zip(names, values, strict=True):
                _check_folder(name, column, value, self.path)
        self.mirror.fetch_files(self.path, names)
        return [self.local / name for name in names]

    def write(
        self,
        schema: StructType,
        staged: Path,
        how: Mapping[str, Any],
        operation: Mapping[str, Any] | None = None,
        read_version: int | None = None,
    ) -> None:
        """Write the Parquet files in `staged` by `deltalake.write_deltalake(**how)` and publish the commit."""
        target = arrow_schema(schema)
        format = ds.ParquetFileFormat(coerce_int96_timestamp_unit="us")
        files = [str(file) for file in sorted(staged.rglob("*.parquet"))]

        def batches() -> Iterator[pa.RecordBatch]:
            if files:
                for batch in ds.dataset(files, format=format).to_batches():
                    columns = [batch.column(field.name).cast(field.type) for field in target]
                    yield pa.RecordBatch.from_arrays(columns, schema=target)

        def change() -> None:
            self.local.mkdir(parents=True, exist_ok=True)
            deltalake.write_deltalake(self.local, pa.RecordBatchReader.from_batches(target, batches()), **how)

        self.commit(change, operation, read_version)

    def commit(
        self,
        change: Callable[[], Any],
        operation: Mapping[str, Any] | None = None,
        read_version: int | None = None,
    ) -> Any:
        """Run a change on the local copy and publish it; what it returns.

        `operation` goes into the commit's own words (`operation`, `operationParameters`, `operationMetrics` of the
        table's history). `read_version`: what the change was worked out from, and must still be the newest. Raises
        ConcurrentModificationException.
        """
        if self.exists:
            self.mirror.fetch(str(self.path.child(LOG)))
            if read_version is not None and (newest := deltalake.DeltaTable(self.local).version()) != read_version:
                raise self._overtaken(newest)
        before = _listing(self.local)
        try:
            answer = change()
        except deltalake.exceptions.DeltaError as error:
            self._undo(before)
            raise _spark_error(error, self.path) from error
        except BaseException:
            self._undo(before)
            raise
        after = _listing(self.local)
        changed = [file for file, mark in after.items() if before.get(file) != mark]
        commits = [file for file in changed if file.parent.name == LOG and _VERSION.match(file.name)]
        lake_ = self.mirror.lake
        rest = [(file, self._at(file)) for file in changed if file not in commits]
        data = [pair for pair in rest if pair[0].parent.name != LOG]
        lake_.each(lake_.upload, data)
        for file in sorted(commits):
            if operation is not None:
                _describe(file, operation)
            if not lake_.create(self._at(file), file.read_bytes()):
                lake_.each(lake_.delete, [target for _file, target in data])
                self._undo(before)
                raise self._overtaken(int(file.name.removesuffix(".json")))
        # Checkpoints are only a faster way to what is published.
        lake_.each(lake_.upload, [pair for pair in rest if pair[0].parent.name == LOG])
        lake_.each(lake_.delete, [self._at(file) for file in before if file not in after])
        self.mirror.adopt(self.path)
        return answer

    def _overtaken(self, version: int) -> ConcurrentModificationException:
        return ConcurrentModificationException(
            message=f"Another writer made version {version} of {self.path}; nothing was changed, try again."
        )

    def _at(self, file: Path) -> LakePath:
        return self.path.child(file.relative_to(self.local).as_posix())

    def _undo(self, before: Mapping[Path, Any]) -> None:
        for file, mark in _listing(self.local).items():
            if file not in before:
                file.unlink()
            elif before[file] != mark:
                self.mirror.forget(file)


def arrow_schema(schema: StructType) -> pa.Schema:
    """A Spark schema as Delta keeps it: every column may be null, moments are UTC."""
    from pyspark.sql.pandas.types import to_arrow_schema

    return to_arrow_schema(nullable(schema))


def nullable(schema: StructType) -> StructType:
    """The schema with everything nullable, as a DataFrame's is written."""
    text = schema.json()
    for key in ("nullable", "containsNull", "valueContainsNull"):
        text = text.replace(f'"{key}":false', f'"{key}":true')
    return StructType.fromJson(json.loads(text))


def spark_schema(table: deltalake.DeltaTable) -> StructType:
    """The table's schema: the log holds it in Spark's own JSON."""
    return StructType.fromJson(json.loads(table.schema().to_json()))


def _listing(folder: Path) -> dict[Path, tuple[int, int]]:
    if not folder.is_dir():
        return {}
    found = {}
    for file in folder.rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            known = file.stat()
            found[file] = (known.st_size, known.st_mtime_ns)
    return found


def _describe(file: Path, operation: Mapping[str, Any]) -> None:
    """Put what was done into the commit's information, which the protocol leaves to the writer."""
    lines = []
    for line in file.read_text().splitlines():
        action = json.loads(line)
        if "commitInfo" in action:
            action["commitInfo"].update(operation)
        lines.append(json.dumps(action, separators=(",", ":")))
    file.write_text("\n".join(lines) + "\n")


def _check_features(table: deltalake.DeltaTable, path: LakePath) -> None:
    protocol = table.protocol()
    features = set(protocol.reader_features or ())
    if protocol.min_reader_version == _PLAIN_READER + 1:
        features.add("columnMapping")
    if (table.metadata().configuration or {}).get("delta.columnMapping.mode", "none") == "none":
        features.discard("columnMapping")
    if used := sorted(features & _CHANGE_ROWS):
        raise NotImplementedError(
            f"Delta table feature {', '.join(used)} ({path}) is not implemented by localazure's Spark"
        )


def _check_folder(name: str, column: str, value: Any, path: LakePath) -> None:
    """Spark reads a partition's value from the folder's name; the log has the last word."""
    folders = dict(part.split("=", 1) for part in name.split("/")[:-1] if "=" in part)
    shown = unquote(folders.get(column, ""))
    if column not in folders or (value is None) != (shown == _NULL_FOLDER):
        raise NotImplementedError(
            f"a Delta table whose folders aren't named after its partitions ({path}/{name}) is not implemented by"
            " localazure's Spark"
        )


def _spark_error(error: Exception, path: LakePath) -> PySparkException:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if isinstance(error, deltalake.exceptions.TableNotFoundError):
        return not_a_table(path)
    if isinstance(error, deltalake.exceptions.CommitFailedError):
        return ConcurrentModificationException(message=f"{path}: {text}")
    return AnalysisException(f"{path}: {text}")


def moment(text: str) -> str:
    """A `timestampAsOf` as RFC 3339: a date or a date and time, in UTC unless it says otherwise."""
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise AnalysisException(
            f"timestampAsOf is a date or a time such as 2026-01-31 12:00:00, not {text!r}."
        ) from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).isoformat()
