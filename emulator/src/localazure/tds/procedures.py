"""Remote procedure calls: the system procedures that drivers use, and any other procedure by EXEC.

https://learn.microsoft.com/en-us/sql/relational-databases/system-stored-procedures/system-stored-procedures-transact-sql
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from localazure.sql.results import Column, Parameter, Result, RowsAffected, SqlError
from localazure.tds import describe
from localazure.tds.answers import Answer, Statements, Transactions
from localazure.tds.bulk import BulkTarget, make_table, parse_plain_insert
from localazure.tds.packets import ProtocolError
from localazure.tds.requests import BulkRows, RpcCall, RpcParameter
from localazure.tds.session import Session
from localazure.tds.tokens import (
    make_column_metadata,
    make_return_int,
    make_return_status,
)
from localazure.tds.types import Declared, parse_declarations

MAX_PREPARED: Final = 2000
FEW_ROWS: Final = 8
"""So many executions of an INSERT in one message are not worth loading them together."""

_SYSTEM: Final = re.compile(
    r"^(?:\[?sys\]?\.|\[?dbo\]?\.|\[?master\]?\.\[?(?:sys|dbo)\]?\.|\.\.?)?\[?(sp_\w+)\]?$",
    re.IGNORECASE,
)
_CURSORS: Final = "server-side cursors are not supported; use a forward-only, read-only cursor"


@dataclass(frozen=True)
class Prepared:
    """A prepared statement: its text and its declared parameters."""

    statement: str
    declared: tuple[Declared, ...]

    @cached_property
    def load(self) -> BulkTarget | None:
        """Where the rows of many executions go together, if the statement inserts its parameters and does no more."""
        return parse_plain_insert(self.statement, [d.name for d in self.declared])


class Procedures:
    """One connection's RPC side: the handles it prepared, and what each procedure does."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._prepared: dict[int, Prepared] = {}
        self._next_handle = 1
        self._known: dict[str, Callable[[Session, RpcCall, Answer, Statements], None]] = {
            "sp_executesql": self._executesql,
            "sp_prepare": self._prepare,
            "sp_execute": self._execute,
            "sp_prepexec": self._prepexec,
            "sp_unprepare": self._unprepare,
            "sp_describe_undeclared_parameters": self._describe_parameters,
            "sp_describe_first_result_set": self._describe_columns,
        }

    def reset(self) -> None:
        """Forget every handle: the client asked for a connection as good as new."""
        self._prepared.clear()

    def run(self, session: Session, calls: Sequence[RpcCall], answer: Answer) -> None:
        """Run the calls of one message in order and write their answers."""
        index = 0
        while index < len(calls):
            stop = self._insert_together(session, calls, index, answer)
            if stop == index:
                stop = index + 1
                self._run_one(session, calls[index], answer, last=stop == len(calls))
            index = stop

    def _insert_together(self, session: Session, calls: Sequence[RpcCall], start: int, answer: Answer) -> int:
        """Load the rows of an executemany at once; the index behind its last call, or ``start`` if this isn't one.

        If they can't be loaded, nothing was, and each call runs by itself to find its own error; but the first one has
        the load's if the error ended a transaction, since there every further statement only says that it is over.
        """
        prepared = self._inserts(calls[start])
        if prepared is None or prepared.load is None:
            return start
        stop, handle = start, calls[start].parameters[0].value
        while stop < len(calls) and calls[stop].parameters[:1] and calls[stop].parameters[0].value == handle:
            if self._inserts(calls[stop]) is None:
                break
            stop += 1
        if stop - start < FEW_ROWS:
            return start
        columns = tuple(Column(d.name, d.type) for d in prepared.declared)
        values = tuple([call.parameters[i].value for call in calls[start:stop]] for i in range(1, len(columns) + 1))
        try:
            table = make_table(prepared.load, BulkRows(columns, values))
            session.bulk_load(prepared.load.table, list(prepared.load.columns), table)
        except SqlError as error:
            for index in range(start, stop):
                cause = error if index == start and self._transactions.active else None
                self._run_one(session, calls[index], answer, last=index + 1 == len(calls), cause=cause)
            return stop
        for index in range(start, stop):
            statements = Statements(answer, self._transactions, rpc=True)
            statements.write_all([RowsAffected(1)])
            _finish(answer, statements)
            statements.finish_rpc(last=index + 1 == len(calls))
        return stop

    def _inserts(self, call: RpcCall) -> Prepared | None:
        """The prepared statement that this call executes with one positional value for each parameter."""
        if not call.execute or call.name != "sp_execute" or not call.parameters:
            return None
        handle = call.parameters[0].value
        prepared = self._prepared.get(handle) if isinstance(handle, int) else None
        if prepared is None or len(call.parameters) != len(prepared.declared) + 1:
            return None
        for given, d in zip(call.parameters[1:], prepared.declared, strict=True):
            if given.default or given.output or given.name.lower() not in {"", d.name.lower()}:
                return None
        return prepared

    def _run_one(
        self, session: Session, call: RpcCall, answer: Answer, *, last: bool, cause: SqlError | None = None
    ) -> None:
        """Run a call, or answer it with ``cause``."""
        statements = Statements(answer, self._transactions, rpc=True)
        if call.execute:
            name = system_name(call.name)
            handler = self._known.get(name, self._other)
            try:
                if cause is not None:
                    raise cause
                if name.startswith("sp_cursor"):
                    raise SqlError(40510, f"Statement '{name}' is not supported: {_CURSORS}.")
                handler(session, call, answer, statements)
            except (SqlError, ProtocolError) as error:
                statements.fail(error)
        statements.finish_rpc(last=last)

    # Procedures -----------------------------------------------------------------------------------------------------

    def _executesql(self, session: Session, call: RpcCall, answer: Answer, statements: Statements) -> None:
        arguments = _Arguments(call)
        statement = arguments.text("@stmt", "@statement")
        declared = parse_declarations(arguments.optional_text("@params", "@parameters"))
        statements.write_all(_run(session, statement, declared, arguments.rest()))
        _finish(answer, statements)

    def _prepare(self, session: Session, call: RpcCall, answer: Answer, statements: Statements) -> None:
        arguments = _Arguments(call)
        handle_name = arguments.take("@handle").name
        declared = parse_declarations(arguments.optional_text("@params"))
        statement = arguments.text("@stmt")
        handle = self._keep(Prepared(statement, declared))
        self._write_metadata(session, statement, declared, answer)
        statements.finish_statements()
        answer.write(make_return_status(0))
        answer.write(make_return_int(0, handle_name, handle))

    def _write_metadata(
        self,
        session: Session,
        statement: str,
        declared: Sequence[Declared],
        answer: Answer,
    ) -> None:
        """Columns of a prepared query, if it has any and they can be told before it runs."""
        try:
            columns = session.describe(statement, [Parameter(d.name, d.type, None) for d in declared])
        except SqlError:
            # Only running it can tell what is wrong; preparing is not the moment.
            return
        if columns:
            answer.write(make_column_metadata(columns))

    def _execute(self, session: Session, call: RpcCall, answer: Answer, statements: Statements) -> None:
        arguments = _Arguments(call)
        prepared = self._handle(arguments.take("@handle").value)
        statements.write_all(_run(session, prepared.statement, prepared.declared, arguments.rest()))
        _finish(answer, statements)

    def _prepexec(self, session: Session, call: RpcCall, answer: Answer, statements: Statements) -> None:
        arguments = _Arguments(call)
        given = arguments.take("@handle")
        if isinstance(given.value, int):
            # The client replaces a statement that it prepared before.
            self._prepared.pop(given.value, None)
        declared = parse_declarations(arguments.optional_text("@params"))
        statement = arguments.text("@stmt")
        handle = self._keep(Prepared(statement, declared))
        statements.write_all(_run(session, statement, declared, arguments.rest()))
        _finish(answer, statements)
        answer.write(make_return_int(0, given.name, handle))

    def _unprepare(self, _session: Session, call: RpcCall, answer: Answer, statements: Statements) -> None:
        handle = _Arguments(call).take("@handle").value
        self._handle(handle)
        assert isinstance(handle, int)
        del self._prepared[handle]
        _finish(answer, statements)

    def _describe_parameters(self, session: Session, call: RpcCall, answer: Answer, statements: Statements) -> None:
        arguments = _Arguments(call)
        statement = arguments.text("@tsql")
        declared = parse_declarations(arguments.optional_text("@params"))
        statements.write_all([describe.undeclared_parameters(session, statement, declared)])
        _finish(answer, statements)

    def _describe_columns(self, session: Session, call: RpcCall, answer: Answer, statements: Statements) -> None:
        arguments = _Arguments(call)
        statement = arguments.text("@tsql")
        declared = parse_declarations(arguments.optional_text("@params"))
        columns = session.describe(statement, [Parameter(d.name, d.type, None) for d in declared])
        statements.write_all([describe.first_result_set(columns)])
        _finish(answer, statements)

    def _other(self, session: Session, call: RpcCall, answer: Answer, statements: Statements) -> None:
        """Any other procedure: EXEC with the values as parameters; the engine knows it or says that it doesn't."""
        if outputs := [p.name for p in call.parameters if p.output]:
            raise SqlError(
                40510,
                f"OUTPUT parameters of {call.name} ({', '.join(outputs)}) are not supported.",
            )
        parameters: list[Parameter] = []
        written: list[str] = []
        for index, given in enumerate(call.parameters):
            if given.default:
                written.append(f"{given.name} = DEFAULT" if given.name else "DEFAULT")
                continue
            variable = f"@__p{index}"
            parameters.append(Parameter(variable, given.type, given.value))
            written.append(f"{given.name} = {variable}" if given.name else variable)
        statements.write_all(session.execute(f"EXEC {call.name} {', '.join(written)}".rstrip(), parameters))
        _finish(answer, statements)

    # Handles --------------------------------------------------------------------------------------------------------

    def _keep(self, prepared: Prepared) -> int:
        if len(self._prepared) >= MAX_PREPARED:
            raise SqlError(
                10928,
                f"This connection has {MAX_PREPARED} prepared statements, which is the limit; "
                "close cursors, or call sp_unprepare.",
            )
        handle = self._next_handle
        self._next_handle += 1
        self._prepared[handle] = prepared
        return handle

    def _handle(self, handle: object) -> Prepared:
        found = self._prepared.get(handle) if isinstance(handle, int) else None
        if found is None:
            raise SqlError(8179, f"Could not find prepared statement with handle {handle}.")
        return found


