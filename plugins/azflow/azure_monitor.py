"""Azure ML's own monitor of an endpoint, from the same `watch` as azflow's: a schedule that compares what the
champion's deployment collected with what the champion was trained on.

https://learn.microsoft.com/azure/machine-learning/how-to-monitor-model-performance; the wire is what azure-ai-ml's
``MonitorSchedule`` writes. What it can't say as azflow does: limits of data quality are rates, not how much a rate may
rise; there is no noise and no least number of rows; an alert is an e-mail.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import ConfigurationError, ServiceUnavailable
from azflow.ml_workspace import Workspace
from azflow.online_endpoint import OnlineEndpoint
from azflow.watch_parts import Signal

if TYPE_CHECKING:
    from airflow.sdk import Context

#: The last one whose monitors azure-ai-ml writes.
API_VERSION = "2023-06-01-preview"
#: Tag of a schedule: digest of what azflow wanted it to be.
CONTENT_TAG = "azflow.content"
_COLLECTIONS = {"data_drift": "model_inputs", "data_quality": "model_inputs", "prediction_drift": "model_outputs"}
_KINDS = {"data_drift": "DataDrift", "data_quality": "DataQuality", "prediction_drift": "PredictionDrift"}
_WAIT_SECONDS = 300.0
_POLL_SECONDS = 2.0


def definition(
    signals: Sequence[Signal],
    *,
    kinds: Sequence[str],
    features: Sequence[str] = (),
    days: int,
    collections: Mapping[str, str],
    training: Mapping[str, str],
    compute: Mapping[str, str],
    emails: Sequence[str],
    target: str,
    task: str,
) -> dict[str, Any]:
    """The ``monitorDefinition``. Pure.

    :param signals: those of `kinds` about captured requests become signals of the monitor.
    :param features: the columns where a signal names none.
    :param collections: collection -> ARM id of its data asset.
    :param training: ``{"id", "type"}`` of the champion's training data asset.
    :param compute: ``{"runtime_version", "instance_type"}`` of serverless Spark.
    :param target: ARM id of the champion's deployment.
    """
    found: dict[str, Any] = {}
    for signal in signals:
        if signal.data != "captured" or signal.type not in kinds:
            continue
        name = signal.type if signal.type not in found else f"{signal.type}_{len(found)}"
        collection = _COLLECTIONS[signal.type]
        columns = signal.features or features
        found[name] = _signal(signal, columns, _window(collections[collection], collection, days, 0), training, days)
    alert = {
        "alertNotificationType": "Email",
        "emailNotificationSetting": {"emails": list(emails), "emailOn": ["JobFailed", "JobCompleted"]},
    }
    return {
        "computeConfiguration": {
            "computeType": "ServerlessSpark",
            "runtimeVersion": compute["runtime_version"],
            "instanceType": compute["instance_type"],
            "computeIdentity": {"computeIdentityType": "AmlToken"},
        },
        "monitoringTarget": {"taskType": task, "deploymentId": target},
        "signals": found,
        **({"alertNotificationSetting": alert} if emails else {}),
    }


def _signal(
    signal: Signal, columns: Sequence[str], production: dict[str, Any], training: Mapping[str, str], days: int
) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if signal.type == "prediction_drift":
        # Training data holds no predictions: the reference is what was answered in the time before.
        reference = _window(production["uri"], production["dataContext"], 2 * days, days)
        more = {"modelType": "classification"}
    else:
        reference = {
            "inputDataType": "Fixed",
            "dataContext": "training",
            "jobInputType": training["type"],
            "uri": training["id"],
        }
        subset = {"filterType": "FeatureSubset", "features": list(columns)}
        more = {"features": subset if columns else {"filterType": "AllFeatures"}}
    return {
        "signalType": _KINDS[signal.type],
        "mode": "Disabled" if "*" in signal.warn_only else "Enabled",
        "productionData": production,
        "referenceData": reference,
        "metricThresholds": list(_thresholds(signal)),
        **more,
    }


def _window(uri: str, context: str, days: int, before: int) -> dict[str, Any]:
    return {
        "inputDataType": "Trailing",
        "dataContext": context,
        "jobInputType": "uri_folder",
        "uri": uri,
        "windowSize": f"P{days}D",
        "windowOffset": f"P{before}D",
    }


def _thresholds(signal: Signal) -> Iterator[dict[str, Any]]:
    """Of drift a metric a kind; of quality each rate for both kinds."""
    limits = (
        [("Numerical", signal.thresholds), ("Categorical", signal.thresholds)]
        if signal.type == "data_quality"
        else [("Numerical", signal.numerical), ("Categorical", signal.categorical)]
    )
    for kind, metrics in limits:
        for metric, limit in metrics.items():
            yield {"dataType": kind, "metric": _camel(metric), "threshold": {"value": limit}}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


class MonitorScheduleOperator(AzflowOperator):
    """Creates Azure ML's own monitor of the champion's deployment, or brings it up to date.

    The schedule ``<model>-monitor`` follows the champion: its production data are the collections of the deployment
    that serves, its reference data what that version was trained on. One that is as it should be isn't written; one
    that somebody disabled is updated and stays disabled.

    XCom: ``{"name", "changed", "enabled", "deployment", "signals": [name]}``.

    :param watched: `azflow.watch_parts.Signal` as JSON (`Watch.signals_json`).
    :param signals: types of those that the monitor has.
    :param features: the columns where a signal names none; default: all, what identifies a row among them.
    :param endpoint_name: the online endpoint.
    :param schedule: cron; days and months must be ``*``, as Azure ML wants them.
    :param time_zone: of the schedule, a Windows name.
    :param days: of the production data's window.
    :param emails: who is told of a run.
    :param task: what the model does, of Azure ML's words.
    :param champion: task id of the `ChampionOperator`.
    :param baseline: task id of the `TrainingDataOperator`.
    """

    template_fields = ("endpoint_name", "champion", "baseline")
    ui_color = "#fdf3d6"

    def __init__(
        self,
        *,
        watched: str,
        endpoint_name: str,
        signals: Sequence[str] = ("data_drift", "data_quality"),
        features: Sequence[str] = (),
        schedule: str,
        time_zone: str = "UTC",
        days: int = 7,
        emails: Sequence[str] = (),
        runtime_version: str = "3.4",
        instance_type: str = "standard_e4s_v3",
        task: str = "classification",
        champion: str = "champion",
        baseline: str = "baseline",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.watched = watched
        self.signals = list(signals)
        self.features = list(features)
        self.endpoint_name = endpoint_name
        self.schedule = schedule
        self.time_zone = time_zone
        self.days = days
        self.emails = list(emails)
        self.runtime_version = runtime_version
        self.instance_type = instance_type
        self.task = task
        self.champion = champion
        self.baseline = baseline

    def execute(self, context: Context) -> dict[str, Any]:
        """Look, compare, write."""
        with airflow_edge(self.conn_id):
            found, data = (context["ti"].xcom_pull(task_ids=each) for each in (self.champion, self.baseline))
            if not isinstance(found, Mapping) or not found.get("deployment"):
                raise ConfigurationError(f"The task {self.champion} left no deployment; ship a model first.")
            if not isinstance(data, Mapping) or not data.get("data"):
                raise ConfigurationError(f"The task {self.baseline} left no training data; clear it.")
            connection = AzureConnection.load(self.conn_id)
            with contextlib.closing(Workspace(connection)) as workspace:
                wanted = self._wanted(connection, workspace, str(found["deployment"]), str(data["data"]))
                name = f"{(self.model or context['dag'].dag_id).replace('_', '-')}-monitor"
                changed, enabled = self._write(workspace, name, wanted, {"model_version": str(found["version"])})
        signals = list(wanted["action"]["monitorDefinition"]["signals"])
        how = "is" if not changed else "is now"
        off = "" if enabled else ", disabled by somebody,"
        self.log.info("The monitor %s%s %s about %s: %s", name, off, how, found["deployment"], ", ".join(signals))
        return {
            "name": name,
            "changed": changed,
            "enabled": enabled,
            "deployment": found["deployment"],
            "signals": signals,
        }

    def _wanted(
        self, connection: AzureConnection, workspace: Workspace, deployment: str, training: str
    ) -> dict[str, Any]:
        with contextlib.closing(OnlineEndpoint(connection, self.endpoint_name)) as endpoint:
            resource = endpoint.deployment(deployment)
        if resource is None:
            raise ConfigurationError(f"The endpoint {self.endpoint_name} has no deployment {deployment!r}.")
        collections = (resource["properties"].get("dataCollector") or {}).get("collections") or {}
        assets = {name: str(each.get("dataId") or "") for name, each in collections.items()}
        watched = [Signal.model_validate(each) for each in json.loads(self.watched)]
        signals = [each for each in watched if each.data == "captured" and each.type in self.signals]
        for name in {_COLLECTIONS[each.type] for each in signals}:
            if not assets.get(name):
                raise ConfigurationError(
                    f"Deployment {self.endpoint_name}/{deployment} doesn't collect {name} into a data asset: give its "
                    "deployment.yml a data_collector with that collection."
                )
        name, _, version = training.removeprefix("azureml:").rpartition(":")
        asset = workspace.version("data", name, version)
        if asset is None:
            raise ConfigurationError(f"There is no data asset {name}, version {version}; was it archived or deleted?")
        monitor = definition(
            signals,
            kinds=self.signals,
            features=self.features,
            days=self.days,
            collections=assets,
            training={"id": asset["id"], "type": asset["properties"]["dataType"]},
            compute={"runtime_version": self.runtime_version, "instance_type": self.instance_type},
            emails=self.emails,
            target=str(resource["id"]),
            task=self.task,
        )
        return {
            "action": {"actionType": "CreateMonitor", "monitorDefinition": monitor},
            "trigger": {"triggerType": "Cron", "expression": self.schedule, "timeZone": self.time_zone},
        }

    def _write(
        self, workspace: Workspace, name: str, wanted: Mapping[str, Any], tags: Mapping[str, str]
    ) -> tuple[bool, bool]:
        """Whether anything was written, and whether the schedule is enabled."""
        url = f"{workspace.connection.ml_workspace_url}/schedules/{quote(name)}?api-version={API_VERSION}"
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]
        known = (workspace.get(url) or {}).get("properties") or {}
        enabled = bool(known.get("isEnabled", True))
        if (known.get("tags") or {}).get(CONTENT_TAG) == digest:
            return False, enabled
        written = {**(known.get("tags") or {}), "model": self.model, **tags, CONTENT_TAG: digest}
        content = {
            "displayName": f"{self.model}: what {self.endpoint_name} was asked and answered",
            "description": "Written by azflow from watch in the model's model.yml; changes are overwritten.",
            "isEnabled": enabled,
            "tags": written,
            **wanted,
        }
        answer = workspace.call("PUT", url, {"properties": content})
        deadline = time.monotonic() + _WAIT_SECONDS
        while (state := str(answer.get("properties", {}).get("provisioningState"))) != "Succeeded":
            if state in ("Failed", "Canceled"):
                raise ConfigurationError(f"Azure ML didn't take the schedule {name}: it is {state}.")
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"The schedule {name} is {state} after {_WAIT_SECONDS:.0f} s.")
            time.sleep(_POLL_SECONDS)
            answer = workspace.get(url) or {}
        return True, enabled
