"""Nights on real data through everything: scheduler, workers, triggerer, SQL pool, Spark, Azure ML, router.

The tests run in the order of the file: each goes on where the one before left the world.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet  # type: ignore[import-untyped]
import pymssql
import pytest
import requests
from azure.identity import ClientSecretCredential
from azure.storage.blob import BlobServiceClient
from workbench import Workbench, kill_workers_of

INCLUDE_JOB = "include/ml/jobs/flight_delay_automl.yml"
ENDPOINT = "flight-delay"


def query(workbench: Workbench, sql: str) -> list[tuple[Any, ...]]:
    """Rows from the pool, by a client that azflow doesn't use."""
    server, port = workbench.local["sql_server"].split(",")
    with (
        pymssql.connect(
            server=server,
            port=port,
            user=workbench.local["sql_login"],
            password=workbench.local["sql_password"],
            database=workbench.local["sql_database"],
            tds_version="7.4",
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
        return list(cursor.fetchall())


def predictions(workbench: Workbench) -> dict[str, tuple[int, str]]:
    """Day -> (rows, model version) of what was written back."""
    rows = query(
        workbench,
        "SELECT flight_date, COUNT(*), MIN(model_version), MAX(model_version) "
        "FROM ml.flight_predictions GROUP BY flight_date",
    )
    assert all(least == most for _, _, least, most in rows), "one day holds predictions of two model versions"
    return {str(day): (count, version) for day, count, version, _ in rows}


def ask(workbench: Workbench, day: str) -> None:
    """A caller's request, with flights of that day: what a roll-out asks itself isn't collected."""
    local = workbench.local
    names = ("tenant_id", "client_id", "client_secret")
    trusted = {"authority": local["api_url"], "disable_instance_discovery": True}
    credential = ClientSecretCredential(
        *(local[name] for name in names), connection_verify=local["ca_bundle"], **trusted
    )
    with BlobServiceClient(local["storage_account_url"], credential, connection_verify=local["ca_bundle"]) as service:
        lake = service.get_container_client(local["container"])
        names_below = lake.list_blob_names(name_starts_with=f"export/flight_delay/{day}/")
        file = next(name for name in names_below if "/score/" in name and name.endswith(".parquet"))
        table = pyarrow.parquet.read_table(io.BytesIO(lake.download_blob(file).readall()))
    endpoint = workbench.arm("GET", f"/onlineEndpoints/{ENDPOINT}?api-version=2024-04-01")["properties"]
    key = workbench.arm("POST", f"/onlineEndpoints/{ENDPOINT}/listKeys?api-version=2024-04-01")["primaryKey"]
    answer = requests.post(
        endpoint["scoringUri"],
        data=json.dumps({"data": table.slice(0, 20).to_pylist()}, default=str),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        verify=local["ca_bundle"],
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


def test_the_first_night_trains_ships_and_writes_back(workbench: Workbench, first_night: str) -> None:
    states = workbench.states(first_night)
    assert set(states.values()) == {"success"}, states
    train = workbench.xcom(first_night, "train.job")
    scored = [child for child in train["children"] if child["metrics"]]
    assert len(scored) >= 5, train
    verdict = workbench.xcom(first_night, "evaluate.verdict")
    assert verdict["promote"] is True
    assert verdict["champion"] is None
    assert verdict["challenger"]["value"] >= 0.65
    assert verdict["challenger"]["low"] < verdict["challenger"]["value"] < verdict["challenger"]["high"]


def test_long_waits_went_through_the_triggerer(workbench: Workbench, first_night: str) -> None:
    assert "Pausing task as DEFERRED" in workbench.log(first_night, "train.job")


def test_the_predictions_are_the_models(workbench: Workbench, first_night: str) -> None:
    registered = workbench.xcom(first_night, "register.model")
    [(flights,)] = query(workbench, "SELECT COUNT(*) FROM ml.flight_features WHERE flight_date = '2013-03-08'")
    rows, version = predictions(workbench)["2013-03-08"]
    assert version == str(registered["version"])
    assert rows == flights > 700


def test_the_endpoint_serves_the_registered_model_alone(workbench: Workbench, first_night: str) -> None:
    endpoint = workbench.arm("GET", f"/onlineEndpoints/{ENDPOINT}?api-version=2024-04-01")
    traffic = endpoint["properties"]["traffic"]
    assert sum(traffic.values()) == 100
    [serving] = [name for name, share in traffic.items() if share == 100]
    deployment = workbench.arm("GET", f"/onlineEndpoints/{ENDPOINT}/deployments/{serving}?api-version=2024-04-01")
    registered = workbench.xcom(first_night, "register.model")
    assert deployment["properties"]["model"].endswith(f"/versions/{registered['version']}")


def test_a_monitor_compares_the_week_with_the_champions_training_data(workbench: Workbench, first_night: str) -> None:
    spec = workbench.project / "include/models/flight_delay/model.yml"
    kept = spec.read_text()
    # The week has only its last day so far.
    spec.write_text(kept.replace("min_rows: 4000", "min_rows: 500", 1))
    ask(workbench, "2013-03-08")
    monitor = replace(workbench, dag="endpoint_monitoring_flight_delay")
    try:
        time.sleep(1)
        run_id, state = monitor.night(partition="2013-03-08")
    finally:
        spec.write_text(kept)
    assert state == "success", monitor.why(run_id)
    verdict = monitor.xcom(run_id, "verdict")
    registered = workbench.xcom(first_night, "register.model")
    assert verdict["model_version"] == str(registered["version"])
    assert verdict["rows"] == predictions(workbench)["2013-03-08"][0]
    assert verdict["counts"]["ok"] > 0
    # A day's outcomes aren't due yet, and one caller's request is too little to tell anything.
    of = {reason.partition(":")[0].removesuffix(", captured requests") for reason in verdict["unknown"]}
    assert of <= {"Performance", "Data drift", "Prediction drift", "Data quality"}
    assert not [
        reason for reason in verdict["unknown"] if "captured" not in reason and "no outcome is due" not in reason
    ]
    captured = monitor.xcom(run_id, "captured")
    assert captured["files"] > 0 and captured["folder"].endswith(f"/modelDataCollector/{ENDPOINT}/")
    own = monitor.xcom(run_id, "azure_monitor")
    schedule = workbench.arm("GET", f"/schedules/{own['name']}?api-version=2024-04-01")["properties"]
    assert schedule["action"]["monitorDefinition"]["monitoringTarget"]["deploymentId"].endswith(own["deployment"])
    # The day was a snowstorm's: the weather drifts, and only warns.
    warned = {finding["feature"] for finding in verdict["findings"] if finding["level"] == "warn"}
    assert {"precip", "visib"} <= warned
    [(count, alarms)] = query(
        workbench,
        "SELECT COUNT(*), SUM(CASE WHEN level = 'alarm' THEN 1 ELSE 0 END) FROM ml.monitoring_readings "
        "WHERE model_name = 'flight_delay' AND window_end = '2013-03-08'",
    )
    assert (count, alarms) == (sum(verdict["counts"].values()), verdict["counts"]["alarm"])
    assert monitor.states(run_id)["alarm"] == ("success" if alarms else "skipped")


def test_two_more_models_train_each_its_own_way(workbench: Workbench, other_nights: dict[str, str]) -> None:
    verdicts = {}
    for model, run_id in other_nights.items():
        states = workbench.of(model).states(run_id)
        assert set(states.values()) == {"success"}, states
        assert "register.promote" in states and not [name for name in states if name.startswith("roll_out")]
        verdicts[model] = workbench.of(model).xcom(run_id, "evaluate.verdict")
    arrival, hourly = verdicts["arrival_delay"], verdicts["hourly_departures"]
    assert (arrival["metric"], arrival["rows"] > 5000) == ("mean_absolute_error", True)
    assert (hourly["metric"], hourly["rows"]) == ("root_mean_squared_error", 7 * 72)
    for verdict in verdicts.values():
        assert verdict["promote"] is True and verdict["lower_is_better"] is True
        assert len(verdict["baselines"]) == 2
        assert verdict["challenger"]["value"] < min(one["value"] for one in verdict["baselines"])
        assert verdict["challenger"]["low"] < verdict["challenger"]["value"] < verdict["challenger"]["high"]


def test_a_killed_worker_leads_to_one_pipeline(workbench: Workbench, other_nights: dict[str, str]) -> None:
    run_id, arrival = other_nights["arrival_delay"], workbench.of("arrival_delay")
    assert arrival.tasks(run_id)["train.job"]["try_number"] == 2
    [pipeline] = arrival.jobs("Pipeline")
    train = arrival.xcom(run_id, "train.job")
    assert train["name"] == pipeline["name"]
    assert {step["status"] for step in train["children"]} == {"Completed"}


def test_their_predictions_are_the_champions(workbench: Workbench, other_nights: dict[str, str]) -> None:
    rows = {
        "arrival_delay": "ml.arrival_delay_predictions WHERE flight_date = '2013-03-08'",
        "hourly_departures": "ml.hourly_departures_forecast WHERE forecast_date = '2013-03-09' AND low <= high",
    }
    [(flights,)] = query(workbench, "SELECT COUNT(*) FROM ml.flight_features WHERE flight_date = '2013-03-08'")
    for model, run_id in other_nights.items():
        version = str(workbench.of(model).xcom(run_id, "register.promote")["version"])
        counted = query(workbench, f"SELECT model_version, COUNT(*) FROM {rows[model]} GROUP BY model_version")
        assert counted == [(version, {"arrival_delay": flights, "hourly_departures": 72}[model])]
        registered = workbench.arm("GET", f"/models/{model}/versions/{version}?api-version=2024-04-01")
        assert registered["properties"]["tags"]["role"] == "champion"


def test_the_same_partition_again_with_a_killed_worker(workbench: Workbench, first_night: str) -> None:
    """`kill -9` of the worker during training, then Airflow's retry: one AutoML job, and not a row more than before."""
    counts = "SELECT flight_date, COUNT(*) FROM ml.flight_features GROUP BY flight_date ORDER BY flight_date"
    features, written = query(workbench, counts), predictions(workbench)
    before = {job["name"] for job in workbench.jobs("AutoML")}
    run_id = workbench.start(partition="2013-03-08")
    task = workbench.wait_for(run_id, "train.job", "running")
    deadline = time.monotonic() + 60
    while not (submitted := {job["name"] for job in workbench.jobs("AutoML")} - before):
        assert time.monotonic() < deadline, "the training job wasn't submitted"
        time.sleep(0.1)
    kill_workers_of(task["id"])
    assert workbench.finish(run_id) == "success", workbench.why(run_id)
    assert {job["name"] for job in workbench.jobs("AutoML")} - before == submitted
    assert len(submitted) == 1
    assert workbench.tasks(run_id)["train.job"]["try_number"] == 2
    verdict = workbench.xcom(run_id, "evaluate.verdict")
    assert verdict["champion"]["value"] >= 0.6
    assert verdict["difference"]["low"] <= verdict["difference"]["value"] <= verdict["difference"]["high"]
    assert query(workbench, counts) == features
    assert {day: rows for day, (rows, _) in predictions(workbench).items()} == {
        day: rows for day, (rows, _) in written.items()
    }


@pytest.fixture
def guessing(workbench: Workbench) -> Iterator[None]:
    """The training job replaced by one whose model answers at random."""
    job, folder = workbench.project / INCLUDE_JOB, workbench.project / "include/ml/code/guess"
    kept = job.read_text()
    folder.mkdir()
    (folder / "guess.py").write_text(Path(__file__).with_name("guess.py").read_text())
    job.write_text(Path(__file__).with_name("guess_job.yml").read_text())
    yield
    job.write_text(kept)
    shutil.rmtree(folder)


def traffic_of(workbench: Workbench) -> dict[str, int]:
    """Deployment -> percent, those with traffic."""
    endpoint = workbench.arm("GET", f"/onlineEndpoints/{ENDPOINT}?api-version=2024-04-01")
    return {name: share for name, share in endpoint["properties"]["traffic"].items() if share}


@pytest.mark.usefixtures("guessing")
def test_a_model_that_guesses_is_not_promoted(workbench: Workbench, first_night: str) -> None:
    before = traffic_of(workbench)
    run_id, state = workbench.night(partition="2013-03-09")
    assert state == "success", workbench.why(run_id)
    verdict = workbench.xcom(run_id, "evaluate.verdict")
    assert verdict["promote"] is False
    assert any("below the floor" in reason for reason in verdict["reasons"]), verdict
    states = workbench.states(run_id)
    assert states["register.model"] == states["roll_out.traffic"] == "skipped"
    assert traffic_of(workbench) == before
    assert "2013-03-09" in predictions(workbench)
    # Both nights' decisions are written down, the first one's once, though it ran twice.
    kept = query(
        workbench,
        "SELECT CONVERT(varchar(10), night, 120), decision, decided_by FROM ml.model_decisions "
        "WHERE model_name = 'flight_delay' ORDER BY night",
    )
    assert [night for night, _, _ in kept] == ["2013-03-08", "2013-03-09"]
    assert kept[-1] == ("2013-03-09", "rejected", "gate")
    job = workbench.xcom(run_id, "train.job")["name"]
    assert workbench.arm("GET", f"/jobs/{job}?api-version=2024-04-01")["properties"]["tags"]["decision"] == "rejected"


@pytest.mark.usefixtures("guessing")
def test_a_score_that_raises_is_rolled_back(workbench: Workbench, first_night: str) -> None:
    score = next((workbench.project / "include/ml/endpoints").rglob("score.py"))
    kept, before = score.read_text(), traffic_of(workbench)
    score.write_text("def init():\n    pass\n\n\ndef run(data):\n    raise RuntimeError('this model cannot score')\n")
    try:
        run_id, state = workbench.night(partition="2013-03-10", force_promotion=True)
    finally:
        score.write_text(kept)
    assert state == "failed"
    states = workbench.states(run_id)
    failed = next(name for name in ("roll_out.deploy", "roll_out.traffic") if states[name] == "failed")
    assert "this model cannot score" in workbench.log(run_id, failed)
    assert traffic_of(workbench) == before
    assert "2013-03-10" not in predictions(workbench)


def test_a_partition_that_never_arrives_is_named(workbench: Workbench, first_night: str) -> None:
    spec = workbench.project / "include/models/flight_delay/model.yml"
    kept = spec.read_text()
    spec.write_text(kept.replace("timeout_minutes: 360", "timeout_minutes: 0.1", 1))
    try:
        time.sleep(1)
        run_id, state = workbench.night(partition="2013-06-01")
    finally:
        spec.write_text(kept)
    if state != "failed":
        pytest.fail(f"the night ended {state} without its data")
    assert "landing/flights/2013-06-01/_SUCCESS" in workbench.log(run_id, "arrival.wait_for_data")
