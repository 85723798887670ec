"""A SQL pool over one DuckDB file, and its sessions.

The database is opened without access to files or network and with its configuration locked: rows come in and go out as
Arrow tables that this process reads and writes itself, so no SQL text can reach the machine.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from localazure.sql import errors, macros, python_functions
from localazure.sql.catalog import Catalog, Table
from localazure.sql.interpreter import BreakLoop, Frame, Interpreter
from localazure.sql.requests import RequestLog
from localazure.sql.results import Column, Parameter, Result, ResultSet, SqlError
from localazure.sql.rules import DEDICATED, PoolKind
from localazure.sql.running import Running

if TYPE_CHECKING:
    from localazure.settings import Settings
    from localazure.storage.blobs import BlobStore

_FIRST_SPID = 51
_CACHED_STATEMENTS = 512


class Pool:
    """One database. Thread-safe; each session is used by one thread at a time, ``cancel`` by any."""

    def __init__(
        self, settings: Settings, blobs: BlobStore | None, database: str | None = None, kind: PoolKind = DEDICATED
    ) -> None:
        self.settings = settings
        self.blobs = blobs
        self.kind = kind
        self.database = database or settings.sql_database
        folder = settings.home / "sql"
        folder.mkdir(parents=True, exist_ok=True)
        self.connection = duckdb.connect(
            str(folder / f"{self.database}.duckdb"),
            config={
                "default_collation": "NOCASE",
                "enable_external_access": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
            },
        )
        self.connection.execute("SET GLOBAL TimeZone = 'UTC'")
        python_functions.install(self.connection)
        macros.install(self.connection)
        self.catalog = Catalog(self.connection)
        self.connection.execute("SET lock_configuration = true")
        self.requests = RequestLog()
        self.sessions: dict[int, Session] = {}
        self.cache: OrderedDict[object, object] = OrderedDict()
        self._lock = threading.Lock()
        self._spids = itertools.count(_FIRST_SPID)
        pa.table(
            {"warm": [1]}
        ).to_batches()  # the first Arrow batch costs seconds of imports: now, not at a client's query

    def session(self, login: str, application: str = "", host: str = "") -> Session:
        with self._lock:
            session = Session(self, next(self._spids), login, application, host)
            self.sessions[session.spid] = session
        return session

    def forget(self, session: Session) -> None:
        with self._lock:
            self.sessions.pop(session.spid, None)

    def kill(self, spid: int, by: int) -> None:
        """End what another session runs; an unknown session is nobody's error, as in a dedicated pool."""
        with self._lock:
            found = self.sessions.get(spid)
        if found is not None and spid != by:
            found.cancel()

    def cached(self, key: object) -> object | None:
        with self._lock:
            found = self.cache.get(key)
            if found is not None:
                self.cache.move_to_end(key)
            return found

    def remember(self, key: object, compiled: object) -> None:
        with self._lock:
            self.cache[key] = compiled
            while len(self.cache) > _CACHED_STATEMENTS:
                self.cache.popitem(last=False)

    def close(self) -> None:
        for session in list(self.sessions.values()):
            session.close()
        self.connection.close()


class Session(Running):
    """One connection's state: variables live a batch, temporary tables and the transaction live here."""

    def __init__(self, pool: Pool, spid: int, login: str, application: str, host: str) -> None:
        self.pool = pool
        self.spid = spid
        self.login = login
        self.application = application
        self.host = host
        self.login_time = time.time()
        self.cursor = pool.connection.cursor()
        self.scratch = pool.connection.cursor()
        self.temporary: dict[str, Table] = {}
        self.transaction_count = 0
        self.doomed = False
        self.changing = False
        self.row_count = 0
        self.error: SqlError | None = None
        self.last_error_number = 0
        self.identity_insert = ""
        self.options: dict[str, str] = {}
        self._cancelled = threading.Event()
        self._closed = False

    @property
    def database(self) -> str:
        return self.pool.database

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

    def cancel(self) -> None:
        """From any thread: the running statement ends with error 3617."""
        self._cancelled.set()
        self.cursor.interrupt()

    def check_cancelled(self, line: int) -> None:
        if self._cancelled.is_set():
            raise SqlError(errors.CANCELLED, "Operation cancelled by user.", severity=11, line=line)

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
        except duckdb.Error as error:
            raise errors.from_duckdb(error, 1) from error
        finally:
            self.transaction_count = 0
            self.changing = False

    def rollback(self) -> None:
        try:
            if self.changing:
                self.cursor.execute("ROLLBACK")
        except duckdb.TransactionException:
            pass  # DuckDB has no transaction any more: that is what was asked for
        finally:
            self.transaction_count = 0
            self.changing = self.doomed = False

    def close(self) -> None:
        """Roll back what is open and drop the temporary tables. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.pool.forget(self)
        try:
            if self.transaction_count:
                self.rollback()
            self.cursor.close()
            self.scratch.close()
        except duckdb.Error:
            pass  # the pool itself is closing


__all__ = ["Pool", "ResultSet", "Session"]
