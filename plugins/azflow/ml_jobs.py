"""Azure ML jobs as remote runs, from the YAML that Azure's own command line takes.

The YAML (``az ml job create --file``) is a template; values of ours are written ``{{ name }}``, Azure ML's own
expressions ``${{inputs.x}}`` are left alone. A job's name is its identity: it is chosen by us and never used twice.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-overview#job
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, RunExists, SpecError, first_line
from azflow.job_files import refusal, tag
from azflow.ml_history import (
    RunHistory,
    cause_of,
    is_reused,
    kind_of,
    metrics_of,
    nodes_of,
    parameters_of,
    seconds_of,
    tags_of,
)
from azflow.ml_workspace import Workspace
from azflow.remote import DIGEST_TAG, Found, RunFailure, RunState, RunStates
from azflow.specs import INCLUDE

SERVICE = "Azure ML job"

#: https://learn.microsoft.com/rest/api/azureml/jobs/get#jobstatus. NotResponding can recover, Paused is resumed by the
#: service, Unknown is what the service itself could not map: all three wait for a better word, up to the deadline.
STATES = RunStates(
    SERVICE,
    active=(
        "NotStarted",
        "Starting",
        "Provisioning",
        "Preparing",
        "Queued",
        "Running",
        "Finalizing",
        "CancelRequested",
        "NotResponding",
        "Paused",
        "Unknown",
    ),
    succeeded=("Completed",),
    failed=("Failed",),
    cancelled=("Canceled",),
)

_NAME_TAKEN = ("JobPropertyImmutable", "with this name already exists")
#: Properties and tags of a job that name its best trial.
BEST_CHILD = ("best_child_run_id", "automl_best_child_run_id")
_ORCHESTRATORS = ("AutoML", "Sweep", "Pipeline")
#: Property of a job: the night it belongs to. Lists of jobs can be filtered by properties' values, not by tags'.
NIGHT_PROPERTY = "azflow.night"
_DEEPEST = 5


class AzureMLJobs:
    """`azflow.remote.RemoteRuns` over an Azure ML workspace.

    :param include: the project's include folder, as text; the YAML's relative paths are below it.
    """

    def __init__(self, connection: AzureConnection, include: str = str(INCLUDE)) -> None:
        connection.require("subscription_id", "resource_group", "workspace")
        self._connection = connection
        self._include = Path(include)
        self.workspace = Workspace(connection)
        self.history = RunHistory(self.workspace)

    # -- RemoteRuns --------------------------------------------------------------------------------------------------

    def lookup(self, name: str) -> Found | None:
        """The job called `name`. One that bears no digest of ours was started by somebody else: never adopted."""
        found = self.workspace.job(name)
        if found is None:
            return None
        properties = found["properties"]
        digest = (properties.get("tags") or {}).get(DIGEST_TAG, "none")
        return Found(name, self._state(properties, name), digest)

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Hand the job to the SDK, which uploads its code and creates it under `name`."""
        from azure.core.exceptions import HttpResponseError

        job = self._load(payload)
        job.name = name
        job.tags = {**(job.tags or {}), **{key: tag(value) for key, value in tags.items()}}
        if night := tags.get(NIGHT_PROPERTY):
            job.properties = {**(job.properties or {}), NIGHT_PROPERTY: night}
        try:
            self._connection.ml_client().jobs.create_or_update(job)
        except HttpResponseError as problem:
            if name_is_taken(problem):
                raise RunExists(name, service=SERVICE) from None
            if problem.status_code == 400:  # noqa: PLR2004
                said = f"the service refuses the job: {first_line(problem)}"
                raise SpecError(self.shown(payload), "", said) from problem
            raise
        except Exception as problem:
            if type(problem).__module__.startswith(("azure.ai.ml.exceptions", "marshmallow")):
                raise refusal(self.shown(payload), problem, self._file(payload)) from problem
            raise
        return name

    def shown(self, payload: Mapping[str, Any]) -> str:
        """What messages call the YAML of a payload."""
        return f"include/ml/{payload['file']}"

    def _file(self, payload: Mapping[str, Any]) -> Path:
        return self._include / "ml" / str(payload["file"])

    def state(self, id: str) -> RunState:
        """GET .../jobs/{id}"""
        return self._state(self._properties(id), id)

    async def astate(self, id: str) -> RunState:
        """As `state`: one small GET."""
        return self._state((await self.workspace.ajob(id))["properties"], id)

    def cancel(self, id: str) -> None:
        """POST .../jobs/{id}/cancel; a job that is over already is no error."""
        from azure.core.exceptions import HttpResponseError

        try:
            self.workspace.cancel_job(id)
        except HttpResponseError:
            if not self.state(id).is_terminal:
                raise

    def result(self, id: str) -> dict[str, Any]:
        """What came out, plain. See `azflow.ml.AzureMLJobOperator` for its keys."""
        properties = self._properties(id)
        kind = str(properties.get("jobType"))
        details, run = self.history.details(id), self.history.tracked(id)
        kept = {**(properties.get("properties") or {}), **tags_of(run)}
        best = next((kept[key] for key in BEST_CHILD if kept.get(key)), None)
        children = self._children(id, run) if kind in _ORCHESTRATORS else []
        if kind == "Pipeline":
            self._add_trials(children)
        chosen = next((child for child in children if child["name"] == best), {})
        metrics, parameters = metrics_of(run), parameters_of(run)
        if kind == "Pipeline":
            steps = {f"{child['title']}.{key}": value for child in children for key, value in child["metrics"].items()}
            metrics = {**steps, **metrics}
        outputs = self._outputs(id, properties, best if kind == "Sweep" else None)
        compute, node = self._cost(details, properties)
        return {
            "name": id,
            "type": kind,
            "status": properties["status"],
            "url": self.url(id),
            "tracking_url": self.tracking_url(id, properties, run),
            "experiment": properties.get("experimentName"),
            "seconds": seconds_of(details),
            "outputs": {name: uri for name, (uri, _) in outputs.items()},
            "model_uri": _model_uri(outputs, best if kind == "AutoML" else None),
            "metrics": metrics or chosen.get("metrics") or {},
            "parameters": parameters or chosen.get("parameters") or {},
            "data": _data(properties),
            "children": children,
            "best_child": best,
            **_objective(properties),
            "compute_seconds": compute,
            "node_seconds": node,
        }

    def failure(self, id: str) -> RunFailure:
        """The service's error, which step or trial it was, and the end of what that printed."""
        details = self.history.details(id)
        code, message = cause_of(details)
        where = ""
        failed = self._failed_below(id)
        if failed:
            details = self.history.details(str(failed[-1]["runId"]))
            below_code, below = cause_of(details)
            where = " > ".join(_title(each) for each in failed)
            # A parent mostly repeats what its child said.
            repeated = bool(below) and below.splitlines()[0] in message
            others = f" ({message})" if message and not repeated else ""
            code, message = below_code or code, f"{where}: {below or 'no error named'}{others}"
        try:
            log = self.history.log_tail(details)
        except Exception as problem:
            # The cause must not hide behind a log that can't be read.
            log = [f"(the log can't be read: {first_line(problem)})"]
        # UserError is the user's code or data: the same job fails again.
        return RunFailure(message or "the service names no error", log, retry_helps=code != "UserError")

    def cost(self, id: str) -> tuple[float, float]:
        """Seconds that a job's runs took on its compute, and those times their nodes; of a job that runs, until now
        only what is over."""
        return self._cost(self.history.details(id), self._properties(id))

    def night_seconds(self, night: str, without: str = "") -> float:
        """Node seconds of all jobs of a night, whatever became of them.

        :param night: `azflow.specs.Night.key`.
        :param without: a job that isn't counted.
        """
        jobs = self.workspace.jobs(properties=f"{NIGHT_PROPERTY}={night}")
        return sum(self.cost(str(job["name"]))[1] for job in jobs if job["name"] != without)

    def follow(self, id: str, progress: dict[str, Any]) -> list[str]:
        """What happened since the last call: lines it printed, states of its children.

        :param progress: where the last call ended; brought up to date, plain values.
        """
        details = self.history.details(id)
        lines = self.history.log_since(details, progress.setdefault("read", {}))
        if kind_of(details) != "job":
            known = progress.setdefault("children", {})
            for child in self.history.children(id):
                state, name = str(child.get("status")), str(child["runId"])
                if known.get(name) != state:
                    known[name] = state
                    lines.append(f"{_title(child)}: {state}")
        return lines

    def url(self, id: str) -> str:
        """The job in Azure ML studio."""
        return self._studio(f"runs/{id}")

    def tracking_url(
        self, id: str, properties: Mapping[str, Any] | None = None, run: Mapping[str, Any] | None = None
    ) -> str:
        """The run in MLflow: on Azure that is the studio's page of its experiment, where runs are compared; in a
        private cloud it is where the job's page leads, if that is MLflow's own."""
        properties = properties if properties is not None else self._properties(id)
        studio = str(((properties.get("services") or {}).get("Studio") or {}).get("endpoint") or "")
        if "/#/experiments/" in studio:
            return studio
        run = run if run is not None else self.history.tracked(id)
        experiment = str((run or {}).get("info", {}).get("experiment_id") or "")
        return self._studio(f"experiments/id/{experiment}") if experiment else self.url(id)

    def close(self) -> None:
        """Release the worker's connections."""
        self.workspace.close()

    async def aclose(self) -> None:
        """Release the triggerer's connections."""
        await self.workspace.aclose()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _studio(self, page: str) -> str:
        connection = self._connection
        studio = connection.cloud.portal.rstrip("/") if connection.cloud else "https://ml.azure.com"
        return f"{studio}/{page}?wsid={connection.ml_workspace_id}&tid={connection.tenant_id}"

    def _load(self, payload: Mapping[str, Any]) -> Any:
        from azure.ai.ml import load_job

        text = io.StringIO(yaml.safe_dump(payload["content"], sort_keys=False, allow_unicode=True))
        try:
            # Paths in the YAML are relative to where it lies.
            return load_job(text, relative_origin=str(self._file(payload)))
        except Exception as problem:
            raise refusal(self.shown(payload), problem, self._file(payload)) from problem

    def _properties(self, id: str) -> dict[str, Any]:
        found = self.workspace.job(id)
        if found is None:
            raise ConfigurationError(f"{SERVICE} {id} isn't in the workspace {self._connection.workspace} any more.")
        properties: dict[str, Any] = found["properties"]
        return properties

    def _state(self, properties: Mapping[str, Any], id: str) -> RunState:
        return STATES.of(str(properties.get("status")), id=id, url=self.url(id))

    def _outputs(self, id: str, properties: Mapping[str, Any], best: str | None) -> dict[str, tuple[str, str]]:
        """Name -> (address, type). A sweep's are its best trial's: it has none of its own."""
        owner = id
        if best and (job := self.workspace.job(best)) is not None:
            owner, properties = best, {"outputs": {**(properties.get("outputs") or {}), **_declared(job)}}
        return {
            name: (
                (entry or {}).get("uri") or f"azureml://jobs/{owner}/outputs/{name}/paths/",
                str((entry or {}).get("jobOutputType") or ""),
            )
            for name, entry in (properties.get("outputs") or {}).items()
            if name != "default"
        }

    def _children(self, id: str, run: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Trials and steps: what they were from run history, how they did from MLflow."""
        tracked = {child["info"]["run_id"]: child for child in self.history.tracked_children(run)} if run else {}
        children = self.history.children(id)
        for child in children:
            if reused := (child.get("properties") or {}).get("azureml.reusedrunid"):
                tracked[child["runId"]] = self.history.tracked(str(reused)) or {}
        return [_child(each, tracked.get(each["runId"])) for each in children]

    def _add_trials(self, children: list[dict[str, Any]]) -> None:
        """Give steps that are sweeps or AutoML their trials, and what the best one measured."""
        for child in children:
            if child["kind"] not in ("sweep", "automl") or (job := self.workspace.job(child["name"])) is None:
                continue
            run = self.history.tracked(child["name"])
            kept = {**(job["properties"].get("properties") or {}), **tags_of(run)}
            best = next((kept[key] for key in BEST_CHILD if kept.get(key)), None)
            trials = self._children(child["name"], run)
            nothing: dict[str, Any] = {"metrics": {}, "parameters": {}}
            chosen = next((trial for trial in trials if trial["name"] == best), nothing)
            child |= {"children": trials, "best_child": best, **_objective(job["properties"])}
            for key in ("metrics", "parameters"):
                child[key] = child[key] or chosen[key]

    def _cost(self, details: Mapping[str, Any], properties: Mapping[str, Any] | None = None) -> tuple[float, float]:
        """(seconds, node seconds) of a run and all below it. What only starts others costs nothing itself; AutoML keeps
        its node between trials."""
        compute = node = 0.0
        for run, nodes in self._leaves(details, _DEEPEST):
            compute += seconds_of(run) or 0.0
            node += (seconds_of(run) or 0.0) * nodes
        if kind_of(details) == "job":
            asked = ((properties or {}).get("resources") or {}).get("instanceCount")
            node = max(node, compute * int(asked or 1))
        elif kind_of(details) == "automl":
            own = seconds_of(details) or 0.0
            compute, node = max(compute, own), max(node, own)
        return round(compute, 1), round(node, 1)

    def _leaves(self, run: Mapping[str, Any], depth: int) -> list[tuple[Mapping[str, Any], int]]:
        """The runs that hold nodes, and how many."""
        if is_reused(run):
            return []
        if kind_of(run) == "job" or depth == 0:
            return [(run, nodes_of(run))]
        children = self.history.children(str(run["runId"]))
        return [leaf for child in children for leaf in self._leaves(child, depth - 1)]

    def _failed_below(self, id: str) -> list[dict[str, Any]]:
        """The way from a run to the first that failed below it, without the run itself."""
        way: list[dict[str, Any]] = []
        with contextlib.suppress(Exception):  # the cause is worth telling without it
            while len(way) < _DEEPEST:
                failed = [each for each in self.history.children(id) if each.get("status") == "Failed"]
                if not failed:
                    break
                way.append(min(failed, key=lambda each: str(each.get("endTimeUtc") or "~")))
                id = str(way[-1]["runId"])
        return way


def name_is_taken(problem: BaseException) -> bool:
    """Whether the service refuses a job because there is one of its name, with other content."""
    return any(word in str(problem) for word in _NAME_TAKEN)


def _declared(job: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in (job["properties"].get("outputs") or {}).items() if name != "default"}


def _child(child: Mapping[str, Any], tracked: Mapping[str, Any] | None) -> dict[str, Any]:
    """A child as a task's XCom shows it."""
    kept = {**tags_of(tracked), **(child.get("tags") or {}), **(child.get("properties") or {})}
    algorithm = ", ".join(part for part in (kept.get("run_preprocessor"), kept.get("run_algorithm")) if part) or None
    parameters = parameters_of(tracked)
    if not parameters and kept.get("hyperparameters"):
        with contextlib.suppress(ValueError):
            parameters = {str(key): str(value) for key, value in json.loads(kept["hyperparameters"]).items()}
    return {
        "name": child["runId"],
        "title": _title(child),
        "status": child.get("status"),
        "algorithm": algorithm,
        "metrics": metrics_of(tracked),
        "parameters": parameters,
        "seconds": seconds_of(child),
        "nodes": nodes_of(child),
        "kind": kind_of(child),
        "reused": is_reused(child),
    }


def _objective(properties: Mapping[str, Any]) -> dict[str, str | None]:
    """What a search optimises: the metric under the name that runs log it by, and ``minimize`` or ``maximize``."""
    objective = properties.get("objective") or {}
    searched = objective.get("primaryMetric")
    named = (properties.get("taskDetails") or {}).get("primaryMetric")
    goal = str(objective.get("goal") or "").lower() or None
    return {"primary_metric": searched or (metric_name(str(named)) if named else None), "goal": goal}


def metric_name(primary: str) -> str:
    """AutoML's primary metric as its runs log it: ``NormalizedRootMeanSquaredError`` of Resource Manager is
    ``normalized_root_mean_squared_error``. https://learn.microsoft.com/rest/api/azureml/jobs/get
    """
    if primary.startswith("AUC"):
        return f"AUC_{primary[3:].strip('_').lower()}"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", primary).lower()


def _title(child: Mapping[str, Any]) -> str:
    return str(child.get("displayName") or child.get("runId"))


def _model_uri(outputs: Mapping[str, tuple[str, str]], best: str | None) -> str:
    """Where the model is: the first output that is one, else what AutoML logs with its best trial.

    https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-image-models#register-and-deploy-model
    """
    for uri, kind in outputs.values():
        if kind.endswith("_model"):
            return uri
    return f"azureml://jobs/{best}/outputs/artifacts/paths/outputs/mlflow-model/" if best else ""


def _data(properties: Mapping[str, Any]) -> dict[str, str]:
    """Input -> address, of the inputs that are data or models."""
    named = {
        name: str(entry["uri"])
        for name, entry in (properties.get("inputs") or {}).items()
        if isinstance(entry, Mapping) and entry.get("uri")
    }
    for field, name in (("trainingData", "training_data"), ("validationData", "validation_data")):
        if uri := ((properties.get("taskDetails") or {}).get(field) or {}).get("uri"):
            named[name] = str(uri)
    return named


def children_table(children: Sequence[Mapping[str, Any]], best: str | None, metric: str) -> list[str]:
    """Trials or steps for a task's log, the best first where it is known."""
    rows = [("", "state", "seconds", metric or "metric", "what")]
    for child in sorted(children, key=lambda each: each["name"] != best):
        value = child["metrics"].get(metric)
        seconds = "reused" if child["reused"] else f"{child['seconds']:.0f}" if child["seconds"] is not None else "-"
        what = child["algorithm"] or ", ".join(f"{key}={value}" for key, value in child["parameters"].items())
        shown = f"{value:.4f}" if isinstance(value, int | float) else "-"
        mark = "* " if child["name"] == best else "  "
        rows.append((mark + str(child["title"]), str(child["status"]), seconds, shown, what or ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
