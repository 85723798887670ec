"""azflow's Azure ML operators through azure-ai-ml against localazure. Evidence: `sdk` (the real client, unmodified).

The jobs really run: their code in the compute environment, their outputs in the lake, their metrics in MLflow.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import textwrap
import time
import uuid
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from azflow import exports, job_files
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, RunExists, SpecError
from azflow.ml import AzureMLJobOperator, DataAssetOperator, EvaluationGate, RegisterModelOperator, lake_folder
from azflow.ml_jobs import AzureMLJobs
from azflow.registry import CHALLENGER, CHAMPION, RETIRED, ModelRegistry
from azflow.remote import DIGEST_TAG, payload_digest
from azflow.specs import Night

DEADLINE_SECONDS = 180

pytest.importorskip("azure.ai.ml")


@pytest.fixture
def connection(localazure: Any, monkeypatch: pytest.MonkeyPatch) -> AzureConnection:
    content = {
        "conn_type": "azflow",
        "login": localazure["client_id"],
        "password": localazure["client_secret"],
        "extra": {
            **{
                name: localazure[name]
                for name in ("tenant_id", "subscription_id", "resource_group", "workspace", "storage_account_url")
            },
            "container": localazure["container"],
            "cloud": localazure.cloud(),
            "verify": localazure["ca_bundle"],
        },
    }
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(content))
    return AzureConnection.load("azure_default")


@pytest.fixture
def include(tmp_path: Path) -> Path:
    """An include folder with one command job and its code."""
    write(tmp_path / "ml/jobs/job.yml", JOB)
    write(tmp_path / "ml/code/main.py", CODE)
    return tmp_path


JOB = """
    $schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
    type: command
    experiment_name: contract
    display_name: night {{ night.partition }}
    compute: azureml:cpu-cluster
    code: ../code
    command: >-
      python main.py --word ${{inputs.word}} --out ${{outputs.evidence}}
    environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest
    inputs:
      word: "{{ inputs.word }}"
    outputs:
      evidence:
        type: uri_folder
"""
CODE = """
    import argparse, json, pathlib, sys
    import mlflow

    parser = argparse.ArgumentParser()
    parser.add_argument("--word")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    print("the word is", options.word)
    if options.word == "fail":
        print("something happened before the end", flush=True)
        sys.exit("a wrong word")
    if options.word == "sleep":
        import time
        time.sleep(120)
    mlflow.log_metric("answer", 42.5)
    interval = {"low": 0.7, "high": 0.8}
    evidence = {"metric": "roc_auc", "rows": 5000, "challenger": {"value": 0.75, **interval}, "champion": None,
                "difference": None, "champion_version": None}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evidence.json").write_text(json.dumps(evidence))
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())


NIGHT = Night.of("nightly", f"manual__{uuid.uuid4()}", date(2013, 3, 8))


def payload(include: Path, word: str, **settings: Any) -> dict[str, Any]:
    rendered = job_files.read_job("jobs/job.yml", {"night": NIGHT, "inputs": {"word": word}}, include)
    content = job_files.override(rendered, {"word": word}, {}, settings)
    return {"file": "jobs/job.yml", "content": content, "code": "-"}


@pytest.fixture
def jobs(connection: AzureConnection, include: Path) -> Iterator[AzureMLJobs]:
    made = AzureMLJobs(connection, str(include))
    yield made
    made.close()


def ended(jobs: AzureMLJobs, name: str) -> Any:
    end = time.monotonic() + DEADLINE_SECONDS
    while not (state := jobs.state(name)).is_terminal:
        assert time.monotonic() < end, f"the job is still {state}"
        time.sleep(0.3)
    return state


def submitted(jobs: AzureMLJobs, include: Path, word: str) -> str:
    body = payload(include, word)
    return jobs.submit(f"t-{uuid.uuid4().hex[:12]}", body, {DIGEST_TAG: payload_digest(body), "azflow.dag": "d"})


def test_a_job_runs_and_yields_outputs_and_metrics(
    jobs: AzureMLJobs, include: Path, connection: AzureConnection
) -> None:
    name = submitted(jobs, include, "hello")
    found = jobs.lookup(name)
    assert found is not None
    assert found.payload_digest == payload_digest(payload(include, "hello"))
    assert asyncio.run(_astate(jobs, name)).phase in ("active", "succeeded")
    assert str(ended(jobs, name)) == "Completed"
    result = jobs.result(name)
    assert (result["name"], result["status"]) == (name, "Completed")
    assert result["metrics"]["answer"] == 42.5
    assert set(result["outputs"]) == {"evidence"}
    evidence = lake_folder(connection, result["outputs"]["evidence"]).read_json("evidence.json")
    assert evidence["rows"] == 5000
    assert json.loads(json.dumps(result)) == result
    # The link that Airflow shows leads a person to the run.
    answer = requests.get(result["url"], verify=connection.verify, timeout=10, allow_redirects=False)
    assert answer.status_code == 307
    assert name in answer.headers["Location"]


