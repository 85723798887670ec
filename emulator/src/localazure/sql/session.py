"""One connection's session: its batches, its transaction, and the way another thread ends what it runs."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import duckdb

from localazure.sql import errors
from localazure.sql.authority import Authority
from localazure.sql.interpreter import BreakLoop, Frame, Interpreter
from localazure.sql.processed import charged, megabytes
from localazure.sql.results import Column, Message, Parameter, Result, SqlError
from localazure.sql.running import Running
from localazure.sql.scans import Usage

if TYPE_CHECKING:
    from localazure.sql.catalog import Catalog, Snapshot, Table
    from localazure.sql.pool import Pool
    from localazure.sql.principals import Identity
    from localazure.sql.requests import Request


class Session(Running):
    """One connection's state: variables live a batch, temporary tables and the transaction live here."""

    def __init__(self, pool: Pool, spid: int, identity: Identity, application: str, host: str) -> None:
        self.pool = pool
        self.spid = spid
        self.login = identity.name
        self.authority = Authority(identity)
        self.application = application
        self.host = host
        self.login_time = time.time()
        self.cursor = pool.engine.connection.cursor()
        self.scratch = pool.engine.connection.cursor()
        self.temporary: dict[str, Table] = {}
        self.transaction_count = 0
        self.doomed = False
        self.changing = False
        self.row_count = 0
        self.error: SqlError | None = None
        self.last_error_number = 0
        self.identity_insert = ""
        self.options: dict[str, str] = {}
        self.usage = Usage()
        self.context_values: dict[str, object] = {}
        self.definitions: list[tuple[Catalog, Snapshot, Snapshot]] = []
        self.request: Request | None = None
        self._cancelled = threading.Event()
        self._closed = False
        self.on_disconnect: Callable[[], None] | None = None

    @property
    def database(self) -> str:
        return self.pool.database

    @property
    def identity(self) -> Identity:
        """Who opened the session, whose place it may have taken meanwhile."""
        return self.authority.identity

    # ---- batches --------

    def execute(self, batch: str, parameters: Sequence[Parameter] = ()) -> Iterator[Result]:
        """Run a batch; results come lazily and in order. SqlError ends it, with the failing statement's line."""
        self._cancelled.clear()
        interpreter = Interpreter(self)
        interpreter.parameters(parameters)
        try:
            for result in interpreter.batch(batch):
                yield result
                self.last_error_number = 0
        except BreakLoop:
            raise SqlError(
                135, "Cannot use a BREAK statement outside the scope of a WHILE statement.", severity=15
            ) from None
        except SqlError as error:
            self.last_error_number = error.number
            raise
        except RecursionError:
            raise SqlError(
                191,
                "Some part of your SQL statement is nested too deeply. Rewrite the query or break it up into "
                "smaller queries.",
                severity=15,
            ) from None

    def describe(self, batch: str, parameters: Sequence[Parameter] = ()) -> tuple[Column, ...]:
        """The columns of the first result set, without running anything; empty when there is none."""
        from localazure.sql.describing import first_result

        interpreter = Interpreter(self, Frame())
        interpreter.parameters(parameters)
        return first_result(self, batch, interpreter.frame)

    def disconnect(self) -> None:
        """From any thread: end what runs, and the client's connection with it (a KILL, or the pool goes offline)."""
        self.cancel()
        if self.on_disconnect is not None:
            self.on_disconnect()

    def cancel(self) -> None:
        """From any thread: the running statement ends with error 3617."""
        self._cancelled.set()
        with suppress(duckdb.ConnectionException):  # closed meanwhile: nothing runs
            self.cursor.interrupt()

    def check_cancelled(self, line: int) -> None:
        if self._cancelled.is_set():
            raise SqlError(errors.CANCELLED, "Operation cancelled by user.", severity=11, line=line)

    def account(self, line: int) -> Message:
        """Charge what the last statement took of the lake, and say it as the pool does (message 15885)."""
        usage, self.usage = self.usage, Usage()
        count = charged(usage)
        if self.pool.server is not None:
            self.pool.server.ledger.add(count)
        request = self.request
        identity, digest = ("", "") if request is None else (request.statement_id, request.query_hash)
        if request is not None:
            request.processed = count
        return Message(
            15885,
            1,
            0,  # severity 10 travels as 0, and FreeTDS takes more for an error
            f"Statement ID: {identity} | Query hash: {digest} | Distributed request ID: "
            f"{{{str(uuid.uuid4()).upper()}}}. Total size of data scanned is {megabytes(usage.scanned)} megabytes, "
            f"total size of data moved is {megabytes(usage.moved)} megabytes, total size of data written is "
            f"{megabytes(usage.written)} megabytes.",
            line,
        )

    # ---- transactions --------

    def begin(self) -> None:
        """Open a transaction; DuckDB's begins with the first change, so that reads before it see what others committed.

        A dedicated pool reads uncommitted rows; DuckDB reads a snapshot from its own BEGIN on.
        """
        if self.transaction_count:
            raise errors.refused("nested transaction", 1)
        self.transaction_count = 1

    def commit(self) -> None:
        if self.doomed:
            self.rollback()
            raise SqlError(
                111233, "The current transaction has aborted, and any pending changes have been rolled back."
            )
        try:
            if self.changing:
                self.cursor.execute("COMMIT")
                self.pool.engine.data_version += 1
        except duckdb.Error as error:
            raise errors.from_duckdb(error, 1) from error
        finally:
            self.transaction_count = 0
            self.changing = False
            self.definitions.clear()

    def rollback(self) -> None:
        try:
            if self.changing:
                self.cursor.execute("ROLLBACK")
        except duckdb.TransactionException:
            pass  # DuckDB has no transaction any more: that is what was asked for
        finally:
            self.transaction_count = 0
            self.changing = self.doomed = False
            for catalog, before, after in reversed(self.definitions):
                catalog.revert(before, after, self.cursor)
            self.definitions.clear()

    def close(self) -> None:
        """Roll back what is open and drop the temporary tables. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.pool.engine.forget(self)
        try:
            if self.transaction_count:
                self.rollback()
            self.cursor.close()
            self.scratch.close()
        except duckdb.Error:
            pass  # the pool itself is closing
