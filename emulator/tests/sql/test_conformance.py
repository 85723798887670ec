"""Statements that people run against Synapse pools, each with the rows a pool answers.

The statements and their results stand in synapse-statements.json; evidence: docs (no pool was at
hand when they were written).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest

from localazure.sql.pool import Pool, Session
from localazure.sql.results import ResultSet, SqlError

from .conftest import make_pool, make_serverless, run, table_rows

CORPUS = json.loads((Path(__file__).parent / "synapse-statements.json").read_text())
STATEMENTS = CORPUS["statements"]

FIXTURE = """
CREATE SCHEMA stg;
GO
CREATE TABLE dbo.orders(o_id int, cust varchar(20), amt decimal(10,2), qty int, dt date, ts datetime2,
  note varchar(20));
INSERT INTO dbo.orders VALUES (1,'Ann',100.50,3,'2024-01-15','2024-01-15 10:20:30','x'),
  (2,'bob',20.25,1,'2024-01-31','2024-01-31 23:59:59',''),(3,'ANN ',5.00,2,'2024-02-29','2024-02-29 00:00:00',null),
  (4,'Cid',77.70,7,'2024-12-31','2024-12-31 12:00:00','y '),(5,null,0.00,null,'2023-06-01','2023-06-01 08:00:00','z');
