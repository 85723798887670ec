"""What a serverless pool reads and what it charges: files chosen by conditions, columns by name, budgets by period."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from localazure.sql import processed
from localazure.sql.results import Message, SqlError
from localazure.sql.serverless import Serverless
from localazure.sql.session import Session

from .conftest import make_serverless, rows, run

ROOT = "https://acct.dfs.core.windows.net/lake"
FLIGHTS = f"OPENROWSET(BULK '{ROOT}/flights/year=*/month=*/*.parquet', FORMAT = 'PARQUET') AS r"
WIDE = 250_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serverless]:
    folder = tmp_path_factory.mktemp("pool")
    made = make_serverless(folder)
    base = folder / "lake" / "lake"
    for year in (2013, 2014):
        for month in (1, 2, 3):
            file = base / "flights" / f"year={year}" / f"month={month}" / "part.parquet"
            file.parent.mkdir(parents=True)
            pyarrow.parquet.write_table(pa.table({"id": [year * 100 + month], "carrier": ["AA"]}), file)
    wide = {f"c{index}": pa.array(range(WIDE), pa.int64()) for index in range(4)}
    pyarrow.parquet.write_table(pa.table(wide), base / "wide.parquet", compression="none", use_dictionary=False)
    (base / "text.csv").write_text("".join(f"{index},{'x' * 100}\n" for index in range(30_000)))
    yield made
    made.close()


@pytest.fixture
def session(server: Serverless) -> Iterator[Session]:
    opened = server.session("tester", database="demo")
    yield opened
    opened.close()


def _opened(server: Serverless) -> set[str]:
    lake: Any = server.blobs
    found = {Path(name).parent.relative_to("flights").as_posix() for name in lake.opened if name.startswith("flights")}
    lake.opened.clear()
    return found


FIRST = "year=2013/month=1"  # whose footer tells the schema


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("r.filepath(1) = '2014' AND r.filepath(2) = '2'", {"year=2014/month=2"}),
        ("CAST(r.filepath(1) AS int) = 2014 AND CAST(r.filepath(2) AS int) > 2", {"year=2014/month=3"}),
        ("r.filepath(2) IN ('3') AND r.id > 0", {"year=2013/month=3", "year=2014/month=3"}),
        ("CONCAT(r.filepath(1), '-', r.filepath(2)) = '2014-1'", {"year=2014/month=1"}),
        ("r.filepath() LIKE '%month=2%' AND r.filename() = 'part.parquet'", {"year=2013/month=2", "year=2014/month=2"}),
        ("r.filepath(1) = '1999'", set()),
    ],
)
def test_only_files_that_conditions_leave_are_fetched(
    server: Serverless, session: Session, condition: str, expected: set[str]
) -> None:
    _opened(server)
    found = rows(session, f"SELECT COUNT(*), MIN(r.carrier) FROM {FLIGHTS} WHERE {condition}")
    assert found == [(len(expected), "AA" if expected else None)]
    assert _opened(server) == expected | {FIRST}


def test_conditions_reach_through_views_and_joins(server: Serverless, session: Session) -> None:
    run(
        session,
        f"CREATE VIEW dbo.by_year AS SELECT r.id, CAST(r.filepath(1) AS int) AS y, r.filepath(2) AS m FROM {FLIGHTS}",
    )
    _opened(server)
    assert rows(session, "SELECT SUM(id) FROM dbo.by_year WHERE y = 2013 AND m = '2'") == [(201302,)]
    assert _opened(server) == {FIRST, "year=2013/month=2"}
    # A file that one use needs is read, though the other leaves it out.
    both = "SELECT COUNT(*) FROM dbo.by_year a JOIN dbo.by_year b ON a.m = b.m WHERE a.y = 2013 AND b.y = 2014 AND b.m = '3'"
    assert rows(session, both) == [(1,)]
    assert _opened(server) >= {"year=2013/month=3", "year=2014/month=3"}
    once = (
        "WITH f AS (SELECT * FROM dbo.by_year) SELECT (SELECT COUNT(*) FROM f WHERE y = 2013), (SELECT COUNT(*) FROM f)"
    )
    assert rows(session, once) == [(3, 6)]


def _scanned(session: Session, sql: str) -> tuple[int, int]:
    """(megabytes scanned, moved) as the message says."""
    message = next(r for r in run(session, sql) if isinstance(r, Message) and r.number == 15885)
    scanned, moved, written = map(int, re.findall(r"is (\d+) megabytes", message.text))
    assert written == 0
    return scanned, moved


def test_bytes_are_those_of_the_columns(session: Session) -> None:
    """A column of 250,000 bigints is two million bytes."""
    wide = f"OPENROWSET(BULK '{ROOT}/wide.parquet', FORMAT = 'PARQUET') AS r"
    assert _scanned(session, f"SELECT MAX(c1) FROM {wide}") == (2, 1)
    assert _scanned(session, f"SELECT MAX(c1), MIN(c3) FROM {wide}") == (4, 1)
    assert _scanned(session, f"SELECT COUNT(*) FROM {wide}") == (1, 1)
    assert _scanned(session, f"SELECT * FROM {wide}") == (8, 8)
    run(session, f"CREATE OR ALTER VIEW dbo.wide AS SELECT * FROM {wide}")
    assert _scanned(session, "SELECT MAX(c0) FROM dbo.wide") == (2, 1), "a view's other columns aren't read"


def test_text_is_read_whole(session: Session) -> None:
    text = (
        f"OPENROWSET(BULK '{ROOT}/text.csv', FORMAT = 'CSV', PARSER_VERSION = '2.0') WITH (a int, b varchar(200)) AS r"
    )
    assert _scanned(session, f"SELECT MAX(a) FROM {text}") == (4, 1)


def test_every_query_is_charged_with_ten_megabytes_at_least(server: Serverless, session: Session) -> None:
    before = server.ledger.used()["monthly"]
    run(session, f"SELECT COUNT(*) FROM {FLIGHTS}")
    run(session, "SELECT COUNT(*) FROM sys.objects")
    assert server.ledger.used()["monthly"] == before + 10, "catalogue views are free"
    history = rows(
        session, "SELECT TOP 1 data_processed_mb FROM sys.dm_exec_requests_history WHERE data_processed_mb > 0"
    )
    assert history[0][0] >= 10


def test_budgets(server: Serverless, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terabyte a week: used up on Tuesday, fresh on the Monday after."""
    tuesday = datetime.date(2026, 3, 3)
    monkeypatch.setattr(processed, "_today", lambda: tuesday)
    run(session, "EXEC sp_set_data_processed_limit 'weekly', 1")
    server.ledger.add(processed.MEGABYTE)
    with pytest.raises(SqlError) as caught:
        run(session, f"SELECT COUNT(*) FROM {FLIGHTS}")
    assert "(Period = Weekly: Limit = 1 TB, Data processed = 1 TB)" in caught.value.message
    assert rows(session, "SELECT 1") == [(1,)]
    monkeypatch.setattr(processed, "_today", lambda: tuesday + datetime.timedelta(days=6))
    assert rows(session, f"SELECT COUNT(*) FROM {FLIGHTS}") == [(6,)]
    run(session, f"EXEC sp_set_data_processed_limit 'weekly', {processed.UNLIMITED}")


def test_databases_outlive_the_server(tmp_path: Path) -> None:
    server = make_serverless(tmp_path, "kept")
    session = server.session("tester", database="kept")
    run(session, "CREATE VIEW dbo.v AS SELECT 7 AS a")
    run(session, "CREATE DATABASE second COLLATE Latin1_General_100_BIN2_UTF8")
    server.close()
    again = make_serverless(tmp_path, "kept")
    session = again.session("tester", database="second")
    assert rows(session, "SELECT a FROM kept.dbo.v") == [(7,)]
    assert rows(session, "SELECT name, collation_name FROM sys.databases WHERE database_id > 4 ORDER BY name")[1] == (
        "second",
        "Latin1_General_100_BIN2_UTF8",
    )
    with pytest.raises(SqlError) as caught:
        run(again.session("other", database="kept"), "DROP DATABASE second")
    assert caught.value.number == 3702
    session.close()
    run(again.session("other", database="kept"), "DROP DATABASE second")
    with pytest.raises(SqlError) as caught:
        again.session("tester", database="second")
    assert caught.value.number == 4060
    again.close()
