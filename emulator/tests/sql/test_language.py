"""Control of flow, variables, errors with their lines, transactions, procedures."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from localazure.sql.pool import Pool, Session
from localazure.sql.results import Message, Parameter, RowsAffected, SqlError, SqlType, TransactionChange

from .conftest import rows, run


@pytest.mark.parametrize(
    ("batch", "number", "line"),
    [
        ("SELECT 1\nSELECT * FROM nowhere", 208, 2),
        ("SELECT 1;\n\nSELECT nothing FROM dbo.t", 207, 3),
        ("SELECT\nFROM WHERE", 102, 2),
        ("SELECT 'open", 105, 1),
        ("SELECT 1 /* open", 113, 1),
        ("SELECT CAST('abc' AS int)", 245, 1),
        ("SELECT CAST('abc' AS decimal(5,2))", 8114, 1),
        ("SELECT CAST('x' AS date)", 241, 1),
        ("SELECT 1\n/ 0", 8134, 1),
        ("SELECT 1.0 / 0", 8134, 1),
        ("SELECT CAST(1 AS float) / 0", 8134, 1),
        ("SELECT CAST(300 AS tinyint)", 8115, 1),
        ("SELECT 2147483647 + 1", 8115, 1),
        ("INSERT INTO dbo.t (a, b) VALUES (NULL, 'x')", 515, 1),
        ("INSERT INTO dbo.t (a, b) VALUES (1, 'too long')", 8152, 1),
        ("INSERT INTO dbo.t VALUES (1)", 213, 1),
        ("CREATE TABLE dbo.t (a int)", 2714, 1),
        ("CREATE TABLE nowhere.t (a int)", 2760, 1),
        ("DROP TABLE dbo.gone", 3701, 1),
        ("SELECT @x", 137, 1),
        ("SELECT frobnicate(1)", 195, 1),
        ("SELECT LEN('a', 'b')", 174, 1),
        ("EXEC dbo.gone", 2812, 1),
        ("SELECT a, COUNT(*) FROM dbo.t", 8120, 1),
        ("SELECT a FROM dbo.t UNION SELECT 1, 2", 205, 1),
        ("SELECT x.a FROM dbo.t", 4104, 1),
        ("SELECT a FROM dbo.t x, dbo.t y", 209, 1),
        ("SELECT (SELECT a FROM (VALUES (1),(2)) v(a))", 512, 1),
        ("SELECT 'a' - 'b'", 402, 1),
        ("SELECT CAST('2024-01-01' AS date) + 1", 206, 1),
        ("SELECT 1 WHERE 1", 4145, 1),
        ("COMMIT", 3902, 1),
        ("ROLLBACK", 3903, 1),
        ("BREAK", 135, 1),
        ("SELECT * FROM (SELECT 1) x", 8155, 1),
        ("SELECT * FROM (SELECT 1 AS a, 2 AS a) x", 8156, 1),
        ("CREATE TABLE dbo.k (a int PRIMARY KEY)", 104467, 1),
        ("CREATE TABLE dbo.k (a xml)", 2715, 1),
    ],
)
def test_errors_have_the_vendors_number_and_line(steady: Session, batch: str, number: int, line: int) -> None:
    with pytest.raises(SqlError) as caught:
        run(steady, batch)
    assert (caught.value.number, caught.value.line) == (number, line), str(caught.value)


@pytest.mark.parametrize(
    "batch",
    [
        "SELECT a FROM dbo.t ORDER BY a OFFSET 1 ROWS",
        "SELECT a FROM dbo.t FOR JSON AUTO",
        "DECLARE @t TABLE (a int)",
        "SELECT CHOOSE(1, 'a')",
        "GOTO done",
        "WAITFOR DELAY '00:00:01'",
        "SELECT * FROM OPENROWSET(BULK 'x', FORMAT = 'CSV') r",
        "INSERT INTO dbo.t EXEC dbo.p",
        "BEGIN TRAN one",
        "SAVE TRAN one",
        "RETURN",
        "CREATE PROCEDURE dbo.p @a int = 1 AS SELECT @a",
        "WITH r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
        "SELECT @@IDENTITY",
        "CREATE TRIGGER x",
    ],
)
def test_what_a_dedicated_pool_refuses_is_refused(steady: Session, batch: str) -> None:
    with pytest.raises(SqlError) as caught:
        run(steady, batch)
    assert caught.value.number in {103010, 102}, str(caught.value)


@pytest.mark.parametrize(
    "batch",
    [
        "SELECT 1 LIMIT 1",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT read_text('/etc/passwd')",
        "SELECT 'a' || 'b'",
        "SELECT 1::int",
        "PRAGMA version",
        "ATTACH 'x'",
        "INSTALL httpfs",
        "COPY (SELECT 1) TO 'x'",
        "SELECT * FROM duckdb_settings()",
        'SELECT * FROM "$catalog".entries',
        "SELECT * FROM pg_catalog.pg_class",
        "SELECT getenv('HOME')",
        "SET lock_configuration = false",
        "SELECT 1 QUALIFY 1 = 1",
        "SELECT \"$tsql\".try_int('1')",
        "EXPORT DATABASE 'x'",
        "CALL pragma_version()",
    ],
)
def test_duckdb_is_out_of_reach(steady: Session, batch: str) -> None:
    """No word of DuckDB's language or catalogue gets through."""
    with pytest.raises(SqlError):
        run(steady, batch)


