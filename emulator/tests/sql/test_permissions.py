"""Who may do what: log-ins, users, roles, GRANT and DENY, and what each statement asks of a user.

https://learn.microsoft.com/en-us/sql/relational-databases/security/permissions-hierarchy-database-engine
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from localazure.sql import logins
from localazure.sql.pool import Pool, Session
from localazure.sql.principals import Identity
from localazure.sql.results import SqlError
from localazure.sql.serverless import Serverless

from .conftest import make_pool, make_serverless, rows, run

PASSWORD = "local-only~Secret1"

FIXTURE = (
    "CREATE SCHEMA mart",
    "CREATE TABLE dbo.t (a int, b int, c varchar(5)); INSERT INTO dbo.t VALUES (1, 2, 'x'), (3, 4, 'y')",
    "CREATE TABLE mart.u (a int); INSERT INTO mart.u VALUES (7)",
    "CREATE VIEW dbo.v AS SELECT a FROM dbo.t",
    "CREATE VIEW dbo.both_schemas AS SELECT t.a FROM dbo.t CROSS JOIN mart.u",
    "CREATE PROCEDURE dbo.p AS INSERT INTO dbo.t VALUES (9, 9, 'p'); SELECT COUNT(*) AS n FROM dbo.t",
    "CREATE PROCEDURE dbo.dynamic AS EXEC('SELECT COUNT(*) AS n FROM dbo.t')",
    "CREATE FUNCTION dbo.twice(@x int) RETURNS int AS BEGIN RETURN @x * 2 END",
    "CREATE FUNCTION dbo.above(@x int) RETURNS TABLE AS RETURN (SELECT a FROM dbo.t WHERE a > @x)",
    "CREATE USER reader WITHOUT LOGIN",
)


def as_user(session: Session, name: str, batch: str) -> int:
    """The number of the error that ``batch`` ends in for this user; 0 when it goes through."""
    run(session, f"EXECUTE AS USER = '{name}'")
    try:
        run(session, batch)
    except SqlError as error:
        return error.number
    finally:
        run(session, "REVERT")
    return 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session of the administrator on tables of which ``reader`` may do nothing."""
    made = make_pool(tmp_path_factory.mktemp("permissions"))
    session = made.session("sqladmin")
    for batch in FIXTURE:
        run(session, batch)
    yield session
    made.close()


@pytest.fixture
def granted(shared: Session) -> Iterator[Session]:
    """The same; what a test says of ``reader`` is taken back."""
    yield shared
    run(shared, "DROP USER reader; CREATE USER reader WITHOUT LOGIN; DELETE FROM dbo.t WHERE a > 3")


