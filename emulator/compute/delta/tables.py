"""`DeltaTable`: a Delta table of the lake, by its path.

https://docs.delta.io/3.2.0/api/python/spark/index.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession

from localazure_compute import delta_changes, lake, mounts, spark_runtime, spark_tables
from localazure_compute.delta_changes import Clause, Merge
from localazure_compute.delta_folder import DeltaFolder

_REFUSED = {
    "create": "write a DataFrame with format('delta')",
    "createIfNotExists": "write a DataFrame with format('delta')",
    "createOrReplace": "write a DataFrame with mode('overwrite') and format('delta')",
    "replace": "write a DataFrame with mode('overwrite') and format('delta')",
    "columnBuilder": "write a DataFrame with format('delta')",
    "clone": "read the table and write it elsewhere",
    "cloneAtVersion": "read the version and write it elsewhere",
    "generate": "serverless SQL reads Delta without a manifest",
    "upgradeTableProtocol": "delta-rs raises the protocol when a feature needs it",
    "addFeatureSupport": "delta-rs raises the protocol when a feature needs it",
    "convertToDelta": "read the Parquet files and write them with format('delta')",
}


__all__ = ["DeltaMergeBuilder", "DeltaOptimizeBuilder", "DeltaTable"]


class _Refusing(type):
    """Names that Delta's class has and this one hasn't."""

    def __getattr__(cls, name: str) -> Any:
        if name in _REFUSED:
            raise NotImplementedError(f"DeltaTable.{name} is not implemented by localazure's Spark; {_REFUSED[name]}")
        raise AttributeError(f"type object 'DeltaTable' has no attribute {name!r}")


class DeltaTable(metaclass=_Refusing):
    """A table, and the name it has in conditions."""

    def __init__(self, spark: SparkSession, folder: DeltaFolder, alias: str = "") -> None:
        self._spark, self._folder, self._alias = spark, folder, alias

    @classmethod
    def forPath(cls, sparkSession: SparkSession, path: str, hadoopConf: Mapping[str, str] | None = None) -> DeltaTable:
        """The table at a path. Raises AnalysisException if there is none."""
        folder = _folder(path)
        folder.table()
        return cls(sparkSession, folder)

    @classmethod
    def forName(cls, sparkSession: SparkSession, tableOrViewName: str) -> DeltaTable:
        """The table of the workspace's catalogue. Raises AnalysisException if there is none, or it isn't Delta's."""
        found = spark_tables.named(sparkSession, tableOrViewName)
        if not found.is_delta:
            raise AnalysisException(f"`{tableOrViewName}` is not a Delta table.")
        return cls.forPath(sparkSession, found.location)

    @classmethod
    def isDeltaTable(cls, sparkSession: SparkSession, identifier: str) -> bool:
        """Whether there is a Delta table at a path."""
        return _folder(identifier).exists

    def toDF(self) -> DataFrame:
        """Its newest version."""
        frame = delta_changes.snapshot(self._spark, self._folder).frame
        return frame.alias(self._alias) if self._alias else frame

    def alias(self, aliasName: str) -> DeltaTable:
        """The table under a name, for conditions."""
        return DeltaTable(self._spark, self._folder, aliasName)

    def delete(self, condition: str | Column | None = None) -> None:
        """Delete the rows that meet the condition; all without one."""
        delta_changes.delete(self._spark, self._folder, self._alias, condition)

    def update(
        self,
        condition: str | Column | Mapping[str, Any] | None = None,
        set: Mapping[str, str | Column] | None = None,
    ) -> None:
        """Set columns of the rows that meet the condition. Expressions are Spark's."""
        if isinstance(condition, Mapping):
            condition, set = None, condition
        delta_changes.update(self._spark, self._folder, self._alias, condition, dict(set or {}))

    def merge(self, source: DataFrame, condition: str | Column) -> DeltaMergeBuilder:
        """Begin a merge of `source` into the table."""
        return DeltaMergeBuilder(self._spark, Merge(self._folder, self._alias, source, condition))

    def history(self, limit: int | None = None) -> DataFrame:
        """Its commits, the newest first."""
        return delta_changes.history(self._spark, self._folder, limit)

    def detail(self) -> DataFrame:
        """Its metadata, as one row."""
        return delta_changes.detail(self._spark, self._folder)

    def vacuum(self, retentionHours: float | None = None) -> DataFrame:
        """Delete files no version of the last `retentionHours` (168) needs. Raises for fewer hours than the table's."""
        delta_changes.vacuum(self._spark, self._folder, retentionHours)
        return self._spark.createDataFrame([], "path string")

    def optimize(self) -> DeltaOptimizeBuilder:
        """Begin to make larger files of small ones."""
        return DeltaOptimizeBuilder(self._spark, self._folder)

    def restoreToVersion(self, version: int) -> DataFrame:
        """Make an earlier version the newest."""
        return delta_changes.restore(self._spark, self._folder, version)

    def restoreToTimestamp(self, timestamp: str) -> DataFrame:
        """Make the version of a moment the newest."""
        return delta_changes.restore(self._spark, self._folder, timestamp)


