"""The catalogue views: sys.*, INFORMATION_SCHEMA.* and the pool's dynamic management views, made of the catalogue.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/reference-tsql-system-views
Each view gives the columns clients ask for; a column that isn't here is error 207, never a made-up value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from localazure.sql import management_views, partitions
from localazure.sql.binding import SystemRows
from localazure.sql.catalog import CatalogObject, Key, Procedure, Table, TableColumn, View
from localazure.sql.results import SqlType
from localazure.sql.sqltypes import CHARACTER, arrow, with_length

if TYPE_CHECKING:
    from localazure.sql.pool import Session

N = SqlType("nvarchar", 128)
NMAX = SqlType("nvarchar", -1)
C2 = SqlType("varchar", 2)
I = SqlType("int")  # noqa: E741  one letter a column type keeps the tables readable
T = SqlType("tinyint")
S = SqlType("smallint")
B = SqlType("bit")
L = SqlType("bigint")
D = SqlType("datetime")
COLLATION = "SQL_Latin1_General_CP1_CI_AS"

# name: (max_length, system_type_id, user_type_id, precision, scale) as sys.types lists them
TYPE_IDS: dict[str, tuple[int, int, int, int, int]] = {
    "uniqueidentifier": (16, 36, 36, 0, 0), "date": (3, 40, 40, 10, 0), "time": (5, 41, 41, 16, 7), "datetime2": (8, 42, 42, 27, 7),
    "datetimeoffset": (10, 43, 43, 34, 7), "tinyint": (1, 48, 48, 3, 0), "smallint": (2, 52, 52, 5, 0), "int": (4, 56, 56, 10, 0),
    "smalldatetime": (4, 58, 58, 16, 0), "real": (4, 59, 59, 24, 0), "money": (8, 60, 60, 19, 4), "datetime": (8, 61, 61, 23, 3),
    "float": (8, 62, 62, 53, 0), "bit": (1, 104, 104, 1, 0), "decimal": (17, 106, 106, 38, 38), "numeric": (17, 108, 108, 38, 38),
    "smallmoney": (4, 122, 122, 10, 4), "bigint": (8, 127, 127, 19, 0), "varbinary": (8000, 165, 165, 0, 0),
    "varchar": (8000, 167, 167, 0, 0), "binary": (8000, 173, 173, 0, 0), "char": (8000, 175, 175, 0, 0), "nvarchar": (8000, 231, 231, 0, 0),
    "nchar": (8000, 239, 239, 0, 0), "sysname": (256, 231, 256, 0, 0),
}  # fmt: skip
ODBC_TYPES = {"bit": -7, "tinyint": -6, "smallint": 5, "int": 4, "bigint": -5, "decimal": 3, "money": 3, "real": 7, "float": 6, "char": 1,
              "varchar": 12, "nchar": -8, "nvarchar": -9, "binary": -2, "varbinary": -3, "date": -9, "time": -9, "datetime": 11,
              "datetime2": -9, "smalldatetime": 11, "datetimeoffset": -9, "uniqueidentifier": -11}  # fmt: skip
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


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


Spec = list[tuple[str, SqlType]]
Rows = Iterable[tuple[Any, ...]]
ViewMaker = Callable[["Session"], tuple[Spec, Rows]]


def _code(entry: CatalogObject) -> tuple[str, str]:
    if isinstance(entry, Table):
        return "U ", "USER_TABLE"
    if isinstance(entry, View):
        return "V ", "VIEW"
    return "P ", "SQL_STORED_PROCEDURE"


def _schema_id(session: Session, name: str) -> int:
    return session.pool.catalog.schemas.get(name.lower(), ("", 1))[1]


def _entries(session: Session) -> list[CatalogObject]:
    return sorted(session.pool.catalog.objects.values(), key=lambda entry: entry.object_id)


def _tables(session: Session) -> list[Table]:
    return [entry for entry in _entries(session) if isinstance(entry, Table)]


_OBJECT: Spec = [("name", N), ("object_id", I), ("principal_id", I), ("schema_id", I), ("parent_object_id", I), ("type", SqlType("char", 2)),
                 ("type_desc", SqlType("nvarchar", 60)), ("create_date", D), ("modify_date", D), ("is_ms_shipped", B), ("is_published", B),
                 ("is_schema_published", B)]  # fmt: skip


def _object_row(session: Session, entry: CatalogObject) -> tuple[Any, ...]:
    code, description = _code(entry)
    return (entry.name, entry.object_id, None, _schema_id(session, entry.schema), 0, code, description, _moment(entry.created),
            _moment(entry.modified), False, False, False)  # fmt: skip


def _objects(session: Session) -> tuple[Spec, Rows]:
    found = [_object_row(session, entry) for entry in _entries(session)]
    for table in _tables(session):
        for key in table.keys:
            code, description = _key_code(key)
            found.append((key.name, key.object_id, None, _schema_id(session, table.schema), table.object_id, code, description,
                          _moment(table.created), _moment(table.modified), False, False, False))  # fmt: skip
    return _OBJECT, found


def _key_code(key: Key) -> tuple[str, str]:
    return ("PK", "PRIMARY_KEY_CONSTRAINT") if key.kind == "PRIMARY KEY" else ("UQ", "UNIQUE_CONSTRAINT")


def _sys_tables(session: Session) -> tuple[Spec, Rows]:
    extra: Spec = [("is_external", B), ("temporal_type", T), ("temporal_type_desc", SqlType("nvarchar", 60)), ("is_memory_optimized", B),
                   ("durability", T), ("lob_data_space_id", I), ("is_node", B), ("is_edge", B), ("is_filetable", B), ("history_table_id", I),
                   ("max_column_id_used", I), ("uses_ansi_nulls", B)]  # fmt: skip
    found = [
        (*_object_row(session, table), table.external is not None, 0, "NON_TEMPORAL_TABLE", False, 0, 0, False, False, False, None,
         len(table.columns), True)
        for table in _tables(session)
    ]  # fmt: skip
    return _OBJECT + extra, found


def _views(session: Session) -> tuple[Spec, Rows]:
    found = [
        (*_object_row(session, entry), False, False, False) for entry in _entries(session) if isinstance(entry, View)
    ]  # fmt: skip
    return [*_OBJECT, ("is_replicated", B), ("has_opaque_metadata", B), ("with_check_option", B)], found


def _procedures(session: Session) -> tuple[Spec, Rows]:
    return _OBJECT, [_object_row(session, entry) for entry in _entries(session) if isinstance(entry, Procedure)]


def _schemas(session: Session) -> tuple[Spec, Rows]:
    return [("name", N), ("schema_id", I), ("principal_id", I)], [(name, number, 1) for name, number in session.pool.catalog.schemas.values()]


def _described(session: Session) -> list[tuple[CatalogObject, list[TableColumn]]]:
    """Every table and view with its columns; a view that can't be bound any more has none."""
    from localazure.sql.describing import first_result  # noqa: PLC0415  needs the whole engine
    from localazure.sql.interpreter import Frame  # noqa: PLC0415
    from localazure.sql.results import SqlError  # noqa: PLC0415

    found: list[tuple[CatalogObject, list[TableColumn]]] = []
    for entry in _entries(session):
        if isinstance(entry, Table):
            found.append((entry, list(entry.columns)))
        elif isinstance(entry, View):
            try:
                columns = first_result(session, entry.query_text, Frame())  # type: ignore[arg-type]
            except SqlError:
                columns = ()
            names = list(entry.columns) or [column.name for column in columns]
            found.append((entry, [TableColumn(name, c.type, c.nullable, i) for i, (name, c) in enumerate(zip(names, columns, strict=False), 1)]))
    return found


