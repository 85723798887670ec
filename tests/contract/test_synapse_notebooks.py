"""azure-synapse-artifacts against localazure's development endpoint. Evidence: `sdk` (the real client, unmodified).

The runs really run: Spark sessions, papermill, the lake by abfss paths.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient, ContainerClient
from azure.synapse.artifacts import ArtifactsClient
from azure.synapse.artifacts.aio import ArtifactsClient as AsyncArtifactsClient
from azure.synapse.artifacts.models import NotebookResource, RunNotebookParameter, RunNotebookRequest
from synapse_notebooks import code, ended, notebook, publish, submit

CHECKOUT = Path(__file__).resolve().parents[2]
SHIPPED = CHECKOUT / "include/spark/notebooks/airport_congestion.ipynb"
DEADLINE_SECONDS = 120

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def client(localazure: Any) -> Iterator[ArtifactsClient]:
    with ArtifactsClient(localazure.credential(), localazure["synapse_endpoint"]) as made:
        yield made


@pytest.fixture(scope="module")
def lake(localazure: Any) -> Iterator[ContainerClient]:
    with BlobServiceClient(localazure["storage_account_url"], credential=localazure.credential()) as service:
        yield service.get_container_client(localazure["container"])


@pytest.fixture(scope="module")
def lake_url(localazure: Any) -> str:
    return f"abfss://{localazure['container']}@{localazure['storage_account']}.dfs.core.windows.net"


@pytest.fixture
def execute(client: ArtifactsClient, localazure: Any) -> Run:
    def run(*cells: dict[str, Any], parameters: dict[str, Any] | None = None, **request: Any) -> Any:
        name = f"test-{uuid.uuid4().hex[:8]}"
        publish(client, name, notebook(*cells))
        run = submit(client, localazure["spark_pool"], name, parameters=parameters, **request)
        return ended(client, run, DEADLINE_SECONDS)

    return run


# Artifacts and pools.
def test_a_notebook_is_written_read_listed_and_deleted(client: ArtifactsClient) -> None:
    created = publish(client, "artifact-test", notebook(code("x = 1", "parameters"), description="first"))
    assert (created.name, created.type) == ("artifact-test", "Microsoft.Synapse/workspaces/notebooks")
    read = client.notebook.get_notebook("artifact-test")
    assert read.etag == created.etag
    assert read.properties.cells[0].source == ["x = 1"]
    changed = publish(client, "artifact-test", notebook(code("x = 2")))
    assert changed.etag != created.etag
    assert "artifact-test" in [item.name for item in client.notebook.get_notebooks_by_workspace()]
    client.notebook.begin_delete_notebook("artifact-test").result()
    with pytest.raises(ResourceNotFoundError, match="artifact-test"):
        client.notebook.get_notebook("artifact-test")


def test_a_stale_etag_is_refused(client: ArtifactsClient) -> None:
    publish(client, "etag-test", notebook(code("1")))
    resource = NotebookResource.deserialize({"name": "etag-test", "properties": notebook(code("2"))})
    with pytest.raises(HttpResponseError) as refused:
        client.notebook.begin_create_or_update_notebook("etag-test", resource, if_match="other")
    assert refused.value.status_code == 412


def test_the_pool_is_listed(client: ArtifactsClient, localazure: Any) -> None:
    assert [pool.name for pool in client.big_data_pools.list().value] == [localazure["spark_pool"]]
    assert client.big_data_pools.get(localazure["spark_pool"]).spark_version == "3.5"
    with pytest.raises(ResourceNotFoundError, match="other"):
        client.big_data_pools.get("other")


def test_what_is_not_there_is_refused_by_name(client: ArtifactsClient) -> None:
    with pytest.raises(HttpResponseError, match="sqlScripts is not implemented") as refused:
        list(client.sql_script.get_sql_scripts_by_workspace())
    assert refused.value.status_code == 501


@pytest.mark.parametrize(
    ("version", "code"), [("", "MissingApiVersionParameter"), ("1999-01-01", "InvalidApiVersionParameter")]
)
def test_the_api_version_is_checked(localazure: Any, version: str, code: str) -> None:
    token = localazure.credential().get_token("https://dev.azuresynapse.net/.default").token
    answer = requests.get(
        f"{localazure['synapse_endpoint']}/notebooks",
        params={"api-version": version} if version else {},
        headers={"Authorization": f"Bearer {token}"},
        verify=localazure["ca_bundle"],
        timeout=10,
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_a_token_for_another_service_is_refused(localazure: Any) -> None:
    token = localazure.credential().get_token("https://database.windows.net/.default").token
    answer = requests.get(
        f"{localazure['synapse_endpoint']}/notebooks?api-version=2020-12-01",
        headers={"Authorization": f"Bearer {token}"},
        verify=localazure["ca_bundle"],
        timeout=10,
    )
    assert answer.status_code == 401


# Runs.
def test_parameters_are_typed_and_the_exit_value_comes_back(execute: Run, client: ArtifactsClient) -> None:
    result = execute(
        code("count = 1\ntext = 'default'\nratio = 0.5\nflag = False", "parameters"),
        code("mssparkutils.notebook.exit(repr((count, text, ratio, flag)))"),
        code("raise RuntimeError('not reached')"),
        parameters={
            "count": {"type": "int", "value": 7},
            "text": {"type": "String", "value": 'it\'s "quoted"'},
            "ratio": {"type": "float", "value": 2},
            "flag": {"type": "bool", "value": True},
        },
    )
    assert (result.run_status, result.error) == ("Succeeded", None)
    assert result.exit_value == repr((7, 'it\'s "quoted"', 2.0, True))
    snapshot = client.run_notebook.get_snapshot(result.run_id).result.snapshot
    assert snapshot.exit_value == result.exit_value
    cells = snapshot.notebook_content.properties.cells
    assert [cell.metadata.get("tags") for cell in cells] == [["parameters"], ["parameters_overwritten"], None, None]
    assert cells[2].outputs[0].data == {"text/plain": [f"ExitValue: {result.exit_value}"]}
    assert cells[3].outputs == []


def test_an_error_names_type_message_and_cell(execute: Run) -> None:
    result = execute(code("a = 1"), code("raise ValueError('boom')"))
    assert result.run_status == "Failed"
    assert (result.error.ename, result.error.evalue) == ("ValueError", "boom")
    assert result.error.traceback[0] == "Error in cell 1:"


def test_a_missing_path_is_named_as_the_lake_names_it(execute: Run, lake_url: str) -> None:
    result = execute(code(f"spark.read.parquet('{lake_url}/test/nowhere')"))
    assert result.error.ename == "AnalysisException"
    assert "[PATH_NOT_FOUND]" in result.error.evalue
    assert f"{lake_url}/test/nowhere" in result.error.evalue


def test_spark_reads_and_writes_the_lake(execute: Run, lake: ContainerClient, lake_url: str) -> None:
    folder = f"test/{uuid.uuid4().hex}"
    result = execute(
        code(
            f"""
