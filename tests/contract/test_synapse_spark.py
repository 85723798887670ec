"""azure-synapse-spark and azure-synapse-artifacts, sync and async: Livy batches, sessions, statements, Spark job
definitions, pools. The batches and sessions are real Spark processes.

Every operation of the two clients' groups is called by name. The tests run against a real workspace as well (conftest
says how); those about this machine are left out there.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContainerClient
from azure.synapse.artifacts import ArtifactsClient
from azure.synapse.artifacts import models as artifact_models
from azure.synapse.artifacts.aio import ArtifactsClient as AsyncArtifactsClient
from azure.synapse.spark import SparkClient
from azure.synapse.spark.aio import SparkClient as AsyncSparkClient
from azure.synapse.spark.models import SparkBatchJobOptions, SparkSessionOptions, SparkStatementOptions

pytestmark = pytest.mark.evidence("sdk")

DEADLINE_SECONDS = 600
ENDED = ("success", "dead", "killed", "error")
SMALL: dict[str, Any] = {
    "driver_memory": "4g", "driver_cores": 1, "executor_memory": "4g", "executor_cores": 1, "executor_count": 1,
}  # fmt: skip

SPARK_SCRIPT = """
import sys
from pyspark.sql import SparkSession
import rates

spark = SparkSession.builder.getOrCreate()
print("application", spark.sparkContext.applicationId, spark.conf.get("spark.sql.ansi.enabled"))
spark.range(10).selectExpr("id", f"id * {rates.RATE} AS cost").write.mode("overwrite").parquet(sys.argv[1])
print("total", spark.read.parquet(sys.argv[1]).selectExpr("sum(cost)").first()[0])
print(open("note.txt").read(), file=sys.stderr)
"""
FAILING_SCRIPT = """
def convert(value):
    return int(value)

convert("seven")
"""
GREEDY_SCRIPT = """
kept = []
while True:
    kept.append(bytearray(50_000_000))
"""
CHATTY_SCRIPT = "import sys; print('hello', *sys.argv[1:])"
SLEEPING_SCRIPT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print("asleep", flush=True)
time.sleep(300)
"""
#: By javac --release 11: public class Rows { public static void main(String[] arguments) {
#: SparkSession spark = SparkSession.builder().getOrCreate();
#: spark.range(Long.parseLong(arguments[0])).write().mode("overwrite").parquet(arguments[1]);
#: System.out.println("rows " + spark.read().parquet(arguments[1]).count()); spark.stop(); } }
ROWS_JAR = base64.b64decode(
    "UEsDBBQAAAAIACqAdl3xJ6XM6gIAAE8GAAAKAAAAUm93cy5jbGFzc5VUbVcSQRR+RtEV3HzB1CwzLSzAjKJ3MSsxU8I0Ma3sbYQ5uAo7uDvo8Z/0"
    "N+wDefzQD+hHdboDdLQjKnEOuzOzz3Nfnnvn/vp98BPAQ6R9aECjAY+JJjQzdGzwbR7JcTsbmV/bEGnF0Dxu2ZaaYGgMhpZ9aIHXgM9EK0yGIelk"
    "I7zA0+si4ha4sxlxt3KRlF6lhOta0mYw1opWLiMchtFgKHkmITBZgcd8aEO7gQ4TnfAzhOpmMrRmhZp34o7gSjAM1+OW3J1Ht4EeE724wNB2KERS"
    "2lkGL4FdUVl3B5OHn1PKsexsLJTQ2lw0cQn9DE0OfSLfQ8HECc6nuOKuUOR3AFcMDJoYwlWG/tPAZHfHsXROweApZqcdnhcrGujEWhCg2OW2cMpM"
    "H67jhoGgiRDCDIF6bDB48jJDTsdqpV1fGNrvTROjuEUNQaitos6mpo7LXtzGHQNRE3dx75+WTO26SuSpE2VRsytkS0YWiKmIL3g+pqvwwKTWfkRx"
    "00mmHrEWCVeOcgwxA+M60CdnqlMhMUT/T5a/RX9q4hmeU0nTsmir8vVK+OlSxk1M4QVDb55viri001ytWGqdVq7itnK1bNRUx1z68BIzBmZNJLTK"
    "XTXE0drrXc7WKiVNzOk773GVLBiYp9Wi3CH7nni53J48t+j+9gRXa1WJCjMppXKVwwtzQq3LjNvejLc+LGPFwDudxHuS8JBp2dtyU1QNVPKa5mkl"
    "nV2Gb0clrAIrRme4nckJN5CUcrNYiB2P5CTi0m5B1IAfzaUy4WKh4ybiPJdLUePS9VmlCeiQLIOMwZy1beHEc9x1BelkVAeOgS80ZepKwABnGDgd"
    "Sg4rYJoIr2k8618DmB7Q9FygXSe9Gb2bwj/A9soAL95gsfp5Bp4ybXwfRgnnkiPhxug+ukroK+Gy/1oJw2FPtISR74iMlHC/vHlcwsQBJoESpunw"
    "1V7VbYqeLWR3if4f8JF2fjpto7NP5PMzvmINfX8AUEsBAhQDFAAAAAgAKoB2XfEnpczqAgAATwYAAAoAAAAAAAAAAAAAAKSBAAAAAFJvd3MuY2xh"
    "c3NQSwUGAAAAAAEAAQA4AAAAEgMAAAAA"
)