CREATE TABLE dbo.cust(c_id int, cust varchar(20), city varchar(20));
INSERT INTO dbo.cust VALUES (1,'Ann','Oslo'),(2,'Bob','Rome'),(3,'Dee','Oslo');
CREATE TABLE dbo.tgt(id int, v varchar(10), amt decimal(10,2)) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN);
INSERT INTO dbo.tgt VALUES (1,'a',1),(2,'b',2),(3,'c',3);
CREATE TABLE dbo.upd(id int, v varchar(10), amt decimal(10,2)) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN);
INSERT INTO dbo.upd VALUES (2,'B',20),(3,'C',30),(4,'D',40);
CREATE TABLE dbo.fl(id int, carrier varchar(10), delay int);
CREATE EXTERNAL DATA SOURCE lake WITH (LOCATION = 'https://acct.dfs.core.windows.net/lake');
CREATE DATABASE SCOPED CREDENTIAL msi WITH IDENTITY = 'Managed Service Identity';
GO
CREATE VIEW dbo.flv AS SELECT * FROM (VALUES (1,'AA',5),(2,'UA',4),(3,'AA',7),(4,'UA',10)) v(id, carrier, delay);
"""

SERVERLESS_FIXTURE = """
CREATE EXTERNAL DATA SOURCE lake WITH (LOCATION = 'https://acct.dfs.core.windows.net/lake');
GO
CREATE VIEW dbo.flv AS SELECT * FROM (VALUES (1,'AA',5),(2,'UA',4),(3,'AA',7),(4,'UA',10)) v(id, carrier, delay);
"""

# Statements that make what the fixture has, or need a table of another shape.
ADJUSTED = {
    **dict.fromkeys(("eds", "ext_table", "cetas"), "DROP EXTERNAL DATA SOURCE lake"),
    "cred": "DROP DATABASE SCOPED CREDENTIAL msi",
    "grant": "CREATE USER reader WITHOUT LOGIN",
    "role": "CREATE USER [adf-mi] FROM EXTERNAL PROVIDER",
    "part_split": "DROP TABLE dbo.tgt; CREATE TABLE dbo.tgt (id int, dt date) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN, "
    "PARTITION (dt RANGE RIGHT FOR VALUES ('2024-01-01', '2024-02-01')))",
    "merge": "CREATE TABLE dbo.h WITH (DISTRIBUTION = HASH(id), HEAP) AS SELECT * FROM dbo.tgt; DROP TABLE dbo.tgt; "
    "RENAME OBJECT dbo.h TO tgt",
}

# What localazure answers otherwise; each must fail, so that a fix takes its line out.
NOT_YET = {
    # ISNULL(LTRIM(NULL), -1) is varchar(1) in SQL Server: https://stackoverflow.com/q/2949644 quotes its MaxLength.
    "overflow_null": "LTRIM keeps its argument's length, so that ISNULL cuts 'n/a' to varchar(2): evidence says 'n/'",
}


def _lake(folder: Path) -> None:
    base = folder / "lake" / "lake"
    parts = {
        "flights/year=2013/month=1/p1.parquet": [(1, "AA", 5), (2, "UA", 4)],
        "flights/year=2013/month=2/p2.parquet": [(3, "AA", 7), (4, "UA", 10)],
    }
    for name, data in parts.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        columns = list(zip(*data, strict=True))
        table = pa.table(
            {"id": pa.array(columns[0], pa.int32()), "carrier": columns[1], "delay": pa.array(columns[2], pa.int32())}
        )
        pyarrow.parquet.write_table(table, base / name)
    deltalake.write_deltalake(base / "delta", pa.table({"id": [1, 2], "name": ["a", "b"]}))
    (base / "csv").mkdir()
    (base / "csv" / "fl.csv").write_text("id,carrier,delay\n1,YY,3\n2,ZZ,4\n")
    (base / "json").mkdir()
    (base / "json" / "a.jsonl").write_text('{"k":"1","t":"a,b"}\n{"k":"2"}\n')


def _batches(text: str) -> list[str]:
    """GO separates batches on the client's side."""
    return [batch for batch in re.split(r"(?mi)^\s*GO\s*$", text) if batch.strip()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a closed pool with the corpus' tables: copied for every statement."""
    folder = tmp_path_factory.mktemp("prepared")
    pool = make_pool(folder)
    session = pool.session("tester")
    for batch in _batches(FIXTURE):
        run(session, batch)
    session.close()
    pool.close()
    _lake(folder)
    server = make_serverless(folder, "dw")
    session = server.session("tester", database="dw")
    for batch in _batches(SERVERLESS_FIXTURE):
        run(session, batch)
    server.close()
    return folder


@pytest.fixture
def statement_session(request: pytest.FixtureRequest, tmp_path: Path, prepared: Path) -> Iterator[Session]:
    statement = request.param
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    if statement["pool"] == "serverless" or statement["id"] == "logic":  # CHOOSE isn't in dedicated pools
        server = make_serverless(tmp_path, "dw")
        yield server.session("tester", database="dw")
        server.close()
        return
    pool = make_pool(tmp_path)
    session = pool.session("tester")
    for batch in _batches(ADJUSTED.get(statement["id"], "")):
        run(session, batch)
    session.close()
    session = pool.session("tester")
    yield session
    session.close()
    pool.close()


def _cell(value: Any) -> Any:
    """JSON's typed values as Python's."""
    if isinstance(value, dict):
        (kind, text), *_ = value.items()
        return {
            "decimal": Decimal,
            "date": date.fromisoformat,
            "datetime": datetime.fromisoformat,
            "hex": bytes.fromhex,
        }[kind](text)
    return value


def _plain(pool: Pool, session: Session, sql: str) -> list[list[Any]]:
    """A probe: plain SQL on the engine, or on the pool where it names a view."""
    try:
        return [list(row) for row in pool.engine.connection.execute(sql).fetchall()]
    except duckdb.CatalogException:
        return [list(row) for row in table_rows(run(session, sql)[-1])]  # type: ignore[arg-type]


def _execute(session: Session, sql: str) -> list[list[Any]] | None:
    last: list[list[Any]] | None = None
    for batch in _batches(sql):
        for result in run(session, batch):
            if isinstance(result, ResultSet):
                last = [list(row) for row in table_rows(result)]
    return last


def _cases() -> list[Any]:
    return [
        pytest.param(
            s,
            s,
            id=s["id"],
            marks=[pytest.mark.xfail(strict=True, reason=NOT_YET[s["id"]])] if s["id"] in NOT_YET else [],
        )
        for s in STATEMENTS
    ]


@pytest.mark.parametrize(("statement", "statement_session"), _cases(), indirect=["statement_session"])
def test_statement(statement: dict[str, Any], statement_session: Session) -> None:
    expected, probe, session = statement["expected"], statement["probe"], statement_session
    if expected == "ERR":
        with pytest.raises(SqlError):
            _execute(session, statement["sql"])
        return
    last = _execute(session, statement["sql"])
    if probe == "ok" or expected is None:
        if probe not in {None, "ok"}:
            assert _plain(session.pool, session, probe)
        return
    found = last if probe is None else _plain(session.pool, session, probe)
    assert found is not None
    wanted = [[_cell(value) for value in row] for row in expected]
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for got, want in zip(found, wanted, strict=True):
        for a, b in zip(got, want, strict=True):
            assert a == b, (found, wanted)
            if isinstance(b, Decimal):
                assert isinstance(a, Decimal), (a, b)
                assert a.as_tuple().exponent == b.as_tuple().exponent, (a, b)


def test_score(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    """The score a reader sees: every statement that isn't listed in NOT_YET ran above."""
    assert set(NOT_YET) <= {s["id"] for s in STATEMENTS}
    with capsys.disabled():
        print(f"\nSynapse statements: {len(STATEMENTS) - len(NOT_YET)} of {len(STATEMENTS)}")
