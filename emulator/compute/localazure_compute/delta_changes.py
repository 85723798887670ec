"""Changes of a Delta table: delete, update, merge and maintenance.

What a condition or an expression means, Spark works out: a change of rows reads the table, computes the new content and
writes it as one commit on the version that was read. So all files are rewritten, and the commit says what it was.
https://docs.delta.io/3.2.0/delta-update.html
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window, functions
from pyspark.sql.types import StructType

from localazure_compute import spark_delta
from localazure_compute.delta_folder import DeltaFolder, moment, spark_schema

_TARGET, _SOURCE, _ROW, _ACTION, _RANK = "__target", "__source", "__row", "__action", "__rank"
_DAY_HOURS = 24
_KEPT_HOURS = 7 * _DAY_HOURS

Condition = str | Column | None


@dataclass(frozen=True)
class Clause:
    """`rows`: matched, source (only there) or target (only there). `columns` None: all, by name."""

    rows: str
    action: str
    condition: Condition
    columns: Mapping[str, str | Column] | None


@dataclass(frozen=True)
class Merge:
    """A merge and its clauses."""

    folder: DeltaFolder
    alias: str
    source: DataFrame
    condition: str | Column
    clauses: tuple[Clause, ...] = ()

    def with_clause(self, clause: Clause) -> Merge:
        return replace(self, clauses=(*self.clauses, clause))


@dataclass(frozen=True)
class Snapshot:
    """What a change is worked out from: a version of a table."""

    folder: DeltaFolder
    version: int
    schema: StructType
    frame: DataFrame

    def rewrite(self, content: DataFrame, operation: str, condition: Condition, metrics: Mapping[str, int]) -> None:
        """Write the table's new content as one commit."""
        what = {
            "operation": operation,
            "operationParameters": {"predicate": "" if condition is None else str(condition)},
            "operationMetrics": {key: str(value) for key, value in metrics.items()},
        }
        spark_delta.save(self.folder, content, {"mode": "overwrite"}, what, self.version)


def snapshot(spark: SparkSession, folder: DeltaFolder) -> Snapshot:
    """The newest version."""
    table = folder.table()
    version = table.version()
    return Snapshot(folder, version, spark_schema(table), spark_delta.load(spark, folder, version))


def delete(spark: SparkSession, folder: DeltaFolder, alias: str, condition: Condition) -> None:
    """Delete rows; all without a condition."""
    known = snapshot(spark, folder)
    frame = _named(known.frame, alias)
    going = functions.lit(True) if condition is None else _true(condition)
    counts = frame.agg(functions.count(functions.when(going, 1)).alias("n"), functions.count("*").alias("all")).first()
    assert counts is not None
    if counts["n"]:
        metrics = {"numDeletedRows": counts["n"], "numCopiedRows": counts["all"] - counts["n"]}
        known.rewrite(frame.filter(~going), "DELETE", condition, metrics)


def update(
    spark: SparkSession, folder: DeltaFolder, alias: str, condition: Condition, values: Mapping[str, str | Column]
) -> None:
    """Set columns of rows."""
    known = snapshot(spark, folder)
    frame, schema = _named(known.frame, alias), known.schema
    changes = _by_column(values, schema, alias, folder)
    meant = functions.lit(True) if condition is None else _true(condition)
    count = frame.filter(meant).count()
    if not count:
        return
    columns = [
        functions.when(meant, changes[field.name].cast(field.dataType))
        .otherwise(functions.col(f"`{field.name}`"))
        .alias(field.name)
        if field.name in changes
        else functions.col(f"`{field.name}`")
        for field in schema.fields
    ]
    known.rewrite(frame.select(*columns), "UPDATE", condition, {"numUpdatedRows": count})


