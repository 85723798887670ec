"""Definitions: tables, CTAS, views, procedures, schemas, RENAME, ALTER, DROP, TRUNCATE, statistics and indexes.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-tables-overview
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localazure.sql import alter_tables, errors, external, functions_of_users, load, partitions, security
from localazure.sql import syntax as s
from localazure.sql.authority import directory_of
from localazure.sql.binding import Scope
from localazure.sql.catalog import (
    CatalogObject,
    Function,
    Procedure,
    Table,
    TableColumn,
    View,
    now,
    quote,
    schema_name,
)
from localazure.sql.changes import stored
from localazure.sql.permissions import OBJECT, SCHEMA
from localazure.sql.principals import DBO
from localazure.sql.queries import OutputColumn
from localazure.sql.results import Result, RowsAffected, SqlError
from localazure.sql.rules import check_definition
from localazure.sql.service import drop_database, drop_setting
from localazure.sql.sqltypes import duck
from localazure.sql.syntax_queries import reads_rows
from localazure.sql.table_parts import (
    column_of,
    create_sql,
    existing,
    frame_of,
    keep,
    key_constraints,
    new_table,
    place,
    refuse_elsewhere,
)

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Session


def define(session: Session, statement: s.Statement, frame: Frame) -> Iterator[Result]:
    """Run one definition. Serverless pools have views, procedures and external objects alone."""
    check_definition(session.pool.kind, session.database, statement)
    yield _HANDLERS[type(statement)](session, statement, frame)


# ---- CREATE TABLE --------


def _create_table(session: Session, statement: s.CreateTable, frame: Frame) -> Result:
    columns = [column_of(definition) for definition in statement.columns]
    table = new_table(session, statement.name, columns, statement.options, statement.line)
    table = replace(table, keys=key_constraints(session, table, statement.keys, statement.line))
    compiler = session.compiler(frame)
    for column in table.columns:
        if column.default:
            compiler.default(
                column, table, statement.line
            )  # a default that can't be converted fails now, not at an INSERT
    with session.pool.catalog.change(session.cursor) as change:
        for sql in create_sql(table):
            change.run(sql)
        keep(session, change, table)
    return RowsAffected(None)


def _create_table_as(session: Session, statement: s.CreateTableAs, frame: Frame) -> Result:
    """https://learn.microsoft.com/en-us/sql/t-sql/statements/create-table-as-select-azure-sql-data-warehouse"""
    line = statement.line
    if statement.options.distribution is None and session.pool.kind.ctas_needs_distribution:
        raise SqlError(
            103010,
            f"Parse error at line: {line}: Incorrect syntax near 'AS'. CREATE TABLE AS SELECT requires a "
            "DISTRIBUTION option.",
            line=line,
        )
    compiler = session.compiler(frame)
    compiled = compiler.query(statement.query, None)
    names = statement.columns or [column.name for column in compiled.columns]
    if len(names) != len(compiled.columns):
        raise SqlError(
            8158,
            f"'{statement.name[-1]}' has a different number of columns than were specified in the column list.",
            line=line,
        )
    columns: list[TableColumn] = []
    for position, (name, column) in enumerate(zip(names, compiled.columns, strict=True), 1):
        if not name:
            raise SqlError(
                1038,
                f"An object or column name is missing or empty: column {position} of the SELECT needs an alias.",
                line=line,
            )
        columns.append(TableColumn(name, column.type, column.nullable))
    table = new_table(session, statement.name, columns, statement.options, line)
    values = []
    for index, made in enumerate(table.columns):
        value = compiled.value(index, '"q"')
        if compiled.columns[index].null:
            value = replace(value, sql=f"CAST({value.sql} AS {duck(made.type)})")
        values.append(stored(value, made, line))
    insert = f'INSERT INTO {table.physical} SELECT {", ".join(values)} FROM ({compiled.sql}) AS "q"'
    parameters = session.values(frozenset(compiler.context.parameters), frame)
    compiler.context.local = compiler.context.local or table.temporary
    compiler.context.check_mixed(line)
    with (
        session.attached(compiler.context.attachments, insert, parameters, line),
        session.pool.catalog.change(session.cursor) as change,
    ):
        for sql in create_sql(table):
            change.run(sql)
        found = session.cursor.execute(insert, parameters or None).fetchall()
        keep(session, change, table)
    return RowsAffected(int(found[0][0]) if found else 0)


# ---- views, procedures, schemas --------