def test_files_stay_shut_even_for_duckdb_itself(pool: Pool) -> None:
    """The second wall: the engine under the compiler has no access and can't be given it."""
    import duckdb

    with pytest.raises(duckdb.Error, match="disabled by configuration"):
        pool.engine.connection.execute("SELECT * FROM read_csv('/etc/passwd')")
    with pytest.raises(duckdb.Error, match="locked"):
        pool.engine.connection.execute("SET enable_external_access = true")


def test_statements_need_no_semicolons(session: Session) -> None:
    batch = (
        "DECLARE @a int = 1 SET @a += 1 IF @a = 2 SELECT 'two' AS r ELSE SELECT 'other' AS r SELECT @a AS a WHERE 1 = 1"
    )
    found = [result for result in run(session, batch) if hasattr(result, "table")]
    assert [[column.name for column in result.columns] for result in found] == [["r"], ["a"]]


def test_while_break_and_print(session: Session) -> None:
    found = run(session, "DECLARE @i int = 0 WHILE 1 = 1 BEGIN SET @i += 1; IF @i > 3 BREAK; PRINT CONCAT('n', @i) END")
    assert [message.text for message in found if isinstance(message, Message)] == ["n1", "n2", "n3"]


def test_try_catch_and_rethrow(session: Session) -> None:
    batch = """BEGIN TRY
      SELECT CAST('x' AS int)
    END TRY
    BEGIN CATCH
      SELECT ERROR_NUMBER(), ERROR_SEVERITY(), XACT_STATE();
      THROW
    END CATCH"""
    results = session.execute(batch)
    assert next(iter(results)).table.to_pylist() == [{"c1": 245, "c2": 16, "c3": 0}]  # type: ignore[union-attr]
    with pytest.raises(SqlError) as caught:
        list(results)
    assert (caught.value.number, caught.value.line) == (245, 2)


def test_throw_and_raiserror(session: Session) -> None:
    with pytest.raises(SqlError) as caught:
        run(session, "SELECT 1\nTHROW 100001, 'stop here', 7")
    assert (caught.value.number, caught.value.message, caught.value.state, caught.value.line) == (
        100001,
        "stop here",
        7,
        2,
    )
    with pytest.raises(SqlError) as caught:
        run(session, "RAISERROR('%s has %d rows', 16, 1, 't', 5)")
    assert (caught.value.number, caught.value.message) == (50000, "t has 5 rows")
    assert run(session, "RAISERROR('careful', 10, 1)") == [Message(50000, 1, 10, "careful", 1)]


def test_transactions(pool: Pool, session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int NOT NULL)")
    other = pool.session("other")
    assert run(session, "BEGIN TRAN") == [TransactionChange("begin")]
    run(session, "INSERT INTO dbo.t VALUES (1)")
    assert session.transaction_count == 1
    assert rows(other, "SELECT COUNT(*) FROM dbo.t") == [(0,)]
    assert run(session, "COMMIT") == [TransactionChange("commit")]
    assert rows(other, "SELECT COUNT(*) FROM dbo.t") == [(1,)]
    session.begin()
    run(session, "DELETE FROM dbo.t")
    session.rollback()
    assert rows(session, "SELECT COUNT(*), @@TRANCOUNT FROM dbo.t") == [(1, 0)]


def test_a_transaction_that_only_reads_sees_what_others_commit(pool: Pool, session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int)")
    other = pool.session("other")
    run(session, "BEGIN TRAN")
    assert rows(session, "SELECT COUNT(*) FROM dbo.t") == [(0,)]
    run(other, "INSERT INTO dbo.t VALUES (1)")
    assert rows(session, "SELECT COUNT(*) FROM dbo.t") == [(1,)]
    run(session, "COMMIT")


def test_an_error_dooms_a_transaction_until_it_is_rolled_back(session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int NOT NULL); INSERT INTO dbo.t VALUES (1)")
    run(session, "BEGIN TRAN; DELETE FROM dbo.t")
    with pytest.raises(SqlError) as caught:
        run(session, "INSERT INTO dbo.t SELECT NULL")
    assert caught.value.number == 515
    assert session.doomed
    with pytest.raises(SqlError) as caught:
        run(session, "SELECT COUNT(*) FROM dbo.t")
    assert caught.value.number == 111233
    run(session, "ROLLBACK")
    assert rows(session, "SELECT COUNT(*) FROM dbo.t") == [(1,)]


