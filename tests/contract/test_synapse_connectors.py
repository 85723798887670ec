"""Spark's roads to the SQL pool and to Delta in the lake, out of real notebook runs: what came out is looked at from
the other side, by TDS clients of both SQL pools. And how runs go wrong.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from azure.synapse.artifacts import ArtifactsClient
from synapse_notebooks import code, ended, notebook, publish, submit
from tds_clients import Client, clients

pytestmark = pytest.mark.evidence("sdk")

TYPES = (
    "id int NOT NULL, price decimal(18,4), day date, at datetime2(6), old datetime, v varchar(10), n nvarchar(40),"
    " c char(4), yes bit, t tinyint, s smallint, b bigint, r real, f float, m money, bin varbinary(8), tm time(3),"
    " u uniqueidentifier"
)
ROW = (
    "(1, -12.3456, '2026-01-31', '2026-01-31 23:59:59.123456', '2026-01-31 12:00:00.123', 'it''s', N'žluť', 'ab', 1,"
    " 255, -3, 9007199254740993, 1.5, 0.1, 12.3456, 0x00FF, '23:59:59.123', '6F9619FF-8B86-D011-B42D-00C04FC964FF')"
)
EMPTY = "(2, " + ", ".join(["NULL"] * 17) + ")"

WORK = """
import datetime, json
from decimal import Decimal
from pyspark.sql import functions as F
from com.microsoft.spark.sqlanalytics.Constants import Constants
found = {}