def merge(spark: SparkSession, call: Merge) -> None:
    """Carry a merge out. Raises AnalysisException, and PySparkException if two rows of the source would change the same
    row of the table.
    """
    if not call.clauses:
        raise AnalysisException("There must be at least one WHEN clause in a MERGE statement.")
    folder = call.folder
    known = snapshot(spark, folder)
    schema, target = known.schema, known.frame
    target = target.withColumn(_ROW, functions.monotonically_increasing_id()).withColumn(_TARGET, functions.lit(True))
    target = _named(target, call.alias)
    source = call.source.withColumn(_SOURCE, functions.lit(True))
    if alias := _alias_of(call.source):
        source = source.alias(alias)
    condition = functions.expr(call.condition) if isinstance(call.condition, str) else call.condition
    joined = target.join(source, condition, "full_outer")
    action = _action(call.clauses)
    old = {field.name: _column(field.name, call.alias, target) for field in schema.fields}
    given = {name.lower(): source[f"`{name}`"] for name in call.source.columns}
    outcome = [_outcome(field, action, call, old[field.name], given).alias(field.name) for field in schema.fields]
    rows = joined.select(*outcome, functions.col(_ROW), action.alias(_ACTION)).filter(
        functions.col(_ROW).isNotNull() | (functions.col(_ACTION) >= 0)
    )
    rows = rows.persist()
    try:
        counts = _counts(rows, call.clauses)
        # Of a row that several of the source's match, the one that changes it counts, else any.
        order = Window.partitionBy(_ROW).orderBy(functions.col(_ACTION).desc())
        ranked = rows.withColumn(_RANK, functions.row_number().over(order))
        deleting = [number for number, clause in enumerate(call.clauses) if clause.action == "delete"]
        kept = ranked.filter(functions.col(_ROW).isNull() | (functions.col(_RANK) == 1))
        kept = kept.filter(~functions.col(_ACTION).isin(deleting)) if deleting else kept
        if any(counts.values()):
            result = kept.select(*[functions.col(f"`{name}`") for name in schema.names])
            known.rewrite(result, "MERGE", call.condition, counts)
    finally:
        rows.unpersist()


def history(spark: SparkSession, folder: DeltaFolder, limit: int | None) -> DataFrame:
    """The commits, the newest first."""
    rows = []
    for entry in folder.table().history(limit):
        at = datetime.datetime.fromtimestamp(int(entry.get("timestamp", 0)) / 1000, datetime.UTC)
        parameters = {key: _text(value) for key, value in (entry.get("operationParameters") or {}).items()}
        metrics = {key: _text(value) for key, value in (entry.get("operationMetrics") or {}).items()}
        user, engine = entry.get("userMetadata"), entry.get("engineInfo") or entry.get("clientVersion")
        version = int(entry["version"])
        rows.append((version, at, entry.get("operation"), parameters, metrics, user, engine))
    schema = (
        "version long, timestamp timestamp, operation string, operationParameters map<string,string>,"
        " operationMetrics map<string,string>, userMetadata string, engineInfo string"
    )
    return spark.createDataFrame(rows, schema)


def detail(spark: SparkSession, folder: DeltaFolder) -> DataFrame:
    """The metadata, as one row."""
    import pyarrow as pa

    table = folder.table()
    metadata, protocol = table.metadata(), table.protocol()
    sizes = pa.table(table.get_add_actions()).column("size_bytes").to_pylist()
    row = (
        "delta", str(metadata.id), metadata.name, metadata.description, str(folder.path),
        list(metadata.partition_columns), len(sizes), sum(sizes), dict(metadata.configuration or {}),
        protocol.min_reader_version, protocol.min_writer_version,
    )  # fmt: skip
    schema = (
        "format string, id string, name string, description string, location string, partitionColumns array<string>,"
        " numFiles long, sizeInBytes long, properties map<string,string>, minReaderVersion int, minWriterVersion int"
    )
    return spark.createDataFrame([row], schema)


def vacuum(spark: SparkSession, folder: DeltaFolder, hours: float | None) -> None:
    """Delete files that no kept version needs."""
    check = str(spark.conf.get("spark.databricks.delta.retentionDurationCheck.enabled", "true")).lower() == "true"
    kept = _KEPT_HOURS if hours is None else hours
    if kept < _KEPT_HOURS and check:
        raise AnalysisException(
            f"Are you sure you would like to vacuum files with such a low retention period ({kept:g} hours)? Set"
            " spark.databricks.delta.retentionDurationCheck.enabled to false if you are."
        )
    table = folder.table(with_files=True)
    folder.commit(lambda: table.vacuum(retention_hours=int(kept), dry_run=False, enforce_retention_duration=False))


def optimize(spark: SparkSession, folder: DeltaFolder, columns: list[str]) -> DataFrame:
    """Make larger files of small ones, ordered by columns if there are some."""
    table = folder.table(with_files=True)
    metrics = folder.commit(lambda: table.optimize.z_order(columns) if columns else table.optimize.compact())
    return spark.createDataFrame([(str(folder.path), json.dumps(metrics))], "path string, metrics string")


