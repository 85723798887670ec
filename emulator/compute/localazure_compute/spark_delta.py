"""`format("delta")` of Spark's readers and writers, by delta-rs: Delta's own jars aren't in this Spark.

A read gives Spark the version's Parquet files and its schema; a write has Spark write Parquet and delta-rs make a
commit of it. What a condition (`replaceWhere`) means, Spark works out. Streaming, change feeds and everything that
isn't named here is refused. https://docs.delta.io/3.2.0/delta-batch.html
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import deltalake
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.readwriter import DataFrameReader, DataFrameWriter
from pyspark.sql.types import ByteType, DataType, IntegerType, LongType, ShortType, StructType

from localazure_compute import lake
from localazure_compute.delta_folder import DeltaFolder, moment, nullable, spark_schema
from localazure_compute.spark_lake import Mirror, refuse

_READ_OPTIONS = frozenset({"versionasof", "timestampasof", "path", "mergeschema"})
_WRITE_OPTIONS = frozenset({
    "mergeschema", "overwriteschema", "replacewhere", "partitionoverwritemode", "path", "userMetadata".lower(),
    "compression", "optimizewrite", "datachange", "maxrecordsperfile", "txnappid", "txnversion",
})  # fmt: skip
_REFUSED = frozenset({"readchangefeed", "readchangedata", "startingversion", "endingversion", "txnappid", "txnversion"})
_WIDER: dict[type[DataType], tuple[type[DataType], ...]] = {
    ByteType: (ShortType, IntegerType, LongType),
    ShortType: (IntegerType, LongType),
    IntegerType: (LongType,),
}


def load(spark: SparkSession, folder: DeltaFolder, version: int | str | None = None) -> DataFrame:
    """The table as a DataFrame, at its newest version or another one. Raises AnalysisException."""
    table = folder.table(version)
    schema = spark_schema(table)
    files = folder.files(table)
    if not files:
        return spark.createDataFrame([], schema)
    # Not the patched reader's work: plain local files.
    reader = DataFrameReader(spark).schema(schema).option("basePath", f"file:{folder.local}")
    return reader.parquet(*(f"file:{file}" for file in files)).select(
        [functions.col(f"`{name}`") for name in schema.names]
    )


def read(reader: DataFrameReader, path: str, mirror: Mirror) -> DataFrame:
    """`spark.read.format("delta").load(path)` with `versionAsOf` and `timestampAsOf`."""
    options = _options(reader, _READ_OPTIONS, "reading Delta")
    version: int | str | None = None
    if "versionasof" in options and "timestampasof" in options:
        raise AnalysisException("Give versionAsOf or timestampAsOf, not both.")
    if "versionasof" in options:
        version = int(options["versionasof"])
    if "timestampasof" in options:
        version = moment(str(options["timestampasof"]))
    return load(reader._spark, DeltaFolder(mirror, lake.parse(path)), version)


def write(writer: DataFrameWriter, path: str, mode: str, mirror: Mirror) -> None:
    """`df.write.format("delta").save(path)` with modes, partitionBy, mergeSchema, overwriteSchema, replaceWhere and
    dynamic partition overwrite. Raises AnalysisException, ConcurrentModificationException.
    """
    options = _options(writer, _WRITE_OPTIONS, "writing Delta")
    folder = DeltaFolder(mirror, lake.parse(path))
    exists = folder.exists
    if exists and mode == "ignore":
        return
    if exists and mode in ("error", "errorifexists"):
        error = AnalysisException(
            f"Cannot write to already existent path {folder.path} without setting OVERWRITE = 'true'."
        )
        error.error_class = "DELTA_PATH_EXISTS"
        raise error
    if not exists and mirror.lake.exists(folder.path):
        raise AnalysisException(
            f"Cannot create table at {folder.path}: the location isn't empty and isn't a Delta table."
        )
    frame: DataFrame = writer._df
    partitions = list(getattr(writer, "_lake_partitions", None) or ())
    how: dict[str, Any] = {"mode": "overwrite" if mode == "overwrite" else "append"}
    if user := options.get("usermetadata"):
        how["commit_properties"] = deltalake.CommitProperties(custom_metadata={"userMetadata": str(user)})
    if not exists:
        save(folder, frame, {**how, "partition_by": partitions or None})
        return
    table = folder.table()
    known = table.metadata().partition_columns
    changes_schema = _is_true(options.get("overwriteschema")) and mode == "overwrite"
    if partitions and partitions != known and not changes_schema:
        raise AnalysisException(f"Partition columns do not match those of {folder.path}: {partitions} and {known}.")
    if changes_schema:
        save(folder, frame, {**how, "schema_mode": "overwrite", "partition_by": partitions})
        return
    merges = _is_true(options.get("mergeschema"))
    frame = conformed(frame, spark_schema(table), folder, merges)
    if merges:
        how["schema_mode"] = "merge"
    condition = options.get("replacewhere")
    is_dynamic = str(options.get("partitionoverwritemode") or _dynamic(writer)).lower() == "dynamic"
    if mode == "overwrite" and condition:
        _replace_where(folder, frame, str(condition), how)
    elif mode == "overwrite" and is_dynamic and known:
        chosen = frame.select(*[functions.col(f"`{name}`") for name in known]).distinct().collect()
        if chosen:
            save(folder, frame, {**how, "predicate": _any_of(known, chosen)})
    else:
        save(folder, frame, how)


def save(
    folder: DeltaFolder,
    frame: DataFrame,
    how: Mapping[str, Any],
    operation: Mapping[str, Any] | None = None,
    read_version: int | None = None,
) -> None:
    """Write a frame as one commit; `operation` and `read_version` as in `DeltaFolder.commit`."""
    staged = folder.mirror.staging()
    try:
        DataFrameWriter(frame).mode("overwrite").save(f"file:{staged}", format="parquet")
        folder.write(frame.schema, staged, how, operation, read_version)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def conformed(frame: DataFrame, schema: StructType, folder: DeltaFolder, merges: bool) -> DataFrame:
    """The frame with the table's columns. Raises AnalysisException for columns that don't belong there."""
    given = {name.lower(): name for name in frame.columns}
    there = {field.name.lower() for field in schema.fields}
    extra = [name for name in frame.columns if name.lower() not in there]
    if extra and not merges:
        error = AnalysisException(
            f"A schema mismatch detected when writing to the Delta table {folder.path}: it has no column"
            f" {', '.join(extra)}. To enable schema migration, set the option mergeSchema to true."
        )
        error.error_class = "DELTA_SCHEMA_MISMATCH"
        raise error
    columns = []
    for field in schema.fields:
        name = given.get(field.name.lower())
        if name is None:
            columns.append(functions.lit(None).cast(field.dataType).alias(field.name))
            continue
        kind = frame.schema[name].dataType
        same = nullable(StructType().add("_", kind)) == nullable(StructType().add("_", field.dataType))
        if not same and type(field.dataType) not in _WIDER.get(type(kind), ()):
            error = AnalysisException(
                f"Failed to merge fields '{field.name}' and '{name}' of the Delta table {folder.path}: it has"
                f" {field.dataType.simpleString()}, the DataFrame {kind.simpleString()}."
            )
            error.error_class = "DELTA_FAILED_TO_MERGE_FIELDS"
            raise error
        columns.append(functions.col(f"`{name}`").cast(field.dataType).alias(field.name))
    return frame.select(*columns, *[functions.col(f"`{name}`") for name in extra])


def _replace_where(folder: DeltaFolder, frame: DataFrame, condition: str, how: Mapping[str, Any]) -> None:
    """Rows that meet the condition go, the frame's come; those must meet it as well."""
    astray = frame.filter(~functions.coalesce(functions.expr(condition), functions.lit(False)))
    if wrong := astray.limit(1).collect():
        error = AnalysisException(
            f"Written data does not conform with partial table overwrite condition or constraint '{condition}':"
            f" {wrong[0].asDict()}."
        )
        error.error_class = "DELTA_REPLACE_WHERE_MISMATCH"
        raise error
    table = folder.table()
    partitions, version = table.metadata().partition_columns, table.version()
    whole = load(frame.sparkSession, folder, version)
    columns = [functions.col(f"`{name}`") for name in partitions]
    if partitions:
        there = whole.select(*columns).distinct()
        # Rows of their own: of a query's, Spark would find columns that were left out as well.
        alone = frame.sparkSession.createDataFrame(there.collect(), there.schema)
        try:
            chosen = alone.filter(functions.expr(condition)).union(frame.select(*columns)).distinct().collect()
        except AnalysisException:
            pass  # the condition is about other columns as well
        else:
            if chosen:
                save(folder, frame, {**how, "predicate": _any_of(partitions, chosen)}, read_version=version)
            return
    kept = whole.filter(~functions.coalesce(functions.expr(condition), functions.lit(False)))
    save(folder, kept.unionByName(frame, allowMissingColumns=True), how, read_version=version)


def _any_of(names: list[str], rows: list[Any]) -> str:
    """The rows' partitions as a condition of delta-rs (DataFusion's SQL): equalities only, so that nothing is left to
    its idea of an expression.
    """
    return " OR ".join("(" + " AND ".join(_equals(name, row[name]) for name in names) + ")" for row in rows)


def _equals(name: str, value: Any) -> str:
    column = '"' + name.replace('"', '""') + '"'
    if value is None:
        return f"{column} IS NULL"
    if isinstance(value, bool):
        return f"{column} = {'true' if value else 'false'}"
    if isinstance(value, int | float):
        return f"{column} = {value!r}"
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"{column} = '{text.replace(chr(39), chr(39) * 2)}'"


def _options(source: Any, known: frozenset[str], what: str) -> dict[str, Any]:
    options = {key.lower(): value for key, value in getattr(source, "_lake_options", {}).items()}
    for key in options:
        if key in _REFUSED or key not in known:
            raise refuse(f"the option {key!r} of {what}")
    return options


def _is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def _dynamic(writer: DataFrameWriter) -> str:
    return str(writer._spark.conf.get("spark.sql.sources.partitionOverwriteMode", "static"))
