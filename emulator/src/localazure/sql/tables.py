"""Definitions: tables, CTAS, views, procedures, schemas, RENAME, ALTER, DROP, TRUNCATE, statistics and indexes.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-tables-overview
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localazure.sql import errors, external, load, partitions
from localazure.sql import syntax as s
from localazure.sql.catalog import (
    CatalogObject,
    Change,
    Key,
    Partitioning,
    Procedure,
    Table,
    TableColumn,
    View,
    now,
    quote,
    renumbered,
    schema_name,
)
from localazure.sql.changes import stored
from localazure.sql.conversions import Value
from localazure.sql.results import Result, RowsAffected, SqlError
from localazure.sql.service import drop_setting
from localazure.sql.sqltypes import duck, with_length

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Session


def define(session: Session, statement: s.Statement, frame: Frame) -> Iterator[Result]:
    """Run one definition. Serverless pools have views, procedures and external objects alone."""
    if not session.pool.kind.tables and isinstance(statement, _TABLES_ONLY):
        raise errors.refused(type(statement).__name__, statement.line)
    yield _HANDLERS[type(statement)](session, statement, frame)


_TABLES_ONLY = (
    s.CreateTable,
    s.CreateTableAs,
    s.Truncate,
    s.Rename,
    s.AddColumns,
    s.DropColumns,
    s.AlterColumn,
    s.SwitchPartition,
    s.ChangeBoundary,
    s.Index,
    s.CopyInto,
)


def _place(session: Session, parts: s.Parts, line: int) -> tuple[str, str]:
    """(schema, name) of an object to be made; SqlError 2760 for a missing schema, 2714 for a taken name."""
    context = session.context(frame_of())
    schema, name = context.split_name(parts, line)
    if name.startswith("#"):
        if name.lower() in session.temporary:
            raise SqlError(2714, f"There is already an object named '{name}' in the database.", state=6, line=line)
        return "tempdb", name
    known = session.pool.catalog.schemas.get(schema.lower())
    if known is None or known[1] in {3, 4}:
        raise SqlError(
            2760,
            f'The specified schema name "{schema}" either does not exist or you do not have permission to use it.',
            line=line,
        )
    if session.pool.catalog.find(schema, name) is not None:
        raise SqlError(2714, f"There is already an object named '{name}' in the database.", state=6, line=line)
    return known[0], name


def frame_of() -> Frame:
    from localazure.sql.interpreter import Frame

    return Frame()


def _table(session: Session, parts: s.Parts, line: int, *, external_too: bool = False) -> Table:
    found = session.context(frame_of()).find(parts, line)
    if not isinstance(found, Table) or (found.external is not None and not external_too):
        raise SqlError(
            4902,
            f'Cannot find the object "{".".join(parts)}" because it does not exist or you do not have permissions.',
            line=line,
        )
    return found


# ---- CREATE TABLE ------------------------------------------------------------------------------------------------------


def column_of(definition: s.ColumnDefinition) -> TableColumn:
    return TableColumn(
        definition.name,
        with_length(definition.type, 1),
        definition.nullable,
        0,
        definition.identity,
        definition.default_text,
        definition.default_name,
        definition.collation,
    )


def _new_table(
    session: Session, parts: s.Parts, columns: list[TableColumn], options: s.TableOptions, line: int
) -> Table:
    schema, name = _place(session, parts, line)
    names = [column.name.lower() for column in columns]
    for column in columns:
        if names.count(column.name.lower()) > 1:
            raise SqlError(
                2705,
                f"Column names in each table must be unique. Column name '{column.name}' in table '{name}' is specified more "
                "than once.",
                line=line,
            )
    for wanted in [
        *options.hash_columns,
        *options.index_columns,
        *([options.partition_column] if options.partition_column else []),
    ]:
        if wanted.lower() not in names:
            raise SqlError(1911, f"Column name '{wanted}' does not exist in the target table or view.", line=line)
    stamp = now()
    table = Table(
        session.pool.catalog.new_id(),
        schema,
        name,
        stamp,
        stamp,
        renumbered(tuple(columns)),
        options.distribution or "ROUND_ROBIN",
        tuple(options.hash_columns),
        options.index or "COLUMNSTORE",
        tuple(options.index_columns),
        temporary=schema == "tempdb",
    )
    if options.partition_column is not None:
        texts = partitions.sorted_boundaries(session, table, options)
        table = replace(table, partitioning=Partitioning(options.partition_column, options.range_right, texts))
    return table


def create_sql(table: Table) -> list[str]:
    """DuckDB's statements for an empty table."""
    columns = ", ".join(
        f"{quote(column.name)} {duck(with_length(column.type, 1))}{'' if column.nullable else ' NOT NULL'}"
        for column in table.columns
    )
    done = [f"CREATE {'TEMPORARY ' if table.temporary else ''}TABLE {table.physical} ({columns})"]
    for column in table.columns:
        if column.identity is not None:
            seed, step = column.identity
            done.append(
                f"CREATE SEQUENCE {table.identity_sequence} START {seed} INCREMENT {step} MINVALUE {min(seed, -(2**62))}"
            )
    return done


