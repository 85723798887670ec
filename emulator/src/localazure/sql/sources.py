"""What stands in FROM: tables, views, derived tables, joins, APPLY, PIVOT, table functions, catalogue views.

https://learn.microsoft.com/en-us/sql/t-sql/queries/from-transact-sql
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from localazure.sql import authority, errors, functions_of_users
from localazure.sql import syntax as s
from localazure.sql.binding import Context, RowSource, Scope, SourceColumn, SystemRows
from localazure.sql.catalog import CatalogObject, Table, View, quote
from localazure.sql.conversions import Value, convert
from localazure.sql.expressions import ExpressionCompiler
from localazure.sql.results import SqlError, SqlType
from localazure.sql.sqltypes import CHARACTER, INT

if TYPE_CHECKING:
    from localazure.sql.queries import CompiledQuery, OutputColumn

_DEEPEST_VIEW = 32
_DENIED = frozenset({229, 230, 262, 916, 4834, 15151})
_OF_ONES_OWN = frozenset({"dm_exec_sessions", "dm_exec_requests", "dm_exec_connections"})
Sources = list[RowSource]


class SourceCompiler(ExpressionCompiler):
    """FROM clauses. ``tables``: the common tables in sight, innermost last, as (name, DuckDB name, columns)."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.tables: list[tuple[str, str, list[OutputColumn]]] = []
        self._later = False

    def target_source(self, source: s.TableSource) -> tuple[str, Sources]:
        """The target of a change in FROM: reading takes SELECT once a column of it is read, not before."""
        self._later = True
        try:
            return self._table(source)
        finally:
            self._later = False

    def source(self, source: s.Source, parent: Scope | None) -> tuple[str, Sources]:
        """(DuckDB's FROM text, the row sources it brings into scope)."""
        match source:
            case s.Join():
                return self._join(source, parent)
            case s.TableSource():
                return self._table(source)
            case s.DerivedSource():
                return self._derived(source, parent)
            case s.ValuesSource():
                return self._values(source, parent)
            case s.FunctionSource():
                return self._function(source, parent)
            case s.Pivot():
                return self._pivot(source, parent)
            case s.Unpivot():
                return self._unpivot(source, parent)
        raise errors.not_implemented(type(source).__name__, source.line)

    def _join(self, join: s.Join, parent: Scope | None) -> tuple[str, Sources]:
        left_sql, left = self.source(join.left, parent)
        if join.kind.endswith("APPLY"):
            right_sql, right = self.source(join.right, Scope(left, parent))
            if join.kind == "CROSS APPLY":
                return f"{left_sql} CROSS JOIN LATERAL {right_sql}", left + right
            return f"{left_sql} LEFT JOIN LATERAL {right_sql} ON TRUE", left + right
        right_sql, right = self.source(join.right, parent)
        names = [source.alias.lower() for source in left if not source.parts]
        for source in right:
            if source.alias and not source.parts and source.alias.lower() in names:
                raise SqlError(
                    1011,
                    f"The correlation name '{source.alias}' is specified multiple times in a FROM clause.",
                    line=join.line,
                )
        if isinstance(join.right, s.Join):
            right_sql = f"({right_sql})"
        if join.kind == "CROSS" or join.on is None:
            return f"{left_sql} CROSS JOIN {right_sql}", left + right
        condition = self.condition(join.on, Scope(left + right, parent))
        return f"{left_sql} {join.kind} JOIN {right_sql} ON {condition}", left + right

    def _table(self, source: s.TableSource) -> tuple[str, Sources]:
        if source.hints and not self.context.kind.hints:
            raise SqlError(15873, f"Table hint {source.hints[0]} is not allowed.", line=source.line)
        if len(source.parts) == 1:
            wanted = source.parts[0].lower()
            for name, alias, columns in reversed(self.tables):
                if name == wanted:
                    return self._common(source, alias, columns)
        schema = source.parts[-2].lower() if len(source.parts) > 1 else ""
        if schema in {"sys", "information_schema"}:
            rows = self.context.system_rows(schema, source.parts[-1].lower())
            if rows is None:
                raise errors.invalid_object(".".join(source.parts), source.line)
            self._demand_state(source)
            self.context.system = True
            return self._attached(rows, source.alias or source.parts[-1], source.parts[-2:] if not source.alias else ())
        found = self.context.find(source.parts, source.line)
        if self.context.access is not None and isinstance(found, View | Table):
            return self._guarded(found, source)
        return self._found(found, source)

    def _guarded(self, found: View | Table, source: s.TableSource) -> tuple[str, Sources]:
        """The rows of a table or a view for a user whose permissions count; columns that are refused say so."""
        later, self._later = self._later, False
        refused = self.context.refused_columns("SELECT", source.parts, found, source.line, later=later)
        sql, sources = self._found(found, source)
        if refused is not None:
            made = sources[0]
            made.columns = [replace(column, refused=refused(column.name)) for column in made.columns]
        return sql, sources

    def _demand_state(self, source: s.TableSource) -> None:
        """Management views are for VIEW DATABASE STATE; those of one's own session show that one to everybody."""
        name = source.parts[-1].lower()
        if name.startswith("dm_") and name not in _OF_ONES_OWN:
            self.context.demand_on_database("VIEW DATABASE STATE", source.line)

    def _found(self, found: CatalogObject | None, source: s.TableSource) -> tuple[str, Sources]:
        if isinstance(found, View):
            return self._view(found, source)
        if not isinstance(found, Table):
            if len(source.parts) == 1:  # sys views that old clients name without their schema
                rows = self.context.system_rows("sys", source.parts[0].lower())
                if rows is not None and source.parts[0].lower().startswith("sys"):
                    return self._attached(rows, source.alias or source.parts[-1], ())
            raise errors.invalid_object(".".join(source.parts), source.line)
        if found.external is not None and self.context.lake is not None:
            with self.context.inside(self.context.elsewhere(source.parts, source.line)):
                self._demand_credential(found.external.get("DATA_SOURCE", ""), source.line)
                sql, made = self.context.lake(self, found, source)
            return sql, [made]
        if found.external is not None:
            table = self.context.external_rows(found)
            declared = tuple((column.name, column.type) for column in found.columns)
            exposed, parts = source.alias or found.name, () if source.alias else source.parts
            sql, sources = self._attached(SystemRows(declared, table), exposed, parts)
            sources[0].table = found
            return sql, sources
        return self._stored(found, source)

    def _demand_credential(self, data_source: str, line: int) -> None:
        if self.context.access is not None:
            authority.references(self.context.access, self.context.pool, data_source, line)

    def _stored(self, table: Table, source: s.TableSource) -> tuple[str, Sources]:
        self.context.stored = True
        alias = self.context.fresh(table.name)
        columns = [
            SourceColumn(column.name, column.type, f"{alias}.{quote(column.name)}", column.nullable, trimmed=True)
            for column in table.columns
        ]
        parts = () if source.alias else (table.schema, table.name)
        return f"{table.physical} AS {alias}", [RowSource(source.alias or table.name, columns, parts, table)]

    def _common(self, source: s.TableSource, name: str, columns: list[OutputColumn]) -> tuple[str, Sources]:
        alias = self.context.fresh("w")
        found = [
            SourceColumn(column.name, column.type, f'{alias}."c{index}"', column.nullable, column.trimmed)
            for index, column in enumerate(columns, 1)
        ]
        return f"{name} AS {alias}", [RowSource(source.alias or source.parts[-1], found)]

    def _attached(self, rows: SystemRows, exposed: str, parts: s.Parts) -> tuple[str, Sources]:
        """Rows that live outside DuckDB's file: an Arrow table registered for this statement."""
        self.context.cacheable = False
        name = self.context.fresh("attached")
        self.context.attachments[name.strip('"')] = rows.table
        alias = self.context.fresh("a")
        columns = [
            SourceColumn(column, kind, f"{alias}.{quote(rows.table.column_names[index])}", True, trimmed=False)
            for index, (column, kind) in enumerate(rows.columns)
        ]
        return f"{name} AS {alias}", [RowSource(exposed, columns, tuple(parts))]

    def _view(self, view: View, source: s.TableSource) -> tuple[str, Sources]:
        from localazure.sql.parse_statements import parse

        if self.context.depth >= _DEEPEST_VIEW:
            raise SqlError(
                217,
                "Maximum stored procedure, function, trigger, or view nesting level exceeded (limit 32).",
                line=source.line,
            )
        statement = parse(view.query_text)[0]
        if not isinstance(statement, s.QueryStatement):
            raise errors.invalid_object(".".join(source.parts), source.line)
        saved, self.tables = self.tables, []
        self.context.depth += 1
        try:
            with self.context.inside(self.context.elsewhere(source.parts, source.line), view.schema):
                compiled = self.query(statement.query, None)
        except SqlError as error:
            if error.number in _DENIED:
                raise
            raise SqlError(
                4413,
                f"Could not use view or function '{view.schema}.{view.name}' because of binding errors: "
                f"{error.message}",
                line=source.line,
            ) from error
        finally:
            self.tables = saved
            self.context.depth -= 1
        names = list(view.columns) or [column.name for column in compiled.columns]
        parts = () if source.alias else (view.schema, view.name)
        return self._aliased(compiled, source.alias or view.name, names, parts, source.line)

    def _derived(self, source: s.DerivedSource, parent: Scope | None) -> tuple[str, Sources]:
        compiled = self.query(source.query, parent)
        if source.alias is None:
            raise errors.syntax(")", source.line)
        names = source.columns or [column.name for column in compiled.columns]
        return self._aliased(compiled, source.alias, names, (), source.line)

    def _aliased(
        self, compiled: CompiledQuery, exposed: str, names: list[str], parts: s.Parts, line: int
    ) -> tuple[str, Sources]:
        if len(names) != len(compiled.columns):
            raise SqlError(
                8158,
                f"'{exposed}' has a different number of columns than were specified in the column list.",
                line=line,
            )
        seen: set[str] = set()
        for position, name in enumerate(names, 1):
            if not name:
                raise SqlError(8155, f"No column name was specified for column {position} of '{exposed}'.", line=line)
            if name.lower() in seen:
                raise SqlError(8156, f"The column '{name}' was specified multiple times for '{exposed}'.", line=line)
            seen.add(name.lower())
        alias = self.context.fresh(exposed)
        columns = [
            SourceColumn(
                name,
                column.type,
                f'{alias}."c{index}"',
                column.nullable,
                column.trimmed and column.type.name not in {"char", "nchar"},
            )
            for index, (name, column) in enumerate(zip(names, compiled.columns, strict=True), 1)
        ]
        return f"({compiled.sql}) AS {alias}", [RowSource(exposed, columns, parts)]

    def _values(self, source: s.ValuesSource, parent: Scope | None) -> tuple[str, Sources]:
        if source.alias is None:
            raise errors.syntax(")", source.line)
        scope = Scope(parent=parent)
        rows = [[self.value(expr, scope) for expr in row] for row in source.rows]
        width = len(rows[0])
        if any(len(row) != width for row in rows):
            raise SqlError(
                10709,
                "The number of columns for each row in a table value constructor must be the same.",
                line=source.line,
            )
        if len(source.columns) != width:
            raise SqlError(
                8158,
                f"'{source.alias}' has a different number of columns than were specified in the column list.",
                line=source.line,
            )
        columns = [self.unify([row[index] for row in rows], source.line) for index in range(width)]
        alias = self.context.fresh("v")
        lines = ", ".join(
            "(" + ", ".join(columns[index][0][number].sql for index in range(width)) + ")"
            for number in range(len(rows))
        )
        found = [
            SourceColumn(name, kind, f'{alias}."c{index}"', True, all(value.trimmed for value in values))
            for index, (name, (values, kind)) in enumerate(zip(source.columns, columns, strict=True), 1)
        ]
        inner = ", ".join(f'"c{index}"' for index in range(1, width + 1))
        # a derived table rather than a bare VALUES list: LATERAL takes only the former
        return f"(SELECT * FROM (VALUES {lines}) AS {alias}({inner})) AS {alias}", [RowSource(source.alias, found)]

    # ---- table functions --------

    def _function(self, source: s.FunctionSource, parent: Scope | None) -> tuple[str, Sources]:
        name = source.call.name
        scope = parent or Scope()
        if name == "OPENROWSET":
            return self._openrowset(source)
        if name == "STRING_SPLIT":
            return self._string_split(source, scope)
        if name == "OPENJSON":
            return self._openjson(source, scope)
        schema = source.call.qualifier[-1].lower() if source.call.qualifier else ""
        if schema in {"sys", ""} and name == "FN_MY_PERMISSIONS":
            return self._my_permissions(source)
        if schema == "sys":
            rows = self.context.system_rows("sys", f"{name.lower()}()")
            if rows is not None:
                return self._attached(rows, source.alias or name, ())
        definition = functions_of_users.find(self, source.call)
        if definition is not None:
            compiled = functions_of_users.table(self, definition, source.call, scope)
            names = source.columns or [column.name for column in compiled.columns]
            return self._aliased(compiled, source.alias or name.lower(), names, (), source.line)
        raise errors.invalid_object(".".join((*source.call.qualifier, name.lower())), source.line)

    def _my_permissions(self, source: s.FunctionSource) -> tuple[str, Sources]:
        """A dedicated pool hasn't this function.

        https://learn.microsoft.com/en-us/sql/relational-databases/system-functions/sys-fn-my-permissions-transact-sql
        """
        from localazure.sql.security_functions import my_permissions

        if self.context.kind.tables:
            raise errors.refused("fn_my_permissions", source.line)
        if len(source.call.args) != 2:  # noqa: PLR2004
            raise errors.argument_count("fn_my_permissions", "2", source.line)
        securable, kind = (self.constant(arg) for arg in source.call.args)
        found = my_permissions(self.context, None if securable is None else str(securable), str(kind or ""))
        names = ("entity_name", "subentity_name", "permission_name")
        columns = [pa.array([row[index] for row in found], pa.string()) for index in range(len(names))]
        rows = pa.Table.from_arrays(columns, names=list(names))
        self.context.system = True
        declared = tuple((name, SqlType("nvarchar", 128)) for name in names)
        return self._attached(SystemRows(declared, rows), source.alias or "fn_my_permissions", ())

    def _string_split(self, source: s.FunctionSource, scope: Scope) -> tuple[str, Sources]:
        args = [self.value(arg, scope) for arg in source.call.args]
        if len(args) not in {2, 3}:
            raise errors.argument_count("STRING_SPLIT", "2 to 3", source.line)
        alias = self.context.fresh("split")
        text = args[0] if args[0].type.name in CHARACTER else convert(args[0], SqlType("varchar", 8000), source.line)
        columns = [
            SourceColumn(
                "value",
                SqlType(text.type.name if text.type.name in {"varchar", "nvarchar"} else "varchar", text.type.length),
                f'{alias}."value"',
            )
        ]
        ordinal = ""
        if len(args) == 3 and args[2].literal == "1":  # noqa: PLR2004
            ordinal = f', generate_subscripts(string_split({text.sql}, {args[1].sql}), 1) AS "ordinal"'
            columns.append(SourceColumn("ordinal", SqlType("bigint"), f'CAST({alias}."ordinal" AS BIGINT)'))
        sql = f'(SELECT unnest(string_split({text.sql}, {args[1].sql})) AS "value"{ordinal}) AS {alias}'
        return sql, [RowSource(source.alias or "STRING_SPLIT", columns)]

    def _openjson(self, source: s.FunctionSource, scope: Scope) -> tuple[str, Sources]:
        """https://learn.microsoft.com/en-us/sql/t-sql/functions/openjson-transact-sql"""
        args = source.call.args
        text = self.value(args[0], scope).sql
        if len(args) > 1:
            path = self.constant_text(args[1], scope).removeprefix("lax ")
            text = f"json_extract({text}, {errors.literal(path)})"
        alias = self.context.fresh("j")
        if not source.schema:
            kinds = (
                "CASE je.type WHEN 'NULL' THEN 0 WHEN 'VARCHAR' THEN 1 WHEN 'BOOLEAN' THEN 3 WHEN 'ARRAY' THEN 4 "
                "WHEN 'OBJECT' THEN 5 ELSE 2 END"
            )
            sql = (
                "(SELECT CAST(je.key AS VARCHAR) AS \"c1\", CASE WHEN je.type = 'NULL' THEN NULL WHEN je.type = "
                "'VARCHAR' THEN "
                f'json_extract_string(je.value, \'$\') ELSE CAST(je.value AS VARCHAR) END AS "c2", {kinds} AS "c3" '
                f"FROM json_each({text}) AS je) AS {alias}"
            )
            columns = [
                SourceColumn("key", SqlType("nvarchar", 4000), f'{alias}."c1"'),
                SourceColumn("value", SqlType("nvarchar", -1), f'{alias}."c2"'),
                SourceColumn("type", INT, f'{alias}."c3"'),
            ]
            return sql, [RowSource(source.alias or "OPENJSON", columns)]
        items, columns = [], []
        for index, column in enumerate(source.schema, 1):
            path = errors.literal((column.path or f'$."{column.name}"').removeprefix("lax "))
            if column.as_json:
                value = Value(f'CAST(json_extract("e"."v", {path}) AS VARCHAR)', SqlType("nvarchar", -1))
            else:
                value = convert(
                    Value(f'json_extract_string("e"."v", {path})', SqlType("nvarchar", -1)), column.type, column.line
                )
            items.append(f'{value.sql} AS "c{index}"')
            columns.append(SourceColumn(column.name, column.type, f'{alias}."c{index}"'))
        rows = (
            f"CASE WHEN json_type({text}) = 'ARRAY' THEN json_extract({text}, '$[*]') ELSE [CAST({text} AS JSON)] END"
        )
        sql = f'(SELECT {", ".join(items)} FROM (SELECT unnest({rows}) AS "v") AS "e") AS {alias}'
        return sql, [RowSource(source.alias or "OPENJSON", columns)]

    def _openrowset(self, source: s.FunctionSource) -> tuple[str, Sources]:
        if self.context.lake is None:
            raise errors.refused("OPENROWSET", source.line)
        if self.context.access is not None:
            authority.bulk(self.context.access, source.line)
            named = source.options.get("DATA_SOURCE")
            self._demand_credential(self.constant_text(named, Scope()) if named is not None else "", source.line)
        sql, made = self.context.lake(self, None, source)
        return sql, [made]

    # ---- PIVOT, UNPIVOT --------

    def _pivot(self, pivot: s.Pivot, parent: Scope | None) -> tuple[str, Sources]:
        """One aggregate a value, grouped by every column that the pivot doesn't name."""
        inner_sql, sources = self.source(pivot.source, parent)
        scope = Scope(sources, parent)
        if len(pivot.aggregate.args) != 1:
            raise errors.syntax("PIVOT", pivot.line)
        argument = pivot.aggregate.args[0]
        used = {pivot.column.lower()} | ({argument.parts[-1].lower()} if isinstance(argument, s.Name) else set())
        kept = _readable(column for source in sources for column in source.columns if column.name.lower() not in used)
        alias = self.context.fresh("p")
        items = [f'{column.sql} AS "c{index}"' for index, column in enumerate(kept, 1)]
        found = [
            SourceColumn(column.name, column.type, f'{alias}."c{index}"', column.nullable, column.trimmed)
            for index, column in enumerate(kept, 1)
        ]
        for index, text in enumerate(pivot.values, len(kept) + 1):
            test = s.Compare(
                pivot.line, "=", s.Name(pivot.line, (pivot.column,)), s.Literal(pivot.line, "string", text)
            )
            picked = s.Case(pivot.line, None, [(test, argument)], None)
            call = s.Call(pivot.line, (), pivot.aggregate.name, [picked])
            value = self.value(call, scope)
            items.append(f'{value.sql} AS "c{index}"')
            found.append(SourceColumn(text, value.type, f'{alias}."c{index}"', value.nullable, value.trimmed))
        group = f" GROUP BY {', '.join(column.sql for column in kept)}" if kept else ""
        return f"(SELECT {', '.join(items)} FROM {inner_sql}{group}) AS {alias}", [RowSource(pivot.alias, found)]

    def _unpivot(self, pivot: s.Unpivot, parent: Scope | None) -> tuple[str, Sources]:
        """A row a column that isn't NULL."""
        inner_sql, sources = self.source(pivot.source, parent)
        scope = Scope(sources, parent)
        named = _readable(scope.resolve((column,), pivot.line) for column in pivot.columns)
        kind = named[0].type
        if any(column.type != kind for column in named):
            raise SqlError(
                8167,
                f'The type of column "{pivot.columns[-1]}" conflicts with the type of other columns specified in '
                "the UNPIVOT "
                "list.",
                line=pivot.line,
            )
        unpivoted = {column.lower() for column in pivot.columns}
        kept = _readable(
            column for source in sources for column in source.columns if column.name.lower() not in unpivoted
        )
        alias, rows = self.context.fresh("u"), self.context.fresh("r")
        values = ", ".join(
            f"({errors.literal(name)}, {column.sql})" for name, column in zip(pivot.columns, named, strict=True)
        )
        items = [f'{column.sql} AS "c{index}"' for index, column in enumerate(kept, 1)]
        size = len(kept)
        items += [f'{rows}."k" AS "c{size + 1}"', f'{rows}."v" AS "c{size + 2}"']
        found = [SourceColumn(column.name, column.type, f'{alias}."c{index}"') for index, column in enumerate(kept, 1)]
        found.append(SourceColumn(pivot.name_column, SqlType("nvarchar", 128), f'{alias}."c{size + 1}"', False, True))
        found.append(SourceColumn(pivot.value_column, kind, f'{alias}."c{size + 2}"'))
        sql = (
            f"(SELECT {', '.join(items)} FROM {inner_sql} CROSS JOIN LATERAL (SELECT * FROM (VALUES {values}) AS "
            f'{rows}("k", "v")) '
            f'AS {rows} WHERE {rows}."v" IS NOT NULL) AS {alias}'
        )
        return sql, [RowSource(pivot.alias, found)]


def _readable(columns: Iterable[SourceColumn]) -> list[SourceColumn]:
    """The columns; the error of the first that the session's user may not read."""
    found = list(columns)
    for column in found:
        if column.refused is not None:
            raise column.refused
    return found
