"""A monitor's definition becomes a plan or is refused by name, and its metrics are Azure ML's, computed from files."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from localazure.core.errors import AzureError, NotImplementedOperation
from localazure.executors.monitor_plan import METRICS, plan

SIX = datetime(2027, 3, 8, 6, tzinfo=UTC)
COMPUTE = {"computeType": "ServerlessSpark", "runtimeVersion": "3.4", "instanceType": "standard_e4s_v3"}
PRODUCTION = {"inputDataType": "Trailing", "uri": "p", "windowSize": "P7D", "windowOffset": "P1D",
              "dataContext": "model_inputs", "jobInputType": "uri_folder"}  # fmt: skip
REFERENCE = {"inputDataType": "Fixed", "uri": "r", "jobInputType": "uri_folder"}
LIMIT = {"metric": "normalizedWassersteinDistance", "dataType": "Numerical", "threshold": {"value": 0.3}}
DRIFT = {"signalType": "DataDrift", "productionData": PRODUCTION, "referenceData": REFERENCE,
         "metricThresholds": [LIMIT], "mode": "Enabled"}  # fmt: skip


def definition(**signal: Any) -> dict[str, Any]:
    return {"computeConfiguration": COMPUTE, "signals": {"one": {**DRIFT, **signal}}}


def test_windows_count_back_from_the_moment_that_is_due() -> None:
    (signal,) = plan(definition(), SIX)
    assert (signal["production"]["from"], signal["production"]["until"]) == (
        "2027-02-28T06:00:00+00:00",
        "2027-03-07T06:00:00+00:00",
    )
    assert (signal["reference"]["from"], signal["reference"]["until"]) == (None, None)
    assert signal["thresholds"] == {"Numerical": {"NormalizedWassersteinDistance": 0.3}}
    assert (signal["features"], signal["alert"]) == (None, True)
    static = {**REFERENCE, "inputDataType": "Static", "windowStart": "2027-01-01T00:00:00.000Z",
              "windowEnd": "2027-02-01T00:00:00.000Z"}  # fmt: skip
    (signal,) = plan(definition(referenceData=static), SIX)
    assert signal["reference"]["from"] == "2027-01-01T00:00:00+00:00"


def test_the_thresholds_of_performance_are_those_that_the_sdk_hides_in_a_property() -> None:
    hidden = '[{"modelType":"classification","metric":"Accuracy","threshold":{"value":0.9}}]'
    properties = {"azureml.modelmonitor.model_performance_thresholds": hidden}
    wire = {"signalType": "ModelPerformance", "productionData": [PRODUCTION], "properties": properties}
    (signal,) = plan(definition(**wire, metricThreshold={"metric": "x"}), SIX)
    assert signal["thresholds"] == {"Classification": {"Accuracy": 0.9}}


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        ({"signalType": "FeatureAttributionDrift"}, "a signal of type FeatureAttributionDrift"),
        ({"signalType": "Custom"}, "a signal of type Custom"),
        ({"signalType": "GenerationSafetyQuality"}, "a signal of type GenerationSafetyQuality"),
        ({"dataSegment": {"feature": "a", "values": ["b"]}}, "a dataSegment"),
        ({"features": {"filterType": "TopNByAttribution", "top": 3}}, "features of type TopNByAttribution"),
        ({"productionData": {**PRODUCTION, "preprocessingComponentId": "c"}}, "a preprocessingComponentId"),
    ],
)
def test_what_isnt_computed_is_refused_by_name(signal: dict[str, Any], said: str) -> None:
    with pytest.raises(NotImplementedOperation, match=f"Schedules_CreateOrUpdate of a monitor with {said}"):
        plan(definition(**signal), SIX)


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        ({"signalType": "Rumour"}, "signalType must be one of DataDrift"),
        ({"metricThresholds": [{**LIMIT, "metric": "pearsonsChiSquaredTest"}]}, "no numerical metric"),
        ({"metricThresholds": [{**LIMIT, "threshold": {"value": "much"}}]}, "must be a number, not 'much'"),
        ({"metricThresholds": []}, "The signal 'one' needs metric thresholds"),
        ({"productionData": {**PRODUCTION, "windowSize": None}}, "needs a windowSize such as P7D"),
        ({"productionData": {**PRODUCTION, "windowSize": "a week"}}, "ISO 8601 duration"),
        ({"referenceData": None}, "signals.one.referenceData needs a uri"),
        ({"features": {"filterType": "FeatureSubset", "features": []}}, "a FeatureSubset with names"),
        ({"featureDataTypeOverride": {"a": "odd"}}, "must be numerical or categorical, not 'Odd'"),
    ],
)
def test_what_makes_no_sense_is_the_callers_mistake(signal: dict[str, Any], said: str) -> None:
    with pytest.raises(AzureError) as refused:
        plan(definition(**signal), SIX)
    assert (refused.value.status, said in refused.value.message) == (400, True), refused.value.message
    with pytest.raises(AzureError, match="runtimeVersion must be one of"):
        plan({"computeConfiguration": {**COMPUTE, "runtimeVersion": "2.4"}, "signals": {"one": DRIFT}}, SIX)


# -- the computation, in the compute environment ----------------------------------------------------------------------


def computed(compute: Any, folder: Path, *signals: dict[str, Any]) -> tuple[list[Any], dict[str, Any], str]:
    """Events, the signals' files, and what was printed."""
    told = {"name": "j", "root": "j", "monitor": "m", "time": SIX.isoformat(), "signals": list(signals),
            "results": str(folder / "out"), "events": str(folder / "events.jsonl")}  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(told))
    ended = compute.run("-m", "localazure_compute.monitoring", folder / "plan.json")
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    files = {file.stem: json.loads(file.read_text()) for file in (folder / "out" / "signals").iterdir()}
    return events, files, ended.stdout + ended.stderr


