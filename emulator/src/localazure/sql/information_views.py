"""INFORMATION_SCHEMA. https://learn.microsoft.com/en-us/sql/relational-databases/system-information-schema-views/"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localazure.sql.catalog import Procedure, Table, View
from localazure.sql.catalog_rows import COLLATION, Rows, described, entries, max_length, precision_of, tables_of
from localazure.sql.sqltypes import CHARACTER, with_length
from localazure.sql.view_columns import Spec, declare

if TYPE_CHECKING:
    from localazure.sql.pool import Session


def tables(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare("TABLE_CATALOG sysname, TABLE_SCHEMA sysname, TABLE_NAME sysname, TABLE_TYPE varchar(10)")
    found = [
        (session.database, entry.schema, entry.name, "BASE TABLE" if isinstance(entry, Table) else "VIEW")
        for entry in entries(session)
        if not isinstance(entry, Procedure)
    ]
    return spec, found


def columns(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "TABLE_CATALOG sysname, TABLE_SCHEMA sysname, TABLE_NAME sysname, COLUMN_NAME sysname, "
        "ORDINAL_POSITION int, COLUMN_DEFAULT nvarchar(4000), IS_NULLABLE varchar(3), DATA_TYPE sysname, "
        "CHARACTER_MAXIMUM_LENGTH int, CHARACTER_OCTET_LENGTH int, NUMERIC_PRECISION tinyint, "
        "NUMERIC_PRECISION_RADIX smallint, NUMERIC_SCALE int, DATETIME_PRECISION smallint, "
        "CHARACTER_SET_CATALOG sysname, CHARACTER_SET_SCHEMA sysname, CHARACTER_SET_NAME sysname, "
        "COLLATION_CATALOG sysname, COLLATION_SCHEMA sysname, COLLATION_NAME sysname, "
        "DOMAIN_CATALOG sysname, DOMAIN_SCHEMA sysname, DOMAIN_NAME sysname"
    )
    exact = {"tinyint", "smallint", "int", "bigint", "decimal", "money"}
    found = []
    for entry, columns in described(session):
        for column in columns:
            kind = with_length(column.type, 1)
            text = kind.name in CHARACTER
            numeric = kind.name in exact | {"float", "real"}
            precision, scale = precision_of(kind)
            seconds = {"datetime": 3, "smalldatetime": 0, "date": 0}.get(kind.name, kind.scale)
            moment = kind.name in {"date", "time", "datetime", "datetime2", "smalldatetime", "datetimeoffset"}
            found.append(
                (
                    session.database,
                    entry.schema,
                    entry.name,
                    column.name,
                    column.column_id,
                    f"({column.default})" if column.default else None,
                    "YES" if column.nullable else "NO",
                    kind.name,
                    kind.length,
                    max_length(kind) if kind.length is not None else None,
                    precision if numeric else None,
                    (2 if kind.name in {"float", "real"} else 10) if numeric else None,
                    scale if kind.name in exact else None,
                    seconds if moment else None,
                    None,
                    None,
                    ("UNICODE" if kind.name.startswith("n") else "iso_1") if text else None,
                    None,
                    None,
                    (column.collation or COLLATION) if text else None,
                    None,
                    None,
                    None,
                )
            )
    return spec, found


def views(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "TABLE_CATALOG sysname, TABLE_SCHEMA sysname, TABLE_NAME sysname, VIEW_DEFINITION nvarchar(max), "
        "CHECK_OPTION varchar(7), IS_UPDATABLE varchar(2)"
    )
    return spec, [
        (session.database, e.schema, e.name, e.text, "NONE", "NO") for e in entries(session) if isinstance(e, View)
    ]


def schemata(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "CATALOG_NAME sysname, SCHEMA_NAME sysname, SCHEMA_OWNER sysname, DEFAULT_CHARACTER_SET_NAME sysname"
    )
    return spec, [(session.database, name, "dbo", "iso_1") for name, _ in session.pool.catalog.schemas.values()]


def constraints(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "CONSTRAINT_CATALOG sysname, CONSTRAINT_SCHEMA sysname, CONSTRAINT_NAME sysname, "
        "TABLE_CATALOG sysname, TABLE_SCHEMA sysname, TABLE_NAME sysname, CONSTRAINT_TYPE varchar(11), "
        "IS_DEFERRABLE varchar(2), INITIALLY_DEFERRED varchar(2)"
    )
    found = [
        (session.database, t.schema, k.name, session.database, t.schema, t.name, k.kind, "NO", "NO")
        for t in tables_of(session)
        for k in t.keys
    ]
    return spec, found


def keys(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "CONSTRAINT_CATALOG sysname, CONSTRAINT_SCHEMA sysname, CONSTRAINT_NAME sysname, "
        "TABLE_CATALOG sysname, TABLE_SCHEMA sysname, TABLE_NAME sysname, COLUMN_NAME sysname, "
        "ORDINAL_POSITION int"
    )
    found = [
        (session.database, t.schema, k.name, session.database, t.schema, t.name, c, i)
        for t in tables_of(session)
        for k in t.keys
        for i, c in enumerate(k.columns, 1)
    ]
    return spec, found


def routines(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "ROUTINE_CATALOG sysname, ROUTINE_SCHEMA sysname, ROUTINE_NAME sysname, ROUTINE_TYPE nvarchar(20), "
        "ROUTINE_DEFINITION nvarchar(max)"
    )
    return spec, [
        (session.database, e.schema, e.name, "PROCEDURE", e.text) for e in entries(session) if isinstance(e, Procedure)
    ]
