"""`synapsesql`: Spark's road to the dedicated SQL pool and back, by way of Parquet files in the lake.

As Azure's connector does it, over TDS: a read is a CETAS into a staging folder, which Spark then reads; a write is
Parquet in a staging folder, then `COPY INTO` a new table that takes the name at the end, or into the one to append to;
an external table's files are written where it lies. The process's Entra token is the log-in, unless a SQL user is
given. https://learn.microsoft.com/azure/synapse-analytics/spark/synapse-spark-sql-pool-import-export
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql.readwriter import DataFrameReader, DataFrameWriter
from pyspark.sql.types import StructField, StructType

from com.microsoft.spark.sqlanalytics.Constants import Constants
from localazure_compute import lake, synapsesql_types
from localazure_compute.spark_lake import Mirror
from localazure_compute.sql_pool import SQLAnalyticsConnectorException as ConnectorError
from localazure_compute.sql_pool import SqlPool, quoted
from localazure_compute.synapsesql_pushdown import Filter, condition
from localazure_compute.synapsesql_relation import relation

_PREFIX = "sqlanalytics."
_DATABASE_CONF = "spark.sqlanalyticsconnector.dw.database"
_PARTS = re.compile(r"\s*(?:\[((?:[^\]]|\]\])+)\]|`([^`]+)`|([^.\[\]`\s]+))\s*(?:\.|$)")
_QUERY = re.compile(r"^\s*(?:--[^\n]*\n\s*)*(?:select|with)\b", re.IGNORECASE)
_THREE = 3
#: All external tables written by Spark share one.
_FORMAT = "SparkConnectorFormat"
_MODES = ("error", "errorifexists", "append", "overwrite", "ignore")


@dataclass(frozen=True)
class Request:
    """A call's options, checked. `query` or `schema` and `table`."""

    database: str
    schema: str
    table: str
    query: str
    server: str | None
    user: str | None
    password: str | None
    temp_folder: lake.LakePath
    data_source: str | None

    @property
    def name(self) -> str:
        """What it is about, for a message."""
        return f"{self.database}.{self.schema}.{self.table}" if self.table else "the query"

    @property
    def object(self) -> str:
        """The table in T-SQL."""
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    def pool(self) -> SqlPool:
        """A new connection."""
        return SqlPool(self.server, self.database, self.user, self.password)


def install(mirror: Mirror) -> None:
    """Give PySpark's readers and writers `synapsesql`. After `spark_lake.install`, whose `option` it wraps."""
    for cls in (DataFrameReader, DataFrameWriter):
        cls.option = _recording(cls.option)  # type: ignore[method-assign]

    def read(self: DataFrameReader, table_name: str = "") -> DataFrame:
        """A table, view or query of the dedicated SQL pool: `<database>.<schema>.<table>`, or a SELECT."""
        return _read(self, table_name, mirror)

    def write(
        self: DataFrameWriter, table_name: str, table_type: str = Constants.INTERNAL, location: str | None = None
    ) -> None:
        """Write to `<database>.<schema>.<table>` of the dedicated SQL pool."""
        _write(self, table_name, table_type, location, mirror)

    DataFrameReader.synapsesql = read
    DataFrameWriter.synapsesql = write


def _recording(original: Any) -> Any:
    """Options of the connector stay in Python: plans and logs show Spark's, and there is a password among these."""

    def option(self: Any, key: str, value: Any) -> Any:
        if not key.startswith(_PREFIX):
            return original(self, key, value)
        self._synapse_options = {**getattr(self, "_synapse_options", {}), key: value}
        return self

    return option