async def _astate(jobs: AzureMLJobs, name: str) -> Any:
    try:
        return await jobs.astate(name)
    finally:
        await jobs.aclose()


def test_there_is_no_job_of_an_unused_name(jobs: AzureMLJobs) -> None:
    assert jobs.lookup(f"none-{uuid.uuid4().hex}") is None


def test_a_failure_has_the_cause_and_the_last_lines(jobs: AzureMLJobs, include: Path) -> None:
    name = submitted(jobs, include, "fail")
    assert str(ended(jobs, name)) == "Failed"
    failure = jobs.failure(name)
    assert failure.cause != "the service names no error"
    assert "something happened before the end" in failure.log_tail
    assert "a wrong word" in failure.log_tail


def test_a_job_is_cancelled_and_cancelled_again(jobs: AzureMLJobs, include: Path) -> None:
    name = submitted(jobs, include, "sleep")
    jobs.cancel(name)
    assert ended(jobs, name).phase == "cancelled"
    jobs.cancel(name)


def test_one_name_is_one_job(jobs: AzureMLJobs, include: Path) -> None:
    name = submitted(jobs, include, "hello")
    body = payload(include, "hello")
    # Somebody else was faster with the same: it's the same job.
    assert jobs.submit(name, body, {DIGEST_TAG: payload_digest(body)}) == name
    with pytest.raises(RunExists):
        jobs.submit(name, payload(include, "other"), {DIGEST_TAG: "x"})
    ended(jobs, name)


def test_a_job_the_service_or_the_sdk_refuses_names_the_file(jobs: AzureMLJobs, include: Path) -> None:
    with pytest.raises(SpecError, match=r"include/ml/jobs/job\.yml.*no-such-compute"):
        jobs.submit(f"t-{uuid.uuid4().hex[:12]}", payload(include, "x", compute="azureml:no-such-compute"), {})
    with pytest.raises(SpecError, match=r"include/ml/jobs/job\.yml: line 2, type: Unsupported job type"):
        jobs.submit(f"t-{uuid.uuid4().hex[:12]}", payload(include, "x", type="no-such-type"), {})


class TaskInstance:
    """What the operators ask of Airflow's."""

    map_index = -1
    max_tries = 1

    def __init__(self, task: Any, xcoms: dict[str, Any] | None = None) -> None:
        self.task = task
        self.xcoms = xcoms or {}
        self.pushed: dict[str, Any] = {}
        self.dag_id, self.run_id, self.task_id = NIGHT.dag_id, NIGHT.run_id, task.task_id

    def xcom_pull(self, task_ids: str) -> Any:
        return self.xcoms.get(task_ids)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def run(operator: Any, xcoms: dict[str, Any] | None = None) -> Any:
    """Render and execute an operator as Airflow would."""
    return operator.execute(rendered(operator, xcoms))


def rendered(operator: Any, xcoms: dict[str, Any] | None = None) -> Any:
    """The context, after the operator's fields were rendered with it."""
    operator.retries = 1
    operator.dag = DAG(f"d{uuid.uuid4().hex[:6]}", schedule=None)
    ti = TaskInstance(operator, xcoms)
    dag_run = SimpleNamespace(
        dag_id=NIGHT.dag_id, run_id=NIGHT.run_id, logical_date=None, run_after=None, partition_key=None
    )
    context: Any = {"ti": ti, "dag_run": dag_run, "params": {"partition": "2013-03-08"}, "task": operator}
    operator.render_template_fields(context)
    return context


