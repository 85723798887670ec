"""Spark jobs as Microsoft's own SDK submits them: serverless from YAML, on the attached pool from the builder."""

from __future__ import annotations

import time
import uuid
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.evidence("sdk")

# pandas on Spark, as Microsoft's examples wrangle; a helper from py_files, a file and an archive beside it.
WRANGLE = """
import argparse, os, pathlib
import pyspark.pandas as pd
import helper
from pyspark.sql import SparkSession

parser = argparse.ArgumentParser()
parser.add_argument("--flights"); parser.add_argument("--wrangled"); parser.add_argument("--label")
options = parser.parse_args()
print(options.flights, options.label, flush=True)
df = pd.read_csv(options.flights, index_col="flight")
df["late"] = df["delay"].fillna(df["delay"].mean()) > helper.LIMIT
df.to_csv(options.wrangled, index_col="flight")
spark = SparkSession.builder.getOrCreate()
assert spark.conf.get("spark.sql.shuffle.partitions") == "3"
assert spark.sparkContext.master == "local[2]"
rows = spark.createDataFrame([(1, "EWR"), (2, "JFK")], ["id", "origin"])
limit = helper.LIMIT
assert rows.rdd.map(lambda row: (row.id, open("note.txt").read(), __import__("helper").LIMIT)).collect() == [
    (1, "beside", limit), (2, "beside", limit)
]
assert pathlib.Path("planes/planes.txt").read_text() == "747"
pathlib.Path("outputs/count.txt").write_text(str(rows.count()))
"""
SPARK = """
$schema: https://azuremlschemas.azureedge.net/latest/sparkJob.schema.json
type: spark
experiment_name: contract-spark
code: code
entry: {file: wrangle.py}
py_files: [helper.zip]
files: [extra/note.txt]
archives: ["planes.zip#planes"]
conf:
  spark.driver.cores: 1
  spark.driver.memory: 2g
  spark.executor.cores: 2
  spark.executor.memory: 2g
  spark.executor.instances: 2
  spark.sql.shuffle.partitions: 3
inputs:
  flights: {type: uri_file, path: azureml://datastores/lake/paths/contract-spark/flights.csv, mode: direct}
  label: late
outputs:
  wrangled: {type: uri_folder, mode: direct}
args: --flights ${{inputs.flights}} --wrangled ${{outputs.wrangled}} --label "${{inputs.label}} or not"
resources: {instance_type: standard_e4s_v3, runtime_version: "3.4"}
identity: {type: user_identity}
"""
# Reads a datastore's address itself, writes partitions; then fails where there is nothing.
COPY = """
import sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.appName("copy").getOrCreate()
frame = spark.read.option("header", True).csv("azureml://datastores/lake/paths/contract-spark/")
frame.write.mode("overwrite").parquet(sys.argv[1])
print("rows", spark.read.parquet(sys.argv[1]).count(), flush=True)
spark.read.parquet("abfss://lake@azflowlake.dfs.core.windows.net/contract-spark/nowhere")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("user")
    code = root / "code"
    (code / "extra").mkdir(parents=True)
    (code / "wrangle.py").write_text(WRANGLE)
    (code / "copy_flights.py").write_text(COPY)
    (code / "extra" / "note.txt").write_text("beside")
    with zipfile.ZipFile(code / "helper.zip", "w") as helper:
        helper.writestr("helper.py", "LIMIT = 15\n")
    with zipfile.ZipFile(code / "planes.zip", "w") as planes:
        planes.writestr("planes.txt", "747")
    (root / "spark.yml").write_text(SPARK)
    return root


@pytest.fixture(scope="module")
def flights(localazure: Any) -> str:
    """The input, in the lake."""
    from azure.storage.blob import BlobServiceClient

    blobs = BlobServiceClient(localazure["storage_account_url"], localazure.credential())
    blobs.get_blob_client("lake", "contract-spark/flights.csv").upload_blob(
        "flight,delay\n1,10\n2,\n3,40\n", overwrite=True
    )
    return "azureml://datastores/lake/paths/contract-spark/flights.csv"


def finished(client: Any, job: Any, seconds: float = 300) -> Any:
    """The job once it is over."""
    end = time.monotonic() + seconds
    while (job := client.jobs.get(job.name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < end, f"{job.name} is {job.status} after {seconds} s"
        time.sleep(0.3)
    return job


def log_of(client: Any, name: str, folder: Path) -> str:
    """The job's log and artifacts, downloaded."""
    client.jobs.download(name, download_path=folder)
    return (folder / "artifacts/user_logs/std_log.txt").read_text()


