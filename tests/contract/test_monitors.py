"""Monitors through azure-ai-ml: on their trigger a job compares what a deployment collected with reference data."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from scipy import stats

pytest.importorskip("azure.ai.ml")
pytestmark = pytest.mark.evidence("sdk")

NOW = datetime(2031, 5, 10, 6, 0, tzinfo=UTC)
DEADLINE_SECONDS = 120
ONCE = uuid.uuid4().hex[:8]
ENDPOINT = f"modelDataCollector/watched-{ONCE}/v1"


def flights(random: np.random.Generator, rows: int, moved: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "carrier": random.choice(["AA", "UA", "B6"], rows, p=[0.5, 0.3, 0.2]),
            "distance": random.normal(1000 + moved, 200, rows).round(3),
            "seats": random.choice([50, 180, 300], rows),
        }
    )


@pytest.fixture(scope="module")
def client(localazure: Any) -> Any:
    return localazure.ml_client()


@pytest.fixture(autouse=True)
def clock(localazure: Any) -> Iterator[None]:
    localazure.run("clock", "--set", NOW.isoformat())
    yield
    localazure.run("clock", "--reset")


@pytest.fixture(scope="module")
def world(localazure: Any, client: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Collected requests and answers of a deployment, training data, outcomes; each registered as a user would."""
    from azure.ai.ml.entities import Data
    from azure.storage.blob import BlobServiceClient

    random = np.random.default_rng(11)
    folder = tmp_path_factory.mktemp("reference")
    training, asked = flights(random, 2_000), flights(random, 600, moved=150)
    asked.loc[:59, "carrier"] = "ZZ"  # a tenth of the rows is of a carrier that training doesn't have
    asked.loc[:29, "distance"] = None
    answered = pd.DataFrame({"probability": random.random(600), "late": random.random(600) < 0.4})
    with BlobServiceClient(
        localazure["storage_account_url"],
        credential=localazure.credential(),
        connection_verify=localazure["ca_bundle"],
    ) as service:
        container = service.get_container_client("azureml")
        for collection, rows in (("model_inputs", asked), ("model_outputs", answered)):
            for hour, part, when in (
                ("09/23", rows[:400], "2031-05-09T23:10:00Z"),
                ("04/00", rows[400:], "2031-05-04T00:30:00Z"),
                ("02/23", rows, "2031-05-02T23:59:59Z"),  # before the window
                ("10/07", rows, "2031-05-10T07:00:00Z"),  # after it
            ):
                data = json.loads(part.to_json(orient="records"))
                event = {"time": when, "correlationid": f"asked-{hour}", "data": data}
                container.upload_blob(f"{ENDPOINT}/{collection}/2031/05/{hour}/i.jsonl", json.dumps(event) + "\n")
    truth = [
        {"id": f"asked-{hour}_{at}", "late": bool(said)}
        for hour, part in (("09/23", answered[:400]), ("04/00", answered[400:]))
        for at, said in enumerate(part["late"])
    ]
    for row in truth[:60]:
        row["late"] = not row["late"]
    for name, rows in (("training", training), ("outcomes", pd.DataFrame(truth[:300]))):
        (folder / name).mkdir()
        rows.to_parquet(folder / name / "part.parquet", index=False)
        table = {"type": "mltable", "paths": [{"pattern": "./*.parquet"}], "transformations": ["read_parquet"]}
        (folder / name / "MLTable").write_text(json.dumps(table))
        client.data.create_or_update(
            Data(name=f"watched_{ONCE}_{name}", version="1", type="mltable", path=str(folder / name))
        )
    for collection in ("model_inputs", "model_outputs"):
        path = f"azureml://datastores/workspaceblobstore/paths/{ENDPOINT}/{collection}"
        client.data.create_or_update(
            Data(name=f"watched-{ONCE}-v1-{collection}", version="1", type="uri_folder", path=path)
        )
    return {"training": training, "asked": asked, "answered": answered}


