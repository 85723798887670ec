"""Metadata that drivers ask for without running anything.

https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-describe-undeclared-parameters-transact-sql
https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/sp-describe-first-result-set-transact-sql
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from localazure.sql.results import Column, ResultSet, SqlError, SqlType
from localazure.tds.session import Session
from localazure.tds.types import Declared, byte_length, is_max, make_type_info

# sys.types: system_type_id.
# https://learn.microsoft.com/en-us/sql/relational-databases/system-catalog-views/sys-types-transact-sql
_TYPE_ID: Final = {
    "tinyint": 48, "smallint": 52, "int": 56, "bigint": 127, "bit": 104, "decimal": 106, "money": 60, "real": 59,
    "float": 62, "date": 40, "time": 41, "datetime2": 42, "datetimeoffset": 43, "datetime": 61, "smalldatetime": 58,
    "char": 175, "varchar": 167, "nchar": 239, "nvarchar": 231, "binary": 173, "varbinary": 165,
    "uniqueidentifier": 36,
}  # fmt: skip
# (bytes, precision, scale) of types that have no parameters.
_SIZES: Final = {
    "tinyint": (1, 3, 0), "smallint": (2, 5, 0), "int": (4, 10, 0), "bigint": (8, 19, 0), "bit": (1, 1, 0),
    "money": (8, 19, 4), "real": (4, 24, 0), "float": (8, 53, 0), "date": (3, 10, 0), "datetime": (8, 23, 3),
    "smalldatetime": (4, 16, 0), "uniqueidentifier": (16, 0, 0),
}  # fmt: skip

_INT: Final = SqlType("int")
_NAME: Final = SqlType("nvarchar", length=128)
_LONG_NAME: Final = SqlType("nvarchar", length=4000)
_BIT: Final = SqlType("bit")
_SMALLINT: Final = SqlType("smallint")
_TINYINT: Final = SqlType("tinyint")
_ARROW: Final = {"int": pa.int32(), "nvarchar": pa.string(), "bit": pa.bool_(), "smallint": pa.int16(),
                 "tinyint": pa.uint8()}  # fmt: skip

_UNDECLARED: Final = (
    ("parameter_ordinal", _INT), ("name", _NAME), ("suggested_system_type_id", _INT),
    ("suggested_system_type_name", _NAME), ("suggested_max_length", _SMALLINT), ("suggested_precision", _TINYINT),
    ("suggested_scale", _TINYINT), ("suggested_user_type_id", _INT), ("suggested_user_type_database", _NAME),
    ("suggested_user_type_schema", _NAME), ("suggested_user_type_name", _NAME),
    ("suggested_assembly_qualified_type_name", _LONG_NAME), ("suggested_xml_collection_id", _INT),
    ("suggested_xml_collection_database", _NAME), ("suggested_xml_collection_schema", _NAME),
    ("suggested_xml_collection_name", _NAME), ("suggested_is_xml_document", _BIT),
    ("suggested_is_case_sensitive", _BIT), ("suggested_is_fixed_length_clr_type", _BIT), ("suggested_is_input", _BIT),
    ("suggested_is_output", _BIT), ("formal_parameter_name", _NAME), ("suggested_tds_type_id", _INT),
    ("suggested_tds_length", _INT),
)  # fmt: skip
_FIRST_RESULT_SET: Final = (
    ("is_hidden", _BIT), ("column_ordinal", _INT), ("name", _NAME), ("is_nullable", _BIT), ("system_type_id", _INT),
    ("system_type_name", _NAME), ("max_length", _SMALLINT), ("precision", _TINYINT), ("scale", _TINYINT),
    ("collation_name", _NAME), ("user_type_id", _INT), ("user_type_database", _NAME), ("user_type_schema", _NAME),
    ("user_type_name", _NAME), ("assembly_qualified_type_name", _LONG_NAME), ("xml_collection_id", _INT),
    ("xml_collection_database", _NAME), ("xml_collection_schema", _NAME), ("xml_collection_name", _NAME),
    ("is_xml_document", _BIT), ("is_case_sensitive", _BIT), ("is_fixed_length_clr_type", _BIT),
    ("source_server", _NAME), ("source_database", _NAME), ("source_schema", _NAME), ("source_table", _NAME),
    ("source_column", _NAME), ("is_identity_column", _BIT), ("is_part_of_unique_key", _BIT), ("is_updateable", _BIT),
    ("is_computed_column", _BIT), ("is_sparse_column_set", _BIT), ("ordinal_in_order_by_list", _SMALLINT),
    ("order_by_is_descending", _SMALLINT), ("order_by_list_length", _SMALLINT), ("tds_type_id", _INT),
    ("tds_length", _INT), ("tds_collation_id", _INT), ("tds_collation_sort_id", _TINYINT),
)  # fmt: skip


def measures(kind: SqlType) -> tuple[int, int, int]:
    """(max_length in bytes, precision, scale) as sys.columns has them; -1 for max types."""
    if kind.name in _SIZES:
        return _SIZES[kind.name]
    if kind.name == "decimal":
        precision = kind.precision or 18
        return (5 if precision <= 9 else 9 if precision <= 19 else 13 if precision <= 28 else 17,
                precision, kind.scale or 0)  # fmt: skip
    if kind.name in {"time", "datetime2", "datetimeoffset"}:
        scale = 7 if kind.scale is None else kind.scale
        base, digits = {
            "time": (3, 8),
            "datetime2": (6, 19),
            "datetimeoffset": (8, 26),
        }[kind.name]
        return (
            base + (scale > 2) + (scale > 4),
            digits + (scale + 1 if scale else 0),
            scale,
        )
    return (-1 if is_max(kind) else byte_length(kind)), 0, 0


def _result(layout: Sequence[tuple[str, SqlType]], rows: Sequence[dict[str, object]]) -> ResultSet:
    columns = tuple(Column(name, kind) for name, kind in layout)
    arrays = [pa.array([row.get(name) for row in rows], _ARROW[kind.name]) for name, kind in layout]
    return ResultSet(columns, pa.table(arrays, names=[name for name, _ in layout]))


def first_result_set(columns: Sequence[Column]) -> ResultSet:
    """The answer of sp_describe_first_result_set for these columns."""
    rows: list[dict[str, object]] = []
    for ordinal, column in enumerate(columns, 1):
        length, precision, scale = measures(column.type)
        wire = make_type_info(column.type)
        rows.append(
            {
                "is_hidden": False, "column_ordinal": ordinal, "name": column.name or None,
                "is_nullable": column.nullable, "system_type_id": _TYPE_ID[column.type.name],
                "system_type_name": str(column.type), "max_length": length, "precision": precision, "scale": scale,
                "is_xml_document": False, "is_case_sensitive": False, "is_fixed_length_clr_type": False,
                "is_identity_column": False, "is_updateable": True, "is_computed_column": False,
                "is_sparse_column_set": False, "tds_type_id": wire[0], "tds_length": max(length, 0) or 0xFFFF,
            }
        )  # fmt: skip
    return _result(_FIRST_RESULT_SET, rows)


def undeclared_parameters(session: Session, statement: str, declared: Sequence[Declared]) -> ResultSet:
    """The answer of sp_describe_undeclared_parameters.

    A parameter that an INSERT puts into a column, or that is compared with a column of the statement's only table, has
    that column's type; every other one is nvarchar(4000), which converts to anything but binary.
    """
    known = {d.name.lower() for d in declared}
    names = [n for n in dict.fromkeys(_parameters(statement)) if n.lower() not in known]
    kinds = _column_types(session, statement)
    rows: list[dict[str, object]] = []
    for ordinal, name in enumerate(names, 1):
        kind = kinds.get(name.lower(), SqlType("nvarchar", length=4000))
        length, precision, scale = measures(kind)
        rows.append(
            {
                "parameter_ordinal": ordinal, "name": name, "suggested_system_type_id": _TYPE_ID[kind.name],
                "suggested_system_type_name": str(kind), "suggested_max_length": length,
                "suggested_precision": precision, "suggested_scale": scale, "suggested_is_xml_document": False,
                "suggested_is_case_sensitive": False, "suggested_is_fixed_length_clr_type": False,
                "suggested_is_input": True, "suggested_is_output": False,
                "suggested_tds_type_id": make_type_info(kind)[0], "suggested_tds_length": max(length, 0) or 0xFFFF,
            }
        )  # fmt: skip
    return _result(_UNDECLARED, rows)


_LITERALS: Final = re.compile(
    r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|\[(?:[^\]]|\]\])*\]|\"(?:[^\"]|\"\")*\"",
    re.DOTALL,
)
_VARIABLE: Final = re.compile(r"(?<![@\w])@[A-Za-z_][\w@#$]*")
_NAME_PART: Final = r'(?:\[(?:[^\]]|\]\])+\]|"(?:[^"]|"")+"|[A-Za-z_#][\w@#$]*)'
_TABLE: Final = rf"(?P<table>{_NAME_PART}(?:\s*\.\s*{_NAME_PART})*)"
_INSERT: Final = re.compile(
    rf"^\s*INSERT\s+(?:INTO\s+)?{_TABLE}\s*(?:\((?P<columns>[^()]*)\))?\s*VALUES\s*(?P<rows>\(.*)$",
    re.IGNORECASE | re.DOTALL,
)
_SOURCE: Final = re.compile(rf"\b(?:FROM|UPDATE)\s+{_TABLE}", re.IGNORECASE)
_COMPARED: Final = re.compile(
    rf"(?P<column>{_NAME_PART}(?:\s*\.\s*{_NAME_PART})?)\s*(?:=|<>|!=|<=|>=|<|>|\bLIKE\b)\s*(?P<name>@\w+)",
    re.IGNORECASE,
)


def _parameters(statement: str) -> list[str]:
    return _VARIABLE.findall(_LITERALS.sub(" ", statement))


def _column_types(session: Session, statement: str) -> dict[str, SqlType]:
    """Types by parameter name (lower case), as far as the statement's shape tells them."""
    found: dict[str, SqlType] = {}
    if match := _INSERT.match(statement):
        columns = _columns_of(session, match["table"], match["columns"] or "*")
        for group in re.findall(r"\(([^()]*)\)", match["rows"]):
            for value, column in zip(group.split(","), columns, strict=False):
                if _VARIABLE.fullmatch(value.strip()):
                    found.setdefault(value.strip().lower(), column.type)
        return found
    source = _SOURCE.search(statement)
    if source is None:
        return found
    for match in _COMPARED.finditer(statement):
        name = re.split(r"\.\s*(?=[^.]*$)", match["column"])[-1]
        if columns := _columns_of(session, source["table"], name):
            found.setdefault(match["name"].lower(), columns[0].type)
    return found


def _columns_of(session: Session, table: str, columns: str) -> tuple[Column, ...]:
    try:
        return session.describe(f"SELECT {columns} FROM {table}")
    except SqlError:
        return ()
