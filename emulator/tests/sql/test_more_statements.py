"""Statements beyond the first corpus, a module a group; each is one test, and the groups are counted apart."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet
import pytest

from localazure.sql.results import ResultSet, SqlError
from localazure.sql.session import Session

from . import statements_dedicated, statements_serverless
from .conftest import make_pool, make_serverless, run, table_rows


def _last(session: Session, batch: str) -> list[tuple[Any, ...]]:
    sets = [result for result in run(session, batch) if isinstance(result, ResultSet)]
    return [tuple(map(_plain, row)) for row in table_rows(sets[-1])] if sets else []


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else value


def _check(session: Session, batch: str, answer: Any) -> None:
    if isinstance(answer, int):
        with pytest.raises(SqlError) as caught:
            run(session, batch)
        assert caught.value.number == answer, caught.value
        return
    if isinstance(answer, tuple):  # how many rows or columns
        result = [result for result in run(session, batch) if isinstance(result, ResultSet)][-1]
        found = {"rows": result.table.num_rows, "columns": len(result.columns)}
        assert found[answer[0]] == answer[1]
        return
    assert _last(session, batch) == answer


def _cases(statements: list[tuple[str, str, Any]]) -> list[Any]:
    return [pytest.param(batch, answer, id=name) for name, batch, answer in statements]


def _lake(base: Path) -> None:
    parts = {
        "year=2013/month=1/p1": [(1, "AA", 5), (2, "UA", 4)],
        "year=2013/month=2/p2": [(3, "AA", 7), (4, "UA", 10)],
        "year=2014/month=1/p3": [(5, "AA", 1), (6, "UA", 2)],
    }
    for name, data in parts.items():
        file = base / "flights" / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        ids, carriers, delays = zip(*data, strict=True)
        table = pa.table(
            {
                "id": pa.array(ids, pa.int32()),
                "carrier": carriers,
                "delay": pa.array(delays, pa.int32()),
                "price": pa.array([Decimal("9.50")] * len(ids), pa.decimal128(8, 2)),
            }
        )
        pyarrow.parquet.write_table(table, file)
    nested = pa.table({"tags": [["a", "b"]], "place": [{"lat": 7}]})
    pyarrow.parquet.write_table(nested, base / "nested.parquet")
    (base / "folder" / "inner").mkdir(parents=True)
    (base / "folder" / "a.csv").write_text("1\n")
    (base / "folder" / "_hidden.csv").write_text("9\n")
    (base / "folder" / "inner" / "b.csv").write_text("2\n")
    (base / "people.csv").write_text('id,name,score\n1,Ann,2.5\n2,"Bo,b",\n')
    (base / "semi.txt").write_text("1;x\n2;y\n")
    (base / "ragged.csv").write_text("1,2,3\n4,5\n")
    (base / "double.txt").write_text("1||2\n")
    (base / "small.csv.gz").write_bytes(gzip.compress(b"1\n2\n"))
    (base / "json").mkdir()
    (base / "json" / "a.jsonl").write_text('{"k":"1","t":"a,b"}\n{"k":"2"}\n')
    (base / "json" / "doc.json").write_text('[\n {"name": "x", "count": 1},\n {"name": "y", "count": 2}\n]\n')
    table = pa.table({"id": [1, 2, 3], "year": pa.array([2013, 2014, 2014], pa.int32()), "name": ["a", "b", "c"]})
    deltalake.write_deltalake(base / "delta", table, partition_by=["year"])
    nulls = pa.table({"id": [1], "year": pa.array([None], pa.int32())})
    deltalake.write_deltalake(base / "nulls", nulls, partition_by=["year"])
    vectors = {"delta.enableDeletionVectors": "true"}
    deltalake.DeltaTable.create(base / "vectors", table.schema, configuration=vectors)


@pytest.fixture(scope="module")
def serverless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One session for the group: every statement makes what it needs under a name of its own."""
    folder = tmp_path_factory.mktemp("serverless")
    server = make_serverless(folder)
    _lake(folder / "lake" / "lake")
    session = server.session("tester", database="demo")
    run(session, f"CREATE EXTERNAL DATA SOURCE lake WITH (LOCATION = '{statements_serverless.ROOT}')")
    run(session, "CREATE EXTERNAL FILE FORMAT p WITH (FORMAT_TYPE = PARQUET)")
    run(
        session,
        "CREATE EXTERNAL TABLE dbo.ext (id int, carrier varchar(2)) WITH (LOCATION = 'flights/**', DATA_SOURCE = lake, "
        "FILE_FORMAT = p)",
    )
    run(session, "CREATE VIEW dbo.three AS SELECT a FROM (VALUES (1),(2),(3)) v(a)")
    yield session
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("batch", "answer"), _cases(statements_serverless.STATEMENTS))
def test_serverless(serverless: Session, batch: str, answer: Any) -> None:
    _check(serverless, batch, answer)
    if serverless.database != "demo":
        run(serverless, "USE demo")