def _replaced(
    session: Session, parts: s.Parts, kind: type[CatalogObject], statement: Any
) -> tuple[str, str, CatalogObject | None]:
    """(schema, name, the object that CREATE OR ALTER or ALTER replaces)."""
    context = session.context(frame_of())
    refuse_elsewhere(session, parts, statement.line)
    schema, name = context.split_name(parts, statement.line)
    found = session.pool.catalog.find(schema, name)
    if statement.alter and not isinstance(found, kind):
        raise errors.invalid_object(".".join(parts), statement.line)
    if found is not None and (statement.alter or statement.replace) and isinstance(found, kind):
        return found.schema, found.name, found
    schema, name = place(session, parts, statement.line)
    return schema, name, None


def _create_view(session: Session, statement: s.CreateView, frame: Frame) -> Result:
    """The query is bound now, so that a view never names what isn't there, and again whenever it is read."""
    schema, name, old = _replaced(session, statement.name, View, statement)
    compiled = session.compiler(frame_of()).query(statement.query, None)
    names = statement.columns or [column.name for column in compiled.columns]
    if len(names) != len(compiled.columns):
        raise SqlError(
            8158,
            f"'{name}' has a different number of columns than were specified in the column list.",
            line=statement.line,
        )
    for position, column in enumerate(names, 1):
        if not column:
            raise SqlError(
                4511,
                f"Create View or Function failed because no column name was specified for column {position}.",
                line=statement.line,
            )
    if statement.materialized:
        _check_materialized(statement, compiled.columns)
    stamp = now()
    view = View(
        old.object_id if old else session.pool.catalog.new_id(),
        schema,
        name,
        old.created if old else stamp,
        stamp,
        tuple(names),
        statement.query_text,
        statement.text,
        statement.distribution,
        False,
        statement.materialized,
    )
    with session.pool.catalog.change(session.cursor) as change:
        change.put(view)
    return RowsAffected(None)


_IN_MATERIALIZED = frozenset({"AVG", "COUNT", "COUNT_BIG", "MAX", "MIN", "SUM", "STDEV", "STDEVP", "VAR", "VARP"})


def _check_materialized(statement: s.CreateView, columns: tuple[OutputColumn, ...]) -> None:
    """A SELECT with an aggregate, or grouped with all its keys in the list; hash columns from that list.

    https://learn.microsoft.com/en-us/sql/t-sql/statements/create-materialized-view-as-select-transact-sql
    """
    line, body = statement.line, statement.query.body
    what = f"CREATE MATERIALIZED VIEW {'.'.join(statement.name)}"
    if not isinstance(body, s.Select) or statement.query.tables or body.distinct or body.top or body.having:
        raise errors.refused(what, line, "Only one SELECT without DISTINCT, TOP, HAVING or common tables.")
    aggregates = [
        item.expr for item in body.items if isinstance(item.expr, s.Call) and item.expr.name in _IN_MATERIALIZED
    ]
    keys = [expr.parts[-1].lower() for group in body.groups for expr in group.sets[0] if isinstance(expr, s.Name)]
    listed = {item.expr.parts[-1].lower() for item in body.items if isinstance(item.expr, s.Name)}
    if not aggregates and not (keys and set(keys) <= listed):
        raise errors.refused(what, line, "The SELECT list needs an aggregate, or every column of the GROUP BY.")
    wanted = [name.strip().lower() for name in statement.distribution.split(",")[1:]]
    for name in wanted:
        if name not in {column.name.lower() for column in columns}:
            raise errors.invalid_column(name, line)


def _create_procedure(session: Session, statement: s.CreateProcedure, frame: Frame) -> Result:
    for parameter in statement.parameters:
        if parameter.default is not None:
            raise errors.refused("default parameter", statement.line)
    schema, name, old = _replaced(session, statement.name, Procedure, statement)
    stamp = now()
    identity = old.object_id if old else session.pool.catalog.new_id()
    with session.pool.catalog.change(session.cursor) as change:
        change.put(Procedure(identity, schema, name, old.created if old else stamp, stamp, statement.text))
    return RowsAffected(None)


def _create_function(session: Session, statement: s.CreateFunction, frame: Frame) -> Result:
    """Scalar functions are a dedicated pool's, inline tables both pools'. The body is bound now, NULLs as arguments.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/overview-features#database-objects
    """
    if statement.query is None and not session.pool.kind.tables:
        raise errors.unsupported("CREATE FUNCTION with a scalar result", statement.line)
    if statement.query is None and reads_rows([statement.value, statement.body]):
        raise errors.not_implemented("a query in a scalar function", statement.line)
    schema, name, old = _replaced(session, statement.name, Function, statement)
    nothing = s.Call(statement.line, (schema,), name.upper(), [])
    for parameter in statement.parameters:
        typed = s.Cast(statement.line, s.Literal(statement.line, "null", "NULL"), parameter.type, False)
        nothing.args.append(typed)
    compiler = session.compiler(frame_of())
    if statement.query is None:
        functions_of_users.scalar(compiler, statement, nothing, Scope())
    else:
        functions_of_users.table(compiler, statement, nothing, Scope())
    stamp = now()
    made = Function(
        old.object_id if old else session.pool.catalog.new_id(),
        schema,
        name,
        old.created if old else stamp,
        stamp,
        statement.text,
        statement.query is not None,
    )
    with session.pool.catalog.change(session.cursor) as change:
        change.put(made)
    return RowsAffected(None)


