"""Tables by name in PySpark: `spark.sql`, `saveAsTable`, `insertInto`, `spark.catalog.createTable`.

Spark itself does the work for its own formats, on the workspace's catalogue (`spark_catalogue`). Statements about Delta
tables are taken over: Spark's own parser reads them, and delta-rs makes the commit (`spark_delta`).
https://docs.delta.io/3.2.0/delta-batch.html
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.catalog import Catalog
from pyspark.sql.readwriter import DataFrameWriter
from pyspark.sql.types import StructType

from localazure_compute import lake, mounts, spark_catalogue
from localazure_compute.lake_catalogue import Document
from localazure_compute.spark_catalogue import DELTA, WorkspaceCatalog
from localazure_compute.spark_lake import Mirror, refuse

#: Logical plans about what a table is, not about its rows.
_DESCRIBING = frozenset({
    "DescribeRelation", "DescribeColumn", "ShowCreateTable", "ShowTableProperties", "ShowColumns", "DropTable",
    "RenameTable", "AddColumns", "ReplaceColumns", "DropColumns", "RenameColumn", "AlterColumn", "SetTableProperties",
    "UnsetTableProperties", "SetTableLocation", "CommentOnTable", "DropView",
})  # fmt: skip
_CATALOG_NAME = "spark_catalog"
_THREE = 3


@dataclass(frozen=True)
class Name:
    """A table of the catalogue; `document` is None if it isn't there."""

    catalog: WorkspaceCatalog
    database: str
    table: str
    document: Document | None

    def __str__(self) -> str:
        return f"{self.database}.{self.table}"

    @property
    def is_delta(self) -> bool:
        return self.document is not None and self.document["provider"] == DELTA

    @property
    def location(self) -> str:
        """Where the table lies; if it isn't there yet, where a managed one will."""
        if self.document is not None:
            return str(self.document["location"])
        return f"{self.catalog.location_of(self.database)}/{self.table}"


@dataclass(frozen=True)
class Definition:
    """A Delta table to be made. `frame` are its rows, `location` an external one's."""

    frame: DataFrame
    partitions: list[str]
    location: str = ""
    comment: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def install(mirror: Mirror) -> None:
    """Change PySpark's classes for this process."""
    SparkSession.sql = _sql(SparkSession.sql, mirror)
    DataFrameWriter.saveAsTable = _save_as_table(DataFrameWriter.saveAsTable, mirror)
    DataFrameWriter.insertInto = _insert_into(DataFrameWriter.insertInto)
    Catalog.createTable = _create_table(Catalog.createTable, mirror)


def named(spark: SparkSession, text: str) -> Name:
    """The table of a name such as `db.table`. Raises ParseException, AnalysisException."""
    return _named(spark, _list(spark._jsparkSession.sessionState().sqlParser().parseMultipartIdentifier(text)))


def _named(spark: SparkSession, parts: list[str]) -> Name:
    if len(parts) == _THREE and parts[0].lower() == _CATALOG_NAME:
        parts = parts[1:]
    if len(parts) > _THREE - 1:
        raise AnalysisException(f"There is no catalog {parts[0]!r}; the workspace's is {_CATALOG_NAME}.")
    database, table = (
        part.lower() for part in (parts if len(parts) > 1 else [spark.catalog.currentDatabase(), *parts])
    )
    catalog = spark_catalogue.current()
    return Name(catalog, database, table, catalog.definition(database, table))


# ---- spark.sql --------