def spark_processes(job: str) -> list[str]:
    """What still runs of a job's Spark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"AZUREML_RUN_ID={job}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_a_serverless_job_from_yaml_reads_and_writes_the_lake(
    localazure: Any, folder: Path, flights: str, tmp_path: Path
) -> None:
    from azure.ai.ml import load_job

    client = localazure.ml_client()
    job = load_job(folder / "spark.yml")
    job.name = f"spark-{uuid.uuid4().hex[:12]}"
    ended = finished(client, client.jobs.create_or_update(job))
    log = log_of(client, job.name, tmp_path)
    assert ended.status == "Completed", log
    assert "abfss://lake@azflowlake.dfs.core.windows.net/contract-spark/flights.csv late or not" in log
    assert "Spark 3.4 is asked for; this is Spark 3.5" in log
    assert (tmp_path / "artifacts/outputs/count.txt").read_text() == "2"
    client.jobs.download(job.name, output_name="wrangled", download_path=tmp_path)
    parts = sorted((tmp_path / "named-outputs/wrangled").glob("part-*.csv"))
    rows = sorted({line for part in parts for line in part.read_text().splitlines()})
    assert rows == ["1,10,false", "2,,true", "3,40,true", "flight,delay,late"]
    assert spark_processes(job.name) == []


def test_the_builder_on_the_attached_pool_and_a_failure_with_its_cause(
    localazure: Any, folder: Path, flights: str, tmp_path: Path
) -> None:
    from azure.ai.ml import Output, spark

    client = localazure.ml_client()
    job = spark(
        name=f"spark-{uuid.uuid4().hex[:12]}",
        code=str(folder / "code"),
        entry={"file": "copy_flights.py"},
        driver_cores=1,
        driver_memory="1g",
        executor_cores=1,
        executor_memory="1g",
        dynamic_allocation_enabled=True,
        dynamic_allocation_min_executors=1,
        dynamic_allocation_max_executors=1,
        compute="synapse-spark",
        outputs={"copy": Output(type="uri_folder", mode="direct")},
        args="${{outputs.copy}}",
        experiment_name="contract-spark",
    )
    ended = finished(client, client.jobs.create_or_update(job))
    log = log_of(client, job.name, tmp_path)
    assert ended.status == "Failed"
    assert "Spark local[1], 1024m" in log
    assert "rows 3" in log
    assert "Path does not exist: abfss://lake@azflowlake.dfs.core.windows.net/contract-spark/nowhere" in log
    assert spark_processes(job.name) == []


def test_what_spark_cannot_be_is_refused_at_submission(localazure: Any, folder: Path) -> None:
    from azure.ai.ml import load_job
    from azure.core.exceptions import HttpResponseError

    client = localazure.ml_client()
    on_pool = ('resources: {instance_type: standard_e4s_v3, runtime_version: "3.4"}', "compute: azureml:synapse-spark")
    for number, (message, *changes) in enumerate(
        (
            (
                "conf spark.jars.packages is not implemented",
                ("spark.sql.shuffle.partitions: 3", "spark.jars.packages: a"),
            ),
            ("SynapseSpark", (on_pool[0], "compute: azureml:cpu-cluster")),
            ("executor asks for 8 vcores. A node of the pool", on_pool, ("executor.cores: 2", "executor.cores: 8")),
            ("has a 24 core limit", on_pool, ("executor.instances: 2", "executor.instances: 12")),
        )
    ):
        text = SPARK
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / f"refused-{number}.yml").write_text(text)
        job = load_job(folder / f"refused-{number}.yml")
        job.name = f"spark-{uuid.uuid4().hex[:12]}"
        with pytest.raises(HttpResponseError, match=message):
            client.jobs.create_or_update(job)


# What a night's training may look like: Spark makes the features, a command learns from them.
FEATURES = """
import sys
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

flights, features = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
rows = spark.read.option("header", True).csv(flights)
rows.groupBy().agg(F.sum("delay").alias("minutes")).coalesce(1).write.mode("overwrite").parquet(features)
"""
PIPELINE = """
$schema: https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json
type: pipeline
experiment_name: contract-spark
inputs:
  flights: {type: uri_file, path: azureml:NAME@latest, mode: direct}
jobs:
  features:
    type: spark
    code: code
    entry: {file: features.py}
    compute: azureml:attached
    conf:
      spark.driver.cores: 1
      spark.driver.memory: 1g
      spark.executor.cores: 1
      spark.executor.memory: 1g
      spark.executor.instances: 1
    inputs:
      flights: {type: uri_file, path: "${{parent.inputs.flights}}", mode: direct}
    outputs:
      features: {type: uri_folder, mode: direct}
    args: ${{inputs.flights}} ${{outputs.features}}
  train:
    type: command
    compute: azureml:cpu-cluster
    environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest
    inputs:
      features: ${{parent.jobs.features.outputs.features}}
    outputs:
      best_model: {type: uri_folder}
    command: >-
      python -c "import pandas, pathlib;
      minutes = pandas.read_parquet('${{inputs.features}}')['minutes'][0];
      pathlib.Path('${{outputs.best_model}}', 'model.txt').write_text(str(minutes))"
"""


def test_a_pipelines_step_on_a_pool_attached_by_its_id_reads_a_data_asset_by_name(
    localazure: Any, folder: Path, flights: str, tmp_path: Path
) -> None:
    from azure.ai.ml import load_job
    from azure.ai.ml.entities import Data, SynapseSparkCompute

    client = localazure.ml_client()
    (folder / "code" / "features.py").write_text(FEATURES)
    scope = f"/subscriptions/{localazure['subscription_id']}/resourceGroups/{localazure['resource_group']}"
    pools = f"{scope}/providers/Microsoft.Synapse/workspaces/{localazure['workspace']}/bigDataPools"
    compute = SynapseSparkCompute(name="attached", resource_id=f"{pools}/{localazure['spark_pool']}")
    attached = client.compute.begin_create_or_update(compute).result()
    assert (attached.type, attached.node_size, attached.scale_settings.max_node_count) == ("synapsespark", "Small", 6)
    name = f"flights-{uuid.uuid4().hex[:8]}"
    client.data.create_or_update(Data(name=name, version="1", type="uri_file", path=flights))
    (folder / "pipeline.yml").write_text(PIPELINE.replace("NAME", name))
    ended = finished(client, client.jobs.create_or_update(load_job(folder / "pipeline.yml")))
    steps = {step.display_name: step for step in client.jobs.list(parent_job_name=ended.name)}
    assert ended.status == "Completed", {name: step.status for name, step in steps.items()}
    assert steps["features"].compute.rpartition("/")[2] == "attached"
    client.jobs.download(steps["train"].name, output_name="best_model", download_path=tmp_path)
    assert (tmp_path / "named-outputs/best_model/model.txt").read_text() == "50.0"
    assert spark_processes(steps["features"].name) == []