def message(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"

# Types, NULLs, filters and columns that the pool applies.
types = spark.read.synapsesql(f"{pool}.dbo.{table}")
found["schema"] = types.schema.simpleString()
found["rows"] = [[str(value) for value in row] for row in types.orderBy("id").collect()]
chosen = types.filter("price < 0 AND day >= DATE'2026-01-01' AND n = 'žluť'")
chosen = chosen.filter("at = TIMESTAMP'2026-01-31 23:59:59.123456'")
found["filtered"] = [row.id for row in chosen.select("id").collect()]
found["case"] = types.filter("v = 'IT''S'").count()  # the pool compares without case, Spark doesn't
# Every save mode, both kinds of table.
target = f"{pool}.dbo.{table}_copy"
types.drop("tm", "u").write.synapsesql(target)
found["exists"] = message(lambda: types.write.synapsesql(target, Constants.INTERNAL))
types.write.mode("ignore").synapsesql(target)
types.drop("tm", "u").filter("id = 1").withColumn("id", F.lit(3)).write.mode("append").synapsesql(target)
found["unlike"] = message(lambda: types.select("id").write.mode("append").synapsesql(target))
extra = types.select("id").filter("id < 2").write.option(Constants.DATA_SOURCE, f"{table}_source").mode("overwrite")
extra.synapsesql(f"{pool}.dbo.{table}_outside", Constants.EXTERNAL, f"outside/{table}")
found["outside"] = spark.read.synapsesql(f"{pool}.dbo.{table}_outside").count()
# Errors with the pool's own words.
found["missing"] = message(lambda: spark.read.synapsesql(f"{pool}.dbo.nowhere"))
found["login"] = message(lambda: spark.read.option(Constants.USER, "sqladmin").option(Constants.PASSWORD, "Wrong-0ne!")
                         .synapsesql(target))
found["query"] = message(lambda: spark.read.option(Constants.DATABASE, pool).synapsesql("select 1/0 as x").collect())
found["update"] = message(lambda: spark.read.option(Constants.DATABASE, pool)
                          .option(Constants.QUERY, "delete from dbo.x").synapsesql())
found["array"] = message(lambda: spark.sql("SELECT array(1) AS a").write.mode("overwrite").synapsesql(target))
found["account"] = message(lambda: spark.read.parquet("abfss://lake@elsewhere.dfs.core.windows.net/x"))
# Delta: partitions, a partial overwrite, a new column.
delta = f"/{folder}/delta"
flights = spark.range(6).selectExpr("id", "CAST(id % 2 AS INT) AS k", "CAST(id AS DECIMAL(9,2)) / 4 AS d",
                                    "TIMESTAMP'2026-01-31 12:00:00.5' AS at")
flights = flights.withColumn("d", flights.d.cast("decimal(9,2)"))
flights.write.format("delta").partitionBy("k").save(delta)
replaced = flights.filter("k = 1").limit(1).write.format("delta").mode("overwrite").option("replaceWhere", "k = 1")
replaced.save(delta)
wider = flights.limit(1).withColumn("new", F.lit("x")).write.format("delta").mode("append")
wider.option("mergeSchema", "true").save(delta)
found["delta"] = message(lambda: flights.withColumn("odd", F.lit(1)).write.format("delta").mode("append").save(delta))
astray = flights.write.format("delta").mode("overwrite").option("replaceWhere", "k = 1")
found["astray"] = message(lambda: astray.save(delta))
found["versions"] = [spark.read.format("delta").option("versionAsOf", v).load(delta).count() for v in range(3)]
mssparkutils.notebook.exit(json.dumps(found))
"""


@pytest.fixture(scope="module")
def client(localazure: Any) -> Iterator[ArtifactsClient]:
    with ArtifactsClient(localazure.credential(), localazure["synapse_endpoint"]) as made:
        yield made


@pytest.fixture(scope="module")
def pool(localazure: Any) -> Iterator[Client]:
    yield from clients("pymssql", localazure)


@pytest.fixture(scope="module")
def work(client: ArtifactsClient, localazure: Any, pool: Client) -> dict[str, Any]:
    """What the notebook found, and the names it was given."""
    table, folder = f"spark_{uuid.uuid4().hex[:8]}", f"test/{uuid.uuid4().hex}"
    root = f"abfss://{localazure['container']}@{localazure['storage_account']}.dfs.core.windows.net"
    pool.run(
        f"CREATE TABLE dbo.{table} ({TYPES}) WITH (DISTRIBUTION = ROUND_ROBIN, HEAP)",
        f"INSERT INTO dbo.{table} VALUES {ROW}",
        f"INSERT INTO dbo.{table} VALUES {EMPTY}",
        f"CREATE EXTERNAL DATA SOURCE {table}_source WITH (TYPE = HADOOP, LOCATION = '{root}/{folder}')",
    )
    given = {"pool": localazure["sql_database"], "table": table, "folder": folder}
    publish(client, "connectors", notebook(code("pool = table = folder = ''", "parameters"), code(WORK)))
    parameters = {name: {"type": "string", "value": value} for name, value in given.items()}
    result = ended(client, submit(client, localazure["spark_pool"], "connectors", parameters=parameters))
    assert result.error is None, (result.error.evalue, result.error.traceback)
    return given | json.loads(result.exit_value)


def test_types_and_nulls_come_through_exactly(work: dict[str, Any]) -> None:
    assert work["schema"] == (
        "struct<id:int,price:decimal(18,4),day:date,at:timestamp,old:timestamp,v:string,n:string,c:string,yes:boolean,"
        "t:smallint,s:smallint,b:bigint,r:float,f:double,m:decimal(19,4),bin:binary,tm:string,u:string>"
    )
    first, second = work["rows"]
    assert first == [
        "1", "-12.3456", "2026-01-31", "2026-01-31 23:59:59.123456", "2026-01-31 12:00:00.123000", "it's", "žluť",
        "ab  ", "True", "255", "-3", "9007199254740993", "1.5", "0.1", "12.3456", "bytearray(b'\\x00\\xff')",
        "23:59:59.123", "6F9619FF-8B86-D011-B42D-00C04FC964FF",
    ]  # fmt: skip
    assert second == ["2", *["None"] * 17]


def test_columns_and_filters_are_the_pools_work(work: dict[str, Any], pool: Client) -> None:
    assert (work["filtered"], work["case"]) == ([1], 0)
    like = f"CREATE EXTERNAL TABLE%FROM [[]dbo].[[]{work['table']}]%WHERE%"
    rows = pool.query(f"SELECT command FROM sys.dm_pdw_exec_requests WHERE command LIKE '{like}'")
    (sent,) = [command for (command,) in rows if "[price] < 0" in command]
    assert "[day] >= '2026-01-01'" in sent and "[n] = N'žluť'" in sent
    assert "[b]" not in sent, "a column that nobody asked for was unloaded"


def test_tables_are_written_in_every_mode(work: dict[str, Any], pool: Client) -> None:
    copy = f"dbo.{work['table']}_copy"
    assert pool.query(f"SELECT id, price, day, n, yes, b, f FROM {copy} ORDER BY id")[2][0] == 3
    (price, text) = pool.query(f"SELECT price, n FROM {copy} WHERE id = 1")[0]
    assert (price, text) == (Decimal("-12.3456"), "žluť")
    columns = dict(
        pool.query(f"SELECT name, TYPE_NAME(user_type_id) FROM sys.columns WHERE object_id = OBJECT_ID('{copy}')")
    )
    assert columns["price"] == "decimal" and columns["at"] == "datetime2" and columns["n"] == "nvarchar"
    assert "the table exists already and the save mode is errorifexists" in work["exists"]
    assert "the DataFrame has no column 'price'" in work["unlike"]
    assert work["outside"] == 1
    assert pool.query(f"SELECT COUNT(*) FROM dbo.{work['table']}_outside") == [(1,)]


def test_nothing_is_left_behind(work: dict[str, Any], pool: Client) -> None:
    assert pool.query("SELECT name FROM sys.external_tables WHERE name LIKE 'SparkConnector%'") == []
    assert pool.query("SELECT name FROM sys.external_data_sources WHERE name LIKE 'SparkConnector%'") == []


def test_errors_are_the_pools_words(work: dict[str, Any]) -> None:
    assert "SQLAnalyticsConnectorException: Reading" in work["missing"]
    assert "Invalid object name 'dbo.nowhere'" in work["missing"]
    assert "Login failed for user 'sqladmin'" in work["login"] and "Wrong-0ne" not in work["login"]
    assert "SQLAnalyticsConnectorException: Reading the query: " in work["query"]
    assert "Divide by zero" in work["query"]
    assert "Only SELECT queries" in work["update"]
    assert "column 'a' is array<int>" in work["array"]
    assert "storage account 'elsewhere' isn't this workspace's" in work["account"]


def test_delta_is_read_by_the_serverless_pool(work: dict[str, Any], localazure: Any) -> None:
    assert "[DELTA_SCHEMA_MISMATCH]" in work["delta"] and "no column odd" in work["delta"]
    assert "[DELTA_REPLACE_WHERE_MISMATCH]" in work["astray"]
    assert work["versions"] == [6, 4, 5]
    root = f"https://{localazure['storage_account']}.dfs.core.windows.net/{localazure['container']}"
    serverless = {**localazure, "sql_server": localazure["sql_server_ondemand"]}
    for client in clients("pymssql", serverless, database="master"):
        rows = client.query(
            f"SELECT id, k, d, new FROM OPENROWSET(BULK '{root}/{work['folder']}/delta', FORMAT = 'DELTA') AS r"
            " ORDER BY id, new"
        )
    assert rows == [
        (0, 0, Decimal("0.00"), None),
        (0, 0, Decimal("0.00"), "x"),
        (1, 1, Decimal("0.25"), None),
        (2, 0, Decimal("0.50"), None),
        (4, 0, Decimal("1.00"), None),
    ]


# What goes wrong.
BAD = {
    "python": ("kept = []\nwhile True:\n    kept.append(bytearray(100_000_000))", "MemoryError", "Error in cell 1:"),
    "jvm": ("spark.range(1).selectExpr('sequence(id, 400000000)').collect()", "OutOfMemoryError", "Error in cell 1:"),
    "executor": ("def fail(x): raise KeyError('row 7')\nsc.parallelize([1]).map(fail).collect()", "row 7", "cell 1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_cell_that_fails_says_where_and_why(client: ArtifactsClient, localazure: Any, kind: str) -> None:
    source, why, where = BAD[kind]
    publish(client, f"bad-{kind}", notebook(code("x = 1"), code(source), code("raise SystemExit('not reached')")))
    result = ended(client, submit(client, localazure["spark_pool"], f"bad-{kind}"))
    assert result.run_status == "Failed"
    told = f"{result.error.ename}: {result.error.evalue}"
    assert why in told, told
    assert where in "\n".join(result.error.traceback)


def test_no_process_is_left_of_a_run(client: ArtifactsClient, localazure: Any) -> None:
    """One that was cancelled in the middle of Spark's work: kernel and JVM are gone soon."""
    publish(client, "endless", notebook(code("spark.range(10**12).selectExpr('sum(id * rand())').collect()")))
    run = submit(client, localazure["spark_pool"], "endless")
    while client.run_notebook.get_status(run).result.run_status == "Starting":
        time.sleep(0.2)
    session = client.run_notebook.get_status(run).result.session_id
    folder = f"{localazure.home}/spark/{session}"
    assert _processes(folder), "the session's processes weren't found"
    began = time.monotonic()
    client.run_notebook.cancel_run(run)
    while left := _processes(folder):
        assert time.monotonic() - began < 60, left
        time.sleep(0.1)


def _processes(folder: str) -> list[str]:
    """Processes whose environment or command names a session's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if f"{folder}/".encode() in text + b"/" and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
    return found