def _sql(original: Callable[..., DataFrame], mirror: Mirror) -> Callable[..., DataFrame]:
    handlers: dict[str, Callable[[SparkSession, Any, Mirror], DataFrame | None]] = {
        "InsertIntoStatement": _insert,
        "UnresolvedWith": _insert_with,
        "CreateTable": _create,
        "CreateTableAsSelect": _create,
        "ReplaceTable": _replace,
        "ReplaceTableAsSelect": _replace,
        "DeleteFromTable": _delete,
        "UpdateTable": _update,
        "MergeIntoTable": _merge,
        "TruncateTable": _truncate,
        "RepairTable": _repair,
        "RecoverPartitions": _repair,
    }

    @functools.wraps(original)
    def sql(self: SparkSession, sqlQuery: str, *args: Any, **named_: Any) -> DataFrame:
        if args or named_ or not spark_catalogue.is_attached():
            return original(self, sqlQuery, *args, **named_)
        for address in lake.addresses(sqlQuery):
            spark_catalogue.current().mount(address.container)
        try:
            plan = self._jsparkSession.sessionState().sqlParser().parsePlan(sqlQuery)
        except ParseException:
            return original(self, sqlQuery)
        kind = plan.getClass().getSimpleName()
        if kind in handlers and (answer := handlers[kind](self, plan, mirror)) is not None:
            return answer
        if kind in _DESCRIBING:
            with spark_catalogue.current().described():
                return original(self, sqlQuery)
        return original(self, sqlQuery)

    return sql


def _insert(spark: SparkSession, plan: Any, mirror: Mirror, query: Any = None) -> DataFrame | None:
    """INSERT INTO and INSERT OVERWRITE of a Delta table."""
    target = _target(spark, plan.table())
    if target is None or not target.is_delta:
        return None
    if plan.ifPartitionNotExists():
        raise refuse("INSERT OVERWRITE ... IF NOT EXISTS of a Delta table")
    frame = _frame(spark, query or plan.query())
    schema = _schema(mirror, target)
    fixed = {key.lower(): value for key, value in _fixed_partitions(spark, plan.partitionSpec()).items()}
    columns = _list(plan.userSpecifiedCols()) or [name for name in schema.names if name.lower() not in fixed]
    if not plan.byName():
        if len(columns) != len(frame.columns):
            error = AnalysisException(
                f"Cannot write to `{target}`: it takes {len(columns)} column(s) ({', '.join(columns)}), the data has"
                f" {len(frame.columns)}."
            )
            error.error_class = "INSERT_COLUMN_ARITY_MISMATCH"
            raise error
        frame = frame.toDF(*columns)
    for key, value in fixed.items():
        frame = frame.withColumn(key, functions.lit(value))
    writer = (
        _stored(frame, schema, target, fixed).write.format(DELTA).mode("overwrite" if plan.overwrite() else "append")
    )
    if plan.overwrite() and fixed:
        conditions = [f"`{key}` = '{str(value).replace(chr(39), chr(92) + chr(39))}'" for key, value in fixed.items()]
        writer = writer.option("replaceWhere", " AND ".join(conditions))
    writer.save(target.location)
    return _nothing(spark)


def _insert_with(spark: SparkSession, plan: Any, mirror: Mirror) -> DataFrame | None:
    """WITH ... INSERT INTO ..."""
    child = plan.child()
    if child.getClass().getSimpleName() != "InsertIntoStatement":
        return None
    logical = spark._jvm.org.apache.spark.sql.catalyst.plans.logical
    return _insert(spark, child, mirror, logical.UnresolvedWith(child.query(), plan.cteRelations()))


def _create(spark: SparkSession, plan: Any, mirror: Mirror) -> DataFrame | None:
    """CREATE TABLE ... USING delta [AS SELECT ...]."""
    location = plan.tableSpec().location()
    if location.isDefined():
        # Spark would look on the local disk first.
        spark_catalogue.checked(location.get())
    if not _is_delta(plan):
        return None
    target = _named(spark, _list(plan.name().nameParts()))
    if target.document is not None:
        if plan.ignoreIfExists():
            return _nothing(spark)
        raise _is_there(target)
    _make(target, _definition(spark, plan), "error", mirror, takes_what_is_there=not _has_query(plan))
    return _nothing(spark)


def _replace(spark: SparkSession, plan: Any, mirror: Mirror) -> DataFrame | None:
    """[CREATE OR] REPLACE TABLE ... USING delta [AS SELECT ...]."""
    if not _is_delta(plan):
        return None
    target = _named(spark, _list(plan.name().nameParts()))
    if target.document is None and not plan.orCreate():
        error = AnalysisException(f"The table or view `{target}` cannot be found.")
        error.error_class = "TABLE_OR_VIEW_NOT_FOUND"
        raise error
    if target.document is not None and not target.is_delta:
        raise refuse(f"REPLACE TABLE of a table that isn't Delta's ({target})", "drop it first")
    _make(target, _definition(spark, plan), "overwrite", mirror)
    return _nothing(spark)