_COLUMN: Spec = [("object_id", I), ("name", N), ("column_id", I), ("system_type_id", T), ("user_type_id", I), ("max_length", S),
                 ("precision", T), ("scale", T), ("collation_name", N), ("is_nullable", B), ("is_ansi_padded", B), ("is_rowguidcol", B),
                 ("is_identity", B), ("is_computed", B), ("is_filestream", B), ("is_replicated", B), ("is_xml_document", B), ("is_sparse", B),
                 ("is_column_set", B), ("is_hidden", B), ("is_masked", B), ("generated_always_type", T),
                 ("generated_always_type_desc", SqlType("nvarchar", 60)), ("default_object_id", I), ("rule_object_id", I),
                 ("xml_collection_id", I), ("encryption_type", I)]  # fmt: skip


def _column_row(entry: CatalogObject, column: TableColumn) -> tuple[Any, ...]:
    _, system, user, _, _ = TYPE_IDS[column.type.name]
    precision, scale = precision_of(column.type)
    text = column.type.name in CHARACTER
    default = entry.object_id * 4096 % 2147483647 + column.column_id if column.default else 0
    return (entry.object_id, column.name, column.column_id, system, user, max_length(column.type), precision, scale,
            (column.collation or COLLATION) if text else None, column.nullable, text, False, column.identity is not None, False, False, False,
            False, False, False, False, False, 0, "NOT_APPLICABLE", default, 0, 0, None)  # fmt: skip