def system_name(name: str) -> str:
    """``[sys].sp_executesql`` and the like in lower case without schema; other names as they are."""
    match = _SYSTEM.match(name.strip())
    return match[1].lower() if match else name.strip()


def _finish(answer: Answer, statements: Statements) -> None:
    statements.finish_statements()
    answer.write(make_return_status(1 if statements.failed else 0))


def _run(
    session: Session,
    statement: str,
    declared: Sequence[Declared],
    given: Sequence[RpcParameter],
) -> Iterator[Result]:
    return session.execute(statement, bind(declared, given))


def bind(declared: Sequence[Declared], given: Sequence[RpcParameter]) -> list[Parameter]:
    """Values -> declared parameters, by name or position. The declared type counts, as in T-SQL.

    Raises SqlError 8144 (too many arguments), 8145 (no such parameter) or 8178 (a parameter without value).
    """
    by_name = {d.name.lower(): d for d in declared}
    values: dict[str, object] = {}
    for index, parameter in enumerate(given):
        if parameter.name:
            target = by_name.get(parameter.name.lower())
            if target is None:
                raise SqlError(8145, f"{parameter.name} is not a parameter of the statement.")
        elif index < len(declared):
            target = declared[index]
        else:
            raise SqlError(
                8144,
                f"The statement has {len(declared)} parameters; {len(given)} were given.",
            )
        values[target.name] = parameter.value
    bound: list[Parameter] = []
    for d in declared:
        if d.name not in values:
            raise SqlError(
                8178,
                f"The parameterized query expects the parameter '{d.name}', which was not supplied.",
            )
        if d.output:
            raise SqlError(
                40510,
                f"OUTPUT parameter '{d.name}' is not supported in a parameterized query.",
            )
        bound.append(Parameter(d.name, d.type, values[d.name]))
    return bound


