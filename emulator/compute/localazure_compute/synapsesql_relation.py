"""A table of the SQL pool as a relation of Spark: unloaded when a query is planned, with its columns and filters.

Spark's data source API (version 2) is Java interfaces; these here are implemented in Python and called back by the JVM
of the driver while it plans. What they give back is Spark's own scan of the unloaded Parquet files, so that no row goes
through Python. https://spark.apache.org/docs/3.5.9/api/java/org/apache/spark/sql/connector/read/package-summary.html
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from localazure_compute import jvm_callbacks
from localazure_compute.synapsesql_pushdown import Filter

_CONNECTOR = "org.apache.spark.sql.connector"
_SOURCES = "org.apache.spark.sql.sources"
_PARQUET = "org.apache.spark.sql.execution.datasources.parquet.ParquetFileFormat"

#: Unloads `columns` of the rows that pass `filters`; the folder of the Parquet files.
Unload = Callable[[list[str], list[Filter]], Path]
#: Whether a filter is among those that the pool can apply.
CanPush = Callable[[Filter], bool]


def relation(spark: SparkSession, name: str, schema: StructType, unload: Unload, can_push: CanPush) -> DataFrame:
    """A DataFrame of a relation called `name`. Each query on it calls `unload` anew when it is planned."""
    from pyspark.java_gateway import ensure_callback_server_started

    jvm_callbacks.report_errors()
    gateway = spark.sparkContext._gateway
    ensure_callback_server_started(gateway)
    jvm = spark._jvm
    none = jvm.scala.Option.apply(None)
    plan = jvm.org.apache.spark.sql.execution.datasources.v2.DataSourceV2Relation.create(
        _Table(spark, name, schema, unload, can_push), none, none, _options(spark)
    )
    # Scala's companion objects by their class's name: Java sees no static method of one that is private to Spark.
    datasets = getattr(getattr(jvm.org.apache.spark.sql, "Dataset$"), "MODULE$")
    return DataFrame(datasets.ofRows(spark._jsparkSession, plan), spark)


def _options(spark: SparkSession) -> Any:
    jvm = spark._jvm
    return jvm.org.apache.spark.sql.util.CaseInsensitiveStringMap(jvm.java.util.HashMap())


class _Table:
    """`SupportsRead`. Java calls the methods by name."""

    def __init__(self, spark: SparkSession, name: str, schema: StructType, unload: Unload, can_push: CanPush) -> None:
        self._spark, self._name, self._schema = spark, name, schema
        self._unload, self._can_push = unload, can_push

    def name(self) -> str:
        return self._name

    def schema(self) -> Any:
        return self._spark._jsparkSession.parseDataType(self._schema.json())

    def columns(self) -> Any:
        util = self._spark._jvm.org.apache.spark.sql.connector.catalog.CatalogV2Util
        return util.structTypeToV2Columns(self.schema())

    def properties(self) -> Any:
        return self._spark._jvm.java.util.HashMap()

    def partitioning(self) -> Any:
        gateway = self._spark.sparkContext._gateway
        return gateway.new_array(self._spark._jvm.org.apache.spark.sql.connector.expressions.Transform, 0)

    def capabilities(self) -> Any:
        found = self._spark._jvm.java.util.HashSet()
        found.add(self._spark._jvm.org.apache.spark.sql.connector.catalog.TableCapability.BATCH_READ)
        return found

    def newScanBuilder(self, _options: Any) -> _ScanBuilder:
        return _ScanBuilder(self._spark, self._schema, self._unload, self._can_push)

    def toString(self) -> str:
        return self._name

    def hashCode(self) -> int:
        return hash(self._name) & 0x7FFFFFFF

    def equals(self, _other: Any) -> bool:
        return False

    class Java:
        implements = (f"{_CONNECTOR}.catalog.SupportsRead",)


class _ScanBuilder:
    """`SupportsPushDownFilters` and `SupportsPushDownRequiredColumns`: one query's part of the table."""

    def __init__(self, spark: SparkSession, schema: StructType, unload: Unload, can_push: CanPush) -> None:
        self._spark, self._names, self._unload, self._can_push = spark, schema.names, unload, can_push
        self._required: Any = spark._jsparkSession.parseDataType(schema.json())
        self._filters: list[Filter] = []
        self._pushed: list[Any] = []

    def pushFilters(self, filters: Any) -> Any:
        """Takes what the pool can apply; Spark applies all of them once more."""
        for each in filters:
            found = _filter(each)
            if found is not None and self._can_push(found):
                self._filters.append(found)
                self._pushed.append(each)
        return filters

    def pushedFilters(self) -> Any:
        gateway = self._spark.sparkContext._gateway
        found = gateway.new_array(self._spark._jvm.org.apache.spark.sql.sources.Filter, len(self._pushed))
        for number, each in enumerate(self._pushed):
            found[number] = each
        return found

    def pruneColumns(self, required: Any) -> None:
        self._required = required

    def build(self) -> Any:
        with jvm_callbacks.reported():
            folder = self._unload(list(self._required.fieldNames()), self._filters)
        jvm = self._spark._jvm
        options = _options(self._spark)
        table = jvm.org.apache.spark.sql.execution.datasources.v2.parquet.ParquetTable(
            "synapsesql",
            self._spark._jsparkSession,
            options,
            jvm.PythonUtils.toSeq([f"file:{folder}"]),
            jvm.scala.Option.apply(self._required),
            jvm.java.lang.Class.forName(_PARQUET),
        )
        builder = table.newScanBuilder(options)
        builder.pruneColumns(self._required)
        return builder.build()

    class Java:
        implements = (
            f"{_CONNECTOR}.read.SupportsPushDownFilters",
            f"{_CONNECTOR}.read.SupportsPushDownRequiredColumns",
        )


def _filter(found: Any) -> Filter | None:
    """Spark's filter as a value; None if it compares with what isn't known here."""
    kind = found.getClass().getSimpleName()
    if kind in ("And", "Or"):
        sides = (_filter(found.left()), _filter(found.right()))
        return None if None in sides else Filter(kind, parts=sides)  # type: ignore[arg-type]
    if kind == "Not":
        inner = _filter(found.child())
        return None if inner is None else Filter(kind, parts=(inner,))
    if not hasattr(found, "attribute"):
        return None
    column = found.attribute().strip("`")
    if kind in ("IsNull", "IsNotNull"):
        return Filter(kind, column)
    if kind == "In":
        return Filter(kind, column, [_value(each) for each in found.values()])
    return Filter(kind, column, _value(found.value()))


def _value(value: Any) -> Any:
    """A Java value as Python's; moments in UTC."""
    if not hasattr(value, "getClass"):
        return value
    match value.getClass().getName():
        case "java.sql.Timestamp" | "java.time.Instant" as kind:
            moment = value if kind == "java.time.Instant" else value.toInstant()
            epoch = datetime.datetime(1970, 1, 1)
            return epoch + datetime.timedelta(seconds=moment.getEpochSecond(), microseconds=moment.getNano() // 1000)
        case "java.time.LocalDateTime":
            return datetime.datetime.fromisoformat(value.toString()[:26])
        case "java.sql.Date" | "java.time.LocalDate":
            return datetime.date.fromisoformat(value.toString())
    return value
