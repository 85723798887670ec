"""Azure ML's service as Microsoft's own SDK uses it: assets, command and AutoML jobs, run history, models, MLflow.

Evidence: `sdk` (azure-ai-ml unmodified, real HTTP).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

TRAIN = """
import argparse, os, pathlib, time
import mlflow
parser = argparse.ArgumentParser()
parser.add_argument("--data"); parser.add_argument("--out"); parser.add_argument("--rate")
parser.add_argument("--sleep", type=float, default=0); parser.add_argument("--fail", action="store_true")
options = parser.parse_args()
print("files:", sorted(os.listdir(options.data)), flush=True)
mlflow.log_metric("accuracy", 0.75)
pathlib.Path(options.out, "result.txt").write_text("rate " + options.rate)
time.sleep(options.sleep)
if options.fail:
    raise SystemExit("no column named late")
"""
JOB = """
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
type: command
experiment_name: contract
compute: azureml:cpu-cluster
code: code
command: >-
  python train.py --data ${{inputs.data}} --out ${{outputs.out}} --rate ${{inputs.rate}} --sleep ${{inputs.sleep}}
  $[[${{inputs.flag}}]]
environment:
  image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04
  conda_file: conda.yml
inputs:
  data: {type: uri_folder, path: azureml:contract-folder@latest}
  rate: 0.1
  sleep: 0
outputs:
  out: {type: uri_folder}
tags: {team: flights}
"""
CONDA = "name: t\ndependencies: [python>=3.11, pip, {pip: [mlflow, azureml-mlflow]}]\n"
AUTOML = """
$schema: https://azuremlschemas.azureedge.net/latest/autoMLJob.schema.json
type: automl
task: classification
experiment_name: contract-automl
compute: azureml:cpu-cluster
training_data: {type: mltable, path: azureml:contract-table@latest}
target_column_name: late
primary_metric: AUC_weighted
limits: {timeout_minutes: 3, trial_timeout_minutes: 1, max_trials: 3, max_concurrent_trials: 1}
training: {allowed_training_algorithms: [light_gbm, logistic_regression]}
outputs: {best_model: {type: mlflow_model}}
"""
FINAL = {"Completed", "Failed", "Canceled"}


@pytest.fixture(scope="module")
def client(localazure: Any) -> Any:
    return localazure.ml_client()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, client: Any) -> Path:
    """The user's files; the data assets are created from them."""
    from azure.ai.ml.entities import Data

    root = tmp_path_factory.mktemp("user")
    (root / "code").mkdir()
    (root / "code" / "train.py").write_text(TRAIN)
    (root / "conda.yml").write_text(CONDA)
    (root / "job.yml").write_text(JOB)
    (root / "automl.yml").write_text(AUTOML)
    (root / "data").mkdir()
    (root / "data" / "rows.csv").write_text("a,b\n1,2\n")
    (root / "table").mkdir()
    rows = [f"{i % 24},{'AB'[i % 2]},{(i * 37) % 100},{(i % 24 > 15) != (i % 17 == 0)}" for i in range(400)]
    (root / "table" / "rows.csv").write_text("hour,carrier,noise,late\n" + "\n".join(rows) + "\n")
    (root / "table" / "MLTable").write_text(
        "paths:\n  - file: ./rows.csv\ntransformations:\n  - read_delimited:\n      delimiter: ','\n"
        "      header: all_files_same_headers\n      encoding: utf8\n"
    )
    client.data.create_or_update(Data(name="contract-folder", path=str(root / "data"), type="uri_folder"))
    client.data.create_or_update(Data(name="contract-table", path=str(root / "table"), type="mltable"))
    return root


