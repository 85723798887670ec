"""Types between Spark and the dedicated SQL pool, both ways.

https://learn.microsoft.com/azure/synapse-analytics/spark/synapse-spark-sql-pool-import-export
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, functions, types
from pyspark.sql.types import DataType, StructType

from localazure_compute.sql_pool import Column, SQLAnalyticsConnectorException

_SIZE = re.compile(r"\((\d+)(?:,\s*(\d+))?\)")
_LENGTH = re.compile(r"^(?:var)?char\((\d+)\)$", re.IGNORECASE)
#: Spark's note of a text's length (`CHAR(n)`, `VARCHAR(n)`) in a column's metadata.
_LENGTH_KEY = "__CHAR_VARCHAR_TYPE_STRING"
_MOST_CHARACTERS = 4000

_FROM_POOL: dict[str, DataType] = {
    "bigint": types.LongType(),
    "binary": types.BinaryType(),
    "bit": types.BooleanType(),
    "char": types.StringType(),
    "date": types.DateType(),
    "datetime": types.TimestampType(),
    "datetime2": types.TimestampType(),
    "datetimeoffset": types.StringType(),
    "float": types.DoubleType(),
    "int": types.IntegerType(),
    "money": types.DecimalType(19, 4),
    "nchar": types.StringType(),
    "nvarchar": types.StringType(),
    "real": types.FloatType(),
    "smalldatetime": types.TimestampType(),
    "smallint": types.ShortType(),
    "smallmoney": types.DecimalType(10, 4),
    "time": types.StringType(),
    "tinyint": types.ShortType(),
    "uniqueidentifier": types.StringType(),
    "varbinary": types.BinaryType(),
    "varchar": types.StringType(),
}
#: What Parquet or Spark has no type for is unloaded as another one.
_CONVERTED = {
    "datetimeoffset": "varchar(34)",
    "smallmoney": "decimal(10,4)",
    "time": "varchar(16)",
    "tinyint": "smallint",
    "uniqueidentifier": "varchar(36)",
}
_TO_POOL: dict[str, str] = {
    "boolean": "bit",
    "tinyint": "smallint",  # Spark's is signed
    "smallint": "smallint",
    "int": "int",
    "bigint": "bigint",
    "float": "real",
    "double": "float",
    "date": "date",
    "timestamp": "datetime2(6)",
    "timestamp_ntz": "datetime2(6)",
    "binary": "varbinary(8000)",
}


def spark_type(column: Column) -> DataType:
    """The type Spark reads a column as. Raises SQLAnalyticsConnectorException, naming type and column."""
    if column.base in ("decimal", "numeric"):
        size = _SIZE.search(column.type)
        return types.DecimalType(int(size[1]), int(size[2] or 0)) if size else types.DecimalType(18, 0)
    found = _FROM_POOL.get(column.base)
    if found is None:
        raise SQLAnalyticsConnectorException(
            f"Column {column.name!r} has the type {column.type}, which Spark can't read."
        )
    return found


def is_converted(column: Column) -> bool:
    """Whether a column is unloaded as another type."""
    return column.base in _CONVERTED


def unloaded(column: Column, name: str) -> str:
    """The column in the SELECT that unloads it."""
    other = _CONVERTED.get(column.base)
    return f"CAST({name} AS {other}) AS {name}" if other else name


def check(schema: StructType, what: str) -> None:
    """Raises SQLAnalyticsConnectorException for the first column that the pool can't keep."""
    for field in schema.fields:
        if _pool_type(field) is None:
            raise SQLAnalyticsConnectorException(
                f"{what}: column {field.name!r} is {field.dataType.simpleString()}, for which the pool has no type."
            )


def definition(schema: StructType, staged: Path, quoted: Callable[[str], str]) -> tuple[str, str]:
    """A new table's columns in T-SQL, and how it is stored. Texts longer than 4,000 characters need a heap."""
    long = _long_texts([field.name for field in schema.fields if _pool_type(field) == "nvarchar(4000)"], staged)
    columns = [
        f"{quoted(field.name)} {'nvarchar(max)' if field.name in long else _pool_type(field)}"
        f"{'' if field.nullable else ' NOT NULL'}"
        for field in schema.fields
    ]
    return ", ".join(columns), "HEAP" if long else "CLUSTERED COLUMNSTORE INDEX"


def for_pool(frame: DataFrame) -> DataFrame:
    """The frame with its moments as wall-clock times of the session's time zone: the pool's have none."""
    moments = {field.name for field in frame.schema.fields if isinstance(field.dataType, types.TimestampType)}
    if not moments:
        return frame
    return frame.select([
        functions.col(f"`{name}`").cast("timestamp_ntz").alias(name) if name in moments else functions.col(f"`{name}`")
        for name in frame.columns
    ])  # fmt: skip


def _pool_type(field: types.StructField) -> str | None:
    kind: Any = field.dataType
    if isinstance(kind, types.DecimalType):
        return f"decimal({kind.precision},{kind.scale})"
    if isinstance(kind, types.CharType | types.VarcharType):
        return f"nvarchar({kind.length})" if kind.length <= _MOST_CHARACTERS else "nvarchar(4000)"
    if isinstance(kind, types.StringType):
        length = _LENGTH.match(str((field.metadata or {}).get(_LENGTH_KEY, "")))
        return f"nvarchar({length[1]})" if length and int(length[1]) <= _MOST_CHARACTERS else "nvarchar(4000)"
    return _TO_POOL.get(kind.simpleString())


def _long_texts(names: list[str], staged: Path) -> set[str]:
    if not names:
        return set()
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    files = [str(file) for file in sorted(staged.glob("*.parquet"))]
    longest = dict.fromkeys(names, 0)
    for batch in ds.dataset(files, format="parquet").to_batches(columns=names) if files else ():
        for name in names:
            longest[name] = max(longest[name], pc.max(pc.utf8_length(batch.column(name))).as_py() or 0)
    return {name for name, length in longest.items() if length > _MOST_CHARACTERS}
