"""azflow's care for the SQL pools, through mssql-python and azure-core: paused with a guard, serverless with a budget,
tables looked after, statements ended."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk.exceptions import AirflowException

import azflow.synapse
from azflow import sql_execution
from azflow.cloud import Cloud
from azflow.connection import AzureConnection
from azflow.sql_pools import SqlPoolOperator
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


def until(connection: AzureConnection, task: str, running: bool, seconds: float = 5) -> float:
    """Wait until the task's statement is seen, or is gone; how long that took."""
    begun = time.monotonic()
    while bool(execute(connection, RUNNING.format(task))) != running:
        assert time.monotonic() - begun < seconds, f"after {seconds} s it is still {'not ' if running else ''}there"
        time.sleep(0.1)
    return time.monotonic() - begun


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
