"""Watching a model after it was shipped: what it was trained on, what has moved since, and whether to train it again.

The readings are made by an Azure ML job (include/ml/code/monitoring), so that they scale with its compute. Here is what
stands around it: the champion's own training data as the baseline, the page, and an alarm that starts a retraining,
once within its cool-down.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import ConfigurationError
from azflow.ml import lake_folder
from azflow.ml_workspace import Workspace
from azflow.monitoring_page import render, summary
from azflow.report import publish_page
from azflow.runs import RunLink
from azflow.specs import Night

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context


def drift_asset(model: str) -> Asset:
    """The asset that an alarm of a model's monitor emits; what retrains listens to it."""
    from airflow.sdk import Asset

    return Asset(name=f"azflow_drift_{model}", uri=f"azflow://models/{model}/drift", group="azflow")


class TrainingDataOperator(AzflowOperator):
    """Answers what a registered version was trained and judged on.

    XCom: ``{"name", "version", "path", "data", "train", "holdout"}``; the last two are the addresses of Parquet
    folders, from the data asset ``data`` that the version's lineage names (its tag) and that one's sister
    ``<model>_holdout``.

    :param champion: task id of the `ChampionOperator`.
    """

    template_fields = ("champion",)

    def __init__(self, *, champion: str = "champion", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.champion = champion

    def execute(self, context: Context) -> dict[str, str]:
        """Two look-ups in the workspace."""
        with airflow_edge(self.conn_id):
            found = context["ti"].xcom_pull(task_ids=self.champion)
            if not isinstance(found, Mapping) or not found.get("name"):
                raise ConfigurationError(f"The task {self.champion} left no champion; ship a model first.")
            name, version = str(found["name"]), str(found["version"])
            with contextlib.closing(Workspace(AzureConnection.load(self.conn_id))) as workspace:
                model = workspace.version("models", name, version) or {}
                data = str((model.get("properties", {}).get("tags") or {}).get("data", ""))
                parts = data.removeprefix("azureml:").rsplit(":", 1)
                if not data or len(parts) != 2:  # noqa: PLR2004 - name and version
                    raise ConfigurationError(
                        f"Model {name}, version {version}, has no tag 'data' that names its training data "
                        "(azureml:<name>:<version>): it wasn't registered by a night of azflow."
                    )
                train = _pointed_at(workspace, *parts)
                holdout = _pointed_at(workspace, f"{parts[0].removesuffix('_train')}_holdout", parts[1])
        self.log.info("Version %s of %s was trained on %s", version, name, data)
        about = {"name": name, "version": version, "path": str(found["path"]), "data": data}
        return {**about, "train": train, "holdout": holdout}


def _pointed_at(workspace: Workspace, name: str, version: str) -> str:
    """The folder behind a data asset: what an mltable's paths lead to, else its own address."""
    asset = workspace.version("data", name, version)
    if asset is None:
        raise ConfigurationError(f"There is no data asset {name}, version {version}; was it archived or deleted?")
    properties = asset["properties"]
    return str(next(iter(properties.get("referencedUris") or []), properties["dataUri"]))


class MonitoringOperator(AzflowOperator):
    """Reads what the monitoring job wrote, says it, and shows it.

    XCom: ``{"level", "rows", "model_version", "window", "counts", "findings", "unknown", "page"}``; level is ``alarm``,
    ``warn``, ``ok`` or ``undefined``, a finding ``{"level", "signal", "data", "feature", "metric", "value",
    "threshold", "says"}``; ``unknown`` are reasons why readings are undefined.

    :param monitor: task id of the job whose output ``readings`` is a folder with ``monitoring.json``.
    """

    template_fields = ("monitor",)
    operator_extra_links = (RunLink("Monitoring"),)
    ui_color = "#fdf3d6"

    def __init__(self, *, monitor: str = "monitor", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.monitor = monitor
        #: URL of the page, for the link.
        self.run_url = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Read, log, publish."""
        with airflow_edge(self.conn_id):
            job = context["ti"].xcom_pull(task_ids=self.monitor)
            uri = job.get("outputs", {}).get("readings") if isinstance(job, Mapping) else None
            if not uri:
                raise ConfigurationError(f"The task {self.monitor} left no output 'readings'; clear it.")
            connection = AzureConnection.load(self.conn_id)
            result = lake_folder(connection, uri).read_json("monitoring.json")
            night: Night = context["night"]  # type: ignore[typeddict-item]
            model = self.model or night.dag_id
            path = f"reports/{model}/{night.partition}/{night.key}/monitoring.html"
            self.run_url = publish_page(connection, path, render(result, model=model))
            found = {**summary(result), "page": self.run_url}
        counts = ", ".join(f"{count} {level}" for level, count in found["counts"].items())
        self.log.info("%s on %d rows: %s", found["level"], found["rows"], counts)
        for finding in found["findings"]:
            whose = " of captured requests" if finding["data"] == "captured" else ""
            self.log.warning("%-6s %s%s: %s", finding["level"], finding["signal"], whose, finding["says"])
        for reason in found["unknown"]:
            self.log.warning("undefined: %s", reason)
        self.log.info("Page: %s", self.run_url)
        return found


class DriftAlarmOperator(AzflowOperator):
    """Emits the model's drift asset if the monitor raised an alarm and none was emitted within the cool-down.

    Otherwise the task is skipped, and its log says why. What was emitted last is kept beside the readings
    (``monitoring/<model>/alarm.json``), so that a retry of the same run emits the same alarm and no other run does.

    XCom: ``{"emitted_for": partition, "findings"}``. The asset's event carries ``{"partition", "findings", "page"}``.

    :param verdict: task id of the `MonitoringOperator`.
    :param cool_down_days: days of data after an alarm in which no other is emitted.
    """

    template_fields = ("verdict",)
    ui_color = "#fbe3e1"

    def __init__(self, *, verdict: str = "verdict", cool_down_days: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verdict = verdict
        self.cool_down_days = cool_down_days
        self.add_outlets([drift_asset(self.model)])

    def execute(self, context: Context) -> dict[str, Any]:
        """Judge, remember, emit."""
        from airflow.sdk.exceptions import AirflowSkipException

        found = context["ti"].xcom_pull(task_ids=self.verdict) or {}
        night: Night = context["night"]  # type: ignore[typeddict-item]
        alarms = [finding for finding in found.get("findings", []) if finding["level"] == "alarm"]
        if not alarms:
            reason = f"No alarm ({found.get('level', 'no readings')}): nothing is retrained."
            self.log.info(reason)  # Airflow's own line about a skipped task doesn't say it
            raise AirflowSkipException(reason)
        with airflow_edge(self.conn_id):
            memory = AlarmMemory(AzureConnection.load(self.conn_id), self.model or night.dag_id)
            before = memory.read()
            if before and (reason := cooling(before, night.partition, night.key, self.cool_down_days)):
                self.log.info(reason)
                raise AirflowSkipException(reason)
            memory.write({"partition": str(night.partition), "run": night.key, "at": _now(), "alarms": len(alarms)})
        said = [str(alarm["says"]) for alarm in alarms]
        extra = {"partition": str(night.partition), "findings": said[:10], "page": found.get("page", "")}
        context["outlet_events"][drift_asset(self.model)].extra = extra
        self.log.warning("%d alarm(s): the drift asset of %s is emitted", len(alarms), self.model)
        return {"emitted_for": str(night.partition), "findings": said}


def cooling(before: Mapping[str, Any], partition: date, run: str, days: int) -> str:
    """Why an alarm for `partition` is not emitted after the one `before`; empty if it is.

    A run may emit its own alarm again: its first try may have been killed after it wrote it down.
    """
    if before.get("run") == run:
        return ""
    last = date.fromisoformat(str(before["partition"]))
    until = last + timedelta(days=days)
    if last <= partition < until:
        return f"An alarm was emitted for {last}; the next one not before {until} (watch.cool_down_days: {days})."
    return ""


class AlarmMemory:
    """What the last alarm of a model was, as a blob beside its readings."""

    def __init__(self, connection: AzureConnection, model: str) -> None:
        self._connection = connection
        self._path = f"monitoring/{model}/alarm.json"

    def read(self) -> dict[str, Any]:
        """Empty before the first."""
        from azure.core.exceptions import ResourceNotFoundError

        with self._connection.blob_service() as service:
            try:
                content = service.get_blob_client(self._connection.container, self._path).download_blob().readall()
            except ResourceNotFoundError:
                return {}
        try:
            found = json.loads(content)
        except ValueError:
            raise ConfigurationError(f"{self._connection.container}/{self._path} is no JSON; delete it.") from None
        return found if isinstance(found, dict) else {}

    def write(self, content: Mapping[str, Any]) -> None:
        """In place of the last."""
        with self._connection.blob_service() as service:
            blob = service.get_blob_client(self._connection.container, self._path)
            blob.upload_blob(json.dumps(content, indent=1), overwrite=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
