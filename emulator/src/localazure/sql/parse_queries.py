"""Recursive descent over SELECT and FROM.

https://learn.microsoft.com/en-us/sql/t-sql/queries/select-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/queries/from-transact-sql
"""

from __future__ import annotations

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.parse_expressions import ExpressionParser

_TABLE_FUNCTIONS = frozenset({"OPENROWSET"})
_ASSIGN = frozenset({"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="})

_FORM_WORDS = ("AUTO", "PATH", "RAW", "EXPLICIT", "ROOT", "INCLUDE_NULL_VALUES", "WITHOUT_ARRAY_WRAPPER", "ELEMENTS",
               "TYPE", ",", "(")  # fmt: skip


class QueryParser(ExpressionParser):
    """Queries: SELECT, set operations, common tables, ORDER BY, OPTION."""

    def query(self) -> s.Query:
        line = self.line
        tables = self.common_tables()
        query = s.Query(line, self._set_operation(), tables)
        if self.at("ORDER", "BY"):
            query.order = self.order_by()
            if self.take("OFFSET"):
                query.offset = self.value()
                self._rows()
                if self.take("FETCH"):
                    if not self.take("NEXT"):
                        self.expect("FIRST")
                    query.fetch = self.value()
                    self._rows()
                    self.expect("ONLY")
        if self.at("FOR") and self.peek().key in {"XML", "JSON", "BROWSE"}:
            self.advance()
            query.form = self.advance().key
            while self.at_any(*_FORM_WORDS):
                if self.at("("):
                    self._skip_parentheses()
                else:
                    self.advance()
        query.options = self.option_clause()
        return query

    def _rows(self) -> None:
        if not self.take("ROWS"):
            self.expect("ROW")

    def common_tables(self) -> list[s.CommonTable]:
        """``WITH a AS (..), b (x) AS (..)``; empty when there is none."""
        if not self.take("WITH"):
            return []
        return self.comma_list(self._common_table)

    def _common_table(self) -> s.CommonTable:
        line = self.line
        name = self.identifier()
        columns = self.parenthesised(self.identifier) if self.at("(") else []
        self.expect("AS")
        self.expect("(")
        query = self.query()
        self.expect(")")
        return s.CommonTable(line, name, columns, query)

    def _set_operation(self) -> s.Select | s.SetOperation | s.Query:
        left = self._intersection()
        while self.at_any("UNION", "EXCEPT"):
            token = self.advance()
            op = "UNION ALL" if token.key == "UNION" and self.take("ALL") else token.key
            left = s.SetOperation(token.line, op, left, self._intersection())
        return left

    def _intersection(self) -> s.Select | s.SetOperation | s.Query:
        left = self._operand()
        while self.at("INTERSECT"):
            token = self.advance()
            left = s.SetOperation(token.line, "INTERSECT", left, self._operand())
        return left

    def _operand(self) -> s.Select | s.SetOperation | s.Query:
        if self.take("("):
            query = self.query()
            self.expect(")")
            return query
        return self._select()

    def _select(self) -> s.Select:
        line = self.expect("SELECT").line
        select = s.Select(line, False, None, [], None, None, None, [], None)
        if self.take("DISTINCT"):
            select.distinct = True
        else:
            self.take("ALL")
        if self.at("TOP"):
            select.top = self.top_clause()
        select.items = self.comma_list(self._item)
        if self.take("INTO"):
            select.into = self.name()
        if self.take("FROM"):
            select.source = self.sources()
        if self.take("WHERE"):
            select.where = self.expression()
        if self.take("GROUP"):
            self.expect("BY")
            select.groups = self._group_by()
        if self.take("HAVING"):
            select.having = self.expression()
        return select

    def top_clause(self) -> s.Top:
        line = self.expect("TOP").line
        if self.take("("):
            count = self.value()
            self.expect(")")
        elif self.token.kind in {"int", "variable", "decimal"}:
            count = self._primary()
        else:
            raise self.error()
        percent = self.take("PERCENT")
        ties = self.take("WITH", "TIES")
        return s.Top(line, count, percent, ties)

    def _item(self) -> s.Item:
        token = self.token
        if self.take("*"):
            return s.Item(token.line, s.Star(token.line, ()), None)
        if token.kind == "variable" and self.peek().key in _ASSIGN:
            self.advance()
            op = self.advance().key
            return s.Item(token.line, self.value(), None, (token.text, op))
        if (self.at_identifier() or token.kind == "string") and self.peek().key == "=":
            alias = self.advance().text
            self.advance()
            return s.Item(token.line, self.value(), alias)
        if self.at_identifier():
            mark = self.position
            parts = self.name_or_star()
            if isinstance(parts, s.Star):
                return s.Item(token.line, parts, None)
            self.position = mark
        start = self.token.start
        value = self.value()
        written = self.text[start : self.tokens[self.position - 1].end]
        return s.Item(token.line, value, self.alias(), None, written)

    def alias(self) -> str | None:
        """``AS name``, ``AS 'name'`` or a bare name; a word that starts a statement isn't an alias."""
        if self.take("AS"):
            if self.token.kind in {"string", "nstring"}:
                return self.advance().text
            return self.identifier()
        if self.token.kind == "string":
            return self.advance().text
        if self.at_identifier() and not self._statement_word():
            return self.advance().text
        return None

    def _statement_word(self) -> bool:
        """Words that aren't reserved and still begin a statement or a clause of Synapse's T-SQL."""
        follower = self.peek()
        return (
            (self.at("COPY") and follower.key == "INTO")
            or (self.at("RENAME") and follower.key == "OBJECT")
            or (self.at("THROW") and follower.kind in {"int", "variable"})
            or self.at("OFFSET")
            or self.at("WINDOW")
            or (self.at("PRINT"))
        )

    def _group_by(self) -> list[s.Grouping]:
        groups = self.comma_list(self._grouping)
        line = self.line
        if self.at("WITH") and self.peek().key in {"ROLLUP", "CUBE"}:
            self.advance()
            kind = self.advance().key
            return [s.Grouping(line, kind, [group.sets[0] for group in groups])]
        if self.at("WITH") and self.peek().key == "(":  # GROUP BY a WITH (DISTRIBUTED_AGG)
            self.advance()
            self._skip_parentheses()
        return groups

    def _grouping(self) -> s.Grouping:
        line = self.line
        if self.at_any("ROLLUP", "CUBE") and self.peek().key == "(":
            kind = self.advance().key
            return s.Grouping(line, kind, self.parenthesised(self._grouping_set))
        if self.at("GROUPING") and self.peek().key == "SETS":
            self.position += 2
            return s.Grouping(line, "SETS", self.parenthesised(self._grouping_set))
        if self.at("(", ")"):
            self.position += 2
            return s.Grouping(line, "SETS", [[]])
        return s.Grouping(line, "PLAIN", [[self.value()]])

    def _grouping_set(self) -> list[s.Expr]:
        if self.take("("):
            found = [] if self.at(")") else self.comma_list(self.value)
            self.expect(")")
            return found
        return [self.value()]

    # ---- FROM --------

    def sources(self) -> s.Source:
        """The comma-separated sources of FROM; a comma is a cross join."""
        left = self.source()
        while self.at(","):
            line = self.advance().line
            left = s.Join(line, "CROSS", left, self.source(), None)
        return left

    def source(self) -> s.Source:
        left = self._pivoted(self._factor())
        while True:
            line = self.line
            kind = self._join_kind()
            if kind is None:
                return left
            if kind.endswith("APPLY") or kind == "CROSS":
                left = s.Join(line, kind, left, self._pivoted(self._factor()), None)
                continue
            # A JOIN B JOIN C ON .. ON ..: the right side may hold joins of its own before our ON
            right = self._pivoted(self._factor())
            while not self.at("ON"):
                inner_line = self.line
                inner = self._join_kind()
                if inner is None:
                    raise self.error()
                inner_right = self._pivoted(self._factor())
                if inner.endswith("APPLY") or inner == "CROSS":
                    right = s.Join(inner_line, inner, right, inner_right, None)
                    continue
                self.expect("ON")
                right = s.Join(inner_line, inner, right, inner_right, self.expression())
            self.expect("ON")
            left = s.Join(line, kind, left, right, self.expression())

    def _join_kind(self) -> str | None:
        if self.at("CROSS") and self.peek().key in {"JOIN", "APPLY"}:
            self.advance()
            return "CROSS" if self.advance().key == "JOIN" else "CROSS APPLY"
        if self.take("OUTER", "APPLY"):
            return "OUTER APPLY"
        if self.take("JOIN"):
            return "INNER"
        if self.at_any("INNER", "LEFT", "RIGHT", "FULL"):
            kind = self.advance().key
            if kind != "INNER":
                self.take("OUTER")
            if self.at_any("HASH", "LOOP", "MERGE", "REDUCE", "REPLICATE", "REDISTRIBUTE"):
                self.advance()  # join hints choose a plan, not a result
            self.expect("JOIN")
            return kind
        return None

    def _factor(self) -> s.Source:
        token = self.token
        if token.key == "(":
            return self._parenthesised_source()
        if token.kind == "variable":
            raise errors.refused("table variable", token.line)
        if token.key == "OPENROWSET":
            self.advance()
            return self._openrowset(token.line)
        if token.key in {"OPENXML", "OPENQUERY", "CONTAINSTABLE", "FREETEXTTABLE"}:
            raise errors.refused(token.key, token.line)
        parts = self.name()
        if self.at("(") and not self._hints_ahead():
            call = self._call(token.line, parts)
            schema: list[s.WithColumn] = []
            if self.at("WITH", "("):
                self.advance()
                schema = self.parenthesised(self._with_column)
            alias, columns = self._source_alias()
            return s.FunctionSource(token.line, call, alias, columns, schema)
        if self.at("FOR", "SYSTEM_TIME"):
            raise errors.refused("FOR SYSTEM_TIME", token.line)
        hints = self._hints()
        alias, columns = self._source_alias()
        hints += self._hints()
        if self.at("TABLESAMPLE"):
            raise errors.refused("TABLESAMPLE", token.line)
        return s.TableSource(token.line, parts, alias, columns, hints)

    def _hints_ahead(self) -> bool:
        return self.peek().key in {"NOLOCK", "READUNCOMMITTED"} and self.peek(2).key == ")"

    def _hints(self) -> list[str]:
        """``WITH (NOLOCK)`` or ``(NOLOCK)``: locking hints change nothing under snapshots."""
        if self.at("WITH", "("):
            self.advance()
            return self._skip_parentheses()
        if self.at("(") and self._hints_ahead():
            return self._skip_parentheses()
        return []

    def _skip_parentheses(self) -> list[str]:
        words: list[str] = []
        self.expect("(")
        depth = 1
        while depth:
            token = self.advance()
            if token.kind == "end":
                raise self.error()
            depth += {"(": 1, ")": -1}.get(token.key, 0)
            if token.kind == "word":
                words.append(token.key)
        return words

    def _parenthesised_source(self) -> s.Source:
        line = self.line
        if self.at("(", "VALUES"):
            self.position += 2
            rows = self.comma_list(lambda: self.parenthesised(self.value))
            self.expect(")")
            alias, columns = self._source_alias()
            return s.ValuesSource(line, rows, alias, columns)
        if self.at_query():
            self.expect("(")
            query = self.query()
            self.expect(")")
            alias, columns = self._source_alias()
            return s.DerivedSource(line, query, alias, columns)
        self.expect("(")
        inner = self.sources()
        self.expect(")")
        return inner

    def _source_alias(self) -> tuple[str | None, list[str]]:
        alias = None
        if self.take("AS"):
            alias = self.identifier()
        elif self.at_identifier() and not self._statement_word() and not self.at("OPTION"):
            alias = self.advance().text
        columns: list[str] = []
        if alias is not None and self.at("(") and not self._hints_ahead():
            columns = self.parenthesised(self.identifier)
        return alias, columns

    def _with_column(self) -> s.WithColumn:
        line = self.line
        name = self.identifier()
        column = s.WithColumn(line, name, self.data_type())
        if self.take("COLLATE"):
            column.collation = self.advance().text
        if self.token.kind in {"string", "nstring"}:
            column.path = self.advance().text
        elif self.token.kind == "int":
            column.ordinal = self.integer()
        if self.take("AS", "JSON"):
            column.as_json = True
        return column

    def _openrowset(self, line: int) -> s.Source:
        options: dict[str, s.Expr] = {}
        self.expect("(")
        while True:
            self.take("BULK")
            key = "BULK" if self.token.kind in {"string", "nstring"} else self.advance().key
            if key != "BULK":
                self.expect("=")
            if self.at("("):
                raise errors.not_implemented("OPENROWSET over a list of locations", line)
            token = self.token
            if token.kind == "word":
                self.advance()
                options[key] = s.Literal(token.line, "string", token.text)
            else:
                options[key] = self.value()
            if not self.take(","):
                break
        self.expect(")")
        schema: list[s.WithColumn] = []
        if self.at("WITH", "("):
            self.advance()
            schema = self.parenthesised(self._with_column)
        alias, columns = self._source_alias()
        return s.FunctionSource(line, s.Call(line, (), "OPENROWSET", []), alias, columns, schema, options)

    def _pivoted(self, source: s.Source) -> s.Source:
        line = self.line
        if self.take("PIVOT"):
            self.expect("(")
            call = self._primary()
            if not isinstance(call, s.Call):
                raise self.error()
            self.expect("FOR")
            column = self.identifier()
            self.expect("IN")
            values = self.parenthesised(self.identifier)
            self.expect(")")
            self.take("AS")
            return s.Pivot(line, source, call, column, values, self.identifier())
        if self.take("UNPIVOT"):
            self.expect("(")
            value_column = self.identifier()
            self.expect("FOR")
            name_column = self.identifier()
            self.expect("IN")
            columns = self.parenthesised(self.identifier)
            self.expect(")")
            self.take("AS")
            return s.Unpivot(line, source, value_column, name_column, columns, self.identifier())
        return source

    def option_clause(self) -> dict[str, str]:
        """``OPTION (LABEL = 'x', HASH JOIN)`` as {"LABEL": "x", "HASH JOIN": ""}."""
        options: dict[str, str] = {}
        if not self.at("OPTION", "("):
            return options
        self.position += 2
        while not self.at(")"):
            words: list[str] = []
            value = ""
            while not self.at_any(",", ")"):
                token = self.advance()
                if token.kind == "end":
                    raise self.error()
                if token.key == "=":
                    value = self.advance().text
                elif token.key == "(":
                    self.position -= 1
                    self._skip_parentheses()
                else:
                    words.append(token.key or token.text)
            options[" ".join(words)] = value
            self.take(",")
        self.expect(")")
        return options
