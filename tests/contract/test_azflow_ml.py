"""azflow's Azure ML operators against localazure: components, pipelines by name, sweeps, spend, comparison, orphans,
batch endpoints, registries. The jobs really run.
"""

from __future__ import annotations

import json
import textwrap
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException

import azflow.endpoint_files
import azflow.orphans
from azflow.batch import BatchDeployOperator, BatchEndpointInvokeOperator
from azflow.components import PipelineRunOperator, PublishComponentsOperator
from azflow.connection import AzureConnection
from azflow.ml import AzureMLJobOperator, DataAssetOperator, RegisterModelOperator
from azflow.ml_jobs import AzureMLJobs
from azflow.orphans import OrphanSweepOperator
from azflow.registry import ModelRegistry
from azflow.sharing import ShareModelOperator
from azflow.specs import Night
from azflow.tracking import CompareRunsOperator

pytestmark = pytest.mark.evidence("sdk")

pytest.importorskip("azure.ai.ml")

NAME = f"t{uuid.uuid4().hex[:8]}"
ENVIRONMENT = "environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest"
# MLflow's REST interface: importing mlflow takes seconds, in each of these small jobs.
CODE = """
    import argparse, json, os, pathlib, urllib.request

    def log(call, **content):
        address = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/runs/{call}"
        content = json.dumps({"run_id": os.environ["MLFLOW_RUN_ID"], **content}).encode()
        token = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(address, content, token)).read()

    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    print("the rate is", options.rate, flush=True)
    if options.rate < 0:
        raise SystemExit("a rate below nothing")
    log("log-parameter", key="rate", value=str(options.rate))
    log("log-metric", key="accuracy", value=1 - (options.rate - 0.3) ** 2, timestamp=1)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "rate.txt").write_text(str(options.rate))
"""
STEP = f"""
    $schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
    type: command
    name: {NAME}_step
    display_name: Fit
    inputs:
      rate: {{type: number, default: 0.5}}
    outputs:
      out: {{type: uri_folder}}
    code: ./src
    command: python main.py --rate ${{{{inputs.rate}}}} --out ${{{{outputs.out}}}}
    {ENVIRONMENT}
"""
PIPELINE = f"""
    $schema: https://azuremlschemas.azureedge.net/latest/pipelineComponent.schema.json
    type: pipeline
    name: {NAME}_pipeline
    inputs:
      rate: {{type: number, default: 0.4}}
    outputs:
      made: {{type: uri_folder}}
    jobs:
      fit:
        type: command
        component: ./step.yml
        inputs: {{rate: "${{{{parent.inputs.rate}}}}"}}
        outputs: {{out: "${{{{parent.outputs.made}}}}"}}
"""
SWEEP = f"""
    $schema: https://azuremlschemas.azureedge.net/latest/sweepJob.schema.json
    type: sweep
    experiment_name: {NAME}
    compute: azureml:cpu-cluster
    sampling_algorithm: {{type: grid}}
    trial:
      code: ../components/src
      command: python main.py --rate ${{{{search_space.rate}}}} --out ${{{{outputs.out}}}}
      {ENVIRONMENT}
    search_space:
      rate: {{type: choice, values: [0.3, 0.9]}}
    objective: {{primary_metric: accuracy, goal: maximize}}
    limits: {{max_total_trials: 2, max_concurrent_trials: 2, timeout: 120}}
    outputs:
      out: {{type: uri_folder}}
"""
# Thirteen commits of two rows: the tenth leaves a checkpoint.
TABLE = f"""
    type: command
    compute: azureml:cpu-cluster
    {ENVIRONMENT}
    command: >-
      python -c "import deltalake, pandas;
      rows = pandas.DataFrame({{'id': [1, 2], 'late': [True, False]}});
      [deltalake.write_deltalake('${{{{outputs.table}}}}', rows, mode='append') for _ in range(13)];
      deltalake.DeltaTable('${{{{outputs.table}}}}').create_checkpoint()"
    outputs:
      table: {{type: uri_folder}}
"""
DRAWN = f"""
    type: pipeline
    display_name: {NAME} by hand
    experiment_name: {NAME}-drawn
    settings: {{default_compute: azureml:cpu-cluster}}
    inputs: {{rate: 0.6}}
    jobs:
      fit:
        type: command
        component: ../components/step.yml
        inputs: {{rate: "${{{{parent.inputs.rate}}}}"}}
"""
BATCH = """
    name: {{ deployment }}
    endpoint_name: {{ endpoint }}
    type: pipeline
    component: COMPONENT
    settings:
      default_compute: azureml:cpu-cluster
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())


@pytest.fixture
def connection(localazure: Any, monkeypatch: pytest.MonkeyPatch) -> AzureConnection:
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(localazure.airflow_connection()))
    return AzureConnection.load("azure_default")


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    write(root / "ml/components/src/main.py", f"{CODE}    # {NAME}: what ran in another session isn't reused\n")
    write(root / "ml/components/step.yml", STEP)
    write(root / "ml/components/pipeline.yml", PIPELINE)
    write(root / "ml/jobs/sweep.yml", SWEEP)
    write(root / "ml/jobs/table.yml", TABLE)
    write(root / "ml/jobs/drawn.yml", DRAWN)
    write(root / "ml/endpoints/batch/endpoint.yml", f"name: {NAME}")
    write(root / "ml/endpoints/batch/deployment.yml", BATCH)
    return root


class TaskInstance(SimpleNamespace):
    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.xcoms.get(task_ids)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def context_of(operator: Any, run: str = "manual__1", xcoms: dict[str, Any] | None = None) -> Any:
    operator.dag = DAG(NAME, schedule=None)
    ti = TaskInstance(
        xcoms=xcoms or {}, pushed={}, task=operator, dag_id=NAME, run_id=run, task_id=operator.task_id, map_index=-1,
        max_tries=0,
    )  # fmt: skip
    dag_run = SimpleNamespace(dag_id=NAME, run_id=run, partition_key=None)
    context: Any = {"ti": ti, "dag_run": dag_run, "params": {"partition": "2013-03-08"}, "task": operator}
    operator.render_template_fields(context)
    return context


@pytest.fixture
def run(include: Path, monkeypatch: pytest.MonkeyPatch, connection: AzureConnection) -> Callable[..., Any]:
    """Runs an operator to its end, in this process; its XCom."""
    for kind in (AzureMLJobOperator, PublishComponentsOperator):
        monkeypatch.setattr(kind, "include", include)

    def made(operator: Any, **more: Any) -> Any:
        operator.grace_seconds = 240
        return operator.execute(context_of(operator, **more))

    return made


def test_a_pipeline_is_published_and_run_by_its_name(
    run: Callable[..., Any], connection: AzureConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(PublishComponentsOperator(task_id="publish"))["components"]
    again = run(PublishComponentsOperator(task_id="publish"))["components"]
    assert {name: one["published"] for name, one in first.items()} == {f"{NAME}_step": True, f"{NAME}_pipeline": True}
    assert again == {name: {**one, "published": False} for name, one in first.items()}

    settings = {"default_compute": "azureml:cpu-cluster"}
    arguments: dict[str, Any] = {"pipeline": f"{NAME}_pipeline", "inputs": {"rate": 0.2}, "settings": settings}
    result = run(PipelineRunOperator(task_id="pipeline", **arguments))
    assert result["type"] == "Pipeline" and result["status"] == "Completed"
    (step,) = result["children"]
    assert (step["title"], step["status"]) == ("fit", "Completed")
    assert result["metrics"] == {"fit.accuracy": pytest.approx(0.99)}
    assert 0 < result["compute_seconds"] <= result["seconds"] and result["node_seconds"] == result["compute_seconds"]
    assert "made" in result["outputs"]
    assert "fit: Completed" in capsys.readouterr().out
    # The same again is the same job; a failing one says which step it was, and what that printed.
    assert run(PipelineRunOperator(task_id="pipeline", **arguments))["name"] == result["name"]
    with pytest.raises(AirflowException, match=r"(?s)fit: .*a rate below nothing"):
        run(PipelineRunOperator(task_id="bad", **{**arguments, "inputs": {"rate": -1}}))


def test_a_pipeline_that_a_person_drew_runs_by_its_display_name(
    run: Callable[..., Any], connection: AzureConnection, include: Path
) -> None:
    from azure.ai.ml import load_job

    drawn = load_job(include / "ml/jobs/drawn.yml")
    drawn.name = f"{NAME}-drawn"
    connection.ml_client().jobs.create_or_update(drawn)
    arguments: dict[str, Any] = {"pipeline": f"{NAME} by hand", "inputs": {"rate": 0.1}, "experiment": NAME}
    result = run(PipelineRunOperator(task_id="by_name", settings={"force_rerun": True}, **arguments))
    assert (result["status"], result["experiment"]) == ("Completed", NAME)
    assert result["metrics"] == {"fit.accuracy": pytest.approx(0.96)}


def test_a_batch_endpoint_is_deployed_and_invoked_once(
    run: Callable[..., Any], include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azflow.endpoint_files, "ENDPOINTS", include / "ml/endpoints")
    component = run(PublishComponentsOperator(task_id="publish"))["components"][f"{NAME}_pipeline"]["id"]
    file = include / "ml/endpoints/batch/deployment.yml"
    file.write_text(file.read_text().replace("COMPONENT", component))
    deployed = [run(BatchDeployOperator(task_id="deploy", endpoint="batch")) for _ in range(2)]
    assert [one["created"] for one in deployed] == [True, False]
    assert deployed[0]["deployment"] == deployed[1]["deployment"]

    def invoke() -> Any:
        operator = BatchEndpointInvokeOperator(task_id="invoke", endpoint=NAME, inputs={"rate": 0.25})
        return run(operator)

    result = invoke()
    assert result["status"] == "Completed" and result["metrics"] == {"fit.accuracy": pytest.approx(0.9975)}
    assert invoke()["name"] == result["name"]
    with pytest.raises(AirflowFailException, match=r"batch endpoint .* refuses the invocation"):
        run(BatchEndpointInvokeOperator(task_id="bad", endpoint=NAME, deployment="none", inputs={"rate": 1}))


def test_a_model_with_its_lineage_goes_to_a_registry_and_to_another_workspace(
    run: Callable[..., Any], connection: AzureConnection, localazure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"pipeline": f"{NAME}_pipeline", "inputs": {"rate": 0.2}}
    job = run(PipelineRunOperator(task_id="pipeline", settings={"default_compute": "azureml:cpu-cluster"}, **arguments))
    register = RegisterModelOperator(task_id="model", name=NAME, path=job["outputs"]["made"], type="custom_model")
    version = run(register, xcoms={"train.job": job})["version"]
    source = ModelRegistry(connection, NAME)
    assert source.promote(version).role == "champion"

    share = {"name": NAME, "version": version, "registry": localazure["registry"]}
    shared = [run(ShareModelOperator(task_id="share", **share)) for _ in range(2)]
    assert [one["shared"] for one in shared] == [True, False]
    there = connection.registry_client(localazure["registry"]).models.get(NAME, version)
    assert there.tags["job"] == job["name"] and there.tags["metric.fit.accuracy"].startswith("0.99")

    other = localazure.airflow_connection()
    other["extra"]["workspace"] = localazure["second_workspace"]
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(other))
    copy = {"name": NAME, "version": version, "to_connection": "other", "share_as": f"{NAME}-copy"}
    copies = [run(ShareModelOperator(task_id="copy", **copy)) for _ in range(2)]
    assert [(one["id"], one["shared"]) for one in copies] == [
        (f"azureml:{NAME}-copy:1", True),
        (f"azureml:{NAME}-copy:1", False),
    ]
    (copied,) = ModelRegistry(AzureConnection.load("other"), f"{NAME}-copy").versions()
    assert (copied.job, copied.role) == (job["name"], "challenger")


def test_a_lake_table_is_pointed_at_by_version(run: Callable[..., Any], connection: AzureConnection) -> None:
    table = f"azureml://datastores/lake/paths/contract/{NAME}/table/"
    writer = AzureMLJobOperator(task_id="table", job="jobs/table.yml", outputs={"table": table})
    run(writer)
    asset = {"name": f"{NAME}-table", "path": f"contract/{NAME}/table", "format": "delta"}
    made = [run(DataAssetOperator(task_id="data", **asset)) for _ in range(2)]
    assert made[0] == made[1]
    assert (made[0]["table_version"], made[0]["rows"], made[0]["columns"]) == (12, 26, ("id", "late"))
    assert connection.ml_client().data.get(f"{NAME}-table", made[0]["version"]).tags["row_count"] == "26"


def test_a_sweep_is_followed_paid_for_and_compared(
    run: Callable[..., Any], connection: AzureConnection, capsys: pytest.CaptureFixture[str]
) -> None:
    def sweep(night: str, **more: Any) -> Any:
        return run(AzureMLJobOperator(task_id="job", job="jobs/sweep.yml", **more), run=night)

    with pytest.raises(AirflowFailException, match=r"include/ml/jobs/sweep\.yml isn't submitted: .*0\.0667 node hours"):
        sweep("poor", spend={"max_node_hours_per_job": 0.01})
    results = [sweep(f"night {number}", spend={"max_node_hours_per_night": 1}) for number in (1, 2)]
    result = results[1]
    assert result["metrics"]["accuracy"] == pytest.approx(1.0)
    assert result["parameters"]["rate"] == "0.3"
    assert {child["status"] for child in result["children"]} == {"Completed"}
    assert result["best_child"] in {child["name"] for child in result["children"]}
    assert result["node_seconds"] > 0
    log = capsys.readouterr().out
    assert f"* {result['children'][0]['title']}" in log and "node hours" in log
    spent = AzureMLJobs(connection).night_seconds(Night.of(NAME, "night 2", date(2013, 3, 8)).key)
    assert spent == pytest.approx(result["node_seconds"])

    compared = CompareRunsOperator(task_id="compare", training="job")
    found = compared.execute(context_of(compared, "night 2", {"job": result}))
    assert [one["name"] for one in found["runs"]] == [results[1]["name"], results[0]["name"]]
    assert (found["metric"], found["rank"]) == ("accuracy", 1)
    assert "/#/compare-runs?runs=" in found["url"]


def test_an_orphan_is_cancelled(
    run: Callable[..., Any], connection: AzureConnection, include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"ours": "failed", "waited for": "deferred"}
    job = {
        "type": "command",
        "command": "sleep 100",
        "compute": "azureml:cpu-cluster",
        "environment": ENVIRONMENT.partition(": ")[2],
    }
    runs = AzureMLJobs(connection)
    names = {}
    for state in states:
        names[state] = f"orphan-{uuid.uuid4().hex[:8]}"
        tags = {"azflow.dag": NAME, "azflow.run": state, "azflow.task": "t"}
        runs.submit(names[state], {"file": "jobs/x.yml", "content": job}, tags)
    monkeypatch.setattr(azflow.orphans, "task_state", lambda dag, run, *_: states.get(run, "unknown"))
    monkeypatch.setattr(azflow.orphans, "current_run", lambda *_: None)
    try:
        answer = run(OrphanSweepOperator(task_id="sweep", grace_minutes=0))
        assert [one["name"] for one in answer["cancelled"]] == [names["ours"]]
        assert runs.state(names["ours"]).raw in ("CancelRequested", "Canceled")
        assert not runs.state(names["waited for"]).is_terminal
    finally:
        runs.cancel(names["waited for"])
        runs.close()