root = '{lake_url}/{folder}'
frame = spark.range(1000).selectExpr('id', 'id % 3 AS k')
frame.write.partitionBy('k').parquet(root + '/parted')
assert spark.read.parquet(root + '/parted').where('k = 1').count() == 333
assert spark.read.load(root + '/parted/k=*').count() == 1000
two = spark.read.option('basePath', root + '/parted').parquet(root + '/parted/k=1', root + '/parted/k=2')
assert two.columns == ['id', 'k']
try:
    frame.write.parquet(root + '/parted')
    raise SystemError('written twice')
except Exception as error:
    assert 'PATH_ALREADY_EXISTS' in str(error), error
frame.limit(3).write.mode('ignore').parquet(root + '/parted')
frame.limit(10).write.mode('append').parquet(root + '/grown')
frame.limit(5).write.mode('append').parquet(root + '/grown')
assert spark.read.parquet(root + '/grown').count() == 15
dynamic = frame.where('k = 0').limit(2).write.mode('overwrite').option('partitionOverwriteMode', 'dynamic')
dynamic.partitionBy('k').parquet(root + '/parted')
assert sorted(r['count'] for r in spark.read.parquet(root + '/parted').groupBy('k').count().collect()) == [2, 333, 333]
try:
    spark.read.parquet(root + '/grown').write.mode('overwrite').parquet(root + '/grown')
    raise SystemError('overwritten while read')