def restore(spark: SparkSession, folder: DeltaFolder, version: int | str) -> DataFrame:
    """Make an earlier version the newest; the metrics as one row."""
    table = folder.table(with_files=True)
    target = version if isinstance(version, int) else moment(version)
    metrics = folder.commit(lambda: table.restore(target))
    return spark.createDataFrame([(json.dumps(metrics),)], "metrics string")


def _named(frame: DataFrame, alias: str) -> DataFrame:
    return frame.alias(alias) if alias else frame


def _true(condition: str | Column) -> Column:
    """The condition, with unknown as false."""
    column = functions.expr(condition) if isinstance(condition, str) else condition
    return functions.coalesce(column, functions.lit(False))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _alias_of(frame: DataFrame) -> str:
    """The name a DataFrame was given."""
    plan = frame._jdf.queryExecution().analyzed()
    return str(plan.identifier().name()) if plan.getClass().getSimpleName() == "SubqueryAlias" else ""


def _column(name: str, alias: str, target: DataFrame) -> Column:
    return functions.col(f"`{alias}`.`{name}`") if alias else target[f"`{name}`"]


def _by_column(
    values: Mapping[str, str | Column], schema: StructType, alias: str, folder: DeltaFolder
) -> dict[str, Column]:
    """The values by the schema's names. A key may have the table's alias in front."""
    known = {name.lower(): name for name in schema.names}
    found = {}
    for key, value in values.items():
        bare = key.removeprefix(f"{alias}.").strip("`").lower()
        if bare not in known:
            raise AnalysisException(f"{folder.path} has no column {key!r}.")
        found[known[bare]] = functions.expr(value) if isinstance(value, str) else value
    return found


def _action(clauses: tuple[Clause, ...]) -> Column:
    """The number of the clause that a joined row meets first; -1 for none."""
    here, there = functions.col(_TARGET).isNotNull(), functions.col(_SOURCE).isNotNull()
    rows = {"matched": here & there, "source": ~here & there, "target": here & ~there}

    def step(rest: Column, item: tuple[int, Clause]) -> Column:
        number, clause = item
        meets = rows[clause.rows]
        if clause.condition is not None:
            meets &= _true(clause.condition)
        return functions.when(meets, functions.lit(number)).otherwise(rest)

    return reduce(step, reversed(list(enumerate(clauses))), functions.lit(-1))


def _outcome(field: Any, action: Column, call: Merge, old: Column, given: Mapping[str, Column]) -> Column:
    """A column of the new content: by the clause that the row meets."""
    result = old
    schema = StructType([field])
    for number, clause in enumerate(call.clauses):
        if clause.action == "delete":
            continue
        if clause.columns is None:
            value = given.get(field.name.lower())
            if value is None and clause.action == "update":
                value = old
        else:
            mine = {
                key: each
                for key, each in clause.columns.items()
                if key.removeprefix(f"{call.alias}.").strip("`").lower() == field.name.lower()
            }
            value = next(iter(_by_column(mine, schema, call.alias, call.folder).values()), None)
            if value is None and clause.action == "update":
                value = old
        chosen = functions.lit(None) if value is None else value
        result = functions.when(action == number, chosen.cast(field.dataType)).otherwise(result)
    return result


def _counts(rows: DataFrame, clauses: tuple[Clause, ...]) -> dict[str, int]:
    """How many rows each action takes. Raises PySparkException for a row that several would change."""
    acted = rows.filter(functions.col(_ACTION) >= 0)
    unconditional = len(clauses) == 1 and clauses[0].action == "delete" and clauses[0].condition is None
    if not unconditional:
        twice = acted.filter(functions.col(_ROW).isNotNull()).groupBy(_ROW).count().filter("count > 1")
        if twice.limit(1).count():
            raise PySparkException(
                message="Cannot perform Merge as multiple source rows matched and attempted to modify the same target"
                " row in the Delta table in possibly conflicting ways."
            )
    grouped = acted.groupBy(_ACTION).agg(functions.count("*").alias("n")).collect()
    by_clause = {int(row[_ACTION]): int(row["n"]) for row in grouped}
    names = {"update": "numTargetRowsUpdated", "delete": "numTargetRowsDeleted", "insert": "numTargetRowsInserted"}
    found = dict.fromkeys(names.values(), 0)
    for number, clause in enumerate(clauses):
        found[names[clause.action]] += by_clause.get(number, 0)
    return found
