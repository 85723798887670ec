"""SELECT to DuckDB SQL: sources, grouping, set operations, TOP and ORDER BY.

https://learn.microsoft.com/en-us/sql/t-sql/queries/select-transact-sql
Inside, output columns are c1, c2, ... and row sources have names of their own, so that T-SQL's duplicate and missing
names and DuckDB's scoping rules never meet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.binding import RowSource, Scope, SourceColumn
from localazure.sql.catalog import quote
from localazure.sql.conversions import Value, convert
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sources import SourceCompiler
from localazure.sql.sqltypes import CHARACTER, INT, duck, winner


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A column of a compiled query; null: every row of it is the NULL literal, so any type fits."""

    name: str
    type: SqlType
    nullable: bool = True
    trimmed: bool = False
    null: bool = False


@dataclass(frozen=True, slots=True)
class CompiledQuery:
    """DuckDB SQL whose columns are named c1, c2, ... in the order of ``columns``."""

    sql: str
    columns: tuple[OutputColumn, ...]

    def value(self, index: int, alias: str) -> Value:
        """Column ``index`` as seen from outside, when this query is aliased ``alias``."""
        column = self.columns[index]
        trimmed = column.trimmed or column.type.name not in CHARACTER
        return Value(f'{alias}."c{index + 1}"', column.type, column.nullable, trimmed=trimmed, null=False)


def _order_word(descending: bool) -> str:
    """T-SQL sorts NULL below every value."""
    return "DESC NULLS LAST" if descending else "ASC NULLS FIRST"


