"""What runs of an Azure ML workspace were and did: run history, their logs, and MLflow's records.

Both stand at the host that the workspace's tracking address names. Run history has no published reference, the calls
are those of ``azure-ai-ml`` (``_restclient/runhistory``).
MLflow: https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

from azflow.ml_workspace import Workspace

_CHILDREN = 500
_PAGE = 100
_LOG_BYTES = 64 * 1024
_NO_RANGE = 416
#: Of the files a run logs, the user's own output; older runtimes call it otherwise.
_LOG_NAMES = ("std_log", "70_driver_log", "stdout", "stderr")
_DURATION = re.compile(r"(?:(\d+)\.)?(\d+):(\d+):(\d+(?:\.\d+)?)")
#: What run history calls runs that only start others, in lower case; the rest hold nodes.
_SEARCHES = frozenset({"hyperdrive", "azureml.hyperdrive"})
_PIPELINES = frozenset({"azureml.pipelinerun", "azureml.pipeline"})
_AUTOML = frozenset({"automl", "azureml.automl"})


class RunHistory:
    """Runs of a workspace. Errors are azure-core's; it uses the workspace's connections."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    # -- run history -------------------------------------------------------------------------------------------------

    def details(self, run_id: str) -> dict[str, Any]:
        """A run with its error, its times, and signed addresses of its log files (``logFiles``)."""
        return self._workspace.get(f"{self._url}/runs/{quote(run_id)}/details") or {}

    def children(self, run_id: str) -> list[dict[str, Any]]:
        """The runs a run started, oldest first: ``runId``, ``status``, ``properties``, ``tags``..."""
        return list(self._workspace.pages(f"{self._url}/runs/{quote(run_id)}/children", _CHILDREN))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a run, or change them."""
        content = {"runId": run_id, "tags": dict(tags)}
        self._workspace.call("PATCH", f"{self._url}/runs/{quote(run_id)}", content)

    # -- logs --------------------------------------------------------------------------------------------------------

    def log_tail(self, details: Mapping[str, Any], lines: int = 40) -> list[str]:
        """The last lines the run of `details` printed, oldest first; none if it printed nothing."""
        for address in _own_logs(details).values():
            if text := _read_end(address):
                return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
        return []

    def log_since(self, details: Mapping[str, Any], read: dict[str, int]) -> list[str]:
        """What the run printed since it was asked last, whole lines, oldest first.

        :param read: bytes known of each log file; brought up to date.
        """
        lines: list[str] = []
        for name, address in _own_logs(details, only_users=True).items():
            start = read.get(name, 0)
            text = _read_from(address, start)
            whole = text.rfind(b"\n") + 1
            read[name] = start + whole
            lines += text[:whole].decode(errors="replace").splitlines()
        return lines

    # -- MLflow ------------------------------------------------------------------------------------------------------

    def tracked(self, run_id: str) -> dict[str, Any] | None:
        """MLflow's run, or None if nothing was ever tracked for it."""
        found = self._workspace.get(f"{self._mlflow}/runs/get?run_id={quote(run_id)}")
        run: dict[str, Any] | None = found and found.get("run")
        return run

    def tracked_children(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """MLflow's runs whose parent is `run` (as `tracked` gives it)."""
        wanted = f"tags.mlflow.parentRunId = '{run['info']['run_id']}'"
        return self.search([run["info"]["experiment_id"]], wanted, most=_CHILDREN)

    def search(
        self, experiments: Sequence[str], wanted: str, *, order: str = "", most: int = _CHILDREN
    ) -> list[dict[str, Any]]:
        """MLflow's runs that match a filter, at most `most`.

        https://mlflow.org/docs/latest/search-runs

        :param order: e.g. ``attributes.start_time DESC``.
        """
        found: list[dict[str, Any]] = []
        token = None
        while len(found) < most:
            request: dict[str, Any] = {
                "experiment_ids": list(experiments),
                "filter": wanted,
                "max_results": min(_PAGE, most - len(found)),
            }
            if order:
                request["order_by"] = [order]
            if token:
                request["page_token"] = token
            page = self._workspace.call("POST", f"{self._mlflow}/runs/search", request)
            found += page.get("runs") or []
            token = page.get("next_page_token")
            if not token:
                break
        return found

    # -- steps -------------------------------------------------------------------------------------------------------

    @cached_property
    def _mlflow(self) -> str:
        return f"{self._workspace.mlflow_url}/api/2.0/mlflow"

    @cached_property
    def _url(self) -> str:
        # The region's host serves both; Microsoft's SDK finds it through its discovery address.
        host = urlsplit(self._workspace.mlflow_url).netloc
        return f"https://{host}/history/v1.0{self._workspace.connection.ml_workspace_id}"


# -- what a run's record says ----------------------------------------------------------------------------------------


def metrics_of(run: Mapping[str, Any] | None) -> dict[str, float]:
    """The last values of an MLflow run's metrics."""
    return {each["key"]: float(each["value"]) for each in _data(run, "metrics")}


def parameters_of(run: Mapping[str, Any] | None) -> dict[str, str]:
    """An MLflow run's parameters."""
    return {each["key"]: str(each["value"]) for each in _data(run, "params")}


def tags_of(run: Mapping[str, Any] | None) -> dict[str, str]:
    """An MLflow run's tags."""
    return {each["key"]: str(each["value"]) for each in _data(run, "tags")}


def _data(run: Mapping[str, Any] | None, kind: str) -> list[dict[str, Any]]:
    return (run or {}).get("data", {}).get(kind) or []


def kind_of(run: Mapping[str, Any]) -> str:
    """What run history says a run is: ``sweep``, ``pipeline``, ``automl``, or ``job`` (what holds nodes)."""
    kind = str(run.get("runType") or "").lower()
    groups = (("sweep", _SEARCHES), ("pipeline", _PIPELINES), ("automl", _AUTOML))
    return next((name for name, words in groups if kind in words), "job")


def seconds_of(run: Mapping[str, Any]) -> float | None:
    """How long a run was active, from run history: the service's own count, else from start to end; None: unknown."""
    if match := _DURATION.fullmatch(str(run.get("computeDuration") or "")):
        days, hours, minutes, seconds = match.groups()
        return int(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    start, end = run.get("startTimeUtc"), run.get("endTimeUtc")
    if not start or not end:
        return None
    return round((instant(end) - instant(start)).total_seconds(), 3)


def nodes_of(run: Mapping[str, Any]) -> int:
    """How many nodes a run holds; 1 where the service doesn't say."""
    return int((run.get("compute") or {}).get("instanceCount") or 1)


def is_reused(run: Mapping[str, Any]) -> bool:
    """Whether a pipeline step took an earlier run's outputs and didn't run."""
    properties = run.get("properties") or {}
    return str(properties.get("azureml.isreused", "")).lower() == "true" or bool(properties.get("azureml.reusedrunid"))


def cause_of(details: Mapping[str, Any]) -> tuple[str, str]:
    """(code, message) of a run's error; the message is empty where the service names none."""
    error = ((details.get("error") or {}).get("error")) or {}
    return str(error.get("code") or ""), str(error.get("message") or "").strip()


def instant(text: str) -> datetime:
    """A service's time, with its zone; UTC where it names none."""
    # Seven digits of a second, as .NET writes them, are one more than Python reads.
    found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00")))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _own_logs(details: Mapping[str, Any], *, only_users: bool = False) -> dict[str, str]:
    """Log files, the user's output first and of several processes' the first process's."""
    files: Mapping[str, str] = details.get("logFiles") or {}
    users = {name for name in files if any(known in name for known in _LOG_NAMES)}
    names = sorted(files, key=lambda name: (name not in users, name))
    return {name: files[name] for name in names if name in users or not only_users}


def _read_end(url: str) -> str:
    """The end of what is behind a signed address. The address is a secret and stays out of messages."""
    from azure.storage.blob import BlobClient

    # azure-storage-blob splits a path-style and a host-style address alike.
    with BlobClient.from_blob_url(url) as blob:
        size = blob.get_blob_properties().size
        if size == 0:
            return ""
        start = max(0, size - _LOG_BYTES)
        return str(blob.download_blob(offset=start, length=size - start).readall().decode(errors="replace"))


def _read_from(url: str, start: int) -> bytes:
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob import BlobClient

    with BlobClient.from_blob_url(url) as blob:
        try:
            content: bytes = blob.download_blob(offset=start).readall()
        except HttpResponseError as refused:
            if refused.status_code == _NO_RANGE:
                return b""  # nothing new
            raise
    return content