# (statement, the error for who holds nothing, what makes it go through; empty: nothing short of ownership is tried)
STATEMENTS: list[tuple[str, int, str]] = [
    ("SELECT a FROM dbo.t", 229, "GRANT SELECT ON dbo.t TO reader"),
    ("SELECT a FROM dbo.t", 229, "GRANT SELECT ON SCHEMA::dbo TO reader"),
    ("SELECT a FROM dbo.t", 229, "GRANT SELECT TO reader"),
    ("SELECT a FROM dbo.t", 229, "GRANT CONTROL ON DATABASE::dw TO reader"),
    ("SELECT a FROM dbo.t", 229, "ALTER ROLE db_datareader ADD MEMBER reader"),
    ("SELECT a FROM dbo.t", 229, "GRANT SELECT ON dbo.t TO public"),
    ("SELECT a FROM dbo.v", 229, "GRANT SELECT ON dbo.v TO reader"),
    ("WITH x AS (SELECT a FROM dbo.t) SELECT 1 FROM x WHERE EXISTS (SELECT 1 FROM x)", 229, "GRANT SELECT TO reader"),
    ("SELECT COUNT(*) FROM dbo.t", 229, "GRANT SELECT ON dbo.t(a) TO reader"),
    ("SELECT * FROM dbo.above(1)", 229, "GRANT SELECT ON dbo.above TO reader"),
    ("SELECT dbo.twice(2)", 229, "GRANT EXECUTE ON dbo.twice TO reader"),
    ("DECLARE @n int = (SELECT MAX(a) FROM dbo.t)", 229, "GRANT SELECT ON dbo.t TO reader"),
    ("EXEC dbo.p", 229, "GRANT EXECUTE ON SCHEMA::dbo TO reader"),
    ("INSERT INTO dbo.t VALUES (5, 5, 'i')", 229, "ALTER ROLE db_datawriter ADD MEMBER reader"),
    ("UPDATE dbo.t SET b = 2", 229, "GRANT UPDATE ON dbo.t(b) TO reader"),
    ("UPDATE dbo.t SET b = a + 1", 229, "GRANT SELECT, UPDATE ON dbo.t TO reader"),
    ("DELETE FROM dbo.t WHERE a = 99", 229, "GRANT SELECT, DELETE ON dbo.t TO reader"),
    ("CREATE TABLE mart.mine (a int); DROP TABLE mart.mine", 262,
     "GRANT CREATE TABLE TO reader; GRANT ALTER ON SCHEMA::mart TO reader"),
    ("CREATE TABLE mart.mine (a int); DROP TABLE mart.mine", 262, "ALTER ROLE db_ddladmin ADD MEMBER reader"),
    ("CREATE SCHEMA own; DROP SCHEMA own", 262, "GRANT CREATE SCHEMA TO reader"),
    ("CREATE STATISTICS st ON dbo.t (a); DROP STATISTICS dbo.t.st", 1088, "GRANT ALTER ON dbo.t TO reader"),
    ("ALTER TABLE dbo.t ADD d int; ALTER TABLE dbo.t DROP COLUMN d", 1088, "GRANT CONTROL ON dbo.t TO reader"),
    ("DROP VIEW dbo.v", 3701, ""),
    ("TRUNCATE TABLE dbo.t", 1088, ""),
    ("CREATE EXTERNAL DATA SOURCE d WITH (LOCATION = 'https://acct.dfs.core.windows.net/lake'); "
     "DROP EXTERNAL DATA SOURCE d", 15247, "GRANT ALTER ANY EXTERNAL DATA SOURCE TO reader"),
    ("CREATE USER another WITHOUT LOGIN; DROP USER another", 15247, "GRANT ALTER ANY USER TO reader"),
    ("CREATE ROLE another; DROP ROLE another", 15247, "ALTER ROLE db_securityadmin ADD MEMBER reader"),
    ("ALTER ROLE db_owner ADD MEMBER reader", 15151, ""),
    ("GRANT SELECT ON dbo.t TO public; REVOKE SELECT ON dbo.t FROM public", 15151,
     "GRANT SELECT ON dbo.t TO reader WITH GRANT OPTION"),
    ("SELECT COUNT(*) FROM sys.dm_pdw_exec_requests", 262, "GRANT VIEW DATABASE STATE TO reader"),
    ("EXPLAIN SELECT 1 AS a", 262, "GRANT SHOWPLAN TO reader"),
    ("KILL 'SID99999'", 6102, "GRANT KILL DATABASE CONNECTION TO reader"),
    ("DBCC DROPCLEANBUFFERS", 2571, "ALTER ROLE db_owner ADD MEMBER reader"),
    ("ALTER DATABASE dw SET RESULT_SET_CACHING OFF", 5011, "GRANT ALTER TO reader"),
    ("CREATE MASTER KEY", 15247, ""),
    ("CREATE TABLE #own (a int); INSERT INTO #own VALUES (1); SELECT * FROM #own; DROP TABLE #own", 0, ""),
    ("SELECT name FROM sys.tables; SELECT session_id FROM sys.dm_exec_sessions", 0, ""),
]  # fmt: skip


@pytest.mark.parametrize(("batch", "number", "grant"), STATEMENTS)
def test_a_statement_asks_for_its_permission(granted: Session, batch: str, number: int, grant: str) -> None:
    assert as_user(granted, "reader", batch) == number
    if not grant:
        return
    run(granted, grant)
    try:
        assert as_user(granted, "reader", batch) == 0
    finally:
        run(granted, "REVOKE SELECT ON dbo.t FROM public CASCADE")