class QueryCompiler(SourceCompiler):
    """Whole queries. ``tables`` holds the common tables in sight, innermost last."""

    def query(self, query: s.Query, scope: Scope | None, line: int = 0) -> CompiledQuery:
        """Compile a query, correlated to ``scope`` if that is given."""
        opened = 0
        heads: list[str] = []
        for table in query.tables:
            heads.append(self._common_table(table))
            opened += 1
        try:
            compiled = self._ordered(query, scope)
        finally:
            for _ in range(opened):
                self.tables.pop()
        if heads:
            return replace(compiled, sql=f"WITH {', '.join(heads)} {compiled.sql}")
        return compiled

    def common_tables(self, tables: list[s.CommonTable]) -> str:
        """A WITH clause for a statement that isn't a query; the tables stay in sight until the compiler is dropped."""
        return f"WITH {', '.join(self._common_table(table) for table in tables)} " if tables else ""

    def _common_table(self, table: s.CommonTable) -> str:
        if _mentions(table.query, table.name):
            refuse = errors.refused if self.context.kind.tables else errors.not_implemented
            raise refuse("recursive common table expression", table.line)
        compiled = self.query(table.query, None)
        alias = self.context.fresh(table.name)
        names = table.columns or [column.name for column in compiled.columns]
        if len(names) != len(compiled.columns):
            raise SqlError(
                8158, f"'{table.name}' has more columns than were specified in the column list.", line=table.line
            )
        for position, name in enumerate(names, 1):
            if not name:
                raise SqlError(
                    8155, f"No column name was specified for column {position} of '{table.name}'.", line=table.line
                )
        columns = [replace(column, name=name) for column, name in zip(compiled.columns, names, strict=True)]
        self.tables.append((table.name.lower(), alias, columns))
        inner = ", ".join(f'"c{index + 1}"' for index in range(len(columns)))
        return f"{alias}({inner}) AS ({compiled.sql})"

    def _ordered(self, query: s.Query, scope: Scope | None) -> CompiledQuery:
        if query.offset is not None and not self.context.kind.offset_fetch:
            raise errors.refused("OFFSET", query.line)
        if query.form:  # a serverless pool has it
            fail = errors.refused if self.context.kind.tables else errors.not_implemented
            raise fail(f"FOR {query.form}", query.line)
        if query.options and not self.context.kind.hints:
            raise SqlError(15874, f"Query hint {next(iter(query.options))} is not allowed.", line=query.line)
        if isinstance(query.body, s.Select):
            compiled = self._select(query.body, scope, query.order)
        else:
            compiled = self._body(query.body, scope)
            if query.order:
                parts = [self._set_order(item, compiled) for item in query.order]
                compiled = replace(compiled, sql=f"{compiled.sql} ORDER BY {', '.join(parts)}")
        if query.offset is not None:
            tail = f" OFFSET {self.constant_int(query.offset, Scope())}"
            if query.fetch is not None:
                tail = f" LIMIT {self.constant_int(query.fetch, Scope())}" + tail
            compiled = replace(compiled, sql=compiled.sql + tail)
        return compiled

    def _body(self, body: s.Select | s.SetOperation | s.Query, scope: Scope | None) -> CompiledQuery:
        if isinstance(body, s.Query):
            return self.query(body, scope)
        if isinstance(body, s.Select):
            return self._select(body, scope, [])
        left, right = self._body(body.left, scope), self._body(body.right, scope)
        if len(left.columns) != len(right.columns):
            raise SqlError(
                205,
                "All queries combined using a UNION, INTERSECT or EXCEPT operator must have an equal number of "
                "expressions in their target lists.",
                line=body.line,
            )
        kinds = [_united(a, b) for a, b in zip(left.columns, right.columns, strict=True)]
        told_apart = body.op != "UNION ALL"
        left = self._cast_all(left, kinds, body.line, told_apart)
        right = self._cast_all(right, kinds, body.line, told_apart)
        columns = tuple(
            OutputColumn(a.name, kind, a.nullable or b.nullable, a.trimmed and b.trimmed, a.null and b.null)
            for a, b, kind in zip(left.columns, right.columns, kinds, strict=True)
        )
        return CompiledQuery(f"({left.sql}) {body.op} ({right.sql})", columns)

    def _cast_all(self, query: CompiledQuery, kinds: list[SqlType], line: int, told_apart: bool) -> CompiledQuery:
        """``query`` with its columns as ``kinds``; told_apart: rows are compared, so trailing blanks go."""
        blank = told_apart and any(c.type.name in {"varchar", "nvarchar"} and not c.trimmed for c in query.columns)
        if not blank and all(column.type == kind for column, kind in zip(query.columns, kinds, strict=True)):
            return query
        alias = self.context.fresh("u")
        items, columns = [], []
        for index, (column, kind) in enumerate(zip(query.columns, kinds, strict=True)):
            value = query.value(index, alias)
            if column.type != kind:
                value = convert(replace(value, null=column.null), kind, line)
            if told_apart:
                value = replace(value, sql=self.distinguished(value))
            items.append(f'{value.sql} AS "c{index + 1}"')
            columns.append(replace(column, type=kind, trimmed=value.trimmed or column.null))
        return CompiledQuery(f"SELECT {', '.join(items)} FROM ({query.sql}) AS {alias}", tuple(columns))

    def _set_order(self, item: s.OrderItem, compiled: CompiledQuery) -> str:
        """ORDER BY behind a set operation: a column of the result by name or position."""
        position = None
        if isinstance(item.expr, s.Name):
            name = item.expr.parts[-1].lower()
            position = next((i for i, c in enumerate(compiled.columns, 1) if c.name.lower() == name), None)
        elif isinstance(item.expr, s.Literal) and item.expr.kind == "int":
            position = int(item.expr.text)
        if position is None or not 1 <= position <= len(compiled.columns):
            raise SqlError(
                104,
                "ORDER BY items must appear in the select list if the statement contains a UNION, INTERSECT or "
                "EXCEPT operator.",
                line=item.line,
            )
        return f"{position} {_order_word(item.descending)}"

    # ---- one SELECT --------

    def _select(self, select: s.Select, parent: Scope | None, order: list[s.OrderItem]) -> CompiledQuery:
        scope = Scope(parent=parent)
        source_sql = ""
        if select.source is not None:
            source_sql, scope.sources = self.source(select.source, parent)
        outer, self.grouped = self.grouped, {}
        try:
            return self._grouped_select(select, scope, source_sql, order)
        finally:
            self.grouped = outer

    def _grouped_select(
        self, select: s.Select, scope: Scope, source_sql: str, order: list[s.OrderItem]
    ) -> CompiledQuery:
        """The clauses of a SELECT in the order of their meaning: GROUP BY before the items that it groups."""
        where = f"WHERE {self.condition(select.where, scope)}" if select.where is not None else ""
        groups = ", ".join(self._grouping(group, scope) for group in select.groups)
        items = self._items(select, scope)
        if select.distinct:
            items = [(name, replace(value, sql=self.distinguished(value))) for name, value in items]
        parts = ["SELECT DISTINCT" if select.distinct else "SELECT"]
        parts.append(", ".join(f'{value.sql} AS "c{index}"' for index, (_, value) in enumerate(items, 1)))
        if source_sql:
            parts.append(f"FROM {source_sql}")
        if where:
            parts.append(where)
        if groups:
            parts.append(f"GROUP BY {groups}")
        if select.having is not None:
            parts.append(f"HAVING {self.condition(select.having, scope)}")
        ordering = [self._order(item, items, scope, select.distinct) for item in order]
        if select.top is not None and (select.top.ties or select.top.percent):
            parts.append(self._qualify(select, ordering, items))
        if ordering:
            parts.append("ORDER BY " + ", ".join(f"{position} {word}" for position, _, word in ordering))
        if select.top is not None and not (select.top.ties or select.top.percent):
            parts.append(f"LIMIT {self._top_count(select.top)}")
        columns = tuple(
            OutputColumn(name, value.type, value.nullable, value.trimmed, value.null) for name, value in items
        )
        return CompiledQuery(" ".join(parts), columns)

    def _items(self, select: s.Select, scope: Scope) -> list[tuple[str, Value]]:
        found: list[tuple[str, Value]] = []
        for item in select.items:
            if isinstance(item.expr, s.Star):
                found += self._star(item.expr, scope)
                continue
            value = self.value(item.expr, scope)
            name = item.alias if item.alias is not None else ""
            if item.alias is None and isinstance(item.expr, s.Name):
                name = item.expr.parts[-1]
            if value.null:
                value = replace(value, sql=f"CAST(NULL AS {duck(INT)})")
            found.append((name, value))
        return found

    def _star(self, star: s.Star, scope: Scope) -> list[tuple[str, Value]]:
        sources = scope.sources
        if star.qualifier:
            sources = [source for source in sources if source.answers(star.qualifier)]
            if not sources:
                raise SqlError(
                    107,
                    f"The column prefix '{'.'.join(star.qualifier)}' does not match with a table name or alias name "
                    "used in the query.",
                    line=star.line,
                )
        elif not sources:
            raise SqlError(263, "Must specify table to select from.", line=star.line)
        return [(c.name, c.value()) for source in sources for c in source.columns if not c.hidden]

    def _grouping(self, group: s.Grouping, scope: Scope) -> str:
        def one(exprs: list[s.Expr]) -> str:
            return ", ".join(self._group_item(expr, scope) for expr in exprs)

        if group.kind == "PLAIN":
            return one(group.sets[0])
        if group.kind == "SETS":
            if not self.context.kind.grouping_sets and group.sets != [[]]:
                raise errors.unsupported("GROUPING SETS", group.line)
            return f"GROUPING SETS ({', '.join(f'({one(exprs)})' for exprs in group.sets)})"
        inner = ", ".join(f"({one(exprs)})" if len(exprs) > 1 else one(exprs) for exprs in group.sets)
        return f"{group.kind} ({inner})"

    def _group_item(self, expr: s.Expr, scope: Scope) -> str:
        if isinstance(expr, s.Literal):
            raise SqlError(
                164,
                "Each GROUP BY expression must contain at least one column that is not an outer reference.",
                line=expr.line,
            )
        value = self.value(expr, scope)
        if value.bare is not None:
            return value.bare  # a char column is padded in the result, once a group and not once a row
        key = self.distinguished(value)
        if key != value.sql:
            self.grouped[value.sql] = key
        return key

    def _order(
        self, item: s.OrderItem, items: list[tuple[str, Value]], scope: Scope, distinct: bool
    ) -> tuple[str, str, str]:
        """(what ORDER BY says, the same as an expression, direction): an output or an expression."""
        word = _order_word(item.descending)
        expr = item.expr
        if isinstance(expr, s.Literal) and expr.kind == "int":
            position = int(expr.text)
            if not 1 <= position <= len(items):
                raise SqlError(
                    108,
                    f"The ORDER BY position number {position} is out of range of the number of items in the select "
                    "list.",
                    line=item.line,
                )
            return str(position), items[position - 1][1].sql, word
        if isinstance(expr, s.Name) and len(expr.parts) == 1:
            wanted = expr.parts[0].lower()
            for position, (name, value) in enumerate(items, 1):
                if name.lower() == wanted:
                    return str(position), value.sql, word
        value = self.value(expr, scope)
        for position, (_, output) in enumerate(items, 1):
            if output.sql == value.sql:
                return str(position), value.sql, word
        if distinct:
            raise SqlError(
                145,
                "ORDER BY items must appear in the select list if SELECT DISTINCT is specified.",
                severity=15,
                line=item.line,
            )
        return value.sql, value.sql, word

    def _qualify(self, select: s.Select, ordering: list[tuple[str, str, str]], items: list[tuple[str, Value]]) -> str:
        top = select.top
        if top is None or select.distinct:
            raise errors.not_implemented("TOP PERCENT or WITH TIES beside DISTINCT", select.line)
        window = ", ".join(f"{sql} {word}" for _, sql, word in ordering)
        if top.ties and not window:
            raise SqlError(
                1062,
                "The TOP N WITH TIES clause is not allowed without a corresponding ORDER BY clause.",
                line=top.line,
            )
        order = f"ORDER BY {window}" if window else ""
        rank = "rank()" if top.ties else "row_number()"
        limit = (
            f"ceil(CAST({self._top_count(top)} AS DOUBLE) * (count(*) OVER ()) / 100)"
            if top.percent
            else self._top_count(top)
        )
        return f"QUALIFY {rank} OVER ({order}) <= {limit}"

    def _top_count(self, top: s.Top) -> str:
        count = self.constant(top.count)
        number = float(str(count)) if count is not None else -1.0
        if number < 0:
            raise SqlError(
                1060,
                "The number of rows provided for a TOP or FETCH clauses row count parameter must be an integer.",
                line=top.line,
            )
        return str(int(number)) if number == int(number) else repr(number)

    def order_sql(self, order: list[s.OrderItem], scope: Scope) -> str:
        """ORDER BY of a window or an aggregate."""
        return ", ".join(f"{self.value(item.expr, scope).sql} {_order_word(item.descending)}" for item in order)


def _united(left: OutputColumn, right: OutputColumn) -> SqlType:
    if left.null:
        return right.type
    return left.type if right.null else winner(left.type, right.type)


def _mentions(query: s.Query, name: str) -> bool:
    """Whether a query reads a table of this name (a common table that reads itself is recursive)."""
    wanted = name.lower()
    stack: list[object] = [query]
    while stack:
        node = stack.pop()
        if isinstance(node, s.TableSource) and len(node.parts) == 1 and node.parts[0].lower() == wanted:
            return True
        if isinstance(node, s.Node):
            stack += [getattr(node, slot) for slot in _slots(type(node))]
        elif isinstance(node, list | tuple):
            stack += node
    return False


def _slots(kind: type) -> list[str]:
    return [slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ())]


__all__ = ["CompiledQuery", "OutputColumn", "QueryCompiler", "RowSource", "SourceColumn", "quote"]
