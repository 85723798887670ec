"""Runs T-SQL batches over a DB-API connection: counts, first rows; errors with number and statement; cancellable.

No Airflow and no SDK here: a connection comes in, values come out. The driver's call blocks its thread, and no signal
handler runs in the main thread meanwhile; so statements run in a thread of their own and the caller's thread waits.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from azflow import tsql

#: Error numbers after which the same statement may succeed: the connection was lost, the pool was busy or moving.
#: https://learn.microsoft.com/en-us/azure/azure-sql/database/troubleshoot-common-errors-issues#list-of-transient-fault-error-codes
#: 1205 (deadlock victim): https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/mssqlserver-1205-database-engine-error
#: 42109 (the pool is warming up): https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-troubleshoot
TRANSIENT = frozenset(
    {20, 64, 233, 615, 926, 1205, 4060, 4221, 10053, 10054, 10060, 10928, 10929}
    | {40143, 40166, 40197, 40501, 40540, 40613, 42109, 49918, 49919, 49920}
)
#: SQLSTATEs of a broken connection. https://learn.microsoft.com/en-us/sql/odbc/reference/appendixes/appendix-a-odbc-error-codes
_BROKEN = frozenset({"08001", "08003", "08004", "08007", "08S01", "08S02", "HYT00", "HYT01"})

#: Error numbers of a connection that is gone.
_LOST = frozenset({20, 64, 233, 10053, 10054, 10060, 40197})

FETCH_ROWS = 1000


How = Literal["cancelled", "killed", "dropped", "abandoned"]


class Cancelled(Exception):
    """The statement was stopped from outside.

    :ivar how: ``cancelled``: the server said so; ``killed``: a second connection killed its session; ``dropped``: its
        connection was cut, which ends it on the server; ``abandoned``: nothing worked in time, the process's end will
        cut the connection.
    :ivar deadline: its time was over; else somebody asked.
    """

    def __init__(self, how: How, *, deadline: bool) -> None:
        super().__init__(how)
        self.how = how
        self.deadline = deadline


class StatementFailed(Exception):
    """A batch failed on the server.

    :ivar number: the server's error number; None if the driver doesn't tell.
    :ivar line: 1-based line in the batch of the statement that failed, as far as it can be told.
    :ivar exact: whether `line` is certain, not the batch's best guess.
    """

    def __init__(self, message: str, *, number: int | None, state: str, line: int, exact: bool) -> None:
        super().__init__(message)
        self.message = message
        self.number = number
        self.state = state
        self.line = line
        self.exact = exact

    @property
    def transient(self) -> bool:
        return self.number in TRANSIENT or self.state in _BROKEN

    @property
    def lost(self) -> bool:
        """Whether the connection is gone, and the session's state with it."""
        return self.number in _LOST or self.state in _BROKEN


