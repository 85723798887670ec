"""Spark's databases in the serverless pool: which tables are shown, of what types, and how they follow Spark's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from localazure.core.lake_catalogue import KIND
from localazure.core.store import Store
from localazure.sql.lake_databases import LakeDatabases, column
from localazure.sql.results import SqlError

from .conftest import make_serverless, rows, run

ROOT = "abfss://lake@acct.dfs.core.windows.net"
ID = {"name": "id", "type": "integer"}


def database(**tables: Any) -> dict[str, Any]:
    return {"name": "shop", "location": f"{ROOT}/shop", "tables": tables}


def table(name: str, provider: str, *fields: Any, kind: str = "MANAGED", partitions: Any = ()) -> dict[str, Any]:
    schema = json.dumps({"type": "struct", "fields": list(fields)})
    place = {"location": f"{ROOT}/{name}", "options": {"header": "true", "sep": ";"}, "partitions": list(partitions)}
    return {"name": name, "type": kind, "provider": provider, "schema": schema, **place}


def test_tables_follow_sparks(tmp_path: Path, lake: Path) -> None:
    for folder, content in (("k=a%20b", [1, 2]), ("k=__HIVE_DEFAULT_PARTITION__", [3])):
        (lake / "parts" / folder).mkdir(parents=True)
        pyarrow.parquet.write_table(pa.table({"id": content}), lake / "parts" / folder / "part-0.parquet")
    (lake / "texts").mkdir()
    (lake / "texts" / "part.csv").write_text('id;word\n1;"a;b"\n')
    (lake / "parts" / "_SUCCESS").touch()
    words = {"name": "word", "type": "string"}
    parts = table("parts", "parquet", ID, {"name": "k", "type": "string"}, partitions=["k"])
    store, server = Store(tmp_path / "store.sqlite"), make_serverless(tmp_path)
    shared = LakeDatabases(store, server)
    shown = {"parts": parts, "texts": table("texts", "csv", ID, words), "empty": table("empty", "parquet", ID)}
    unseen = {"v": table("v", "", ID, kind="VIEW"), "j": table("j", "json", ID)}
    store.put(KIND, "shop", database(**shown, **unseen))
    store.put(KIND, "demo", database() | {"name": "demo"})  # the pool has one of its own
    shared.synchronise()
    session = server.session("me", database="shop")
    assert rows(session, "SELECT id, k FROM dbo.parts ORDER BY id") == [(1, "a b"), (2, "a b"), (3, None)]
    assert rows(session, "SELECT COUNT(*) FROM parts WHERE k = 'a b'") == [(2,)]
    assert rows(session, "SELECT * FROM texts") == [(1, "a;b")]
    assert rows(session, "SELECT * FROM empty") == []
    listed = "SELECT name, object_id FROM sys.external_tables ORDER BY name"
    before = dict(rows(session, listed))
    assert list(before) == ["empty", "parts", "texts"]
    # A column more, a table less: the rest is what it was.
    shown["parts"] = table("parts", "parquet", ID, {"name": "k", "type": "string"}, words, partitions=["k"])
    del shown["empty"]
    store.put(KIND, "shop", database(**shown))
    shared.synchronise()
    assert dict(rows(session, listed)) == {name: before[name] for name in ("parts", "texts")}
    assert rows(session, "SELECT TOP 1 word FROM parts") == [(None,)]
    run(session, "CREATE SCHEMA mine")
    run(session, "CREATE VIEW mine.v AS SELECT id FROM dbo.texts")
    server.close()
    # After a restart, and after Spark has dropped it.
    again = make_serverless(tmp_path)
    shared = LakeDatabases(store, again)
    shared.synchronise()
    assert rows(again.session("me", database="shop"), "SELECT * FROM mine.v") == [(1,)]
    store.delete(KIND, "shop")
    shared.synchronise()
    assert list(again.databases) == ["master", "demo"]
    again.close()


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        ("CREATE EXTERNAL FILE FORMAT f WITH (FORMAT_TYPE = PARQUET)", "CREATE EXTERNAL FILE FORMAT"),
        ("CREATE PROCEDURE p AS SELECT 1", "CREATE/ALTER PROCEDURE"),
        ("ALTER DATABASE shop COLLATE Latin1_General_100_BIN2_UTF8", "ALTER DATABASE"),
        ("IF 1 = 1 DROP EXTERNAL TABLE dbo.parts", "DROP EXTERNAL TABLE"),
    ],
)
def test_nothing_of_sparks_is_changed(tmp_path: Path, lake: Path, statement: str, operation: str) -> None:
    server = make_serverless(tmp_path, "master")
    store = Store(tmp_path / "store.sqlite")
    store.put(KIND, "shop", database(parts=table("parts", "parquet", ID)))
    LakeDatabases(store, server).synchronise()
    with pytest.raises(SqlError, match=f"Operation {operation} is not allowed for a replicated database") as refused:
        run(server.session("me", database="shop"), statement)
    assert refused.value.number == 15875
    server.close()


@pytest.mark.parametrize(
    ("kind", "provider", "expected"),
    [
        ("byte", "parquet", "smallint"),
        ("short", "delta", "smallint"),
        ("integer", "parquet", "int"),
        ("long", "parquet", "bigint"),
        ("float", "parquet", "real"),
        ("double", "parquet", "float"),
        ("decimal(9,2)", "parquet", "decimal(9,2)"),
        ("boolean", "parquet", "bit"),
        ("boolean", "csv", "varchar(6)"),
        ("date", "parquet", "date"),
        ("timestamp", "parquet", "datetime2(7)"),
        ("string", "parquet", "varchar(8000)"),
        ("binary", "parquet", "varbinary(8000)"),
        ({"type": "array", "elementType": "integer"}, "parquet", "varchar(max)"),
    ],
)
def test_the_documented_types(kind: Any, provider: str, expected: str) -> None:
    assert str(column({"name": "c", "type": kind}, provider).type) == expected


def test_a_declared_length_is_kept() -> None:
    metadata = {"__CHAR_VARCHAR_TYPE_STRING": "varchar(12)"}
    assert str(column({"name": "c", "type": "string", "metadata": metadata}, "parquet").type) == "varchar(12)"
