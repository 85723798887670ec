"""What the catalogue views share: type ids, lengths, and the rows of an object and of a column."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from localazure.sql.catalog import CatalogObject, Function, Key, Table, TableColumn, View
from localazure.sql.results import SqlType
from localazure.sql.sqltypes import CHARACTER, with_length
from localazure.sql.view_columns import Spec, declare

if TYPE_CHECKING:
    from localazure.sql.pool import Session

COLLATION = "SQL_Latin1_General_CP1_CI_AS"


TYPE_IDS: dict[str, tuple[int, int, int, int, int]] = {
    "uniqueidentifier": (16, 36, 36, 0, 0),
    "date": (3, 40, 40, 10, 0),
    "time": (5, 41, 41, 16, 7),
    "datetime2": (8, 42, 42, 27, 7),
    "datetimeoffset": (10, 43, 43, 34, 7),
    "tinyint": (1, 48, 48, 3, 0),
    "smallint": (2, 52, 52, 5, 0),
    "int": (4, 56, 56, 10, 0),
    "smalldatetime": (4, 58, 58, 16, 0),
    "real": (4, 59, 59, 24, 0),
    "money": (8, 60, 60, 19, 4),
    "datetime": (8, 61, 61, 23, 3),
    "float": (8, 62, 62, 53, 0),
    "bit": (1, 104, 104, 1, 0),
    "decimal": (17, 106, 106, 38, 38),
    "numeric": (17, 108, 108, 38, 38),
    "smallmoney": (4, 122, 122, 10, 4),
    "bigint": (8, 127, 127, 19, 0),
    "varbinary": (8000, 165, 165, 0, 0),
    "varchar": (8000, 167, 167, 0, 0),
    "binary": (8000, 173, 173, 0, 0),
    "char": (8000, 175, 175, 0, 0),
    "nvarchar": (8000, 231, 231, 0, 0),
    "nchar": (8000, 239, 239, 0, 0),
    "sysname": (256, 231, 256, 0, 0),
}


ODBC_TYPES = {
    "bit": -7,
    "tinyint": -6,
    "smallint": 5,
    "int": 4,
    "bigint": -5,
    "decimal": 3,
    "money": 3,
    "real": 7,
    "float": 6,
    "char": 1,
    "varchar": 12,
    "nchar": -8,
    "nvarchar": -9,
    "binary": -2,
    "varbinary": -3,
    "date": -9,
    "time": -9,
    "datetime": 11,
    "datetime2": -9,
    "smalldatetime": 11,
    "datetimeoffset": -9,
    "uniqueidentifier": -11,
}


_DECIMAL_BYTES = ((9, 5), (19, 9), (28, 13), (38, 17))


def max_length(kind: SqlType) -> int:
    """sys.columns.max_length: bytes, -1 for max."""
    kind = with_length(kind, 1)
    if kind.length is not None:
        return kind.length * 2 if kind.name in {"nchar", "nvarchar"} and kind.length != -1 else kind.length
    if kind.name == "decimal":
        return next(size for most, size in _DECIMAL_BYTES if (kind.precision or 18) <= most)
    if kind.name in {"datetime2", "time", "datetimeoffset"} and kind.scale is not None:
        base = {"datetime2": 6, "time": 3, "datetimeoffset": 8}[kind.name]
        return base + (0 if kind.scale <= 2 else 1 if kind.scale <= 4 else 2)  # noqa: PLR2004
    return TYPE_IDS[kind.name][0]


def precision_of(kind: SqlType) -> tuple[int | None, int | None]:
    """(precision, scale) as sys.columns shows them."""
    if kind.name == "decimal":
        return kind.precision, kind.scale
    _, _, _, precision, scale = TYPE_IDS[kind.name]
    if kind.name in {"datetime2", "time", "datetimeoffset"} and kind.scale is not None:
        widths = {"datetime2": 19, "time": 8, "datetimeoffset": 26}
        return widths[kind.name] + (kind.scale + 1 if kind.scale else 0), kind.scale
    return precision, scale


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


Rows = Iterable[tuple[Any, ...]]


def type_code(entry: CatalogObject) -> tuple[str, str]:
    if isinstance(entry, Table):
        return "U ", "USER_TABLE"
    if isinstance(entry, View):
        return "V ", "VIEW"
    if isinstance(entry, Function):
        return ("IF", "SQL_INLINE_TABLE_VALUED_FUNCTION") if entry.inline else ("FN", "SQL_SCALAR_FUNCTION")
    return "P ", "SQL_STORED_PROCEDURE"


def key_code(key: Key) -> tuple[str, str]:
    return ("PK", "PRIMARY_KEY_CONSTRAINT") if key.kind == "PRIMARY KEY" else ("UQ", "UNIQUE_CONSTRAINT")


def schema_id(session: Session, name: str) -> int:
    return session.pool.catalog.schemas.get(name.lower(), ("", 1))[1]


def entries(session: Session) -> list[CatalogObject]:
    """The objects that the session's user sees."""
    found = sorted(session.pool.catalog.objects.values(), key=lambda entry: entry.object_id)
    access = session.access()
    return found if access is None else [entry for entry in found if access.sees(entry)]