DEDICATED_FIXTURE = (
    "CREATE TABLE dbo.f (id int NOT NULL, k varchar(10), v decimal(10,2), d date) WITH (DISTRIBUTION = HASH(id), "
    "CLUSTERED COLUMNSTORE INDEX, PARTITION (d RANGE RIGHT FOR VALUES ('2020-01-01', '2021-01-01')))",
    "INSERT INTO dbo.f VALUES (1, 'a', 1.5, '2019-05-01'), (2, 'b', 2.5, '2020-05-01'), (3, 'a', 3.5, '2020-06-01'), "
    "(4, 'b', 2, '2021-05-01')",
    "CREATE TABLE dbo.g (a int) WITH (HEAP)",
    "INSERT INTO dbo.g VALUES (1), (2)",
    "CREATE TABLE dbo.skewed WITH (DISTRIBUTION = HASH(k)) AS SELECT 1 AS k, id FROM dbo.f",
    "CREATE TABLE dbo.even WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS SELECT TOP 240 a.id FROM dbo.f a, dbo.f b, dbo.f c, "
    "dbo.f d",
    "CREATE TABLE dbo.rep WITH (DISTRIBUTION = REPLICATE, HEAP) AS SELECT TOP 3 id FROM dbo.f",
)


def _dedicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    pool = make_pool(tmp_path_factory.mktemp("dedicated"))
    session = pool.session("tester", "pytest", "localhost")
    for batch in DEDICATED_FIXTURE:
        run(session, batch)
    yield session
    pool.close()


# A pool a group; the statements of a group share it as those of a script do.
dedicated_pool = pytest.fixture(scope="module", name="dedicated_pool")(_dedicated)
procedural_pool = pytest.fixture(scope="module", name="procedural_pool")(_dedicated)
views_pool = pytest.fixture(scope="module", name="views_pool")(_dedicated)


@pytest.mark.parametrize(("batch", "answer"), _cases(statements_dedicated.DEDICATED))
def test_dedicated(dedicated_pool: Session, batch: str, answer: Any) -> None:
    _check(dedicated_pool, batch, answer)


@pytest.mark.parametrize(("batch", "answer"), _cases(statements_dedicated.PROCEDURAL))
def test_procedural(procedural_pool: Session, batch: str, answer: Any) -> None:
    _check(procedural_pool, batch, answer)


@pytest.mark.parametrize(("batch", "answer"), _cases(statements_dedicated.DMV))
def test_management_views(views_pool: Session, batch: str, answer: Any) -> None:
    _check(views_pool, batch, answer)


def test_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """How many there are: every one ran above."""
    groups = {
        "serverless": statements_serverless.STATEMENTS,
        "dedicated": statements_dedicated.DEDICATED,
        "procedural": statements_dedicated.PROCEDURAL,
        "management views": statements_dedicated.DMV,
    }
    for name, statements in groups.items():
        assert len(statements) >= 30, name
        assert len({title for title, _, _ in statements}) == len(statements), name
    with capsys.disabled():
        print("\nFurther statements: " + ", ".join(f"{len(found)} {name}" for name, found in groups.items()))
