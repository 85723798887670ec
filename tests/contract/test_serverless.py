"""The serverless SQL pool through real client libraries: the lake queried, charged for and budgeted."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from tds_clients import Client, clients

pytestmark = pytest.mark.evidence("sdk")

KINDS = ("mssql-python-rust", "pymssql", "python-tds")
ROWS = 300_000


@pytest.fixture(scope="module")
def lake(localazure: dict[str, Any]) -> str:
    """A folder of the lake with two years of Parquet, a Delta table and JSON lines; its dfs address."""
    from azure.storage.blob import BlobServiceClient

    name = f"serverless-{uuid.uuid4().hex[:8]}"
    service = BlobServiceClient(localazure["storage_account_url"], credential=localazure.credential())  # type: ignore[attr-defined]
    container = service.get_container_client(localazure["container"])
    if not container.exists():
        container.create_container()
    flights = pa.table(
        {
            "id": pa.array(range(ROWS), pa.int32()),
            "carrier": [("AA", "UA", "DL")[i % 3] for i in range(ROWS)],
            "noise": [(i * 2654435761) % 2**62 for i in range(ROWS)],
        }
    )
    for year in (2013, 2014):
        container.upload_blob(f"{name}/flights/year={year}/part.parquet", _parquet(flights))
    container.upload_blob(f"{name}/json/a.jsonl", b'{"k":"1","n":{"v":"x"}}\n{"k":"2"}\n')
    for path, data in _delta().items():
        container.upload_blob(f"{name}/delta/t/{path}", data)
    account = localazure["storage_account"]
    return f"https://{account}.dfs.core.windows.net/{localazure['container']}/{name}"


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="none", use_dictionary=False)
    return buffer.getvalue()


def _delta() -> dict[str, bytes]:
    """A Delta table of two partitions: https://github.com/delta-io/delta/blob/master/PROTOCOL.md"""
    column = '{"name":"%s","type":"%s","nullable":true,"metadata":{}}'
    schema = f'{{"type":"struct","fields":[{column % ("id", "long")},{column % ("year", "string")}]}}'
    actions: list[dict[str, Any]] = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {
            "metaData": {
                "id": str(uuid.uuid4()),
                "format": {"provider": "parquet", "options": {}},
                "schemaString": schema,
                "partitionColumns": ["year"],
                "configuration": {},
                "createdTime": 0,
            }
        },
    ]
    files: dict[str, bytes] = {}
    for year, ids in (("2013", [1]), ("2014", [2, 3])):
        path = f"year={year}/part-0.parquet"
        files[path] = _parquet(pa.table({"id": ids}))
        add = {"path": path, "partitionValues": {"year": year}, "size": len(files[path]), "modificationTime": 0}
        actions.append({"add": {**add, "dataChange": True}})
    # A file that is in the folder and not in the log isn't in the table.
    files["year=2014/part-1.parquet"] = files["year=2014/part-0.parquet"]
    files["_delta_log/00000000000000000000.json"] = "\n".join(json.dumps(action) for action in actions).encode()
    return files


@pytest.fixture(scope="module")
def database(localazure: dict[str, Any], lake: str) -> Iterator[str]:
    """A database with a data source over the folder."""
    name = f"demo_{uuid.uuid4().hex[:8]}"
    for client in clients("pymssql", _serverless(localazure), database="master"):
        client.run(f"CREATE DATABASE {name}")
    for client in clients("pymssql", _serverless(localazure), database=name):
        client.run(f"CREATE EXTERNAL DATA SOURCE lake WITH (LOCATION = '{lake}')")
    yield name
    for client in clients("pymssql", _serverless(localazure), database="master"):
        client.run(f"DROP DATABASE {name}")


def _serverless(localazure: dict[str, Any]) -> dict[str, Any]:
    return {**localazure, "sql_server": localazure["sql_server_ondemand"]}


@pytest.fixture(scope="module", params=KINDS)
def client(request: pytest.FixtureRequest, localazure: dict[str, Any], database: str) -> Iterator[Client]:
    yield from clients(request.param, _serverless(localazure), database=database)


FLIGHTS = "OPENROWSET(BULK 'flights/year=*/*.parquet', DATA_SOURCE = 'lake', FORMAT = 'PARQUET') AS r"


def test_which_pool_answers(client: Client, database: str) -> None:
    assert client.query("SELECT DB_NAME(), SERVERPROPERTY('EngineEdition')") == [(database, 11)]


def test_parquet_by_partition(client: Client) -> None:
    rows = client.query(
        f"SELECT r.filepath(1) AS y, r.carrier, COUNT_BIG(*) AS n FROM {FLIGHTS} WHERE r.filepath(1) = '2014' "
        "GROUP BY r.filepath(1), r.carrier ORDER BY r.carrier"
    )
    assert rows == [("2014", "AA", 100_000), ("2014", "DL", 100_000), ("2014", "UA", 100_000)]


def test_delta_and_json_lines(client: Client) -> None:
    delta = "OPENROWSET(BULK 'delta/t', DATA_SOURCE = 'lake', FORMAT = 'DELTA') AS r"
    assert client.query(f"SELECT year, COUNT(*) FROM {delta} GROUP BY year ORDER BY year") == [("2013", 1), ("2014", 2)]
    text = (
        "OPENROWSET(BULK 'json/*.jsonl', DATA_SOURCE = 'lake', FORMAT = 'CSV', FIELDTERMINATOR = '0x0b', "
        "FIELDQUOTE = '0x0b') WITH (doc nvarchar(max)) AS r"
    )
    found = client.query(f"SELECT JSON_VALUE(doc, '$.k'), JSON_VALUE(doc, '$.n.v') FROM {text} ORDER BY 1")
    assert found == [("1", "x"), ("2", None)]