def monitor(signals: dict[str, Any], **more: Any) -> Any:
    from azure.ai.ml.entities import (
        AlertNotification,
        CronTrigger,
        MonitorDefinition,
        MonitorSchedule,
        ServerlessSparkCompute,
    )

    definition = MonitorDefinition(
        compute=ServerlessSparkCompute(runtime_version="3.4", instance_type="standard_e4s_v3"),
        monitoring_signals=signals,
        alert_notification=AlertNotification(emails=["team@example.com"]),
    )
    trigger = CronTrigger(expression="0 6 * * *", time_zone="UTC")
    name = f"watch-{uuid.uuid4().hex[:8]}"
    return MonitorSchedule(name=name, trigger=trigger, create_monitor=definition, tags={"model": "watched"}, **more)


def production(collection: str, **more: Any) -> Any:
    from azure.ai.ml import Input
    from azure.ai.ml.entities import BaselineDataRange, ProductionData

    return ProductionData(
        input_data=Input(type="uri_folder", path=f"azureml:watched-{ONCE}-v1-{collection}:1"),
        data_context=collection,
        data_window=BaselineDataRange(lookback_window_size="P7D", lookback_window_offset="P0D"),
        **more,
    )


def reference(name: str = "training", context: str = "training", **more: Any) -> Any:
    from azure.ai.ml import Input
    from azure.ai.ml.entities import ReferenceData

    return ReferenceData(
        input_data=Input(type="mltable", path=f"azureml:watched_{ONCE}_{name}:1"), data_context=context, **more
    )


