"""Sweep jobs as Microsoft's own SDK submits them: the YAML, the `command().sweep()` builder, what comes back."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests

pytestmark = pytest.mark.evidence("sdk")

# A parabola with its top at 0.3, reported three times; a hopeless trial would go on for long.
TRAIN = """
import argparse, os, pathlib, time
import mlflow
parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
parser.add_argument("--kind")
parser.add_argument("--out")
options = parser.parse_args()
score = 1 - (options.rate - 0.3) ** 2
if options.kind == "poor":
    score = 0.01
for step in range(3):
    mlflow.log_metric("score", score * (step + 1), step=step)
if options.kind == "poor":
    time.sleep(120)
assert os.environ["AZUREML_SWEEP_rate"] == str(options.rate)
pathlib.Path(options.out, "model.txt").write_text(f"{options.rate} {options.kind}")
"""
ENVIRONMENT = {"image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04", "conda_file": "conda.yml"}
SWEEP = """
$schema: https://azuremlschemas.azureedge.net/latest/sweepJob.schema.json
type: sweep
experiment_name: contract-sweep
compute: azureml:cpu-cluster
sampling_algorithm: {type: grid}
trial:
  code: code
  command: python train.py --rate ${{search_space.rate}} --kind ${{search_space.kind}} --out ${{outputs.model}}
  environment:
    image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04
    conda_file: conda.yml
search_space:
  rate: {type: choice, values: [0.3, 0.9]}
  kind: {type: choice, values: [good, poor]}
objective: {primary_metric: score, goal: maximize}
early_termination: {type: bandit, slack_factor: 0.2, evaluation_interval: 1, delay_evaluation: 2}
limits: {max_total_trials: 2, max_concurrent_trials: 2, timeout: 300, trial_timeout: 100}
outputs:
  model: {type: uri_folder}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("user")
    (root / "code").mkdir()
    (root / "code" / "train.py").write_text(TRAIN)
    (root / "conda.yml").write_text("dependencies: [python>=3.11, pip, {pip: [mlflow, azureml-mlflow]}]\n")
    (root / "sweep.yml").write_text(SWEEP)
    return root


def finished(client: Any, job: Any, seconds: float = 300) -> Any:
    """The job once it is over."""
    end = time.monotonic() + seconds
    while (job := client.jobs.get(job.name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < end, f"{job.name} is {job.status} after {seconds} s"
        time.sleep(0.3)
    return job


def last_value(localazure: Any, run: str, metric: str) -> float:
    """The last value that a run logged, from MLflow itself."""
    answer = requests.get(f"{localazure['mlflow_url']}/api/2.0/mlflow/runs/get", {"run_id": run}, timeout=30)
    metrics = answer.json()["run"]["data"]["metrics"]
    return float(next(each["value"] for each in metrics if each["key"] == metric))


def test_a_sweep_from_yaml_ends_hopeless_trials_and_hands_out_the_best_ones_outputs(
    localazure: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from azure.ai.ml import load_job

    client = localazure.ml_client()
    job = load_job(folder / "sweep.yml")
    job.name = f"sweep-{uuid.uuid4().hex[:12]}"
    submitted = client.jobs.create_or_update(job)
    client.jobs.stream(submitted.name)
    assert "ended by Bandit at interval 2" in capsys.readouterr().out
    ended = client.jobs.get(job.name)
    assert (ended.status, ended.type) == ("Completed", "sweep")
    assert ended.properties["best_child_run_id"] == f"{job.name}_0"
    assert float(ended.properties["score"]) == pytest.approx(3.0)
    assert {child.name: child.status for child in client.jobs.list(parent_job_name=job.name)} == {
        f"{job.name}_0": "Completed",
        f"{job.name}_1": "Canceled",
    }
    client.jobs.download(job.name, output_name="model", download_path=tmp_path)
    assert (tmp_path / "named-outputs/model/model.txt").read_text() == "0.3 good"
    again = client.jobs.create_or_update(job)  # the same name and content: the job that is there
    assert again.status == "Completed"


def test_the_builder_with_bayesian_sampling_learns_from_trials(localazure: Any, folder: Path) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Environment
    from azure.ai.ml.sweep import Choice, Uniform

    client = localazure.ml_client()
    base = command(
        code=str(folder / "code"),
        command="python train.py --rate ${{inputs.rate}} --kind ${{inputs.kind}} --out ${{outputs.model}}",
        environment=Environment(image=ENVIRONMENT["image"], conda_file=str(folder / "conda.yml")),
        inputs={"rate": 0.1, "kind": "good"},
        outputs={"model": {"type": "uri_folder"}},
        compute="cpu-cluster",
    )
    sweep = base(rate=Uniform(0, 1), kind=Choice(["good", "better"])).sweep(
        sampling_algorithm="bayesian", primary_metric="score", goal="Maximize"
    )
    sweep.set_limits(max_total_trials=3, max_concurrent_trials=2, timeout=300)
    sweep.name = f"sweep-{uuid.uuid4().hex[:12]}"
    sweep.experiment_name = "contract-sweep"
    job = finished(client, client.jobs.create_or_update(sweep))
    assert job.status == "Completed", job
    children = list(client.jobs.list(parent_job_name=job.name))
    assert len(children) == 3
    scores = {child.name: last_value(localazure, child.name, "score") for child in children}
    assert job.properties["best_child_run_id"] == max(scores, key=lambda name: scores[name])
    assert float(job.properties["score"]) == pytest.approx(max(scores.values()))


def test_a_metric_that_is_never_logged_and_a_space_that_grid_cannot_search(localazure: Any, folder: Path) -> None:
    from azure.ai.ml import load_job
    from azure.ai.ml.exceptions import JobException
    from azure.ai.ml.sweep import RandomSamplingAlgorithm, Uniform
    from azure.core.exceptions import HttpResponseError

    client = localazure.ml_client()
    job = load_job(folder / "sweep.yml")
    job.name = f"sweep-{uuid.uuid4().hex[:12]}"
    job.search_space = {"rate": Uniform(0, 1)}
    job.sampling_algorithm = RandomSamplingAlgorithm(rule="sobol", seed=7)
    job.trial.command = "echo ${{search_space.rate}}"
    job.objective.primary_metric = "accuracy"
    job.early_termination = None
    ended = finished(client, client.jobs.create_or_update(job))
    assert ended.status == "Failed"
    with pytest.raises(JobException, match=rf"'accuracy' was logged by none of the 2 completed .*{job.name}_0"):
        client.jobs.stream(job.name)
    job.name = f"sweep-{uuid.uuid4().hex[:12]}"
    job.sampling_algorithm = "grid"
    with pytest.raises(HttpResponseError, match="Grid sampling can only be used with choice"):
        client.jobs.create_or_update(job)
