"""Trials as nested MLflow runs, under the names of their child jobs: three requests a trial."""

from __future__ import annotations

import os
import time
from typing import Any

from localazure_compute.automl.search import Trial
from localazure_compute.tracking_server import RUN_ID_TAG

_MAX_PARAMETER = 500  # characters of a parameter's value


class Runs:
    """The runs of one AutoML job. Without MLFLOW_TRACKING_URI nothing is logged."""

    def __init__(self, parent: str, root: str) -> None:
        self._parent = parent
        self._root = root
        self._experiment = ""
        self._client: Any = None
        if os.environ.get("MLFLOW_TRACKING_URI"):
            from mlflow import MlflowClient

            self._client = MlflowClient()

    def trial(self, name: str, trial: Trial, more: dict[str, str] | None = None) -> None:
        """One ended trial, whole. `more` are tags."""
        if self._client is None:
            return
        from mlflow.entities import Metric, Param

        end = int(time.time() * 1000)
        tags = {
            RUN_ID_TAG: name,
            "mlflow.parentRunId": self._parent,
            "mlflow.rootRunId": self._root,
            "mlflow.user": "localazure",
            "run_algorithm": trial.algorithm,
            "run_preprocessor": trial.preprocessor,
            "iteration": str(trial.number),
            **(more or {}),
        }
        start = end - int(trial.seconds * 1000)
        if not self._experiment:
            self._experiment = self._client.get_run(self._parent).info.experiment_id
        self._client.create_run(self._experiment, start_time=start, tags=tags, run_name=name)
        values = [Metric(key, value, end, 0) for key, value in trial.metrics.items()]
        values.append(Metric("fit_time_seconds", trial.seconds, end, 0))
        parameters = [Param(key, str(value)[:_MAX_PARAMETER]) for key, value in trial.config.items()]
        parameters.append(Param("algorithm", trial.algorithm))
        self._client.log_batch(name, metrics=values, params=parameters)
        self._client.set_terminated(name, "FAILED" if trial.error else "FINISHED", end)

    def best(self, trial: Trial, child: str, facts: dict[str, str]) -> None:
        """The parent's metrics are the best trial's, as in the service."""
        if self._client is None:
            return
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        values = [Metric(key, value, now, 0) for key, value in trial.metrics.items()]
        parameters = [Param(key, value[:_MAX_PARAMETER]) for key, value in facts.items()]
        tags = [RunTag("automl_best_child_run_id", child), RunTag("run_algorithm", trial.algorithm)]
        self._client.log_batch(self._parent, metrics=values, params=parameters, tags=tags)
