"""azflow's care for the SQL pools, through mssql-python and azure-core: paused with a guard, serverless with a budget,
tables looked after, statements ended."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk.serde import deserialize, serialize
from tds_clients import clients

import azflow.script_trigger
import azflow.synapse
from azflow import sql_execution
from azflow.cloud import Cloud
from azflow.connection import AzureConnection
from azflow.script_trigger import ScriptTrigger
from azflow.sql_pools import SqlPoolChanges, SqlPoolOperator
from azflow.synapse import SynapseSqlOperator, connect

pytestmark = pytest.mark.evidence("sdk")


@pytest.fixture
def connection(localazure: Any, monkeypatch: pytest.MonkeyPatch) -> AzureConnection:
    names = ["tenant_id", "client_id", "client_secret", "subscription_id", "resource_group", "workspace"]
    names += ["synapse_endpoint", "sql_server", "sql_database", "storage_account_url", "container"]
    made = AzureConnection(
        id="azure_default",
        cloud=Cloud(**localazure.cloud()),
        verify=localazure["ca_bundle"],
        synapse_workspace_override=localazure["workspace"],
        sql_serverless_server=localazure["sql_server_ondemand"],
        **{name: localazure[name] for name in names},
    )
    monkeypatch.setattr(AzureConnection, "load", lambda conn_id="azure_default": made)

    async def aload(conn_id: str = "azure_default") -> AzureConnection:
        return made

    monkeypatch.setattr(AzureConnection, "aload", aload)
    return made


@pytest.fixture
def include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sql").mkdir()
    monkeypatch.setattr(azflow.synapse, "INCLUDE", tmp_path)
    return tmp_path


@pytest.fixture
def schema(connection: AzureConnection) -> Iterator[str]:
    """A schema of the test's own."""
    name = f"t_{uuid.uuid4().hex[:8]}"
    execute(connection, f"CREATE SCHEMA {name}")
    yield name
    tables = f"SELECT t.name FROM sys.tables AS t WHERE SCHEMA_NAME(t.schema_id) = '{name}'"
    for (table,) in execute(connection, tables):
        execute(connection, f"DROP TABLE {name}.{table}")


def execute(connection: AzureConnection, text: str) -> list[Any]:
    opened = connect(connection)
    try:
        return sql_execution.run_batch(opened, text, keep_rows=1000).rows
    finally:
        opened.close()


def context(task: str = "t") -> dict[str, Any]:
    ti = SimpleNamespace(
        dag_id="d",
        task_id=task,
        run_id="r",
        map_index=-1,
        task=SimpleNamespace(retries=0),
        max_tries=0,
        xcom_push=lambda key, value: None,
    )
    run = SimpleNamespace(dag_id="d", run_id="r", logical_date=None, run_after=None)
    return {"ti": ti, "dag_run": run, "params": {"partition": "2013-03-08"}}


def prepared(include: Path, script: str, task: str = "t", **arguments: Any) -> tuple[SynapseSqlOperator, Any]:
    (include / "sql" / f"{task}.sql").write_text(script)
    operator = SynapseSqlOperator(task_id=task, sql=f"{task}.sql", **arguments)
    made = context(task)
    operator.render_template_fields(made, jinja2.Environment())  # type: ignore[arg-type]
    return operator, made


def run_sql(include: Path, script: str, **arguments: Any) -> dict[str, Any]:
    operator, made = prepared(include, script, **arguments)
    return operator.execute(made)


