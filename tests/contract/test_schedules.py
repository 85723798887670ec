"""Schedules through azure-ai-ml: they fire by localazure's clock, which the test sets."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("azure.ai.ml")
pytestmark = pytest.mark.evidence("sdk")

DEADLINE_SECONDS = 90
PIPELINE = """
type: pipeline
display_name: nightly
experiment_name: schedules
inputs:
  at: ${{creation_context.trigger_time}}
outputs:
  said: {type: uri_folder, path: "azureml://datastores/workspaceblobstore/paths/scheduled/${{name}}/"}
settings: {default_compute: azureml:cpu-cluster, force_rerun: true}
jobs:
  say:
    type: command
    inputs: {at: "${{parent.inputs.at}}"}
    outputs: {said: "${{parent.outputs.said}}"}
    component:
      type: command
      inputs: {at: {type: string}}
      outputs: {said: {type: uri_folder}}
      environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest
      command: echo ${{inputs.at}} > ${{outputs.said}}/at.txt
"""


@pytest.fixture(scope="module")
def client(localazure: Any) -> Any:
    return localazure.ml_client()


@pytest.fixture
def clock(localazure: Any) -> Iterator[Any]:
    yield lambda *arguments: localazure.run("clock", *arguments)
    localazure.run("clock", "--reset")


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    from azure.ai.ml import load_job

    (tmp_path / "job.yml").write_text(PIPELINE)
    return load_job(tmp_path / "job.yml")


def until(found: Any) -> Any:
    end = time.monotonic() + DEADLINE_SECONDS
    while not (value := found()):
        assert time.monotonic() < end, "it didn't come"
        time.sleep(0.3)
    return value


def remove(client: Any, name: str) -> None:
    client.schedules.begin_disable(name).result()
    client.schedules.begin_delete(name).wait()
    assert name not in [each.name for each in client.schedules.list(list_view_type="ALL")]


def test_a_pipeline_is_run_by_cron_and_triggered_by_hand(
    client: Any, clock: Any, pipeline: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import CronTrigger, JobSchedule
    from azure.core.exceptions import HttpResponseError

    name = f"cron-{uuid.uuid4().hex[:8]}"
    clock("--set", "2031-05-05T05:59:00+00:00")
    trigger = CronTrigger(expression="0 8 * * 1", time_zone="W. Europe Standard Time")
    made = client.schedules.begin_create_or_update(
        JobSchedule(name=name, trigger=trigger, create_job=pipeline, tags={"a": "1"})
    ).result()
    assert (made.is_enabled, made.provisioning_state, made.trigger.expression) == (True, "Succeeded", "0 8 * * 1")
    assert client.schedules.get(name).create_job.experiment_name == "schedules"
    # Eight o'clock in Berlin, on a Monday in summer.
    clock("--set", "2031-05-05T05:59:59.5+00:00")
    (job,) = until(lambda: list(client.jobs.list(scheduled_job_name=name)))
    assert job.display_name == f"{name}-20310505T060000Z"
    assert (
        until(lambda: (state := client.jobs.get(job.name).status) in ("Completed", "Failed") and state) == "Completed"
    )
    client.jobs.download(job.name, download_path=str(tmp_path), output_name="said")
    assert (tmp_path / "named-outputs" / "said" / "at.txt").read_text() == "2031-05-05T06:00:00Z\n"
    triggered = client.schedules.trigger(name, schedule_time="2031-05-05T06:30:00+00:00")
    assert client.jobs.get(triggered.job_name).display_name == f"{name}-20310505T063000Z"
    assert job.name in [each.name for each in client.jobs.list(schedule_defined=True)]
    until(lambda: client.jobs.get(triggered.job_name).status in ("Completed", "Failed"))
    with pytest.raises(HttpResponseError, match="disable it before"):
        client.schedules.begin_delete(name).wait()
    remove(client, name)


def test_a_recurrence_of_a_job_that_exists_pauses_and_goes_on(client: Any, clock: Any, pipeline: Any) -> None:
    from azure.ai.ml.entities import JobSchedule, RecurrencePattern, RecurrenceTrigger

    name = f"recurrence-{uuid.uuid4().hex[:8]}"
    source = client.jobs.create_or_update(pipeline)
    until(lambda: client.jobs.get(source.name).status in ("Completed", "Failed"))
    clock("--set", "2031-06-01T00:00:00+00:00")
    trigger = RecurrenceTrigger(
        frequency="day",
        interval=1,
        schedule=RecurrencePattern(hours=[6, 18], minutes=[0]),
        start_time=datetime(2031, 6, 1, 0, 0, 0),
        time_zone="UTC",
    )
    client.schedules.begin_create_or_update(JobSchedule(name=name, trigger=trigger, create_job=source.name)).result()
    shown = client.schedules.get(name)
    assert (shown.trigger.schedule.hours, shown.trigger.frequency) == ([6, 18], "day")
    assert client.schedules.begin_disable(name).result().is_enabled is False
    assert name not in [each.name for each in client.schedules.list()]
    clock("--set", "2031-06-01T07:00:00+00:00")
    assert client.schedules.begin_enable(name).result().is_enabled is True
    assert name in [each.name for each in client.schedules.list()]
    clock("--set", "2031-06-01T17:59:59.8+00:00")
    (job,) = until(lambda: list(client.jobs.list(scheduled_job_name=name)))
    assert job.display_name == f"{name}-20310601T180000Z"
    until(lambda: client.jobs.get(job.name).status in ("Completed", "Failed"))
    remove(client, name)


def test_an_import_of_data_is_refused_by_name(client: Any) -> None:
    from azure.ai.ml.data_transfer import Database
    from azure.ai.ml.entities import CronTrigger, DataImport, ImportDataSchedule
    from azure.core.exceptions import HttpResponseError

    table = Database(connection="azureml:sql", query="select 1")
    path = "azureml://datastores/workspaceblobstore/paths/imported/"
    imported = DataImport(name="imported", source=table, path=path)
    schedule = ImportDataSchedule(name="imports", trigger=CronTrigger(expression="0 0 * * *"), import_data=imported)
    with pytest.raises(HttpResponseError, match="Schedules_CreateOrUpdate with actionType ImportData"):
        client.schedules.begin_create_or_update(schedule).result()