def _columns(session: Session) -> tuple[Spec, Rows]:
    return _COLUMN, [_column_row(entry, column) for entry, columns in _described(session) for column in columns]


def _computed_columns(session: Session) -> tuple[Spec, Rows]:
    """A dedicated pool has none."""
    return [*_COLUMN, ("definition", NMAX), ("uses_database_collation", B), ("is_persisted", B)], []


def _types(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("name", N), ("system_type_id", T), ("user_type_id", I), ("schema_id", I), ("principal_id", I), ("max_length", S),
                  ("precision", T), ("scale", T), ("collation_name", N), ("is_nullable", B), ("is_user_defined", B), ("is_assembly_type", B),
                  ("default_object_id", I), ("rule_object_id", I), ("is_table_type", B)]  # fmt: skip
    found = [
        (name, system, user, 4, None, size, precision, scale, COLLATION if name in CHARACTER | {"sysname"} else None, name != "sysname", False,
         False, 0, 0, False)
        for name, (size, system, user, precision, scale) in TYPE_IDS.items()
    ]  # fmt: skip
    return spec, found


def index_rows(table: Table) -> list[tuple[int, str | None, str, tuple[str, ...], Key | None]]:
    """(index_id, name, type description, columns, key) of a table: its storage first, then keys and indexes."""
    name = {"HEAP": None, "COLUMNSTORE": f"ClusteredIndex_{table.object_id:x}", "CLUSTERED": f"ClusteredIndex_{table.object_id:x}"}[table.index]
    description = {"HEAP": "HEAP", "COLUMNSTORE": "CLUSTERED COLUMNSTORE", "CLUSTERED": "CLUSTERED"}[table.index]
    first = tuple(c.name for c in table.columns) if table.index == "COLUMNSTORE" else table.index_columns
    found: list[tuple[int, str | None, str, tuple[str, ...], Key | None]] = [(0 if table.index == "HEAP" else 1, name, description, first, None)]
    for number, key in enumerate(table.keys, 2):
        found.append((number, key.name, "NONCLUSTERED", key.columns, key))
    for number, (title, columns) in enumerate(table.indexes, 2 + len(table.keys)):
        found.append((number, title, "NONCLUSTERED", columns, None))
    return found


_INDEX_TYPES = {"HEAP": 0, "CLUSTERED": 1, "NONCLUSTERED": 2, "CLUSTERED COLUMNSTORE": 5}


