"""tools/demo.py and tools/local_azure.py: what they reckon and print, and the connection they make."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import demo
import local_azure
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError
from environments import SetUpError


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    text = demo.table([("train", "73.1", "ok"), ("roll_out", "", "skipped")], ("stage", "seconds", "outcome"))
    assert text.splitlines() == [
        "stage     seconds  outcome",
        "--------------------------",
        "train     73.1     ok",
        "roll_out           skipped",
    ]


def task(name: str, state: str | None, start: str | None = None, end: str | None = None) -> dict[str, Any]:
    return {"task_id": name, "state": state, "start_date": start, "end_date": end, "duration": None, "try_number": 1}


def test_a_stage_lasts_from_its_first_start_to_its_last_end() -> None:
    rows = demo.stages(
        [
            task("report", None),
            task("data.train", "success", "2013-03-09T02:00:01Z", "2013-03-09T02:00:05Z"),
            task("data.holdout", "success", "2013-03-09T02:00:02+00:00", "2013-03-09T02:00:08.5+00:00"),
            task("arrival.wait_for_data", "success", "2013-03-09T02:00:00Z", "2013-03-09T02:00:01Z"),
            task("train.job", "failed", "2013-03-09T02:00:09Z", "2013-03-09T02:00:10Z"),
            task("evaluate.job", "upstream_failed"),
            task("evaluate.verdict", "skipped"),
        ]
    )
    assert sorted(rows[3:]) == [("evaluate", "", "not run"), ("report", "", "none")]
    assert rows[:3] == [("arrival", "1.0", "ok"), ("data", "7.5", "ok"), ("train", "1.0", "FAILED")]


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (None, datetime.date(2013, 3, 8)),
        ("2013-03-08", datetime.date(2013, 3, 9)),
        ("2013-03-31", datetime.date(2013, 4, 1)),
    ],
)
def test_the_next_night_is_the_day_after_the_last_green_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str | None, expected: datetime.date
) -> None:
    monkeypatch.setattr(demo, "PROGRESS", tmp_path / "demo.json")
    if kept:
        (tmp_path / "demo.json").write_text(json.dumps({"partition": kept, "run_id": "r"}))
    assert demo.next_partition() == expected


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "-"),
        ({"value": None, "low": None, "high": None}, "-"),
        ({"value": 0.73861, "low": None, "high": None}, "0.7386"),
        ({"value": -0.001, "low": -0.02, "high": 0.01}, "-0.0010 [-0.0200, 0.0100]"),
    ],
)
def test_a_metric_is_shown_with_its_interval(found: dict[str, Any] | None, text: str) -> None:
    assert demo._measured(found) == text


def test_the_command_line() -> None:
    arguments = demo.parse(["--partition", "2013-03-10", "--keep", "--airflow-port", "9090"])
    assert (arguments.partition, arguments.keep, arguments.airflow_port) == (datetime.date(2013, 3, 10), True, 9090)
    with pytest.raises(SystemExit):
        demo.parse(["--partition", "yesterday"])


@pytest.mark.parametrize(
    ("last", "arguments", "expected"),
    [
        (None, [], ["flight_delay 2013-03-08"]),
        ("2013-03-08", [], ["flight_delay 2013-03-09"]),
        ("2013-03-08", ["--model", "arrival_delay"], ["arrival_delay 2013-03-08"]),
        (None, ["--model", "arrival_delay"], ["flight_delay 2013-03-08", "arrival_delay 2013-03-08"]),
        ("2013-03-08", ["--model", "hourly_departures", "--partition", "2013-03-07"], ["hourly_departures 2013-03-07"]),
        (
            "2013-03-08",
            ["--all"],
            ["flight_delay 2013-03-09", "arrival_delay 2013-03-09", "hourly_departures 2013-03-09"],
        ),
        ("2013-12-31", [], "the data ends on 2013-12-31"),
        ("2013-03-08", ["--model", "arrival_delay", "--partition", "2013-03-10"], "no features of 2013-03-10"),
    ],
)
def test_a_model_runs_after_the_one_it_builds_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str | None, arguments: list[str], expected: list[str] | str
) -> None:
    monkeypatch.setattr(demo, "PROGRESS", tmp_path / "demo.json")
    if last:
        (tmp_path / "demo.json").write_text(json.dumps({"partition": last, "run_id": "r"}))
    if isinstance(expected, str):
        with pytest.raises(SetUpError, match=expected):
            demo.nights(demo.parse(arguments))
    else:
        assert [f"{model} {day}" for model, day in demo.nights(demo.parse(arguments))] == expected


def test_a_failed_task_is_told_by_the_end_of_its_log() -> None:
    log = [
        "::group::x",
        *(f"line {n}" for n in range(30)),
        "",
        "Task failed with exception",
        "SqlFailed: a.sql, line 3",
    ]
    api: Any = SimpleNamespace(log=lambda *arguments: log)
    told = demo.failures(api, "dag", "r", [task("train.job", "failed"), task("report", "success")])
    shown = told.splitlines()
    assert shown[0] == "train.job failed:"
    assert shown[1:] == [f"    line {n}" for n in range(11, 30)] + ["    SqlFailed: a.sql, line 3"]


# the connection


LOCAL = {
    "api_url": "https://localhost:18400",
    "tenant_id": "t",
    "client_id": "c",
    "client_secret": "local-only~secret",
    "subscription_id": "s",
    "resource_group": "rg",
    "workspace": "ws",
    "storage_account": "azflowlake",
    "storage_account_url": "https://localhost:18402/azflowlake",
    "container": "lake",
    "synapse_endpoint": "https://localhost:18400",
    "sql_server": "localhost,18401",
    "sql_server_ondemand": "localhost,18408",
    "sql_database": "azflow",
    "spark_pool": "sparkpool",
}


def parsed(made: dict[str, Any]) -> AzureConnection:
    """As Airflow hands it over."""
    connection: Any = SimpleNamespace(conn_id="azure_default", **(made | {"extra": json.dumps(made["extra"])}))
    return AzureConnection.parse(connection)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "")  # parsing sets them; they are put back afterwards
    (tmp_path / "bundle.pem").touch()
    return str(tmp_path / "bundle.pem")


def test_azflow_takes_the_connection(bundle: str) -> None:
    connection = parsed(local_azure.airflow_connection(LOCAL | {"ca_bundle": bundle}))
    assert connection.client_id == "c" and connection.verify == bundle
    assert connection.lake_url == "https://localhost:18402/azflowlake/lake"
    assert connection.lake_abfss_url == "abfss://lake@azflowlake.dfs.core.windows.net"
    assert connection.arm_scope == "https://localhost:18400/.default"
    assert connection.cloud is not None and connection.cloud.authority == "https://localhost:18400"
    assert "secret" not in repr(connection) and "secret" not in json.dumps(connection.view())


def test_its_secret_never_goes_to_public_azure(bundle: str) -> None:
    made = local_azure.airflow_connection(LOCAL | {"ca_bundle": bundle})
    made["extra"]["cloud"] = None
    with pytest.raises(ConfigurationError, match="public"):
        parsed(made)


def test_localazures_processes_know_the_checkout_and_nothing_of_airflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_azure, "azurite", lambda: ["/a b/node", "main.js"])
    monkeypatch.setenv("AIRFLOW_HOME", "/somewhere")
    made = local_azure.environment(tmp_path, 23000)
    assert made["LOCALAZURE_HOME"] == str(tmp_path) and made["LOCALAZURE_PORT_BASE"] == "23000"
    assert made["LOCALAZURE_AZURITE"] == "'/a b/node' main.js"
    assert "AIRFLOW_HOME" not in made
    assert "LOCALAZURE_PORT_BASE" not in local_azure.environment(tmp_path)
