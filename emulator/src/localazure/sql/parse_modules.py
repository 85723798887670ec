"""Recursive descent over what holds T-SQL of its own: views, procedures, functions.

https://learn.microsoft.com/en-us/sql/t-sql/statements/create-view-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/statements/create-function-sql-data-warehouse
"""

from __future__ import annotations

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.parse_queries import QueryParser


class ModuleParser(QueryParser):
    """CREATE and ALTER of modules; the text of each is kept as it was written."""

    def statement_list(self, *ends: str) -> list[s.Statement]:  # supplied by StatementParser
        raise NotImplementedError

    def table_options(self) -> s.TableOptions:  # supplied by DefinitionParser
        raise NotImplementedError

    def _view(self, start: int, line: int, *, alter: bool, replace: bool) -> s.Statement:
        materialized = self.take("MATERIALIZED")
        self.expect("VIEW")
        name = self.name()
        columns = self.parenthesised(self.identifier) if self.at("(") else []
        distribution = ""
        if materialized:
            self.expect("WITH")
            distribution = self._view_distribution(name, line)
        elif self.take("WITH"):
            self.expect("SCHEMABINDING")
        self.expect("AS")
        begin = self.token.start
        query = self.query()
        end = self.tokens[self.position - 1].end
        if self.take("WITH"):
            raise errors.refused("WITH CHECK OPTION", line)
        return s.CreateView(
            line, name, columns, query, self.text[begin:end], self.text[start:end], alter, replace, distribution
        )

    def _view_distribution(self, name: s.Parts, line: int) -> str:
        """https://learn.microsoft.com/en-us/sql/t-sql/statements/create-materialized-view-as-select-transact-sql"""
        options = self.table_options()
        if options.distribution not in {"HASH", "ROUND_ROBIN"}:
            raise errors.refused(
                "MATERIALIZED VIEW", line, f"'{name[-1]}' needs DISTRIBUTION = HASH(..) or ROUND_ROBIN."
            )
        return ", ".join([options.distribution, *options.hash_columns])

    def _procedure(self, start: int, line: int, *, alter: bool, replace: bool) -> s.Statement:
        self.advance()
        name = self.name()
        parameters: list[s.ProcedureParameter] = []
        bracket = self.take("(")
        if self.token.kind == "variable":
            parameters = self.comma_list(self._parameter)
        if bracket:
            self.expect(")")
        if self.take("WITH"):
            raise errors.refused("procedure option", line)
        self.expect("AS")
        body = self.statement_list()
        end = self.tokens[self.position - 1].end
        return s.CreateProcedure(line, name, parameters, body, self.text[start:end], alter, replace)

    def _function(self, start: int, line: int, *, alter: bool, replace: bool) -> s.Statement:
        self.advance()
        name = self.name()
        self.expect("(")
        parameters = self.comma_list(self._parameter) if self.token.kind == "variable" else []
        self.expect(")")
        if any(parameter.default is not None for parameter in parameters):
            raise errors.not_implemented("default of a function's parameter", line)
        self.expect("RETURNS")
        returns = None if self.take("TABLE") else self.data_type()
        if self.take("WITH"):
            self.comma_list(lambda: [self.advance() for _ in range(1)])
        self.take("AS")
        body: list[s.Statement] = []
        value = query = None
        if returns is None:
            if not self.take("RETURN"):
                raise errors.refused("multi-statement table-valued function", line)
            query = self.query() if not self.at("(") or self.at_query() else self._bracketed_query()
        else:
            self.expect("BEGIN")
            body = self.statement_list("RETURN", "END")
            self.expect("RETURN")
            value = self.value()
            self.take(";")
            self.expect("END")
        text = self.text[start : self.tokens[self.position - 1].end]
        return s.CreateFunction(line, name, parameters, returns, body, value, query, text, alter, replace)

    def _bracketed_query(self) -> s.Query:
        self.expect("(")
        query = self.query()
        self.expect(")")
        return query

    def _parameter(self) -> s.ProcedureParameter:
        line = self.line
        name = self.advance().text
        self.take("AS")
        kind = self.data_type()
        default = self.value() if self.take("=") else None
        output = self.take("OUTPUT") or self.take("OUT")
        return s.ProcedureParameter(line, name, kind, default, output)