Submit = Callable[..., Any]


@pytest.fixture(scope="module")
def spark(localazure: Any) -> Iterator[SparkClient]:
    with SparkClient(localazure.credential(), localazure["synapse_endpoint"], localazure["spark_pool"]) as client:
        yield client


@pytest.fixture(scope="module")
def artifacts(localazure: Any) -> Iterator[ArtifactsClient]:
    with ArtifactsClient(localazure.credential(), localazure["synapse_endpoint"]) as client:
        yield client


@pytest.fixture(scope="module")
def lake(localazure: Any) -> Iterator[ContainerClient]:
    with BlobServiceClient(localazure["storage_account_url"], credential=localazure.credential()) as service:
        yield service.get_container_client(localazure["container"])


@pytest.fixture(scope="module")
def folder(localazure: Any) -> str:
    """A fresh folder of the lake, as Spark names it."""
    host = f"{localazure['storage_account']}.dfs.core.windows.net"
    return f"abfss://{localazure['container']}@{host}/test-spark/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def upload(lake: ContainerClient, folder: str) -> Callable[[str, str | bytes], str]:
    """Put a file into the folder; its address."""

    def put(name: str, content: str | bytes) -> str:
        path = f"{folder.split('/', 3)[3]}/{name}"
        lake.upload_blob(path, content, overwrite=True)
        return f"{folder}/{name}"

    return put


@pytest.fixture
def submit(spark: SparkClient) -> Submit:
    def create(file: str, **options: Any) -> Any:
        asked = {"name": f"test-{uuid.uuid4().hex[:8]}", "file": file, **SMALL, **options}
        return spark.spark_batch.create_spark_batch_job(SparkBatchJobOptions(**asked), detailed=True)

    return create


def is_local(localazure: Any) -> bool:
    return "://localhost" in localazure["synapse_endpoint"]


def until(get: Callable[[], Any], states: tuple[str, ...]) -> Any:
    """What `get` answers once its state is one of these."""
    end = time.monotonic() + DEADLINE_SECONDS
    while (found := get()).state not in states:
        assert found.state not in ENDED, f"it is {found.state}: {[error.message for error in found.errors or ()]}"
        assert time.monotonic() < end, f"still {found.state}"
        time.sleep(0.2)
    return found


def ended(spark: SparkClient, batch: Any, *states: str) -> Any:
    return until(lambda: spark.spark_batch.get_spark_batch_job(batch.id, detailed=True), states or ("success",))


