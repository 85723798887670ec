"""Several sessions at once: cancelling, conflicts, temporary tables, bulk loads, the request log."""

from __future__ import annotations

import datetime as dt
import threading
from decimal import Decimal

import pyarrow as pa
import pytest

from localazure.sql.pool import Pool, Session
from localazure.sql.results import SqlError

from .conftest import rows, run

DIGITS = "CREATE TABLE dbo.d (n int); INSERT INTO dbo.d VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)"
SLOW = (
    "SELECT COUNT(*) FROM dbo.d a, dbo.d b, dbo.d c, dbo.d d, dbo.d e, dbo.d f, dbo.d g, dbo.d h, dbo.d i WHERE "
    "a.n + b.n * c.n + i.n > d.n + e.n"
)


@pytest.mark.parametrize("batch", [SLOW, "DECLARE @i int = 0; WHILE 1 = 1 SET @i = @i % 7 + 1"])
def test_cancel_from_another_thread(session: Session, batch: str) -> None:
    run(session, DIGITS)
    timer = threading.Timer(0.5, session.cancel)
    timer.start()
    with pytest.raises(SqlError) as caught:
        run(session, batch)
    assert caught.value.number == 3617
    timer.join()
    assert rows(session, "SELECT 1") == [(1,)], "the session goes on"


def test_kill_ends_what_another_session_runs(pool: Pool, session: Session) -> None:
    run(session, DIGITS)
    other = pool.session("other")
    timer = threading.Timer(0.5, lambda: run(other, f"KILL 'SID{session.spid}'"))
    timer.start()
    with pytest.raises(SqlError) as caught:
        run(session, SLOW)
    assert caught.value.number == 3617
    timer.join()


def test_sessions_in_threads(pool: Pool) -> None:
    run(pool.session("a"), "CREATE TABLE dbo.t (a int)")
    failures: list[Exception] = []

    def work(number: int) -> None:
        session = pool.session(f"w{number}")
        try:
            for index in range(20):
                run(session, f"INSERT INTO dbo.t VALUES ({number * 100 + index})")
                rows(session, "SELECT COUNT(*) FROM dbo.t t JOIN sys.tables s ON s.name = 't'")
        except Exception as error:
            failures.append(error)
        finally:
            session.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert rows(pool.session("b"), "SELECT COUNT(*), COUNT(DISTINCT a) FROM dbo.t") == [(80, 80)]


def test_a_conflict_in_a_transaction_is_a_deadlock_victim(pool: Pool, session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int); INSERT INTO dbo.t VALUES (1)")
    other = pool.session("other")
    run(session, "BEGIN TRAN; UPDATE dbo.t SET a = 2")
    run(other, "BEGIN TRAN")
    with pytest.raises(SqlError) as caught:
        run(other, "UPDATE dbo.t SET a = 3")
    assert caught.value.number == 1205
    run(other, "ROLLBACK")
    run(session, "COMMIT")
    assert rows(other, "SELECT a FROM dbo.t") == [(2,)]


def test_temporary_tables_belong_to_a_session(pool: Pool, session: Session) -> None:
    run(session, "CREATE TABLE #t (a int) WITH (HEAP); INSERT INTO #t VALUES (1)")
    with pytest.raises(SqlError):
        run(pool.session("other"), "SELECT * FROM #t")
    assert rows(session, "SELECT a FROM tempdb..#t") == [(1,)]
    run(session, "IF OBJECT_ID('tempdb..#t') IS NOT NULL DROP TABLE #t")
    with pytest.raises(SqlError):
        run(session, "SELECT * FROM #t")


def test_bulk_load_converts_and_checks(session: Session) -> None:
    run(
        session,
        "CREATE TABLE ml_b (id int NOT NULL IDENTITY, a int NOT NULL, s varchar(3), d date DEFAULT "
        "'2024-01-01', m decimal(9,2))",
    )
    data = pa.table({"a": pa.array([1, 2], pa.int64()), "s": ["x ", None], "m": pa.array([Decimal("1.5"), None])})
    assert session.bulk_load("[dbo].[ml_b]", ["a", "s", "m"], data) == 2
    assert rows(session, "SELECT * FROM dbo.ml_b ORDER BY id") == [
        (1, 1, "x", dt.date(2024, 1, 1), Decimal("1.50")),
        (2, 2, None, dt.date(2024, 1, 1), None),
    ]
    for bad, number in (({"a": [None]}, 515), ({"a": [2**40]}, 8115)):
        with pytest.raises(SqlError) as caught:
            session.bulk_load("dbo.ml_b", ["a"], pa.table({"a": pa.array(bad["a"], pa.int64())}))
        assert caught.value.number == number
    with pytest.raises(SqlError) as caught:
        session.bulk_load("dbo.ml_b", ["a", "s"], pa.table({"a": [1, 2], "s": ["ok", "too long"]}))
    assert caught.value.number == 8152
    assert rows(session, "SELECT COUNT(*) FROM dbo.ml_b") == [(2,)]


def test_the_request_log_has_labels_and_outcomes(session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int)")
    run(session, "INSERT INTO dbo.t SELECT 1 UNION ALL SELECT 2 OPTION (LABEL = 'load : t')")
    with pytest.raises(SqlError):
        run(session, "SELECT 1 / 0 FROM dbo.t OPTION (LABEL = 'load : bad')")
    found = rows(
        session,
        "SELECT [label], status, row_count, command FROM sys.dm_pdw_exec_requests WHERE [label] "
        "LIKE 'load%' ORDER BY [label]",
    )
    assert [row[:3] for row in found] == [("load : bad", "Failed", None), ("load : t", "Completed", 2)]
    assert found[1][3].startswith("INSERT INTO dbo.t SELECT 1")


def test_secrets_are_not_kept(session: Session) -> None:
    run(
        session,
        "CREATE DATABASE SCOPED CREDENTIAL c WITH IDENTITY = 'SHARED ACCESS SIGNATURE', SECRET = 'hidden-value'",
    )
    run(session, "CREATE MASTER KEY ENCRYPTION BY PASSWORD = 'hidden-value'")
    run(session, "CREATE TABLE dbo.t (a int)")
    with pytest.raises(SqlError) as caught:
        run(
            session,
            "COPY INTO dbo.t FROM 'https://acct.blob.core.windows.net/lake/x.csv' WITH (CREDENTIAL = (IDENTITY = "
            "'Shared Access Signature', SECRET = 'hidden-value''s'))",
        )
    assert "hidden-value" not in str(caught.value)
    kept = session.pool.engine.connection.execute(
        "SELECT string_agg(document, ' ') FROM \"$catalog\".entries"
    ).fetchall()[0][0]
    assert "hidden-value" not in kept
    assert rows(session, "SELECT credential_identity FROM sys.database_scoped_credentials") == [
        ("SHARED ACCESS SIGNATURE",)
    ]
    assert not any("hidden-value" in row[0] for row in rows(session, "SELECT command FROM sys.dm_pdw_exec_requests"))