@pytest.fixture(scope="module")
def submit(client: Any, folder: Path) -> Callable[..., Any]:
    """Submits a job from its YAML under a new name; keyword arguments override inputs."""

    def submitted(yaml: str = "job.yml", **inputs: Any) -> Any:
        from azure.ai.ml import load_job

        known = {"data": {"type": "uri_folder", "path": "azureml:contract-folder@latest"}, "rate": 0.1, "sleep": 0}
        override = [{"inputs": {**known, **inputs}}] if inputs else []
        job = load_job(folder / yaml, params_override=override)
        job.name = f"contract-{uuid.uuid4().hex[:12]}"
        return client.jobs.create_or_update(job)

    return submitted


@pytest.fixture(scope="module")
def finished(client: Any) -> Callable[..., Any]:
    def wait(name: str, seconds: float = 120, states: set[str] = FINAL) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job = client.jobs.get(name)
            if job.status in states:
                return job
            time.sleep(0.3)
        raise AssertionError(f"{name} is {job.status} after {seconds} s")

    return wait


@pytest.fixture(scope="module")
def completed(submit: Any, finished: Any) -> Any:
    """One command job that went well."""
    job = finished(submit().name)
    assert job.status == "Completed"
    return job


def test_the_workspace_has_its_datastores_and_computes(client: Any) -> None:
    workspace = client.workspaces.get(client.workspace_name)
    assert workspace.mlflow_tracking_uri.startswith("azureml://localhost:")
    assert client.datastores.get_default().name == "workspaceblobstore"
    assert {store.name for store in client.datastores.list()} >= {"workspaceartifactstore", "lake"}
    kinds = {compute.name: compute.type.lower() for compute in client.compute.list()}
    assert kinds["cpu-cluster"] == "amlcompute"
    assert kinds["aks"] == "kubernetes"


def test_a_command_job_runs_the_uploaded_code_and_its_outputs_come_back(
    client: Any, completed: Any, tmp_path: Path
) -> None:
    client.jobs.download(completed.name, output_name="out", download_path=tmp_path)
    client.jobs.download(completed.name, download_path=tmp_path)
    assert (tmp_path / "named-outputs/out/result.txt").read_text() == "rate 0.1"
    assert "files: ['rows.csv']" in (tmp_path / "artifacts/user_logs/std_log.txt").read_text()


