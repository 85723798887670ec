"""Computes a monitor's signals: `python -m localazure_compute.monitoring <plan.json>`.

Writes `signals/<signal>.json` below the plan's `results`, the metrics to the job's run and to a nested run for each
signal, and one line of JSON a signal to `events`. Ends with 0 whatever the metrics say; a signal that can't be computed
is an event with an error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from localazure_compute.monitoring import data, drift, performance, quality, results
from localazure_compute.monitoring.results import Metric
from localazure_compute.tracking_server import RUN_ID_TAG


def compute(signal: Mapping[str, Any]) -> list[Metric]:
    """A signal's metrics. Raises NoData, TooManyRows."""
    if error := signal.get("error"):
        raise data.NoData(error)
    production, reference = (data.table(signal[side]) for side in ("production", "reference"))
    print(f"{signal['name']}: {len(production)} rows of production data, {len(reference)} of reference data")
    thresholds = signal["thresholds"]
    if signal["type"] == "ModelPerformance":
        rows = performance.joined(production, reference, signal)
        limits = {name: limit for kind in thresholds.values() for name, limit in kind.items()}
        return [Metric("", name, performance.measure(name, rows), limit) for name, limit in limits.items()]
    found = []
    for name in data.common(production, reference, _wanted(signal), typed=signal["type"] != "DataQuality"):
        first, second = reference[name], production[name]
        categorical = data.is_categorical(first, signal["types"].get(name))
        for metric, limit in thresholds.get("Categorical" if categorical else "Numerical", {}).items():
            if signal["type"] == "DataQuality":
                value: float | None = quality.rate(metric, first, second)
            else:
                value = drift.measure(metric, first, second, categorical=categorical)
            found.append(Metric(name, metric, value, limit))
    return found


def _wanted(signal: Mapping[str, Any]) -> list[str] | None:
    """The features asked for; of a prediction drift the prediction, where data_column_names says which it is."""
    if signal["type"] != "PredictionDrift":
        found: list[str] | None = signal["features"]
        return found
    columns = {**signal["reference"]["columns"], **signal["production"]["columns"]}
    names = [columns[key] for key in ("prediction", "prediction_column") if columns.get(key)]
    return names[:1] or None


class Runs:
    """The job's run, and one below it for each signal. Without MLFLOW_TRACKING_URI nothing is logged."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._plan = plan
        self._step = int(datetime.fromisoformat(plan["time"]).timestamp())
        self._client: Any = None
        if os.environ.get("MLFLOW_TRACKING_URI"):
            from mlflow import MlflowClient

            self._client = MlflowClient()

    def log(self, signal: Mapping[str, Any], metrics: list[Metric], warning: str, error: str) -> None:
        """A signal's metrics: `<metric>` of the whole, `<metric>/<column>` of a column; the step is the run's time."""
        if self._client is None:
            return
        from mlflow.entities import Metric as Logged
        from mlflow.entities import RunTag

        now = int(time.time() * 1000)
        tags = {
            RUN_ID_TAG: signal["child"],
            "mlflow.parentRunId": self._plan["name"],
            "mlflow.rootRunId": self._plan["root"],
            "mlflow.user": "localazure",
            "azureml.monitor_name": self._plan["monitor"],
            "azureml.signal_name": signal["name"],
        } | ({"azureml_modelmonitor_threshold_breached": warning} if warning else {})
        experiment = self._client.get_run(self._plan["name"]).info.experiment_id
        self._client.create_run(experiment, start_time=now, tags=tags, run_name=signal["name"])
        named = [("/".join(filter(None, (each.metric_name, each.group))), each) for each in metrics]
        for run, prefix in ((signal["child"], ""), (self._plan["name"], f"{signal['name']}/")):
            values = [
                Logged(f"{prefix}{name}", each.metric_value, now, self._step)
                for name, each in named
                if each.metric_value is not None
            ]
            said = [RunTag("azureml_modelmonitor_threshold_breached", warning)] if warning and prefix else []
            for start in range(0, len(values), _BATCH):
                self._client.log_batch(run, metrics=values[start : start + _BATCH])
            self._client.log_batch(run, tags=said)
        self._client.set_terminated(signal["child"], "FAILED" if error else "FINISHED", now)


_BATCH = 1000  # of MLflow's log-batch


def main(path: str) -> None:
    plan = json.loads(Path(path).read_text())
    folder = Path(plan["results"]) / "signals"
    folder.mkdir(parents=True, exist_ok=True)
    runs = Runs(plan)
    with Path(plan["events"]).open("a") as events:
        for signal in plan["signals"]:
            start, metrics, error = time.time(), [], ""
            try:
                metrics = compute(signal)
            except (data.NoData, drift.TooManyRows) as problem:
                error = str(problem)
            warning = results.warning(signal["name"], metrics)
            if not error:
                content = results.document(signal["name"], signal["type"], metrics)
                (folder / f"{signal['name']}.json").write_text(json.dumps(content, indent=4))
            print(error or warning or f"{signal['name']}: {len(metrics)} metrics, all within their thresholds")
            runs.log(signal, metrics, warning if signal["alert"] else "", error)
            event = {
                "name": signal["name"],
                "metrics": len(metrics),
                "warning": warning,
                "error": error,
                "start": start,
                "end": time.time(),
            }
            events.write(json.dumps(event) + "\n")
            events.flush()


if __name__ == "__main__":
    main(sys.argv[1])
