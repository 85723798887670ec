"""Azure ML jobs as remote runs: states, results, costs, logs, failures. Azure is fake at the HTTP edge only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from azflow.connection import AzureConnection
from azflow.errors import UnknownRunState
from azflow.ml_jobs import AzureMLJobs, children_table, metric_name
from azflow.remote import DIGEST_TAG
from azure_edge import Edge, edge
from workspace_edge import HISTORY, WORKSPACE, history, job, ran, tracked, workspace

__all__ = ["edge"]


@pytest.fixture
def jobs(edge: Edge) -> AzureMLJobs:
    workspace(edge)
    return AzureMLJobs(AzureConnection.load("azure_default"))


def test_lookup(edge: Edge, jobs: AzureMLJobs) -> None:
    edge.on("GET", "/jobs/none$", (404, {"error": {"code": "UserError", "message": "no such job"}}))
    assert jobs.lookup("none") is None
    job(edge, status="Running", tags={DIGEST_TAG: "d1"})
    found = jobs.lookup("j")
    assert found is not None
    assert (found.id, found.state.raw, found.payload_digest) == ("j", "Running", "d1")


def test_a_job_of_that_name_that_is_not_ours_is_never_adopted(edge: Edge, jobs: AzureMLJobs) -> None:
    job(edge, status="Completed", tags={"by": "a person"})
    found = jobs.lookup("j")
    assert found is not None
    assert found.payload_digest not in (None, "d1")


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("NotStarted", "active"),
        ("Preparing", "active"),
        ("Finalizing", "active"),
        ("NotResponding", "active"),
        ("CancelRequested", "active"),
        ("Completed", "succeeded"),
        ("Failed", "failed"),
        ("Canceled", "cancelled"),
    ],
)
def test_states(edge: Edge, jobs: AzureMLJobs, word: str, phase: str) -> None:
    job(edge, status=word)
    assert jobs.state("j").phase == phase


def test_an_unknown_word_is_no_guess(edge: Edge, jobs: AzureMLJobs) -> None:
    job(edge, status="Pondering")
    with pytest.raises(UnknownRunState, match="Pondering"):
        jobs.state("j")


def test_cancelling_what_is_over_is_no_error(edge: Edge, jobs: AzureMLJobs) -> None:
    edge.on("POST", "/jobs/j/cancel$", (202, b""))
    jobs.cancel("j")
    edge.on("POST", "/jobs/j/cancel$", (400, {"error": {"code": "UserError", "message": "in a final state"}}))
    job(edge, status="Completed")
    jobs.cancel("j")
    job(edge, status="Running")
    with pytest.raises(Exception, match="final state"):
        jobs.cancel("j")


def test_the_result_of_a_search_has_its_trials(edge: Edge, jobs: AzureMLJobs) -> None:
    outputs = {"best_model": {"jobOutputType": "mlflow_model"}, "default": {"uri": "azureml://x"}}
    data = {"trainingData": {"jobInputType": "mltable", "uri": "azureml:train:1"}, "primaryMetric": "AUCWeighted"}
    more = {"outputs": outputs, "properties": {"best_child_run_id": "j_1"}, "taskDetails": data}
    job(edge, jobType="AutoML", status="Completed", experimentName="flights", **more)
    edge.on("GET", "/mlflow/runs/get$", (200, {"run": tracked("j", {})}))
    found = {"runs": [tracked("j_0", {"AUC_weighted": 0.7}), tracked("j_1", {"AUC_weighted": 0.8}, {"depth": "3"})]}
    edge.on("POST", "/mlflow/runs/search$", (200, found))
    children = [
        ran("j_0", 20, properties={"run_algorithm": "LightGBM"}),
        ran("j_1", 30, properties={"run_algorithm": "RF", "run_preprocessor": "Scaler"}),
        {"runId": "j_2", "status": "Failed", "properties": {}},
    ]
    history(edge, ran("j", 80, "automl"))
    edge.on("GET", f"{HISTORY}/runs/j/children$", (200, {"value": children[:2], "nextLink": f"{HISTORY}/more"}))
    edge.on("GET", f"{HISTORY}/more$", (200, {"value": children[2:]}))
    result = jobs.result("j")
    # Without an address of its own, an output is named by its job.
    assert result["outputs"] == {"best_model": "azureml://jobs/j/outputs/best_model/paths/"}
    assert result["model_uri"] == result["outputs"]["best_model"]
    assert (result["type"], result["experiment"], result["seconds"]) == ("AutoML", "flights", 80)
    assert result["best_child"] == "j_1"
    assert (result["metrics"], result["parameters"]) == ({"AUC_weighted": 0.8}, {"depth": "3"})
    assert (result["primary_metric"], result["goal"]) == ("AUC_weighted", None)
    assert result["data"] == {"training_data": "azureml:train:1"}
    assert [(child["name"], child["algorithm"], child["metrics"]) for child in result["children"]] == [
        ("j_0", "LightGBM", {"AUC_weighted": 0.7}),
        ("j_1", "Scaler, RF", {"AUC_weighted": 0.8}),
        ("j_2", None, {}),
    ]
    # AutoML keeps its node between trials.
    assert (result["compute_seconds"], result["node_seconds"]) == (80, 80)
    asked = next(body for method, url, body in edge.asked if url.endswith("runs/search"))
    assert asked["filter"] == "tags.mlflow.parentRunId = 'j'"
    assert json.loads(json.dumps(result)) == result
    table = children_table(result["children"], "j_1", "AUC_weighted")
    assert [line.split()[:2] for line in table[1:]] == [["*", "j_1"], ["j_0", "Completed"], ["j_2", "Failed"]]


def test_the_result_of_a_sweep_is_its_best_trials(edge: Edge, jobs: AzureMLJobs) -> None:
    outputs = {"model": {"jobOutputType": "mlflow_model"}}
    job(edge, jobType="Sweep", status="Completed", outputs=outputs, properties={"best_child_run_id": "j_0"})
    best = {"model": {"jobOutputType": "mlflow_model", "uri": "azureml://datastores/s/paths/j_0/model/"}}
    job(edge, "j_0", status="Completed", outputs=best)
    edge.on("GET", "/mlflow/runs/get$", (200, {"run": tracked("j", {})}))
    edge.on("POST", "/mlflow/runs/search$", (200, {"runs": [tracked("j_0", {"auc": 0.8})]}))
    trial = {"tags": {"hyperparameters": '{"rate": 0.1}'}, "compute": {"instanceCount": 2}}
    history(edge, ran("j", 400, "hyperdrive"), [ran("j_0", 60, **trial), ran("j_1", 90, computeDuration="00:00:30.5")])
    result = jobs.result("j")
    assert result["model_uri"] == "azureml://datastores/s/paths/j_0/model/"
    assert (result["metrics"], result["parameters"]) == ({"auc": 0.8}, {"rate": "0.1"})
    # The sweep itself holds no node.
    assert (result["compute_seconds"], result["node_seconds"]) == (90.5, 150.5)


def test_the_result_of_a_pipeline_is_its_steps(edge: Edge, jobs: AzureMLJobs) -> None:
    inputs = {"raw": {"jobInputType": "uri_folder", "uri": "azureml:raw:3"}, "rate": {"value": "1"}}
    job(edge, jobType="Pipeline", status="Completed", inputs=inputs)
    asked = iter([tracked("j", {"total": 1.0}), tracked("earlier", {"left_out": 2.0}), tracked("s", {})])
    edge.on("GET", "/mlflow/runs/get$", lambda match, body: (200, {"run": next(asked)}))
    below = {"j": [tracked("p", {"rows": 5.0})], "s": [tracked("s_1", {"rmse": 3.0}, {"rate": "2"})]}
    edge.on("POST", "/mlflow/runs/search$", lambda match, body: (200, {"runs": below[body["filter"].split("'")[1]]}))
    searched = {"objective": {"primaryMetric": "rmse", "goal": "Minimize"}, "properties": {"best_child_run_id": "s_1"}}
    job(edge, "s", jobType="Sweep", **searched)
    kept = {"azureml.isreused": "true", "azureml.reusedrunid": "earlier"}
    reused = ran("r", 100, properties=kept, displayName="clean")
    steps = [ran("p", 10, displayName="prepare"), reused, ran("s", 500, "hyperdrive", displayName="tune")]
    history(edge, ran("j", 600, "azureml.PipelineRun"), steps)
    history(edge, steps[2], [ran("s_0", 40), ran("s_1", 50)])
    result = jobs.result("j")
    assert result["metrics"] == {"prepare.rows": 5.0, "clean.left_out": 2.0, "tune.rmse": 3.0, "total": 1.0}
    tune = result["children"][2]
    assert (tune["best_child"], tune["primary_metric"], tune["goal"]) == ("s_1", "rmse", "minimize")
    assert [trial["name"] for trial in tune["children"]] == ["s_0", "s_1"] and tune["parameters"] == {"rate": "2"}
    assert result["data"] == {"raw": "azureml:raw:3"}
    assert [(child["title"], child["reused"]) for child in result["children"]] == [
        ("prepare", False),
        ("clean", True),
        ("tune", False),
    ]
    # A step that was reused took nothing; one that is a sweep took what its trials took.
    assert (result["compute_seconds"], result["node_seconds"]) == (100, 100)


@pytest.mark.parametrize(
    ("primary", "name"),
    [
        ("AUCWeighted", "AUC_weighted"),
        ("Accuracy", "accuracy"),
        ("R2Score", "r2_score"),
        ("NormalizedRootMeanSquaredError", "normalized_root_mean_squared_error"),
        ("AveragePrecisionScoreWeighted", "average_precision_score_weighted"),
    ],
)
def test_a_primary_metric_under_the_name_that_runs_log(primary: str, name: str) -> None:
    assert metric_name(primary) == name


def test_the_result_of_a_command_without_tracking(edge: Edge, jobs: AzureMLJobs) -> None:
    uri = "azureml://datastores/lake/paths/evaluation/"
    outputs = {"evidence": {"uri": uri, "jobOutputType": "uri_folder"}}
    job(edge, status="Completed", outputs=outputs, resources={"instanceCount": 3})
    history(edge, ran("j", 7.5))
    edge.on("GET", "/mlflow/runs/get$", (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}))
    result = jobs.result("j")
    assert (result["outputs"], result["metrics"], result["children"]) == ({"evidence": uri}, {}, [])
    assert (result["compute_seconds"], result["node_seconds"], result["model_uri"]) == (7.5, 22.5, "")


def test_what_a_night_took_counts_whatever_became_of_its_jobs(edge: Edge, jobs: AzureMLJobs) -> None:
    for name, status in (("j", "Failed"), ("k", "Completed"), ("now", "Running")):
        job(edge, name, status=status)
    edge.on("GET", f"{WORKSPACE}/jobs$", (200, {"value": [{"name": "j"}, {"name": "k"}, {"name": "now"}]}))
    history(edge, ran("j", 10, status="Failed"))
    history(edge, ran("k", 5))
    assert jobs.night_seconds("n1", without="now") == 15


def test_what_happens_is_followed(edge: Edge, jobs: AzureMLJobs) -> None:
    log = "https://lakeaccount.blob.core.windows.net/azureml/log.txt?sig=secret"
    files = {"user_logs/std_log.txt": log, "system_logs/cs.log": "https://never.asked"}
    details = ran("j", 10, "azureml.PipelineRun", logFiles=files)
    history(edge, details, [{"runId": "a", "displayName": "prepare", "status": "Running"}])
    edge.blobs["azureml/log.txt"] = b"first\nhalf"
    progress: dict[str, Any] = {}
    assert jobs.follow("j", progress) == ["first", "prepare: Running"]
    assert jobs.follow("j", json.loads(json.dumps(progress))) == []
    edge.blobs["azureml/log.txt"] += b" and the rest\n"
    history(edge, details, [{"runId": "a", "displayName": "prepare", "status": "Completed"}])
    assert jobs.follow("j", progress) == ["half and the rest", "prepare: Completed"]


def test_a_failure_names_the_step_that_failed_first(edge: Edge, jobs: AzureMLJobs) -> None:
    log = "https://lakeaccount.blob.core.windows.net/azureml/step.txt?sig=secret"
    edge.blobs["azureml/step.txt"] = b"KeyError: 'late'\n"
    error = {"error": {"error": {"code": "UserError", "message": "exit code 1"}}}
    steps = [
        ran("a", 5, displayName="prepare"),
        ran("c", 50, displayName="score", status="Failed"),
        ran("b", 9, "hyperdrive", displayName="tune", status="Failed"),
    ]
    details = ran("j", 60, "azureml.PipelineRun", "Failed", error={"error": {"message": "a step failed"}})
    history(edge, details, steps)
    history(edge, steps[2], [ran("b_0", 3, status="Failed", displayName="trial 0")])
    history(edge, ran("b_0", 3, status="Failed", logFiles={"std_log.txt": log}, **error))
    failure = jobs.failure("j")
    assert failure.cause == "tune > trial 0: exit code 1 (a step failed)"
    details["error"] = {"error": {"message": "the step tune failed: exit code 1"}}
    assert jobs.failure("j").cause == "tune > trial 0: exit code 1"
    assert failure.log_tail == ["KeyError: 'late'"]
    assert failure.retry_helps is False


def test_a_failure_tells_cause_and_log(edge: Edge, jobs: AzureMLJobs) -> None:
    log = "https://lakeaccount.blob.core.windows.net/azureml/log.txt?sig=secret"
    details = {
        "error": {"error": {"code": "UserError", "message": "Execution failed with exit code 1"}},
        "logFiles": {"system_logs/x.log": f"{log}2", "user_logs/std_log.txt": log},
    }
    history(edge, {"runId": "j", **details})
    edge.blobs["azureml/log.txt"] = ("early\n" * 30_000 + "Traceback\n\nValueError: x\n").encode()
    failure = jobs.failure("j")
    assert failure.cause == "Execution failed with exit code 1"
    assert failure.log_tail[-2:] == ["Traceback", "ValueError: x"]
    assert len(failure.log_tail) == 40
    assert failure.retry_helps is False


def test_a_log_that_cannot_be_read_hides_nothing_and_shows_no_signature(edge: Edge, jobs: AzureMLJobs) -> None:
    details = {
        "error": {"error": {"code": "SystemError", "message": "node preempted"}},
        "logFiles": {"std_log.txt": "https://lakeaccount.blob.core.windows.net/azureml/none?sig=secret"},
    }
    history(edge, {"runId": "j", **details})
    failure = jobs.failure("j")
    assert (failure.cause, failure.retry_helps) == ("node preempted", True)
    assert "can't be read" in failure.log_tail[0]
    assert "secret" not in failure.log_tail[0]


def test_where_a_person_looks(jobs: AzureMLJobs) -> None:
    assert jobs.url("j") == (
        "https://ml.azure.com/runs/j?wsid=/subscriptions/sub/resourceGroups/rg"
        "/providers/Microsoft.MachineLearningServices/workspaces/ws&tid=tenant"
    )