def test_stream_prints_the_log_to_the_end(client: Any, submit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    client.jobs.stream(submit().name)
    printed = capsys.readouterr().out
    assert "Execution Summary" in printed
    assert "files: ['rows.csv']" in printed


def test_the_same_name_is_the_same_job_and_other_content_is_refused(client: Any, completed: Any, folder: Path) -> None:
    from azure.ai.ml import load_job
    from azure.core.exceptions import HttpResponseError

    again = load_job(folder / "job.yml")
    again.name = completed.name
    assert client.jobs.create_or_update(again).status == "Completed"
    again.command = "python other.py"
    with pytest.raises(HttpResponseError, match="A job with this name already exists") as caught:
        client.jobs.create_or_update(again)
    assert caught.value.status_code == 400
    assert caught.value.error.code == "UserError"


def test_tags_are_merged_and_archived_jobs_leave_the_list(client: Any, completed: Any) -> None:
    client.jobs.update(completed.name, tags={"reviewed": "yes"})
    assert client.jobs.get(completed.name).tags == {"team": "flights", "reviewed": "yes"}
    client.jobs.archive(completed.name)
    assert completed.name not in {job.name for job in client.jobs.list()}
    client.jobs.restore(completed.name)
    assert completed.name in {job.name for job in client.jobs.list()}


def test_cancel_ends_a_running_job(client: Any, submit: Any, finished: Any) -> None:
    name = submit(sleep=120).name
    finished(name, states={"Running"})
    client.jobs.begin_cancel(name).result()
    assert client.jobs.get(name).status == "Canceled"


def test_a_failing_command_shows_its_last_lines(client: Any, submit: Any) -> None:
    from azure.ai.ml.exceptions import JobException

    name = submit(flag="--fail").name
    with pytest.raises(JobException, match="no column named late"):
        client.jobs.stream(name)
    assert client.jobs.get(name).status == "Failed"


def test_an_input_that_is_not_there_is_named(client: Any, submit: Any, finished: Any) -> None:
    uri = "azureml://datastores/lake/paths/nothing/here/"
    name = submit(data={"type": "uri_folder", "path": uri}).name
    assert finished(name).status == "Failed"
    details = client.jobs._runs_operations.get_run_details(name)
    assert f"The input 'data' can't be read: There is nothing at '{uri}'" in details.error.error.message


def test_models_from_job_outputs_have_versions_tags_and_content(client: Any, completed: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    path = f"azureml://jobs/{completed.name}/outputs/out"
    name = f"model-{completed.name}"
    first = client.models.create_or_update(Model(name=name, path=path, type="custom_model"))
    second = client.models.create_or_update(Model(name=name, path=path, type="custom_model", tags={"a": "1"}))
    assert (first.version, second.version) == ("1", "2")
    assert client.models.get(name, label="latest").version == "2"
    second.tags["stage"] = "champion"
    client.models.create_or_update(second)
    assert client.models.get(name, version="2").tags == {"a": "1", "stage": "champion"}
    client.models.download(name, "1", download_path=tmp_path)
    assert [file.read_text() for file in tmp_path.rglob("result.txt")] == ["rate 0.1"]


def test_automl_trials_are_children_and_the_best_one_is_a_model(
    client: Any, submit: Any, finished: Any, localazure: Any, tmp_path: Path
) -> None:
    name = submit("automl.yml").name
    job = finished(name, 240)
    assert job.status == "Completed"
    children = list(client.jobs.list(parent_job_name=name))
    assert [child.name for child in children] == [f"{name}_{number}" for number in range(3)]
    scores = {child.name: float(child.properties["score"]) for child in children}
    best = job.properties["best_child_run_id"]
    assert scores[best] == max(scores.values()) == float(job.properties["score"]) > 0.8
    assert {child.properties["run_algorithm"] for child in children} == {
        "LightGBM",
        "LogisticRegression",
        "VotingEnsemble",
    }
    client.jobs.download(name, output_name="best_model", download_path=tmp_path)
    described = (tmp_path / "named-outputs/best_model/MLmodel").read_text()
    assert "python_function" in described
    assert "signature" in described

    # MLflow, through the workspace's address: the runs have the jobs' names.
    uri = client.workspaces.get(client.workspace_name).mlflow_tracking_uri.replace("azureml://", "https://")
    token = localazure.credential().get_token("https://ml.azure.com/.default").token
    headers = {"Authorization": f"Bearer {token}"}
    run = requests.get(f"{uri}/api/2.0/mlflow/runs/get", {"run_id": best}, headers=headers, timeout=30).json()["run"]
    assert run["info"]["run_id"] == best
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics["AUC_weighted"] == pytest.approx(scores[best])
    query = {
        "experiment_ids": [run["info"]["experiment_id"]],
        "filter": f"tags.mlflow.parentRunId = '{name}'",
    }
    found = requests.post(f"{uri}/api/2.0/mlflow/runs/search", json=query, headers=headers, timeout=30).json()["runs"]
    assert {each["info"]["run_id"] for each in found} == set(scores)
    assert requests.get(f"{uri}/api/2.0/mlflow/runs/get", {"run_id": best}, timeout=30).status_code == 401


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training.enable_dnn_training": True}, "enableDnnTraining"),
        ({"limits.trial_timeout_minutes": 5}, "must not be longer"),
        ({"compute": "azureml:nowhere"}, "The compute 'nowhere' was not found"),
    ],
)
def test_an_automl_job_that_can_not_run_is_refused(
    client: Any, folder: Path, change: dict[str, Any], message: str
) -> None:
    from azure.ai.ml import load_job
    from azure.core.exceptions import HttpResponseError

    job = load_job(folder / "automl.yml", params_override=[change])
    job.name = f"contract-{uuid.uuid4().hex[:12]}"
    with pytest.raises(HttpResponseError, match=message):
        client.jobs.create_or_update(job)