def processes(localazure: Any) -> list[str]:
    """Processes of this machine that work for Livy in the home."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                place, command = os.readlink(process / "cwd"), (process / "cmdline").read_bytes().decode()
            except OSError:
                continue
            if str(localazure.home / "livy") in f"{place} {command}":
                found.append(command.replace("\0", " ")[:80])
    return found


# Batches.
def test_a_batch_runs_on_spark(  # noqa: PLR0917 - fixtures
    spark: SparkClient, submit: Submit, upload: Any, folder: str, lake: ContainerClient, localazure: Any
) -> None:
    batch = submit(
        upload("costs.py", SPARK_SCRIPT),
        arguments=[f"{folder}/costs"],
        python_files=[upload("rates.py", "RATE = 3")],
        files=[upload("note.txt", "a note")],
        configuration={"spark.sql.ansi.enabled": "true"},
        tags={"night": "2013-01-01"},
        artifact_id="costs",
    )
    assert (batch.result, batch.job_type, batch.spark_pool_name) == (
        "Uncertain",
        "SparkBatch",
        localazure["spark_pool"],
    )
    done = ended(spark, batch)
    assert (done.result, done.tags, done.artifact_id, done.errors) == (
        "Succeeded", {"night": "2013-01-01"}, "costs", [],
    )  # fmt: skip
    assert done.livy_info.running_at <= done.livy_info.success_at
    assert done.livy_info.job_creation_request.arguments == [f"{folder}/costs"]
    assert (done.scheduler.current_state, done.plugin.current_state) == ("Ended", "Ended")
    assert "total 135" in done.log_lines
    assert f"application {done.app_id} true" in done.log_lines
    assert "a note" in done.log_lines
    written = [blob.name for blob in lake.list_blobs(f"{folder.split('/', 3)[3]}/costs/")]
    assert any(name.endswith(".parquet") for name in written)
    listed = spark.spark_batch.get_spark_batch_jobs(detailed=True)
    page = spark.spark_batch.get_spark_batch_jobs(from_parameter=listed.total - 1, size=1, detailed=True)
    assert [(each.id, each.tags) for each in page.sessions] == [(batch.id, batch.tags)]
    plain = spark.spark_batch.get_spark_batch_job(batch.id)
    assert (plain.state, plain.livy_info) == ("success", None)
    if is_local(localazure):
        assert processes(localazure) == []


def test_a_jars_main_class_runs(
    spark: SparkClient, submit: Submit, upload: Any, folder: str, lake: ContainerClient
) -> None:
    jar = upload("rows.jar", ROWS_JAR)
    batch = submit(jar, class_name="Rows", arguments=["1000", f"{folder}/rows"])
    broken = submit(jar, class_name="Rows", arguments=["many", f"{folder}/none"])
    assert "rows 1000" in log_of(spark, ended(spark, batch).id)
    written = [blob.name for blob in lake.list_blobs(f"{folder.split('/', 3)[3]}/rows/")]
    assert any(name.endswith(".parquet") for name in written)
    cause = ended(spark, broken, "dead").errors[1]
    assert (cause.error_code, cause.source) == ("java.lang.NumberFormatException", "User")
    assert 'For input string: "many"' in cause.message


def log_of(spark: SparkClient, batch: int) -> list[str]:
    """The driver's log as Livy's own address has it; the client has no method for it."""
    path = f"livyApi/versions/2019-11-01-preview/sparkPools/{spark._config.spark_pool_name}/batches/{batch}/log"
    token = spark._config.credential.get_token("https://dev.azuresynapse.net/.default").token
    answer = requests.get(
        f"{spark._config.endpoint}/{path}?size=1000", headers={"Authorization": f"Bearer {token}"}, timeout=30
    )
    lines: list[str] = answer.json()["log"]
    return lines


def test_a_failure_says_where_and_why(spark: SparkClient, submit: Submit, upload: Any, folder: str) -> None:
    failing = submit(upload("convert.py", FAILING_SCRIPT))
    missing = submit(f"{folder}/nowhere.py")
    dead = ended(spark, failing, "dead")
    assert (dead.result, dead.errors[0].error_code) == ("Failed", "LIVY_JOB_STATE_DEAD")
    assert "Job failed during run time with state=[dead]" in dead.errors[0].message
    cause = dead.errors[1]
    assert (cause.error_code, cause.source) == ("ValueError", "User")
    assert "convert.py: ValueError: invalid literal for int() with base 10: 'seven'" in cause.message
    assert 'File "convert.py", line 5, in <module>' in cause.message
    dead = ended(spark, missing, "dead")
    assert f"{folder}/nowhere.py" in " ".join(error.message for error in dead.errors)


def test_a_driver_out_of_memory_says_so(spark: SparkClient, submit: Submit, upload: Any, localazure: Any) -> None:
    if not is_local(localazure):
        pytest.skip("a driver of Azure's smallest size takes minutes to fill")
    batch = submit(upload("greedy.py", GREEDY_SCRIPT), driver_memory="512m")
    cause = ended(spark, batch, "dead").errors[1]
    assert cause.error_code == "MemoryError"
    assert "The driver of greedy.py ran out of memory" in cause.message
    assert "line 4" in cause.message


def test_a_cancelled_batch_leaves_nothing_behind(
    spark: SparkClient, submit: Submit, upload: Any, localazure: Any
) -> None:
    batch = submit(upload("sleep.py", SLEEPING_SCRIPT))
    ended(spark, batch, "running")
    spark.spark_batch.cancel_spark_batch_job(batch.id)
    killed = ended(spark, batch, "killed")
    assert (killed.result, killed.livy_info.terminated_at is not None) == ("Cancelled", True)
    if is_local(localazure):
        assert processes(localazure) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executor_count": 500}, "core limit"),
        ({"executor_memory": "2000g"}, "executor"),
        ({"driver_memory": "much"}, "driverMemory"),
        ({"file": "nowhere"}, "file"),
    ],
)
def test_what_no_pool_can_run_is_refused(submit: Submit, options: dict[str, Any], words: str) -> None:
    with pytest.raises(HttpResponseError, match=words) as refused:
        submit(**{"file": "abfss://a@b.dfs.core.windows.net/x.py", **options})
    assert refused.value.status_code == 400


# Sessions and statements.
def test_a_session_runs_statements(spark: SparkClient, localazure: Any) -> None:
    sessions = spark.spark_session
    created = sessions.create_spark_session(SparkSessionOptions(name="test", **SMALL), detailed=True)
    idle = until(lambda: sessions.get_spark_session(created.id, detailed=True), ("idle",))
    assert (idle.job_type, idle.name, bool(idle.app_id)) == ("SparkSession", "test", True)
    assert created.id in [each.id for each in sessions.get_spark_sessions(detailed=True).sessions]

    def begin(code: str, kind: str) -> int:
        statement = sessions.create_spark_statement(created.id, SparkStatementOptions(code=code, kind=kind))
        return int(statement.id)

    def run(code: str, kind: str = "pyspark") -> Any:
        number = begin(code, kind)
        return until(lambda: sessions.get_spark_statement(created.id, number), ("available", "cancelled"))

    shown = run("spark.range(4).createOrReplaceTempView('numbers')\nprint('made')\n2 + 3").output
    assert (shown.status, shown.data, shown.execution_count) == ("ok", {"text/plain": "made\n5"}, 0)
    rows = run("SELECT id, id * 2 AS double FROM numbers WHERE id > 1", "sql").output.data["application/json"]
    assert ([field["name"] for field in rows["schema"]["fields"]], rows["data"]) == (["id", "double"], [[2, 4], [3, 6]])
    counted = run('val rows = spark.table("numbers").count()\nprintln(s"$rows rows")', "spark").output
    assert (counted.status, counted.data["text/plain"]) == ("ok", "4 rows\nrows: Long = 4")
    root = f"abfss://{localazure['container']}@{localazure['storage_account']}.dfs.core.windows.net"
    scala = f'''val path = "{root}/test/{uuid.uuid4().hex}/scala"
spark.table("numbers").selectExpr("id", "id AS n").write.partitionBy("id").json(path)
spark.read.json(path).filter("id = 3").count()'''
    in_lake = run(scala, "spark").output
    assert in_lake.data["text/plain"].endswith("Long = 1"), in_lake
    wrong = run("def half(n):\n    return n / 0\nhalf(1)").output
    assert (wrong.status, wrong.error_name, wrong.error_value) == ("error", "ZeroDivisionError", "division by zero")
    assert '  File "<stdin>", line 2, in half\n' in wrong.traceback
    endless = begin("spark.range(2).rdd.map(lambda _: __import__('time').sleep(300)).collect()", "pyspark")
    until(lambda: sessions.get_spark_statement(created.id, endless), ("running",))
    time.sleep(1)
    assert sessions.cancel_spark_statement(created.id, endless).message == "canceled"
    until(lambda: sessions.get_spark_statement(created.id, endless), ("cancelled",))
    assert run("40 + 2").output.data == {"text/plain": "42"}
    assert sessions.get_spark_statements(created.id).total == 7
    sessions.reset_spark_session_timeout(created.id)
    sessions.cancel_spark_session(created.id)
    gone = until(lambda: sessions.get_spark_session(created.id, detailed=True), ("killed",))
    assert gone.result == "Cancelled"
    if is_local(localazure):
        assert processes(localazure) == []


# Spark job definitions.
def definition(pool: str, name: str, file: str, **job: Any) -> Any:
    return artifact_models.SparkJobDefinition(
        target_big_data_pool=artifact_models.BigDataPoolReference(type="BigDataPoolReference", reference_name=pool),
        required_spark_version="3.5",
        job_properties=artifact_models.SparkJobProperties(
            name=name, file=file, driver_memory="4g", driver_cores=1, executor_memory="4g", executor_cores=1,
            num_executors=1, **job,
        ),
    )  # fmt: skip


def test_a_definition_is_written_renamed_executed_debugged_and_deleted(
    artifacts: ArtifactsClient, spark: SparkClient, upload: Any, localazure: Any
) -> None:
    group, pool = artifacts.spark_job_definition, localazure["spark_pool"]
    name = f"job-{uuid.uuid4().hex[:8]}"
    content = definition(pool, name, upload("hello.py", CHATTY_SCRIPT), args=["from", "a definition"])
    made = group.begin_create_or_update_spark_job_definition(name, content).result()
    assert (made.name, made.type.lower()) == (name, "microsoft.synapse/workspaces/sparkjobdefinitions")
    read = group.get_spark_job_definition(name)
    assert (read.etag, read.properties.job_properties.args) == (made.etag, ["from", "a definition"])
    with pytest.raises(HttpResponseError) as stale:
        group.begin_create_or_update_spark_job_definition(name, content, if_match="other").result()
    assert stale.value.status_code == 412
    group.begin_rename_spark_job_definition(name, new_name=f"{name}-2").result()
    names = [each.name for each in group.get_spark_job_definitions_by_workspace()]
    assert (f"{name}-2" in names, name in names) == (True, False)

    poller = group.begin_execute_spark_job_definition(f"{name}-2")
    batch = poller.result()
    assert (batch.state, batch.result, batch.artifact_id) == ("success", "Succeeded", f"{name}-2")
    assert "hello from a definition" in batch.log_lines
    assert spark.spark_batch.get_spark_batch_job(batch.id, detailed=True).artifact_id == f"{name}-2"

    failing = definition(pool, name, upload("convert.py", FAILING_SCRIPT))
    debugged = group.begin_debug_spark_job_definition(failing).result()
    assert (debugged.state, debugged.errors[1].error_code) == ("dead", "ValueError")

    group.begin_delete_spark_job_definition(f"{name}-2").result()
    with pytest.raises(ResourceNotFoundError, match=f"{name}-2"):
        group.get_spark_job_definition(f"{name}-2")
    with pytest.raises(ResourceNotFoundError, match="no-such-pool"):
        group.begin_debug_spark_job_definition(definition("no-such-pool", name, "abfss://a@b.x/x.py")).result()


def test_pools_are_read(artifacts: ArtifactsClient, localazure: Any) -> None:
    pool = artifacts.big_data_pools.get(localazure["spark_pool"])
    assert (pool.node_size_family, pool.auto_pause.enabled) == ("MemoryOptimized", True)
    assert pool.name in [each.name for each in artifacts.big_data_pools.list().value]
    with pytest.raises(ResourceNotFoundError, match="no-such-pool"):
        artifacts.big_data_pools.get("no-such-pool")


# The asynchronous clients.
def test_the_asynchronous_clients(upload: Any, localazure: Any) -> None:
    file = upload("hello.py", CHATTY_SCRIPT)
    asyncio.run(asyncio.wait_for(_asynchronously(localazure, file), DEADLINE_SECONDS))


async def _asynchronously(localazure: Any, file: str) -> None:
    from azure.identity.aio import ClientSecretCredential

    arguments = {name: localazure[name] for name in ("tenant_id", "client_id", "client_secret")}
    endpoint, pool = localazure["synapse_endpoint"], localazure["spark_pool"]
    # aiohttp makes its context when it is imported, before the fixture says whom to trust.
    trust = {"connection_verify": localazure["ca_bundle"]}
    async with (
        ClientSecretCredential(
            **arguments,
            authority=localazure["api_url"],
            disable_instance_discovery=True,
            **trust,
        ) as credential,
        AsyncSparkClient(credential, endpoint, pool, **trust) as spark,
        AsyncArtifactsClient(credential, endpoint, **trust) as artifacts,
    ):
        sessions, batches = spark.spark_session, spark.spark_batch
        session = await sessions.create_spark_session(SparkSessionOptions(name="async", **SMALL), detailed=True)

        batch = await batches.create_spark_batch_job(SparkBatchJobOptions(name="async", file=file, **SMALL))
        while (found := await batches.get_spark_batch_job(batch.id, detailed=True)).state not in ENDED:
            await asyncio.sleep(0.1)
        assert (found.state, found.log_lines) == ("success", ["hello"])
        assert (await batches.get_spark_batch_jobs(size=1)).total > batch.id
        await batches.cancel_spark_batch_job(batch.id)  # over already: nothing happens

        group, name = artifacts.spark_job_definition, f"job-{uuid.uuid4().hex[:8]}"
        content = definition(pool, name, file)
        made = await (await group.begin_create_or_update_spark_job_definition(name, content)).result()
        assert (await group.get_spark_job_definition(name)).etag == made.etag
        await (await group.begin_rename_spark_job_definition(name, new_name=f"{name}-2")).result()
        assert f"{name}-2" in [each.name async for each in group.get_spark_job_definitions_by_workspace()]
        executed = await (await group.begin_execute_spark_job_definition(f"{name}-2")).result()
        debugged = await (await group.begin_debug_spark_job_definition(content)).result()
        assert [executed.state, debugged.state] == ["success", "success"]
        await (await group.begin_delete_spark_job_definition(f"{name}-2")).result()
        assert (await artifacts.big_data_pools.get(pool)).name in [
            each.name for each in (await artifacts.big_data_pools.list()).value
        ]

        while (found := await sessions.get_spark_session(session.id, detailed=True)).state != "idle":
            assert found.state not in ENDED
            await asyncio.sleep(0.2)
        assert (await sessions.get_spark_sessions()).total > session.id
        asked = SparkStatementOptions(code="6 * 7", kind="pyspark")
        statement = await sessions.create_spark_statement(session.id, asked)
        while (found := await sessions.get_spark_statement(session.id, statement.id)).state != "available":
            await asyncio.sleep(0.1)
        assert found.output.data == {"text/plain": "42"}
        await sessions.cancel_spark_statement(session.id, statement.id)  # over already
        assert (await sessions.get_spark_statements(session.id)).total == 1
        await sessions.reset_spark_session_timeout(session.id)
        await sessions.cancel_spark_session(session.id)
        assert (await sessions.get_spark_session(session.id)).state == "killed"
