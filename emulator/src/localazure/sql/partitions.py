"""Partitions: which rows one holds, SWITCH, SPLIT and MERGE of ranges.

DuckDB has no partitions: a partition is a predicate over the partitioning column, and SWITCH moves the rows in one
transaction. https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-tables-partition
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.binding import Scope
from localazure.sql.catalog import Partitioning, Table, TableColumn, now, quote
from localazure.sql.changes import stored
from localazure.sql.parse_expressions import ExpressionParser
from localazure.sql.results import SqlError
from localazure.sql.sqltypes import duck

if TYPE_CHECKING:
    from localazure.sql.pool import Session


def _column(table: Table, line: int) -> TableColumn:
    column = table.column(table.partitioning.column) if table.partitioning else None
    if column is None:
        raise errors.invalid_column(table.partitioning.column if table.partitioning else "", line)
    return column


def boundary_sql(session: Session, text: str, column: TableColumn, line: int) -> str:
    """A boundary as DuckDB SQL of the column's type."""
    from localazure.sql.table_parts import frame_of

    compiler = session.compiler(frame_of())
    sql = stored(compiler.value(ExpressionParser(text).value(), Scope()), replace(column, nullable=True), line)
    found = session.scratch.execute(f"SELECT CAST({sql} AS VARCHAR)").fetchall()[0][0]
    return f"CAST({'NULL' if found is None else errors.literal(found)} AS {duck(column.type)})"


def sorted_boundaries(session: Session, table: Table, options: s.TableOptions) -> tuple[str, ...]:
    """The boundaries' texts in ascending order; SqlError 7708 for a value given twice."""
    column = table.column(options.partition_column or "")
    if column is None:
        raise errors.invalid_column(options.partition_column or "", options.line)
    return _ordered(session, [boundary_text(value) for value in options.boundaries], column, options.line)


def _ordered(session: Session, texts: list[str], column: TableColumn, line: int) -> tuple[str, ...]:
    if not texts:
        return ()
    rows = ", ".join(f"({boundary_sql(session, text, column, line)}, {index})" for index, text in enumerate(texts))
    found = session.scratch.execute(f"SELECT i, v FROM (VALUES {rows}) AS t(v, i) ORDER BY v, i").fetchall()
    if len({value for _, value in found}) != len(texts):
        raise SqlError(
            7708,
            "Duplicate range boundary values are not allowed in partition function boundary values list.",
            line=line,
        )
    return tuple(texts[index] for index, _ in found)


def boundary_text(value: s.Expr) -> str:
    """A boundary as T-SQL text: a literal, maybe signed, maybe cast."""
    if isinstance(value, s.Literal):
        if value.kind in {"string", "nstring"}:
            return "'" + value.text.replace("'", "''") + "'"
        return value.text
    if isinstance(value, s.Unary) and value.op == "-":
        return "-" + boundary_text(value.operand)
    if isinstance(value, s.Cast):
        return f"CAST({boundary_text(value.operand)} AS {value.type})"
    raise errors.not_implemented("a partition boundary that is not a literal", value.line)


def bounds(table: Table, number: int | None, line: int) -> tuple[str | None, str | None]:
    """(lower, upper) boundary texts of a partition; SqlError 7722 for a number that isn't there."""
    texts = table.partitioning.boundaries if table.partitioning else ()
    number = 1 if number is None else number
    if not 1 <= number <= len(texts) + 1:
        raise SqlError(
            7722,
            f"Invalid partition number {number} specified for table '{table.schema}.{table.name}', partition number "
            "can range "
            f"from 1 to {len(texts) + 1}.",
            line=line,
        )
    return (texts[number - 2] if number > 1 else None), (texts[number - 1] if number <= len(texts) else None)


def predicate(session: Session, table: Table, number: int | None, line: int) -> str:
    """DuckDB's condition for the rows of a partition. NULL sorts below every boundary: it is in the first."""
    lower, upper = bounds(table, number, line)
    if table.partitioning is None or (lower is None and upper is None):
        return "TRUE"
    column = _column(table, line)
    name, right = quote(column.name), table.partitioning.range_right
    tests = []
    if lower is not None:
        tests.append(f"{name} {'>=' if right else '>'} {boundary_sql(session, lower, column, line)}")
    if upper is not None:
        tests.append(f"{name} {'<' if right else '<='} {boundary_sql(session, upper, column, line)}")
    joined = " AND ".join(tests)
    return f"({joined} OR {name} IS NULL)" if lower is None else f"({joined})"


def number_sql(session: Session, table: Table) -> str:
    """A DuckDB expression: the 1-based partition of a row."""
    if table.partitioning is None or not table.partitioning.boundaries:
        return "1"
    branches = " ".join(
        f"WHEN {predicate(session, table, number, 1)} THEN {number}"
        for number in range(1, len(table.partitioning.boundaries) + 2)
    )
    return f"CASE {branches} END"