def test_a_denial_wins_but_over_owners(granted: Session) -> None:
    run(granted, "ALTER ROLE db_owner ADD MEMBER reader; DENY SELECT ON dbo.t TO reader; DENY DELETE TO reader")
    assert as_user(granted, "reader", "SELECT a FROM dbo.t") == 229
    assert as_user(granted, "reader", "DELETE FROM mart.u") == 229
    assert as_user(granted, "reader", "INSERT INTO dbo.t VALUES (9, 9, 'd')") == 0
    run(granted, "DENY SELECT ON dbo.t TO public")
    assert len(rows(granted, "SELECT a FROM dbo.t")) == 3, "nothing is denied to dbo"
    run(granted, "REVOKE SELECT ON dbo.t FROM public; REVOKE SELECT ON dbo.t FROM reader")
    assert as_user(granted, "reader", "SELECT a FROM dbo.t") == 0
    run(granted, "ALTER ROLE db_denydatareader ADD MEMBER reader")
    assert as_user(granted, "reader", "SELECT a FROM dbo.t") == 229
    run(granted, "ALTER AUTHORIZATION ON SCHEMA::mart TO reader")
    assert as_user(granted, "reader", "SELECT a FROM mart.u") == 0, "the owner of a schema can't be denied what's in it"
    with pytest.raises(SqlError) as caught:
        run(granted, "DROP USER reader")
    assert caught.value.number == 15138
    run(granted, "ALTER AUTHORIZATION ON SCHEMA::mart TO dbo")


def test_columns(granted: Session) -> None:
    run(granted, "GRANT SELECT ON dbo.t(a, b) TO reader; GRANT UPDATE, DELETE ON dbo.t TO reader")
    for batch in ("SELECT a, b FROM dbo.t ORDER BY b", "UPDATE dbo.t SET c = 'x' WHERE a = 1", "SELECT a FROM dbo.v"):
        assert as_user(granted, "reader", batch) == (229 if "dbo.v" in batch else 0), batch
    for batch in (
        "SELECT * FROM dbo.t",
        "SELECT x.c FROM dbo.t x",
        "SELECT a FROM dbo.t WHERE c = 'x'",
        "SELECT a FROM dbo.t ORDER BY c",
        "SELECT COUNT(*) FROM dbo.t GROUP BY c",
        "SELECT a FROM dbo.t t WHERE EXISTS (SELECT 1 FROM (VALUES (1)) v(k) WHERE t.c = 'x')",
        "UPDATE dbo.t SET a = LEN(c)",
        "DELETE FROM dbo.t WHERE c = 'x'",
        "SELECT p.[1] FROM (SELECT a, b, c FROM dbo.t) s PIVOT (MAX(b) FOR a IN ([1])) p",
        "SELECT * FROM dbo.t s PIVOT (MAX(b) FOR a IN ([1])) p",
    ):
        assert as_user(granted, "reader", batch) == 230, batch
    run(
        granted,
        "REVOKE SELECT ON dbo.t FROM reader; GRANT SELECT ON dbo.t TO reader; DENY SELECT ON dbo.t(c) TO reader",
    )
    assert as_user(granted, "reader", "SELECT a FROM dbo.t") == 0
    assert as_user(granted, "reader", "SELECT c FROM dbo.t") == 230
    run(granted, "RENAME OBJECT dbo.t COLUMN c TO d")
    assert as_user(granted, "reader", "SELECT d FROM dbo.t") == 230, "the denial follows the column's name"
    run(granted, "RENAME OBJECT dbo.t COLUMN d TO c")


def test_an_owner_s_chain_opens_what_a_view_or_a_procedure_uses(granted: Session) -> None:
    run(granted, "GRANT SELECT ON dbo.both_schemas TO reader; GRANT EXECUTE ON SCHEMA::dbo TO reader")
    assert as_user(granted, "reader", "SELECT a FROM dbo.both_schemas") == 0
    assert as_user(granted, "reader", "DENY INSERT ON dbo.t TO reader") == 4624
    run(granted, "DENY INSERT ON dbo.t TO reader")
    assert as_user(granted, "reader", "EXEC dbo.p") == 0, "inside the chain nothing is asked, not even for denials"
    assert as_user(granted, "reader", "EXEC dbo.dynamic") == 229, "dynamic SQL is outside of it"
    run(granted, "CREATE USER keeper WITHOUT LOGIN; ALTER AUTHORIZATION ON SCHEMA::mart TO keeper")
    assert as_user(granted, "reader", "SELECT a FROM dbo.both_schemas") == 229, "another owner breaks the chain"
    assert as_user(granted, "keeper", "SELECT a FROM mart.u") == 0
    run(granted, "ALTER AUTHORIZATION ON SCHEMA::mart TO dbo; DROP USER keeper")


