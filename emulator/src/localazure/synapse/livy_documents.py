"""The record of a batch or session of Livy, and how it is shown. Pure, but for the clock.

Shapes: SparkBatchJob and SparkSession in Azure/azure-rest-api-specs, specification/synapse/data-plane/
Microsoft.Synapse/preview/2019-11-01-preview/sparkJob.json, with the words of SparkJobDefinitions_Execute.json's
example. `detailed=false` is plain Livy (https://livy.apache.org/docs/latest/rest-api.html); Synapse adds the rest.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from localazure.synapse.livy_requests import LivyRequest

Document = dict[str, Any]

#: States that end a batch or a session. `success`: batches only; `error`: sessions that never came up.
ENDED = frozenset({"success", "dead", "killed", "error"})
_RESULTS = {"success": "Succeeded", "dead": "Failed", "error": "Failed", "killed": "Cancelled"}
_PLUGIN = {
    "not_started": ("Queued", None),
    "starting": ("Submission", "submissionStartedAt"),
    "running": ("Monitoring", "monitoringStartedAt"),
    "idle": ("Monitoring", "monitoringStartedAt"),
}
_LIVY_WORDS = {"not_started": "notStarted", "shutting_down": "shuttingDown"}
_PLAIN = ("id", "name", "appId", "appInfo", "state")
_DETAILS = (
    "workspaceName", "sparkPoolName", "submitterName", "submitterId", "artifactId", "jobType", "result", "livyInfo",
    "schedulerInfo", "pluginInfo", "errorInfo", "tags",
)  # fmt: skip
LOG_LINES = 10


def new(
    number: int,
    request: LivyRequest,
    *,
    job_type: Literal["SparkBatch", "SparkSession"],
    workspace: str,
    pool: str,
    submitter: str,
) -> Document:
    """A record in the state `not_started`."""
    at = now()
    return {
        "id": number,
        "name": request.name,
        "workspaceName": workspace,
        "sparkPoolName": pool,
        "submitterName": submitter,
        "submitterId": submitter,
        "artifactId": request.artifact_id or "Livy",
        "jobType": job_type,
        "result": "Uncertain",
        "state": "not_started",
        "appId": None,
        "appInfo": {"driverLogUrl": None, "sparkUiUrl": None},
        "tags": request.tags,
        "livyInfo": {"notStartedAt": at, "currentState": "not_started", "jobCreationRequest": request.wire},
        "schedulerInfo": {"submittedAt": at, "currentState": "Queued"},
        "pluginInfo": {"currentState": "Queued"},
        "errorInfo": [],
        "folder": None,
    }


def scheduled(document: Document) -> Document:
    """It has its place in the pool."""
    at = now()
    return document | {
        "schedulerInfo": document["schedulerInfo"] | {"scheduledAt": at, "currentState": "Scheduled"},
        "pluginInfo": {
            "preparationStartedAt": at,
            "resourceAcquisitionStartedAt": at,
            "currentState": "ResourceAcquisition",
        },
    }


def moved(document: Document, state: str) -> Document:
    """It is in another state, the ended ones not among them."""
    word, time = _PLUGIN.get(state, ("Monitoring", None))
    plugin = document["pluginInfo"] | {"currentState": word}
    if time is not None:
        plugin.setdefault(time, now())
    return document | {"state": state, "livyInfo": _livy(document, state), "pluginInfo": plugin}


def ended(document: Document, state: str, errors: list[Document] | None = None) -> Document:
    """It has ended in one of ENDED."""
    at = now()
    scheduler = document["schedulerInfo"] | {"endedAt": at, "currentState": "Ended"}
    if state == "killed":
        scheduler["cancellationRequestedAt"] = at
    return document | {
        "state": state,
        "result": _RESULTS[state],
        "livyInfo": _livy(document, state),
        "schedulerInfo": scheduler,
        "pluginInfo": document["pluginInfo"] | {"cleanupStartedAt": at, "currentState": "Ended"},
        "errorInfo": errors or [],
    }


def view(document: Mapping[str, Any], lines: list[str], *, is_detailed: bool) -> Document:
    """What a client is shown; `lines` are the log's last ones."""
    keys = (*_PLAIN, *_DETAILS) if is_detailed else (*_PLAIN, "tags")
    return {key: document[key] for key in keys} | {"log": lines}


def log_page(document: Mapping[str, Any], path: Path | None, first: int, count: int) -> Document:
    """A stretch of the log as Livy's `/log` answers; `first` -1: the last lines."""
    total, lines = 0, []
    if path is not None and path.is_file():
        with path.open(errors="replace") as file:
            total = sum(1 for _ in file)
        start = max(0, total - count) if first < 0 else first
        with path.open(errors="replace") as file:
            lines = [line.rstrip("\n") for line in itertools.islice(file, start, start + count)]
        first = start
    return {"id": document["id"], "from": max(0, first), "total": total, "log": lines}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def _livy(document: Document, state: str) -> Document:
    word = _LIVY_WORDS.get(state, state)
    livy: Document = document["livyInfo"]
    return livy | {f"{word}At": now(), "currentState": state}
