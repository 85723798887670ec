"""T-SQL's types: how they are declared, which wins, what an operator makes of two, and DuckDB's name for each.

https://learn.microsoft.com/en-us/sql/t-sql/data-types/data-type-precedence-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/data-types/precision-scale-and-length-transact-sql
Differences from the vendor: datetime2, time and datetimeoffset keep microseconds (DuckDB's), not 100 ns; datetimeoffset
keeps the instant, not the offset.
"""

from __future__ import annotations

import pyarrow as pa

from localazure.sql.results import SqlError, SqlType

BIT = SqlType("bit")
TINYINT = SqlType("tinyint")
SMALLINT = SqlType("smallint")
INT = SqlType("int")
BIGINT = SqlType("bigint")
FLOAT = SqlType("float")
REAL = SqlType("real")
MONEY = SqlType("money")
DATE = SqlType("date")
DATETIME = SqlType("datetime")
DATETIME2 = SqlType("datetime2", scale=7)
SMALLDATETIME = SqlType("smalldatetime")
DATETIMEOFFSET = SqlType("datetimeoffset", scale=7)
TIME = SqlType("time", scale=7)
GUID = SqlType("uniqueidentifier")
SYSNAME = SqlType("nvarchar", 128)

_ALIASES = {
    "integer": "int",
    "dec": "decimal",
    "numeric": "decimal",
    "character": "char",
    "sysname": "sysname",
    "smallmoney": "money",
    "binary varying": "varbinary",
}
_REFUSED = frozenset(
    {
        "text",
        "ntext",
        "image",
        "xml",
        "geography",
        "geometry",
        "sql_variant",
        "rowversion",
        "timestamp",
        "hierarchyid",
        "cursor",
        "table",
        "json",
        "vector",
    }
)
CHARACTER = frozenset({"char", "varchar", "nchar", "nvarchar"})
BINARY = frozenset({"binary", "varbinary"})
INTEGER = frozenset({"tinyint", "smallint", "int", "bigint"})
EXACT = INTEGER | {"bit", "decimal", "money"}
APPROXIMATE = frozenset({"float", "real"})
NUMERIC = EXACT | APPROXIMATE
MOMENT = frozenset({"date", "time", "datetime", "datetime2", "smalldatetime", "datetimeoffset"})

