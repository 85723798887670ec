"""A shadow: what callers asked the champion lately, asked again of a deployment that has no traffic yet.

Mirroring live traffic isn't supported by Kubernetes endpoints; replaying captured requests is. They are what Azure ML's
data collector wrote of the champion's collections ``request`` and ``response`` (payload logging), paired by their
correlation id, without those that azflow sent (`canary.is_probe`): https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data#perform-payload-logging
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from azflow import canary
from azflow.connection import AzureConnection
from azflow.guardrails import Sample
from azflow.ml_workspace import Workspace

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

#: Of a file, no more than its end is read.
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class CapturedRequest:
    """A request as it was sent, and what the champion answered: one prediction a row."""

    body: str = field(repr=False)
    predictions: list[Any] = field(repr=False)
    time: str


def captured_requests(
    connection: AzureConnection, endpoint: str, deployment: str, most: int, hours: float
) -> list[CapturedRequest]:
    """The newest requests that `deployment` answered well in the last hours, at most `most`, oldest first.

    Requests without a valid answer of the champion's are left out: there is nothing to compare with.
    """
    # Its module has an operator, and with it Airflow; a roll-out doesn't need that.
    from azflow.captured import DATASTORE, blob_service, may_hold

    root = f"modelDataCollector/{endpoint}/{deployment}"
    oldest = datetime.now(UTC) - timedelta(hours=hours)
    with contextlib.closing(Workspace(connection)) as workspace:
        datastore = workspace.datastore(DATASTORE)
    found: list[CapturedRequest] = []
    with blob_service(connection, datastore) as service:
        container = service.get_container_client(str(datastore.get("containerName") or ""))
        listed = container.list_blobs(name_starts_with=f"{root}/request/")
        recent = (blob for blob in listed if may_hold(blob.name, oldest.date(), datetime.now(UTC).date()))
        for name in sorted((blob.name for blob in recent), reverse=True):
            answers = _answers(container, name.replace("/request/", "/response/", 1))
            asked = [event for event in _events(container, name) if _instant(event) >= oldest]
            for event in reversed(asked):
                predictions = answers.get(str(event.get("correlationid") or ""))
                if predictions and (body := _text(event)):
                    found.append(CapturedRequest(body, predictions, str(event.get("time"))))
                if len(found) == most:
                    return found[::-1]
    return found[::-1]


def replay(scorer: canary.Scorer, deployment: str, captured: CapturedRequest) -> Sample:
    """Ask `deployment` what the champion was asked, and compare with what that answered."""
    rows = len(captured.predictions)
    answer = scorer.send(captured.body, rows, deployment)
    compared = agreed = 0
    if not answer.problem:
        compared, agreed = canary.agreement(answer.predictions, captured.predictions)
    return Sample(answer.deployment, True, answer.milliseconds, answer.problem, rows, compared, agreed)


def _answers(container: ContainerClient, name: str) -> dict[str, list[Any]]:
    """Correlation id -> the champion's predictions, where its answer was a valid one."""
    found = {}
    for event in _events(container, name):
        predictions, problem = canary.predictions_of(_text(event), None)
        if not problem and (key := str(event.get("correlationid") or "")):
            found[key] = predictions
    return found


def _events(container: ContainerClient, name: str) -> Iterator[Mapping[str, Any]]:
    """The events at the end of a file of JSON lines; none if it isn't there. Left out are lines that are no event, and
    what azflow asked itself."""
    from azure.core.exceptions import ResourceNotFoundError

    client = container.get_blob_client(name)
    try:
        size = int(client.get_blob_properties().size)
        skipped = max(size - _MOST_BYTES, 0)
        content = client.download_blob(offset=skipped, length=size - skipped).readall() if size else b""
    except ResourceNotFoundError:
        return
    lines = content.splitlines()
    for line in lines[1:] if skipped else lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            # A body that is too large, or isn't JSON, lies elsewhere.
            if not isinstance(event, Mapping) or str(event.get("datainblob", "")).lower() == "true":
                continue
            if not canary.is_probe(event):
                yield event


def _instant(event: Mapping[str, Any]) -> datetime:
    try:
        found = datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text(event: Mapping[str, Any]) -> str:
    """A body as it was sent."""
    data = event.get("data")
    return data if isinstance(data, str) else "" if data is None else json.dumps(data)