# Reading.
def _read(reader: DataFrameReader, table_name: str, mirror: Mirror) -> DataFrame:
    request = _request(reader, table_name, reader._spark, is_read=True)
    source = request.query or f"SELECT * FROM {request.object}"
    with request.pool() as pool:
        columns = pool.columns(source, f"Reading {request.name}")
    if unnamed := [number for number, column in enumerate(columns, 1) if not column.name]:
        raise ConnectorError(f"Reading {request.name}: column {unnamed[0]} has no name; give it one.")
    known = {column.name: column for column in columns}
    # A filter on what is converted for Spark would be about another type.
    types = {name: column.base for name, column in known.items() if not synapsesql_types.is_converted(column)}
    schema = StructType([StructField(column.name, synapsesql_types.spark_type(column)) for column in columns])
    may_push = not request.query
    moments_agree = reader._spark.conf.get("spark.sql.session.timeZone") in ("UTC", "Etc/UTC", "GMT", "Z")
    if not moments_agree:
        types = {name: kind for name, kind in types.items() if not kind.startswith(("datetime", "smalldatetime"))}

    def unload(names: list[str], filters: list[Filter]) -> Path:
        if request.query:
            names = list(known)
        chosen = [synapsesql_types.unloaded(known[name], quoted(name)) for name in names] or ["CAST(1 AS bit) AS [_]"]
        conditions = [text for each in filters if (text := condition(each, types, quoted))]
        is_plain = bool(request.query) and not any(map(synapsesql_types.is_converted, columns))
        origin = f"({request.query}) AS [_query]" if request.query else request.object
        select = f"SELECT {', '.join(chosen)} FROM {origin}"
        if conditions:
            select += f" WHERE {' AND '.join(conditions)}"
        return _unloaded(request, request.query if is_plain else select, mirror)

    def can_push(found: Filter) -> bool:
        return may_push and condition(found, types, quoted) is not None

    return relation(reader._spark, f"synapsesql {request.name}", schema, unload, can_push)


def _unloaded(request: Request, select: str, mirror: Mirror) -> Path:
    """CETAS, then the files on local disk; nothing of it stays in the lake or in the pool."""
    local = mirror.staging()
    local.mkdir()
    with request.pool() as pool, _external(pool, request) as (source, format, root):
        name, target = f"SparkConnector_{uuid.uuid4().hex}", root.child(uuid.uuid4().hex + ".tbl")
        folder = target.path.removeprefix(root.path) if root.path else f"/{target.path}"
        try:
            place = f"LOCATION = '{folder}', DATA_SOURCE = {quoted(source)}, FILE_FORMAT = {quoted(format)}"
            pool.run(
                f"CREATE EXTERNAL TABLE [dbo].{quoted(name)} WITH ({place}) AS {select}",
                f"Reading {request.name}",
            )
            pool.run(f"DROP EXTERNAL TABLE [dbo].{quoted(name)}", f"Reading {request.name}")
            files = [target.at(entry.path) for entry in mirror.lake.entries(target) if not entry.is_folder_marker]
            mirror.lake.each(mirror.lake.download, [(file, local / file.name) for file in files])
        finally:
            mirror.lake.delete_tree(target)
    return local


@contextmanager
def _external(pool: SqlPool, request: Request) -> Iterator[tuple[str, str, lake.LakePath]]:
    """An external data source (the given one, or one for this moment), a Parquet format, and where the source is."""
    mark = uuid.uuid4().hex
    format, source = f"SparkConnectorFormat_{mark}", request.data_source or f"SparkConnectorSource_{mark}"
    what = f"Staging for {request.name}"
    root = _location_of(pool, request.data_source) if request.data_source else request.temp_folder
    if not request.data_source:
        pool.run(
            f"CREATE EXTERNAL DATA SOURCE {quoted(source)} WITH (TYPE = HADOOP, LOCATION = '{str(root).rstrip('/')}')",
            what,
        )
    try:
        pool.run(f"CREATE EXTERNAL FILE FORMAT {quoted(format)} WITH (FORMAT_TYPE = PARQUET)", what)
        try:
            yield source, format, root
        finally:
            pool.run(f"DROP EXTERNAL FILE FORMAT {quoted(format)}", what)
    finally:
        if not request.data_source:
            pool.run(f"DROP EXTERNAL DATA SOURCE {quoted(source)}", what)


def _location_of(pool: SqlPool, data_source: str) -> lake.LakePath:
    name = data_source.replace("'", "''")
    rows = pool.run(f"SELECT location FROM sys.external_data_sources WHERE name = N'{name}'", "The pool's data sources")
    if not rows:
        raise ConnectorError(f"The external data source {data_source!r} isn't in the pool {pool.database!r}.")
    return lake.parse(str(rows[0][0]).rstrip("/"))


# Writing.
@dataclass(frozen=True)
class Writing:
    """A call to write: what, where, how, and what is there: None, `U` (a table), `E` (an external one)."""

    request: Request
    frame: DataFrame
    mode: str
    known: str | None
    mirror: Mirror

    @property
    def what(self) -> str:
        """For a message."""
        return f"Writing {self.request.name}"

    @property
    def appends(self) -> bool:
        """Whether rows are added to a table that is there."""
        return self.known is not None and self.mode == "append"


