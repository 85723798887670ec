"""Lake databases: what one notebook run leaves in the workspace's catalogue, another one and the serverless SQL pool
find. https://learn.microsoft.com/azure/synapse-analytics/metadata/table
"""

from __future__ import annotations

import datetime
import json
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from azure.synapse.artifacts import ArtifactsClient
from synapse_notebooks import code, ended, notebook, publish, submit
from tds_clients import Client, clients

pytestmark = pytest.mark.evidence("sdk")

WRITE = """
import json
found = {}

def message(statement):
    try:
        spark.sql(statement) if isinstance(statement, str) else statement()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"

spark.sql(f"CREATE DATABASE {db} COMMENT 'of a test'")
spark.sql(f"USE {db}")
# Spark's own formats: managed, partitioned, external.
rows = [(1, 'a', True, 2.5, ['x']), (2, None, False, None, None)]
goods = spark.createDataFrame(rows, 'id int, Name string, ok boolean, price double, tags array<string>')
goods.selectExpr('*', 'CAST(price AS DECIMAL(9,2)) AS exact', "DATE'2026-01-31' AS day",
                 "TIMESTAMP'2026-01-31 12:00:00' AS at").write.saveAsTable('goods')
goods.select('id', 'ok').write.partitionBy('ok').mode('overwrite').saveAsTable('parts')
spark.sql("INSERT INTO parts VALUES (3, true)")
spark.sql("INSERT OVERWRITE parts PARTITION (ok = false) VALUES (9)")
columns = "id INT, ok BOOLEAN, word STRING"
spark.sql(f"CREATE TABLE texts ({columns}) USING csv OPTIONS (header 'true') LOCATION '{root}/texts'")
spark.sql("INSERT INTO texts VALUES (1, true, 'a,b'), (2, false, NULL)")
# Delta by SQL, by a writer, by its class.
spark.sql("CREATE TABLE moves (id INT, day DATE) USING delta PARTITIONED BY (day)")
spark.sql("INSERT INTO moves VALUES (1, DATE'2026-01-01'), (2, DATE'2026-01-02'), (3, DATE'2026-01-02')")
spark.sql("SELECT 4 AS id, DATE'2026-01-03' AS day").write.format('delta').mode('append').saveAsTable('moves')
spark.sql("INSERT OVERWRITE moves PARTITION (day = '2026-01-03') SELECT 5")
spark.sql("UPDATE moves SET id = id + 10 WHERE id = 1")
spark.sql("DELETE FROM moves WHERE id = 3")
spark.sql(f"CREATE TABLE mirrored USING delta LOCATION '{root}/mirrored' AS SELECT * FROM moves")
from delta.tables import DeltaTable
found['named'] = DeltaTable.forName(spark, f'{db}.mirrored').toDF().count()
spark.sql("CREATE VIEW both AS SELECT m.id, g.name FROM moves m LEFT JOIN goods g ON m.id = g.id")
# What is refused, and how.
found['twice'] = message("CREATE TABLE goods (a INT) USING delta")
found['unlike'] = message("INSERT INTO moves VALUES ('word', DATE'2026-01-01')")
found['full'] = message(f"DROP DATABASE {db}")
found['elsewhere'] = message("CREATE TABLE local (a INT) USING parquet LOCATION '/local'")
found['merge'] = message("MERGE INTO moves USING goods g ON moves.id = g.id WHEN MATCHED THEN DELETE")
found['scala'] = message(lambda: spark._jsparkSession.sql("INSERT INTO moves VALUES (1, DATE'2026-01-01')"))
mssparkutils.notebook.exit(json.dumps(found))
"""

