"""The TDS clients behind one interface, each in a process of its own.

mssql-python chooses its provider once a process, and a client that crashes must not take the tests with it. `Client`
sends (method, arguments) to a worker; `Driver` in the worker speaks to the real library.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import multiprocessing
import os
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("mssql-python", "mssql-python-rust", "pymssql", "python-tds", "sqlalchemy")
ACCESS_TOKEN = 1256  # SQL_COPT_SS_ACCESS_TOKEN
LIBRARY = "libltdl.so.7"
#: Where tools/odbc_library.py puts it.
UNPACKED = Path(__file__).resolve().parents[2] / "var/odbc"


def missing(kind: str) -> str:
    """Why this client can't run here; empty when it can."""
    if kind == "mssql-python" and not (_loads(LIBRARY) or (UNPACKED / LIBRARY).exists()):
        return "Microsoft's ODBC driver needs libltdl7: install it, or run tools/odbc_library.py (no root needed)"
    return ""


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _library_path() -> str:
    """The loader's, with the folder of the unpacked library: read when a process starts."""
    known = os.environ.get("LD_LIBRARY_PATH", "")
    return f"{UNPACKED}{os.pathsep}{known}".rstrip(os.pathsep) if (UNPACKED / LIBRARY).exists() else known


@contextlib.contextmanager
def _environment(**changed: str) -> Iterator[None]:
    """These variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Failure:
    """An exception of a client library, in a form that travels."""

    classes: tuple[str, ...]
    text: str


class Driver:
    """One connection of one library. Rows come as lists of tuples; failures as `Failure`."""

    def __init__(self, kind: str, connection: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self.kind = kind
        self._given = connection
        self._options = options
        self._engine: Any = None
        self.connection = self._connect()

    # Connecting, in each library's way.
    def _connect(self) -> Any:
        host, _, port = self._given["sql_server"].partition(",")
        login = self._options.get("login", self._given["sql_login"])
        password = self._options.get("password", self._given["sql_password"])
        database = self._options.get("database", self._given["sql_database"])
        if self.kind == "pymssql":
            import pymssql

            return pymssql.connect(server=host, port=port, user=login, password=password, database=database)
        if self.kind == "python-tds":
            import pytds

            # Its TLS needs pyOpenSSL, which nothing else here does: this is the client that goes without.
            return pytds.connect(host, database, login, password, port=int(port), autocommit=False)
        if self.kind == "sqlalchemy":
            import sqlalchemy

            url = sqlalchemy.URL.create(
                "mssql+mssqlpython", login, password, host, int(port), database,
                {"Encrypt": "yes", "TrustServerCertificate": "no"},
            )  # fmt: skip
            self._engine = sqlalchemy.create_engine(url)
            self._pooled = self._engine.connect()
            return self._pooled.connection.dbapi_connection
        return self._connect_mssql_python(login, password, database)

    def _connect_mssql_python(self, login: str, password: str, database: str) -> Any:
        import mssql_python

        encrypt = self._options.get("encrypt", "yes")
        text = f"Server={self._given['sql_server']};Database={database};Encrypt={encrypt};TrustServerCertificate=no;"
        if self._options.get("service_principal"):
            principal = f"UID={self._given['client_id']};PWD={{{self._given['client_secret']}}}"
            return mssql_python.connect(f"{text}{principal};Authentication=ActiveDirectoryServicePrincipal")
        token = self._options.get("token")
        if token is None:
            return mssql_python.connect(text + f"UID={login};PWD={{{password}}}")
        packed = token.encode("utf-16-le")
        return mssql_python.connect(text, attrs_before={ACCESS_TOKEN: struct.pack("<I", len(packed)) + packed})

    # What the tests ask for.
    def query(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of the first result set. ``?`` marks a parameter."""
        cursor = self.connection.cursor()
        self._execute(cursor, sql, parameters)
        return [tuple(map(_plain, row)) for row in cursor.fetchall()]

    def results(self, sql: str) -> list[list[tuple[Any, ...]]]:
        """Rows of every result set of a batch."""
        cursor = self.connection.cursor()
        cursor.execute(sql)
        found = []
        while True:
            if cursor.description:
                found.append([tuple(row) for row in cursor.fetchall()])
            if not cursor.nextset():
                return found

    def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> int:
        """Run, and the row count."""
        cursor = self.connection.cursor()
        self._execute(cursor, sql, parameters)
        return int(cursor.rowcount)

    def run(self, *statements: str) -> None:
        """Run statements one by one, each by itself: a pool refuses DDL inside a transaction."""
        self._autocommit(True)
        for statement in statements:
            self.connection.cursor().execute(statement)
        self._autocommit(False)

    def _autocommit(self, value: bool) -> None:
        if self.kind == "pymssql":
            self.connection.autocommit(value)
        else:
            self.connection.autocommit = value

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """executemany."""
        cursor = self.connection.cursor()
        cursor.executemany(self._marks(sql), [tuple(row) for row in rows])

    def _execute(self, cursor: Any, sql: str, parameters: Sequence[Any] | None) -> None:
        if parameters is None:
            cursor.execute(sql)
        else:
            cursor.execute(self._marks(sql), tuple(map(self._given_as, parameters)))

    def _given_as(self, value: Any) -> Any:
        if self.kind == "python-tds" and isinstance(value, bytes):
            import pytds

            return pytds.Binary(value)
        # pymssql writes bytes as a character literal and a bytearray as a binary one.
        return bytearray(value) if self.kind == "pymssql" and isinstance(value, bytes) else value

    def _marks(self, sql: str) -> str:
        return sql.replace("?", "%s") if self.kind in ("pymssql", "python-tds") else sql

    def columns(self, sql: str) -> list[str]:
        """Names of the result's columns."""
        cursor = self.connection.cursor()
        cursor.execute(sql)
        names = [d[0] for d in cursor.description]
        cursor.fetchall()
        return names

    def pieces(self, sql: str, size: int) -> list[int]:
        """Row counts of fetchmany until the end, the first row by fetchone."""
        cursor = self.connection.cursor()
        cursor.execute(sql)
        counts = [1 if cursor.fetchone() else 0]
        while rows := cursor.fetchmany(size):
            counts.append(len(rows))
        return counts

    def count(self, sql: str) -> tuple[int, float]:
        """Rows fetched and the seconds that took."""
        cursor = self.connection.cursor()
        started = time.perf_counter()
        cursor.execute(sql)
        rows = len(cursor.fetchall())
        return rows, time.perf_counter() - started

    def messages(self, sql: str) -> list[str]:
        """Texts that PRINT sent."""
        if self.kind == "pymssql":
            found: list[str] = []
            self.connection._conn.set_msghandler(
                lambda _state, _severity, _server, _proc, _line, text: found.append(
                    text.decode() if isinstance(text, bytes) else text
                )
            )
            self.connection.cursor().execute(sql)
            return found
        cursor = self.connection.cursor()
        cursor.execute(sql)
        return [str(m[1]) for m in cursor.messages]

    def cancel_after(self, sql: str, seconds: float) -> Any:
        """Start ``sql``, cancel it from another thread or by the library's time limit; the failure, and the seconds."""
        by_limit = self.kind.startswith("mssql-python") or self.kind == "sqlalchemy"
        if by_limit:
            self.connection.timeout = max(1, round(seconds))
        cursor = self.connection.cursor()
        if self.kind == "pymssql":
            threading.Timer(seconds, self.connection._conn.cancel).start()
        elif self.kind == "python-tds":
            # Its cursor.cancel() also reads the answer, which the thread that waits is doing already.
            threading.Timer(seconds, cursor._session.put_cancel).start()
        started = time.perf_counter()
        try:
            cursor.execute(sql)
            cursor.fetchall()
        except Exception as error:
            return _failure(error), time.perf_counter() - started
        finally:
            if by_limit:
                self.connection.timeout = 0
        return None, time.perf_counter() - started

    def bulk(self, table: str, rows: Sequence[Sequence[Any]]) -> int:
        """mssql-python's bulk copy."""
        result = self.connection.cursor().bulkcopy(table, [tuple(row) for row in rows], timeout=60)
        return int(result["rows_copied"])

    def bulk_seconds(self, table: str, rows: Sequence[Sequence[Any]]) -> float:
        """How long the bulk copy of ``rows`` takes."""
        given = [tuple(row) for row in rows]
        started = time.perf_counter()
        self.bulk(table, given)
        return time.perf_counter() - started

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def parallel(self, count: int, sql: str) -> list[Any]:
        """``count`` connections at once, one query each."""
        drivers: list[Driver] = []
        found: list[Any] = []

        def one() -> None:
            driver = Driver(self.kind, self._given, self._options)
            drivers.append(driver)
            found.append(driver.query(sql))

        threads = [threading.Thread(target=one) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for driver in drivers:
            driver.close()
        return found

    def inspect(self, schema: str, table: str) -> list[tuple[str, str, bool]]:
        """SQLAlchemy's reflection: name, type, nullable."""
        import sqlalchemy

        found = sqlalchemy.inspect(self._engine).get_columns(table, schema=schema)
        return [(c["name"], str(c["type"]), bool(c["nullable"])) for c in found]

    def inspect_all(self, schema: str, table: str) -> dict[str, Any]:
        """What else SQLAlchemy's inspector asks of a table."""
        import sqlalchemy

        inspector = sqlalchemy.inspect(self._engine)
        return {
            "schemas": schema in inspector.get_schema_names(),
            "tables": table in inspector.get_table_names(schema=schema),
            "views": inspector.get_view_names(schema=schema),
            "key": inspector.get_pk_constraint(table, schema=schema)["constrained_columns"],
            "foreign": inspector.get_foreign_keys(table, schema=schema),
            "indexes": [index["column_names"] for index in inspector.get_indexes(table, schema=schema)],
            "there": inspector.has_table(table, schema=schema),
            "elsewhere": inspector.has_table("wire_nowhere", schema=schema),
        }

    def close(self) -> None:
        if self._engine is not None:
            self._pooled.close()
            self._engine.dispose()
        else:
            self.connection.close()


def _plain(value: Any) -> Any:
    # Libraries have time zone classes of their own, which don't travel.
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo is not None else value


def _failure(error: BaseException) -> Failure:
    original = getattr(error, "orig", None) or error
    return Failure(tuple(c.__name__ for c in type(original).__mro__), f"{type(original).__name__}: {original}")


def _work(pipe: Any, kind: str, connection: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    try:
        driver = Driver(kind, connection, options)
    except Exception as error:
        pipe.send(_failure(error))
        return
    pipe.send(None)
    while True:
        call = pipe.recv()
        if call is None:
            break
        method, arguments = call
        try:
            pipe.send((True, getattr(driver, method)(*arguments)))
        except Exception as error:
            pipe.send((False, _failure(error)))
    driver.close()


class ClientError(Exception):
    """The library raised; `failure` says what."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Client:
    """A driver in another process. Every method of `Driver` can be called on it; its exceptions come as ClientError."""

    def __init__(self, kind: str, connection: Mapping[str, Any], **options: Any) -> None:
        self.kind = kind
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        provider = "msodbcsql18" if kind == "mssql-python" else "mssql-odbc"
        with _environment(MSSQL_PYTHON_NATIVE_PROVIDER=provider, LD_LIBRARY_PATH=_library_path()):
            self._process = context.Process(target=_work, args=(theirs, kind, dict(connection), options), daemon=True)
            self._process.start()
        theirs.close()
        if (failure := self._receive(60)) is not None:
            self._process.join(5)
            raise ClientError(failure)

    def _receive(self, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            self._process.kill()
            raise TimeoutError(f"{self.kind} gave no answer within {seconds} s")
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join(5)
            raise RuntimeError(f"{self.kind} ended with exit code {self._process.exitcode}") from None

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*arguments: Any) -> Any:
            self._pipe.send((method, arguments))
            succeeded, value = self._receive(120)
            if not succeeded:
                raise ClientError(value)
            return value

        return call

    def fails(self, method: str, *arguments: Any) -> Failure:
        """The failure that a call has to end in."""
        try:
            value = getattr(self, method)(*arguments)
        except ClientError as error:
            return error.failure
        raise AssertionError(f"{method} did not fail: {value!r}")

    def end(self) -> None:
        """Close the connection and the process."""
        if self._process.is_alive():
            self._pipe.send(None)
            self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def clients(kind: str, connection: Mapping[str, Any], **options: Any) -> Iterator[Client]:
    """For a fixture: one client, ended afterwards."""
    client = Client(kind, connection, **options)
    try:
        yield client
    finally:
        client.end()