PRECEDENCE = [
    "datetimeoffset",
    "datetime2",
    "datetime",
    "smalldatetime",
    "date",
    "time",
    "float",
    "real",
    "decimal",
    "money",
    "bigint",
    "int",
    "smallint",
    "tinyint",
    "bit",
    "uniqueidentifier",
    "nvarchar",
    "nchar",
    "varchar",
    "char",
    "varbinary",
    "binary",
]
_RANK = {name: rank for rank, name in enumerate(PRECEDENCE)}
_DIGITS = {"bit": 1, "tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}
MAX_PRECISION = 38
MAX_SCALE = 7
_FLOAT_BITS = 24
_MAX_LENGTH = {"char": 8000, "varchar": 8000, "nchar": 4000, "nvarchar": 4000, "binary": 8000, "varbinary": 8000}


def declared(name: str, arguments: list[int], line: int) -> SqlType:
    """The type for ``name(arguments)`` as a column or variable declares it; lengths default to 1.

    CAST and CONVERT default to 30 instead (``for_cast``). SqlError 2715 for an unknown type, 104/131 for a bad length.
    """
    name = _ALIASES.get(name, name)
    if name == "sysname":
        return SYSNAME
    if name in _REFUSED or name not in _RANK:
        raise SqlError(2715, f"Column, parameter, or variable: Cannot find data type {name}.", state=6, line=line)
    first = arguments[0] if arguments else None
    if name in CHARACTER | BINARY:
        if first is not None and (first == 0 or first > _MAX_LENGTH[name] or first < -1):
            raise SqlError(
                131,
                f"The size ({first}) given to the type '{name}' exceeds the maximum allowed for any data "
                f"type ({_MAX_LENGTH[name]}).",
                line=line,
            )
        return SqlType(name, first)
    if name == "decimal":
        precision, scale = (first or 18), (arguments[1] if len(arguments) > 1 else 0)
        if precision > MAX_PRECISION or scale > precision:
            raise SqlError(192, "The scale must be less than or equal to the precision.", line=line)
        return SqlType("decimal", precision=precision, scale=scale)
    if name in {"datetime2", "datetimeoffset", "time"}:
        scale = MAX_SCALE if first is None else first
        if scale > MAX_SCALE:
            raise SqlError(1002, f"Line {line}: Specified scale {scale} is invalid.", line=line)
        return SqlType(name, scale=scale)
    if name == "float":
        return REAL if first is not None and first <= _FLOAT_BITS else FLOAT
    if arguments:
        raise SqlError(2716, f"Cannot specify a column width on data type {name}.", line=line)
    return SqlType(name)


def with_length(kind: SqlType, default: int) -> SqlType:
    """``kind`` with its length filled in: 1 for declarations, 30 for casts."""
    if kind.name in CHARACTER | BINARY and kind.length is None:
        return SqlType(kind.name, default)
    return kind


def duck(kind: SqlType) -> str:
    """DuckDB's storage type."""
    if kind.name == "decimal":
        return f"DECIMAL({kind.precision},{kind.scale})"
    return _DUCK[kind.name]


_DUCK = {
    "bit": "BOOLEAN",
    "tinyint": "UTINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "money": "DECIMAL(19,4)",
    "real": "FLOAT",
    "float": "DOUBLE",
    "char": "VARCHAR",
    "varchar": "VARCHAR",
    "nchar": "VARCHAR",
    "nvarchar": "VARCHAR",
    "binary": "BLOB",
    "varbinary": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "datetime": "TIMESTAMP",
    "datetime2": "TIMESTAMP",
    "smalldatetime": "TIMESTAMP",
    "datetimeoffset": "TIMESTAMPTZ",
    "uniqueidentifier": "VARCHAR",
}


def arrow(kind: SqlType) -> pa.DataType:
    """The Arrow type of a result column."""
    if kind.name == "decimal":
        return pa.decimal128(kind.precision or 18, kind.scale or 0)
    return _ARROW[kind.name]


_ARROW: dict[str, pa.DataType] = {
    "bit": pa.bool_(),
    "tinyint": pa.uint8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "money": pa.decimal128(19, 4),
    "real": pa.float32(),
    "float": pa.float64(),
    "char": pa.string(),
    "varchar": pa.string(),
    "nchar": pa.string(),
    "nvarchar": pa.string(),
    "binary": pa.binary(),
    "varbinary": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "datetime": pa.timestamp("us"),
    "datetime2": pa.timestamp("us"),
    "smalldatetime": pa.timestamp("us"),
    "datetimeoffset": pa.timestamp("us", tz="UTC"),
    "uniqueidentifier": pa.string(),
}


def as_decimal(kind: SqlType) -> SqlType:
    """The decimal an exact number counts as in decimal arithmetic."""
    if kind.name == "decimal":
        return kind
    if kind.name == "money":
        return SqlType("decimal", precision=19, scale=4)
    return SqlType("decimal", precision=_DIGITS[kind.name], scale=0)


def capped(precision: int, scale: int) -> SqlType:
    """A decimal of at most 38 digits; the integral part wins, and six decimals survive where there were more."""
    if precision > MAX_PRECISION:
        integral = precision - scale
        scale = min(scale, max(MAX_PRECISION - integral, 6)) if scale > 6 else min(scale, 6)  # noqa: PLR2004
        precision = MAX_PRECISION
    return SqlType("decimal", precision=precision, scale=scale)


def arithmetic(op: str, left: SqlType, right: SqlType) -> SqlType:
    """The decimal that + - * / % make of two exact numbers of which at least one is decimal."""
    a, b = as_decimal(left), as_decimal(right)
    p1, s1, p2, s2 = a.precision or 0, a.scale or 0, b.precision or 0, b.scale or 0
    if op in {"+", "-"}:
        scale = max(s1, s2)
        return capped(max(p1 - s1, p2 - s2) + scale + 1, scale)
    if op == "*":
        return capped(p1 + p2 + 1, s1 + s2)
    if op == "/":
        scale = max(6, s1 + p2 + 1)
        return capped(p1 - s1 + s2 + scale, scale)
    scale = max(s1, s2)
    return capped(min(p1 - s1, p2 - s2) + scale, scale)


def winner(left: SqlType, right: SqlType) -> SqlType:
    """The type CASE, COALESCE, UNION and comparisons bring two operands to."""
    if left == right:
        return left
    if left.name in EXACT and right.name in EXACT and "decimal" in {left.name, right.name}:
        a, b = as_decimal(left), as_decimal(right)
        scale = max(a.scale or 0, b.scale or 0)
        integral = max((a.precision or 0) - (a.scale or 0), (b.precision or 0) - (b.scale or 0))
        return capped(integral + scale, scale)
    higher = left if _RANK[left.name] <= _RANK[right.name] else right
    if higher.name in CHARACTER | BINARY and left.length is not None and right.length is not None:
        length = -1 if -1 in {left.length, right.length} else max(left.length, right.length)
        return SqlType(higher.name, length)
    if higher.name in {"datetime2", "datetimeoffset", "time"}:
        return SqlType(
            higher.name, scale=max(left.scale or 0, right.scale or 0) if left.name == right.name else higher.scale
        )
    return higher


def higher_rank(left: SqlType, right: SqlType) -> SqlType:
    return left if _RANK[left.name] <= _RANK[right.name] else right


def from_arrow(kind: pa.DataType, line: int) -> SqlType:
    """The T-SQL type of an Arrow column that comes from a file or a bulk copy."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    names = {
        pa.bool_(): BIT,
        pa.int8(): SMALLINT,
        pa.uint8(): TINYINT,
        pa.int16(): SMALLINT,
        pa.uint16(): INT,
        pa.int32(): INT,
        pa.uint32(): BIGINT,
        pa.int64(): BIGINT,
        pa.float32(): REAL,
        pa.float64(): FLOAT,
        pa.date32(): DATE,
        pa.date64(): DATE,
        pa.null(): SqlType("varchar", 1),
        pa.float16(): REAL,
    }
    if kind in names:
        return names[kind]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return SqlType("varchar", -1)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return SqlType("varbinary", -1)
    if pa.types.is_timestamp(kind):
        return DATETIMEOFFSET if kind.tz else DATETIME2
    if pa.types.is_decimal(kind):
        return SqlType("decimal", precision=min(kind.precision, MAX_PRECISION), scale=kind.scale)
    if pa.types.is_time(kind):
        return TIME
    if pa.types.is_uint64(kind):
        return SqlType("decimal", precision=20, scale=0)
    raise SqlError(13812, f"The data type {kind} of the external file has no counterpart in T-SQL.", line=line)
