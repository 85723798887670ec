"""What the definitions of tables share: where a name goes, what a table is made of, DuckDB's statements for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from localazure.sql import errors, partitions
from localazure.sql import syntax as s
from localazure.sql.catalog import Change, Key, Partitioning, Table, TableColumn, now, quote, renumbered
from localazure.sql.results import SqlError
from localazure.sql.sqltypes import duck, with_length

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Session


def place(session: Session, parts: s.Parts, line: int) -> tuple[str, str]:
    """(schema, name) of an object to be made; SqlError 2760 for a missing schema, 2714 for a taken name."""
    context = session.context(frame_of())
    refuse_elsewhere(session, parts, line)
    schema, name = context.split_name(parts, line)
    if name.startswith("##"):
        raise errors.refused("global temporary table", line)
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


def refuse_elsewhere(session: Session, parts: s.Parts, line: int) -> None:
    """Objects are made and dropped in the present database alone."""
    if session.context(frame_of()).elsewhere(parts, line) is not None:
        raise SqlError(
            166, "The statement does not allow specifying the database name as a prefix to the object name.", line=line
        )


def frame_of() -> Frame:
    from localazure.sql.interpreter import Frame

    return Frame()


def existing(session: Session, parts: s.Parts, line: int, *, external_too: bool = False) -> Table:
    found = session.context(frame_of()).find(parts, line)
    if not isinstance(found, Table) or (found.external is not None and not external_too):
        raise SqlError(
            4902,
            f'Cannot find the object "{".".join(parts)}" because it does not exist or you do not have permissions.',
            line=line,
        )
    return found


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


def new_table(
    session: Session, parts: s.Parts, columns: list[TableColumn], options: s.TableOptions, line: int
) -> Table:
    schema, name = place(session, parts, line)
    names = [column.name.lower() for column in columns]
    for column in columns:
        if names.count(column.name.lower()) > 1:
            raise SqlError(
                2705,
                f"Column names in each table must be unique. Column name '{column.name}' in table '{name}' is "
                "specified more "
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
                f"CREATE SEQUENCE {table.identity_sequence} START {seed} INCREMENT {step} MINVALUE "
                f"{min(seed, -(2**62))}"
            )
    return done


def keep(session: Session, change: Change, table: Table) -> None:
    if table.temporary:
        session.temporary[table.name.lower()] = table
        session.pool.catalog.version += 1
    else:
        change.put(table)


def key_constraints(session: Session, table: Table, definitions: list[s.KeyDefinition], line: int) -> tuple[Key, ...]:
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
