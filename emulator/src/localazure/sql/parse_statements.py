"""A batch of T-SQL to statements: changes of rows, control of flow, and the dispatch on the first word.

A real grammar decides where a statement ends, so semicolons stay optional as they are in T-SQL; GO belongs to clients.
https://learn.microsoft.com/en-us/sql/t-sql/language-elements/control-of-flow
https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-reference-tsql-language-elements
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from localazure.sql import errors
from localazure.sql import syntax as s
from localazure.sql.parse_definitions import DefinitionParser
from localazure.sql.results import SqlError, SqlType

_ASSIGN = frozenset({"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="})
_REFUSED = frozenset(
    {
        "GOTO",
        "BACKUP",
        "RESTORE",
        "CURSOR",
        "OPEN",
        "CLOSE",
        "FETCH",
        "BULK",
        "DEALLOCATE",
        "CHECKPOINT",
        "RECONFIGURE",
        "SHUTDOWN",
    }
)

# https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/database-engine-events-and-errors
_FIRST: dict[type[s.Statement], str] = {
    s.CreateView: "VIEW",
    s.CreateProcedure: "PROCEDURE",
    s.CreateFunction: "FUNCTION",
}


class StatementParser(DefinitionParser):
    """The whole language."""

    def batch(self) -> list[s.Statement]:
        found = self.statement_list()
        if self.token.kind != "end":
            raise self.error()
        for statement in found[1:]:
            if word := _FIRST.get(type(statement)):
                verb = "ALTER" if statement.alter else "CREATE"  # type: ignore[attr-defined]
                raise SqlError(
                    111, f"'{verb} {word}' must be the first statement in a query batch.", severity=15,
                    line=statement.line,
                )  # fmt: skip
        return found

    def statement_list(self, *ends: str) -> list[s.Statement]:
        """Statements up to the end of the batch or one of the words in ``ends``."""
        found: list[s.Statement] = []
        while True:
            while self.take(";"):
                pass
            if self.token.kind == "end" or (ends and self.at_any(*ends)):
                return found
            found.append(self.statement())

    def statement(self) -> s.Statement:
        start = self.token.start
        found = self._statement()
        found.batch_text = self.text[start : self.tokens[self.position - 1].end]
        return found

    def _statement(self) -> s.Statement:
        token = self.token
        parse = self._parsers().get(token.key)
        if parse is not None:
            return parse()
        if token.key == "(" and self.at_query():
            return s.QueryStatement(token.line, self.query())
        if token.key in _REFUSED:
            raise errors.refused(token.key, token.line)
        if self.at_identifier() and self.position == 0:
            return self._execute_call(token.line)  # a batch may begin with a procedure's bare name
        raise self.error()

    def _parsers(self) -> dict[str, Callable[[], s.Statement]]:
        return {
            "SELECT": self._query,
            "WITH": self._with,
            "INSERT": self._insert,
            "UPDATE": self._update,
            "DELETE": self._delete,
            "MERGE": self._merge,
            "DECLARE": self._declare,
            "SET": self._set,
            "IF": self._if,
            "BEGIN": self._begin,
            "WHILE": self._while,
            "BREAK": self._break,
            "CONTINUE": self._continue,
            "RETURN": self._return,
            "WAITFOR": self._wait,
            "THROW": self._throw,
            "RAISERROR": self._raiserror,
            "PRINT": self._print,
            "EXEC": self._execute,
            "EXECUTE": self._execute,
            "COMMIT": self._end_transaction,
            "ROLLBACK": self._end_transaction,
            "SAVE": self._save,
            "CREATE": self.create,
            "ALTER": self.alter,
            "DROP": self.drop,
            "TRUNCATE": self.truncate,
            "RENAME": self.rename,
            "COPY": self.copy_into,
            "EXPLAIN": self._explain,
            "USE": self._use,
            "GRANT": self._permission,
            "DENY": self._permission,
            "REVOKE": self._permission,
            "REVERT": self._revert,
            "KILL": self._kill,
            "DBCC": self._dbcc,
            "ADD": self._add,
        }

    # ---- rows --------

    def _query(self) -> s.Statement:
        line = self.line
        return s.QueryStatement(line, self.query())

    def _with(self) -> s.Statement:
        mark, line = self.position, self.line
        tables = self.common_tables()
        if self.at("INSERT"):
            return self._insert(tables)
        if self.at("UPDATE"):
            return self._update(tables)
        if self.at("DELETE"):
            return self._delete(tables)
        if self.at("MERGE"):
            return self._merge(tables)
        self.position = mark
        return s.QueryStatement(line, self.query())

    def _insert(self, tables: list[s.CommonTable] | None = None) -> s.Statement:
        line = self.expect("INSERT").line
        if self.at("BULK"):
            raise errors.not_implemented("INSERT BULK outside a bulk copy", line)
        self.take("INTO")
        target = self.name()
        columns: list[str] = []
        if self.at("(") and not self.at_query():
            columns = [parts[-1] for parts in self.parenthesised(self.name)]
        if self.at("WITH") and self.peek().key == "(":
            self._hints()
        insert = s.Insert(line, target, columns, None, None, tables or [], {})
        if self.at("OUTPUT"):
            raise errors.refused("OUTPUT", line)
        if self.take("VALUES"):
            insert.rows = self.comma_list(lambda: self.parenthesised(self._value_or_default))
        elif self.take("DEFAULT", "VALUES"):
            insert.rows = [[]]
        elif self.at_any("EXEC", "EXECUTE"):
            raise errors.refused("INSERT .. EXEC", line)
        else:
            insert.query = self.query()
            insert.options = insert.query.options
        insert.options = insert.options or self.option_clause()
        return insert

    def _value_or_default(self) -> s.Expr:
        if self.at("DEFAULT"):
            return s.DefaultValue(self.advance().line)
        return self.value()

    def _assignment(self) -> s.Assignment:
        token = self.token
        if token.kind == "variable":
            raise errors.refused("SET @variable in UPDATE", token.line)
        parts = self.name()
        if self.token.key not in _ASSIGN:
            raise self.error()
        op = self.advance().key
        return s.Assignment(token.line, parts, op, self._value_or_default())

    def _update(self, tables: list[s.CommonTable] | None = None) -> s.Statement:
        line = self.expect("UPDATE").line
        if self.take("STATISTICS"):
            table = self.name()
            columns = [parts[-1] for parts in self.parenthesised(self.name)] if self.at("(") else []
            name = self.identifier() if self.at_identifier() else None
            if self.take("WITH"):
                self._loose_options()
            return s.Statistics(line, "UPDATE", table, name, columns)
        top = self.top_clause() if self.at("TOP") else None
        target = self.name()
        self._hints()
        self.expect("SET")
        update = s.Update(line, target, self.comma_list(self._assignment), None, None, top, tables or [], {})
        if self.take("FROM"):
            update.source = self.sources()
        if self.take("WHERE"):
            update.where = self.expression()
        update.options = self.option_clause()
        return update

    def _delete(self, tables: list[s.CommonTable] | None = None) -> s.Statement:
        line = self.expect("DELETE").line
        top = self.top_clause() if self.at("TOP") else None
        self.take("FROM")
        target = self.name()
        self._hints()
        alias = None
        if self.take("AS") or (self.at_identifier() and not self._statement_word()):
            alias = self.identifier()
        delete = s.Delete(line, target, alias, None, None, top, tables or [], {})
        if self.take("FROM"):
            delete.source = self.sources()
        if self.take("WHERE"):
            delete.where = self.expression()
        delete.options = self.option_clause()
        return delete

    def _merge(self, tables: list[s.CommonTable] | None = None) -> s.Statement:
        line = self.expect("MERGE").line
        self.take("INTO")
        target = self.name()
        self._hints()
        alias = None
        # USING isn't reserved, and what follows a target without an alias is this word nevertheless.
        if self.take("AS") or (self.at_identifier() and not self.at("USING")):
            alias = self.identifier()
        self.expect("USING")
        source = self._pivoted(self._factor())
        self.expect("ON")
        merge = s.Merge(line, target, alias, source, self.expression(), [], tables or [], {})
        while self.take("WHEN"):
            merge.branches.append(self._merge_branch())
        merge.options = self.option_clause()
        return merge

    def _merge_branch(self) -> s.MergeBranch:
        line = self.line
        negated = self.take("NOT")
        self.expect("MATCHED")
        match = "MATCHED"
        if negated:
            match = "TARGET"
            if self.take("BY"):
                match = self.advance().key
                if match not in {"TARGET", "SOURCE"}:
                    raise self.error(self.tokens[self.position - 1])
        condition = self.expression() if self.take("AND") else None
        self.expect("THEN")
        branch = s.MergeBranch(line, match, condition, self.advance().key, [], [], [])
        if branch.action == "UPDATE":
            self.expect("SET")
            branch.assignments = self.comma_list(self._assignment)
        elif branch.action == "INSERT":
            branch.columns = self.parenthesised(self.identifier) if self.at("(") else []
            self.expect("VALUES")
            branch.values = self.parenthesised(self._value_or_default)
        elif branch.action != "DELETE":
            raise self.error(self.tokens[self.position - 1])
        return branch

    # ---- variables and flow --------

    def _declare(self) -> s.Statement:
        line = self.expect("DECLARE").line
        items = self.comma_list(self._declaration)
        return s.Declare(line, items)

    def _declaration(self) -> tuple[str, SqlType, s.Expr | None]:
        token = self.advance()
        if token.kind != "variable":
            if self.at("CURSOR"):
                raise errors.refused("CURSOR", token.line)
            raise self.error(token)
        self.take("AS")
        if self.at("TABLE"):
            raise errors.refused("table variable", token.line)
        kind = self.data_type()
        return token.text, kind, self.value() if self.take("=") else None

    def _set(self) -> s.Statement:
        line = self.expect("SET").line
        if self.token.kind == "variable":
            name = self.advance().text
            if self.token.key not in _ASSIGN:
                raise self.error()
            op = self.advance().key
            return s.SetVariable(line, name, op, self.value())
        words = [self.advance().key or self.tokens[self.position - 1].text]
        if words == ["TRANSACTION"]:
            self.expect("ISOLATION")
            self.expect("LEVEL")
            level = [self.advance().key]
            if level[0] in {"READ", "REPEATABLE"}:
                level.append(self.advance().key)
            return s.SetOption(line, "TRANSACTION ISOLATION LEVEL", " ".join(level))
        if words == ["IDENTITY_INSERT"]:
            words += [".".join(self.name())]
        elif words == ["STATISTICS"]:
            words.append(self.advance().key)
        while self.take(","):
            words.append(self.advance().key)
        token = self.advance()
        value = token.text
        if token.key == "-":
            value = f"-{self.advance().text}"
        return s.SetOption(line, " ".join(words), value)

    def _if(self) -> s.Statement:
        line = self.expect("IF").line
        condition = self.expression()
        while self.take(";"):
            raise self.error()
        then = self.statement()
        mark = self.position
        while self.take(";"):
            pass
        if self.take("ELSE"):
            return s.If(line, condition, then, self.statement())
        self.position = mark
        return s.If(line, condition, then, None)

    def _begin(self) -> s.Statement:
        line = self.expect("BEGIN").line
        if self.at("DISTRIBUTED"):
            raise errors.refused("BEGIN DISTRIBUTED TRANSACTION", line)
        if self.at_any("TRAN", "TRANSACTION"):
            self.advance()
            if (self.at_identifier() and not self._statement_word()) or self.token.kind == "variable":
                raise errors.refused("named transaction", line)
            return s.Transaction(line, "begin")
        if self.take("TRY"):
            body = self.statement_list("END")
            self.expect("END")
            self.expect("TRY")
            self.take(";")
            self.expect("BEGIN")
            self.expect("CATCH")
            handler = self.statement_list("END")
            self.expect("END")
            self.expect("CATCH")
            return s.TryCatch(line, body, handler)
        if self.at("ATOMIC"):
            raise errors.refused("BEGIN ATOMIC", line)
        statements = self.statement_list("END")
        self.expect("END")
        if not statements:
            raise self.error(self.tokens[self.position - 1])
        return s.Block(line, statements)

    def _while(self) -> s.Statement:
        line = self.expect("WHILE").line
        condition = self.expression()
        return s.While(line, condition, self.statement())

    def _break(self) -> s.Statement:
        return s.Break(self.expect("BREAK").line)

    def _continue(self) -> s.Statement:
        return s.Continue(self.expect("CONTINUE").line)

    def _return(self) -> s.Statement:
        line = self.expect("RETURN").line
        ends = self.token.kind == "end" or self.at(";") or self.at_any("END", "ELSE")
        return s.Return(line, None if ends or self.token.key in self._parsers() else self.value())

    def _wait(self) -> s.Statement:
        line = self.expect("WAITFOR").line
        if not self.take("DELAY"):
            raise errors.not_implemented("WAITFOR TIME", line)
        return s.WaitFor(line, self.value())

    def _throw(self) -> s.Statement:
        line = self.expect("THROW").line
        if self.token.kind not in {"int", "variable"}:
            return s.Throw(line, None, None, None)
        number = self._primary()
        self.expect(",")
        message = self._primary()
        self.expect(",")
        return s.Throw(line, number, message, self._primary())

    def _raiserror(self) -> s.Statement:
        line = self.expect("RAISERROR").line
        self.expect("(")
        message = self.value()
        self.expect(",")
        severity = self.value()
        self.expect(",")
        state = self.value()
        arguments: list[s.Expr] = []
        while self.take(","):
            arguments.append(self.value())
        self.expect(")")
        options: list[str] = []
        if self.take("WITH"):
            options = self.comma_list(lambda: self.advance().key)
        return s.RaiseError(line, message, severity, state, arguments, options)

    def _print(self) -> s.Statement:
        line = self.expect("PRINT").line
        return s.Print(line, self.value())

    def _execute(self) -> s.Statement:
        line = self.advance().line
        if self.take("AS"):
            return self.execute_as(line)
        if self.at("("):
            self.advance()
            text = self.value()
            self.expect(")")
            return s.Execute(line, (), text, [])
        return self._execute_call(line)

    def _execute_call(self, line: int) -> s.Statement:
        result = None
        if self.token.kind == "variable" and self.peek().key == "=":
            result = self.advance().text
            self.advance()
        if self.token.kind == "variable":
            raise errors.not_implemented("EXEC @procedure_name", line)
        name = self.name()
        arguments: list[tuple[str, s.Expr, bool]] = []
        if not (self.token.kind == "end" or self.at(";")) and self._argument_ahead():
            arguments = self.comma_list(self._execute_argument)
        return s.Execute(line, name, None, arguments, result)

    def _argument_ahead(self) -> bool:
        return (
            self.token.kind in {"variable", "string", "nstring", "int", "decimal", "float", "money", "binary", "quoted"}
            or self.at_any("NULL", "DEFAULT", "-", "+")
            or (self.at_identifier() and not self._statement_word())
        )

    def _execute_argument(self) -> tuple[str, s.Expr, bool]:
        name = ""
        token = self.token
        if token.kind == "variable" and self.peek().key == "=":
            name = self.advance().text
            self.advance()
        if self.at("DEFAULT"):
            raise errors.refused("DEFAULT argument", token.line)
        if self.at_identifier():  # a bare word is a string constant in EXEC
            value: s.Expr = s.Literal(token.line, "nstring", self.advance().text)
        else:
            value = self.value()
        output = self.take("OUTPUT") or self.take("OUT")
        return name, value, output

    def _end_transaction(self) -> s.Statement:
        token = self.advance()
        if self.at_any("TRAN", "TRANSACTION"):
            self.advance()
            if (self.at_identifier() and not self._statement_word()) or self.token.kind == "variable":
                raise errors.refused("named transaction", token.line)
        else:
            self.take("WORK")
        return s.Transaction(token.line, token.key.lower())

    def _save(self) -> s.Statement:
        raise errors.refused("SAVE TRANSACTION", self.line)

    # ---- service --------

    def _explain(self) -> s.Statement:
        line = self.expect("EXPLAIN").line
        self.take("WITH_RECOMMENDATIONS")
        return s.Explain(line, self.statement())

    def _use(self) -> s.Statement:
        line = self.expect("USE").line
        return s.UseDatabase(line, self.identifier())

    def _add(self) -> s.Statement:
        line = self.expect("ADD").line
        if self.at("SENSITIVITY"):
            raise errors.not_implemented("ADD SENSITIVITY CLASSIFICATION", line)
        raise self.error()

    def _kill(self) -> s.Statement:
        line = self.expect("KILL").line
        return s.Administration(line, "KILL", self.advance().text, {})

    def _dbcc(self) -> s.Statement:
        line = self.expect("DBCC").line
        name = self.advance().key
        arguments: dict[str, str] = {}
        if self.take("("):
            while not self.at(")"):
                if self.take(","):
                    continue
                if self.at_identifier():
                    arguments[str(len(arguments))] = ".".join(self.name())
                else:
                    arguments[str(len(arguments))] = self.advance().text
                if self.token.kind == "end":
                    raise self.error()
            self.expect(")")
        if self.take("WITH"):
            arguments["WITH"] = ",".join(self.comma_list(lambda: self.advance().key))
        return s.Administration(line, f"DBCC {name}", "", arguments)


@lru_cache(maxsize=512)
def parse(text: str) -> tuple[s.Statement, ...]:
    """The statements of a batch. Trees are shared between calls: nobody changes them after parsing."""
    return tuple(StatementParser(text).batch())