def test_a_bad_name_dooms_nothing(session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int); BEGIN TRAN; INSERT INTO dbo.t VALUES (1)")
    for batch in ("SELECT * FROM nowhere", "SELECT CAST('x' AS int) WHERE 1 = 2 AND nothing = 1", "SELECT FROM"):
        with pytest.raises(SqlError):
            run(session, batch)
    assert rows(session, "SELECT COUNT(*) FROM dbo.t; COMMIT") == [(1,)]


def test_definitions_are_refused_in_a_transaction(session: Session) -> None:
    run(session, "BEGIN TRAN")
    with pytest.raises(SqlError) as caught:
        run(session, "CREATE TABLE dbo.t (a int)")
    assert caught.value.number == 111212
    run(session, "ROLLBACK; CREATE TABLE dbo.t (a int)")


def test_procedures(session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int)")
    run(
        session,
        "CREATE PROC dbo.fill @from int, @n int OUTPUT AS BEGIN INSERT INTO dbo.t SELECT @from; SET @n = @@ROWCOUNT "
        "END",
    )
    assert rows(
        session, "DECLARE @x int; EXEC dbo.fill @from = 5, @n = @x OUTPUT; SELECT @x, (SELECT MAX(a) FROM dbo.t)"
    ) == [(1, 5)]
    run(session, "ALTER PROCEDURE dbo.fill @from int AS INSERT INTO dbo.t VALUES (@from), (@from)")
    run(session, "EXEC dbo.fill 7")
    assert rows(session, "SELECT COUNT(*) FROM dbo.t WHERE a = 7") == [(2,)]
    with pytest.raises(SqlError) as caught:
        run(session, "EXEC dbo.fill")
    assert caught.value.number == 201
    run(session, "DROP PROCEDURE dbo.fill")


def test_dynamic_sql(session: Session) -> None:
    batch = (
        "DECLARE @n int; EXEC sp_executesql N'SELECT @out = @a + 1', N'@a int, @out int OUTPUT', @a = 4, @out = "
        "@n OUTPUT; SELECT @n"
    )
    assert rows(session, batch) == [(5,)]
    assert rows(session, "DECLARE @t varchar(10) = 'sys.types'; EXEC('SELECT COUNT(*) FROM ' + @t)")[0][0] > 20


PARAMETERS: list[tuple[SqlType, Any, Any]] = [
    (SqlType("int"), 5, 5),
    (SqlType("decimal", precision=10, scale=2), 5, Decimal("5.00")),
    (SqlType("nvarchar", 10), "it's", "it's"),
    (SqlType("date"), "20240229", dt.date(2024, 2, 29)),
    (SqlType("datetime2", scale=6), dt.datetime(2024, 1, 1, 1, 2, 3), dt.datetime(2024, 1, 1, 1, 2, 3)),
    (SqlType("bit"), True, True),
    (SqlType("varbinary", 3), b"\x00\xff", b"\x00\xff"),
    (SqlType("float"), 1, 1.0),
    (SqlType("int"), None, None),
]