class _Arguments:
    """A procedure's own arguments, by name or position, in the order they are asked for."""

    def __init__(self, call: RpcCall) -> None:
        self._call = call
        self._left = list(call.parameters)

    def take(self, *names: str) -> RpcParameter:
        """The next argument, or the one of this name."""
        found = self._find(names)
        if found is None:
            raise SqlError(
                201,
                f"Procedure {self._call.name} expects parameter '{names[0]}', which was not supplied.",
            )
        return found

    def _find(self, names: Sequence[str]) -> RpcParameter | None:
        for index, parameter in enumerate(self._left):
            if parameter.name.lower() in names:
                return self._left.pop(index)
        # Unnamed ones are positional.
        return self._left.pop(0) if self._left and not self._left[0].name else None

    def text(self, *names: str) -> str:
        """A string argument."""
        value = self.take(*names).value
        if not isinstance(value, str):
            raise SqlError(
                214,
                f"Procedure {self._call.name} expects parameter '{names[0]}' of type 'nvarchar'.",
            )
        return value

    def optional_text(self, *names: str) -> str:
        """A string argument that may be absent or NULL."""
        found = self._find(names)
        return found.value if found is not None and isinstance(found.value, str) else ""

    def rest(self) -> list[RpcParameter]:
        """What the statement itself gets."""
        return self._left