def _indexes(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("object_id", I), ("name", N), ("index_id", I), ("type", T), ("type_desc", SqlType("nvarchar", 60)), ("is_unique", B),
                  ("data_space_id", I), ("ignore_dup_key", B), ("is_primary_key", B), ("is_unique_constraint", B), ("fill_factor", T),
                  ("is_padded", B), ("is_disabled", B), ("is_hypothetical", B), ("allow_row_locks", B), ("allow_page_locks", B),
                  ("has_filter", B), ("filter_definition", NMAX)]  # fmt: skip
    found = []
    for table in _tables(session):
        for number, name, kind, _, key in index_rows(table):
            found.append((table.object_id, name, number, _INDEX_TYPES[kind], kind, key is not None, 1, False,
                          key is not None and key.kind == "PRIMARY KEY", key is not None and key.kind == "UNIQUE", 0, False, False, False, True,
                          True, False, None))  # fmt: skip
    return spec, found


def _index_columns(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("object_id", I), ("index_id", I), ("index_column_id", I), ("column_id", I), ("key_ordinal", T), ("partition_ordinal", T),
                  ("is_descending_key", B), ("is_included_column", B), ("column_store_order_ordinal", T)]  # fmt: skip
    found = []
    for table in _tables(session):
        split = table.partitioning.column.lower() if table.partitioning else ""
        for number, _, kind, columns, _ in index_rows(table):
            for position, name in enumerate(columns, 1):
                column = table.column(name)
                stored = kind == "CLUSTERED COLUMNSTORE"
                ordered = [c.lower() for c in table.index_columns].index(name.lower()) + 1 if stored and name.lower() in [
                    c.lower() for c in table.index_columns] else 0  # fmt: skip
                found.append((table.object_id, number, position, column.column_id if column else 0, 0 if stored else position,
                              int(name.lower() == split), False, stored, ordered))  # fmt: skip
    return spec, found


def _key_constraints(session: Session) -> tuple[Spec, Rows]:
    spec = [*_OBJECT, ("unique_index_id", I), ("is_system_named", B), ("is_enforced", B)]
    found = []
    for table in _tables(session):
        for number, _, _, _, key in index_rows(table):
            if key is not None:
                code, description = _key_code(key)
                found.append((key.name, key.object_id, None, _schema_id(session, table.schema), table.object_id, code, description,
                              _moment(table.created), _moment(table.modified), False, False, False, number, False, False))  # fmt: skip
    return spec, found