def tables_of(session: Session) -> list[Table]:
    return [entry for entry in entries(session) if isinstance(entry, Table)]


OBJECT: Spec = declare(
    "name sysname, object_id int, principal_id int, schema_id int, parent_object_id int, type char(2), "
    "type_desc nvarchar(60), create_date datetime, modify_date datetime, is_ms_shipped bit, "
    "is_published bit, is_schema_published bit"
)


def object_row(session: Session, entry: CatalogObject) -> tuple[Any, ...]:
    code, description = type_code(entry)
    return (
        entry.name,
        entry.object_id,
        None,
        schema_id(session, entry.schema),
        0,
        code,
        description,
        moment(entry.created),
        moment(entry.modified),
        False,
        False,
        False,
    )


def described(session: Session) -> list[tuple[CatalogObject, list[TableColumn]]]:
    """Every table and view with its columns; a view that can't be bound any more has none."""
    from localazure.sql.describing import first_result
    from localazure.sql.interpreter import Frame
    from localazure.sql.results import SqlError

    found: list[tuple[CatalogObject, list[TableColumn]]] = []
    for entry in entries(session):
        if isinstance(entry, Table):
            found.append((entry, list(entry.columns)))
        elif isinstance(entry, View):
            try:
                with session.authority.as_owner(session.pool):
                    columns = first_result(session, entry.query_text, Frame())
            except SqlError:
                columns = ()
            names = list(entry.columns) or [column.name for column in columns]
            found.append(
                (
                    entry,
                    [
                        TableColumn(name, c.type, c.nullable, i)
                        for i, (name, c) in enumerate(zip(names, columns, strict=False), 1)
                    ],
                )
            )
    return found


COLUMN: Spec = declare(
    "object_id int, name sysname, column_id int, system_type_id tinyint, user_type_id int, "
    "max_length smallint, precision tinyint, scale tinyint, collation_name sysname, is_nullable bit, "
    "is_ansi_padded bit, is_rowguidcol bit, is_identity bit, is_computed bit, is_filestream bit, "
    "is_replicated bit, is_xml_document bit, is_sparse bit, is_column_set bit, is_hidden bit, "
    "is_masked bit, generated_always_type tinyint, generated_always_type_desc nvarchar(60), "
    "default_object_id int, rule_object_id int, xml_collection_id int, encryption_type int"
)


def column_row(entry: CatalogObject, column: TableColumn) -> tuple[Any, ...]:
    _, system, user, _, _ = TYPE_IDS[column.type.name]
    precision, scale = precision_of(column.type)
    text = column.type.name in CHARACTER
    default = entry.object_id * 4096 % 2147483647 + column.column_id if column.default else 0
    return (
        entry.object_id,
        column.name,
        column.column_id,
        system,
        user,
        max_length(column.type),
        precision,
        scale,
        (column.collation or COLLATION) if text else None,
        column.nullable,
        text,
        False,
        column.identity is not None,
        False,
        False,
        False,
        False,
        False,
        False,
        False,
        False,
        0,
        "NOT_APPLICABLE",
        default,
        0,
        0,
        None,
    )
