"""azflow's Spark operators against localazure: notebooks with what they run, batches, definitions, the shipped job; one
run whoever dies, cancelled within seconds when a person stops the task. The Spark is real.

Evidence: `sdk` for what azure-synapse-artifacts and azure-synapse-spark see of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import spark_task
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from azure.storage.blob import ContainerClient
from azure.synapse.spark import SparkClient

import azflow.spark
import azflow.synapse
from azflow import exports
from azflow.connection import AzureConnection
from azflow.spark import SparkBatchOperator, SynapseNotebookOperator
from azflow.specs import INCLUDE
from azflow.synapse import SynapseSqlOperator

pytestmark = pytest.mark.evidence("sdk")

NAME = f"t{uuid.uuid4().hex[:8]}"
SMALL: dict[str, Any] = {"executor_size": "Small", "executors": 1}
PACKAGE = "ROWS = 3\n"
# Leaves a file a run: how many did the work is what the lake says.
JOB = """
import sys, time, uuid
from pyspark.sql import SparkSession
import counted

out, seconds, fails = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "true"
spark = SparkSession.builder.getOrCreate()
print("rows", counted.ROWS, flush=True)
if fails:
    raise KeyError("a column that isn't there")
time.sleep(seconds)
spark.range(counted.ROWS).coalesce(1).write.mode("append").parquet(out)
"""
CELLS = {
    "main.ipynb": [
        ("parameters", "rows = 0\nout = ''\nseconds = 0.0\nfails = False"),
        ("", "%run helpers"),
        (
            "",
            "import json, time\n\nif fails:\n    doubled('x')\n\ntime.sleep(seconds)\n"
            "spark.range(rows).coalesce(1).write.mode('append').parquet(out)\n"
            "child = notebookutils.notebook.run('child')\n"
            "mssparkutils.notebook.exit(json.dumps({'rows': doubled(rows), 'child': child}))",
        ),
    ],
    "helpers.ipynb": [("", "def doubled(value):\n    return 2 * int(value)")],
    "child.ipynb": [("", "notebookutils.notebook.exit('done')")],
}


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    jobs, notebooks = root / "spark/jobs", root / "spark/notebooks"
    (jobs / "counted").mkdir(parents=True)
    notebooks.mkdir()
    (jobs / "counted/__init__.py").write_text(PACKAGE)
    (jobs / "job.py").write_text(textwrap.dedent(JOB))
    for name, cells in CELLS.items():
        content = [
            {"cell_type": "code", "metadata": {"tags": [tag]} if tag else {}, "source": source.splitlines(True)}
            for tag, source in cells
        ]
        (notebooks / name).write_text(
            json.dumps({"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": content})
        )
    return root


@pytest.fixture
def connection(localazure: Any, include: Path, monkeypatch: pytest.MonkeyPatch) -> AzureConnection:
    described = localazure.airflow_connection()
    names = ("synapse_endpoint", "spark_pool", "sql_server", "sql_database")
    described["extra"] |= {name: localazure[name] for name in names}
    described["extra"] |= {
        "sql_serverless_server": localazure["sql_server_ondemand"],
        "lake_abfss_url": f"abfss://{localazure['container']}@{localazure['storage_account']}.dfs.core.windows.net",
    }
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(described))
    monkeypatch.setattr(azflow.spark, "INCLUDE", include)
    return AzureConnection.load()


@pytest.fixture
def lake(connection: AzureConnection) -> Iterator[ContainerClient]:
    with connection.blob_service() as service:
        yield service.get_container_client(connection.container)


@pytest.fixture
def out(connection: AzureConnection) -> str:
    return f"{connection.lake_abfss_url}/contract/{NAME}/{uuid.uuid4().hex[:8]}"


def parts(lake: ContainerClient, out: str) -> int:
    """How many runs wrote to a folder."""
    folder = out.partition("windows.net/")[2]
    return len([blob.name for blob in lake.list_blobs(name_starts_with=folder) if blob.name.endswith(".parquet")])


def batch(out: str, seconds: float = 0, fails: bool = False, **more: Any) -> SparkBatchOperator:
    arguments = [out, seconds, fails]
    return SparkBatchOperator(
        task_id="batch", file="job.py", py_files=["counted"], arguments=arguments, grace_seconds=240, **SMALL, **more
    )


def notebook(out: str, seconds: float = 0, fails: bool = False) -> SynapseNotebookOperator:
    parameters = {"rows": "{{ params.rows }}", "out": out, "seconds": seconds, "fails": fails}
    return SynapseNotebookOperator(task_id="notebook", notebook="main.ipynb", parameters=parameters, grace_seconds=240)


def run(operator: Any, **more: Any) -> Any:
    return operator.execute(spark_task.context_of(operator, NAME, **more))


def livy(localazure: Any) -> SparkClient:
    return SparkClient(localazure.credential(), localazure["synapse_endpoint"], localazure["spark_pool"])


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_a_notebook_runs_with_the_notebooks_it_runs(
    connection: AzureConnection, lake: ContainerClient, out: str, include: Path
) -> None:
    found = run(notebook(out))
    assert found["exit_value"] == {"rows": 14, "child": "done"}
    assert parts(lake, out) == 1
    with connection.synapse_artifacts() as artifacts:
        published = {item.name.rpartition("-")[0] for item in artifacts.notebook.get_notebooks_by_workspace()}
    assert {"main", "helpers", "child"} <= published
    with pytest.raises(AirflowException) as failed:
        run(notebook(out, fails=True), run="fails")
    said = str(failed.value)
    assert "ValueError: invalid literal for int()" in said and "(cell 3 of 3, which begins with: import json" in said
    assert ">   4 |     doubled('x')" in said
    with pytest.raises(AirflowFailException, match=r"parameter 'rows' should be of type int .*: 'many' is none"):
        run(notebook(out), run="many", rows="many")
    (include / "spark/notebooks/lost.ipynb").write_text(
        (include / "spark/notebooks/main.ipynb").read_text().replace("%run helpers", "%run nowhere")
    )
    lost = notebook(out)
    lost.notebook = "lost.ipynb"
    with pytest.raises(
        AirflowFailException, match=r"lost\.ipynb: cell 2: %run nowhere: there is no notebook 'nowhere'"
    ):
        run(lost, run="lost")


def test_a_batch_runs_and_fails_with_its_drivers_words(
    localazure: Any, connection: AzureConnection, lake: ContainerClient, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(batch(out))
    assert (found["state"], found["result"], parts(lake, out)) == ("success", "Succeeded", 1)
    assert "driver | rows 3" in capsys.readouterr().out
    with livy(localazure) as client:
        seen = client.spark_batch.get_spark_batch_job(found["id"], detailed=True)
    assert (seen.name, seen.app_id) == (found["name"], found["app_id"])
    assert seen.tags["azflow.task"] == "batch" and seen.tags["azflow.dag"] == NAME
    with pytest.raises(AirflowFailException) as failed:
        run(batch(out, fails=True), run="fails")
    said = str(failed.value)
    assert "ended as dead: LIVY_JOB_STATE_DEAD" in said and "(source: User)" in said
    assert '  KeyError: "a column that isn\'t there"' in said.splitlines()
    assert parts(lake, out) == 1
    huge = batch(out)
    huge.executor_size = "XXLarge"
    with pytest.raises(AirflowFailException, match=r"The Spark pool sparkpool refuses the batch: .*64"):
        run(huge, run="huge")


def test_a_definition_runs_as_a_batch_of_ours(
    localazure: Any, connection: AzureConnection, lake: ContainerClient, out: str, include: Path
) -> None:
    from azure.synapse.artifacts import models

    file = azflow.spark.spark_files.job_file(connection, include / "spark/jobs", "job.py")
    azflow.spark.spark_files.upload(connection, [file])
    job = models.SparkJobProperties(
        name="theirs", file=file.url, args=["nowhere", "0", "false"], conf={}, driver_memory="28g", driver_cores=4,
        executor_memory="28g", executor_cores=4, num_executors=1,
    )  # fmt: skip
    pool = models.BigDataPoolReference(type="BigDataPoolReference", reference_name=connection.spark_pool)
    definition = models.SparkJobDefinition(target_big_data_pool=pool, language="PySpark", job_properties=job)
    with connection.synapse_artifacts() as artifacts:
        artifacts.spark_job_definition.begin_create_or_update_spark_job_definition(NAME, definition).result()
    operator = SparkBatchOperator(
        task_id="defined", definition=NAME, py_files=["counted"], arguments=[out, 0, False], grace_seconds=240
    )
    found = run(operator)
    assert (found["result"], found["file"], parts(lake, out)) == ("Succeeded", NAME, 1)
    with livy(localazure) as client:
        assert client.spark_batch.get_spark_batch_job(found["id"], detailed=True).artifact_id == NAME


# -- who dies ----------------------------------------------------------------------------------------------------------

MAKE: dict[str, Callable[..., Any]] = {"batch": batch, "notebook": notebook}


@pytest.mark.parametrize("kind", list(MAKE))
def test_a_killed_worker_leads_to_one_run(
    localazure: Any, lake: ContainerClient, out: str, include: Path, kind: str
) -> None:
    """`kill -9` of the process that waits; another one finds the run, whose only work is in the lake."""
    task = {"kind": kind, "out": out, "seconds": 3, "include": str(include), "dag": NAME, "run": f"killed {kind}"}
    log = include / f"{kind}.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, spark_task.__file__, json.dumps(task)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: b"submitted" in log.read_bytes(), log)
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    submitted = next(line for line in log.read_text().splitlines() if "submitted" in line)
    found = run(MAKE[kind](out, 3), run=f"killed {kind}")
    assert f"{kind} run {found['run_id']}" in submitted if kind == "notebook" else f"batch {found['id']} " in submitted
    assert parts(lake, out) == 1
    if kind == "batch":
        with livy(localazure) as client:
            listed = [job.name for job in client.spark_batch.get_spark_batch_jobs(detailed=True).sessions]
        assert listed.count(found["name"]) == 1


@pytest.mark.parametrize("kind", list(MAKE))
def test_a_person_stops_the_task_and_the_run_is_cancelled(
    localazure: Any, lake: ContainerClient, out: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azflow.runs, "task_state", lambda *place: "failed")
    operator = MAKE[kind](out, 300)
    threading.Timer(3, operator.on_kill).start()
    with pytest.raises(AirflowException, match=r"The task was stopped .* was cancelled"):
        run(operator, run=f"stopped {kind}")
    assert parts(lake, out) == 0
    wait_until(lambda: not [line for line in spark_processes(localazure.home) if out in line], None, 60)


def wait_until(holds: Callable[[], bool], log: Path | None, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, log.read_text() if log else "it didn't come about"
        time.sleep(0.1)


def spark_processes(home: Path) -> list[str]:
    """The environment and command line of what runs below localazure's home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_text().replace("\0", " ")
            if str(home) in line and ("java" in line or "localazure_compute" in line):
                found.append(line)
        except OSError:
            continue
    return found