READ = """
import json
found = {"current": spark.catalog.currentDatabase(), "tables": [t.name for t in spark.catalog.listTables(db)]}
spark.sql(f"USE {db}")
for table in ("goods", "parts", "texts", "moves", "mirrored", "both"):
    found[table] = [[str(v) for v in row] for row in spark.table(table).orderBy("id").collect()]
found["type"] = {t.name: t.tableType for t in spark.catalog.listTables()}
found["create"] = spark.sql("SHOW CREATE TABLE mirrored").first()[0]
found["jvm"] = spark._jsparkSession.sql(f"SELECT count(*) FROM moves").first().get(0)
goods = spark.catalog.getDatabase(db).locationUri + "/goods"
found["files"] = [file.name.rpartition(".")[2] for file in notebookutils.fs.ls(goods) if file.name[0] != "_"]
spark.sql("DROP TABLE goods")
found["gone"] = (notebookutils.fs.exists(goods), spark.catalog.tableExists("goods"))
spark.sql("DROP TABLE texts")
found["external"] = notebookutils.fs.exists(f"{root}/texts/_SUCCESS")
mssparkutils.notebook.exit(json.dumps(found))
"""


@pytest.fixture(scope="module")
def names(localazure: Any) -> dict[str, str]:
    """The parameters of both notebooks."""
    root = f"abfss://{localazure['container']}@{localazure['storage_account']}.dfs.core.windows.net"
    return {"db": f"lake_{uuid.uuid4().hex[:8]}", "root": f"{root}/test/{uuid.uuid4().hex}"}


@pytest.fixture(scope="module")
def run(localazure: Any, names: dict[str, str]) -> Iterator[Any]:
    """Runs cells in a session of their own; what they exit with."""
    with ArtifactsClient(localazure.credential(), localazure["synapse_endpoint"]) as client:

        def run(source: str) -> Any:
            name = f"lake_{uuid.uuid4().hex[:8]}"
            publish(client, name, notebook(code("db = root = ''", "parameters"), code(source)))
            given = {key: {"type": "string", "value": value} for key, value in names.items()}
            result = ended(client, submit(client, localazure["spark_pool"], name, parameters=given))
            assert result.error is None, (result.error.evalue, result.error.traceback)
            return json.loads(result.exit_value) if result.exit_value else None

        yield run


@pytest.fixture(scope="module")
def written(run: Any) -> dict[str, Any]:
    found: dict[str, Any] = run(WRITE)
    return found


@pytest.fixture(scope="module")
def serverless(localazure: dict[str, Any], written: dict[str, Any]) -> Iterator[Client]:
    """A client of the pool's master database, once it shows the lake database's tables."""
    yield from clients("pymssql", {**localazure, "sql_server": localazure["sql_server_ondemand"]}, database="master")


def test_what_is_refused(written: dict[str, Any]) -> None:
    assert written.pop("named") == 3
    for key, words in {
        "twice": "[TABLE_OR_VIEW_ALREADY_EXISTS]",
        "unlike": "cannot safely cast `id` from string to int",
        "full": "[SCHEMA_NOT_EMPTY]",
        "elsewhere": "lies in the lake, at an abfss:// path, not at '/local'",
        "merge": "MERGE in Spark SQL is not implemented by localazure's Spark; use DeltaTable.forName",
        "scala": "a Delta table is written by Python",
    }.items():
        assert words in written[key], (key, written[key])