def switch(session: Session, source: Table, target: Table, statement: s.SwitchPartition) -> None:
    """Move a partition's rows, as one change: readers see them in the old table or in the new one.

    The tables must agree in columns, distribution and the partition's range; a target with rows needs TRUNCATE_TARGET.
    """
    line = statement.line
    _same_shape(source, target, line)
    leaving = predicate(session, source, statement.partition, line)
    arriving = predicate(session, target, statement.target_partition, line)
    _same_range(session, source, target, statement)
    with session.pool.catalog.change(session.cursor) as change:
        if not statement.truncate_target:
            found = session.cursor.execute(f"SELECT count(*) FROM {target.physical} WHERE {arriving}").fetchall()[0]
            if found and found[0]:
                raise SqlError(
                    4904,
                    "ALTER TABLE SWITCH statement failed. The specified partition "
                    f"{statement.target_partition or 1} of target "
                    f"table '{target.schema}.{target.name}' must be empty.",
                    line=line,
                )
        change.run(f"DELETE FROM {target.physical} WHERE {arriving}")
        names = ", ".join(quote(column.name) for column in target.columns)
        values = ", ".join(quote(column.name) for column in source.columns)
        change.run(f"INSERT INTO {target.physical} ({names}) SELECT {values} FROM {source.physical} WHERE {leaving}")
        change.run(f"DELETE FROM {source.physical} WHERE {leaving}")


def _same_shape(source: Table, target: Table, line: int) -> None:
    a, b = f"{source.schema}.{source.name}", f"{target.schema}.{target.name}"
    if len(source.columns) != len(target.columns):
        raise SqlError(
            4943,
            f"ALTER TABLE SWITCH statement failed because table '{a}' has {len(source.columns)} columns and table "
            f"'{b}' has "
            f"{len(target.columns)} columns.",
            line=line,
        )
    for left, right in zip(source.columns, target.columns, strict=True):
        if left.name.lower() != right.name.lower():
            raise SqlError(
                4957,
                f"ALTER TABLE SWITCH statement failed because column '{left.name}' of table '{a}' and column "
                f"'{right.name}' of "
                f"table '{b}' have different names.",
                line=line,
            )
        if left.type != right.type:
            raise SqlError(
                4944,
                f"ALTER TABLE SWITCH statement failed because column '{left.name}' has data type {left.type} in "
                "source table "
                f"'{a}' which is different from its type {right.type} in target table '{b}'.",
                line=line,
            )
        if left.nullable != right.nullable:
            raise SqlError(
                4988,
                f"ALTER TABLE SWITCH statement failed because column '{left.name}' does not have the same "
                "nullability attribute "
                f"in tables '{a}' and '{b}'.",
                line=line,
            )
    same_key = [name.lower() for name in source.hash_columns] == [name.lower() for name in target.hash_columns]
    if source.distribution != target.distribution or not same_key:
        raise SqlError(
            errors.UNDOCUMENTED,
            f"ALTER TABLE SWITCH statement failed because tables '{a}' and '{b}' are distributed differently.",
            line=line,
        )


def _same_range(session: Session, source: Table, target: Table, statement: s.SwitchPartition) -> None:
    line = statement.line
    if source.partitioning is None or target.partitioning is None:
        return
    column = _column(source, line)
    if (
        column.name.lower() != _column(target, line).name.lower()
        or source.partitioning.range_right != target.partitioning.range_right
    ):
        raise SqlError(4947, "ALTER TABLE SWITCH statement failed. The tables are partitioned differently.", line=line)
    ours, theirs = bounds(source, statement.partition, line), bounds(target, statement.target_partition, line)
    for mine, other in zip(ours, theirs, strict=True):
        same = mine is None and other is None
        if mine is not None and other is not None:
            left, right = boundary_sql(session, mine, column, line), boundary_sql(session, other, column, line)
            found = session.scratch.execute(f"SELECT {left} = {right}").fetchall()[0]
            same = bool(found and found[0])
        if not same:
            raise SqlError(
                4972,
                f"ALTER TABLE SWITCH statement failed. The range of partition {statement.partition or 1} of source "
                "table "
                f"'{source.schema}.{source.name}' is not that of partition {statement.target_partition or 1} of "
                "target table "
                f"'{target.schema}.{target.name}'.",
                line=line,
            )


def change_boundary(session: Session, table: Table, statement: s.ChangeBoundary) -> None:
    """SPLIT RANGE adds a boundary, MERGE RANGE takes one away; the rows stay.

    A table without partitions has no range to change: the vendor's answer is error 7707.
    """
    line = statement.line
    if table.partitioning is None:
        raise SqlError(7707, f"The table '{table.schema}.{table.name}' is not partitioned.", line=line)
    column = _column(table, line)
    text = boundary_text(statement.value)
    wanted = boundary_sql(session, text, column, line)
    present = list(table.partitioning.boundaries)
    equal = []
    for other in present:
        found = session.scratch.execute(f"SELECT {wanted} = {boundary_sql(session, other, column, line)}").fetchall()[0]
        equal.append(bool(found and found[0]))
    if statement.split:
        if any(equal):
            raise SqlError(
                7721,
                f"Duplicate range boundary values are not allowed. Boundary value {text} already exists.",
                line=line,
            )
        present.append(text)
    else:
        if not any(equal):
            raise SqlError(7715, "The specified partition range value could not be found.", line=line)
        present = [other for other, same in zip(present, equal, strict=True) if not same]
    boundaries = _ordered(session, present, column, line)
    kept = Partitioning(table.partitioning.column, table.partitioning.range_right, boundaries)
    with session.pool.catalog.change(session.cursor) as change:
        change.put(replace(table, partitioning=kept, modified=now()))