# -- the job this project ships ----------------------------------------------------------------------------------------


def test_the_history_of_routes_grows_by_a_day_a_night_and_is_read_without_a_pool(
    connection: AzureConnection, lake: ContainerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spark keeps it as Delta, from the dedicated pool's table; the serverless pool makes features of it."""
    monkeypatch.setattr(azflow.spark, "INCLUDE", INCLUDE)
    schema, last = f"t_{NAME}", date(2013, 3, 8)
    days = [last - timedelta(days=back) for back in (3, 2, 1, 0)]
    rows = [(day, "UA", "EWR", "IAH", 10 * number + extra) for number, day in enumerate(days) for extra in (0, 2)]
    values = " UNION ALL SELECT ".join(f"'{day}', '{c}', '{o}', '{d}', {late}" for day, c, o, d, late in rows)
    columns = "flight_date date, carrier varchar(2), origin char(3), dest char(3), arr_delay int"
    opened = azflow.synapse.connect(connection)
    for statement in (
        f"CREATE SCHEMA {schema}",
        f"CREATE TABLE {schema}.flights ({columns}) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN)",
        f"INSERT INTO {schema}.flights SELECT {values} UNION ALL SELECT '{last}', 'UA', 'EWR', 'IAH', NULL",
    ):
        opened.cursor().execute(statement)
    table = f"{connection.lake_abfss_url}/curated/route_history"

    def night(to: date) -> Any:
        arguments = [f"--flights={connection.sql_database}.{schema}.flights", f"--table={table}", f"--to={to}"]
        job = SparkBatchOperator(
            task_id="history", file="route_history.py", arguments=arguments, grace_seconds=240, **SMALL
        )
        return run(job, run=f"night {to}")

    exports.empty(connection, "curated/route_history")
    night(days[2])
    night(last)
    for _ in range(2):  # a retry finds the folder empty
        read = SynapseSqlOperator(task_id="delays", sql="features/route_delays.sql", sql_pool="serverless")
        assert run(read)["row"]["rows"] == 3  # the first day has no day before
    opened.cursor().execute(f"DROP TABLE {schema}.flights")
    opened.close()