def test_the_serverless_pool_reads_them(serverless: Client, names: dict[str, str]) -> None:
    db = names["db"]
    # On Azure as well a database takes a moment to appear.
    end = time.monotonic() + 60
    while not serverless.query(f"SELECT name FROM sys.databases WHERE name = '{db}'"):
        assert time.monotonic() < end, "the serverless pool doesn't show the database"
        time.sleep(0.2)
    serverless.run(f"USE {db}")
    tables = serverless.query("SELECT name FROM sys.external_tables ORDER BY name")
    assert [name for (name,) in tables] == ["goods", "mirrored", "moves", "parts", "texts"]
    day, at = datetime.date(2026, 1, 31), datetime.datetime(2026, 1, 31, 12)
    assert serverless.query(f"SELECT * FROM {db}.dbo.goods ORDER BY id") == [
        (1, "a", True, 2.5, '["x"]', Decimal("2.50"), day, at),
        (2, None, False, None, None, None, day, at),
    ]
    types = serverless.query(
        "SELECT column_name, data_type, character_maximum_length FROM information_schema.columns"
        " WHERE table_name IN ('goods', 'texts') ORDER BY table_name, ordinal_position"
    )
    assert types == [
        ("id", "int", None), ("Name", "varchar", 8000), ("ok", "bit", None), ("price", "float", None),
        ("tags", "varchar", -1), ("exact", "decimal", None), ("day", "date", None), ("at", "datetime2", None),
        ("id", "int", None), ("ok", "varchar", 6), ("word", "varchar", 8000),
    ]  # fmt: skip
    assert serverless.query(f"SELECT ok, COUNT(*), MAX(id) FROM {db}.dbo.parts GROUP BY ok ORDER BY ok") == [
        (False, 1, 9), (True, 2, 3),
    ]  # fmt: skip
    assert serverless.query(f"SELECT id FROM {db}.dbo.parts WHERE ok = 0") == [(9,)]
    assert serverless.query(f"SELECT * FROM {db}.dbo.texts ORDER BY id") == [(1, "true", "a,b"), (2, "false", None)]
    assert serverless.query(f"SELECT id, day FROM {db}.dbo.moves WHERE day > '2026-01-01' ORDER BY id") == [
        (2, datetime.date(2026, 1, 2)), (5, datetime.date(2026, 1, 3)),
    ]  # fmt: skip


def test_it_changes_nothing_of_sparks(serverless: Client, names: dict[str, str]) -> None:
    db = names["db"]
    for statement, operation in {
        "CREATE EXTERNAL DATA SOURCE d WITH (LOCATION = 'https://a.blob.core.windows.net/b')": (
            "CREATE EXTERNAL DATA SOURCE"
        ),
        "DROP EXTERNAL TABLE dbo.goods": "DROP EXTERNAL TABLE",
        "CREATE VIEW dbo.v AS SELECT 1 AS x": "CREATE/ALTER VIEW",
        "CREATE DATABASE SCOPED CREDENTIAL c WITH IDENTITY = 'Managed Identity'": ("CREATE DATABASE SCOPED CREDENTIAL"),
        f"DROP DATABASE {db}": "DROP DATABASE",
    }.items():
        words = f"Operation {operation} is not allowed for a replicated database."
        assert words in serverless.fails("run", statement).text
    serverless.run("CREATE SCHEMA mine", "CREATE VIEW mine.v AS SELECT id FROM dbo.goods")
    assert serverless.query(f"SELECT COUNT(*) FROM {db}.mine.v") == [(2,)]
    serverless.run("USE master")


def test_another_session_finds_them(
    run: Any, written: dict[str, Any], names: dict[str, str], serverless: Client
) -> None:
    found = run(READ)
    assert found["current"] == "default"
    assert found["tables"] == ["both", "goods", "mirrored", "moves", "parts", "texts"]
    assert found["goods"][0][:4] == ["1", "a", "True", "2.5"]
    assert found["parts"] == [["1", "True"], ["3", "True"], ["9", "False"]]
    assert found["texts"] == [["1", "True", "a,b"], ["2", "False", "None"]]
    moves = [["2", "2026-01-02"], ["5", "2026-01-03"], ["11", "2026-01-01"]]
    assert (found["moves"], found["mirrored"], found["jvm"]) == (moves, moves, 3)
    assert found["both"] == [["2", "None"], ["5", "None"], ["11", "None"]]
    assert found["type"] == {
        "both": "VIEW", "goods": "MANAGED", "mirrored": "EXTERNAL", "moves": "MANAGED", "parts": "MANAGED",
        "texts": "EXTERNAL",
    }  # fmt: skip
    assert "USING delta" in found["create"] and f"LOCATION '{names['root']}/mirrored'" in found["create"]
    assert set(found["files"]) == {"parquet"}
    assert (found["gone"], found["external"]) == ([False, False], True)
    # The pool follows, and forgets the database with Spark.
    run("spark.sql(f'DROP DATABASE {db} CASCADE')")
    end = time.monotonic() + 60
    while serverless.query(f"SELECT name FROM sys.databases WHERE name = '{names['db']}'"):
        assert time.monotonic() < end, "the serverless pool still shows the database"
        time.sleep(0.2)