@dataclass
class BatchResult:
    """What one batch did.

    :ivar counts: one entry a statement that counts: {"rows": read} of a result set, or {"affected": written}.
    :ivar columns: of the last result set; empty if there was none.
    :ivar rows: its first rows, as plain values (JSON can hold them).
    """

    seconds: float = 0.0
    counts: list[dict[str, int]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def run_batch(connection: Any, text: str, values: Sequence[object] = (), *, keep_rows: int = 20) -> BatchResult:
    """Execute `text` with its bound `values` and read everything it answers.

    Raises StatementFailed. To be called in the thread that owns the statement; see `Runner`.
    """
    result = BatchResult()
    started = time.monotonic()
    cursor = connection.cursor()
    diagnostics = _Diagnostics(cursor)
    try:
        cursor.execute(text, *([tuple(values)] if values else []))
        more = True
        while more:
            result.messages += [
                _clean(message[1]) for message in getattr(cursor, "messages", None) or () if len(message) > 1
            ]
            if cursor.description:
                _read_rows(cursor, result, keep_rows)
            elif (affected := _affected(cursor)) >= 0:
                result.counts.append({"affected": affected})
            more = bool(cursor.nextset())
        result.messages += [
            _clean(message[1]) for message in getattr(cursor, "messages", None) or () if len(message) > 1
        ]
    except Exception as error:
        if not _is_database_error(error):
            raise
        raise _failed(error, text, len(result.counts), diagnostics.records()) from error
    finally:
        diagnostics.close()
        with contextlib.suppress(Exception):
            cursor.close()
    result.seconds = round(time.monotonic() - started, 3)
    return result


def _read_rows(cursor: Any, result: BatchResult, keep_rows: int) -> None:
    result.columns = [str(column[0]) for column in cursor.description]
    result.rows = []
    count = 0
    while chunk := cursor.fetchmany(FETCH_ROWS):
        for row in chunk[: max(0, keep_rows - len(result.rows))]:
            result.rows.append([plain(value) for value in row])
        count += len(chunk)
    result.counts.append({"rows": count})


def _affected(cursor: Any) -> int:
    """Rows the current statement wrote; -1 if it doesn't count.

    mssql-python 1.16 leaves `cursor.rowcount` as it was when `nextset` moves on; the handle knows.
    """
    if (handle := getattr(cursor, "hstmt", None)) is None:
        return -1 if cursor.rowcount is None else int(cursor.rowcount)
    from mssql_python import ddbc_bindings

    count: Callable[[Any], int] = getattr(ddbc_bindings, "DDBCSQLRowCount")  # noqa: B009
    return int(count(handle))


def plain(value: object) -> object:
    """A value as JSON can hold it: dates as ISO text, decimals as numbers where exact, bytes as 0x text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and abs(value) < 2**53 else float(value)
    if isinstance(value, datetime | date | clock_time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray):
        return "0x" + bytes(value).hex()
    return str(value) if isinstance(value, UUID) else repr(value)


class Runner:
    """One connection, whose statements run in a thread of their own so that another thread, or a signal handler, can
    stop them.

    :param connect: opens the connection; called at once, in the caller's thread. Called again to kill its session.
    :param port: the pool's TCP port, to tell the connection's socket from others.
    :param pool: how the pool names and kills sessions; empty: they aren't killed.
    """

    def __init__(self, connect: Callable[[], Any], port: int = 1433, pool: str = "") -> None:
        self._connect = connect
        self._port = port
        self._pool = pool
        self._stop = threading.Event()
        self._open()

    def _open(self) -> None:
        before = set(_sockets(self._port))
        self._connection = self._connect()
        self._sockets = [number for number in _sockets(self._port) if number not in before]
        self._broken = False
        self._kill = ""
        if self._pool:
            # Asked now: a busy connection can't tell any more.
            query, statement = _SESSIONS[self._pool]
            with contextlib.suppress(StatementFailed):
                self._kill = statement.format(run_batch(self._connection, query).rows[0][0])

    def reopen(self) -> None:
        """A new connection for one that is lost; what the session held is gone."""
        self.close()
        self._open()

    def stop(self) -> None:
        """Ask for a stop; safe in a signal handler. The waiting `run_batch` then cancels and raises Cancelled."""
        self._stop.set()

    def run_batch(
        self, text: str, values: Sequence[object] = (), *, deadline: float | None = None, keep_rows: int = 20
    ) -> BatchResult:
        """As the function `run_batch`; raises Cancelled when stopped or when `deadline` (time.monotonic) has passed."""
        if self._stop.is_set():
            raise Cancelled("cancelled", deadline=False)
        box: dict[str, Any] = {}
        done = threading.Event()

        def work() -> None:
            try:
                box["result"] = run_batch(self._connection, text, values, keep_rows=keep_rows)
            except BaseException as error:
                box["error"] = error
            finally:
                done.set()

        # A daemon: should the driver never come back, the process can still end.
        threading.Thread(target=work, name="azflow-sql", daemon=True).start()
        try:
            while not done.wait(0.2):
                late = deadline is not None and time.monotonic() >= deadline
                if not (self._stop.is_set() or late):
                    continue
                how = self._cancel(done)
                if "result" in box:
                    break  # it finished before the cancellation arrived
                raise Cancelled(how, deadline=late and not self._stop.is_set())
        finally:
            if not done.is_set() and not self._broken:
                self._cancel(done)  # something else ended the wait: a time-out raised by a signal handler, say
        if "error" in box:
            raise box["error"]
        result: BatchResult = box["result"]
        return result

    def _cancel(self, done: threading.Event) -> How:
        """End the running statement: ask the server, then kill the session, then cut the connection."""
        until = time.monotonic() + CANCEL_PATIENCE
        while not done.is_set() and time.monotonic() < until:
            # Again and again: a cancel between two calls of the driver hits nothing.
            for cursor in list(getattr(self._connection, "_cursors", ())):
                with contextlib.suppress(Exception):
                    cancel_cursor(cursor)
            done.wait(0.5)
        if done.is_set():
            return "cancelled"
        # mssql-python's driver in Rust takes a cancel and does nothing, and can't be closed while it is busy.
        self._broken = True
        if self._kill:
            threading.Thread(target=self._kill_session, name="azflow-sql-kill", daemon=True).start()
            if done.wait(CANCEL_PATIENCE):
                return "killed"
        for number in self._sockets or _sockets(self._port):
            _cut(number)
        return "dropped" if done.wait(CANCEL_PATIENCE) else "abandoned"

    def _kill_session(self) -> None:
        """KILL from a connection of its own; what goes wrong shows in that the statement doesn't end."""
        with contextlib.suppress(Exception), contextlib.closing(self._connect()) as second:
            run_batch(second, self._kill)

    def close(self) -> None:
        """Close the connection, unless it was cut or a thread still hangs in it."""
        if not self._broken:
            with contextlib.suppress(Exception):
                self._connection.close()


#: Seconds that each way of ending a statement gets before the next.
CANCEL_PATIENCE = 2.0

#: How a kind of pool names the session and ends it. Needs ALTER ANY CONNECTION, or the cut is what ends it.
#: https://learn.microsoft.com/sql/t-sql/language-elements/kill-transact-sql
_SESSIONS = {
    "dedicated": ("SELECT SESSION_ID() AS session", "KILL '{}'"),
    "serverless": ("SELECT @@SPID AS session", "KILL {}"),
}


def _sockets(port: int) -> list[int]:
    """This process's open sockets that are connected to TCP `port`, as file descriptors."""
    found = []
    for name in os.listdir("/dev/fd"):
        # What is listed may be closed by now (OSError); a socket may be connected to nothing (OSError).
        with contextlib.suppress(OSError):
            number = int(name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as duplicate:
                internet = duplicate.family in (socket.AF_INET, socket.AF_INET6)
                if internet and duplicate.getpeername()[1] == port:
                    found.append(number)
    return found


def _cut(number: int) -> None:
    """Shut the connection of a file descriptor down, whoever owns it; the owner sees the server hang up."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


def cancel_cursor(cursor: Any) -> None:
    """Cancel what `cursor` executes; callable from any thread.

    ODBC's SQLCancel is the one call that another thread may make on a busy statement; mssql-python 1.16 keeps it on the
    statement's handle. https://learn.microsoft.com/en-us/sql/odbc/reference/syntax/sqlcancel-function
    """
    if cancel := getattr(cursor, "cancel", None):
        cancel()
    elif (handle := getattr(cursor, "hstmt", None)) is not None:
        handle._cancel()


# errors


class _Diagnostics:
    """Keeps the statement's ODBC diagnostic records, which carry the server's error number.

    mssql-python 1.16 raises without the number and frees the statement, and its records with it, before the exception
    leaves `execute`. Where the driver is built differently, there are simply no records.
    """

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self._records: list[tuple[str, str]] = []
        self._reset: Callable[[], None] | None = getattr(cursor, "_reset_cursor", None)
        if self._reset is not None:
            with contextlib.suppress(AttributeError):
                cursor._reset_cursor = self._read_and_reset

    def _read_and_reset(self) -> None:
        self._read()
        assert self._reset is not None
        self._reset()

    def _read(self) -> None:
        if self._records:
            return
        with contextlib.suppress(Exception):
            from mssql_python import ddbc_bindings

            read: Callable[[Any], list[tuple[str, str]]] = getattr(ddbc_bindings, "DDBCSQLGetAllDiagRecords")  # noqa: B009
            self._records = [(str(head), str(body)) for head, body in read(self._cursor.hstmt)]

    def records(self) -> list[tuple[str, str]]:
        """(state and number, text) of each record, first error first."""
        self._read()
        return self._records

    def close(self) -> None:
        """Give the cursor its own method back: no reference cycle stays."""
        with contextlib.suppress(AttributeError):
            del self._cursor._reset_cursor


_PREFIX = re.compile(r"^(?:\s*\[[^\]]*\])+\s*")
_MESSAGE_NUMBER = re.compile(r"\b(?:Msg|Error|error)\s+(\d{2,6})\b")
_TEXT_LINE = re.compile(r"\b(?:at line:?|[Ll]ine)\s+(\d+)\b")
_RECORD = re.compile(r"\[?(\w{5})\]?\D+(-?\d+)")
_QUOTED = re.compile(r"'([^']{2,})'")


def _clean(text: object) -> str:
    """A driver's message without the brackets that name driver and server."""
    return _PREFIX.sub("", str(text)).strip()


def _is_database_error(error: BaseException) -> bool:
    # Every DB-API driver has these names (PEP 249); naming the driver's class would import it.
    return any(cls.__name__ in ("DatabaseError", "InterfaceError", "Error") for cls in type(error).__mro__)


def _failed(error: BaseException, text: str, counted: int, records: Sequence[tuple[str, str]]) -> StatementFailed:
    state, number = "", None
    message = _clean(getattr(error, "ddbc_error", "") or error)
    for head, body in records:
        match = _RECORD.search(head)
        if match and int(match[2]) > 0:
            state, number, message = match[1], int(match[2]), _clean(body) or message
            break
    if number is None and (match := _MESSAGE_NUMBER.search(message)):
        number = int(match[1])
    if not state and (match := re.search(r"SQLSTATE code: (\w{5})", str(error))):
        state = match[1]
    if not state and re.search(
        r"[Cc]ommunication link|Disconnect|[Cc]onnection (?:failure|not open|timeout|closed|reset)|Broken pipe",
        str(error),
    ):
        state = "08S01"
    line, exact = locate(text, message, counted)
    return StatementFailed(message, number=number, state=state, line=line, exact=exact)


@dataclass(frozen=True)
class ConnectionFailure:
    """Why no connection came about.

    :ivar denied: the log-in was refused: trying again can't help.
    """

    message: str
    number: int | None
    denied: bool
    transient: bool


#: Log-in failed; the database doesn't exist or isn't ours; the user may not connect; the address is blocked.
#: https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/mssqlserver-18456-database-engine-error
_DENIED = frozenset({18452, 18456, 18470, 18486, 18487, 18488, 916, 40615, 47073})


def connection_failure(error: BaseException) -> ConnectionFailure | None:
    """What a driver's error at connecting means; None if it isn't the driver's error at all."""
    if not _is_database_error(error) and not isinstance(error, OSError):
        return None
    message = _clean(getattr(error, "ddbc_error", "") or error)
    match = _MESSAGE_NUMBER.search(message)
    number = int(match[1]) if match else None
    denied = number in _DENIED or "Login failed" in message
    # A connection that didn't come about did nothing: all but a refusal may be tried again.
    return ConnectionFailure(message, number, denied, not denied)


def locate(text: str, message: str, counted: int) -> tuple[int, bool]:
    """The line of `text` that an error means: (line, certain).

    A pool's parser says it ("at line: 3, column: 5"). Otherwise: the statements that count told how far the batch came,
    and a quoted name in the message tells which of the remaining ones it was.
    """
    lines = text.count("\n") + 1
    match = _TEXT_LINE.search(message)
    if match and 1 <= int(match[1]) <= lines:
        return int(match[1]), True
    try:
        found = tsql.statements(text)
    except tsql.TsqlTextError as unreadable:
        return unreadable.line, True
    if not found:
        return 1, False
    remaining = list(found)
    for _ in range(counted):
        index = next((i for i, s in enumerate(remaining) if counts(s)), None)
        if index is None or index + 1 >= len(remaining):
            break
        remaining = remaining[index + 1 :]
    for name in _QUOTED.findall(message):
        places = [line for statement in remaining if (line := _names(statement, name))]
        if places:
            return places[0], len(places) == 1
    candidate = next((s for s in remaining if counts(s)), remaining[0])
    return candidate.line, len(found) == 1


def _names(statement: tsql.Statement, name: str) -> int:
    """The line on which `statement` first says the dotted `name`; 0 if it doesn't."""
    wanted = [part.strip('[]"').lower() for part in name.split(".") if part]
    said = [token.identifier for token in statement.tokens]
    for index, token in enumerate(statement.tokens):
        if wanted and said[index : index + len(wanted) * 2 : 2][: len(wanted)] == wanted:
            return token.line
    return 0


def counts(statement: tsql.Statement) -> bool:
    """Whether the server answers the statement with a result set or a row count."""
    return statement.kind in ("select", "insert", "update", "delete", "merge", "copy", "ctas", "cetas")
