"""Bulk load: the INSERT BULK statement, and the rows that follow it as an Arrow table.

[MS-TDS] 2.2.6.1 (Bulk Load BCP): the statement announces table and columns, a message of type 7 brings the rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from localazure.sql.results import SqlError, SqlType
from localazure.tds.requests import BulkRows

_NAME: Final = r'(?:\[(?:[^\]]|\]\])+\]|"(?:[^"]|"")+"|[A-Za-z_#@][\w@#$]*)'
_STATEMENT: Final = re.compile(
    rf"^\s*INSERT\s+BULK\s+(?P<table>{_NAME}(?:\s*\.+\s*{_NAME})*)\s*\((?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_COLUMN: Final = re.compile(rf"\s*(?P<name>{_NAME})\s+[^,()]*(?:\([^()]*\))?[^,()]*(?P<end>[,)])", re.DOTALL)


_INSERT: Final = re.compile(
    rf"^\s*INSERT\s+(?:INTO\s+)?(?P<table>{_NAME}(?:\s*\.\s*{_NAME})*)\s*"
    rf"\((?P<columns>\s*{_NAME}\s*(?:,\s*{_NAME}\s*)*)\)\s*VALUES\s*\((?P<values>[^()']*)\)\s*;?\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class BulkTarget:
    """Where the rows of the next bulk message go."""

    table: str
    columns: tuple[str, ...]


def parse_insert_bulk(statement: str) -> BulkTarget | None:
    """``INSERT BULK t (a int, b nvarchar(20) COLLATE ...) WITH (...)``; None when the batch is anything else.

    The column types written there are those of the message's COLMETADATA: only names are taken. The WITH options
    (TABLOCK, CHECK_CONSTRAINTS, KEEP_NULLS ...) change locking and triggers, which one session's load doesn't have.
    """
    match = _STATEMENT.match(statement)
    if match is None:
        return None
    rest, pos = match["rest"], 0
    columns: list[str] = []
    while True:
        column = _COLUMN.match(rest, pos)
        if column is None:
            raise SqlError(
                102,
                f"Incorrect syntax in INSERT BULK near '{rest[pos : pos + 40]}'.",
                severity=15,
            )
        columns.append(_unquote(column["name"]))
        if column["end"] == ")":
            return BulkTarget(match["table"], tuple(columns))
        pos = column.end()


def parse_plain_insert(statement: str, parameters: Sequence[str]) -> BulkTarget | None:
    """``INSERT INTO t (a, b) VALUES (@P1, @P2)`` with exactly these parameters in their order; else None.

    Executing such a statement many times is the same as loading the rows.
    """
    match = _INSERT.match(statement)
    if match is None or [v.strip().lower() for v in match["values"].split(",")] != [p.lower() for p in parameters]:
        return None
    columns = tuple(_unquote(name) for name in re.findall(_NAME, match["columns"]))
    return BulkTarget(match["table"], columns) if len(columns) == len(parameters) else None


def _unquote(name: str) -> str:
    if name[0] == "[":
        return name[1:-1].replace("]]", "]")
    if name[0] == '"':
        return name[1:-1].replace('""', '"')
    return name


_ARROW: Final = {
    "bit": pa.bool_(), "tinyint": pa.uint8(), "smallint": pa.int16(), "int": pa.int32(), "bigint": pa.int64(),
    "real": pa.float32(), "float": pa.float64(), "money": pa.decimal128(19, 4), "date": pa.date32(),
    "time": pa.time64("us"), "datetime": pa.timestamp("us"), "datetime2": pa.timestamp("us"),
    "smalldatetime": pa.timestamp("us"), "datetimeoffset": pa.timestamp("us", tz="UTC"), "binary": pa.binary(),
    "varbinary": pa.binary(),
}  # fmt: skip


def arrow_type(kind: SqlType) -> pa.DataType:
    """The Arrow type that stands for ``kind`` between server and engine (see ``localazure.sql.results.ResultSet``)."""
    if kind.name == "decimal":
        return pa.decimal128(kind.precision or 18, kind.scale or 0)
    return _ARROW.get(kind.name, pa.string())


def make_table(target: BulkTarget, rows: BulkRows) -> pa.Table:
    """The rows as an Arrow table with the target's column names. Raises SqlError 4865 (columns) or 4863 (a value)."""
    if not rows.columns:  # an empty message: INSERT BULK of no rows
        return pa.table({})
    if len(rows.columns) != len(target.columns):
        raise SqlError(
            4865,
            f"INSERT BULK names {len(target.columns)} columns of {target.table}; the data has {len(rows.columns)}.",
        )
    arrays: list[pa.Array | pa.ChunkedArray] = []
    for name, column, values in zip(target.columns, rows.columns, rows.values, strict=True):
        kind = arrow_type(column.type)
        try:
            arrays.append(values.cast(kind) if isinstance(values, pa.ChunkedArray) else pa.array(values, kind))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            raise SqlError(
                4863,
                f"Bulk load data conversion error in column {name}: a value is no {column.type}.",
            ) from None
    return pa.table(arrays, names=list(target.columns))
