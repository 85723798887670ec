"""AutoML jobs as Microsoft's own SDK submits them: the three tasks, alone and as a step of a pipeline."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.evidence("sdk")

FORECAST = """
$schema: https://azuremlschemas.azureedge.net/latest/autoMLJob.schema.json
type: automl
task: forecasting
experiment_name: contract-automl
compute: azureml:cpu-cluster
training_data: {type: mltable, path: azureml:automl-hours@latest}
target_column_name: departures
primary_metric: normalized_root_mean_squared_error
n_cross_validations: 2
forecasting:
  time_column_name: hour
  time_series_id_column_names: [origin]
  forecast_horizon: 12
  frequency: h
  target_lags: [1, 24]
  use_stl: season
limits: {timeout_minutes: 3, trial_timeout_minutes: 1, max_trials: 3}
training:
  allowed_training_algorithms: [seasonal_naive, elastic_net]
outputs:
  best_model: {type: mlflow_model}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("user")
    flights = ["hour,carrier,wind,late,delay"] + [
        f"{i % 24},{'AB'[i % 2]},{i % 7 if i % 10 else ''},{int(i % 24 > 12) ^ int(i % 19 == 0)},{i % 24 * 2 + i % 3}"
        for i in range(300)
    ]
    hours = ["hour,origin,departures"] + [
        f"2013-01-{1 + n // 24:02} {n % 24:02}:00:00,{origin},{level + 10 * math.sin(math.pi * n / 12) + n % 5:.2f}"
        for origin, level in (("EWR", 20), ("JFK", 40))
        for n in range(24 * 14)
    ]
    for name, lines in (("flights", flights), ("hours", hours)):
        (root / name).mkdir()
        (root / name / "rows.csv").write_text("\n".join(lines) + "\n")
        (root / name / "MLTable").write_text(
            "type: mltable\npaths:\n  - file: ./rows.csv\ntransformations:\n  - read_delimited: {delimiter: ','}\n"
        )
    (root / "forecast.yml").write_text(FORECAST)
    return root


@pytest.fixture(scope="module")
def jobs(localazure: Any, folder: Path) -> dict[str, Any]:
    """The jobs of this module, submitted together and waited for."""
    from azure.ai.ml import Input, Output, automl, dsl, load_job
    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.entities import Data

    client = localazure.ml_client()
    tables = {
        name: client.data.create_or_update(
            Data(name=f"automl-{name}", type=AssetTypes.MLTABLE, path=str(folder / name))
        )
        for name in ("flights", "hours")
    }
    training = Input(type=AssetTypes.MLTABLE, path=tables["flights"].id)

    def classification(target: str) -> Any:
        job = automl.classification(
            compute="cpu-cluster",
            experiment_name="contract-automl",
            training_data=training,
            target_column_name=target,
            primary_metric="AUC_weighted",
            test_data_size=0.2,
            n_cross_validations=2,
            positive_label="1",
            outputs={"best_model": Output(type=AssetTypes.MLFLOW_MODEL)},
        )
        job.set_limits(timeout_minutes=3, trial_timeout_minutes=1, max_trials=4, enable_early_termination=True)
        job.set_training(allowed_training_algorithms=["LightGBM", "LogisticRegression"])
        job.set_featurization(mode="custom", blocked_transformers=["LabelEncoder"],
                              column_name_and_types={"carrier": "Categorical"})  # fmt: skip
        return job

    @dsl.pipeline(default_compute="cpu-cluster", experiment_name="contract-automl")
    def delays(flights):  # type: ignore[no-untyped-def]  # the SDK reads annotations
        step = automl.regression(
            training_data=flights,
            target_column_name="delay",
            primary_metric="r2_score",
            validation_data_size=0.2,
            outputs={"best_model": Output(type=AssetTypes.MLFLOW_MODEL)},
        )
        step.set_limits(timeout_minutes=3, max_trials=1)
        step.set_training(allowed_training_algorithms=["DecisionTree"], enable_model_explainability=False)
        return {"best_model": step.outputs.best_model}

    sent = {
        "classification": classification("late"),
        "wrong": classification("no_such_column"),
        "forecasting": load_job(folder / "forecast.yml"),
        "pipeline": delays(flights=training),
    }
    names = {kind: client.jobs.create_or_update(job).name for kind, job in sent.items()}
    end = time.monotonic() + 300
    found: dict[str, Any] = {}
    while len(found) < len(names):
        assert time.monotonic() < end, f"after 300 s only {sorted(found)} have ended"
        for kind in names.keys() - found.keys():
            job = client.jobs.get(names[kind])
            if job.status in ("Completed", "Failed", "Canceled"):
                found[kind] = job
        time.sleep(0.5)
    return found


