"""Runs a batch: control of flow, variables, errors, and the dispatch of every statement to its handler.

https://learn.microsoft.com/en-us/sql/t-sql/language-elements/control-of-flow
https://learn.microsoft.com/en-us/sql/t-sql/language-elements/try-catch-transact-sql
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from localazure.sql import errors, lake_databases
from localazure.sql import syntax as s
from localazure.sql.authority import administers
from localazure.sql.binding import Scope
from localazure.sql.conversions import implicit
from localazure.sql.explain import explain
from localazure.sql.parse_statements import parse
from localazure.sql.procedures import call_procedure
from localazure.sql.results import (
    DatabaseChange,
    Message,
    Parameter,
    Result,
    ResultSet,
    RowsAffected,
    SqlError,
    SqlType,
    TransactionChange,
)
from localazure.sql.security import authorize, change_member, change_permissions, define_principal
from localazure.sql.service import administer, drop_setting
from localazure.sql.sqltypes import CHARACTER, with_length
from localazure.sql.syntax_queries import reads_rows

if TYPE_CHECKING:
    from localazure.sql.rules import PoolKind
    from localazure.sql.session import Session

_DEEPEST = 8  # a dedicated pool's limit of procedure nesting
_LOWEST_SEVERITY = 11
_NEEDS_NO_TRANSACTION = (
    s.CreateTable,
    s.CreateTableAs,
    s.CreateView,
    s.CreateProcedure,
    s.CreateFunction,
    s.CreateSchema,
    s.Drop,
    s.Truncate,
    s.Rename,
    s.Transfer,
    s.AddColumns,
    s.DropColumns,
    s.AlterColumn,
    s.SwitchPartition,
    s.ChangeBoundary,
    s.Statistics,
    s.Index,
    s.CreateExternal,
    s.CreateExternalTable,
    s.CopyInto,
)


_SECURITY: dict[type, Callable[[Any, Any], None]] = {
    s.PrincipalDefinition: define_principal,
    s.RoleMember: change_member,
    s.Permission: change_permissions,
    s.Authorization: authorize,
}


class BreakLoop(Exception):
    """BREAK on its way to its WHILE."""


class ContinueLoop(Exception):
    """CONTINUE on its way to its WHILE."""


class Returned(Exception):
    """RETURN on its way to the end of its batch or procedure; ``status`` is its value."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass
class Variable:
    """``declared`` identifies the DECLARE that made it; 0 for a parameter."""

    type: SqlType
    value: Any = None
    declared: int = 0


@dataclass
class Frame:
    """The variables of a batch or a procedure, and how deep it is nested; chain: the procedure's (database, owner)."""

    variables: dict[str, Variable] = field(default_factory=dict)
    depth: int = 0
    procedure: str = ""
    chain: tuple[int, int] | None = None