def _create_schema(session: Session, statement: s.CreateSchema, frame: Frame) -> Result:
    if statement.name.lower() in session.pool.catalog.schemas:
        raise SqlError(
            2714, f"There is already an object named '{statement.name}' in the database.", state=6, line=statement.line
        )
    owner = security.owner_of(session, statement.owner, statement.line)
    with session.pool.catalog.change(session.cursor) as change:
        if session.pool.kind.tables:  # without rows of its own a schema is a name in the catalogue
            change.run(f"CREATE SCHEMA {quote(schema_name(statement.name))}")
        change.put_schema(statement.name)
        security.own_schema(change, statement.name, owner)
    return RowsAffected(None)


# ---- DROP, TRUNCATE, RENAME --------


def _drop(session: Session, statement: s.Drop, frame: Frame) -> Result:
    for parts in statement.names:
        if statement.kind in {"TABLE", "EXTERNAL TABLE", "VIEW", "PROCEDURE", "FUNCTION"}:
            _drop_object(session, statement, parts)
        elif statement.kind == "SCHEMA":
            _drop_schema(session, statement, parts[-1])
        elif statement.kind == "STATISTICS":
            alter_tables.drop_statistics(session, parts, statement.line)
        elif statement.kind == "DATABASE":
            drop_database(session, parts[-1], statement.if_exists, statement.line)
        else:
            kind = statement.kind.removeprefix("EXTERNAL ")
            drop_setting(session, kind, ".".join(parts), statement.if_exists, statement.line)
    return RowsAffected(None)


def _drop_object(session: Session, statement: s.Drop, parts: s.Parts) -> None:
    refuse_elsewhere(session, parts, statement.line)
    found = session.context(frame_of()).find(parts, statement.line)
    kinds: dict[str, type[CatalogObject]] = {
        "TABLE": Table,
        "EXTERNAL TABLE": Table,
        "VIEW": View,
        "PROCEDURE": Procedure,
        "FUNCTION": Function,
    }
    outside = isinstance(found, Table) and found.external is not None
    if not isinstance(found, kinds[statement.kind]) or outside != (statement.kind == "EXTERNAL TABLE"):
        if statement.if_exists and found is None:
            return
        raise SqlError(
            3701,
            f"Cannot drop the {statement.kind.lower()} '{'.'.join(parts)}', because it does not exist or you do not "
            "have "
            "permission.",
            state=5,
            line=statement.line,
        )
    if isinstance(found, Table) and found.temporary:
        session.cursor.execute(f"DROP TABLE {found.physical}")
        del session.temporary[found.name.lower()]
        session.pool.catalog.version += 1
        return
    with session.pool.catalog.change(session.cursor) as change:
        if isinstance(found, Table) and found.external is None:
            change.run(f"DROP TABLE {found.physical}")
            if any(column.identity is not None for column in found.columns):
                change.run(f"DROP SEQUENCE IF EXISTS {found.identity_sequence}")
        change.remove(found)
        security.forget(change, directory_of(session.pool), OBJECT, found.object_id)


def _drop_schema(session: Session, statement: s.Drop, name: str) -> None:
    catalog = session.pool.catalog
    known = catalog.schemas.get(name.lower())
    if known is None or known[1] <= 4:  # noqa: PLR2004  the four of every database
        if statement.if_exists and known is None:
            return
        raise SqlError(
            15151,
            f"Cannot drop the schema '{name}', because it does not exist or you do not have permission.",
            line=statement.line,
        )
    inside = next((entry for entry in catalog.objects.values() if entry.schema.lower() == name.lower()), None)
    if inside is not None:
        raise SqlError(
            3729,
            f"Cannot drop schema '{name}' because it is being referenced by object '{inside.name}'.",
            line=statement.line,
        )
    with catalog.change(session.cursor) as change:
        if session.pool.kind.tables:
            change.run(f"DROP SCHEMA {quote(schema_name(known[0]))}")
        change.remove_schema(known[0])
        security.forget(change, directory_of(session.pool), SCHEMA, known[1])
        security.own_schema(change, known[0], DBO)


