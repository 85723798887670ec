"""azflow's data side against localazure: T-SQL files, notebooks, arrival, quality, report.

Evidence: `sdk` for what the clients (mssql-python, azure-synapse-artifacts, azure-storage-blob, Great Expectations)
accept, `stand-in only` for the rest.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

import azflow.quality
import azflow.synapse
from azflow import arrival, exports, notebook_files, notebook_runs, quality, sql_execution
from azflow.arrival import BlobArrivalSensor
from azflow.cloud import Cloud
from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, QualityFailed, RunExists, SqlFailed
from azflow.pushdown import Rows, validate
from azflow.quality import ExpectationsOperator
from azflow.report import publish_page
from azflow.synapse import SynapseSqlHook, SynapseSqlOperator, connect


def described(localazure: Any, **changed: Any) -> AzureConnection:
    """localazure's connection.json as an azflow connection."""
    names = ["tenant_id", "client_id", "client_secret", "subscription_id", "resource_group", "workspace"]
    names += ["synapse_endpoint", "spark_pool", "sql_server", "sql_database", "storage_account_url", "container"]
    settings = {name: localazure[name] for name in names}
    return AzureConnection(
        id="azure_default", cloud=Cloud(**localazure.cloud()), verify=localazure["ca_bundle"], **(settings | changed)
    )


