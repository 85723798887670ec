"""The dedicated SQL pool as Spark's connector talks to it: one connection, statements, errors with the pool's words.

LOCALAZURE_SQL_SERVER     `host,port` of the workspace's pools
LOCALAZURE_SQL_DATABASE   the pool
LOCALAZURE_WORKSPACE      its name on Azure: `<workspace>.sql.azuresynapse.net`
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from dataclasses import dataclass
from typing import Any

from pyspark.errors import PySparkException

from localazure_compute import tokens

#: SQL_COPT_SS_ACCESS_TOKEN: https://learn.microsoft.com/sql/connect/odbc/using-azure-active-directory
_ACCESS_TOKEN = 1256
_LOGIN_SECONDS = 60
# What the driver puts before the server's own words.
_PREFIX = re.compile(r"^.*\[SQL Server\]", re.DOTALL)


class SQLAnalyticsConnectorException(PySparkException):
    """The connector's error: the pool's message, or what is wrong with a call."""

    def __init__(self, message: str) -> None:
        super().__init__(message=message)
        self.text = message

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Column:
    """A column as the pool describes it. `type` is T-SQL's, such as `decimal(18,4)`."""

    name: str
    type: str
    is_nullable: bool

    @property
    def base(self) -> str:
        """The type's name alone."""
        return self.type.partition("(")[0].lower()


class SqlPool:
    """A connection to a database of the dedicated pool, with the process's Entra token or a SQL log-in."""

    def __init__(self, server: str | None, database: str, user: str | None = None, password: str | None = None) -> None:
        self.database = database
        address = _address(server)
        # Before the first import: mssql-python's ODBC driver needs a library that not every system has.
        if "MSSQL_PYTHON_NATIVE_PROVIDER" not in os.environ:
            try:
                ctypes.CDLL("libltdl.so.7")
            except OSError:
                os.environ["MSSQL_PYTHON_NATIVE_PROVIDER"] = "mssql-odbc"
        import mssql_python

        self._error = mssql_python.Error
        parts = {"Server": address, "Database": database, "Encrypt": "yes", "TrustServerCertificate": "no"}
        attributes: dict[int, bytes] | None = None
        if user is not None:
            parts |= {"UID": user, "PWD": password or ""}
        else:
            token = tokens.token("DW").encode("utf-16-le")
            attributes = {_ACCESS_TOKEN: struct.pack(f"<i{len(token)}s", len(token), token)}
        text = ";".join(f"{key}={_quoted(value)}" for key, value in parts.items())
        try:
            self._connection = mssql_python.connect(
                text, autocommit=True, timeout=_LOGIN_SECONDS, attrs_before=attributes
            )
        except mssql_python.Error as error:
            raise SQLAnalyticsConnectorException(
                f"The SQL pool {database!r} at {server or address} can't be reached: {_words(error)}"
            ) from None
        self._cursor = self._connection.cursor()

    def __enter__(self) -> SqlPool:
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()

    def run(self, statement: str, what: str) -> list[Any]:
        """Execute one statement; its rows. `what` says in an error what it was for."""
        try:
            self._cursor.execute(statement)
            return list(self._cursor.fetchall()) if self._cursor.description else []
        except self._error as error:
            raise SQLAnalyticsConnectorException(f"{what}: {_words(error)}") from None

    def columns(self, query: str, what: str) -> list[Column]:
        """The columns a query gives."""
        rows = self.run(f"EXEC sp_describe_first_result_set N'{query.replace(chr(39), chr(39) * 2)}'", what)
        return [Column(str(row[2]), str(row[5]), bool(row[3])) for row in rows]

    def kind(self, schema: str, table: str) -> str | None:
        """`U` for an internal table, `E` for an external one, `V` for a view; None if there is nothing."""
        internal = self.run(
            "SELECT o.type, CASE WHEN e.object_id IS NULL THEN 0 ELSE 1 END FROM sys.objects o"
            " JOIN sys.schemas s ON s.schema_id = o.schema_id LEFT JOIN sys.external_tables e"
            f" ON e.object_id = o.object_id WHERE s.name = {literal(schema)} AND o.name = {literal(table)}",
            "The pool's catalogue",
        )
        if not internal:
            return None
        return "E" if internal[0][1] else str(internal[0][0]).strip()


def quoted(name: str) -> str:
    """A T-SQL identifier."""
    return "[" + name.replace("]", "]]") + "]"


def literal(text: str) -> str:
    """A T-SQL text."""
    return "N'" + text.replace("'", "''") + "'"


def _address(server: str | None) -> str:
    own = os.environ.get("LOCALAZURE_SQL_SERVER", "")
    if not own:
        raise SQLAnalyticsConnectorException("This process has no SQL pool: LOCALAZURE_SQL_SERVER is not set.")
    workspace = os.environ.get("LOCALAZURE_WORKSPACE", "")
    known = {own, own.replace(",", ":"), f"{workspace}.sql.azuresynapse.net", f"{workspace}.database.windows.net"}
    if server is not None and server.strip().lower().removeprefix("tcp:") not in {each.lower() for each in known}:
        raise SQLAnalyticsConnectorException(
            f"The server {server!r} can't be reached from localazure: its own is {workspace}.sql.azuresynapse.net"
        )
    return own


def _words(error: Exception) -> str:
    return _PREFIX.sub("", str(error).strip())


def _quoted(value: str) -> str:
    return "{" + value.replace("}", "}}") + "}"