def _keep(session: Session, change: Change, table: Table) -> None:
    if table.temporary:
        session.temporary[table.name.lower()] = table
        session.pool.catalog.version += 1
    else:
        change.put(table)


def _create_table(session: Session, statement: s.CreateTable, frame: Frame) -> Result:
    columns = [column_of(definition) for definition in statement.columns]
    table = _new_table(session, statement.name, columns, statement.options, statement.line)
    table = replace(table, keys=_keys(session, table, statement.keys, statement.line))
    compiler = session.compiler(frame)
    for column in table.columns:
        if column.default:
            compiler.default(
                column, table, statement.line
            )  # a default that can't be converted fails now, not at an INSERT
    with session.pool.catalog.change(session.cursor) as change:
        for sql in create_sql(table):
            change.run(sql)
        _keep(session, change, table)
    return RowsAffected(None)


def _keys(session: Session, table: Table, definitions: list[s.KeyDefinition], line: int) -> tuple[Key, ...]:
    found: list[Key] = []
    for definition in definitions:
        for name in definition.columns:
            if table.column(name) is None:
                raise SqlError(1911, f"Column name '{name}' does not exist in the target table or view.", line=line)
        identity = session.pool.catalog.new_id()
        prefix = "PK" if definition.kind == "PRIMARY KEY" else "UQ"
        found.append(
            Key(
                definition.kind,
                definition.name or f"{prefix}_{table.name}_{identity:X}",
                tuple(definition.columns),
                identity,
            )
        )
    return tuple(found)


def _create_table_as(session: Session, statement: s.CreateTableAs, frame: Frame) -> Result:
    """https://learn.microsoft.com/en-us/sql/t-sql/statements/create-table-as-select-azure-sql-data-warehouse"""
    line = statement.line
    if statement.options.distribution is None and session.pool.kind.ctas_needs_distribution:
        raise SqlError(
            103010,
            f"Parse error at line: {line}: Incorrect syntax near 'AS'. CREATE TABLE AS SELECT requires a DISTRIBUTION option.",
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
    table = _new_table(session, statement.name, columns, statement.options, line)
    values = []
    for index, column in enumerate(table.columns):
        value = compiled.value(index, '"q"')
        if compiled.columns[index].null:
            value = replace(value, sql=f"CAST({value.sql} AS {duck(column.type)})")
        values.append(stored(value, column, line))
    insert = f'INSERT INTO {table.physical} SELECT {", ".join(values)} FROM ({compiled.sql}) AS "q"'
    parameters = session.values(frozenset(compiler.context.parameters), frame)
    with session.attached(compiler.context.attachments), session.pool.catalog.change(session.cursor) as change:
        for sql in create_sql(table):
            change.run(sql)
        found = (
            session.cursor.execute(insert, parameters).fetchone()
            if parameters
            else session.cursor.execute(insert).fetchone()
        )
        _keep(session, change, table)
    return RowsAffected(int(found[0]) if found else 0)


# ---- views, procedures, schemas ------------------------------------------------------------------------------------------


def _replaced(
    session: Session, parts: s.Parts, kind: type[CatalogObject], statement: Any
) -> tuple[str, str, CatalogObject | None]:
    """(schema, name, the object that CREATE OR ALTER or ALTER replaces)."""
    context = session.context(frame_of())
    schema, name = context.split_name(parts, statement.line)
    found = session.pool.catalog.find(schema, name)
    if statement.alter and not isinstance(found, kind):
        raise errors.invalid_object(".".join(parts), statement.line)
    if found is not None and (statement.alter or statement.replace) and isinstance(found, kind):
        return found.schema, found.name, found
    schema, name = _place(session, parts, statement.line)
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
        statement.materialized,
    )
    with session.pool.catalog.change(session.cursor) as change:
        change.put(view)
    return RowsAffected(None)


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