def _identity_columns(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [*_COLUMN, ("seed_value", L), ("increment_value", L), ("last_value", L), ("is_not_for_replication", B)]
    found = [
        (*_column_row(table, column), *column.identity, None, False)
        for table in _tables(session)
        for column in table.columns
        if column.identity is not None
    ]
    return spec, found


def _defaults(session: Session) -> tuple[Spec, Rows]:
    spec = [*_OBJECT, ("parent_column_id", I), ("definition", NMAX), ("is_system_named", B)]
    found = []
    for table in _tables(session):
        for column in table.columns:
            if column.default:
                number = table.object_id * 4096 % 2147483647 + column.column_id
                found.append((column.default_name or f"DF_{table.name}_{column.name}", number, None, _schema_id(session, table.schema),
                              table.object_id, "D ", "DEFAULT_CONSTRAINT", _moment(table.created), _moment(table.modified), False, False, False,
                              column.column_id, f"({column.default})", not column.default_name))  # fmt: skip
    return spec, found


def _partitions(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("partition_id", L), ("object_id", I), ("index_id", I), ("partition_number", I), ("hobt_id", L), ("rows", L),
                  ("data_compression", T), ("data_compression_desc", SqlType("nvarchar", 60))]  # fmt: skip
    found = []
    for table in _tables(session):
        if table.external is not None:
            continue
        numbers = len(table.partitioning.boundaries) + 1 if table.partitioning else 1
        sql = f"SELECT {partitions.number_sql(session, table)} AS n, count(*) FROM {table.physical} GROUP BY n"
        counts = dict(session.cursor.execute(sql).fetchall()) if not session.doomed else {}
        first = index_rows(table)[0][0]
        for number in range(1, numbers + 1):
            identity = table.object_id * 10_000 + number
            found.append((identity, table.object_id, first, number, identity, counts.get(number, 0), 0 if table.index == "HEAP" else 3,
                          "NONE" if table.index == "HEAP" else "COLUMNSTORE"))  # fmt: skip
    return spec, found


def _stats(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("object_id", I), ("name", N), ("stats_id", I), ("auto_created", B), ("user_created", B), ("no_recompute", B),
                  ("has_filter", B), ("filter_definition", NMAX), ("is_temporary", B), ("is_incremental", B)]  # fmt: skip
    found = []
    for table in _tables(session):
        for number, (name, _) in enumerate(table.statistics, 2):
            found.append((table.object_id, name, number, False, True, False, False, None, False, False))
    return spec, found


def _stats_columns(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("object_id", I), ("stats_id", I), ("stats_column_id", I), ("column_id", I)]
    found = []
    for table in _tables(session):
        for number, (_, columns) in enumerate(table.statistics, 2):
            for position, name in enumerate(columns, 1):
                column = table.column(name)
                found.append((table.object_id, number, position, column.column_id if column else 0))
    return spec, found


def _modules(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("object_id", I), ("definition", NMAX), ("uses_ansi_nulls", B), ("uses_quoted_identifier", B), ("is_schema_bound", B)]
    found = [(e.object_id, e.text, True, True, False) for e in _entries(session) if isinstance(e, View | Procedure)]
    return spec, found


def _parameters(session: Session) -> tuple[Spec, Rows]:
    from localazure.sql import syntax as s  # noqa: PLC0415
    from localazure.sql.parse_statements import parse  # noqa: PLC0415

    spec: Spec = [("object_id", I), ("name", N), ("parameter_id", I), ("system_type_id", T), ("user_type_id", I), ("max_length", S),
                  ("precision", T), ("scale", T), ("is_output", B)]  # fmt: skip
    found = []
    for entry in _entries(session):
        statement = parse(entry.text)[0] if isinstance(entry, Procedure) else None
        if isinstance(statement, s.CreateProcedure):
            for number, parameter in enumerate(statement.parameters, 1):
                _, system, user, _, _ = TYPE_IDS[parameter.type.name]
                precision, scale = precision_of(parameter.type)
                found.append((entry.object_id, parameter.name, number, system, user, max_length(parameter.type), precision, scale,
                              parameter.output))  # fmt: skip
    return spec, found


def _external_tables(session: Session) -> tuple[Spec, Rows]:
    spec = [*_OBJECT, ("data_source_id", I), ("file_format_id", I), ("location", SqlType("nvarchar", 4000))]
    catalog = session.pool.catalog
    found = []
    for table in _tables(session):
        if table.external is not None:
            source = catalog.setting("DATA SOURCE", table.external.get("DATA_SOURCE", ""))
            layout = catalog.setting("FILE FORMAT", table.external.get("FILE_FORMAT", ""))
            found.append((*_object_row(session, table), source.object_id if source else None, layout.object_id if layout else None,
                          table.external.get("LOCATION")))  # fmt: skip
    return spec, found


def _information_tables(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("TABLE_CATALOG", N), ("TABLE_SCHEMA", N), ("TABLE_NAME", N), ("TABLE_TYPE", SqlType("varchar", 10))]
    found = [
        (session.database, entry.schema, entry.name, "BASE TABLE" if isinstance(entry, Table) else "VIEW")
        for entry in _entries(session)
        if not isinstance(entry, Procedure)
    ]
    return spec, found


def _information_columns(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("TABLE_CATALOG", N), ("TABLE_SCHEMA", N), ("TABLE_NAME", N), ("COLUMN_NAME", N), ("ORDINAL_POSITION", I),
                  ("COLUMN_DEFAULT", SqlType("nvarchar", 4000)), ("IS_NULLABLE", SqlType("varchar", 3)), ("DATA_TYPE", N),
                  ("CHARACTER_MAXIMUM_LENGTH", I), ("CHARACTER_OCTET_LENGTH", I), ("NUMERIC_PRECISION", T), ("NUMERIC_PRECISION_RADIX", S),
                  ("NUMERIC_SCALE", I), ("DATETIME_PRECISION", S), ("CHARACTER_SET_CATALOG", N), ("CHARACTER_SET_SCHEMA", N),
                  ("CHARACTER_SET_NAME", N), ("COLLATION_CATALOG", N), ("COLLATION_SCHEMA", N), ("COLLATION_NAME", N), ("DOMAIN_CATALOG", N),
                  ("DOMAIN_SCHEMA", N), ("DOMAIN_NAME", N)]  # fmt: skip
    exact = {"tinyint", "smallint", "int", "bigint", "decimal", "money"}
    found = []
    for entry, columns in _described(session):
        for column in columns:
            kind = with_length(column.type, 1)
            text = kind.name in CHARACTER
            numeric = kind.name in exact | {"float", "real"}
            precision, scale = precision_of(kind)
            seconds = {"datetime": 3, "smalldatetime": 0, "date": 0}.get(kind.name, kind.scale)
            moment = kind.name in {"date", "time", "datetime", "datetime2", "smalldatetime", "datetimeoffset"}
            found.append((session.database, entry.schema, entry.name, column.name, column.column_id,
                          f"({column.default})" if column.default else None, "YES" if column.nullable else "NO", kind.name, kind.length,
                          max_length(kind) if kind.length is not None else None, precision if numeric else None,
                          (2 if kind.name in {"float", "real"} else 10) if numeric else None, scale if kind.name in exact else None,
                          seconds if moment else None, None, None, ("UNICODE" if kind.name.startswith("n") else "iso_1") if text else None, None,
                          None, (column.collation or COLLATION) if text else None, None, None, None))  # fmt: skip
    return spec, found


def _information_views(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("TABLE_CATALOG", N), ("TABLE_SCHEMA", N), ("TABLE_NAME", N), ("VIEW_DEFINITION", NMAX),
                  ("CHECK_OPTION", SqlType("varchar", 7)), ("IS_UPDATABLE", C2)]  # fmt: skip
    return spec, [(session.database, e.schema, e.name, e.text, "NONE", "NO") for e in _entries(session) if isinstance(e, View)]


def _information_schemata(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("CATALOG_NAME", N), ("SCHEMA_NAME", N), ("SCHEMA_OWNER", N), ("DEFAULT_CHARACTER_SET_NAME", N)]
    return spec, [(session.database, name, "dbo", "iso_1") for name, _ in session.pool.catalog.schemas.values()]


def _information_constraints(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("CONSTRAINT_CATALOG", N), ("CONSTRAINT_SCHEMA", N), ("CONSTRAINT_NAME", N), ("TABLE_CATALOG", N), ("TABLE_SCHEMA", N),
                  ("TABLE_NAME", N), ("CONSTRAINT_TYPE", SqlType("varchar", 11)), ("IS_DEFERRABLE", C2), ("INITIALLY_DEFERRED", C2)]  # fmt: skip
    found = [
        (session.database, t.schema, k.name, session.database, t.schema, t.name, k.kind, "NO", "NO") for t in _tables(session) for k in t.keys
    ]  # fmt: skip
    return spec, found


def _information_keys(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("CONSTRAINT_CATALOG", N), ("CONSTRAINT_SCHEMA", N), ("CONSTRAINT_NAME", N), ("TABLE_CATALOG", N), ("TABLE_SCHEMA", N),
                  ("TABLE_NAME", N), ("COLUMN_NAME", N), ("ORDINAL_POSITION", I)]  # fmt: skip
    found = [
        (session.database, t.schema, k.name, session.database, t.schema, t.name, c, i)
        for t in _tables(session)
        for k in t.keys
        for i, c in enumerate(k.columns, 1)
    ]
    return spec, found


def _information_routines(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("ROUTINE_CATALOG", N), ("ROUTINE_SCHEMA", N), ("ROUTINE_NAME", N), ("ROUTINE_TYPE", SqlType("nvarchar", 20)),
                  ("ROUTINE_DEFINITION", NMAX)]  # fmt: skip
    return spec, [(session.database, e.schema, e.name, "PROCEDURE", e.text) for e in _entries(session) if isinstance(e, Procedure)]


def _distributions(session: Session) -> tuple[Spec, Rows]:
    codes = {"HASH": 2, "REPLICATE": 3, "ROUND_ROBIN": 4}
    spec: Spec = [("object_id", I), ("distribution_policy", T), ("distribution_policy_desc", SqlType("nvarchar", 60))]
    return spec, [(t.object_id, codes[t.distribution], t.distribution) for t in _tables(session)]


def _column_distributions(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = [("object_id", I), ("column_id", I), ("distribution_ordinal", T)]
    found = []
    for table in _tables(session):
        keys = [name.lower() for name in table.hash_columns]
        for column in table.columns:
            found.append((table.object_id, column.column_id, keys.index(column.name.lower()) + 1 if column.name.lower() in keys else 0))
    return spec, found


_VIEWS: dict[str, ViewMaker] = {
    "sys.objects": _objects, "sys.all_objects": _objects, "sys.tables": _sys_tables, "sys.views": _views, "sys.all_views": _views,
    "sys.procedures": _procedures, "sys.schemas": _schemas, "sys.columns": _columns, "sys.all_columns": _columns, "sys.types": _types,
    "sys.indexes": _indexes, "sys.index_columns": _index_columns, "sys.key_constraints": _key_constraints,
    "sys.identity_columns": _identity_columns, "sys.computed_columns": _computed_columns, "sys.default_constraints": _defaults, "sys.partitions": _partitions, "sys.stats": _stats,
    "sys.stats_columns": _stats_columns, "sys.sql_modules": _modules, "sys.all_sql_modules": _modules, "sys.parameters": _parameters,
    "sys.external_tables": _external_tables, "sys.pdw_table_distribution_properties": _distributions,
    "sys.pdw_column_distribution_properties": _column_distributions, "information_schema.tables": _information_tables,
    "information_schema.columns": _information_columns, "information_schema.views": _information_views,
    "information_schema.schemata": _information_schemata, "information_schema.table_constraints": _information_constraints,
    "information_schema.key_column_usage": _information_keys, "information_schema.constraint_column_usage": _information_keys,
    "information_schema.routines": _information_routines, **management_views.VIEWS,
}  # fmt: skip


def system_rows(session: Session, schema: str, name: str) -> SystemRows | None:
    """The rows of a view at this moment, or None when there is no such view."""
    if (schema, name) == ("sys", "system_views"):
        spec: Spec = [("name", N), ("object_id", I), ("schema_id", I), ("type", SqlType("char", 2))]
        return _system(spec, [(key.split(".")[1], -index, 4, "V ") for index, key in enumerate(sorted(_VIEWS), 1)])
    maker = _VIEWS.get(f"{schema}.{name}")
    if maker is None:
        return None
    return _system(*maker(session))


def _system(spec: Spec, found: Rows) -> SystemRows:
    data = list(found)
    arrays = [pa.array([row[index] for row in data], arrow(kind)) for index, (_, kind) in enumerate(spec)]
    return SystemRows(tuple(spec), pa.Table.from_arrays(arrays, names=[name for name, _ in spec]))
