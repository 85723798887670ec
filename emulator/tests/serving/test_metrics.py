"""The router's log by the minute, and Azure Monitor's questions about it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from localazure.core.errors import AzureError
from localazure.serving import metrics, traffic
from localazure.serving.metrics import Query, Sample
from localazure.serving.monitor import usage
from localazure.serving.resources import ENDPOINT_TYPE
from localazure.serving.traffic import Log, Outcome

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE = int(NOON.timestamp()) // 60


def line(second: float, deployment: str = "blue", status: int = 200, ms: float = 10, **more: Any) -> str:
    entry = {"ts": NOON.timestamp() + second, "status": status, "duration": ms / 1000, "deployment": deployment}
    return json.dumps(entry | more) + "\n"


def test_a_log_is_read_on_and_over_its_rolling(tmp_path: Path) -> None:
    path = tmp_path / "scoring-flights.log"
    log = Log(path)
    log.read()
    assert log.minutes == {}
    path.write_text("".join(line(0, ms=ms) for ms in range(1, 101)) + line(1, "green", 502, model_status=500)[:20])
    log.read()
    with path.open("a") as file:
        file.write(line(1, "green", 502, model_status=500)[20:] + line(2, status=599) + "no json\n")
    log.read()
    minute = log.minutes[MINUTE]
    assert minute.outcomes == {Outcome("blue", 200, 200): 100, Outcome("green", 502, 500): 1}
    latency = minute.latency("blue")
    assert latency is not None
    assert (latency.percentiles, latency.lowest, latency.highest) == ((50, 90, 95, 99), 1, 100)
    # What stands in the file that was rolled over isn't lost.
    with path.open("a") as file:
        file.write(line(70))
    os.rename(path, tmp_path / "scoring-flights-2026-11-22T12-01-30.000.log")
    path.write_text(line(600))
    log.read()
    assert set(log.minutes) == {MINUTE, MINUTE + 1, MINUTE + 10}
    # An old minute keeps its figures, not its requests.
    closed = log.minutes[MINUTE].latency("blue")
    assert closed == latency
    (tmp_path / "scoring-flights-2.log").write_text("another endpoint's")
    traffic.forget(path)
    assert [each.name for each in tmp_path.iterdir()] == ["scoring-flights-2.log"]


def asked(**parameters: str) -> Query:
    given = {"timespan": "2026-11-22T12:00:00Z/2026-11-22T12:04:00Z"} | parameters
    return Query.parse(given, metrics.ENDPOINT, ENDPOINT_TYPE, NOON)


def value(query: Query, *samples: Sample) -> Any:
    return metrics.answer(query, "/x", ENDPOINT_TYPE, "westeurope", {query.metrics[0].name: samples})["value"][0]


def requests(minute: int, deployment: str, status: str, count: float) -> Sample:
    dimensions = {"deployment": deployment, "statusCode": status, "statusCodeClass": f"{status[0]}xx"}
    return Sample(MINUTE + minute, dimensions, count)


SAMPLES = (requests(0, "blue", "200", 90), requests(0, "green", "200", 9), requests(0, "green", "502", 1))
LATER = requests(2, "blue", "200", 50)


def test_requests_add_up_over_what_is_not_split() -> None:
    (series,) = value(asked(metricnames="RequestsPerMinute"), *SAMPLES, LATER)["timeseries"]
    assert series["metadatavalues"] == []
    # A minute without a measurement has no value.
    stamps = [f"2026-11-22T12:0{minute}:00Z" for minute in range(4)]
    assert [point.pop("timeStamp") for point in series["data"]] == stamps
    assert series["data"] == [{"average": 100}, {}, {"average": 50}, {}]
    query = asked(metricnames="requestsperminute", interval="FULL", aggregation="average,total,Count,minimum,maximum")
    (series,) = value(query, *SAMPLES, LATER)["timeseries"]
    (point,) = series["data"]
    assert point == {
        "timeStamp": stamps[0], "average": 75, "total": 150, "count": 2, "minimum": 50, "maximum": 100,
    }  # fmt: skip


def test_a_filter_picks_and_splits() -> None:
    query = asked(metricnames="RequestsPerMinute", **{"$filter": "deployment eq 'green' and statusCode eq '*'"})
    good, bad = value(query, *SAMPLES)["timeseries"]
    assert [each["value"] for each in good["metadatavalues"]] == ["green", "200"]
    assert [each["name"]["value"] for each in good["metadatavalues"]] == ["deployment", "statuscode"]
    assert (good["data"][0]["average"], bad["data"][0]["average"]) == (9, 1)
    query = asked(metricnames="RequestsPerMinute", **{"$filter": "(statusCode eq '502' or statusCode eq '200')"})
    assert len(value(query, *SAMPLES)["timeseries"]) == 2
    query = asked(metricnames="RequestsPerMinute", top="1", **{"$filter": "deployment eq '*'"})
    (largest,) = value(query, *SAMPLES)["timeseries"]
    assert largest["metadatavalues"][0]["value"] == "blue"
    query = asked(metricnames="RequestsPerMinute", **{"$filter": "deployment ne 'blue' and statusCode ne '502'"})
    (other,) = value(query, *SAMPLES)["timeseries"]
    assert [each["value"] for each in other["metadatavalues"]] == ["green", "200"]


def test_means_are_weighed_by_requests() -> None:
    query = asked(metricnames="RequestLatency", interval="PT5M")
    samples = (Sample(MINUTE, {}, 10.0, 30), Sample(MINUTE + 1, {}, 50.0, 10))
    (series,) = value(query, *samples)["timeseries"]
    assert series["data"] == [{"timeStamp": "2026-11-22T12:00:00Z", "average": 20.0}]


@pytest.mark.parametrize(
    ("parameters", "status", "wanted"),
    [
        ({"metricnames": "Requests"}, 400, "Failed to find metric configuration for 'Requests'"),
        ({"metricnames": "ConnectionsActive"}, 501, "Metrics_List of ConnectionsActive"),
        ({"interval": "PT2M"}, 400, "one of PT1M"),
        ({"timespan": "yesterday/today"}, 400, "ISO 8601"),
        ({"timespan": "2026-11-22T12:00:00Z/2026-11-21T12:00:00Z"}, 400, "ends before it begins"),
        ({"aggregation": "Median"}, 400, "must be of Average"),
        ({"metricnamespace": "Microsoft.Storage"}, 400, "no metric namespace"),
        ({"metricnames": "RequestLatency", "$filter": "statusCode eq '200'"}, 400, "no dimension 'statuscode'"),
        ({"metricnames": "RequestsPerMinute", "$filter": "deployment eq 'a' or statusCode eq '1'"}, 400, "separate"),
        ({"metricnames": "RequestsPerMinute", "$filter": "deployment sw 'a'"}, 501, "operator sw"),
        (
            {"metricnames": "RequestsPerMinute", "$filter": "deployment ne 'a' or deployment ne 'b'"},
            400,
            "stands alone",
        ),
        ({"metricnames": "RequestsPerMinute", "$filter": "deployment = 'a'"}, 400, "can't be read"),
        ({"orderby": "average asc"}, 501, "orderby"),
        ({"top": "none"}, 400, "top"),
    ],
)
def test_what_is_refused(parameters: dict[str, str], status: int, wanted: str) -> None:
    with pytest.raises(AzureError) as refused:
        asked(**parameters)
    assert (refused.value.status, wanted in refused.value.message) == (status, True), refused.value.message


def test_times_are_read_as_clients_write_them() -> None:
    query = asked(timespan="2026-11-22T13:00:00+01:00/PT30M")
    assert (query.start, (query.end - query.start).total_seconds()) == (NOON, 1800)
    query = asked(timespan="PT2H")
    assert (query.end, (query.end - query.start).total_seconds()) == (NOON, 7200)


def test_an_instance_is_measured_with_all_its_processes() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("Linux only")
    found = usage(os.getpid())
    assert found is not None
    seconds, resident = found
    assert seconds > 0
    assert resident > 10_000_000
    assert usage(2**22 + 1) is None
