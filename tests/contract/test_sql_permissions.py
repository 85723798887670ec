"""A log-in that may read and not write, through client libraries: who it is, what it gets, how it is refused."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from tds_clients import Client, ClientError, clients

pytestmark = pytest.mark.evidence("sdk")

#: Of each library the class of its exception for error 229: a statement that may not be run.
REFUSED = {
    "mssql-python-rust": "ProgrammingError",
    "pymssql": "OperationalError",
    "python-tds": "OperationalError",
    "sqlalchemy": "ProgrammingError",
}
MAKE = (
    "IF OBJECT_ID('dbo.wire_secret') IS NOT NULL DROP TABLE dbo.wire_secret",
    "IF OBJECT_ID('dbo.wire_open') IS NOT NULL DROP TABLE dbo.wire_open",
    "CREATE TABLE dbo.wire_secret (name varchar(20), salary int)",
    "CREATE TABLE dbo.wire_open (n int)",
    "INSERT INTO dbo.wire_secret VALUES ('Ann', 100)",
    "INSERT INTO dbo.wire_open VALUES (1)",
    "CREATE USER wire_reader FOR LOGIN wire_reader",
    "EXEC sp_addrolemember 'db_datareader', 'wire_reader'",
    "DENY SELECT ON OBJECT::dbo.wire_secret(salary) TO wire_reader",
)
END = ("DROP USER IF EXISTS wire_reader", "DROP TABLE dbo.wire_secret", "DROP TABLE dbo.wire_open")


@pytest.fixture(scope="module")
def reader(localazure: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """connection.json of a log-in of its own, a member of db_datareader; and of the serverless pool too."""
    password = f"Pw~{secrets.token_urlsafe(12)}1a"
    make = f"CREATE LOGIN wire_reader WITH PASSWORD = '{password}'"
    serverless = {**localazure, "sql_server": localazure["sql_server_ondemand"]}
    for server in (localazure, serverless):
        for master in clients("pymssql", server, database="master"):
            assert master.query("SELECT DB_NAME()") == [("master",)]
            if master.query("SELECT name FROM sys.sql_logins WHERE name = 'wire_reader'"):
                master.run("DROP LOGIN wire_reader")
            master.run(make)
    for admin in clients("pymssql", localazure):
        admin.run(END[0], *MAKE)
        yield {**localazure, "sql_login": "wire_reader", "sql_password": password}
        admin.run(*END)
    for server in (localazure, serverless):
        for master in clients("pymssql", server, database="master"):
            master.run("DROP LOGIN wire_reader")


@pytest.mark.parametrize("kind", REFUSED)
def test_a_reader_reads_and_writes_nothing(reader: dict[str, Any], kind: str) -> None:
    for client in clients(kind, reader):
        assert client.query("SELECT CURRENT_USER, SUSER_SNAME(), IS_MEMBER('db_datareader')") == [
            ("wire_reader", "wire_reader", 1)
        ]
        assert client.query("SELECT n FROM dbo.wire_open WHERE n = ?", [1]) == [(1,)]
        for number, statement in (
            (229, "INSERT INTO dbo.wire_open VALUES (2)"),
            (229, "DELETE FROM dbo.wire_open WHERE n = 1"),
            (230, "SELECT salary FROM dbo.wire_secret"),
            (262, "CREATE TABLE dbo.wire_mine (a int)"),
            (15247, "CREATE USER wire_other WITHOUT LOGIN"),
        ):
            _refused(client, number, statement)
        assert client.query("SELECT name FROM dbo.wire_secret") == [("Ann",)], "the session goes on"
        if kind == "mssql-python-rust":
            assert "INSERT permission was denied" in client.fails("bulk", "dbo.wire_open", [[5]]).text
        if kind == "sqlalchemy":
            assert client.inspect("dbo", "wire_open") == [("n", "INTEGER", True)]


def _refused(client: Client, number: int, statement: str) -> None:
    failure = client.fails("run" if statement.startswith("CREATE") else "execute", statement)
    client.rollback()
    words = {
        229: "permission was denied on the object 'wire_open'",
        230: "The SELECT permission was denied on the column 'salary' of the object 'wire_secret'",
        262: "CREATE TABLE permission denied in database",
        15247: "User does not have permission to perform this action.",
    }
    assert words[number] in failure.text, failure
    assert REFUSED[client.kind] in failure.classes, failure
    if client.kind == "pymssql":  # the one that tells the number
        assert str(number) in failure.text, failure


def test_a_log_in_is_nobody_where_it_has_no_user(reader: dict[str, Any], localazure: dict[str, Any]) -> None:
    serverless = {**reader, "sql_server": localazure["sql_server_ondemand"]}
    for client in clients("pymssql", serverless, database="master"):
        assert client.query("SELECT CURRENT_USER, IS_SRVROLEMEMBER('sysadmin')") == [("guest", 0)]
        assert "15247" in client.fails("run", "CREATE LOGIN more WITH PASSWORD = 'Pw~local-only1'").text
    with pytest.raises(ClientError) as caught:
        Client("pymssql", {**reader, "sql_password": "wrong"})
    assert "18456" in caught.value.failure.text
