"""Azure ML: job files, states, results, failures, data assets, the gate. Azure is fake at the HTTP edge only."""

from __future__ import annotations

import io
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

import azflow.ml
from azflow import exports, job_files
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, SpecError, UnknownRunState
from azflow.ml import AzureMLJobOperator, DataAssetOperator, EvaluationGate, RegisterModelOperator, lake_folder
from azflow.ml_jobs import AzureMLJobs, children_table, metric_name
from azflow.remote import DIGEST_TAG, RunIdentity
from azflow.specs import INCLUDE
from azure_edge import Edge, edge
from workspace_edge import HISTORY, NIGHT, WORKSPACE, context_of, history, job, ran, tracked, workspace

__all__ = ["edge"]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())
    return path


# -- the file --------------------------------------------------------------------------------------------------------


@pytest.fixture
def include(tmp_path: Path) -> Path:
    write(
        tmp_path / "ml/jobs/j.yml",
        """
        type: command
        command: python x.py --a ${{inputs.a}} --b "${{ inputs.b }}"
        code: ../code
        environment: {conda_file: ../conda.yml}
        display_name: {{ night.partition }} {{ params.who }}
        inputs:
          a: {type: uri_folder, path: {{ inputs.a }}}
          b: "{{ inputs.b }}"
        outputs:
          made: {type: uri_folder}
          more:
        limits: {timeout: 60, other: 1}
        """,
    )
    write(tmp_path / "ml/code/x.py", "print(1)")
    write(tmp_path / "ml/conda.yml", "name: x")
    return tmp_path


VALUES: dict[str, Any] = {"night": NIGHT, "params": {"who": "ü"}, "inputs": {"a": "azureml:d:1", "b": "7"}}


def test_a_job_file_is_a_template_and_azures_own_expressions_stay(include: Path) -> None:
    content = job_files.read_job("jobs/j.yml", VALUES, include)
    assert content["command"] == 'python x.py --a ${{inputs.a}} --b "${{ inputs.b }}"'
    assert content["display_name"] == "2013-03-08 ü"
    assert content["inputs"] == {"a": {"type": "uri_folder", "path": "azureml:d:1"}, "b": "7"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {{ inputs.missing }}", r"include/ml/jobs/bad\.yml: .*'missing'; inputs given: a, b"),
        ("a: {{ inputs.a", r"include/ml/jobs/bad\.yml: line 1: is no template"),
        ("a: 1\nb: [", r"include/ml/jobs/bad\.yml: line 2 \(rendered\): is no YAML"),
        ("- a", r"include/ml/jobs/bad\.yml: must be a mapping"),
        ("a: {{ ''.__class__.__mro__ }}", r"include/ml/jobs/bad\.yml"),
    ],
)
def test_a_bad_job_file_is_named(include: Path, text: str, said: str) -> None:
    (include / "ml/jobs/bad.yml").write_text(text)
    with pytest.raises(SpecError, match=said):
        job_files.read_job("jobs/bad.yml", VALUES, include)


def test_a_missing_job_file_is_named(include: Path) -> None:
    with pytest.raises(SpecError, match=r"include/ml/jobs/none\.yml: can't be read"):
        job_files.read_job("jobs/none.yml", VALUES, include)


def test_a_task_overrides_inputs_outputs_and_settings(include: Path) -> None:
    content = job_files.read_job("jobs/j.yml", VALUES, include)
    given = {"a": "azureml:d:2", "b": "8", "for_the_template_only": "x"}
    outputs = {"made": "azureml://datastores/lake/paths/made/", "more": "azureml://datastores/lake/paths/more/"}
    changed = job_files.override(content, given, outputs, {"limits": {"timeout": 5}, "compute": "azureml:gpu"})
    assert changed["inputs"] == {"a": {"type": "uri_folder", "path": "azureml:d:2"}, "b": "8"}
    assert changed["outputs"]["made"] == {"type": "uri_folder", "path": outputs["made"]}
    assert changed["outputs"]["more"] == {"path": outputs["more"]}
    assert changed["limits"] == {"timeout": 5, "other": 1}
    assert changed["compute"] == "azureml:gpu"
    assert content["limits"] == {"timeout": 60, "other": 1}