def _create_schema(session: Session, statement: s.CreateSchema, frame: Frame) -> Result:
    if statement.name.lower() in session.pool.catalog.schemas:
        raise SqlError(
            2714, f"There is already an object named '{statement.name}' in the database.", state=6, line=statement.line
        )
    with session.pool.catalog.change(session.cursor) as change:
        change.run(f"CREATE SCHEMA {quote(schema_name(statement.name))}")
        change.put_schema(statement.name)
    return RowsAffected(None)


# ---- DROP, TRUNCATE, RENAME -----------------------------------------------------------------------------------------------


def _drop(session: Session, statement: s.Drop, frame: Frame) -> Result:
    for parts in statement.names:
        if statement.kind in {"TABLE", "EXTERNAL TABLE", "VIEW", "PROCEDURE"}:
            _drop_object(session, statement, parts)
        elif statement.kind == "SCHEMA":
            _drop_schema(session, statement, parts[-1])
        elif statement.kind == "STATISTICS":
            _drop_statistics(session, parts, statement.line)
        elif statement.kind == "DATABASE":
            raise errors.not_implemented("DROP DATABASE", statement.line)
        else:
            kind = "MASTER KEY" if statement.kind == "MASTER KEY" else statement.kind
            drop_setting(session, kind, ".".join(parts), statement.if_exists, statement.line)
    return RowsAffected(None)


