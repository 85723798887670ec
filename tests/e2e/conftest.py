"""A localazure and an Airflow of their own for the nights of this folder, and a copy of the project they may change."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workbench import ROOT, Workbench, kill_workers_of, land_days

import local_azure
import port_leases
from airflow_components import AirflowApi, AirflowComponents, AirflowHome

#: A worker or a triggerer that vanished is noticed within seconds instead of minutes.
PROMPT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
}


@pytest.fixture(scope="session")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    folder, port = tmp_path_factory.mktemp("nights"), port_leases.lease()
    project, home = folder / "project", folder / "localazure"
    for part in ("dags", "plugins", "include"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    # Before Airflow looks: it takes half a minute to notice a new file.
    shutil.copy(Path(__file__).with_name("spark_kills.py"), project / "dags")
    for kind, name in (("notebooks", "leave_a_file.ipynb"), ("jobs", "leave_a_file.py")):
        shutil.copy(Path(__file__).with_name(name), project / "include/spark" / kind)
    local_azure.command("up", home=home, port_base=port, quiet=True)
    components = None
    try:
        local = local_azure.connection(home)
        airflow = AirflowHome(
            folder / "airflow",
            port + 80,
            local_azure.airflow_connection(local),
            Path(local["ca_bundle"]),
            project,
            PROMPT,
        )
        components = AirflowComponents(airflow)
        components.migrate()
        components.start()
        components.wait_until_healthy()
        yield Workbench(home, project, local, components, AirflowApi(airflow))
    finally:
        if components is not None:
            components.stop()
        local_azure.command("down", home=home, quiet=True)


@pytest.fixture(scope="session")
def first_night(workbench: Workbench) -> str:
    """The run id of a green first night: 2013-03-08, with the history from 2013-01-01."""
    land_days(workbench, "2013-01-01", "2013-03-10")
    run_id, state = workbench.night(partition="2013-03-08", backfill_from="2013-01-01")
    assert state == "success", workbench.why(run_id)
    return run_id


@pytest.fixture(scope="session")
def other_nights(workbench: Workbench, first_night: str) -> dict[str, str]:
    """Model -> run id of a green first night of the models that build on flight_delay's features; both at the same
    time. arrival_delay's worker is killed while its pipeline runs."""
    models = ("arrival_delay", "hourly_departures")
    runs = {model: workbench.of(model).start(partition="2013-03-08") for model in models}
    arrival = workbench.of("arrival_delay")
    task = arrival.wait_for(runs["arrival_delay"], "train.job", "running")
    deadline = time.monotonic() + 60
    while not arrival.jobs("Pipeline"):
        assert time.monotonic() < deadline, "the pipeline wasn't submitted"
        time.sleep(0.1)
    kill_workers_of(task["id"])
    for model, run_id in runs.items():
        assert workbench.of(model).finish(run_id) == "success", workbench.of(model).why(run_id)
    return runs