def test_roles_hold_roles(granted: Session) -> None:
    run(granted, "CREATE ROLE inner_role; CREATE ROLE outer_role; GRANT SELECT ON SCHEMA::mart TO outer_role")
    run(granted, "ALTER ROLE outer_role ADD MEMBER inner_role; ALTER ROLE inner_role ADD MEMBER reader")
    assert as_user(granted, "reader", "SELECT a FROM mart.u") == 0
    with pytest.raises(SqlError) as caught:
        run(granted, "ALTER ROLE inner_role ADD MEMBER outer_role")
    assert caught.value.number == 15413
    run(granted, "EXECUTE AS USER = 'reader'")
    assert rows(granted, "SELECT IS_MEMBER('outer_role'), IS_MEMBER('db_owner'), IS_MEMBER('nothing')") == [
        (1, 0, None)
    ]
    assert rows(granted, "SELECT name FROM sys.tables ORDER BY name") == [("u",)], "the rest of the catalogue is hidden"
    assert rows(granted, "SELECT OBJECT_ID('dbo.t'), OBJECT_NAME(OBJECT_ID('mart.u'))") == [(None, "u")]
    run(granted, "REVERT")
    run(granted, "ALTER ROLE inner_role DROP MEMBER reader; DROP ROLE inner_role")
    run(granted, "DROP ROLE outer_role")


def test_what_was_granted_on_an_object_goes_with_it(granted: Session) -> None:
    run(granted, "CREATE TABLE dbo.gone (a int); GRANT SELECT ON dbo.gone TO reader; DROP TABLE dbo.gone")
    run(granted, "CREATE TABLE dbo.gone (a int)")
    assert as_user(granted, "reader", "SELECT a FROM dbo.gone") == 229
    run(granted, "DROP TABLE dbo.gone")
    left = "SELECT permission_name FROM sys.database_permissions WHERE grantee_principal_id = USER_ID('reader')"
    assert rows(granted, left) == [("CONNECT",)]


def test_bulk_loads_and_prepared_statements_ask_as_well(granted: Session) -> None:
    data = pa.table({"a": [11], "b": [1], "c": ["b"]})
    run(granted, "EXECUTE AS USER = 'reader'")
    for call in (
        lambda: granted.bulk_load("dbo.t", ["a", "b", "c"], data),
        lambda: granted.describe("SELECT a FROM dbo.t"),
        lambda: run(granted, "SET IDENTITY_INSERT dbo.t ON"),
    ):
        with pytest.raises(SqlError) as caught:
            call()  # type: ignore[no-untyped-call]
        assert caught.value.number == 229
    run(granted, "REVERT")


def test_a_statement_compiled_for_one_is_asked_again_for_another(granted: Session) -> None:
    text = "SELECT a FROM dbo.t ORDER BY a"
    assert rows(granted, text) == [(1,), (3,)]
    assert as_user(granted, "reader", text) == 229
    run(granted, "GRANT SELECT ON dbo.t TO reader")
    assert as_user(granted, "reader", text) == 0
    run(granted, "REVOKE SELECT ON dbo.t FROM reader")
    assert as_user(granted, "reader", text) == 229


# ---- log-ins --------