@pytest.mark.parametrize(("kind", "value", "expected"), PARAMETERS)
def test_parameters_have_their_declared_type(steady: Session, kind: SqlType, value: Any, expected: Any) -> None:
    result = run(steady, "SELECT @p AS v", Parameter("@p", kind, value))[0]
    assert result.columns[0].type == kind  # type: ignore[union-attr]
    assert result.table.column(0)[0].as_py() == expected  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("batch", "construct"),
    [
        ("CREATE SECURITY POLICY p ADD FILTER PREDICATE dbo.f(a) ON dbo.t WITH (STATE = ON)", "CREATE SECURITY POLICY"),
        ("ALTER SECURITY POLICY p WITH (STATE = OFF)", "ALTER SECURITY POLICY"),
        ("DROP SECURITY POLICY IF EXISTS p", "DROP SECURITY POLICY"),
        ("CREATE CERTIFICATE c WITH SUBJECT = 'x'", "CREATE CERTIFICATE"),
        ("CREATE SYMMETRIC KEY k WITH ALGORITHM = AES_256 ENCRYPTION BY CERTIFICATE c", "CREATE SYMMETRIC KEY"),
        ("DROP SYMMETRIC KEY k", "DROP SYMMETRIC KEY"),
        ("CREATE DATABASE ENCRYPTION KEY WITH ALGORITHM = AES_256", "CREATE DATABASE ENCRYPTION KEY"),
        ("DROP DATABASE ENCRYPTION KEY", "DROP DATABASE ENCRYPTION KEY"),
        ("ALTER DATABASE dw SET ENCRYPTION ON", "ALTER DATABASE SET ENCRYPTION"),
        ("ALTER DATABASE dw MODIFY NAME = other", "ALTER DATABASE MODIFY NAME"),
        ("ALTER AUTHORIZATION ON dbo.t TO x", "ALTER AUTHORIZATION ON OBJECT"),
        ("CREATE TABLE dbo.m (a varchar(9) MASKED WITH (FUNCTION = 'default()'))", "MASKED column"),
        ("ALTER TABLE dbo.t ALTER COLUMN b ADD MASKED WITH (FUNCTION = 'default()')", "MASKED column"),
        ("ALTER TABLE dbo.t ALTER COLUMN b varchar(3) MASKED WITH (FUNCTION = 'default()')", "MASKED column"),
        ("ALTER TABLE dbo.t ALTER COLUMN b DROP MASKED", "MASKED column"),
        ("ADD SENSITIVITY CLASSIFICATION TO dbo.t.b WITH (LABEL = 'Secret')", "ADD SENSITIVITY CLASSIFICATION"),
        ("DROP SENSITIVITY CLASSIFICATION FROM dbo.t.b", "DROP SENSITIVITY CLASSIFICATION"),
        ("EXECUTE AS LOGIN = 'x'", "EXECUTE AS LOGIN"),
        ("GRANT VIEW SERVER STATE TO x", "GRANT VIEW SERVER STATE"),
    ],
)
def test_what_would_not_be_enforced_is_refused_by_name(steady: Session, batch: str, construct: str) -> None:
    with pytest.raises(SqlError) as caught:
        run(steady, batch)
    assert caught.value.number == 40517, str(caught.value)
    assert caught.value.message.startswith(f"{construct} is not implemented by localazure.")


def test_settings_of_speed_are_taken(session: Session) -> None:
    run(session, "ALTER DATABASE dw SET RESULT_SET_CACHING ON; ALTER DATABASE dw SET QUERY_STORE = ON")
    run(session, "ALTER DATABASE dw MODIFY (SERVICE_OBJECTIVE = 'DW300c')")
    run(session, "CREATE SCHEMA ml AUTHORIZATION [dbo]")


@pytest.mark.parametrize("target", ["dbo.h AS t", "dbo.h t", "dbo.h", "INTO h"])
def test_merge_with_and_without_an_alias(session: Session, target: str) -> None:
    run(
        session,
        "CREATE TABLE dbo.h (id int, v int) WITH (DISTRIBUTION = HASH(id)); INSERT INTO h VALUES (1, 1), (2, 2)",
    )
    name = "t" if target.endswith("t") else "h"
    merge = (
        f"MERGE {target} USING (SELECT 2 AS id, 20 AS v UNION ALL SELECT 3, 30) AS s ON {name}.id = s.id "
        "WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v);"
    )
    assert run(session, merge) == [RowsAffected(2)]
    assert rows(session, "SELECT id, v FROM dbo.h ORDER BY id") == [(1, 1), (2, 20), (3, 30)]


def test_row_counts(session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int)")
    assert run(session, "INSERT INTO dbo.t VALUES (1),(2),(3)") == [RowsAffected(3)]
    assert run(session, "UPDATE dbo.t SET a = 9 WHERE a < 3") == [RowsAffected(2)]
    assert run(session, "DELETE FROM dbo.t WHERE a = 3") == [RowsAffected(1)]
    assert run(session, "SET NOCOUNT ON; DELETE FROM dbo.t")[-1] == RowsAffected(None)


def test_describe_runs_nothing(session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int, b decimal(9,3), c nvarchar(7))")
    described = session.describe(
        "DECLARE @x int = 1; IF @x = 1 SELECT a, b AS x, c + N'!' FROM dbo.t; INSERT INTO dbo.t (a) VALUES (1)"
    )
    assert [(column.name, str(column.type)) for column in described] == [
        ("a", "int"),
        ("x", "decimal(9,3)"),
        ("", "nvarchar(8)"),
    ]
    assert rows(session, "SELECT COUNT(*) FROM dbo.t") == [(0,)]
    assert session.describe("UPDATE dbo.t SET a = 1") == ()


def test_every_statement_of_the_grammar_has_its_handler() -> None:
    """What parses either runs or is refused by name: no statement falls through."""
    from localazure.sql import syntax_security, syntax_statements, tables
    from localazure.sql.interpreter import Interpreter

    kinds = {
        kind
        for kind in [*vars(syntax_statements).values(), *vars(syntax_security).values()]
        if isinstance(kind, type)
        and issubclass(kind, syntax_statements.Statement)
        and kind is not syntax_statements.Statement
    }
    handled = set(Interpreter(None)._handlers) | set(tables._HANDLERS)  # type: ignore[arg-type]
    assert kinds == handled
