"""AutoML: what a job asks for becomes a plan or is refused; and the search itself, in the compute environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from localazure.core.errors import AzureError
from localazure.executors.automl import AutoMLRunner, _plan
from localazure.settings import Settings

SOURCE = Path(__file__).resolve().parents[2] / "compute"
COMPUTE = SOURCE.parents[1] / "var/env/compute/bin/python"


def job(details: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    task = {
        "taskType": "Classification",
        "targetColumnName": "late",
        "trainingData": {"uri": "azureml:t:1", "jobInputType": "mltable"},
        **(details or {}),
    }
    return {"jobType": "AutoML", "taskDetails": task, **more}


def test_the_plan_has_the_services_defaults() -> None:
    plan = _plan(job())
    assert plan["primary_metric"] == "accuracy"
    assert (plan["timeout_seconds"], plan["trial_timeout_seconds"]) == (6 * 3600, 1800)
    assert (plan["max_trials"], plan["max_concurrent_trials"], plan["early_termination"]) == (1000, 1, True)
    assert plan["algorithms"][0] == "LightGBM"
    assert plan["split_type"] is None


def test_limits_metrics_algorithms_and_the_time_split_are_taken_over() -> None:
    limits = {"timeout": "PT4M", "trialTimeout": "PT1M", "maxTrials": 8, "enableEarlyTermination": False}
    training = {
        "allowedTrainingAlgorithms": ["LightGBM", "RandomForest"],
        "blockedTrainingAlgorithms": ["RandomForest"],
    }
    details = {"primaryMetric": "AUCWeighted", "limitSettings": limits, "trainingSettings": training}
    own = {"split_type": "time", "time_column_name": "flight_date"}
    for place in ("properties", "tags"):
        plan = _plan(job(details, **{place: own}))
        assert plan["primary_metric"] == "AUC_weighted"
        assert (plan["timeout_seconds"], plan["max_trials"], plan["early_termination"]) == (240, 8, False)
        assert plan["algorithms"] == ["LightGBM"]
        assert (plan["split_type"], plan["time_column_name"]) == ("time", "flight_date")


@pytest.mark.parametrize(
    ("details", "status", "message"),
    [
        ({"primaryMetric": "auc"}, 400, "there are AUC_weighted, accuracy, norm_macro_recall"),
        ({"taskType": "Forecasting"}, 501, "taskType Forecasting"),
        ({"taskType": "TextNER"}, 501, "taskType TextNER"),
        ({"taskType": "Guess"}, 400, "not 'Guess'"),
        ({"targetColumnName": ""}, 400, "target_column_name"),
        ({"trainingSettings": {"allowedTrainingAlgorithms": ["KNN"]}}, 501, "KNN"),
        ({"trainingSettings": {"blockedTrainingAlgorithms": ["Magic"]}}, 400, "'Magic' is unknown"),
        ({"trainingSettings": {"enableVoteEnsemble": True}}, 501, "enableVoteEnsemble"),
        ({"limitSettings": {"timeout": "PT1M", "trialTimeout": "PT2M"}}, 400, "must not be longer"),
        ({"limitSettings": {"maxTrials": 1, "maxConcurrentTrials": 2}}, 400, "more than max_trials"),
        ({"nCrossValidations": {"mode": "Custom", "value": 1}}, 400, "2 or more"),
        ({"validationDataSize": 1.5}, 400, "between 0 and 1"),
        ({"testData": {"uri": "azureml:t:1"}}, 501, "testData"),
        ({"featurizationSettings": {"mode": "off"}}, 501, "featurization.mode off"),
        ({"featurizationSettings": {"columnNameAndTypes": {"a": "Text"}}}, 501, "purpose Text"),
    ],
)
def test_what_is_not_there_is_refused_by_name(details: dict[str, Any], status: int, message: str) -> None:
    with pytest.raises(AzureError) as caught:
        _plan(job(details))
    assert caught.value.status == status
    assert message in caught.value.message


def test_other_outputs_than_the_model_are_refused(home: Settings) -> None:
    runner = AutoMLRunner(home, None)  # type: ignore[arg-type]
    with pytest.raises(AzureError, match="best_model, not 'table'"):
        runner.validate(job(outputs={"table": {"jobOutputType": "uri_folder"}}))


def search(tmp_path: Path, table: str, **plan: Any) -> tuple[list[dict[str, Any]], str]:
    """Runs the search over CSV rows; its events and its log."""
    if not COMPUTE.exists():
        pytest.skip("the compute environment isn't built (bin/up builds it)")
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "rows.csv").write_text(table)
    reader = {"read_delimited": {"delimiter": ",", "header": "all_files_same_headers", "encoding": "utf8"}}
    (folder / "MLTable").write_text(json.dumps({"paths": [{"pattern": "./*.csv"}], "transformations": [reader]}))
    details = {"primaryMetric": "AUCWeighted", "limitSettings": {"timeout": "PT60S", "maxTrials": 3}}
    names = {"name": "j", "experiment_id": "0", "training_data": str(folder)}
    paths = {"model": str(tmp_path / "model"), "events": str(tmp_path / "events.jsonl")}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(_plan(job(details)) | names | paths | plan))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(
        [COMPUTE, "-m", "localazure_compute.automl", path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    events = (tmp_path / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in events], ended.stdout + ended.stderr


def rows(count: int) -> str:
    lines = [
        f"id{i},2013-01-{1 + i * 28 // count:02},{i % 24},{['A', 'B', ''][i % 3]},{'' if i % 10 == 0 else i % 7},"
        f"{int(i % 24 > 12) ^ int(i % 19 == 0)}"
        for i in range(count)
    ]
    return "id,day,hour,carrier,gaps,late\n" + "\n".join(lines) + "\n"


def test_a_search_ends_with_a_model_that_needs_nothing_of_ours(tmp_path: Path) -> None:
    own = {"split_type": "time", "time_column_name": "day", "algorithms": ["LightGBM", "LogisticRegression"]}
    events, log = search(tmp_path, rows(600), **own)
    trials = [event for event in events if event["event"] == "trial"]
    assert [trial["child"] for trial in trials] == ["j_0", "j_1", "j_2"], log
    best = events[-1]
    assert best["event"] == "best"
    assert best["score"] == max(trial["score"] for trial in trials) > 0.85
    assert "not a feature: id (an identifier" in log
    assert "the newest" in log
    script = (
        "import sys, mlflow.sklearn, pandas as pd\n"
        f"model = mlflow.sklearn.load_model({str(tmp_path / 'model')!r})\n"
        "frame = pd.DataFrame([{'hour': 20, 'carrier': 'Z', 'gaps': None}, {'hour': 2, 'carrier': None, 'gaps': 3}])\n"
        "print(model.predict(frame).tolist(), model.predict_proba(frame).shape, 'localazure_compute' in sys.modules)"
    )
    loaded = subprocess.run([COMPUTE, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert loaded.stdout.strip() == "[1, 0] (2, 2) False", loaded.stderr


@pytest.mark.parametrize(
    ("table", "plan", "message"),
    [
        (rows(600), {"target": "delay"}, "no target column 'delay'; it has id, day"),
        (rows(20), {}, "20 rows are too few"),
        (rows(600), {"split_type": "time", "time_column_name": "when"}, "'when' is not in the data"),
        (rows(600), {"trial_timeout_seconds": 0.001, "max_trials": 2}, "The budget is too small for one trial"),
    ],
)
def test_a_search_that_can_not_succeed_says_why(tmp_path: Path, table: str, plan: dict[str, Any], message: str) -> None:
    events, log = search(tmp_path, table, **plan)
    assert events[-1]["event"] == "failed", log
    assert message in events[-1]["message"]