def _write(writer: DataFrameWriter, table_name: str, table_type: str, location: str | None, mirror: Mirror) -> None:
    frame: DataFrame = writer._df
    request = _request(writer, table_name, frame.sparkSession, is_read=False)
    kind = table_type.lower()
    if kind not in (Constants.INTERNAL, Constants.EXTERNAL):
        raise ConnectorError(f"The table type is Constants.INTERNAL or Constants.EXTERNAL, not {kind!r}.")
    if kind == Constants.INTERNAL and location is not None:
        raise ConnectorError("A location is an external table's; an internal table has none.")
    if kind == Constants.EXTERNAL and not request.data_source:
        raise ConnectorError("Constants.DATA_SOURCE is required to write to an external table.")
    mode = (getattr(writer, "_lake_mode", None) or "errorifexists").lower()
    if mode not in _MODES:
        raise ConnectorError(f"The save mode is one of {', '.join(_MODES)}, not {mode!r}.")
    if getattr(writer, "_lake_partitions", None):
        raise ConnectorError("partitionBy means nothing to synapsesql: leave it out.")
    synapsesql_types.check(frame.schema, f"Writing {request.name}")
    with request.pool() as pool:
        known = pool.kind(request.schema, request.table)
        if known == "V":
            raise ConnectorError(f"Writing {request.name}: it is a view.")
        if known and mode == "ignore":
            return
        if known and mode in ("error", "errorifexists"):
            raise ConnectorError(f"Writing {request.name}: the table exists already and the save mode is {mode}.")
        writing = Writing(request, frame, mode, known, mirror)
        if kind == Constants.EXTERNAL:
            _write_external(pool, writing, location)
        else:
            _write_internal(pool, writing)


def _write_internal(pool: SqlPool, writing: Writing) -> None:
    """COPY INTO a new table, which takes the name at the end, or into the one to append to."""
    request, what, lake_ = writing.request, writing.what, writing.mirror.lake
    if writing.appends and writing.known == "E":
        raise ConnectorError(f"{what}: it is an external table; append with Constants.EXTERNAL.")
    frame = _fitting(pool, writing)
    target = request.temp_folder.child(uuid.uuid4().hex + ".tbl")
    name = request.table if writing.appends else f"{request.table[:80]}_{uuid.uuid4().hex}"
    table = f"{quoted(request.schema)}.{quoted(name)}"
    try:
        staged = _staged(frame, writing.mirror)
        try:
            if not writing.appends:
                definition, storage = synapsesql_types.definition(frame.schema, staged, quoted)
                pool.run(f"CREATE TABLE {table} ({definition}) WITH (DISTRIBUTION = ROUND_ROBIN, {storage})", what)
            is_empty = not any(staged.glob("*.parquet"))
            writing.mirror.publish(staged, target, overwrite=False, dynamic=False)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        if not is_empty:
            url = f"https://{target.account}.dfs.core.windows.net/{target.container}/{target.path}/*.parquet"
            pool.run(f"COPY INTO {table} FROM '{url}' WITH (FILE_TYPE = 'PARQUET')", what)
        if not writing.appends:
            if writing.known:
                pool.run(f"DROP {'EXTERNAL ' if writing.known == 'E' else ''}TABLE {request.object}", what)
            pool.run(f"RENAME OBJECT {table} TO {quoted(request.table)}", what)
    except BaseException:
        if not writing.appends and pool.kind(request.schema, name):
            pool.run(f"DROP TABLE {table}", what)
        raise
    finally:
        lake_.delete_tree(target)


def _write_external(pool: SqlPool, writing: Writing, location: str | None) -> None:
    """Parquet where the external table lies, and its definition."""
    request, what = writing.request, writing.what
    if writing.known == "U":
        raise ConnectorError(f"{what}: it is an internal table; write with Constants.INTERNAL.")
    source = str(request.data_source)
    folder = (location or f"{request.database}/{request.schema}/{request.table}").strip("/")
    frame = _fitting(pool, writing)
    staged = _staged(frame, writing.mirror)
    overwrites = writing.mode == "overwrite"
    try:
        target = _location_of(pool, source).child(folder)
        definition, _storage = synapsesql_types.definition(frame.schema, staged, quoted)
        (staged / "_SUCCESS").unlink(missing_ok=True)
        if writing.known and overwrites:
            pool.run(f"DROP EXTERNAL TABLE {request.object}", what)
        writing.mirror.publish(staged, target, overwrite=overwrites, dynamic=False)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    if writing.appends:
        return
    if not pool.run(f"SELECT 1 FROM sys.external_file_formats WHERE name = '{_FORMAT}'", what):
        pool.run(f"CREATE EXTERNAL FILE FORMAT {_FORMAT} WITH (FORMAT_TYPE = PARQUET)", what)
    pool.run(
        f"CREATE EXTERNAL TABLE {request.object} ({definition})"
        f" WITH (LOCATION = '/{folder}', DATA_SOURCE = {quoted(source)}, FILE_FORMAT = {_FORMAT})",
        what,
    )