class DeltaMergeBuilder:
    """A merge's clauses, in the order in which they are tried."""

    def __init__(self, spark: SparkSession, merge: Merge) -> None:
        self._spark, self._merge = spark, merge

    def whenMatchedUpdate(
        self, condition: str | Column | None = None, set: Mapping[str, str | Column] | None = None
    ) -> DeltaMergeBuilder:
        return self._with("matched", "update", condition, set or {})

    def whenMatchedUpdateAll(self, condition: str | Column | None = None) -> DeltaMergeBuilder:
        return self._with("matched", "update", condition, None)

    def whenMatchedDelete(self, condition: str | Column | None = None) -> DeltaMergeBuilder:
        return self._with("matched", "delete", condition, {})

    def whenNotMatchedInsert(
        self, condition: str | Column | None = None, values: Mapping[str, str | Column] | None = None
    ) -> DeltaMergeBuilder:
        return self._with("source", "insert", condition, values or {})

    def whenNotMatchedInsertAll(self, condition: str | Column | None = None) -> DeltaMergeBuilder:
        return self._with("source", "insert", condition, None)

    def whenNotMatchedBySourceUpdate(
        self, condition: str | Column | None = None, set: Mapping[str, str | Column] | None = None
    ) -> DeltaMergeBuilder:
        return self._with("target", "update", condition, set or {})

    def whenNotMatchedBySourceDelete(self, condition: str | Column | None = None) -> DeltaMergeBuilder:
        return self._with("target", "delete", condition, {})

    def execute(self) -> None:
        """Carry the merge out as one commit."""
        delta_changes.merge(self._spark, self._merge)

    def _with(
        self, rows: str, action: str, condition: str | Column | None, columns: Mapping[str, str | Column] | None
    ) -> DeltaMergeBuilder:
        clause = Clause(rows, action, condition, None if columns is None else dict(columns))
        return DeltaMergeBuilder(self._spark, self._merge.with_clause(clause))

    def __getattr__(self, name: str) -> Any:
        if name == "withSchemaEvolution":
            raise NotImplementedError("DeltaMergeBuilder.withSchemaEvolution is not implemented by localazure's Spark")
        raise AttributeError(f"'DeltaMergeBuilder' object has no attribute {name!r}")


class DeltaOptimizeBuilder:
    """What to compact."""

    def __init__(self, spark: SparkSession, folder: DeltaFolder) -> None:
        self._spark, self._folder = spark, folder

    def executeCompaction(self) -> DataFrame:
        """Compact; the metrics as one row."""
        return delta_changes.optimize(self._spark, self._folder, [])

    def executeZOrderBy(self, *cols: str) -> DataFrame:
        """Compact and order by columns; the metrics as one row."""
        names = [name for item in cols for name in ([item] if isinstance(item, str) else item)]
        return delta_changes.optimize(self._spark, self._folder, names)

    def where(self, partitionFilter: str) -> DeltaOptimizeBuilder:
        raise NotImplementedError("DeltaOptimizeBuilder.where is not implemented by localazure's Spark")


def _folder(path: str) -> DeltaFolder:
    bare = path.removeprefix("delta.").strip("`")
    address = mounts.resolved(bare)
    if address is None:
        raise ValueError(f"a Delta table is named by its path in the lake, not {path!r}")
    return DeltaFolder(spark_runtime.mirror(), lake.parse(address))
