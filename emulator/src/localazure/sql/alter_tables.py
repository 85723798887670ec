"""ALTER TABLE, partition SWITCH, statistics and indexes.

https://learn.microsoft.com/en-us/sql/t-sql/statements/alter-table-transact-sql
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from localazure.sql import errors, partitions
from localazure.sql import syntax as s
from localazure.sql.catalog import Table, TableColumn, now, quote, renumbered
from localazure.sql.changes import stored
from localazure.sql.conversions import Value
from localazure.sql.results import Result, RowsAffected, SqlError
from localazure.sql.sqltypes import duck, with_length
from localazure.sql.table_parts import column_of, existing, frame_of, keep, key_constraints

if TYPE_CHECKING:
    from localazure.sql.interpreter import Frame
    from localazure.sql.pool import Session


def add_columns(session: Session, statement: s.AddColumns, frame: Frame) -> Result:
    table = existing(session, statement.name, statement.line)
    compiler = session.compiler(frame)
    added = [column_of(definition) for definition in statement.columns]
    with session.pool.catalog.change(session.cursor) as change:
        for column in added:
            if table.column(column.name) is not None:
                raise SqlError(
                    2705,
                    f"Column names in each table must be unique. Column name '{column.name}' in table "
                    f"'{table.name}' is "
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
        wider = replace(wider, keys=(*wider.keys, *key_constraints(session, wider, statement.keys, statement.line)))
        for named in statement.defaults:
            wider = _with_default(session, wider, named, statement.line)
        change.put(wider)
    return RowsAffected(None)


def _with_default(session: Session, table: Table, default: tuple[str, str, str], line: int) -> Table:
    """DEFAULT .. FOR: what a row that doesn't name the column gets from now on."""
    constraint, text, name = default
    column = table.column(name)
    if column is None:
        raise SqlError(
            1752,
            f"Column '{name}' in table '{table.name}' is invalid for creating a default constraint.",
            line=line,
        )
    if column.default:
        raise SqlError(1781, "Column already has a DEFAULT bound to it.", line=line)
    named = constraint or f"DF_{table.name}_{session.pool.catalog.new_id():X}"
    changed = replace(column, default=text, default_name=named)
    session.compiler(frame_of()).default(changed, table, line)  # one that can't be converted fails now
    return replace(table, columns=tuple(changed if c is column else c for c in table.columns))


def drop_columns(session: Session, statement: s.DropColumns, frame: Frame) -> Result:
    table = existing(session, statement.name, statement.line)
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


def alter_column(session: Session, statement: s.AlterColumn, frame: Frame) -> Result:
    table = existing(session, statement.name, statement.line)
    column = table.column(statement.column.name)
    if column is None:
        raise SqlError(
            4924,
            f"ALTER TABLE ALTER COLUMN failed because column '{statement.column.name}' does not exist in table "
            f"'{table.name}'.",
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


def switch(session: Session, statement: s.SwitchPartition, frame: Frame) -> Result:
    source = existing(session, statement.name, statement.line)
    target = existing(session, statement.target, statement.line)
    partitions.switch(session, source, target, statement)
    return RowsAffected(None)


def boundary(session: Session, statement: s.ChangeBoundary, frame: Frame) -> Result:
    table = existing(session, statement.name, statement.line)
    partitions.change_boundary(session, table, statement)
    return RowsAffected(None)


# ---- statistics and indexes --------


def statistics(session: Session, statement: s.Statistics, frame: Frame) -> Result:
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
        chosen = {name.lower() for name in wanted}
        updated = [name for name, _ in table.statistics if not chosen or name.lower() in chosen]
        save(session, _dated(table, *updated))
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
    made = replace(table, statistics=(*table.statistics, (statement.name, tuple(statement.columns))))
    save(session, _dated(made, statement.name))
    return RowsAffected(None)


def _dated(table: Table, *names: str) -> Table:
    """The table with these statistics made or updated now: what STATS_DATE tells."""
    dates = dict.fromkeys(map(str.lower, names), now())
    return replace(table, statistics_dates={**(table.statistics_dates or {}), **dates})


def save(session: Session, table: Table) -> None:
    with session.pool.catalog.change(session.cursor) as change:
        keep(session, change, table)


def drop_statistics(session: Session, parts: s.Parts, line: int) -> None:
    table = existing(session, parts[:-1], line, external_too=True)
    left = tuple(item for item in table.statistics if item[0].lower() != parts[-1].lower())
    if len(left) == len(table.statistics):
        raise SqlError(
            3701,
            f"Cannot drop the statistics '{'.'.join(parts)}', because it does not exist or you do not have permission.",
            state=5,
            line=line,
        )
    save(session, replace(table, statistics=left))


def index(session: Session, statement: s.Index, frame: Frame) -> Result:
    """Recorded: an index changes how fast a table is read, never what it holds."""
    table = existing(session, statement.table, statement.line)
    names = {name.lower() for name, _ in table.indexes}
    if statement.action == "CREATE":
        if statement.name.lower() in names:
            raise SqlError(
                1913,
                f"The operation failed because an index or statistics with name '{statement.name}' already exists "
                "on table "
                f"'{table.name}'.",
                line=statement.line,
            )
        for column in statement.columns:
            if table.column(column) is None:
                raise SqlError(
                    1911, f"Column name '{column}' does not exist in the target table or view.", line=statement.line
                )
        save(session, replace(table, indexes=(*table.indexes, (statement.name, tuple(statement.columns)))))
    elif statement.action == "DROP":
        if statement.name.lower() not in names:
            raise SqlError(
                3701,
                f"Cannot drop the index '{table.name}.{statement.name}', because it does not exist or you do not "
                "have permission.",
                state=7,
                line=statement.line,
            )
        save(
            session,
            replace(table, indexes=tuple(item for item in table.indexes if item[0].lower() != statement.name.lower())),
        )
    elif statement.name != "ALL" and statement.name.lower() not in names:
        raise SqlError(2727, f"Cannot find index '{statement.name}'.", line=statement.line)
    return RowsAffected(None)
