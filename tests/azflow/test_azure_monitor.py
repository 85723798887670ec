"""Azure ML's own monitor from a model's `watch`: what it says, when it is written, and what can't be said."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

from azflow.azure_monitor import CONTENT_TAG, MonitorScheduleOperator, definition
from azflow.errors import SpecError
from azflow.specs import INCLUDE, ModelSpec
from azure_edge import Edge, edge
from workspace_edge import WORKSPACE, context_of

__all__ = ["edge"]

SPEC = ModelSpec.load(INCLUDE / "models/flight_delay/model.yml")
IDS = {name: f"/data/flight-delay-v3-{name}/versions/1" for name in ("model_inputs", "model_outputs")}
DEPLOYMENT = f"{WORKSPACE.removeprefix('https://management.azure.com')}/onlineEndpoints/flight-delay/deployments/v3"


def shipped() -> dict[str, Any]:
    assert SPEC.watch is not None
    return definition(
        SPEC.watch.signals,
        kinds=["data_drift", "data_quality", "prediction_drift"],
        features=["carrier", "distance"],
        days=7,
        collections=IDS,
        training={"id": "/data/flight_delay_train/versions/n1", "type": "mltable"},
        compute={"runtime_version": "3.4", "instance_type": "standard_e4s_v3"},
        emails=["team@example.com"],
        target=DEPLOYMENT,
        task="classification",
    )


def test_the_monitors_thresholds_are_the_specs() -> None:
    assert SPEC.watch is not None
    monitor = shipped()["signals"]
    captured = {signal.type: signal for signal in SPEC.watch.signals if signal.data == "captured"}
    assert set(monitor) == set(captured) == {"data_drift", "prediction_drift", "data_quality"}
    for name, signal in captured.items():
        said = {
            (each["dataType"], each["metric"]): each["threshold"]["value"] for each in monitor[name]["metricThresholds"]
        }
        kinds = {
            "Numerical": {**signal.numerical, **signal.thresholds},
            "Categorical": {**signal.categorical, **signal.thresholds},
        }
        camel = {metric: metric.split("_")[0] + metric.title().replace("_", "")[len(metric.split("_")[0]) :]
                 for metrics in kinds.values() for metric in metrics}  # fmt: skip
        assert said == {
            (kind, camel[metric]): limit for kind, metrics in kinds.items() for metric, limit in metrics.items()
        }


def test_the_monitor_is_what_microsofts_sdk_reads() -> None:
    """Read by the SDK and written again, nothing is lost."""
    pytest.importorskip("azure.ai.ml")
    from azure.ai.ml._restclient.arm_ml_service.models import MonitorDefinition as Rest
    from azure.ai.ml.entities import MonitorDefinition

    rendered = shipped()
    read = MonitorDefinition._from_rest_object(Rest(json.loads(json.dumps(rendered))))
    drift = read.monitoring_signals["data_drift"]
    assert drift.metric_thresholds.numerical.normalized_wasserstein_distance == 0.3
    assert drift.metric_thresholds.categorical.jensen_shannon_distance == 0.15
    assert drift.production_data.data_window.lookback_window_size == "P7D"
    answers = read.monitoring_signals["prediction_drift"].reference_data
    assert (answers.data_window.lookback_window_size, answers.data_window.lookback_window_offset) == ("P14D", "P7D")
    again = read._to_rest_object(default_data_window_size="P1D", ref_data_window_size="P2D").as_dict()
    for name, signal in rendered["signals"].items():
        assert {key: again["signals"][name][key] for key in signal} == signal
    assert again["alertNotificationSetting"] == rendered["alertNotificationSetting"]


def monitored(
    edge: Edge, known: dict[str, Any] | None = None, collected: Any = IDS
) -> tuple[dict[str, Any], list[Any]]:
    """What the operator answers, and what it wrote."""
    assert SPEC.watch is not None
    collections = {name: {"dataCollectionMode": "Enabled", "dataId": id} for name, id in collected.items()}
    resource = {"name": "v3", "id": DEPLOYMENT, "properties": {"dataCollector": {"collections": collections}}}
    edge.on("GET", "/deployments/v3$", (200, resource))
    asset = {"id": "/data/flight_delay_train/versions/n1", "properties": {"dataType": "mltable"}}
    edge.on("GET", "/data/flight_delay_train/versions/n1$", (200, asset))
    edge.on("GET", "/schedules/flight-delay-monitor$", (404, {}) if known is None else (200, {"properties": known}))
    edge.on("PUT", "/schedules/flight-delay-monitor$", lambda _, body: (201, {"properties": {
        **body["properties"], "provisioningState": "Succeeded"}}))  # fmt: skip
    operator = MonitorScheduleOperator(
        task_id="azure_monitor",
        model="flight_delay",
        watched=SPEC.watch.signals_json(),
        signals=["data_drift", "prediction_drift"],
        endpoint_name="flight-delay",
        schedule="0 6 * * *",
    )
    xcom = {
        "champion": {"name": "flight_delay", "version": "3", "path": "azureml:flight_delay:3", "deployment": "v3"},
        "baseline": {"data": "azureml:flight_delay_train:n1"},
    }
    answer = operator.execute(context_of(operator, xcom))
    return answer, [body["properties"] for method, _, body in edge.asked if method == "PUT"]


def test_it_is_created_and_written_again_only_when_it_differs(edge: Edge) -> None:
    answer, (written,) = monitored(edge)
    assert (answer["name"], answer["changed"], answer["enabled"]) == ("flight-delay-monitor", True, True)
    assert written["trigger"] == {"triggerType": "Cron", "expression": "0 6 * * *", "timeZone": "UTC"}
    target = written["action"]["monitorDefinition"]["monitoringTarget"]
    assert target == {"taskType": "classification", "deploymentId": DEPLOYMENT}
    assert written["tags"]["model_version"] == "3"
    edge.asked.clear()
    answer, nothing = monitored(edge, written)
    assert (answer["changed"], nothing) == (False, [])
    # Another champion: brought up to date; who disabled it keeps it disabled, and somebody's tag stays.
    older = {**written, "isEnabled": False, "tags": {**written["tags"], CONTENT_TAG: "older", "cost": "7"}}
    answer, (again,) = monitored(edge, older)
    assert (answer["changed"], answer["enabled"], again["isEnabled"]) == (True, False, False)
    assert (again["tags"]["cost"], again["tags"][CONTENT_TAG]) == ("7", written["tags"][CONTENT_TAG])


def test_a_deployment_that_collects_nothing_is_named(edge: Edge) -> None:
    with pytest.raises(AirflowFailException, match="flight-delay/v3 doesn't collect model_outputs into a data asset"):
        monitored(edge, collected={"model_inputs": IDS["model_inputs"]})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule": "0 6 1 * *"}, "know neither days nor months"),
        ({"signals": [{"type": "data_quality", "thresholds": {"null_value_rate": 0.1}}]}, "no data_drift or data_q"),
        (
            {"signals": [{"type": "data_drift", "data": "captured", "numerical": {
                "normalized_wasserstein_distance": 0.1, "population_stability_index": 0.1}}]},
            "one numerical metric a signal of data_drift",
        ),
    ],
)  # fmt: skip
def test_what_azure_ml_cannot_say_is_an_error_of_the_spec(tmp_path: Any, changes: dict[str, Any], said: str) -> None:
    content = yaml.safe_load((INCLUDE / "models/flight_delay/model.yml").read_text())
    content["watch"] |= {"azure_monitor": {}} | changes
    path = tmp_path / "flight_delay" / "model.yml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(SpecError, match=said):
        ModelSpec.load(path, INCLUDE)
