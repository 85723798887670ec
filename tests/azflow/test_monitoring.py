"""Watching a shipped model: whose training data is the baseline, what the page says, and when an alarm is emitted."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from azflow.monitoring import DriftAlarmOperator, MonitoringOperator, TrainingDataOperator, cooling, drift_asset
from azflow.monitoring_page import render, summary
from azure_edge import Edge, edge
from workspace_edge import NIGHT, context_of

__all__ = ["edge"]


def reading(level: str, feature: str = "carrier", **more: Any) -> dict[str, Any]:
    found = {
        "signal": "data_drift",
        "feature": feature,
        "metric": "jensen_shannon_distance",
        "value": 0.25,
        "reference": 0.02,
        "threshold": 0.1,
        "level": level,
        "rows": 900,
        "says": f"{feature}: jensen_shannon_distance 0.25 (limit 0.1, noise 0.02)",
    }
    return {**found, **more}


def result(*readings: dict[str, Any], level: str = "alarm") -> dict[str, Any]:
    return {
        "model_version": "3",
        "window_start": "2013-03-02",
        "window_end": "2013-03-08",
        "level": level,
        "rows": 6000,
        "baseline_rows": 54000,
        "readings": list(readings),
        "distributions": [
            {"column": "carrier", "bins": ["UA", "B6 <x>"], "baseline": [0.7, 0.3], "target": [0.4, 0.6]},
            {"column": "distance", "bins": [0.0, 1.0, 2.0], "baseline": [0.5, 0.5], "target": [0.1, 0.9]},
        ],
    }


ALARM = result(
    reading("ok", "origin", value=0.01),
    reading("warn", "temp", value=0.4),
    reading("alarm"),
    reading("undefined", "dest", value=None, reference=None, threshold=None, says="dest: 12 rows, fewer than the 500"),
)


def test_the_page_shows_what_moved_first() -> None:
    page = render(ALARM, model="flight_delay")
    assert page.index("carrier: jensen_shannon_distance 0.25") < page.index("temp: jensen_shannon_distance 0.25")
    assert page.index("<h2>Findings") < page.index("<h2>What moved") < page.index("<h2>Data drift")
    assert "B6 &lt;x&gt;" in page  # categories are the data's, not ours
    assert "distance</h3>" not in page  # it didn't move: no plot
    assert "dest: 12 rows, fewer than the 500" in page
    assert "Prediction drift" not in page  # not watched: no empty section
    assert "Nothing moved beyond its limits" in render(result(reading("ok"), level="ok"), model="m")


def test_the_summary_is_small_and_sorted() -> None:
    found = summary(ALARM)
    assert found["counts"] == {"alarm": 1, "warn": 1, "undefined": 1, "ok": 1}
    assert [(each["level"], each["feature"]) for each in found["findings"]] == [("alarm", "carrier"), ("warn", "temp")]


def test_captured_requests_and_what_is_not_known_have_sections_of_their_own() -> None:
    nothing = reading("undefined", "", metric="", data="captured", says="endpoint e captured nothing", value=None)
    due = reading(
        "warn", "", signal="model_performance", metric="overdue_outcome_rate", value=0.4, says="40 of 100 rows"
    )
    found = {**result(nothing, due, reading("ok", "origin"), level="warn"), "captured_rows": None}
    page = render(found, model="m")
    assert page.index("<h2>Findings") < page.index("40 of 100 rows") < page.index("<h2>Not known")
    assert "Data drift, captured requests</td><td>endpoint e captured nothing" in page
    assert "<h2>Data drift, captured requests" not in page  # there is no number to show
    assert summary(found)["unknown"] == ["Data drift, captured requests: endpoint e captured nothing (1)"]
    plot = {"column": "carrier", "bins": ["UA"], "baseline": [1.0], "target": [1.0], "data": "captured"}
    moved = {**result(reading("alarm", data="captured"), level="alarm"), "distributions": [plot], "captured_rows": 900}
    page = render(moved, model="m")
    assert "<h3 class=small>carrier, captured requests</h3>" in page
    assert page.index("<b>900</b><span>captured rows") < page.index("<h2>Data drift, captured requests")


def monitor(edge: Edge, content: Any) -> dict[str, Any]:
    edge.on("GET", "/datastores/lake$", (200, {"properties": {"accountName": "lakeaccount", "containerName": "lake"}}))
    edge.blobs["lake/monitoring/x/monitoring.json"] = json.dumps(content).encode()
    operator = MonitoringOperator(task_id="verdict", model="flight_delay")
    job = {"outputs": {"readings": "azureml://datastores/lake/paths/monitoring/x/"}}
    found: dict[str, Any] = operator.execute(context_of(operator, {"monitor": job}))
    return found


def test_readings_become_a_page_and_findings(edge: Edge) -> None:
    found = monitor(edge, ALARM)
    page = f"lake/reports/flight_delay/{NIGHT.partition}/{NIGHT.key}/monitoring.html"
    assert b"Findings" in edge.blobs[page]
    assert found["page"].endswith(page)
    assert found["level"] == "alarm"


def test_a_job_without_readings_says_what_to_do(edge: Edge) -> None:
    operator = MonitoringOperator(task_id="verdict", model="flight_delay")
    with pytest.raises(AirflowFailException, match="monitor left no output 'readings'; clear it"):
        operator.execute(context_of(operator, {"monitor": {"outputs": {}}}))


# -- the alarm ---------------------------------------------------------------------------------------------------------


def alarm(edge: Edge, content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    operator = DriftAlarmOperator(task_id="alarm", model="flight_delay", cool_down_days=7)
    context = context_of(operator, {"verdict": {**summary(content), "page": "https://page"}})
    events: Any = defaultdict(lambda: SimpleNamespace(extra={}))
    context["outlet_events"] = events
    answer = operator.execute(context)
    return answer, events[drift_asset("flight_delay")].extra


def test_an_alarm_is_emitted_once_and_again_only_by_its_own_run(edge: Edge) -> None:
    answer, event = alarm(edge, ALARM)
    assert answer["emitted_for"] == str(NIGHT.partition)
    assert event["partition"] == str(NIGHT.partition)
    assert event["findings"] == ["carrier: jensen_shannon_distance 0.25 (limit 0.1, noise 0.02)"]
    # A retry of the same run, killed after it wrote the alarm down, still emits.
    assert alarm(edge, ALARM)[0]["emitted_for"] == str(NIGHT.partition)
    written = json.loads(edge.blobs["lake/monitoring/flight_delay/alarm.json"])
    edge.blobs["lake/monitoring/flight_delay/alarm.json"] = json.dumps({**written, "run": "another"}).encode()
    with pytest.raises(AirflowSkipException, match=r"the next one not before .*cool_down_days: 7"):
        alarm(edge, ALARM)


def test_without_an_alarm_nothing_is_emitted(edge: Edge) -> None:
    with pytest.raises(AirflowSkipException, match=r"No alarm \(warn\)"):
        alarm(edge, result(reading("warn"), level="warn"))
    assert "lake/monitoring/flight_delay/alarm.json" not in edge.blobs


@pytest.mark.parametrize(
    ("last", "emitted"),
    [("2013-03-08", False), ("2013-03-02", False), ("2013-03-01", True), ("2013-04-01", True)],
    ids=["the same day, another run", "within", "over", "a day before the last alarm's"],
)
def test_the_cool_down_is_counted_in_days_of_data(last: str, emitted: bool) -> None:
    said = cooling({"partition": last, "run": "other"}, date(2013, 3, 8), "this", 7)
    assert bool(said) is not emitted


# -- the baseline ------------------------------------------------------------------------------------------------------


def baseline(edge: Edge, tags: dict[str, str], champion: Any = None) -> dict[str, str]:
    edge.on("GET", "/models/flight_delay/versions/3$", (200, {"properties": {"tags": tags}}))
    edge.on("GET", "/data/flights_train/versions/n1$", (200, {"properties": {
        "dataUri": "azureml://x/train.mltable/", "referencedUris": ["azureml://x/train/"]}}))  # fmt: skip
    edge.on("GET", "/data/flights_holdout/versions/n1$", (200, {"properties": {"dataUri": "azureml://x/holdout/"}}))
    edge.on("GET", "/data/gone_train/versions/n1$", (404, {}))
    operator = TrainingDataOperator(task_id="baseline")
    found = {"name": "flight_delay", "version": "3", "path": "azureml:flight_delay:3"}
    answer: dict[str, str] = operator.execute(context_of(operator, {"champion": champion or found}))
    return answer


def test_the_baseline_is_what_the_champion_learned_from(edge: Edge) -> None:
    assert baseline(edge, {"data": "azureml:flights_train:n1"}) == {
        "name": "flight_delay",
        "version": "3",
        "path": "azureml:flight_delay:3",
        "data": "azureml:flights_train:n1",
        "train": "azureml://x/train/",
        "holdout": "azureml://x/holdout/",
    }


@pytest.mark.parametrize(
    ("tags", "champion", "says"),
    [
        ({}, None, "version 3, has no tag 'data'"),
        ({"data": "azureml:gone_train:n1"}, None, "no data asset gone_train, version n1"),
        ({}, {"name": ""}, "left no champion; ship a model first"),
    ],
)
def test_a_model_of_unknown_origin_has_no_baseline(edge: Edge, tags: Any, champion: Any, says: str) -> None:
    with pytest.raises(AirflowFailException, match=says):
        baseline(edge, tags, champion)