def ended(client: Any, name: str) -> Any:
    end = time.monotonic() + DEADLINE_SECONDS
    while (job := client.jobs.get(name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < end, job.status
        time.sleep(0.3)
    return job


def logged(client: Any, localazure: Any, run: str) -> dict[str, float]:
    """The metrics of a run, by MLflow's REST interface."""
    uri = client.workspaces.get(client.workspace_name).mlflow_tracking_uri.replace("azureml://", "https://")
    token = localazure.credential().get_token("https://ml.azure.com/.default").token
    answer = requests.get(
        f"{uri}/api/2.0/mlflow/runs/get",
        params={"run_id": run},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    answer.raise_for_status()
    return {metric["key"]: metric["value"] for metric in answer.json()["run"]["data"]["metrics"]}


def remove(client: Any, name: str) -> None:
    client.schedules.begin_disable(name).result()
    client.schedules.begin_delete(name).wait()


def test_a_monitor_computes_what_azure_ml_documents(
    client: Any, localazure: Any, world: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    from azure.ai.ml.entities import (
        BaselineDataRange,
        CategoricalDriftMetrics,
        DataDriftMetricThreshold,
        DataDriftSignal,
        DataQualitySignal,
        ModelPerformanceClassificationThresholds,
        ModelPerformanceMetricThreshold,
        ModelPerformanceSignal,
        NumericalDriftMetrics,
        PredictionDriftMetricThreshold,
        PredictionDriftSignal,
        ReferenceData,
    )
    from azure.ai.ml.entities._monitoring.thresholds import (
        DataQualityMetricsCategorical,
        DataQualityMetricsNumerical,
        DataQualityMetricThreshold,
    )

    outputs = production("model_outputs")
    answers_before = ReferenceData(
        input_data=outputs.input_data,
        data_context="model_outputs",
        data_window=BaselineDataRange(lookback_window_size="P2D", lookback_window_offset="P7D"),
    )
    signals = {
        "drift": DataDriftSignal(
            production_data=production("model_inputs"),
            reference_data=reference(),
            features=["carrier", "distance"],
            metric_thresholds=DataDriftMetricThreshold(
                numerical=NumericalDriftMetrics(normalized_wasserstein_distance=0.3),
                categorical=CategoricalDriftMetrics(jensen_shannon_distance=0.9),
            ),
            alert_enabled=True,
        ),
        "answers": PredictionDriftSignal(
            production_data=production("model_outputs", data_column_names={"prediction_column": "probability"}),
            reference_data=answers_before,
            metric_thresholds=PredictionDriftMetricThreshold(
                numerical=NumericalDriftMetrics(two_sample_kolmogorov_smirnov_test=0.01)
            ),
        ),
        "quality": DataQualitySignal(
            production_data=production("model_inputs"),
            reference_data=reference(),
            metric_thresholds=DataQualityMetricThreshold(
                numerical=DataQualityMetricsNumerical(null_value_rate=0.01),
                categorical=DataQualityMetricsCategorical(out_of_bounds_rate=0.2),
            ),
        ),
        "accuracy": ModelPerformanceSignal(
            production_data=production("model_outputs", data_column_names={"prediction": "late"}),
            reference_data=reference(
                "outcomes", "actuals", data_column_names={"actual": "late", "correlation_id": "id"}
            ),
            metric_thresholds=ModelPerformanceMetricThreshold(
                classification=ModelPerformanceClassificationThresholds(accuracy=0.9, precision=0.1)
            ),
        ),
    }
    schedule = monitor(signals)
    made = client.schedules.begin_create_or_update(schedule).result()
    assert made.provisioning_state == "Succeeded"
    shown = client.schedules.get(schedule.name)
    assert (
        shown.create_monitor.monitoring_signals["drift"].metric_thresholds.numerical.normalized_wasserstein_distance
        == 0.3
    )
    assert schedule.name in [each.name for each in client.schedules.list()]

    # The window ends at the moment of the trigger, not at that of the computation.
    triggered = client.schedules.trigger(schedule.name, schedule_time=NOW.isoformat())
    job = ended(client, triggered.job_name)
    assert (job.status, job.type, job.display_name) == ("Completed", "pipeline", f"{schedule.name}-20310510T060000Z")
    assert job.tags["model"] == "watched"
    warned = job.properties["azureml_modelmonitor_threshold_breached"]
    assert "The signal 'drift' has failed" in warned and "distance" in warned and "quality" not in warned
    children = {child.display_name: child.status for child in client.jobs.list(parent_job_name=job.name)}
    assert children == dict.fromkeys(signals, "Completed")

    client.jobs.download(job.name, download_path=str(tmp_path), output_name="signal_output")
    written = {
        file.stem: json.loads(file.read_text())
        for file in (tmp_path / "named-outputs" / "signal_output" / "signals").iterdir()
    }
    assert (written["drift"]["signalType"], written["drift"]["version"]) == ("DataDrift", "1.0.0")
    training, asked = world["training"], world["asked"]
    moved = written["drift"]["metrics"]["NormalizedWassersteinDistance"]["groups"]
    assert list(moved) == ["distance"]
    distance = stats.wasserstein_distance(training["distance"], asked["distance"].dropna())
    assert moved["distance"] == {
        "value": pytest.approx(distance / training["distance"].std(ddof=1), rel=1e-6), "threshold": 0.3}  # fmt: skip
    assert moved["distance"]["value"] > 0.3
    assert list(written["drift"]["metrics"]["JensenShannonDistance"]["groups"]) == ["carrier"]
    test = written["answers"]["metrics"]["TwoSampleKolmogorovSmirnovTest"]["groups"]["probability"]
    assert test["value"] == 1.0  # of the days before, the same answers were collected
    rates = written["quality"]["metrics"]
    assert rates["NullValueRate"]["groups"]["distance"] == {"value": 0.05, "threshold": 0.01}
    assert rates["OutOfBoundsRate"]["groups"]["carrier"] == {"value": 0.1, "threshold": 0.2}
    # 60 of 300 turned out otherwise.
    assert written["accuracy"]["metrics"]["Accuracy"] == {"value": 0.8, "threshold": 0.9}

    metrics = logged(client, localazure, job.name)
    assert metrics["drift/NormalizedWassersteinDistance/distance"] == moved["distance"]["value"]
    assert metrics["accuracy/Accuracy"] == 0.8
    remove(client, schedule.name)


def test_azflows_monitor_is_accepted_read_by_the_sdk_and_runs(client: Any, localazure: Any, world: Any) -> None:
    from azflow.azure_monitor import API_VERSION, definition
    from azflow.watch_parts import Signal

    signals = [
        Signal(type="data_drift", data="captured", numerical={"normalized_wasserstein_distance": 0.4}),
        Signal(type="data_quality", data="captured", thresholds={"null_value_rate": 0.5}),
    ]
    ids = {name: client.data.get(f"watched-{ONCE}-v1-{name}", "1").id for name in ("model_inputs", "model_outputs")}
    monitor = definition(
        signals,
        kinds=["data_drift", "data_quality"],
        days=7,
        collections=ids,
        training={"id": client.data.get(f"watched_{ONCE}_training", "1").id, "type": "mltable"},
        compute={"runtime_version": "3.4", "instance_type": "standard_e4s_v3"},
        emails=[],
        target=ids["model_inputs"],
        task="classification",
    )
    name = f"azflow-{ONCE}"
    properties = {
        "action": {"actionType": "CreateMonitor", "monitorDefinition": monitor},
        "trigger": {"triggerType": "Cron", "expression": "0 6 * * *", "timeZone": "UTC"},
    }
    token = localazure.credential().get_token(f"{localazure['api_url']}/.default").token
    workspace = client.workspaces.get(client.workspace_name).id
    url = f"{localazure['api_url']}{workspace}/schedules/{name}?api-version={API_VERSION}"
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.put(url, json={"properties": properties}, headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text
    shown = client.schedules.get(name).create_monitor.monitoring_signals
    assert shown["data_drift"].metric_thresholds.numerical.normalized_wasserstein_distance == 0.4
    assert shown["data_quality"].metric_thresholds.categorical.null_value_rate == 0.5
    job = ended(client, client.schedules.trigger(name, schedule_time=NOW.isoformat()).job_name)
    assert job.status == "Completed"
    metrics = logged(client, localazure, job.name)
    assert metrics["data_drift/NormalizedWassersteinDistance/distance"] > 0.4
    assert metrics["data_quality/NullValueRate/distance"] == 0.05
    # The SDK would look for the deployment.
    requests.put(url, json={"properties": {**properties, "isEnabled": False}}, headers=headers, timeout=30)
    assert requests.delete(url, headers=headers, timeout=30).status_code == 200


def test_a_window_without_data_fails_its_signal_and_says_so(client: Any, world: Any) -> None:
    from azure.ai.ml.entities import DataDriftMetricThreshold, DataDriftSignal, NumericalDriftMetrics
    from azure.ai.ml.exceptions import JobException

    limits = DataDriftMetricThreshold(numerical=NumericalDriftMetrics(jensen_shannon_distance=0.1))
    schedule = monitor(
        {
            "drift": DataDriftSignal(
                production_data=production("model_inputs"), reference_data=reference(), metric_thresholds=limits
            )
        }
    )
    client.schedules.begin_create_or_update(schedule).result()
    triggered = client.schedules.trigger(schedule.name, schedule_time="2031-06-30T06:00:00+00:00")
    job = ended(client, triggered.job_name)
    assert job.status == "Failed"
    with pytest.raises(
        JobException, match=r"The signal 'drift' failed: No data was found in .* from 2031-06-23T06:00:00"
    ):
        client.jobs.stream(job.name)
    [child] = client.jobs.list(parent_job_name=job.name)
    assert child.status == "Failed"
    remove(client, schedule.name)


def test_signals_that_arent_computed_are_refused_by_name(client: Any, world: Any) -> None:
    from azure.ai.ml.entities import (
        DataDriftMetricThreshold,
        DataDriftSignal,
        FADProductionData,
        FeatureAttributionDriftMetricThreshold,
        FeatureAttributionDriftSignal,
        MonitorFeatureFilter,
        NumericalDriftMetrics,
    )
    from azure.core.exceptions import HttpResponseError

    data = production("model_inputs")
    attribution = FeatureAttributionDriftSignal(
        production_data=[
            FADProductionData(input_data=data.input_data, data_context="model_inputs", data_window=data.data_window)
        ],
        reference_data=reference(),
        metric_thresholds=FeatureAttributionDriftMetricThreshold(normalized_discounted_cumulative_gain=0.9),
    )
    limits = DataDriftMetricThreshold(numerical=NumericalDriftMetrics(jensen_shannon_distance=0.1))
    most_important = DataDriftSignal(
        production_data=data,
        reference_data=reference(),
        features=MonitorFeatureFilter(top_n_feature_importance=3),
        metric_thresholds=limits,
    )
    for signal, said in (
        (attribution, "a signal of type FeatureAttributionDrift"),
        (most_important, "features of type TopNByAttribution"),
    ):
        with pytest.raises(HttpResponseError, match=f"Schedules_CreateOrUpdate of a monitor with {said}"):
            client.schedules.begin_create_or_update(monitor({"one": signal})).result()
