"""The catalogue views: sys.*, INFORMATION_SCHEMA.* and the pool's dynamic management views, made of the catalogue.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/reference-tsql-system-views
Each view gives the columns clients ask for; a column that isn't here is error 207, never a made-up value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from localazure.sql import index_views, information_views, management_views
from localazure.sql.authority import directory_of
from localazure.sql.binding import SystemRows
from localazure.sql.catalog import Function, Procedure, View
from localazure.sql.catalog_rows import (
    COLLATION,
    COLUMN,
    OBJECT,
    TYPE_IDS,
    Rows,
    column_row,
    described,
    entries,
    key_code,
    max_length,
    moment,
    object_row,
    precision_of,
    schema_id,
    tables_of,
)
from localazure.sql.sqltypes import CHARACTER, arrow
from localazure.sql.view_columns import Spec, declare

if TYPE_CHECKING:
    from localazure.sql.pool import Session

ViewMaker = Callable[["Session"], tuple[Spec, Rows]]


def _objects(session: Session) -> tuple[Spec, Rows]:
    found = [object_row(session, entry) for entry in entries(session)]
    for table in tables_of(session):
        for key in table.keys:
            code, description = key_code(key)
            found.append(
                (
                    key.name,
                    key.object_id,
                    None,
                    schema_id(session, table.schema),
                    table.object_id,
                    code,
                    description,
                    moment(table.created),
                    moment(table.modified),
                    False,
                    False,
                    False,
                )
            )
    return OBJECT, found


def _sys_tables(session: Session) -> tuple[Spec, Rows]:
    extra: Spec = declare(
        "is_external bit, temporal_type tinyint, temporal_type_desc nvarchar(60), is_memory_optimized bit, "
        "durability tinyint, lob_data_space_id int, is_node bit, is_edge bit, is_filetable bit, "
        "history_table_id int, max_column_id_used int, uses_ansi_nulls bit"
    )
    found = [
        (
            *object_row(session, table),
            table.external is not None,
            0,
            "NON_TEMPORAL_TABLE",
            False,
            0,
            0,
            False,
            False,
            False,
            None,
            len(table.columns),
            True,
        )
        for table in tables_of(session)
    ]
    return OBJECT + extra, found


def _views(session: Session) -> tuple[Spec, Rows]:
    found = [
        (*object_row(session, entry), False, False, False) for entry in entries(session) if isinstance(entry, View)
    ]
    return [*OBJECT, *declare("is_replicated bit, has_opaque_metadata bit, with_check_option bit")], found


def _procedures(session: Session) -> tuple[Spec, Rows]:
    return OBJECT, [object_row(session, entry) for entry in entries(session) if isinstance(entry, Procedure)]


def _schemas(session: Session) -> tuple[Spec, Rows]:
    return declare("name sysname, schema_id int, principal_id int"), [
        (name, number, directory_of(session.pool).owner_of(name))
        for name, number in session.pool.catalog.schemas.values()
    ]


def _columns(session: Session) -> tuple[Spec, Rows]:
    return COLUMN, [column_row(entry, column) for entry, columns in described(session) for column in columns]


def _types(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "name sysname, system_type_id tinyint, user_type_id int, schema_id int, principal_id int, "
        "max_length smallint, precision tinyint, scale tinyint, collation_name sysname, is_nullable bit, "
        "is_user_defined bit, is_assembly_type bit, default_object_id int, rule_object_id int, "
        "is_table_type bit"
    )
    found = [
        (
            name,
            system,
            user,
            4,
            None,
            size,
            precision,
            scale,
            COLLATION if name in CHARACTER | {"sysname"} else None,
            name != "sysname",
            False,
            False,
            0,
            0,
            False,
        )
        for name, (size, system, user, precision, scale) in TYPE_IDS.items()
    ]
    return spec, found


def _modules(session: Session) -> tuple[Spec, Rows]:
    spec: Spec = declare(
        "object_id int, definition nvarchar(max), uses_ansi_nulls bit, uses_quoted_identifier bit, is_schema_bound bit"
    )
    access = session.access()
    found = [
        (e.object_id, e.text if access is None or access.on("VIEW DEFINITION", e) else None, True, True, False)
        for e in entries(session)
        if isinstance(e, View | Procedure | Function)
    ]
    return spec, found


def _parameters(session: Session) -> tuple[Spec, Rows]:
    from localazure.sql import syntax as s
    from localazure.sql.parse_statements import parse

    spec: Spec = declare(
        "object_id int, name sysname, parameter_id int, system_type_id tinyint, user_type_id int, "
        "max_length smallint, precision tinyint, scale tinyint, is_output bit"
    )
    found = []
    for entry in entries(session):
        statement = parse(entry.text)[0] if isinstance(entry, Procedure) else None
        if isinstance(statement, s.CreateProcedure):
            for number, parameter in enumerate(statement.parameters, 1):
                _, system, user, _, _ = TYPE_IDS[parameter.type.name]
                precision, scale = precision_of(parameter.type)
                found.append(
                    (
                        entry.object_id,
                        parameter.name,
                        number,
                        system,
                        user,
                        max_length(parameter.type),
                        precision,
                        scale,
                        parameter.output,
                    )
                )
    return spec, found


def _external_tables(session: Session) -> tuple[Spec, Rows]:
    spec = [*OBJECT, *declare("data_source_id int, file_format_id int, location nvarchar(4000)")]
    catalog = session.pool.catalog
    found = []
    for table in tables_of(session):
        if table.external is not None:
            source = catalog.setting("DATA SOURCE", table.external.get("DATA_SOURCE", ""))
            layout = catalog.setting("FILE FORMAT", table.external.get("FILE_FORMAT", ""))
            found.append(
                (
                    *object_row(session, table),
                    source.object_id if source else None,
                    layout.object_id if layout else None,
                    table.external.get("LOCATION"),
                )
            )
    return spec, found


_VIEWS: dict[str, ViewMaker] = {
    "sys.objects": _objects,
    "sys.all_objects": _objects,
    "sys.tables": _sys_tables,
    "sys.views": _views,
    "sys.all_views": _views,
    "sys.procedures": _procedures,
    "sys.schemas": _schemas,
    "sys.columns": _columns,
    "sys.all_columns": _columns,
    "sys.types": _types,
    "sys.indexes": index_views.indexes,
    "sys.index_columns": index_views.index_columns,
    "sys.key_constraints": index_views.key_constraints,
    "sys.identity_columns": index_views.identity_columns,
    "sys.computed_columns": index_views.computed_columns,
    "sys.default_constraints": index_views.defaults,
    "sys.partitions": index_views.partitions,
    "sys.stats": index_views.stats,
    "sys.stats_columns": index_views.stats_columns,
    "sys.sql_modules": _modules,
    "sys.all_sql_modules": _modules,
    "sys.parameters": _parameters,
    "sys.external_tables": _external_tables,
    "sys.pdw_table_distribution_properties": index_views.distributions,
    "sys.pdw_column_distribution_properties": index_views.column_distributions,
    "information_schema.tables": information_views.tables,
    "information_schema.columns": information_views.columns,
    "information_schema.views": information_views.views,
    "information_schema.schemata": information_views.schemata,
    "information_schema.table_constraints": information_views.constraints,
    "information_schema.key_column_usage": information_views.keys,
    "information_schema.constraint_column_usage": information_views.keys,
    "information_schema.routines": information_views.routines,
    **management_views.VIEWS,
}


def system_rows(session: Session, schema: str, name: str) -> SystemRows | None:
    """The rows of a view at this moment, or None when there is no such view."""
    if (schema, name) == ("sys", "system_views"):
        spec: Spec = declare("name sysname, object_id int, schema_id int, type char(2)")
        return _system(spec, [(key.split(".")[1], -index, 4, "V ") for index, key in enumerate(sorted(_VIEWS), 1)])
    maker = _VIEWS.get(f"{schema}.{name}")
    if maker is None:
        return None
    return _system(*maker(session))


def _system(spec: Spec, found: Rows) -> SystemRows:
    data = list(found)
    arrays = [pa.array([row[index] for row in data], arrow(kind)) for index, (_, kind) in enumerate(spec)]
    return SystemRows(tuple(spec), pa.Table.from_arrays(arrays, names=[name for name, _ in spec]))