def test_other_code_is_other_work(include: Path) -> None:
    content = job_files.read_job("jobs/j.yml", VALUES, include)
    before = job_files.content_digest(content, "jobs/j.yml", include)
    write(include / "ml/code/__pycache__/x.pyc", "cache")
    assert job_files.content_digest(content, "jobs/j.yml", include) == before
    write(include / "ml/code/x.py", "print(2)")
    changed = job_files.content_digest(content, "jobs/j.yml", include)
    assert changed != before
    write(include / "ml/conda.yml", "name: y")
    assert job_files.content_digest(content, "jobs/j.yml", include) != changed


@pytest.mark.parametrize("job", sorted(path.name for path in (INCLUDE / "ml/jobs").glob("*.yml")))
def test_the_shipped_jobs_are_what_azures_sdk_takes(job: str) -> None:
    names = ("training_data", "challenger", "champion", "champion_version", "model", "model_name", "model_version",
             "baseline", "holdout", "signals", "min_rows", "window_start", "window_end")  # fmt: skip
    asked = ("deployment", "run_id", "task", "metric", "label", "time", "series")
    inputs = dict.fromkeys((*names, *asked), "azureml:thing:1")
    content = job_files.read_job(f"jobs/{job}", {"night": NIGHT, "inputs": inputs, "model": "m", "azure": {}})
    from azure.ai.ml import load_job

    loaded = load_job(io.StringIO(yaml.safe_dump(content)), relative_origin=str(INCLUDE / "ml/jobs" / job))
    assert loaded.type == content["type"]


def test_the_commit_comes_from_the_environment_or_from_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AZFLOW_GIT_COMMIT", "abc123")
    assert job_files.git_commit() == "abc123"
    monkeypatch.delenv("AZFLOW_GIT_COMMIT")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert job_files.git_commit(tmp_path) == "unknown"


# -- the service -----------------------------------------------------------------------------------------------------


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


# -- operators -------------------------------------------------------------------------------------------------------


def test_a_jobs_payload_is_the_same_for_every_try_and_is_stamped(
    include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AzureMLJobOperator, "include", include)
    monkeypatch.setenv("AZFLOW_GIT_COMMIT", "abc123")

    def made() -> Any:
        operator = AzureMLJobOperator(
            task_id="t",
            job="jobs/j.yml",
            inputs={"a": "{{ ti.xcom_pull('data')['id'] }}", "b": "{{ params.who }}"},
            settings={"command": "echo ${{inputs.b}} {{ params.who }}"},
        )
        context = context_of(operator, {"data": {"id": "azureml:d:9"}}, who="me")
        return operator, operator.payload(context)

    operator, payload = made()
    assert made()[1] == payload
    assert payload["content"]["inputs"] == {"a": {"type": "uri_folder", "path": "azureml:d:9"}, "b": "me"}
    assert payload["content"]["command"] == "echo ${{inputs.b}} me"
    tags = operator._tags(RunIdentity("nightly", "manual__1", "t", -1, 0), "digest")
    assert tags[DIGEST_TAG] == "digest"
    assert (tags["git_commit"], tags["partition"], tags["azflow.input.a"]) == ("abc123", "2013-03-08", "azureml:d:9")


class Runs:
    """What `AzureMLJobOperator` asks of the service around a run."""

    def __init__(self, night: float = 0.0) -> None:
        self.night = night
        self.lines = [["first"], ["second", "third"]]

    def night_seconds(self, night: str) -> float:
        assert night == NIGHT.key
        return self.night

    def shown(self, payload: Any) -> str:
        return "include/ml/jobs/j.yml"

    def follow(self, run_id: str, progress: dict[str, Any]) -> list[str]:
        progress["calls"] = progress.get("calls", 0) + 1
        return self.lines.pop(0)

    def cost(self, run_id: str) -> tuple[float, float]:
        return 3600.0, 7200.0


def spender(**spend: float) -> tuple[Any, Any]:
    operator = AzureMLJobOperator(task_id="t", job="jobs/j.yml", spend=spend)
    return operator, context_of(operator)


COMMAND = {"type": "command", "resources": {"instance_count": 2}}


def test_a_job_gets_the_time_that_its_limits_leave() -> None:
    operator, context = spender(max_node_hours_per_night=2)
    operator.before_submit(context, Runs(night=3600), {"content": COMMAND})
    assert operator.timeout_minutes == pytest.approx(30)
    # The process that goes on after a deferral says the same.
    later, _ = spender()
    later.progress = json.loads(json.dumps(operator.progress))
    said = str(later._timed_out("j", ""))
    assert "its deadline of 30 minutes" in said and "Raise spend.max_node_hours_per_night, or" in said
    free, context = spender()
    free.before_submit(context, None, {"content": COMMAND})
    assert free.timeout_minutes == 360