except Exception as error:
    assert 'also being read' in str(error), error
for _ in range(2):
    frame.limit(7).write.csv(root + '/text', header=True, mode='overwrite')
assert spark.read.option('header', True).csv(root + '/text').count() == 7
frame.createOrReplaceTempView('numbers')
"""
        ),
        code("%%sql\nSELECT COUNT(*) AS n FROM numbers"),
    )
    assert result.error is None, (result.error.evalue, result.error.traceback)
    names = [blob.name for blob in lake.list_blobs(name_starts_with=f"{folder}/text/")]
    assert f"{folder}/text/_SUCCESS" in names
    assert len([name for name in names if name.endswith(".csv")]) == 1
    marker = lake.get_blob_client(f"{folder}/text/_SUCCESS").get_blob_properties().last_modified
    assert all(blob.last_modified <= marker for blob in lake.list_blobs(name_starts_with=f"{folder}/text/"))


def test_notebook_utilities(execute: Run, client: ArtifactsClient, lake_url: str, localazure: Any) -> None:
    publish(client, "child", notebook(code("x = 1", "parameters"), code("notebookutils.notebook.exit(str(x * 2))")))
    publish(client, "library", notebook(code("def double(value):\n    return 2 * value")))
    result = execute(
        code("%run /folder/library"),
        code(
            f"""
fs, root = notebookutils.fs, '{lake_url}/test/{uuid.uuid4().hex}'
fs.put(root + '/a.txt', 'hello')
assert fs.head(root + '/a.txt', 3) == 'hel' and fs.exists(root + '/a.txt') and not fs.exists(root + '/b.txt')
fs.append(root + '/a.txt', ' world')
fs.cp(root + '/a.txt', root + '/folder/b.txt')
fs.mkdirs(root + '/empty')
listed = [(f.name, f.isDir, f.size) for f in fs.ls(root)]
assert listed == [('a.txt', False, 11), ('empty', True, 0), ('folder', True, 0)], listed
fs.mv(root + '/folder', root + '/moved')
assert [f.path for f in fs.ls(root + '/moved')] == [root + '/moved/b.txt'] and not fs.exists(root + '/folder')
fs.rm(root, True)
assert not fs.exists(root)
assert notebookutils.notebook.run('child', 60, {{'x': 21}}) == '42'
assert double(4) == 8
vault, secret = '{localazure["key_vault"]}', 'notebook-{uuid.uuid4().hex[:8]}'
credentials = notebookutils.credentials
assert credentials.putSecret(vault, secret, 'kept') == 'kept' == credentials.getSecret(vault, secret)
assert mssparkutils.credentials.getSecret(vault, secret) == 'kept'
assert credentials.isValidToken(credentials.getToken('Vault'))
for wrong, words in ((vault, 'SecretNotFound'), ('other', "there is no key vault 'other'")):
    try:
        credentials.getSecret(wrong, 'never-there')
    except RuntimeError as error:
        assert words in str(error), error
    else:
        raise AssertionError(wrong)
refused = 0
for call in ("notebookutils.credentials.getSecretWithLS('vault', 'name')", "notebookutils.fs.getMountPath('/m')",
             "frame.writeTo('t')", "spark.sql(\\"CREATE FUNCTION f AS 'a.B'\\")",
             "spark.read.format('jdbc')", "notebookutils.lakehouse"):
    try:
        frame = spark.range(1)
        eval(call)
    except NotImplementedError as error:
        assert 'is not implemented by localazure' in str(error)
        refused += 1