def pool(action: Any, **arguments: Any) -> Any:
    operator = SqlPoolOperator(task_id="pool", action=action, **arguments)
    return operator.execute(context("pool"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def flights(localazure: Any) -> tuple[str, str]:
    """(a database of the serverless pool, the folder's address): two years of 24 MB, two columns of equal size."""
    from azure.storage.blob import BlobServiceClient

    name = f"s{uuid.uuid4().hex[:8]}"
    table = pa.table({column: pa.array(range(3 << 19), pa.int64()) for column in ("id", "noise")})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, compression="none", use_dictionary=False)
    with BlobServiceClient(localazure["storage_account_url"], credential=localazure.credential()) as service:
        container = service.get_container_client(localazure["container"])
        if not container.exists():
            container.create_container()
        for year in (2013, 2014):
            container.upload_blob(f"{name}/year={year}/a.parquet", file.getvalue())
    serverless = {**localazure, "sql_server": localazure["sql_server_ondemand"]}
    address = f"https://{localazure['storage_account']}.dfs.core.windows.net/{localazure['container']}/{name}"
    for client in clients("pymssql", serverless, database="master"):
        client.run(f"CREATE DATABASE {name}")
    for client in clients("pymssql", serverless, database=name):
        client.run(f"CREATE EXTERNAL DATA SOURCE lake WITH (LOCATION = '{address}')")
    return name, address  # it stays: mssql-python keeps connections that were closed, and so the database in use


QUERY = """SELECT COUNT_BIG(*) AS n, MAX(r.id) AS last
FROM OPENROWSET(BULK 'year=*/*.parquet', DATA_SOURCE = 'lake', FORMAT = 'PARQUET') AS r
WHERE r.filepath(1) = @year"""


def test_a_serverless_pool_by_name_with_what_it_processed(
    connection: AzureConnection, include: Path, flights: tuple[str, str]
) -> None:
    where = {"sql_pool": "serverless", "database": flights[0]}
    outcome = run_sql(include, QUERY, parameters={"year": 2013}, max_data_processed_mb=15, **where)
    assert outcome["row"] == {"n": 3 << 19, "last": (3 << 19) - 1}
    # Only the column that the query names, of one year: 12 MB and its footer, and what goes between the nodes.
    assert outcome["data_processed"] == {"scanned_mb": 13, "moved_mb": 1, "written_mb": 0, "charged_mb": 14}
    with pytest.raises(
        AirflowFailException, match=r"t\.sql, line 2: it isn't run: its 1 files are about 13 MB"
    ) as refused:
        run_sql(include, QUERY, parameters={"year": 2013}, max_data_processed_mb=11, **where)
    assert "the task may process 11 MB" in str(refused.value)


def test_what_could_not_be_told_before_fails_after(
    connection: AzureConnection, include: Path, flights: tuple[str, str]
) -> None:
    where = {"sql_pool": "serverless", "database": flights[0]}
    source = "OPENROWSET(BULK 'year=*/*.parquet', DATA_SOURCE = 'lake', FORMAT = 'PARQUET') AS r"
    run_sql(include, f"CREATE VIEW dbo.v AS SELECT r.id, r.noise FROM {source}", **where)
    with pytest.raises(AirflowFailException, match=r"the pool processed 50 MB for this task .* it may be 20 MB"):
        run_sql(include, "SELECT MAX(id) AS a, MAX(noise) AS b FROM dbo.v", max_data_processed_mb=20, **where)
    run_sql(
        include,
        "CREATE EXTERNAL FILE FORMAT pq WITH (FORMAT_TYPE = PARQUET)\nGO\nCREATE EXTERNAL TABLE dbo.e (id bigint) "
        "WITH (LOCATION = 'year=2013/*.parquet', DATA_SOURCE = lake, FILE_FORMAT = pq)",
        **where,
    )
    with pytest.raises(AirflowFailException, match="it isn't run: its 1 files are about 13 MB"):
        run_sql(include, "SELECT MAX(id) AS a FROM dbo.e", max_data_processed_mb=11, **where)
    run_sql(include, "EXEC sp_set_data_processed_limit @type = N'daily', @limit_tb = 0", **where)
    try:
        with pytest.raises(AirflowFailException, match=r"budget limit for a period .*The limit is the pool's"):
            run_sql(include, QUERY, parameters={"year": 2013}, **where)
    finally:
        run_sql(include, "EXEC sp_set_data_processed_limit @type = N'daily', @limit_tb = 2147483647", **where)


SLOW = """SELECT COUNT_BIG(*) AS n FROM {0}.n AS a CROSS JOIN {0}.n AS b CROSS JOIN {0}.n AS c CROSS JOIN {0}.n AS d
WHERE a.x * 31 + b.x * 17 + c.x * 7 + d.x > 5"""


@pytest.fixture
def slow(connection: AzureConnection, schema: str) -> str:
    """A statement that runs for minutes."""
    execute(connection, f"CREATE TABLE {schema}.n (x int) WITH (HEAP)")
    execute(connection, f"INSERT INTO {schema}.n SELECT 1" + " UNION ALL SELECT 1" * 399)
    return SLOW.format(schema)


def started(operator: SynapseSqlOperator, made: Any) -> threading.Thread:
    """The task, running in a thread until it is stopped."""

    def work() -> None:
        with contextlib.suppress(AirflowException):
            operator.execute(made)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


RUNNING = "SELECT request_id FROM sys.dm_pdw_exec_requests WHERE [label] = 'azflow:d:{}:r' AND status = 'Running'"


def until(connection: AzureConnection, task: str, running: bool) -> None:
    """Wait until the task's statement is seen, or is gone."""
    begun = time.monotonic()
    while bool(execute(connection, RUNNING.format(task))) != running:
        assert time.monotonic() - begun < 60, f"after a minute it is still {'not ' if running else ''}there"
        time.sleep(0.1)


def test_a_pool_is_not_paused_under_anothers_query(connection: AzureConnection, include: Path, slow: str) -> None:
    operator, made = prepared(include, slow, "report")
    thread = started(operator, made)
    until(connection, "report", True)
    with pytest.raises(AirflowException, match=r"is in use.*\n  QID\d+ of session SID\d+, label 'azflow:d:report:r'"):
        pool("pause")
    operator.on_kill()
    thread.join(10)
    assert pool("pause", wait_minutes=0.2)["status"] == "Paused"
    try:
        assert pool("pause")["status"] == "Paused"  # already
    finally:
        assert pool("resume")["status"] == "Online"
    assert execute(connection, "SELECT 1 AS x") == [[1]]


async def test_the_triggerer_sees_the_pool(connection: AzureConnection) -> None:
    for action, arrived in (("resume", True), ("pause", False)):
        changes = SqlPoolChanges(connection, action)  # type: ignore[arg-type]
        try:
            assert (await changes.astate("pool")).succeeded is arrived
        finally:
            await changes.aclose()


def test_a_stopped_tasks_statement_is_gone(connection: AzureConnection, include: Path, slow: str) -> None:
    operator, made = prepared(include, slow, "stopped")
    thread = started(operator, made)
    until(connection, "stopped", True)
    operator.on_kill()
    until(connection, "stopped", False)
    thread.join(60)
    assert not thread.is_alive()
    label = "azflow:d:stopped:r"
    ends = execute(connection, f"SELECT status FROM sys.dm_pdw_exec_requests WHERE [label] = '{label}'")
    assert {status for (status,) in ends} <= {"Cancelled", "Failed"}


def test_a_session_that_somebody_killed_is_known_as_lost(connection: AzureConnection) -> None:
    runner = sql_execution.Runner(lambda: connect(connection), 1, "dedicated")
    ((session,),) = runner.run_batch("SELECT SESSION_ID() AS s").rows
    execute(connection, f"KILL '{session}'")
    with pytest.raises(sql_execution.StatementFailed) as caught:
        runner.run_batch("SELECT 1 AS x")
    assert caught.value.transient and caught.value.lost, caught.value
    runner.reopen()
    assert runner.run_batch("SELECT 1 AS x").rows == [[1]]
    runner.close()


def test_loaded_tables_are_looked_after_and_the_load_has_its_workload_group(
    connection: AzureConnection, include: Path, schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script = f"""
    CREATE TABLE {schema}.small WITH (DISTRIBUTION = HASH(x), CLUSTERED COLUMNSTORE INDEX) AS SELECT 1 AS x;
    CREATE TABLE {schema}.heap WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS SELECT 1 AS x;
    CREATE STATISTICS s ON {schema}.heap (x);
    """
    execute(
        connection,
        f"CREATE WORKLOAD GROUP g_{schema} WITH (MIN_PERCENTAGE_RESOURCE = 0, "
        "CAP_PERCENTAGE_RESOURCE = 50, REQUEST_MIN_RESOURCE_GRANT_PERCENT = 10)",
    )
    execute(
        connection,
        f"CREATE WORKLOAD CLASSIFIER c_{schema} WITH (WORKLOAD_GROUP = 'g_{schema}', "
        f"MEMBERNAME = 'public', WLM_CONTEXT = '{schema}')",
    )
    try:
        small, heap = run_sql(include, script, check_tables=True, workload_context=schema)["tables"]
        groups = f"SELECT DISTINCT group_name FROM sys.dm_pdw_exec_requests WHERE command LIKE '%TABLE {schema}.small%'"
        assert execute(connection, f"{groups} AND session_id <> SESSION_ID()") == [[f"g_{schema}"]]
    finally:
        execute(connection, f"DROP WORKLOAD CLASSIFIER c_{schema}")
        execute(connection, f"DROP WORKLOAD GROUP g_{schema}")
    assert (small["table"], small["open_rows"], small["row_groups"]) == (f"{schema}.small", 1, 0)
    assert heap == {
        "table": f"{schema}.heap",
        "row_groups": 0,
        "compressed_rows": 0,
        "open_rows": 0,
        "deleted_rows": 0,
        "statistics": 1,
    }
    said = capsys.readouterr().out
    assert f"{schema}.small: 1 of its 1 rows lie uncompressed" in said
    assert f"{schema}.heap: " not in said


def deferred(operator: SynapseSqlOperator, made: dict[str, Any]) -> tuple[ScriptTrigger, dict[str, Any]]:
    """The trigger that the operator defers to, through Airflow's serialization, and what resume gets."""
    with pytest.raises(TaskDeferred) as leaving:
        operator.execute(made)  # type: ignore[arg-type]
    _, arguments = leaving.value.trigger.serialize()
    return ScriptTrigger(**deserialize(serialize(arguments))), dict(leaving.value.kwargs or {})


async def fired(trigger: ScriptTrigger) -> dict[str, Any]:
    event: Any = await anext(trigger.run())
    found: dict[str, Any] = json.loads(json.dumps(event.payload))
    return found


async def test_a_deferred_file_runs_in_the_triggerer(connection: AzureConnection, include: Path, schema: str) -> None:
    script = f"""
    CREATE TABLE {schema}.kept (n int) WITH (HEAP);
    GO
    INSERT INTO {schema}.kept SELECT 1 UNION ALL SELECT 2;
    GO
    SELECT COUNT(*) AS n, @day AS day FROM {schema}.kept;
    """
    operator, made = prepared(include, script, "deferred", deferrable=True, parameters={"day": "2013-03-08"})
    trigger, kwargs = deferred(operator, made)
    result = operator.resume(made, await fired(trigger), **kwargs)  # type: ignore[arg-type]
    assert result["row"] == {"n": 2, "day": "2013-03-08"}
    assert [batch["counts"] for batch in result["batches"]] == [[], [{"affected": 2}], [{"rows": 1}]]

    # Another triggerer takes it over after the first was lost: its session has ended, and nothing runs a second time.
    again = ScriptTrigger(**trigger.serialize()[1])
    event = await fired(again)
    assert event == {"outcome": "lost"}
    with pytest.raises(AirflowException, match=r"was lost; its session has ended\. The file begins again"):
        operator.resume(made, event, **kwargs)  # type: ignore[arg-type]
    assert execute(connection, f"SELECT COUNT(*) FROM {schema}.kept") == [[2]]


async def test_a_deferred_file_that_fails_names_its_line(
    connection: AzureConnection, include: Path, schema: str
) -> None:
    script = f"CREATE TABLE {schema}.a (n int) WITH (HEAP);\nGO\n\nINSERT INTO {schema}.a VALUES ('x');"
    operator, made = prepared(include, script, "deferred", deferrable=True)
    trigger, kwargs = deferred(operator, made)
    with pytest.raises(AirflowFailException, match=r"deferred\.sql, line 4.*Conversion failed"):
        operator.resume(made, await fired(trigger), **kwargs)  # type: ignore[arg-type]


async def test_a_triggerer_ends_the_session_of_the_one_before(
    connection: AzureConnection, include: Path, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, made = prepared(include, slow, "moved", deferrable=True)
    trigger, kwargs = deferred(operator, made)
    waiting = asyncio.create_task(fired(trigger))
    await asyncio.to_thread(until, connection, "moved", True)
    second = ScriptTrigger(**trigger.serialize()[1])
    assert await fired(second) == {"outcome": "lost"}
    await asyncio.to_thread(until, connection, "moved", False)
    with pytest.raises(AirflowException, match="line 1"):  # the first one sees its session gone
        operator.resume(made, await waiting, **kwargs)  # type: ignore[arg-type]

    # A person stops the task: its statement ends with it; a task that is still deferred is left alone.
    operator, made = prepared(include, slow, "stopped_while_deferred", deferrable=True)
    trigger, kwargs = deferred(operator, made)
    trigger.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)  # type: ignore[assignment]
    waiting = asyncio.create_task(fired(trigger))
    await asyncio.to_thread(until, connection, "stopped_while_deferred", True)
    monkeypatch.setattr(azflow.script_trigger, "task_state", lambda *ids: "deferred")
    await trigger.on_kill()
    await asyncio.sleep(0.5)
    assert not waiting.done()
    monkeypatch.setattr(azflow.script_trigger, "task_state", lambda *ids: "failed")
    await trigger.on_kill()
    with pytest.raises(AirflowException, match="the task was stopped"):
        operator.resume(made, await waiting, **kwargs)  # type: ignore[arg-type]
    await asyncio.to_thread(until, connection, "stopped_while_deferred", False)