def _delete(spark: SparkSession, plan: Any, mirror: Mirror) -> DataFrame | None:
    """DELETE FROM a Delta table."""
    target = _target(spark, plan.table())
    if target is None or not target.is_delta:
        return None
    from delta.tables import DeltaTable

    condition = plan.condition().sql()
    DeltaTable.forPath(spark, target.location).delete(None if condition == "true" else condition)
    return _nothing(spark)


def _update(spark: SparkSession, plan: Any, mirror: Mirror) -> DataFrame | None:
    """UPDATE of a Delta table."""
    target = _target(spark, plan.table())
    if target is None or not target.is_delta:
        return None
    from delta.tables import DeltaTable

    changes = {
        _list(each.key().nameParts())[-1]: functions.expr(each.value().sql()) for each in _list(plan.assignments())
    }
    condition = plan.condition()
    DeltaTable.forPath(spark, target.location).update(condition.get().sql() if condition.isDefined() else None, changes)
    return _nothing(spark)


def _truncate(spark: SparkSession, plan: Any, mirror: Mirror) -> DataFrame | None:
    """TRUNCATE TABLE of a Delta table."""
    target = _named(spark, _list(plan.table().multipartIdentifier()))
    if not target.is_delta:
        return None
    from delta.tables import DeltaTable

    DeltaTable.forPath(spark, target.location).delete()
    return _nothing(spark)


def _repair(spark: SparkSession, plan: Any, mirror: Mirror) -> DataFrame | None:
    """MSCK REPAIR TABLE: partitions are found by their folders, at every look."""
    spark.table(".".join(f"`{part}`" for part in _list(plan.child().multipartIdentifier())))
    return _nothing(spark)


def _merge(spark: SparkSession, plan: Any, mirror: Mirror) -> DataFrame | None:
    target = _target(spark, plan.targetTable())
    if target is None or not target.is_delta:
        return None
    raise refuse("MERGE in Spark SQL", f"use DeltaTable.forName(spark, '{target}').merge(...)")


def _target(spark: SparkSession, relation: Any) -> Name | None:
    """The table that a statement changes; None if it isn't named so."""
    while relation.getClass().getSimpleName() == "SubqueryAlias":
        relation = relation.child()
    if not hasattr(relation, "multipartIdentifier"):
        return None
    parts = _list(relation.multipartIdentifier())
    if len(parts) > _THREE or (len(parts) == _THREE and parts[0].lower() != _CATALOG_NAME):
        return None
    return _named(spark, parts)


def _is_delta(plan: Any) -> bool:
    provider = plan.tableSpec().provider()
    return bool(provider.isDefined() and provider.get().lower() == DELTA)


def _has_query(plan: Any) -> bool:
    """Whether the statement says AS SELECT."""
    return str(plan.getClass().getSimpleName()).endswith("AsSelect")


def _definition(spark: SparkSession, plan: Any) -> Definition:
    spec = plan.tableSpec()
    if _has_query(plan):
        frame = _frame(spark, plan.query())
    else:
        frame = spark.createDataFrame([], StructType.fromJson(_json(plan.tableSchema())))
    partitions = []
    for each in _list(plan.partitioning()):
        if each.name() != "identity":
            raise refuse(f"PARTITIONED BY {each.describe()}", "a partition is a column")
        partitions.append(each.references()[0].fieldNames()[0])
    location, comment = spec.location(), spec.comment()
    return Definition(
        frame,
        partitions,
        location=location.get() if location.isDefined() else "",
        comment=comment.get() if comment.isDefined() else None,
        properties=_dict(spark, spec.properties()),
    )


# ---- writers --------