class Interpreter:
    """One batch of one session."""

    def __init__(self, session: Session, frame: Frame | None = None) -> None:
        self.session = session
        self.frame = frame or Frame()
        self._handlers: dict[type, Callable[[Any], Iterator[Result]]] = {
            s.QueryStatement: self._query,
            s.Insert: self._change,
            s.Update: self._change,
            s.Delete: self._change,
            s.Merge: self._change,
            s.Declare: self._declare,
            s.SetVariable: self._set_variable,
            s.SetOption: self._set_option,
            s.Block: self._block,
            s.If: self._if,
            s.While: self._while,
            s.Break: self._break,
            s.Continue: self._continue,
            s.Return: self._return,
            s.WaitFor: self._wait,
            s.TryCatch: self._try,
            s.Throw: self._throw,
            s.RaiseError: self._raise,
            s.Print: self._print,
            s.Execute: self._execute,
            s.Transaction: self._transaction,
            s.UseDatabase: self._use,
            s.Explain: self._explain,
            s.Administration: self._administration,
            s.PrincipalDefinition: self._security,
            s.RoleMember: self._security,
            s.Permission: self._security,
            s.Authorization: self._security,
            s.ExecuteAs: self._execute_as,
            s.Revert: self._revert,
        }

    def parameters(self, parameters: Sequence[Parameter]) -> None:
        """Bound parameters become variables; text for another type is converted as T-SQL converts it."""
        for parameter in parameters:
            kind, value = with_length(parameter.type, 1), parameter.value
            if isinstance(value, str) and kind.name not in CHARACTER:
                value = self.session.converted(value, SqlType("nvarchar", 4000), kind, 1)
            self.frame.variables[parameter.name.lower()] = Variable(kind, value)

    def batch(self, text: str) -> Iterator[Result]:
        statements = parse(text)
        _check_flow(statements, self.session.pool.kind)
        try:
            yield from self.run(statements)
        except Returned:
            return

    def run(self, statements: Sequence[s.Statement]) -> Iterator[Result]:
        for statement in statements:
            yield from self.one(statement)

    def one(self, statement: s.Statement) -> Iterator[Result]:
        """Run a statement; a SqlError leaves with the line of the innermost statement that failed."""
        session = self.session
        session.check_cancelled(statement.line)
        lake_databases.refuse(session.pool, statement)
        handler = self._handlers.get(type(statement))
        if isinstance(statement, _NEEDS_NO_TRANSACTION):
            if session.transaction_count and session.pool.kind.tables:
                # https://learn.microsoft.com/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-develop-transactions#limitations
                raise SqlError(111212, "Operation cannot be performed within a transaction.", line=statement.line)
            handler = self._definition
        if handler is None:
            raise errors.not_implemented(type(statement).__name__, statement.line)
        try:
            yield from handler(statement)
        except SqlError:
            if session.usage.external:
                session.account(statement.line)  # what was read before it failed is charged as well
            raise
        if session.usage.external:
            yield session.account(statement.line)

    # ---- rows --------

    def _query(self, statement: s.QueryStatement) -> Iterator[Result]:
        select = statement.query.body if isinstance(statement.query.body, s.Select) else None
        if select is not None and select.into is not None:
            yield from self._select_into(statement, select)
            return
        assigned = [item.assign for item in select.items if item.assign is not None] if select is not None else []
        if select is not None and assigned:
            if len(assigned) != len(select.items):
                raise SqlError(
                    141,
                    "A SELECT statement that assigns a value to a variable must not be combined with data-retrieval "
                    "operations.",
                    severity=15,
                    line=statement.line,
                )
            self._assign(statement, select)
            return
        result = self.session.select(statement, self.frame)
        self.session.row_count = result.table.num_rows
        yield result

    def _select_into(self, statement: s.QueryStatement, select: s.Select) -> Iterator[Result]:
        plain = replace(statement.query, body=replace(select, into=None))
        options = s.TableOptions(statement.line, distribution="ROUND_ROBIN")
        yield from self.one(s.CreateTableAs(statement.line, select.into or (), [], options, plain, into=True))

    def _assign(self, statement: s.QueryStatement, select: s.Select) -> None:
        """``SELECT @x = e``: the last row's value; no row leaves the variable alone."""
        items = [replace(item, expr=self._folded(item), assign=None) for item in select.items]
        query = replace(statement.query, body=replace(select, items=items))
        result = self.session.select(s.QueryStatement(statement.line, query), self.frame, cached=False)
        count = result.table.num_rows
        if count > 1 and any(_mentions_variable(item.expr, item.assign[0]) for item in select.items if item.assign):
            raise errors.not_implemented("SELECT @x = @x + .. over several rows", statement.line)
        self.session.row_count = count
        if count == 0:
            return
        for index, item in enumerate(select.items):
            name = item.assign[0] if item.assign else ""
            value = result.table.column(index)[count - 1].as_py()
            self.store(name, result.columns[index].type, value, statement.line)

    def _folded(self, item: s.Item) -> s.Expr:
        """``@x += e`` as ``@x + e``."""
        name, op = item.assign or ("", "=")
        return item.expr if op == "=" else s.Binary(item.line, op[:-1], s.Variable(item.line, name), item.expr)

    def store(self, name: str, kind: SqlType, value: Any, line: int) -> None:
        """Assign to a variable, converting as an assignment does (shortening strings silently)."""
        variable = self.frame.variables.get(name.lower())
        if variable is None:
            raise errors.undeclared(name, line)
        variable.value = self.session.converted(value, kind, variable.type, line)

    def _change(self, statement: s.Statement) -> Iterator[Result]:
        yield self.session.change(statement, self.frame)

    def _definition(self, statement: s.Statement) -> Iterator[Result]:
        """A serverless pool's transactions are about definitions: ROLLBACK takes them back."""
        session = self.session
        catalog, before = session.pool.catalog, session.pool.catalog.snapshot()
        yield from session.define(statement, self.frame)
        if session.transaction_count:
            session.definitions.append((catalog, before, catalog.snapshot()))

    # ---- variables and flow --------

    def _declare(self, statement: s.Declare) -> Iterator[Result]:
        """A declaration may be run again by its loop: without a value the variable keeps what it holds."""
        for name, kind, value in statement.items:
            key = name.lower()
            known = self.frame.variables.get(key)
            if known is not None and known.declared != id(statement):
                raise SqlError(
                    134,
                    f"The variable name '{name}' has already been declared. Variable names must be unique within a "
                    "query "
                    "batch or stored procedure.",
                    severity=15,
                    line=statement.line,
                )
            if known is None:
                self.frame.variables[key] = Variable(with_length(kind, 1), declared=id(statement))
            if value is not None:
                self._evaluate_into(name, value, statement.line)
        yield from ()

    def _evaluate_into(self, name: str, expr: s.Expr, line: int) -> None:
        kind, value = self.session.evaluate(expr, self.frame, line)
        self.store(name, kind, value, line)

    def _set_variable(self, statement: s.SetVariable) -> Iterator[Result]:
        expr = statement.value
        if statement.op != "=":
            expr = s.Binary(statement.line, statement.op[:-1], s.Variable(statement.line, statement.name), expr)
        self._evaluate_into(statement.name, expr, statement.line)
        yield from ()

    def _set_option(self, statement: s.SetOption) -> Iterator[Result]:
        self.session.set_option(statement)
        yield RowsAffected(None)

    def _block(self, statement: s.Block) -> Iterator[Result]:
        yield from self.run(statement.statements)

    def _if(self, statement: s.If) -> Iterator[Result]:
        if self.session.test(statement.condition, self.frame, statement.line):
            yield from self.one(statement.then)
        elif statement.otherwise is not None:
            yield from self.one(statement.otherwise)

    def _while(self, statement: s.While) -> Iterator[Result]:
        try:
            while self.session.test(statement.condition, self.frame, statement.line):
                self.session.check_cancelled(statement.line)
                with suppress(ContinueLoop):
                    yield from self.one(statement.body)
        except BreakLoop:
            return

    def _continue(self, statement: s.Continue) -> Iterator[Result]:
        raise ContinueLoop

    def _return(self, statement: s.Return) -> Iterator[Result]:
        raise Returned(int(self.scalar(statement.value, statement.line) or 0))

    def _wait(self, statement: s.WaitFor) -> Iterator[Result]:
        """WAITFOR DELAY 'hh:mm:ss[.mmm]'; it can be cancelled."""
        text = str(self.scalar(statement.delay, statement.line))
        match = re.fullmatch(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(\.\d{1,3})?)?", text.strip())
        if match is None:
            raise SqlError(
                148, f"Incorrect time syntax in time string '{text}' used with WAITFOR.", line=statement.line
            )
        hours, minutes, seconds, fraction = match.groups(default="0")
        end = time.monotonic() + int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(fraction)
        while (left := end - time.monotonic()) > 0:
            self.session.check_cancelled(statement.line)
            time.sleep(min(left, 0.1))
        yield from ()

    def _break(self, statement: s.Break) -> Iterator[Result]:
        raise BreakLoop

    def _try(self, statement: s.TryCatch) -> Iterator[Result]:
        try:
            yield from self.run(statement.body)
        except SqlError as error:
            if error.number == errors.CANCELLED:
                raise
            outer, self.session.error = self.session.error, error
            try:
                yield from self.run(statement.handler)
            finally:
                self.session.error = outer

    def _throw(self, statement: s.Throw) -> Iterator[Result]:
        if statement.number is None:
            if self.session.error is None:
                raise SqlError(
                    10704,
                    "To rethrow an error, a THROW statement must be used inside a CATCH block.",
                    line=statement.line,
                )
            raise self.session.error
        number = int(self.scalar(statement.number, statement.line))
        if number < 50000:  # noqa: PLR2004  the vendor's lowest user number
            raise SqlError(
                35100,
                f"Error number {number} in the THROW statement is outside the valid range. Specify an error number "
                "in the "
                "valid range of 50000 to 2147483647.",
                line=statement.line,
            )
        message = str(self.scalar(statement.message, statement.line))
        state = int(self.scalar(statement.state, statement.line))
        raise SqlError(number, message, state=state, line=statement.line, procedure=self.frame.procedure)

    def scalar(self, expr: s.Expr | None, line: int) -> Any:
        return None if expr is None else self.session.evaluate(expr, self.frame, line)[1]

    def _raise(self, statement: s.RaiseError) -> Iterator[Result]:
        """A dedicated pool's RAISERROR is always number 50000."""
        message = self.scalar(statement.message, statement.line)
        severity = int(self.scalar(statement.severity, statement.line))
        state = int(self.scalar(statement.state, statement.line))
        text = _formatted(str(message), [self.scalar(arg, statement.line) for arg in statement.args])
        if severity < _LOWEST_SEVERITY:
            yield Message(50000, state, severity, text, statement.line)
            return
        raise SqlError(50000, text, state=state, severity=severity, line=statement.line, procedure=self.frame.procedure)

    def _print(self, statement: s.Print) -> Iterator[Result]:
        text = self.session.text_of(statement.value, self.frame, statement.line)
        yield Message(0, 1, 0, text, statement.line)

    # ---- procedures --------

    def _execute(self, statement: s.Execute) -> Iterator[Result]:
        if self.frame.depth >= _DEEPEST:
            raise SqlError(
                217,
                f"Maximum stored procedure, function, trigger, or view nesting level exceeded (limit {_DEEPEST}).",
                line=statement.line,
            )
        if statement.text is not None:
            text = self.scalar(statement.text, statement.line)
            if text is not None:
                yield from self._inner(str(text), Frame(depth=self.frame.depth + 1), statement.line)
            return
        yield from call_procedure(self, statement)

    def _inner(self, text: str, frame: Frame, line: int) -> Iterator[Result]:
        depth = len(self.session.authority.taken)
        try:
            yield from Interpreter(self.session, frame).batch(text)
        except SqlError as error:
            error.line = line
            raise
        finally:
            del self.session.authority.taken[depth:]  # what EXECUTE AS took ends with the batch that it is in

    # ---- transactions and the service --------

    def _transaction(self, statement: s.Transaction) -> Iterator[Result]:
        session = self.session
        if statement.kind == "begin":
            if session.transaction_count:
                raise errors.refused("nested transaction", statement.line)
            session.begin()
        elif statement.kind == "commit":
            if not session.transaction_count:
                raise SqlError(
                    3902, "The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION.", line=statement.line
                )
            session.commit()
        else:
            if not session.transaction_count:
                raise SqlError(
                    3903,
                    "The ROLLBACK TRANSACTION request has no corresponding BEGIN TRANSACTION.",
                    line=statement.line,
                )
            session.rollback()
        yield TransactionChange(statement.kind)  # type: ignore[arg-type]

    def _use(self, statement: s.UseDatabase) -> Iterator[Result]:
        """A dedicated pool changes database only by connecting; naming the present one is let through."""
        session = self.session
        if session.pool.server is not None:
            other = session.pool.server.database(statement.name, statement.line)
            session.authority.access(other)  # SqlError 916 for a log-in that is nobody there
            old, session.pool = session.database, other
            yield DatabaseChange(session.database, old)
            return
        if statement.name.lower() != self.session.database.lower():
            raise SqlError(
                40508,
                "USE statement is not supported to switch between databases. Use a new connection to connect to a "
                "different database.",
                line=statement.line,
            )
        yield RowsAffected(None)

    def _explain(self, statement: s.Explain) -> Iterator[Result]:
        yield explain(self.session, statement, self.frame)

    def _administration(self, statement: s.Administration) -> Iterator[Result]:
        administers(self.session, statement)
        yield from administer(self.session, statement)

    # ---- who may do what --------

    def _security(self, statement: s.Statement) -> Iterator[Result]:
        """Users, roles and permissions; ROLLBACK takes back what a serverless pool's transaction made of them."""
        session = self.session
        if session.transaction_count and session.pool.kind.tables:
            raise SqlError(111212, "Operation cannot be performed within a transaction.", line=statement.line)
        catalog, before = session.pool.catalog, session.pool.catalog.snapshot()
        session.secure(statement, _SECURITY[type(statement)])
        if session.transaction_count:
            session.definitions.append((catalog, before, catalog.snapshot()))
        yield RowsAffected(None)

    def _execute_as(self, statement: s.ExecuteAs) -> Iterator[Result]:
        self.session.authority.execute_as(self.session.pool, statement)
        yield RowsAffected(None)

    def _revert(self, statement: s.Revert) -> Iterator[Result]:
        self.session.authority.revert()
        yield RowsAffected(None)