def wait_in_triggerer(trigger: Any) -> dict[str, Any]:
    """What the trigger fires, built anew from its serialisation as a triggerer does."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")

    async def first() -> Any:
        async for event in getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments))).run():
            return event.payload

    payload: dict[str, Any] = asyncio.run(first())
    return payload


def deferring(include: Path, word: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[Any, Any, Any]:
    monkeypatch.setattr(AzureMLJobOperator, "include", include)
    operator = AzureMLJobOperator(
        task_id=f"t{uuid.uuid4().hex[:8]}", job="jobs/job.yml", inputs={"word": word}, grace_seconds=0, **more
    )
    context = rendered(operator)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    return operator, context, deferred.value.trigger


def test_a_long_job_is_waited_for_in_the_triggerer(
    connection: AzureConnection, include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, context, trigger = deferring(include, "hello", monkeypatch)
    link = context["ti"].pushed["azflow_run"]["url"]
    event = wait_in_triggerer(trigger)
    assert (event["outcome"], event["state"]) == ("over", "Completed")
    result = operator.resume(context, event)
    assert (result["name"], result["url"], result["metrics"]) == (event["run_id"], link, {"answer": 42.5})


def test_a_deadline_cancels_the_job(
    connection: AzureConnection, jobs: AzureMLJobs, include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, context, trigger = deferring(include, "sleep", monkeypatch, timeout_minutes=0.1)
    event = wait_in_triggerer(trigger)
    assert event["outcome"] == "timed_out"
    assert ended(jobs, event["run_id"]).phase == "cancelled"
    with pytest.raises(AirflowFailException, match=r"passed its deadline of 0\.1 minutes and was cancelled"):
        operator.resume(context, event)


def test_a_failed_job_fails_the_task_with_its_last_lines(
    connection: AzureConnection, include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, context, trigger = deferring(include, "fail", monkeypatch)
    with pytest.raises(AirflowFailException, match=r"(?s)ended as Failed.*Last lines of its log:.*a wrong word"):
        operator.resume(context, wait_in_triggerer(trigger))


@pytest.fixture
def export(connection: AzureConnection) -> Iterator[str]:
    import pandas as pd

    folder = f"export/contract/{uuid.uuid4().hex[:8]}/train"
    with connection.blob_service() as service, service.get_container_client("lake") as lake:
        for number in range(2):
            frame = pd.DataFrame({"flight_id": range(100), "late": [number] * 100})
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            lake.upload_blob(f"{folder}/part-{number}.parquet", buffer.getvalue())
        lake.upload_blob(f"{folder}/_SUCCESS", b"")
    yield folder


def test_a_data_asset_points_at_the_export(connection: AzureConnection, export: str) -> None:
    def made() -> Any:
        operator = DataAssetOperator(task_id="train", name="contract_train", path=f"{export}/", tags={"more": "x"})
        return run(operator, {"quality.x": {"success": True}})

    first = made()
    assert first == made()  # again, with the same result
    assert (first["rows"], first["columns"]) == (200, ("flight_id", "late"))
    asset = connection.ml_client().data.get(first["name"], first["version"])
    assert asset.type == "mltable"
    assert asset.path.endswith(f"/datastores/lake/paths/{export}.mltable/")
    assert asset.tags["row_count"] == "200"
    assert asset.tags["more"] == "x"
    assert {"schema_hash", "watermark", "suite_result", "git_commit"} <= set(asset.tags)


def test_a_folder_asset_and_an_empty_folder(connection: AzureConnection, export: str) -> None:
    made = run(DataAssetOperator(task_id="train", name="contract_folder", path=export, type="uri_folder"))
    assert made["path"].endswith(f"/paths/{export}/")
    with pytest.raises(ConfigurationError, match="holds no Parquet file"):
        exports.inspect(connection, "export/contract/none")


def test_the_operator_finds_its_own_job_again_and_the_gate_reads_its_evidence(
    connection: AzureConnection, include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AzureMLJobOperator, "include", include)

    def job() -> Any:
        operator = AzureMLJobOperator(
            task_id="evaluate",
            job="jobs/job.yml",
            inputs={"word": "{{ night.key }}"},
            model="contract",
            grace_seconds=120,
        )
        return run(operator)

    result = job()
    assert job() == result
    client = connection.ml_client()
    tags = client.jobs.get(result["name"]).tags
    assert tags["partition"] == "2013-03-08"
    assert tags["azflow.input.word"] == NIGHT.key
    assert tags["git_commit"]

    def gate(**more: Any) -> Any:
        operator = EvaluationGate(
            task_id="verdict", evaluation="e", metric="roc_auc", max_loss=0.01, floor=0.6, min_rows=1000, **more
        )
        return run(operator, {"e": result})

    verdict = gate()
    assert verdict["promote"] is True
    stored = lake_folder(connection, result["outputs"]["evidence"]).read_json("verdict.json")
    assert stored["reasons"] == verdict["reasons"]

    # And the model: one version a job, challenger first, champion by promotion.
    name = f"contract-{uuid.uuid4().hex[:8]}"
    registry = ModelRegistry(connection, name)
    assert registry.versions() == []

    def register(job: dict[str, Any]) -> Any:
        operator = RegisterModelOperator(
            task_id="model", name=name, path=job["outputs"]["evidence"], type="custom_model"
        )
        return run(operator, {"train.job": job})

    one = register(result)
    assert register(result) == one
    assert (one["id"], one["role"], one["job"]) == (f"azureml:{name}:1", CHALLENGER, result["name"])
    registry.promote("1", "blue")
    assert registry.promote("1", "blue").role == CHAMPION
    two = register({**result, "name": "another-job"})
    assert two["version"] == "2"
    registry.promote("2", "green")
    assert [(each.version, each.role) for each in registry.versions()] == [("2", CHAMPION), ("1", RETIRED)]
    assert registry.versions()[0].deployment == "green"
