"""The shipped models: their jobs are what Azure's SDK takes, and no two of them write to the same table."""

from __future__ import annotations

import io
from typing import Any

import pytest
import yaml
from rendering import FIRST_NIGHT, INCLUDE, render

from azflow import job_files, lifecycle, tsql
from azflow.prepare_steps import SqlStep
from azflow.specs import ModelSpec, find_specs

SPECS = {path.parent.name: ModelSpec.load(path) for path in find_specs() if path.parent.parent.parent == INCLUDE}
JOBS = [
    (name, task.id)
    for name, spec in SPECS.items()
    for task in lifecycle.plan(spec).tasks
    if task.operator == "azflow.ml.AzureMLJobOperator"
]


def loaded(model: str, task_id: str) -> Any:
    """A task's job as the SDK reads it; what other tasks leave stands in as some asset."""
    from azure.ai.ml import load_job

    (task,) = (task for task in lifecycle.plan(SPECS[model]).tasks if task.id == task_id)
    inputs = {
        name: "azureml:thing:1" if "xcom_pull" in value else value for name, value in task.arguments["inputs"].items()
    }
    values = {"night": FIRST_NIGHT, "azure": {}, "model": model, "inputs": inputs, "outputs": {}, "params": {}}
    content = job_files.read_job(task.arguments["job"], values)
    content = job_files.override(content, inputs, task.arguments["outputs"], {})
    return load_job(io.StringIO(yaml.safe_dump(content)), relative_origin=str(INCLUDE / "ml" / task.arguments["job"]))


@pytest.mark.parametrize(("model", "task_id"), JOBS)
def test_its_jobs_are_what_azures_sdk_takes(model: str, task_id: str) -> None:
    job = loaded(model, task_id)
    assert job.type in ("automl", "command", "pipeline")
    if job.type == "pipeline":
        assert job._validate().passed, job._validate().error_messages


def test_there_are_three_ways_of_training() -> None:
    kinds = {model: loaded(model, "train.job") for model in ("flight_delay", "arrival_delay", "hourly_departures")}
    assert kinds["flight_delay"].task_type.lower() == "classification"
    assert kinds["hourly_departures"].task_type.lower() == "forecasting"
    steps = kinds["arrival_delay"].jobs
    assert {name: step.type for name, step in steps.items()} == {
        "prepare": "command",
        "sweep": "sweep",
        "fit": "command",
    }
    trial = steps["sweep"].trial
    # What a sweep chooses and what it is given are together what its trial asks for.
    assert set(steps["sweep"].search_space) | set(steps["sweep"].inputs) >= set(trial.inputs)


@pytest.mark.parametrize("model", sorted(SPECS))
def test_every_job_has_the_output_that_the_next_stage_reads(model: str) -> None:
    assert "best_model" in loaded(model, "train.job").outputs
    assert "evidence" in loaded(model, "evaluate.job").outputs
    assert "predictions" in loaded(model, "write_back.score").outputs


def written(spec: ModelSpec) -> set[str]:
    """The tables that a model's T-SQL creates, fills or drops."""
    files = [step.sql for step in spec.prepare if isinstance(step, SqlStep)] + [spec.write_back.sql]
    found: set[str] = set()
    for file in files:
        for batch in tsql.batches(render(file)):
            for statement in tsql.statements(batch.text):
                words = statement.words()
                for start in (("CREATE", "TABLE"), ("DROP", "TABLE"), ("COPY", "INTO"), ("INSERT", "INTO"),
                              ("DELETE", "FROM"), ("CREATE", "EXTERNAL", "TABLE")):  # fmt: skip
                    if words[: len(start)] == start:
                        found.add(tsql.object_name(statement.tokens, len(start))[0])
    return found


def test_no_two_models_write_to_the_same_table() -> None:
    # Their DAGs run at the same time.
    tables = {model: written(SPECS[model]) for model in ("flight_delay", "arrival_delay", "hourly_departures")}
    assert {"stg.flights", "ml.flight_features"} <= tables["flight_delay"]
    assert {"ml.hourly_departures_new", "ml.hourly_departures_forecast"} <= tables["hourly_departures"]
    models = sorted(tables)
    for index, one in enumerate(models):
        for other in models[index + 1 :]:
            assert not tables[one] & tables[other], f"{one} and {other} both write to {tables[one] & tables[other]}"