def _truncate(session: Session, statement: s.Truncate, frame: Frame) -> Result:
    table = session.context(frame).find(statement.name, statement.line)
    if not isinstance(table, Table) or table.external is not None:
        raise SqlError(
            4701,
            f'Cannot find the object "{".".join(statement.name)}" because it does not exist or you do not have '
            "permissions.",
            line=statement.line,
        )
    if not statement.partitions:
        session.cursor.execute(f"TRUNCATE {table.physical}")
        return RowsAffected(None)
    tests = [
        partitions.predicate(session, table, number, statement.line)
        for first, last in statement.partitions
        for number in range(first, last + 1)
    ]
    session.cursor.execute(f"DELETE FROM {table.physical} WHERE {' OR '.join(tests)}")
    return RowsAffected(None)


def _rename(session: Session, statement: s.Rename, frame: Frame) -> Result:
    """https://learn.microsoft.com/en-us/sql/t-sql/statements/rename-transact-sql

    The page speaks of tables; a pool renames views as well, which dbt-synapse does at every second run.
    """
    catalog = session.pool.catalog
    found = session.context(frame).find(statement.name, statement.line)
    table: Table | View = (
        found
        if isinstance(found, View) and statement.column is None
        else existing(session, statement.name, statement.line)
    )
    if isinstance(table, Table) and statement.column is not None:
        column = table.column(statement.column)
        if column is None:
            raise errors.invalid_column(statement.column, statement.line)
        if table.column(statement.new_name) is not None:
            raise SqlError(
                2705,
                f"Column names in each table must be unique. Column name '{statement.new_name}' is specified more "
                "than once.",
                line=statement.line,
            )
        columns = tuple(replace(c, name=statement.new_name) if c is column else c for c in table.columns)
        with catalog.change(session.cursor) as change:
            change.run(
                f"ALTER TABLE {table.physical} RENAME COLUMN {quote(column.name)} TO {quote(statement.new_name)}"
            )
            change.put(replace(table, columns=columns, modified=now()))
            security.rename_column(change, directory_of(session.pool), table.object_id, column.name, statement.new_name)
        return RowsAffected(None)
    if catalog.find(table.schema, statement.new_name) is not None:
        raise SqlError(
            2714,
            f"There is already an object named '{statement.new_name}' in the database.",
            state=6,
            line=statement.line,
        )
    with catalog.change(session.cursor) as change:
        if isinstance(table, Table):
            change.run(f"ALTER TABLE {table.physical} RENAME TO {quote(statement.new_name)}")
        change.remove(table)
        change.put(replace(table, name=statement.new_name, modified=now()))
    return RowsAffected(None)


def _transfer(session: Session, statement: s.Transfer, frame: Frame) -> Result:
    """A table to another schema. DuckDB has no such move: the rows are copied, in one change.

    https://learn.microsoft.com/en-us/sql/t-sql/statements/alter-schema-transact-sql
    """
    line = statement.line
    found = session.context(frame).find(statement.name, line)
    if isinstance(found, View | Procedure | Function):
        raise errors.not_implemented("ALTER SCHEMA .. TRANSFER of a view, a procedure or a function", line)
    table = existing(session, statement.name, line)
    schema, name = place(session, (statement.schema, table.name), line)
    moved = replace(table, schema=schema, name=name, modified=now())
    with session.pool.catalog.change(session.cursor) as change:
        first, *_ = create_sql(replace(moved, columns=tuple(replace(c, identity=None) for c in moved.columns)))
        change.run(first)
        change.run(f"INSERT INTO {moved.physical} SELECT * FROM {table.physical}")
        change.run(f"DROP TABLE {table.physical}")
        change.remove(table)
        change.put(moved)
        security.forget(change, directory_of(session.pool), OBJECT, table.object_id)
    return RowsAffected(None)


_HANDLERS: dict[type, Any] = {
    s.CreateTable: _create_table,
    s.CreateTableAs: _create_table_as,
    s.CreateView: _create_view,
    s.CreateProcedure: _create_procedure,
    s.CreateFunction: _create_function,
    s.CreateSchema: _create_schema,
    s.Drop: _drop,
    s.Truncate: _truncate,
    s.Rename: _rename,
    s.Transfer: _transfer,
    s.AddColumns: alter_tables.add_columns,
    s.DropColumns: alter_tables.drop_columns,
    s.AlterColumn: alter_tables.alter_column,
    s.SwitchPartition: alter_tables.switch,
    s.ChangeBoundary: alter_tables.boundary,
    s.Statistics: alter_tables.statistics,
    s.Index: alter_tables.index,
    s.CreateExternal: external.create,
    s.CreateExternalTable: external.create_table,
    s.CopyInto: load.copy_into,
}