def _save_as_table(original: Callable[..., None], mirror: Mirror) -> Callable[..., None]:
    @functools.wraps(original)
    def saveAsTable(
        self: DataFrameWriter,
        name: str,
        format: str | None = None,
        mode: str | None = None,
        partitionBy: Any = None,
        **options: Any,
    ) -> None:
        if format is not None:
            self.format(format)
        if mode is not None:
            self.mode(mode)
        if partitionBy is not None:
            self.partitionBy(partitionBy)
        self.options(**options)
        target = named(self._spark, name)
        chosen = str(getattr(self, "_lake_format", "") or "").lower()
        path = getattr(self, "_lake_path", None)
        if chosen != DELTA and not (target.is_delta and not chosen):
            if path is not None:
                self._jwrite = self._jwrite.option("path", _address(path))
            original(self, name)
            return
        wanted = (getattr(self, "_lake_mode", None) or "error").lower()
        if target.document is not None and wanted in ("error", "errorifexists"):
            raise _is_there(target)
        if target.document is not None and wanted == "ignore":
            return
        if target.document is not None and not target.is_delta:
            raise AnalysisException(
                f"The format of the existing table `{target}` is {target.document['provider'] or 'a view'}. It doesn't"
                " match the specified format delta; drop it first."
            )
        given = {key: value for key, value in getattr(self, "_lake_options", {}).items() if key.lower() != "path"}
        partitions = list(getattr(self, "_lake_partitions", None) or ())
        definition = Definition(self._df, partitions, _address(path) if path else "", options=given)
        _make(target, definition, wanted, mirror)

    return saveAsTable


