"""INSERT, UPDATE, DELETE and MERGE as DuckDB SQL.

A change that reads other tables finds its rows by DuckDB's rowid in a subquery: T-SQL's FROM may name the target or
not, under an alias or not, and each form ends in the same statement.
https://learn.microsoft.com/en-us/sql/t-sql/queries/update-transact-sql
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.binding import RowSource, Scope
from localazure.sql.catalog import Table, TableColumn, quote
from localazure.sql.conversions import Value, implicit, null_of, stripped
from localazure.sql.parse_expressions import ExpressionParser
from localazure.sql.queries import QueryCompiler
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import CHARACTER, with_length


@dataclass(frozen=True)
class CompiledChange:
    """``verb`` names the statement in error 515."""

    sql: str
    verb: str
    table: Table


def stored(value: Value, column: TableColumn, line: int) -> str:
    """A value as the table keeps it: converted, character data without trailing blanks (char is padded on reading)."""
    kind = with_length(column.type, 1)
    if kind.name in {"char", "nchar"}:
        kind = SqlType("nvarchar" if kind.name == "nchar" else "varchar", kind.length)
    done = implicit(value, kind, line)
    if kind.name in CHARACTER and not value.null:
        return _as_it_is(value, kind, stripped(done))
    return done.sql


_COLUMN = re.compile(r'"(?:[^"]|"")+"(?:\."(?:[^"]|"")+")?|\w+\."(?:[^"]|"")+"')


def _as_it_is(value: Value, kind: SqlType, done: str) -> str:
    """``done``, but for text that needs nothing done: its bytes and its last one say so in a fifth of the time."""
    text = value.sql
    if done == text or value.type.name not in {"varchar", "nvarchar"} or not _COLUMN.fullmatch(text):
        return done
    fits = f"strlen({text}) <= {kind.length} AND " if kind.length not in {None, -1} else ""
    return f"CASE WHEN {fits}NOT suffix({text}, ' ') THEN {text} ELSE {done} END"


class ChangeCompiler(QueryCompiler):
    """Statements that change rows. ``identity_insert``: the table (lower case) whose identity may be given."""

    identity_insert: str = ""

    def default(self, column: TableColumn, table: Table, line: int) -> str:
        """What a column gets when the statement doesn't name it."""
        if column.identity is not None:
            return f"nextval('{table.identity_sequence}')"
        if column.default:
            parser = ExpressionParser(column.default)
            return stored(self.value(parser.value(), Scope()), column, line)
        return null_of(with_length(column.type, 1)).sql

    def insert(self, insert: s.Insert) -> CompiledChange:
        table = self.target(insert.target, insert.line)
        self.context.demand("INSERT", insert.target, table, insert.line)
        head = self.common_tables(insert.tables)
        columns = self._insert_columns(insert, table)
        missing = [column for column in table.columns if column not in columns]
        extra = [self.default(column, table, insert.line) for column in missing]
        names = ", ".join(quote(column.name) for column in [*columns, *missing])
        if insert.rows is not None:
            lines: list[str] = []
            for row in insert.rows:
                self._check_width(len(row), columns, insert)
                values = [
                    self.default(column, table, expr.line)
                    if isinstance(expr, s.DefaultValue)
                    else stored(self.value(expr, Scope()), column, expr.line)
                    for expr, column in zip(row, columns, strict=True)
                ]
                lines.append("(" + ", ".join([*values, *extra]) + ")")
            return CompiledChange(
                f"{head}INSERT INTO {table.physical} ({names}) VALUES {', '.join(lines)}", "INSERT", table
            )
        if insert.query is None:
            raise errors.syntax("INSERT", insert.line)
        compiled = self.query(insert.query, None)
        self._check_width(len(compiled.columns), columns, insert)
        alias = self.context.fresh("i")
        items = []
        for index, column in enumerate(columns):
            value = compiled.value(index, alias)
            if compiled.columns[index].null:
                value = null_of(with_length(column.type, 1))
            items.append(stored(value, column, insert.line))
        sql = (
            f"{head}INSERT INTO {table.physical} ({names}) SELECT {', '.join([*items, *extra])} FROM "
            f"({compiled.sql}) AS {alias}"
        )
        return CompiledChange(sql, "INSERT", table)

    def target(self, parts: s.Parts, line: int, verb: str = "INSERT") -> Table:
        """A table that may be changed. A serverless pool changes temporary tables alone."""
        table = self.context.find(parts, line)
        if not self.context.kind.tables and not parts[-1].startswith("#"):
            if isinstance(table, Table):
                raise SqlError(46519, "DML Operations are not supported with external tables.", state=16, line=line)
            if table is not None:
                raise SqlError(15882, f"{verb} operation is not allowed for this type of table.", line=line)
        if not isinstance(table, Table):
            raise errors.invalid_object(".".join(parts), line)
        if table.external is not None:
            raise _outside(line)
        return table

    def _insert_columns(self, insert: s.Insert, table: Table) -> list[TableColumn]:
        given = (
            self.identity_insert in {table.name.lower(), f"{table.schema}.{table.name}".lower()}
            and self.identity_insert != ""
        )
        if not insert.columns:
            if insert.rows == [[]]:
                return []
            return [column for column in table.columns if column.identity is None or given]
        found: list[TableColumn] = []
        for name in insert.columns:
            column = table.column(name)
            if column is None:
                raise errors.invalid_column(name, insert.line)
            if column.identity is not None and not given:
                raise SqlError(
                    544,
                    f"Cannot insert explicit value for identity column in table '{table.name}' when IDENTITY_INSERT "
                    "is set to "
                    "OFF.",
                    line=insert.line,
                )
            if column in found:
                raise SqlError(
                    264,
                    f"The column name '{name}' is specified more than once in the SET clause or column list of an "
                    "INSERT.",
                    line=insert.line,
                )
            found.append(column)
        return found

    def _check_width(self, width: int, columns: list[TableColumn], insert: s.Insert) -> None:
        if width == len(columns):
            return
        if not insert.columns:
            raise SqlError(
                213, "Column name or number of supplied values does not match table definition.", line=insert.line
            )
        if insert.rows is not None:
            word, number = ("more", 110) if width > len(columns) else ("fewer", 109)
            raise SqlError(
                number,
                f"There are {'fewer' if word == 'more' else 'more'} columns in the INSERT statement than values "
                "specified in "
                "the VALUES clause.",
                severity=15,
                line=insert.line,
            )
        number, word = (121, "fewer") if width > len(columns) else (120, "more")
        raise SqlError(
            number,
            f"The select list for the INSERT statement contains {'more' if word == 'fewer' else 'fewer'} items than "
            "the insert "
            "list.",
            severity=15,
            line=insert.line,
        )

    # ---- UPDATE and DELETE --------

    def _reach(
        self, target: s.Parts, alias: str | None, source: s.Source | None, line: int
    ) -> tuple[str, list[RowSource], RowSource]:
        """(FROM text, sources, the target among them)."""
        if source is None:
            sql, sources = self.target_source(s.TableSource(line, target, alias, [], []))
        else:
            sql, sources = self.source(source, None)
            found = _target_among(sources, target, alias)
            if found is not None:
                return sql, sources, found
            own_sql, own = self.target_source(s.TableSource(line, target, alias, [], []))
            sql, sources = (
                f"{own_sql} CROSS JOIN {sql}" if "JOIN" not in sql else f"{own_sql} CROSS JOIN ({sql})",
                own + sources,
            )
        return sql, sources, sources[0]

    def update(self, update: s.Update) -> CompiledChange:
        head = self.common_tables(update.tables)
        sql, sources, target = self._reach(update.target, None, update.source, update.line)
        table = self._changed(target, update.target, update.line)
        refused = self.context.refused_columns("UPDATE", target.parts, table, update.line)
        scope = Scope(sources)
        settings: list[tuple[TableColumn, str]] = []
        for assignment in update.assignments:
            column = table.column(assignment.parts[-1])
            if column is None:
                raise errors.invalid_column(assignment.parts[-1], assignment.line)
            if column in [known for known, _ in settings]:
                raise SqlError(
                    264,
                    f"The column name '{column.name}' is specified more than once in the SET clause or column list of "
                    "an INSERT.",
                    line=assignment.line,
                )
            if refused is not None and (denied := refused(column.name)) is not None:
                raise denied
            if column.identity is not None:
                raise SqlError(8102, f"Cannot update identity column '{column.name}'.", line=assignment.line)
            settings.append((column, self._assigned(assignment, column, table, target, scope)))
        where = f" WHERE {self.condition(update.where, scope)}" if update.where is not None else ""
        limit = f" LIMIT {self._top_count(update.top)}" if update.top is not None else ""
        key = target.columns[0].sql.split(".")[0]
        items = ", ".join(f'{value} AS "n{index}"' for index, (_, value) in enumerate(settings))
        once = f" QUALIFY row_number() OVER (PARTITION BY {key}.rowid) = 1" if len(sources) > 1 else ""
        rows = f'SELECT {key}.rowid AS "rid", {items} FROM {sql}{where}{once}{limit}'
        changes = ", ".join(f'{quote(column.name)} = "s"."n{index}"' for index, (column, _) in enumerate(settings))
        done = f'{head}UPDATE {table.physical} AS "t" SET {changes} FROM ({rows}) AS "s" WHERE "t".rowid = "s"."rid"'
        return CompiledChange(done, "UPDATE", table)

    def _assigned(
        self, assignment: s.Assignment, column: TableColumn, table: Table, target: RowSource, scope: Scope
    ) -> str:
        if isinstance(assignment.value, s.DefaultValue):
            return self.default(column, table, assignment.line)
        value = self.value(assignment.value, scope)
        if assignment.op != "=":
            current = next(c for c in target.columns if c.name == column.name).value()
            value = self.combine(assignment.op[:-1], current, value, assignment.line)
        return stored(value, column, assignment.line)

    def _changed(self, target: RowSource, parts: s.Parts, line: int) -> Table:
        if target.table is None:
            raise SqlError(
                4406,
                f"Update or insert of view or function '{'.'.join(parts)}' failed because it contains a derived or "
                "constant "
                "field.",
                line=line,
            )
        if target.table.external is not None:
            raise _outside(line)
        return target.table

    def delete(self, delete: s.Delete) -> CompiledChange:
        head = self.common_tables(delete.tables)
        sql, sources, target = self._reach(delete.target, delete.alias, delete.source, delete.line)
        table = self._changed(target, delete.target, delete.line)
        self.context.demand("DELETE", target.parts, table, delete.line)
        where = f" WHERE {self.condition(delete.where, Scope(sources))}" if delete.where is not None else ""
        if delete.top is None and len(sources) == 1 and not head:
            return CompiledChange(f"DELETE FROM {sql}{where}", "DELETE", table)
        limit = f" LIMIT {self._top_count(delete.top)}" if delete.top is not None else ""
        key = target.columns[0].sql.split(".")[0]
        return CompiledChange(
            f"{head}DELETE FROM {table.physical} WHERE rowid IN (SELECT {key}.rowid FROM {sql}{where}{limit})",
            "DELETE",
            table,
        )

    # ---- MERGE --------

    def merge(self, merge: s.Merge) -> CompiledChange:
        """https://learn.microsoft.com/en-us/sql/t-sql/statements/merge-transact-sql"""
        head = self.common_tables(merge.tables)
        table = self.target(merge.target, merge.line)
        target_sql, targets = self.target_source(s.TableSource(merge.line, merge.target, merge.alias, [], []))
        source_sql, sources = self.source(merge.source, None)
        both = Scope(targets + sources)
        parts = [f"{head}MERGE INTO {target_sql} USING {source_sql} ON {self.condition(merge.on, both)}"]
        for branch in merge.branches:
            if branch.match == "TARGET" and table.distribution != "HASH" and not table.temporary:
                # https://learn.microsoft.com/en-us/sql/t-sql/statements/merge-transact-sql
                raise errors.refused(
                    "WHEN NOT MATCHED BY TARGET", branch.line, "The target has to be hash-distributed."
                )
            scope = {"MATCHED": both, "TARGET": Scope(sources), "SOURCE": Scope(targets)}[branch.match]
            word = {"MATCHED": "MATCHED", "TARGET": "NOT MATCHED BY TARGET", "SOURCE": "NOT MATCHED BY SOURCE"}[
                branch.match
            ]
            condition = f" AND {self.condition(branch.condition, scope)}" if branch.condition is not None else ""
            parts.append(f"WHEN {word}{condition} THEN {self._merge_action(branch, table, targets[0], scope)}")
        return CompiledChange(" ".join(parts), "MERGE", table)

    def _merge_action(self, branch: s.MergeBranch, table: Table, target: RowSource, scope: Scope) -> str:
        place = table.schema, table.name
        if branch.action == "DELETE":
            self.context.demand("DELETE", place, table, branch.line)
            return "DELETE"
        if branch.action == "UPDATE":
            refused = self.context.refused_columns("UPDATE", place, table, branch.line)
            changes = []
            for assignment in branch.assignments:
                column = table.column(assignment.parts[-1])
                if column is None:
                    raise errors.invalid_column(assignment.parts[-1], assignment.line)
                if refused is not None and (denied := refused(column.name)) is not None:
                    raise denied
                changes.append(f"{quote(column.name)} = {self._assigned(assignment, column, table, target, scope)}")
            return f"UPDATE SET {', '.join(changes)}"
        self.context.demand("INSERT", place, table, branch.line)
        insert = s.Insert(branch.line, (table.name,), branch.columns, None, [branch.values], [], {})
        columns = self._insert_columns(insert, table)
        self._check_width(len(branch.values), columns, insert)
        values = [
            self.default(column, table, expr.line)
            if isinstance(expr, s.DefaultValue)
            else stored(self.value(expr, scope), column, expr.line)
            for expr, column in zip(branch.values, columns, strict=True)
        ]
        missing = [column for column in table.columns if column not in columns]
        values += [self.default(column, table, branch.line) for column in missing]
        names = ", ".join(quote(column.name) for column in [*columns, *missing])
        return f"INSERT ({names}) VALUES ({', '.join(values)})"


def _outside(line: int) -> SqlError:
    return SqlError(46519, "DML Operations are not supported with external tables.", line=line)


def _target_among(sources: list[RowSource], target: s.Parts, alias: str | None) -> RowSource | None:
    """The source that UPDATE or DELETE names: by alias first, then by table."""
    wanted = (alias or target[-1]).lower()
    if len(target) == 1:
        for source in sources:
            if source.alias.lower() == wanted:
                return source
    for source in sources:
        if source.table is not None and source.parts and source.answers(target):
            return source
    return None