@pytest.fixture(params=["entra", "password"])
def connection(localazure: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AzureConnection:
    """By token and by password, as far as it makes a difference (SQL)."""
    return _connection(localazure, monkeypatch, request.param)


@pytest.fixture
def by_token(localazure: Any, monkeypatch: pytest.MonkeyPatch) -> AzureConnection:
    return _connection(localazure, monkeypatch, "entra")


def _connection(localazure: Any, monkeypatch: pytest.MonkeyPatch, authentication: str) -> AzureConnection:
    login = {"sql_login": localazure["sql_login"], "sql_password": localazure["sql_password"]}
    made = described(localazure, sql_authentication=authentication, **(login if authentication == "password" else {}))
    monkeypatch.setattr(AzureConnection, "load", lambda conn_id="azure_default": made)
    return made


@pytest.fixture
def include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("sql", "expectations"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(azflow.synapse, "INCLUDE", tmp_path)
    monkeypatch.setattr(azflow.quality, "INCLUDE", tmp_path)
    return tmp_path


@pytest.fixture
def schema(by_token: AzureConnection) -> Iterator[str]:
    """A schema of the test's own."""
    name = f"t_{uuid.uuid4().hex[:8]}"
    execute(by_token, f"CREATE SCHEMA {name}")
    yield name
    for table in [
        row[0]
        for row in execute(by_token, f"SELECT t.name FROM sys.tables AS t WHERE SCHEMA_NAME(t.schema_id) = '{name}'")
    ]:
        execute(by_token, f"DROP TABLE {name}.{table}")


def execute(connection: AzureConnection, text: str) -> list[Any]:
    opened = connect(connection)
    try:
        return sql_execution.run_batch(opened, text, keep_rows=1000).rows
    finally:
        opened.close()


def context(xcoms: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    pushed = {} if xcoms is None else xcoms
    ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, xcom_push=pushed.__setitem__)
    run = SimpleNamespace(dag_id="d", run_id="r", logical_date=None, run_after=None)
    return {"ti": ti, "dag_run": run, "params": {"partition": "2013-03-08", **params}}


def run_sql(include: Path, script: str, **arguments: Any) -> dict[str, Any]:
    (include / "sql" / "script.sql").write_text(script)
    operator = SynapseSqlOperator(task_id="t", sql="script.sql", **arguments)
    made = context()
    operator.render_template_fields(made, jinja2.Environment())  # type: ignore[arg-type]
    return operator.execute(made)  # type: ignore[arg-type]


# T-SQL


def test_a_script_of_several_batches_runs_and_counts(connection: AzureConnection, include: Path, schema: str) -> None:
    script = f"""
    CREATE TABLE {schema}.flights (id int, d date, carrier varchar(2)) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN);
    INSERT INTO {schema}.flights
    SELECT 1, '2013-03-08', 'AA' UNION ALL SELECT 2, '2013-03-08', 'UA' UNION ALL SELECT 3, '2013-03-07', 'AA';
    GO
    CREATE TABLE {schema}.day WITH (DISTRIBUTION = HASH(id), CLUSTERED COLUMNSTORE INDEX)
    AS SELECT id, carrier FROM {schema}.flights WHERE d = @day; -- really?
    UPDATE STATISTICS {schema}.day;
    GO
    SELECT carrier, COUNT(*) AS n FROM {schema}.day GROUP BY carrier ORDER BY carrier;
    """
    outcome = run_sql(include, script, parameters={"day": "{{ night.partition }}"})
    assert outcome["columns"] == ["carrier", "n"]
    assert outcome["rows"] == [["AA", 1], ["UA", 1]]
    assert {"affected": 3} in outcome["batches"][0]["counts"]


def test_labels_reach_the_pools_request_view(by_token: AzureConnection, include: Path, schema: str) -> None:
    run_sql(include, f"CREATE TABLE {schema}.a WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS SELECT 1 AS x")
    labels = execute(by_token, "SELECT [label] FROM sys.dm_pdw_exec_requests WHERE [label] = 'azflow:d:t:r'")
    assert labels


def test_an_error_names_number_and_line(by_token: AzureConnection, include: Path) -> None:
    with pytest.raises(
        AirflowException, match=r"script\.sql, line 4: Invalid object name 'no_such_table'.*\(error 208\)"
    ) as caught:
        run_sql(include, "SELECT 1 AS one\nGO\nSELECT x\nFROM no_such_table")
    assert isinstance(caught.value.__cause__, SqlFailed)
    assert caught.value.__cause__.number == 208


def test_the_failing_statement_of_a_batch_is_found(by_token: AzureConnection, include: Path, schema: str) -> None:
    table = f"{schema}.a"
    script = f"CREATE TABLE {table} (x int) WITH (HEAP)\nINSERT INTO {table} SELECT 1\n"
    script += f"INSERT INTO {table} SELECT CAST('z' AS int)"
    with pytest.raises(AirflowException, match=r"script\.sql, line 3: ") as caught:
        run_sql(include, script)
    assert isinstance(caught.value.__cause__, SqlFailed)
    assert caught.value.__cause__.number == 245


def test_values_are_bound_never_pasted(connection: AzureConnection, include: Path) -> None:
    nasty = "'; DROP TABLE x; --"
    outcome = run_sql(
        include,
        "SELECT @text AS t, @number AS n, @real AS r, @flag AS f, @nothing AS z",
        parameters={"text": nasty, "number": 7, "real": 1.5, "flag": True, "nothing": None},
    )
    assert outcome["row"] == {"t": nasty, "n": 7, "r": 1.5, "f": True, "z": None}


def test_a_wrong_password_names_the_connection(localazure: Any, by_token: AzureConnection) -> None:
    wrong = described(
        localazure, sql_authentication="password", sql_login=localazure["sql_login"], sql_password="local-only~wrong"
    )
    with pytest.raises(AccessDenied, match="'azure_default' was refused"):
        connect(wrong)


def test_a_wrong_secret_names_the_connection(localazure: Any, by_token: AzureConnection) -> None:
    with pytest.raises(AccessDenied, match=r"'azure_default' was refused.*AADSTS7000215"):
        connect(described(localazure, client_secret="local-only~wrong"))


EXPORT = """
IF NOT EXISTS (SELECT * FROM sys.external_data_sources WHERE name = 'lake_of_{0}')
    CREATE EXTERNAL DATA SOURCE lake_of_{0} WITH (TYPE = HADOOP, LOCATION = '{{{{ azure.lake_abfss_url }}}}');
IF NOT EXISTS (SELECT * FROM sys.external_file_formats WHERE name = 'parquet_of_{0}')
    CREATE EXTERNAL FILE FORMAT parquet_of_{0} WITH (FORMAT_TYPE = PARQUET);
IF EXISTS (SELECT * FROM sys.external_tables WHERE name = 'out' AND schema_id = SCHEMA_ID('{0}'))
    DROP EXTERNAL TABLE {0}.out;
GO
CREATE EXTERNAL TABLE {0}.out
WITH (LOCATION = '/export/{0}/', DATA_SOURCE = lake_of_{0}, FILE_FORMAT = parquet_of_{0})
AS SELECT 1 AS x UNION ALL SELECT 2;
GO
SELECT COUNT(*) AS n FROM {0}.out;
"""


def test_an_export_that_is_run_twice_holds_its_rows_once(by_token: AzureConnection, include: Path, schema: str) -> None:
    for _ in range(2):
        assert run_sql(include, EXPORT.format(schema))["row"] == {"n": 2}
    assert exports.inspect(by_token, f"export/{schema}").rows == 2
    # Without emptying it would hold them twice: the pool itself leaves what is there.
    again = EXPORT.format(schema).replace("CREATE EXTERNAL TABLE", "IF 1 = 1 CREATE EXTERNAL TABLE")
    assert run_sql(include, again)["row"] == {"n": 4}
    execute(by_token, f"DROP EXTERNAL TABLE {schema}.out")


SLOW = """SELECT COUNT_BIG(*) AS n FROM {0}.n AS a CROSS JOIN {0}.n AS b CROSS JOIN {0}.n AS c CROSS JOIN {0}.n AS d
WHERE a.x * 31 + b.x * 17 + c.x * 7 + d.x > 5"""


def test_a_stopped_task_ends_its_statement_on_the_server(by_token: AzureConnection, include: Path, schema: str) -> None:
    execute(by_token, f"CREATE TABLE {schema}.n (x int) WITH (HEAP)")
    execute(by_token, f"INSERT INTO {schema}.n SELECT 1" + " UNION ALL SELECT 1" * 399)
    (include / "sql" / "script.sql").write_text(SLOW.format(schema))
    operator = SynapseSqlOperator(task_id="t", sql="script.sql")
    made = context()
    operator.render_template_fields(made, jinja2.Environment())  # type: ignore[arg-type]
    threading.Timer(1.0, operator.on_kill).start()
    with pytest.raises(
        AirflowException, match=r"script\.sql, line 1: the batch was (cancelled|ended).*the task was stopped"
    ):
        operator.execute(made)  # type: ignore[arg-type]
    until = time.monotonic() + 60
    running = "SELECT [label] FROM sys.dm_pdw_exec_requests WHERE [label] = 'azflow:d:t:r' AND status = 'Running'"
    while execute(by_token, running) and time.monotonic() < until:
        time.sleep(0.2)
    assert execute(by_token, running) == []
    assert execute(by_token, "SELECT 1 AS x") == [[1]]


def test_airflows_own_sql_works_over_the_hook(by_token: AzureConnection) -> None:
    hook = SynapseSqlHook("azure_default")
    assert hook.get_first("SELECT 40 + ? AS x", parameters=(2,))[0] == 42
    with hook.get_sqlalchemy_engine().connect() as opened:
        assert opened.exec_driver_sql("SELECT 7").scalar() == 7


# notebooks


def notebook(*sources: str) -> dict[str, Any]:
    tags: list[dict[str, Any]] = [{"tags": ["parameters"]}, *({} for _ in sources[1:])]
    cells = [
        {"cell_type": "code", "metadata": tag, "source": source.splitlines(keepends=True), "outputs": []}
        for tag, source in zip(tags, sources, strict=True)
    ]
    return {"nbformat": 4, "nbformat_minor": 2, "metadata": {"language_info": {"name": "python"}}, "cells": cells}


def payload(content: dict[str, Any], pool: str, **parameters: Any) -> dict[str, Any]:
    return {
        "notebook": notebook_files.artifact_name("contract", content),
        "content": content,
        "spark_pool": pool,
        "parameters": notebook_files.typed_parameters(parameters, "contract.ipynb"),
        "session_options": {},
    }


def finished(runs: notebook_runs.SynapseNotebookRuns, id: str, seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (state := runs.state(id)).is_terminal:
            return state
        time.sleep(0.5)
    raise AssertionError(f"notebook run {id} is still {runs.state(id)} after {seconds} s")


def test_a_notebook_runs_once_and_its_exit_value_comes_back(by_token: AzureConnection) -> None:
    runs = notebook_runs.SynapseNotebookRuns(by_token)
    content = notebook(
        "rows = 1\nday = ''\nfast = False",
        "import json\nfrom notebookutils import mssparkutils\n"
        "mssparkutils.notebook.exit(json.dumps({'rows': rows * 2, 'day': day, 'fast': fast}))",
    )
    id = str(uuid.uuid4())
    assert runs.lookup(id) is None
    sent = payload(content, by_token.spark_pool, rows=21, day="2013-03-08", fast=True)
    assert runs.submit(id, sent, {}) == id
    found = runs.lookup(id)
    assert found is not None and found.id == id
    with contextlib.suppress(RunExists):  # the service may refuse a second PUT or take it as the first
        assert runs.submit(id, sent, {}) == id
    assert finished(runs, id).succeeded
    assert runs.result(id)["exit_value"] == {"rows": 42, "day": "2013-03-08", "fast": True}


async def test_a_failed_notebook_tells_cell_error_and_trace(by_token: AzureConnection) -> None:
    runs = notebook_runs.SynapseNotebookRuns(by_token)
    id = str(uuid.uuid4())
    runs.submit(id, payload(notebook("a = 1", "\n\nb = {}\nb['missing']"), by_token.spark_pool), {})
    assert finished(runs, id).phase == "failed"
    try:
        assert (await runs.astate(id)).phase == "failed"
    finally:
        await runs.aclose()
    failure = runs.failure(id)
    assert failure.cause.startswith("KeyError: 'missing'")
    assert "which begins with: b = {}" in failure.cause
    assert any("b['missing']" in line for line in failure.log_tail)
    assert not failure.retry_helps


def test_a_cancelled_notebook_is_cancelled(by_token: AzureConnection) -> None:
    runs = notebook_runs.SynapseNotebookRuns(by_token)
    id = str(uuid.uuid4())
    runs.submit(id, payload(notebook("a = 1", "import time\ntime.sleep(300)"), by_token.spark_pool), {})
    time.sleep(2)
    runs.cancel(id)
    assert finished(runs, id, 30).phase == "cancelled"
    runs.cancel(id)  # over already: no error


# the lake


def blob(connection: AzureConnection, path: str, content: bytes = b"") -> None:
    with connection.blob_service() as service:
        service.get_blob_client(connection.container, path).upload_blob(content, overwrite=True)


def test_the_sensor_sees_the_marker(by_token: AzureConnection) -> None:
    folder = f"landing/{uuid.uuid4().hex}"
    sensor = BlobArrivalSensor(task_id="t", blob=f"{folder}/_SUCCESS", timeout_minutes=0.02, grace_seconds=3)
    blob(by_token, f"{folder}/flights.csv", b"a,b\n")
    with pytest.raises(AirflowException, match=rf"{folder}/_SUCCESS \(waited for since .*flights\.csv \(4 bytes, "):
        sensor.execute({})
    blob(by_token, f"{folder}/_SUCCESS")
    found = sensor.execute({})
    assert found["path"] == f"{folder}/_SUCCESS"
    assert found["size"] == 0 and found["etag"]


async def test_the_trigger_sees_the_marker(by_token: AzureConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    async def aload(conn_id: str = "azure_default") -> AzureConnection:
        return by_token

    monkeypatch.setattr(AzureConnection, "aload", staticmethod(aload))
    path, now = f"landing/{uuid.uuid4().hex}/_SUCCESS", time.time()
    trigger = arrival.BlobArrivalTrigger(
        conn_id="azure_default",
        container=by_token.container,
        path=path,
        started=now,
        deadline=now + 20,
        poke_interval=0.3,
    )
    timer = threading.Timer(1.0, blob, (by_token, path))
    timer.start()
    events = [event.payload async for event in trigger.run()]
    timer.join()
    assert events == [{"outcome": "there", "started": now}]


def test_a_wrong_secret_stops_the_sensor(
    localazure: Any, by_token: AzureConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = described(localazure, client_secret="local-only~wrong")
    monkeypatch.setattr(AzureConnection, "load", lambda conn_id="azure_default": wrong)
    with pytest.raises(AirflowFailException, match="Connection 'azure_default' was refused"):
        BlobArrivalSensor(task_id="t", blob="x/_SUCCESS").execute({})


def test_a_page_can_be_written_and_read(by_token: AzureConnection) -> None:
    path = f"reports/{uuid.uuid4().hex}.html"
    url = publish_page(by_token, path, "<p>ü</p>")
    assert url.endswith(path)
    with by_token.blob_service() as service:
        client = service.get_blob_client(by_token.container, path)
        assert client.download_blob().readall() == "<p>ü</p>".encode()
        assert client.get_blob_properties().content_settings.content_type == "text/html; charset=utf-8"


# quality


@pytest.fixture
def features(by_token: AzureConnection, schema: str) -> str:
    table = f"{schema}.features"
    columns = "flight_id bigint, flight_date date, carrier varchar(2), temp float, late bit"
    execute(by_token, f"CREATE TABLE {table} ({columns}) WITH (HEAP)")
    rows = []
    for n in range(80):
        day, carrier, temp = f"2013-03-0{7 + n // 40}", "AA" if n % 2 else "UA", "NULL" if n % 9 == 0 else 20.5 + n
        rows.append(f"SELECT {n}, '{day}', '{carrier}', {temp}, {int(n % 5 == 0)}")
    execute(by_token, f"INSERT INTO {table} {' UNION ALL '.join(rows)}")
    return table


def checks(include: Path, *expectations: dict[str, Any]) -> None:
    content = {"name": "s", "meta": {"partition_column": "flight_date"}, "expectations": list(expectations)}
    (include / "expectations" / "s.json").write_text(json.dumps(content))


def expectation(kind: str, severity: str = "block", **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "meta": {"severity": severity}}


SOUND = [
    expectation("expect_table_row_count_to_be_between", min_value={"$PARAMETER": "30 * days"}, max_value=50),
    expectation("expect_column_values_to_not_be_null", column="flight_id"),
    expectation("expect_column_proportion_of_unique_values_to_be_between", column="flight_id", min_value=1),
    expectation("expect_column_values_to_be_in_set", column="carrier", value_set=["AA", "UA"]),
    expectation("expect_column_values_to_be_between", column="temp", min_value=0, max_value=200),
    expectation("expect_column_values_to_not_be_null", "warn", column="temp", mostly=0.5),
    expectation("expect_column_mean_to_be_between", column="late", min_value=0.05, max_value=0.6),
]


def check(table: str, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    operator = ExpectationsOperator(task_id="t", suite="s.json", table=table, model="flight_delay", **arguments)
    xcoms: dict[str, Any] = {}
    made = context(xcoms)
    operator.render_template_fields(made, jinja2.Environment())  # type: ignore[arg-type]
    try:
        return operator.execute(made), xcoms  # type: ignore[arg-type]
    except AirflowException as error:
        return error, xcoms


def test_expectations_run_in_the_pool(connection: AzureConnection, include: Path, features: str) -> None:
    checks(include, *SOUND)
    result, xcoms = check(features)
    assert not isinstance(result, Exception), result
    assert [(one["rule"], one["success"], one["error"]) for one in result["results"]] == [
        (one["type"], True, None) for one in SOUND
    ]
    assert result["results"][0]["observed"] == 40
    assert result["report"].endswith("/quality-s.html")
    assert xcoms["quality"] == result


def test_a_failing_expectation_stops_and_names_examples(
    by_token: AzureConnection, include: Path, features: str
) -> None:
    checks(include, *SOUND)
    execute(by_token, f"UPDATE {features} SET carrier = 'ZZ' WHERE flight_id IN (50, 51, 52)")
    error, xcoms = check(features)
    assert isinstance(error, AirflowFailException)
    assert isinstance(error.__cause__, QualityFailed)
    rule = "carrier: expect_column_values_to_be_in_set: expected carrier is one of AA, UA"
    assert f"{rule}; 3 rows (7.5 %) break it, e.g. ZZ" in str(error)
    assert xcoms["quality"]["failed"] == 1


def test_rows_that_break_a_rule_go_into_quarantine_and_stay_there(
    by_token: AzureConnection, include: Path, features: str
) -> None:
    rules = [
        *SOUND[:2],
        expectation("expect_column_values_to_be_in_set", "quarantine", column="carrier", value_set=["AA", "UA"]),
        expectation("expect_column_values_to_be_between", "quarantine", column="temp", min_value=0, max_value=200),
    ]
    checks(include, *rules)
    place = {"key": ["flight_id"], "max_share": 0.1}
    # Two rules, one row breaks both; and a row of another day, at which nobody looks.
    execute(by_token, f"UPDATE {features} SET carrier = 'ZZ' WHERE flight_id IN (1, 50, 51)")
    execute(by_token, f"UPDATE {features} SET temp = -999 WHERE flight_id IN (51, 53)")
    result, _ = check(features, quarantine=place)
    assert not isinstance(result, Exception), result
    assert (result["success"], result["quarantined"], result["failed"]) == (True, 3, 0)
    into = result["quarantine_table"]
    assert into == f"{features}_quarantine"
    stands = f"SELECT flight_id, quarantine_rule, quarantine_suite FROM {into} ORDER BY flight_id, quarantine_rule"
    assert execute(by_token, stands) == [
        [50, "carrier is one of AA, UA", "s.json"],
        [51, "carrier is one of AA, UA", "s.json"],
        [51, "temp between 0 and 200", "s.json"],
        [53, "temp between 0 and 200", "s.json"],
    ]
    left = f"SELECT COUNT(*), SUM(CASE WHEN flight_id IN (50, 51, 53) THEN 1 ELSE 0 END) FROM {features}"
    assert execute(by_token, left) == [[77, 0]]  # flight 1, of the day before, is still there

    # The task again: nothing is left to move, and what was moved stays.
    again, _ = check(features, quarantine=place)
    assert (again["success"], again["quarantined"]) == (True, 0)
    assert len(execute(by_token, stands)) == 4
    # The night builds two rows anew: the sound one leaves the quarantine.
    rows = "SELECT 50, '2013-03-08', 'AA', 20, 0 UNION ALL SELECT 54, '2013-03-08', 'Q', 20, 0"
    execute(by_token, f"DELETE FROM {features} WHERE flight_id = 54")
    execute(by_token, f"INSERT INTO {features} {rows}")
    assert check(features, quarantine=place)[0]["quarantined"] == 1
    assert [row[0] for row in execute(by_token, stands)] == [51, 51, 53, 54]

    # More than max_share: nothing moves, and the run stops.
    execute(by_token, f"UPDATE {features} SET temp = 900 WHERE flight_id BETWEEN 60 AND 70")
    error, xcoms = check(features, quarantine=place)
    assert isinstance(error, AirflowFailException)
    assert "11 of 37 rows (29.73%) would go into quarantine, more than max_share (10.00%); none was moved" in str(error)
    assert xcoms["quality"]["failed"] == 1
    assert len(execute(by_token, stands)) == 4


def test_a_row_without_a_key_is_not_quarantined(by_token: AzureConnection, include: Path, features: str) -> None:
    checks(include, expectation("expect_column_values_to_not_be_null", "quarantine", column="flight_id"))
    execute(by_token, f"UPDATE {features} SET flight_id = NULL WHERE flight_id = 50")
    error, _ = check(features, quarantine={"key": ["flight_id"], "max_share": 0.5})
    assert "rows among them have no key (flight_id), so that none was moved" in str(error)


def test_uniqueness_is_asked_without_temporary_tables(by_token: AzureConnection, include: Path, features: str) -> None:
    checks(
        include,
        expectation("expect_column_values_to_be_unique", column="flight_id"),
        expectation("expect_compound_columns_to_be_unique", "warn", column_list=["carrier", "temp"]),
    )
    assert check(features)[0]["results"][0]["success"]
    execute(by_token, f"UPDATE {features} SET flight_id = 41 WHERE flight_id IN (42, 43)")
    execute(by_token, f"UPDATE {features} SET flight_id = 1 WHERE flight_id = 2")  # the day before
    error, xcoms = check(features)
    assert "flight_id: expect_column_values_to_be_unique" in str(error)
    assert "3 rows (7.5 %) break it, e.g. 41" in str(error)
    of_day = execute(by_token, f"SELECT carrier, temp FROM {features} WHERE flight_date = '2013-03-08'")
    twice = sum(of_day.count(row) > 1 for row in of_day)
    assert xcoms["quality"]["results"][1]["unexpected_count"] == twice > 1
    asked = "SELECT COUNT(*) FROM sys.dm_pdw_exec_requests WHERE command LIKE 'CREATE TABLE%ge_temp%'"
    assert execute(by_token, asked) == [[0]]


def test_a_pool_that_refuses_is_access_denied(
    localazure: Any, by_token: AzureConnection, include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks(include, *SOUND)
    wrong = described(
        localazure, sql_authentication="password", sql_login=localazure["sql_login"], sql_password="local-only~wrong"
    )
    with pytest.raises(AccessDenied, match="'azure_default' was refused"):
        validate(wrong, quality.read_suite(include / "expectations", "s.json"), Rows("ml.x"), {"days": 1})