def test_a_log_in_from_its_making_to_its_end(tmp_path: Path) -> None:
    """permissions: a log-in (docs/parity.md)"""
    pool = make_pool(tmp_path)
    master = pool.session("sqladmin", database="master")
    with pytest.raises(SqlError) as caught:
        run(master, "CREATE LOGIN reader WITH PASSWORD = 'reader'")
    assert caught.value.number == 40632
    run(master, f"CREATE LOGIN reader WITH PASSWORD = '{PASSWORD}'")
    for batch, number in (
        (f"CREATE LOGIN reader WITH PASSWORD = '{PASSWORD}'", 15025),
        ("CREATE TABLE dbo.t (a int)", 262),
        ("CREATE LOGIN [a@b.c] FROM EXTERNAL PROVIDER", 103010),
    ):
        with pytest.raises(SqlError) as caught:
            run(master, batch)
        assert caught.value.number == number
    assert logins.sign_in(pool.master_pool, "reader", "wrong") is None
    assert logins.sign_in(pool.master_pool, "nobody", PASSWORD) is None
    who = logins.sign_in(pool.master_pool, "READER", PASSWORD)
    assert who == Identity("reader")
    with pytest.raises(SqlError) as caught:
        pool.session(who)
    assert caught.value.number == 4060, "a log-in without a user has no business in the database"
    admin = pool.session("sqladmin")
    run(admin, "CREATE USER reading FOR LOGIN reader; ALTER ROLE db_datareader ADD MEMBER reading")
    assert _number(admin, "CREATE USER twice FOR LOGIN reader") == 15063
    commands = [text for (text,) in rows(admin, "SELECT command FROM sys.dm_pdw_exec_requests")]
    assert "CREATE LOGIN reader WITH PASSWORD = '***'" in commands
    assert PASSWORD not in str(commands)
    pool.close()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]

    pool = make_pool(tmp_path)  # after a restart
    who = logins.sign_in(pool.master_pool, "reader", PASSWORD)
    assert who is not None
    session, master = pool.session(who), pool.session("sqladmin", database="master")
    answer = rows(
        session, "SELECT CURRENT_USER, SUSER_SNAME(), IS_MEMBER('db_datareader'), IS_SRVROLEMEMBER('sysadmin')"
    )
    assert answer == [("reading", "reader", 1, 0)]
    assert _number(master, "DROP LOGIN reader") == 15434
    own = pool.session(who, database="master")
    assert _number(own, "ALTER LOGIN reader WITH PASSWORD = 'Other~Word22'") == 15151
    run(own, f"ALTER LOGIN reader WITH PASSWORD = 'Other~Word22' OLD_PASSWORD = '{PASSWORD}'")
    assert rows(own, "SELECT name FROM sys.sql_logins") == [("reader",)]
    assert logins.sign_in(pool.master_pool, "reader", PASSWORD) is None
    run(master, "ALTER LOGIN reader DISABLE")
    assert logins.sign_in(pool.master_pool, "reader", "Other~Word22") is None
    run(master, "ALTER LOGIN reader ENABLE")
    assert logins.sign_in(pool.master_pool, "reader", "Other~Word22") is not None
    admin = pool.session("sqladmin")
    run(admin, "DENY CONNECT TO reading")
    with pytest.raises(SqlError):
        pool.session(who)
    session.close()
    own.close()
    run(master, "DROP LOGIN reader")
    assert rows(master, "SELECT name FROM sys.server_principals") == [("sqladmin",), ("sysadmin",)]
    pool.close()


def _number(session: Session, batch: str) -> int:
    with pytest.raises(SqlError) as caught:
        run(session, batch)
    return caught.value.number


def test_who_a_token_names(pool: Pool, session: Session) -> None:
    """A user FROM EXTERNAL PROVIDER is whom a token of that name shows."""
    somebody = Identity("adf-mi", external=True)
    with pytest.raises(SqlError) as caught:
        pool.session(somebody)
    assert caught.value.number == 4060
    run(
        session,
        "CREATE TABLE dbo.t (a int); CREATE USER [adf-mi] FROM EXTERNAL PROVIDER; GRANT INSERT ON dbo.t TO [adf-mi]",
    )
    opened = pool.session(somebody)
    run(opened, "INSERT INTO dbo.t VALUES (1)")
    assert _number(opened, "SELECT a FROM dbo.t") == 229
    assert _number(opened, "EXECUTE AS USER = 'dbo'") == 15517


# ---- serverless --------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serverless]:
    made = make_serverless(tmp_path, "demo")
    made.create("other", "", 1)
    admin = made.session("sqladmin")
    run(admin, f"CREATE LOGIN reader WITH PASSWORD = '{PASSWORD}'")
    for batch in (
        "USE other",
        "CREATE VIEW dbo.seven AS SELECT 7 AS a",
        "USE demo",
        "CREATE VIEW dbo.one AS SELECT 1 AS a",
        "CREATE VIEW dbo.across AS SELECT a FROM other.dbo.seven",
        "CREATE USER reader FOR LOGIN reader; GRANT SELECT ON SCHEMA::dbo TO reader",
    ):
        run(admin, batch)
    yield made
    made.close()