def tracked(localazure: Any, run: str) -> dict[str, float]:
    """The metrics of a run, from MLflow itself."""
    answer = requests.get(f"{localazure['mlflow_url']}/api/2.0/mlflow/runs/get", {"run_id": run}, timeout=30)
    return {each["key"]: each["value"] for each in answer.json()["run"]["data"].get("metrics", [])}


def log_of(client: Any, job: Any, folder: Path) -> str:
    client.jobs.download(job.name, download_path=folder)
    return "".join(path.read_text() for path in folder.rglob("std_log.txt"))


def test_classification_has_a_leaderboard_a_test_and_a_model(
    localazure: Any, jobs: dict[str, Any], tmp_path: Path
) -> None:
    client, job = localazure.ml_client(), jobs["classification"]
    assert job.status == "Completed", log_of(client, job, tmp_path)
    # What was asked comes back as it was asked.
    assert job.primary_metric.lower().replace("_", "") == "aucweighted"
    assert job.limits.max_trials == 4
    best = job.properties["best_child_run_id"]
    children = {child.name: child for child in client.jobs.list(parent_job_name=job.name)}
    assert set(children) == {*(f"{job.name}_{n}" for n in range(4)), f"{job.name}_test"}
    assert children[best].properties["run_algorithm"] == job.properties["run_algorithm"]
    scores = tracked(localazure, best)
    assert {"AUC_weighted", "AUC_macro", "AUC_micro", "accuracy", "balanced_accuracy", "weighted_accuracy",
            "norm_macro_recall", "log_loss", "matthews_correlation", "f1_score_macro", "precision_score_micro",
            "recall_score_weighted", "average_precision_score_weighted", "AUC_binary"} <= set(scores)  # fmt: skip
    assert scores["AUC_weighted"] == pytest.approx(tracked(localazure, job.name)["AUC_weighted"])
    assert tracked(localazure, f"{job.name}_test")["AUC_weighted"] > 0.5

    client.jobs.download(job.name, download_path=tmp_path, output_name="best_model")
    assert list(tmp_path.rglob("best_model/MLmodel"))
    client.jobs.download(job.name, download_path=tmp_path / "artifacts")
    (board,) = (tmp_path / "artifacts").rglob("leaderboard.csv")
    rows = list(csv.DictReader(board.open()))
    assert (rows[0]["run_id"], len(rows)) == (best, 4)
    assert list((tmp_path / "artifacts").rglob("feature_importances.json"))
    (guardrails,) = (tmp_path / "artifacts").rglob("verifier_results.json")
    assert {each["state"] for each in json.loads(guardrails.read_text())} <= {"Passed", "Done", "Alerted"}


def test_a_forecast_from_its_yaml(localazure: Any, jobs: dict[str, Any], tmp_path: Path) -> None:
    client, job = localazure.ml_client(), jobs["forecasting"]
    assert job.status == "Completed", log_of(client, job, tmp_path)
    settings = job.forecasting_settings
    assert (settings.forecast_horizon, settings.target_lags) == (12, [1, 24])
    assert settings.time_series_id_column_names == ["origin"]
    children = {child.properties["run_algorithm"] for child in client.jobs.list(parent_job_name=job.name)}
    assert children == {"SeasonalNaive", "ElasticNet", "VotingEnsemble"}
    assert {"normalized_root_mean_squared_error", "mean_absolute_percentage_error", "r2_score"} <= set(
        tracked(localazure, job.properties["best_child_run_id"])
    )


def test_a_step_of_a_pipeline(localazure: Any, jobs: dict[str, Any], tmp_path: Path) -> None:
    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.entities import Model

    client, job = localazure.ml_client(), jobs["pipeline"]
    assert job.status == "Completed", log_of(client, job, tmp_path)
    (step,) = client.jobs.list(parent_job_name=job.name)
    assert step.status == "Completed"
    assert step.properties["run_algorithm"] == "DecisionTree"
    # azure-ai-ml 1.35.2 can't download an output that is a model (its own request has a wrong argument): it is
    # registered, and the model downloaded.
    path = f"azureml://jobs/{job.name}/outputs/best_model"
    model = client.models.create_or_update(Model(name="automl-delays", path=path, type=AssetTypes.MLFLOW_MODEL))
    client.models.download(model.name, model.version, download_path=tmp_path)
    assert list(tmp_path.rglob("MLmodel"))


def test_what_can_not_succeed_says_why(localazure: Any, jobs: dict[str, Any], tmp_path: Path) -> None:
    job = jobs["wrong"]
    assert job.status == "Failed"
    assert "no target column 'no_such_column'; it has hour, carrier" in log_of(localazure.ml_client(), job, tmp_path)