def test_a_job_above_its_limits_is_not_submitted() -> None:
    operator, context = spender(max_node_hours_per_night=1)
    with pytest.raises(
        ConfigurationError, match=r"j\.yml isn't submitted: the night's jobs have taken 2 node hours of 1"
    ):
        operator.before_submit(context, Runs(night=7200), {"content": COMMAND})
    with pytest.raises(ValueError, match="spend has no key hours"):
        spender(hours=1)


def test_a_job_that_failed_was_paid_for(capsys: pytest.CaptureFixture[str]) -> None:
    operator, context = spender(max_node_hours_per_job=1)
    operator.after_failure(context, Runs(), "j")
    pushed = context["ti"].pushed["spend"]
    assert (pushed["name"], pushed["node_seconds"]) == ("j", 7200.0)
    assert pushed["spend"]["over"] == ["2 node hours taken, spend.max_node_hours_per_job is 1"]
    assert "2 node hours taken, spend.max_node_hours_per_job is 1" in capsys.readouterr().out


def test_what_a_job_prints_is_shown_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(azflow.ml, "_LOG_LINES", 2)
    operator, _ = spender()
    runs = Runs()
    operator.follow(runs, "j")
    operator.follow(runs, "j")
    said = capsys.readouterr().out
    assert "| first" in said and "| third" in said and "| second" not in said and "(1 lines are left out" in said
    assert operator.progress == {"calls": 2}


def test_a_bad_job_file_fails_the_task_without_retries(include: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AzureMLJobOperator, "include", include)
    operator = AzureMLJobOperator(task_id="t", job="jobs/j.yml", inputs={"a": "x"})
    with pytest.raises(AirflowFailException, match=r"include/ml/jobs/j\.yml"):
        operator.execute(context_of(operator, who="me"))


def parquet(rows: int, **more: Any) -> bytes:
    import pandas as pd

    buffer = io.BytesIO()
    pd.DataFrame({"flight_id": list(range(rows)), "late": [True] * rows, **more}).to_parquet(buffer, index=False)
    return buffer.getvalue()


def connection() -> AzureConnection:
    return AzureConnection.load("azure_default")


def test_an_export_is_known_by_its_footers(edge: Edge) -> None:
    edge.blobs = {
        "lake/e/train/a.parquet": parquet(3),
        "lake/e/train/b.parq.snappy": parquet(4),
        "lake/e/train/_SUCCESS": b"",
        "lake/e/train2/c.parquet": parquet(5),
    }
    export = exports.inspect(connection(), "/e/train/")
    assert (export.folder, export.rows, export.columns) == ("e/train", 7, ("flight_id", "late"))
    assert len(export.files) == 2
    edge.blobs["lake/e/other/a.parquet"] = parquet(1, distance=[1.0])
    assert exports.inspect(connection(), "e/other").schema_hash != export.schema_hash