def sides(folder: Path, reference: list[dict[str, Any]], production: list[dict[str, Any]]) -> dict[str, Any]:
    """A plan over reference data in a CSV file and production data as collected a day before the window's end."""
    columns = list(reference[0])
    (folder / "r").mkdir()
    lines = [",".join("" if row[name] is None else str(row[name]) for name in columns) for row in reference]
    (folder / "r" / "rows.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    hour = folder / "p" / "model_inputs" / "2027" / "03" / "06" / "10"
    hour.mkdir(parents=True)
    event = {"time": "2027-03-06T10:00:00Z", "correlationid": "c", "data": production}
    late = {**event, "time": "2027-03-06T09:59:59Z", "data": [{"other": 1}]}
    (hour / "i.jsonl").write_text(json.dumps(event) + "\n" + json.dumps(late) + "\n{cut off")
    (signal,) = plan(definition(), SIX)
    signal["reference"]["path"], signal["production"]["path"] = str(folder / "r"), str(folder / "p")
    signal["production"] |= {"from": "2027-03-06T10:00:00+00:00"}
    return {**signal, "child": "j_0"}


def test_drift_and_rates_are_the_formulas_of_azure_mls_components(compute: Any, tmp_path: Path) -> None:
    reference = [{"x": float(i % 10), "c": "ab"[i % 2], "k": i % 3, "n": None} for i in range(100)]
    production = [{"x": float(i % 10) + 2, "c": "abz"[i % 3], "k": i % 3, "n": None, "own": 1} for i in range(90)]
    production[0]["x"] = None
    signal = sides(tmp_path, reference, production)
    kinds = {kind: dict.fromkeys(names, 0.3) for kind, names in METRICS["DataDrift"].items()}
    rates = dict.fromkeys(("NullValueRate", "DataTypeErrorRate", "OutOfBoundsRate"), 0.3)
    quality = {**signal, "name": "q", "type": "DataQuality", "thresholds": {"Numerical": rates, "Categorical": rates}}
    events, files, said = computed(compute, tmp_path, {**signal, "thresholds": kinds}, quality)
    assert [event["error"] for event in events] == ["", ""]
    metrics = {(metric, column): entry["value"] for metric, entries in files["one"]["metrics"].items()
               for column, entry in entries["groups"].items()}  # fmt: skip
    deviation = math.sqrt(sum((i - 4.5) ** 2 for i in range(10)) * 10 / 99)
    # Every value moved up, so that the distance is that of the means; one of the values, a 2, is missing.
    assert metrics["NormalizedWassersteinDistance", "x"] == pytest.approx(((90 * 6.5 - 2) / 89 - 4.5) / deviation)
    # Half of the letters became thirds, one of them new: a row is added to each of the three.
    expected, actual = [51 / 100, 51 / 100, 1 / 100], [31 / 90] * 3
    psi = sum((b - a) * math.log(b / a) for a, b in zip(expected, actual, strict=True))
    assert metrics["PopulationStabilityIndex", "c"] == pytest.approx(psi)
    assert metrics["PearsonsChiSquaredTest", "c"] == 0.0  # a letter that the reference never had
    assert metrics["PearsonsChiSquaredTest", "k"] > 0.9  # whole numbers, few of them distinct: categories
    assert 0 < metrics["JensenShannonDistance", "c"] < 1
    assert metrics["TwoSampleKolmogorovSmirnovTest", "x"] < 0.05
    assert metrics["NormalizedWassersteinDistance", "n"] is None  # no value on either side
    rates_of = {(metric, column): entry["value"] for metric, entries in files["q"]["metrics"].items()
                for column, entry in entries["groups"].items()}  # fmt: skip
    assert rates_of["NullValueRate", "x"] == 0.01111
    assert rates_of["OutOfBoundsRate", "c"] == 0.33333
    assert rates_of["OutOfBoundsRate", "x"] == pytest.approx(18 / 90, abs=0.02)
    assert rates_of["NullValueRate", "n"] == 1.0
    assert ("NullValueRate", "own") not in rates_of
    assert "The signal 'q' has failed" in events[1]["warning"] and "OutOfBoundsRate" in events[1]["warning"]
    assert "a line is no collected event" in said


def test_one_signal_without_data_leaves_the_others_alone(compute: Any, tmp_path: Path) -> None:
    signal = sides(tmp_path, [{"x": 1.5}, {"x": 2.5}], [{"x": 1.5}, {"x": 2.5}])
    empty = {**signal, "name": "empty", "production": {**signal["production"], "until": "2027-03-06T10:00:00+00:00"}}
    unread = {**signal, "name": "unread", "error": "The input can't be read: no such folder"}
    limits = {"Regression": {"MeanAbsoluteError": 1}}
    performance = {**signal, "name": "performance", "type": "ModelPerformance", "thresholds": limits}
    events, files, _ = computed(compute, tmp_path, empty, unread, performance, signal)
    errors = [event["error"] for event in events]
    assert errors[0].startswith("No data was found in p from 2027-03-06T10:00:00+00:00 to 2027-03-06T10:00")
    assert errors[1:] == ["The input can't be read: no such folder", "data_column_names of p needs 'prediction'", ""]
    assert files["one"]["metrics"]["NormalizedWassersteinDistance"]["groups"]["x"]["value"] == 0.0
    assert sorted(files) == ["one"]
