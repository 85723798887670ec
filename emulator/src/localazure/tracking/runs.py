"""The MLflow runs that localazure itself keeps: one a job, under the job's name.

https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from localazure.executors import processes
from localazure.settings import Settings

RUN_ID_TAG = "azureml.runId"
_HISTORY_PAGE = 5000
_RUN_STATUS = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"}


class TrackingError(RuntimeError):
    """MLflow's server didn't answer, or refused."""


@dataclass(frozen=True)
class LoggedModel:
    """A model that a run logged: its name there, the run (None without one), its files."""

    name: str
    run: str | None
    folder: Path


class TrackingRuns:
    """A client of MLflow's server for the runs of jobs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._experiments: dict[str, str] = {}

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def ready(self, seconds: float = 180) -> None:
        """Waits until MLflow answers. TrackingError after `seconds`, naming its log."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = await self._http().get("/health", timeout=5)
                if answer.status_code == httpx.codes.OK:
                    return
                cause = f"HTTP {answer.status_code}"
            except httpx.TransportError as error:
                cause = type(error).__name__
            log = self._settings.logs / "mlflow.log"
            if self._ended():
                last = "\n".join(processes.tail(log, 5))
                raise TrackingError(f"MLflow's server has ended; the last lines of {log}:\n{last}")
            if time.monotonic() > deadline:
                raise TrackingError(f"MLflow's server didn't come up within {seconds:.0f} s ({cause}); see {log}")
            await asyncio.sleep(0.5)

    def _ended(self) -> bool:
        """Whether the supervisor has written down that MLflow's process is no more."""
        try:
            state = json.loads((self._settings.home / "pids.json").read_text())
        except (OSError, ValueError):
            return False
        server = state.get("processes", {}).get("mlflow") or {}
        return server.get("exit_code") is not None

    async def create(
        self,
        name: str,
        experiment: str,
        display_name: str,
        tags: Mapping[str, str],
        *,
        parent: str | None = None,
        root: str | None = None,
    ) -> str:
        """The run `name` in `experiment` (made if it isn't there); returns the experiment's id. Existing runs are
        kept.

        `parent` and `root` nest it: the runs directly above it and at the top (by default the parent).
        """
        all_tags = {**tags, RUN_ID_TAG: name, "mlflow.user": "localazure"}
        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent
            all_tags["mlflow.rootRunId"] = root or parent
        content = {
            "run_name": display_name,
            "start_time": int(time.time() * 1000),
            "tags": [{"key": key, "value": str(value)} for key, value in all_tags.items()],
        }
        if (known := self._experiments.get(experiment)) is not None:
            try:
                await self._create(name, {**content, "experiment_id": known})
                return known
            except TrackingError:
                self._experiments.pop(experiment, None)  # deleted meanwhile, or MLflow's database is another one
        found = self._experiments[experiment] = await self._experiment(experiment)
        await self._create(name, {**content, "experiment_id": found})
        return found

    async def _create(self, name: str, content: dict[str, Any]) -> None:
        answer = await self._call("POST", "runs/create", content, allowed=("RESOURCE_ALREADY_EXISTS",))
        if "run" not in answer:
            await self._call("POST", "runs/update", {"run_id": name, "status": "RUNNING"})

    async def end(self, name: str, state: str) -> None:
        """The run's end, from the job's final state. A run that isn't there is left so."""
        content = {"run_id": name, "status": _RUN_STATUS[state], "end_time": int(time.time() * 1000)}
        await self._call("POST", "runs/update", content, allowed=("RESOURCE_DOES_NOT_EXIST",))

    async def metrics(self, name: str) -> dict[str, float]:
        """The last value of every metric of a run; none if there is no such run."""
        answer = await self._call("GET", f"runs/get?run_id={name}", None, allowed=("RESOURCE_DOES_NOT_EXIST",))
        found = answer.get("run", {}).get("data", {}).get("metrics", [])
        return {each["key"]: float(each["value"]) for each in found}

    async def metric_history(self, name: str, key: str) -> list[tuple[int, float, int]]:
        """Every value a run logged of one metric, in logged order: (step, value, milliseconds since the epoch)."""
        found: list[tuple[int, float, int]] = []
        token = ""
        while True:
            asked = {"run_id": name, "metric_key": key, "max_results": _HISTORY_PAGE}
            path = httpx.URL("metrics/get-history", params=asked | ({"page_token": token} if token else {}))
            answer = await self._call("GET", str(path), None, allowed=("RESOURCE_DOES_NOT_EXIST",))
            for each in answer.get("metrics", []):
                found.append((int(each.get("step", 0)), float(each["value"]), int(each["timestamp"])))
            token = answer.get("next_page_token") or ""
            if not token:
                return found

    async def artifacts(self, name: str, experiment_id: str) -> list[tuple[str, Path]]:
        """What a run logged: (path below the run's artifacts, local folder). A model is listed under its name.

        MLflow 3 keeps logged models beside the runs; in Azure ML they are artifacts of their run.
        """
        root = self._settings.home / "mlflow" / "artifacts"
        found = [("", root / experiment_id / name / "artifacts")]
        wanted = {"experiment_ids": [experiment_id], "filter": f"source_run_id = '{name}'", "max_results": 50}
        answer = await self._call("POST", "logged-models/search", wanted)
        for model in answer.get("models", []):
            place = str(model["info"]["artifact_uri"]).removeprefix("mlflow-artifacts:/")
            found.append((str(model["info"]["name"]), root / place.lstrip("/")))
        return [(path, folder) for path, folder in found if folder.is_dir() and any(folder.iterdir())]

    async def logged_model(self, id: str) -> LoggedModel:
        """A logged model of MLflow 3 (`models:/<id>`). TrackingError if there is none."""
        info = (await self._call("GET", f"logged-models/{id}", None))["model"]["info"]
        place = str(info["artifact_uri"]).removeprefix("mlflow-artifacts:/").lstrip("/")
        folder = self._settings.home / "mlflow" / "artifacts" / place
        return LoggedModel(str(info["name"]), info.get("source_run_id") or None, folder)

    async def set_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Sets tags of a run that may not be there."""
        for key, value in tags.items():
            content = {"run_id": name, "key": key, "value": str(value)}
            await self._call("POST", "runs/set-tag", content, allowed=("RESOURCE_DOES_NOT_EXIST",))

    async def _experiment(self, name: str) -> str:
        # Creating first is atomic; two jobs may begin an experiment at the same time.
        answer = await self._call("POST", "experiments/create", {"name": name}, allowed=("RESOURCE_ALREADY_EXISTS",))
        if "experiment_id" not in answer:
            found = await self._call(
                "GET", str(httpx.URL("experiments/get-by-name", params={"experiment_name": name})), None
            )
            answer = found["experiment"]
            if answer.get("lifecycle_stage") == "deleted":
                await self._call("POST", "experiments/restore", {"experiment_id": answer["experiment_id"]})
        return str(answer["experiment_id"])

    async def _call(
        self, method: str, path: str, content: dict[str, Any] | None, allowed: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        try:
            answer = await self._http().request(method, f"/api/2.0/mlflow/{path}", json=content)
        except httpx.TransportError as error:
            raise TrackingError(f"MLflow's server didn't answer {path}: {type(error).__name__}") from error
        try:
            body: dict[str, Any] = answer.json()
        except ValueError as error:
            raise TrackingError(
                f"MLflow's server answered {path} with HTTP {answer.status_code} and no JSON"
            ) from error
        if answer.is_success or body.get("error_code") in allowed:
            return body
        raise TrackingError(f"MLflow's server refused {path}: {body.get('error_code')}: {body.get('message')}")

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(base_url=self._settings.mlflow_url, timeout=60, trust_env=False)
        return self._client