def _check_flow(statements: Sequence[s.Statement], kind: PoolKind) -> None:
    """Refuse, before anything runs, control of flow that this kind of pool doesn't have.

    https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/overview-features#query-language
    """
    for statement in statements:
        match statement:
            case s.Return() | s.Continue() | s.WaitFor() if not kind.returns:
                raise errors.refused(type(statement).__name__.upper(), statement.line)
            case s.Block():
                _check_flow(statement.statements, kind)
            case s.If():
                _check_flow([statement.then, *([statement.otherwise] if statement.otherwise else [])], kind)
            case s.While():
                if not kind.queries_in_while and reads_rows(statement.condition):
                    raise SqlError(
                        15876, "Queries are not supported in the conditions of WHILE statements.", line=statement.line
                    )
                _check_flow([statement.body], kind)
            case s.TryCatch():
                _check_flow([*statement.body, *statement.handler], kind)
            case s.CreateProcedure():
                _check_flow(statement.body, kind)
            case _:
                continue


def _mentions_variable(node: object, name: str) -> bool:
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, s.Variable) and item.name.lower() == name.lower():
            return True
        if isinstance(item, s.Node):
            stack += [getattr(item, slot) for base in type(item).__mro__ for slot in getattr(base, "__slots__", ())]
        elif isinstance(item, list | tuple):
            stack += item
    return False


_PLACEHOLDER = re.compile(r"%%|%[-+ #0]*\d*(?:\.\d+)?(?:I64)?([dioxXsu])")


def _formatted(message: str, values: list[Any]) -> str:
    """RAISERROR's printf: %d %i %u %o %x %s.

    https://learn.microsoft.com/en-us/sql/t-sql/language-elements/raiserror-transact-sql"""
    left = list(values)

    def fill(match: re.Match[str]) -> str:
        if match.group() == "%%":
            return "%"
        value = left.pop(0) if left else None
        if value is None:
            return "(null)"
        spec = match.group().replace("I64", "").replace("u", "d").replace("i", "d")
        return spec % (value if spec[-1] == "s" else int(value))

    return _PLACEHOLDER.sub(fill, message)


__all__ = ["BreakLoop", "Frame", "Interpreter", "ResultSet", "Scope", "Variable", "drop_setting", "implicit"]