def test_a_footer_larger_than_the_first_look(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_FIRST_LOOK", 20)
    edge.blobs["lake/e/a.parquet"] = parquet(1000)
    assert exports.inspect(connection(), "e").rows == 1000


@pytest.mark.parametrize(
    ("blobs", "said"),
    [
        ({"lake/e/_SUCCESS": b""}, "lake/e holds no Parquet file"),
        ({"lake/e/a.parquet": b"id,late\n1,0\n"}, r"lake/e/a\.parquet is no Parquet file"),
        ({"lake/e/a.parquet": parquet(0)}, "lake/e holds no rows"),
        ({"lake/e/a.parquet": parquet(1), "lake/e/b.parquet": parquet(1, x=[1])}, "have different columns"),
    ],
)
def test_a_bad_export_is_named(edge: Edge, blobs: dict[str, bytes], said: str) -> None:
    edge.blobs = blobs
    with pytest.raises(ConfigurationError, match=said):
        exports.inspect(connection(), "e")


def test_a_data_asset_is_a_pointer_with_what_it_points_at(edge: Edge) -> None:
    edge.on("PUT", "/data/m_train/versions/", lambda match, body: (201, body))
    edge.blobs = {"lake/e/train/a.parquet": parquet(3)}

    def run() -> Any:
        arguments = {"name": "{{ model }}_train", "model": "m", "path": "e/train/", "tags": {"x": "y"}}
        operator = DataAssetOperator(task_id="train", **arguments)
        return operator.execute(context_of(operator))

    result = run()
    version = f"2013-03-08-{NIGHT.key}"
    assert result["id"] == f"azureml:m_train:{version}"
    ((url, asset),) = [(url, body["properties"]) for method, url, body in edge.asked if "/data/" in url]
    assert url.endswith(f"/data/m_train/versions/{version}")
    assert asset["dataType"] == "mltable"
    assert asset["dataUri"].endswith("/datastores/lake/paths/e/train.mltable/")
    assert asset["referencedUris"][0].endswith("/datastores/lake/paths/e/train/")
    assert {key: asset["tags"][key] for key in ("row_count", "watermark", "suite_result", "x")} == {
        "row_count": "3",
        "watermark": "2013-03-08",
        "suite_result": "none",
        "x": "y",
    }
    # The file lies beside the export, not in it.
    table = yaml.safe_load(edge.blobs["lake/e/train.mltable/MLTable"])
    assert table["paths"][0]["pattern"].endswith("/datastores/lake/paths/e/train/*.parq*")
    assert run() == result


EVIDENCE = {
    "metric": "roc_auc",
    "rows": 5000,
    "challenger": {"value": 0.75, "low": 0.7, "high": 0.8, "calibration": [{"predicted": 0.1}]},
    "champion": None,
    "difference": None,
    "slices": [{"column": "carrier"}],
}


def gate(edge: Edge, evidence: Any, *, job_result: Any = None, **more: Any) -> Any:
    edge.on("GET", "/datastores/lake$", (200, {"properties": {"accountName": "lakeaccount", "containerName": "lake"}}))
    edge.blobs["lake/evaluation/x/evidence.json"] = json.dumps(evidence).encode()
    arguments = {"metric": "roc_auc", "max_loss": 0.01, "floor": 0.6, "min_rows": 1000, **more}
    operator = EvaluationGate(task_id="verdict", evaluation="evaluate.job", **arguments)
    found = {"outputs": {"evidence": "azureml://datastores/lake/paths/evaluation/x/"}}
    return operator.execute(context_of(operator, {"evaluate.job": job_result or found}, force_promotion=True))


def test_the_gate_writes_its_verdict_beside_the_evidence(edge: Edge) -> None:
    verdict = gate(edge, EVIDENCE)
    assert (verdict["promote"], verdict["forced"]) == (True, False)
    assert verdict["slices"] == EVIDENCE["slices"]
    assert json.loads(edge.blobs["lake/evaluation/x/verdict.json"]) == json.loads(json.dumps(verdict))


def test_a_no_is_a_verdict_and_can_be_overruled(edge: Edge) -> None:
    assert gate(edge, EVIDENCE, floor=0.9)["promote"] is False
    forced = gate(edge, EVIDENCE, floor=0.9, force="{{ params.force_promotion }}")
    assert (forced["promote"], forced["forced"]) == (True, True)


def test_the_gate_refuses_what_it_cannot_judge(edge: Edge) -> None:
    with pytest.raises(AirflowFailException, match=r"judges 'accuracy'.*'roc_auc'"):
        gate(edge, EVIDENCE, metric="accuracy")
    with pytest.raises(AirflowFailException, match="can't be judged"):
        gate(edge, {"metric": "roc_auc"})
    with pytest.raises(AirflowFailException, match=r"evaluate\.job left no output"):
        gate(edge, EVIDENCE, job_result={"outputs": {"other": "x"}})
    with pytest.raises(AirflowFailException, match="force is 'perhaps'"):
        gate(edge, EVIDENCE, force="perhaps")


def test_a_folder_elsewhere_is_refused(edge: Edge) -> None:
    edge.on("GET", "/datastores/far$", (200, {"properties": {"accountName": "other", "containerName": "c"}}))
    edge.on("GET", "/datastores/none$", (404, {}))
    with pytest.raises(ConfigurationError, match="storage account 'other'"):
        lake_folder(connection(), "azureml://datastores/far/paths/x")
    with pytest.raises(ConfigurationError, match="no datastore 'none'"):
        lake_folder(connection(), "azureml://datastores/none/paths/x")
    with pytest.raises(ConfigurationError, match="isn't the address of a folder"):
        lake_folder(connection(), "azureml://jobs/x/outputs/y")


def test_registering_needs_the_training_job() -> None:
    operator = RegisterModelOperator(task_id="model", name="m", path="azureml://x")
    with pytest.raises(AirflowFailException, match=r"train\.job left no job"):
        operator.execute(context_of(operator))