def test_what_is_refused_is_told(client: Client) -> None:
    for statement, text in (
        ("CREATE TABLE dbo.t (a int)", "CREATE TABLE is not supported."),
        (f"SELECT COUNT(*) FROM {FLIGHTS} OPTION (LABEL = 'x')", "Query hint LABEL is not allowed."),
        ("SELECT * FROM sys.objects WITH (NOLOCK)", "Table hint NOLOCK is not allowed."),
    ):
        assert text in client.fails("query", statement).text


def test_parameters_prune_and_are_charged_for(client: Client) -> None:
    """One column of one year is read: 1.2 MB of ids, so the least of 10 MB is charged."""
    before = dict(client.query("SELECT type, data_processed_mb FROM sys.dm_external_data_processed"))
    sql = f"SELECT SUM(CAST(r.id AS bigint)) FROM {FLIGHTS} WHERE r.filepath(1) = ?"
    assert client.query(sql, ["2013"]) == [(sum(range(ROWS)),)]
    after = dict(client.query("SELECT type, data_processed_mb FROM sys.dm_external_data_processed"))
    assert after["daily"] - before["daily"] == 10
    assert after["monthly"] >= after["weekly"] - before["weekly"] >= 0


def test_use_and_names_of_three_parts(client: Client, database: str) -> None:
    view = f"v_{client.kind.replace('-', '_')}"
    client.run(f"CREATE VIEW dbo.{view} AS SELECT carrier, r.filepath(1) AS y FROM {FLIGHTS}")
    client.run("USE master")
    assert client.query("SELECT DB_NAME()") == [("master",)]
    assert client.query(f"SELECT COUNT(*) FROM {database}.dbo.{view} WHERE y = '2013'") == [(ROWS,)]
    client.run(f"USE {database}", f"DROP VIEW dbo.{view}")


def test_the_scan_is_told_as_the_pool_tells_it(localazure: dict[str, Any], database: str) -> None:
    """All of one year: two columns of eight and four bytes and the carriers."""
    for client in clients("pymssql", _serverless(localazure), database=database):
        texts = client.messages(
            "DECLARE @a bigint, @b int, @c varchar(9); SELECT @a = MAX(noise), @b = MAX(id), @c = MAX(carrier) "
            f"FROM {FLIGHTS} WHERE r.filepath(1) = '2013'"
        )
        assert len(texts) == 1
        assert texts[0].startswith("Statement ID: {")
        assert "Total size of data scanned is 6 megabytes, total size of data moved is 1 megabytes" in texts[0]


def test_cetas_and_its_table(localazure: dict[str, Any], database: str, lake: str) -> None:
    for client in clients("mssql-python-rust", _serverless(localazure), database=database):
        client.run(
            "CREATE EXTERNAL FILE FORMAT pq WITH (FORMAT_TYPE = PARQUET)",
            "CREATE EXTERNAL TABLE dbo.sums WITH (LOCATION = 'out/sums', DATA_SOURCE = lake, FILE_FORMAT = pq) AS "
            f"SELECT carrier, COUNT(*) AS n FROM {FLIGHTS} GROUP BY carrier",
        )
        assert client.query("SELECT carrier, n FROM dbo.sums ORDER BY carrier") == [
            ("AA", 200_000),
            ("DL", 200_000),
            ("UA", 200_000),
        ]
        failure = client.fails("run", "INSERT INTO dbo.sums VALUES ('XX', 1)")
        assert "DML Operations are not supported with external tables" in failure.text
        client.run("DROP EXTERNAL TABLE dbo.sums")


def test_a_budget_that_is_used_up_refuses(localazure: dict[str, Any], database: str) -> None:
    for client in clients("pymssql", _serverless(localazure), database=database):
        client.run("EXEC sp_set_data_processed_limit @type = N'daily', @limit_tb = 0")
        try:
            failure = client.fails("query", f"SELECT COUNT(*) FROM {FLIGHTS}")
            assert "budget limit for a period is exceeded. (Period = Daily: Limit = 0 TB" in failure.text
            assert client.query("SELECT 1") == [(1,)], "queries that read nothing go on"
        finally:
            client.run("EXEC sp_set_data_processed_limit @type = N'daily', @limit_tb = 2147483647")


def test_an_access_token_logs_in(localazure: Any, database: str) -> None:
    """The same log-in as the dedicated pool's: Entra tokens for database.windows.net."""
    token = localazure.credential().get_token("https://database.windows.net/.default").token
    for client in clients("mssql-python-rust", _serverless(localazure), database=database, token=token):
        assert client.query("SELECT DB_NAME()") == [(database,)]


def test_fifty_connections_at_once(localazure: dict[str, Any], database: str) -> None:
    for client in clients("pymssql", _serverless(localazure), database=database):
        found = client.parallel(50, f"SELECT COUNT(*) FROM {FLIGHTS} WHERE r.filepath(1) = '2013'")
        assert found == [[(ROWS,)]] * 50