def _insert_into(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def insertInto(self: DataFrameWriter, tableName: str, overwrite: bool | None = None) -> None:
        target = named(self._spark, tableName)
        if not target.is_delta:
            original(self, tableName, overwrite)
            return
        overwrites = overwrite if overwrite is not None else getattr(self, "_lake_mode", "") == "overwrite"
        self._df.createOrReplaceTempView("_localazure_inserted")
        try:
            verb = "OVERWRITE" if overwrites else "INTO"
            self._spark.sql(f"INSERT {verb} `{target.database}`.`{target.table}` TABLE _localazure_inserted")
        finally:
            self._spark.catalog.dropTempView("_localazure_inserted")

    return insertInto


def _create_table(original: Callable[..., DataFrame], mirror: Mirror) -> Callable[..., DataFrame]:
    @functools.wraps(original)
    def createTable(  # noqa: PLR0917
        self: Catalog,
        tableName: str,
        path: str | None = None,
        source: str | None = None,
        schema: StructType | None = None,
        description: str | None = None,
        **options: str,
    ) -> DataFrame:
        spark = self._sparkSession
        if (source or "").lower() != DELTA:
            place = _address(path) if path is not None else None
            return original(self, tableName, place, source, schema, description, **options)
        target = named(spark, tableName)
        if target.document is not None:
            raise _is_there(target)
        frame = spark.createDataFrame([], schema or StructType())
        definition = Definition(frame, [], _address(path) if path else "", description)
        _make(target, definition, "error", mirror, takes_what_is_there=True)
        return spark.table(tableName)

    return createTable


def _make(
    target: Name, definition: Definition, mode: str, mirror: Mirror, *, takes_what_is_there: bool = False
) -> None:
    """Write a Delta table and enter it into the catalogue; with `takes_what_is_there`, one that lies there is taken as
    it is. Raises AnalysisException.
    """
    from localazure_compute.delta_folder import DeltaFolder, spark_schema

    location = definition.location or target.location
    folder = DeltaFolder(mirror, lake.parse(location))
    frame = definition.frame
    if takes_what_is_there and folder.exists:
        known = spark_schema(folder.table())
        if frame.schema.fields and [f.simpleString() for f in frame.schema] != [f.simpleString() for f in known]:
            raise AnalysisException(
                f"The specified schema of `{target}` doesn't match the existing one at {location}: "
                f"{frame.schema.simpleString()} and {known.simpleString()}."
            )
    else:
        if not frame.schema.fields:
            raise AnalysisException(f"The table `{target}` has no columns, and there is no Delta table at {location}.")
        writer = frame.write.format(DELTA).mode(mode).partitionBy(*definition.partitions).options(**definition.options)
        if mode == "overwrite" and target.document is not None:
            writer = writer.option("overwriteSchema", "true") if not definition.options else writer
        _remove_marker(mirror, folder, target)
        writer.save(location)
    table = folder.table()
    described: Document = {"schema": spark_schema(table).json(), "partitions": list(table.metadata().partition_columns)}
    if target.document is not None:
        target.catalog.alter(target.database, target.table, described)
        return
    document = {
        "type": "EXTERNAL" if definition.location else "MANAGED",
        "provider": DELTA,
        "location": location,
        "options": {},
        "buckets": None,
        "owner": "",
        "created": int(time.time() * 1000),
        "properties": definition.properties,
        "comment": definition.comment,
        "text": None,
        **described,
    }
    target.catalog.create(target.database, target.table, document)


def _remove_marker(mirror: Mirror, folder: Any, target: Name) -> None:
    """A table's empty folder is no reason against a Delta table there."""
    if target.document is None and not folder.exists:
        known = mirror.lake.properties(folder.path)
        if known is not None and known.is_folder_marker:
            mirror.lake.delete(folder.path)


def _stored(frame: DataFrame, schema: StructType, target: Name, fixed: dict[str, Any]) -> DataFrame:
    """The frame's columns in the table's types, as Spark's ANSI store assignment allows."""
    cast = frame.sparkSession._jvm.org.apache.spark.sql.catalyst.expressions.Cast
    parse = frame.sparkSession._jsparkSession.parseDataType
    known = {each.name.lower(): each for each in schema.fields}
    columns = []
    for each in frame.schema.fields:
        wanted = known.get(each.name.lower())
        if wanted is None:
            columns.append(functions.col(f"`{each.name}`"))
            continue
        allowed = cast.canANSIStoreAssign(parse(each.dataType.json()), parse(wanted.dataType.json()))
        if not allowed and wanted.name.lower() not in fixed:
            error = AnalysisException(
                f"Cannot write to `{target}`: cannot safely cast `{wanted.name}` from"
                f" {each.dataType.simpleString()} to {wanted.dataType.simpleString()}."
            )
            error.error_class = "INCOMPATIBLE_DATA_FOR_TABLE.CANNOT_SAFELY_CAST"
            raise error
        columns.append(functions.col(f"`{each.name}`").cast(wanted.dataType).alias(wanted.name))
    return frame.select(*columns)


def _schema(mirror: Mirror, target: Name) -> StructType:
    from localazure_compute.delta_folder import DeltaFolder, spark_schema

    return spark_schema(DeltaFolder(mirror, lake.parse(target.location)).table())


def _fixed_partitions(spark: SparkSession, spec: Any) -> dict[str, Any]:
    """PARTITION (a = 1, b): {"a": "1"}."""
    found = spark._jvm.scala.collection.JavaConverters.mapAsJavaMapConverter(spec).asJava()
    return {key: found[key].get() for key in found if found[key].isDefined()}


def _frame(spark: SparkSession, plan: Any) -> DataFrame:
    datasets = getattr(getattr(spark._jvm.org.apache.spark.sql, "Dataset$"), "MODULE$")
    return DataFrame(datasets.ofRows(spark._jsparkSession, plan), spark)


def _nothing(spark: SparkSession) -> DataFrame:
    """What a statement without rows answers."""
    return spark.createDataFrame([], StructType())


def _is_there(target: Name) -> AnalysisException:
    error = AnalysisException(
        f"Cannot create table or view `{target.database}`.`{target.table}` because it already exists."
    )
    error.error_class = "TABLE_OR_VIEW_ALREADY_EXISTS"
    return error


def _address(path: str) -> str:
    """A location as the lake's address. Raises AnalysisException for another file system's."""
    found = mounts.resolved(path)
    if found is None:
        raise AnalysisException(f"A table of the workspace lies in the lake, at an abfss:// path, not at {path!r}.")
    return found


def _list(items: Any) -> list[Any]:
    return [items.apply(number) for number in range(items.size())]


def _dict(spark: SparkSession, items: Any) -> dict[str, str]:
    return dict(spark._jvm.scala.collection.JavaConverters.mapAsJavaMapConverter(items).asJava())


def _json(schema: Any) -> Any:
    return json.loads(schema.json())