def _drop_object(session: Session, statement: s.Drop, parts: s.Parts) -> None:
    found = session.context(frame_of()).find(parts, statement.line)
    kinds: dict[str, type[CatalogObject]] = {
        "TABLE": Table,
        "EXTERNAL TABLE": Table,
        "VIEW": View,
        "PROCEDURE": Procedure,
    }
    outside = isinstance(found, Table) and found.external is not None
    if not isinstance(found, kinds[statement.kind]) or outside != (statement.kind == "EXTERNAL TABLE"):
        if statement.if_exists and found is None:
            return
        raise SqlError(
            3701,
            f"Cannot drop the {statement.kind.lower()} '{'.'.join(parts)}', because it does not exist or you do not have "
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
        change.run(f"DROP SCHEMA {quote(schema_name(known[0]))}")
        change.remove_schema(known[0])


def _truncate(session: Session, statement: s.Truncate, frame: Frame) -> Result:
    table = session.context(frame).find(statement.name, statement.line)
    if not isinstance(table, Table) or table.external is not None:
        raise SqlError(
            4701,
            f'Cannot find the object "{".".join(statement.name)}" because it does not exist or you do not have permissions.',
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
    """https://learn.microsoft.com/en-us/sql/t-sql/statements/rename-transact-sql"""
    table = _table(session, statement.name, statement.line)
    catalog = session.pool.catalog
    if statement.column is not None:
        column = table.column(statement.column)
        if column is None:
            raise errors.invalid_column(statement.column, statement.line)
        if table.column(statement.new_name) is not None:
            raise SqlError(
                2705,
                f"Column names in each table must be unique. Column name '{statement.new_name}' is specified more than once.",
                line=statement.line,
            )
        columns = tuple(replace(c, name=statement.new_name) if c is column else c for c in table.columns)
        with catalog.change(session.cursor) as change:
            change.run(
                f"ALTER TABLE {table.physical} RENAME COLUMN {quote(column.name)} TO {quote(statement.new_name)}"
            )
            change.put(replace(table, columns=columns, modified=now()))
        return RowsAffected(None)
    if catalog.find(table.schema, statement.new_name) is not None:
        raise SqlError(
            2714,
            f"There is already an object named '{statement.new_name}' in the database.",
            state=6,
            line=statement.line,
        )
    with catalog.change(session.cursor) as change:
        change.run(f"ALTER TABLE {table.physical} RENAME TO {quote(statement.new_name)}")
        change.remove(table)
        change.put(replace(table, name=statement.new_name, modified=now()))
    return RowsAffected(None)


# ---- ALTER TABLE -----------------------------------------------------------------------------------------------------------


def _add_columns(session: Session, statement: s.AddColumns, frame: Frame) -> Result:
    table = _table(session, statement.name, statement.line)
    compiler = session.compiler(frame)
    added = [column_of(definition) for definition in statement.columns]
    with session.pool.catalog.change(session.cursor) as change:
        for column in added:
            if table.column(column.name) is not None:
                raise SqlError(
                    2705,
                    f"Column names in each table must be unique. Column name '{column.name}' in table '{table.name}' is "
                    "specified more than once.",
                    line=statement.line,
                )
            if not column.nullable and not column.default and column.identity is None:
                raise SqlError(
                    4901,
                    "ALTER TABLE only allows columns to be added that can contain nulls, or have a DEFAULT definition "
                    "specified.",
                    line=statement.line,
                )
            if column.identity is not None:
                raise errors.not_implemented("ALTER TABLE ADD of an IDENTITY column", statement.line)
            default = f" DEFAULT {compiler.default(column, table, statement.line)}" if column.default else ""
            change.run(f"ALTER TABLE {table.physical} ADD COLUMN {quote(column.name)} {duck(column.type)}{default}")
            if default:
                change.run(f"ALTER TABLE {table.physical} ALTER COLUMN {quote(column.name)} DROP DEFAULT")
            if not column.nullable:
                change.run(f"ALTER TABLE {table.physical} ALTER COLUMN {quote(column.name)} SET NOT NULL")
        wider = replace(table, columns=renumbered((*table.columns, *added)), modified=now())
        wider = replace(wider, keys=(*wider.keys, *_keys(session, wider, statement.keys, statement.line)))
        change.put(wider)
    return RowsAffected(None)


def _drop_columns(session: Session, statement: s.DropColumns, frame: Frame) -> Result:
    table = _table(session, statement.name, statement.line)
    dropped: list[TableColumn] = []
    for name in statement.columns:
        column = table.column(name)
        if column is None:
            raise SqlError(
                4924,
                f"ALTER TABLE DROP COLUMN failed because column '{name}' does not exist in table '{table.name}'.",
                line=statement.line,
            )
        used = {*table.hash_columns, *([table.partitioning.column] if table.partitioning else [])}
        if column.name.lower() in {other.lower() for other in used}:
            raise SqlError(
                4922,
                f"ALTER TABLE DROP COLUMN {name} failed because one or more objects access this column.",
                line=statement.line,
            )
        dropped.append(column)
    for name in statement.constraints:
        if not any(key.name.lower() == name.lower() for key in table.keys) and not any(
            column.default_name.lower() == name.lower() for column in table.columns
        ):
            raise SqlError(3728, f"'{name}' is not a constraint.", line=statement.line)
    gone = {name.lower() for name in statement.constraints}
    columns = tuple(
        replace(c, default="", default_name="") if c.default_name and c.default_name.lower() in gone else c
        for c in table.columns
        if c not in dropped
    )
    with session.pool.catalog.change(session.cursor) as change:
        for column in dropped:
            change.run(f"ALTER TABLE {table.physical} DROP COLUMN {quote(column.name)}")
        keys = tuple(key for key in table.keys if key.name.lower() not in gone)
        change.put(replace(table, columns=renumbered(columns), keys=keys, modified=now()))
    return RowsAffected(None)


def _alter_column(session: Session, statement: s.AlterColumn, frame: Frame) -> Result:
    table = _table(session, statement.name, statement.line)
    column = table.column(statement.column.name)
    if column is None:
        raise SqlError(
            4924,
            f"ALTER TABLE ALTER COLUMN failed because column '{statement.column.name}' does not exist in table '{table.name}'.",
            line=statement.line,
        )
    changed = replace(column, type=with_length(statement.column.type, 1), nullable=statement.column.nullable)
    name = quote(column.name)
    columns = tuple(changed if c is column else c for c in table.columns)
    with session.pool.catalog.change(session.cursor) as change:
        if changed.type != column.type:
            value = stored(Value(name, column.type, trimmed=True), changed, statement.line)
            change.run(
                f"ALTER TABLE {table.physical} ALTER COLUMN {name} SET DATA TYPE {duck(changed.type)} USING {value}"
            )
        if changed.nullable != column.nullable:
            change.run(
                f"ALTER TABLE {table.physical} ALTER COLUMN {name} {'DROP' if changed.nullable else 'SET'} NOT NULL"
            )
        change.put(replace(table, columns=columns, modified=now()))
    return RowsAffected(None)


def _switch(session: Session, statement: s.SwitchPartition, frame: Frame) -> Result:
    source = _table(session, statement.name, statement.line)
    target = _table(session, statement.target, statement.line)
    partitions.switch(session, source, target, statement)
    return RowsAffected(None)


def _boundary(session: Session, statement: s.ChangeBoundary, frame: Frame) -> Result:
    table = _table(session, statement.name, statement.line)
    partitions.change_boundary(session, table, statement)
    return RowsAffected(None)


# ---- statistics and indexes ------------------------------------------------------------------------------------------------


def _statistics(session: Session, statement: s.Statistics, frame: Frame) -> Result:
    """Recorded, so that sys.stats shows them; DuckDB keeps statistics of its own."""
    table = session.context(frame).find(statement.table, statement.line)
    if not isinstance(table, Table):
        raise SqlError(2706, f"Table '{'.'.join(statement.table)}' does not exist.", line=statement.line)
    known = {name.lower() for name, _ in table.statistics} | {name.lower() for name, _ in table.indexes}
    if statement.action == "UPDATE":
        wanted = [statement.name] if statement.name else statement.columns
        for name in wanted:
            if name.lower() not in known and table.column(name) is None:
                raise SqlError(
                    2767, f"Could not locate statistics '{name}' in the system catalogs.", line=statement.line
                )
        return RowsAffected(None)
    if statement.name is None or statement.name.lower() in known:
        raise SqlError(
            1927, f"There are already statistics on table '{table.name}' named '{statement.name}'.", line=statement.line
        )
    for column in statement.columns:
        if table.column(column) is None:
            raise SqlError(
                1911, f"Column name '{column}' does not exist in the target table or view.", line=statement.line
            )
    _save(session, replace(table, statistics=(*table.statistics, (statement.name, tuple(statement.columns)))))
    return RowsAffected(None)


def _save(session: Session, table: Table) -> None:
    with session.pool.catalog.change(session.cursor) as change:
        _keep(session, change, table)


def _drop_statistics(session: Session, parts: s.Parts, line: int) -> None:
    table = _table(session, parts[:-1], line, external_too=True)
    left = tuple(item for item in table.statistics if item[0].lower() != parts[-1].lower())
    if len(left) == len(table.statistics):
        raise SqlError(
            3701,
            f"Cannot drop the statistics '{'.'.join(parts)}', because it does not exist or you do not have permission.",
            state=5,
            line=line,
        )
    _save(session, replace(table, statistics=left))


def _index(session: Session, statement: s.Index, frame: Frame) -> Result:
    """Recorded: an index changes how fast a table is read, never what it holds."""
    table = _table(session, statement.table, statement.line)
    names = {name.lower() for name, _ in table.indexes}
    if statement.action == "CREATE":
        if statement.name.lower() in names:
            raise SqlError(
                1913,
                f"The operation failed because an index or statistics with name '{statement.name}' already exists on table "
                f"'{table.name}'.",
                line=statement.line,
            )
        for column in statement.columns:
            if table.column(column) is None:
                raise SqlError(
                    1911, f"Column name '{column}' does not exist in the target table or view.", line=statement.line
                )
        _save(session, replace(table, indexes=(*table.indexes, (statement.name, tuple(statement.columns)))))
    elif statement.action == "DROP":
        if statement.name.lower() not in names:
            raise SqlError(
                3701,
                f"Cannot drop the index '{table.name}.{statement.name}', because it does not exist or you do not have permission.",
                state=7,
                line=statement.line,
            )
        _save(
            session,
            replace(table, indexes=tuple(item for item in table.indexes if item[0].lower() != statement.name.lower())),
        )
    elif statement.name != "ALL" and statement.name.lower() not in names:
        raise SqlError(2727, f"Cannot find index '{statement.name}'.", line=statement.line)
    return RowsAffected(None)


_HANDLERS: dict[type, Any] = {
    s.CreateTable: _create_table,
    s.CreateTableAs: _create_table_as,
    s.CreateView: _create_view,
    s.CreateProcedure: _create_procedure,
    s.CreateSchema: _create_schema,
    s.Drop: _drop,
    s.Truncate: _truncate,
    s.Rename: _rename,
    s.AddColumns: _add_columns,
    s.DropColumns: _drop_columns,
    s.AlterColumn: _alter_column,
    s.SwitchPartition: _switch,
    s.ChangeBoundary: _boundary,
    s.Statistics: _statistics,
    s.Index: _index,
    s.CreateExternal: external.create,
    s.CreateExternalTable: external.create_table,
    s.CopyInto: load.copy_into,
}