assert refused == 6, refused
from notebookutils import mssparkutils as same
same.notebook.exit(same.env.getWorkspaceName() + ' ' + same.runtime.context['workspace'])
"""
        ),
    )
    assert result.error is None, (result.error.evalue, result.error.traceback)
    assert result.exit_value == f"{localazure['workspace']} {localazure['workspace']}"


def test_the_same_run_id_is_one_run(client: ArtifactsClient, localazure: Any) -> None:
    publish(client, "once", notebook(code("import time; time.sleep(1); notebookutils.notebook.exit('done')")))
    run = f"once-{uuid.uuid4()}"
    for _ in range(3):
        submit(client, localazure["spark_pool"], "once", run)
    first = ended(client, run, DEADLINE_SECONDS)
    submit(client, localazure["spark_pool"], "once", run)
    again = client.run_notebook.get_status(run).result
    assert (first.exit_value, again.run_status, again.session_id) == ("done", "Succeeded", first.session_id)


def test_a_run_is_cancelled_and_stays_cancelled(client: ArtifactsClient, localazure: Any) -> None:
    publish(client, "slow", notebook(code("import time\ntime.sleep(600)")))
    run = submit(client, localazure["spark_pool"], "slow")
    while client.run_notebook.get_status(run).result.run_status == "Starting":
        time.sleep(0.2)
    assert client.run_notebook.cancel_run(run).result.run_status == "Cancelled"
    assert client.run_notebook.get_status(run).result.run_status == "Cancelled"
    with pytest.raises(ResourceExistsError, match="cannot accept the cancel request"):
        client.run_notebook.cancel_run(run)


def test_a_run_of_what_is_not_there_is_refused(client: ArtifactsClient, localazure: Any) -> None:
    publish(client, "there", notebook(code("1")))
    with pytest.raises(ResourceNotFoundError, match="nowhere"):
        submit(client, localazure["spark_pool"], "nowhere")
    with pytest.raises(ResourceNotFoundError, match="otherpool"):
        submit(client, "otherpool", "there")
    with pytest.raises(HttpResponseError, match="100"):
        submit(client, localazure["spark_pool"], "there", "x" * 101)
    with pytest.raises(HttpResponseError, match=r"n.*isn't of type int"):
        body = {
            "notebook": "there",
            "sparkPool": localazure["spark_pool"],
            "parameters": {"n": {"type": "int", "value": "x"}},
        }
        client.run_notebook.begin_create_run(str(uuid.uuid4()), io.BytesIO(json.dumps(body).encode()))
    with pytest.raises(ResourceNotFoundError):
        client.run_notebook.get_status(str(uuid.uuid4()))


def test_a_notebook_in_another_language_fails_by_name(client: ArtifactsClient, localazure: Any) -> None:
    publish(client, "scala", notebook(code("%%spark\nval x = 1")))
    result = ended(client, submit(client, localazure["spark_pool"], "scala"), DEADLINE_SECONDS)
    assert result.run_status == "Failed"
    assert "%%spark is not implemented by localazure" in result.error.evalue


async def test_the_asynchronous_client_does_the_same(localazure: Any) -> None:
    from azure.identity.aio import ClientSecretCredential

    names = {name: localazure[name] for name in ("tenant_id", "client_id", "client_secret")}
    settings = {"authority": localazure["api_url"], "disable_instance_discovery": True}
    verify = {"connection_verify": localazure["ca_bundle"]}
    async with (
        ClientSecretCredential(**names, **settings, **verify) as credential,
        AsyncArtifactsClient(credential, localazure["synapse_endpoint"], **verify) as client,
    ):
        content = notebook(code("x = 1", "parameters"), code("mssparkutils.notebook.exit(str(x))"))
        resource = NotebookResource.deserialize({"name": "asynchronous", "properties": content})
        await (await client.notebook.begin_create_or_update_notebook("asynchronous", resource)).result()
        assert "asynchronous" in [item.name async for item in client.notebook.get_notebooks_by_workspace()]
        runs = []
        for number in (5, 6):
            run = str(uuid.uuid4())
            given = {"x": RunNotebookParameter(type="int", value=number)}
            request = RunNotebookRequest(notebook="asynchronous", spark_pool=localazure["spark_pool"], parameters=given)
            await (await client.run_notebook.begin_create_run(run, request)).result()
            runs.append(run)
        assert (await client.run_notebook.cancel_run(runs[1])).result.run_status == "Cancelled"
        end = time.monotonic() + DEADLINE_SECONDS
        while (result := (await client.run_notebook.get_status(runs[0])).result).run_status in ("Starting", "Running"):
            assert time.monotonic() < end
            await asyncio.sleep(0.2)
        assert (result.run_status, result.exit_value) == ("Succeeded", "5")
        assert (await client.run_notebook.get_snapshot(runs[0])).result.snapshot.exit_value == "5"
        await (await client.notebook.begin_delete_notebook("asynchronous")).result()


# The notebook this project ships.
def test_airport_congestion_counts_what_the_schedule_says(client: ArtifactsClient, localazure: Any) -> None:
    rows = [
        (1, "JFK", "MIA", 600, 900),
        (2, "JFK", "MIA", 659, 930),
        (3, "JFK", "BOS", 700, 800),
        (4, "JFK", "MIA", 930, 1200),
        (5, "EWR", "MIA", 700, 1000),
        (6, "JFK", "BOS", 700, 800),
        (7, "EWR", "BOS", 2350, 30),  # arrives the next day
        (8, "EWR", "BOS", 2355, 100),
    ]
    schema, day = f"t_{uuid.uuid4().hex[:8]}", date(2013, 1, 1)
    run_sql = sql(localazure)
    run_sql(f"CREATE SCHEMA {schema}")
    columns = "flight_id bigint, flight_date date, origin char(3), dest char(3), sched_dep_time int, sched_arr_time int"
    run_sql(f"CREATE TABLE {schema}.flights ({columns}, tailnum varchar(10)) WITH (HEAP, DISTRIBUTION = ROUND_ROBIN)")
    values = " UNION ALL SELECT ".join(
        f"{number}, '{day}', '{origin}', '{dest}', {left}, {due}, 'N1'" for number, origin, dest, left, due in rows
    )
    run_sql(f"INSERT INTO {schema}.flights SELECT {values}")
    publish(client, "airport_congestion", json.loads(SHIPPED.read_text()))
    database = localazure["sql_database"]
    tables = {"flights_table": f"{database}.{schema}.flights", "congestion_table": f"{database}.{schema}.congestion"}
    parameters = {name: {"type": "string", "value": table} for name, table in tables.items()}
    for _ in range(2):  # a re-run replaces the table
        run = submit(client, localazure["spark_pool"], "airport_congestion", parameters=parameters)
        result = ended(client, run, DEADLINE_SECONDS)
        assert result.error is None, (result.error.evalue, result.error.traceback)
        assert json.loads(result.exit_value) == {"rows": 8, "airports": 4}
    counted = run_sql(f"SELECT * FROM {schema}.congestion ORDER BY flight_id")
    assert [row[:2] for row in counted] == [(number, day) for number in range(1, 9)]
    assert [row[2] for row in counted] == [0, 1, 2, 0, 0, 2, 0, 1]
    assert [row[3] for row in counted] == [0, 1, 2, 3, 0, 2, 0, 1]
    assert [row[4] for row in counted] == [0, 1, 0, 0, 2, 0, 0, 1]
    for table in ("flights", "congestion"):
        run_sql(f"DROP TABLE {schema}.{table}")


def sql(localazure: Any) -> Callable[[str], list[Any]]:
    """Runs a statement on the dedicated pool by a client of its own; its rows, if it has any."""
    import pymssql

    server, port = localazure["sql_server"].split(",")
    connection = pymssql.connect(
        server=server,
        port=port,
        user=localazure["sql_login"],
        password=localazure["sql_password"],
        database=localazure["sql_database"],
        tds_version="7.4",
        autocommit=True,
    )

    def run(statement: str) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    return run