def _staged(frame: DataFrame, mirror: Mirror) -> Path:
    """The frame as Parquet in a local folder, its moments as the pool keeps them: without a time zone."""
    staged = mirror.staging()
    # Not the patched `parquet`: a plain folder, not one of the lake.
    DataFrameWriter(synapsesql_types.for_pool(frame)).mode("overwrite").save(f"file:{staged}", format="parquet")
    return staged


def _fitting(pool: SqlPool, writing: Writing) -> DataFrame:
    """The frame; to append, with the table's columns in their order."""
    frame, what = writing.frame, writing.what
    if not writing.appends:
        return frame
    columns = pool.columns(f"SELECT * FROM {writing.request.object}", what)
    given = {name.lower(): name for name in frame.columns}
    there = {column.name.lower() for column in columns}
    if unknown := [name for name in frame.columns if name.lower() not in there]:
        raise ConnectorError(f"{what}: the table has no column {', '.join(map(repr, unknown))}.")
    if missing := [column.name for column in columns if column.name.lower() not in given]:
        raise ConnectorError(f"{what}: the DataFrame has no column {', '.join(map(repr, missing))}.")
    return frame.select([frame[f"`{given[column.name.lower()]}`"].alias(column.name) for column in columns])


# Options.
def _request(source: Any, table_name: str, spark: Any, *, is_read: bool) -> Request:
    options: Mapping[str, Any] = getattr(source, "_synapse_options", {})
    query = str(options.get(Constants.QUERY) or "")
    if _QUERY.match(table_name) and is_read:
        if query:
            raise ConnectorError("Two queries are given: Constants.QUERY and the argument.")
        query, table_name = table_name, ""
    if query and table_name:
        raise ConnectorError("Table name and query can't be specified at the same time.")
    if query and not _QUERY.match(query):
        raise ConnectorError("Only SELECT queries can be read.")
    if not is_read and query:
        raise ConnectorError("Constants.QUERY is for reading.")
    schema = table = ""
    database = str(options.get(Constants.DATABASE) or spark.conf.get(_DATABASE_CONF, None) or "")
    if query and not database:
        raise ConnectorError(
            f"A query needs its database: Constants.DATABASE or the Spark configuration {_DATABASE_CONF}."
        )
    if not query:
        database, schema, table = _parts(table_name)
    user, password = options.get(Constants.USER), options.get(Constants.PASSWORD)
    if (user is None) != (password is None):
        raise ConnectorError("Constants.USER and Constants.PASSWORD belong together.")
    folder = options.get(Constants.TEMP_FOLDER)
    return Request(
        database=database,
        schema=schema,
        table=table,
        query=query.strip().rstrip(";"),
        server=options.get(Constants.SERVER),
        user=user,
        password=password,
        temp_folder=lake.parse(str(folder).rstrip("/")) if folder else _default_folder(spark),
        data_source=options.get(Constants.DATA_SOURCE),
    )


def _parts(name: str) -> tuple[str, str, str]:
    """`db.schema.table`, each part bare, in brackets or in back quotes."""
    parts: list[str] = []
    position = 0
    while position < len(name):
        match = _PARTS.match(name, position)
        if match is None:
            break
        parts.append((match[1] or "").replace("]]", "]") or match[2] or match[3])
        position = match.end()
    if position != len(name) or len(parts) != _THREE or name.rstrip().endswith("."):
        raise ConnectorError(f"A table is named <database>.<schema>.<table> to synapsesql, not {name!r}.")
    return parts[0], parts[1], parts[2]


def _default_folder(spark: Any) -> lake.LakePath:
    """The pool's own folder in the workspace's lake, as on Azure."""
    names = ("LOCALAZURE_LAKE_CONTAINER", "LOCALAZURE_LAKE_ACCOUNT", "LOCALAZURE_WORKSPACE", "LOCALAZURE_SPARK_POOL")
    container, account, workspace, pool = (os.environ.get(name, "") for name in names)
    if not container or not account:
        raise ConnectorError("There is no default staging folder here: set Constants.TEMP_FOLDER.")
    path = f"synapse/workspaces/{workspace}/sparkpools/{pool}/tempdata/SQLAnalyticsConnectorStaging"
    root = lake.LakePath(container, account, "dfs.core.windows.net", path)
    return root.child(str(spark.sparkContext.applicationId))