def test_databases_of_a_serverless_pool(server: Serverless) -> None:
    who = logins.sign_in(server.master, "reader", PASSWORD)
    assert who is not None
    session, admin = server.session(who, database="demo"), server.session("sqladmin", database="other")
    assert rows(session, "SELECT a FROM dbo.one") == [(1,)]
    for batch in ("USE other", "SELECT a FROM other.dbo.seven", "SELECT a FROM dbo.across"):
        assert _number(session, batch) == 916, batch
    with pytest.raises(SqlError) as caught:
        server.session(who, database="other")
    assert caught.value.number == 4060
    run(admin, "CREATE USER reader FOR LOGIN reader")
    assert _number(session, "SELECT a FROM dbo.across") == 229, "a chain ends at the database"
    run(admin, "GRANT SELECT ON dbo.seven TO reader")
    assert rows(session, "SELECT a FROM dbo.across") == [(7,)]
    for batch, number in (
        ("CREATE VIEW dbo.mine AS SELECT 1 AS a", 262),
        ("CREATE DATABASE more", 262),
        ("DROP DATABASE other", 3701),
        ("EXEC sp_set_data_processed_limit @type = N'daily', @limit_tb = 1", 15247),
    ):
        assert _number(session, batch) == number, batch
    run(session, "USE other")
    assert rows(session, "SELECT a FROM dbo.seven") == [(7,)]
    run(session, "USE master")
    assert rows(session, "SELECT CURRENT_USER") == [("guest",)]
    assert _number(session, "CREATE LOGIN more WITH PASSWORD = 'local-only~More11'") == 15247
    run(admin, "ALTER SERVER ROLE sysadmin ADD MEMBER reader")
    assert rows(session, "SELECT CURRENT_USER, IS_SRVROLEMEMBER('sysadmin')") == [("dbo", 1)]
    run(admin, "ALTER SERVER ROLE sysadmin DROP MEMBER reader")
    assert rows(session, "SELECT CURRENT_USER") == [("guest",)]


def test_permissions_of_a_serverless_server(server: Serverless) -> None:
    who = logins.sign_in(server.master, "reader", PASSWORD)
    assert who is not None
    session, admin = server.session(who), server.session("sqladmin")
    assert _number(session, "USE other") == 916
    assert _number(session, "GRANT CONNECT ANY DATABASE TO reader") == 15151
    run(admin, "GRANT CONNECT ANY DATABASE TO reader")
    run(session, "USE other")
    assert _number(session, "SELECT a FROM dbo.seven") == 229
    run(admin, "GRANT SELECT ALL USER SECURABLES TO reader")
    assert rows(session, "SELECT a FROM dbo.seven") == [(7,)]
    assert rows(session, "SELECT a FROM demo.dbo.across") == [(7,)]
    shown = rows(session, "SELECT permission_name FROM sys.server_permissions ORDER BY permission_name")
    assert shown == [("CONNECT ANY DATABASE",), ("CONNECT SQL",), ("SELECT ALL USER SECURABLES",)]
    members = "SELECT COUNT(*) FROM sys.server_role_members m JOIN sys.server_principals p ON p.principal_id = "
    assert rows(admin, f"{members} m.member_principal_id WHERE p.name = 'sqladmin'") == [(1,)]
    run(admin, "REVOKE CONNECT ANY DATABASE, SELECT ALL USER SECURABLES FROM reader")
    assert _number(session, "SELECT a FROM dbo.seven") == 916
    assert _number(admin, "GRANT SHUTDOWN TO reader") == 102
    assert _number(admin, "DENY CONTROL SERVER TO reader") == 40517


def test_reading_by_a_credential_takes_references_on_it(server: Serverless, tmp_path: Path) -> None:
    folder: Any = tmp_path / "lake" / "lake"
    (folder / "one.csv").write_text("1\n")
    admin = server.session("sqladmin", database="demo")
    run(admin, "CREATE DATABASE SCOPED CREDENTIAL msi WITH IDENTITY = 'Managed Identity'")
    run(
        admin,
        "CREATE EXTERNAL DATA SOURCE lake WITH (LOCATION = 'https://acct.dfs.core.windows.net/lake', CREDENTIAL = msi)",
    )
    run(admin, "GRANT ADMINISTER DATABASE BULK OPERATIONS TO reader")
    query = "SELECT a FROM OPENROWSET(BULK 'one.csv', DATA_SOURCE = 'lake', FORMAT = 'CSV') WITH (a int) AS r"
    assert as_user(admin, "reader", query) == 15151
    run(admin, "GRANT REFERENCES ON DATABASE SCOPED CREDENTIAL::msi TO reader")
    assert as_user(admin, "reader", query) == 0
