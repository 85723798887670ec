"""Comparing runs: what MLflow knows of this job and of those before it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azflow.comparison import ComparedRun, compare, lines, read_run
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError
from azflow.ml_history import RunHistory, metrics_of, tags_of
from azflow.ml_jobs import BEST_CHILD, AzureMLJobs
from azflow.runs import AzflowOperator, RunLink, airflow_edge

if TYPE_CHECKING:
    from airflow.sdk import Context

_LOOKED_AT = 300


class CompareRunsOperator(AzflowOperator):
    """Shows a job beside the last ones of the same task: metrics, parameters, data versions, commit.

    XCom: ``{"metric", "lower", "rank", "unusual", "summary": [line], "changed": [line], "url", "runs":
    [{"name", "label", "started", "metrics", "parameters", "data", "commit", "url"}]}``, this run first, then newest
    first. A run that is alone is no error.

    :param training: task id of the job.
    :param last: how many runs before it.
    :param metric: what counts; empty: what the job searched for, else the first known metric that the run has.
    """

    template_fields = ("training", "metric")
    operator_extra_links = (RunLink("Compare in MLflow"),)
    ui_color = "#efe6fb"

    def __init__(self, *, training: str = "train.job", last: int = 10, metric: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training = training
        self.last = last
        self.metric = metric
        #: MLflow's page of the comparison, for the link.
        self.run_url = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Search, compare, show."""
        with airflow_edge(self.conn_id):
            job = context["ti"].xcom_pull(task_ids=self.training)
            if not isinstance(job, Mapping) or not job.get("name"):
                raise ConfigurationError(f"The task {self.training} left no job; clear it and what follows.")
            connection = AzureConnection.load(self.conn_id)
            with contextlib.closing(AzureMLJobs(connection)) as jobs:
                found = Comparer(jobs).runs(str(job["name"]), self.last)
            # What the task left is the whole of it: a pipeline's steps have metrics that its own record hasn't.
            left = {key: job[key] for key in ("metrics", "parameters") if job.get(key)}
            this = replace(found[0], **left)
            searched = str(job.get("primary_metric") or "")
            metric = self.metric or (searched if searched in this.metrics else "")
            goal = job.get("goal") if metric == searched else None
            comparison = compare(this, found[1:], metric, None if goal is None else goal == "minimize")
        for line in lines(comparison):
            self.log.info("%s", line)
        self.run_url = compare_url(str(job.get("tracking_url") or job.get("url") or ""), [run.name for run in found])
        return {**comparison.as_dict(), "url": self.run_url}


class Comparer:
    """Finds a job's predecessors in MLflow."""

    def __init__(self, jobs: AzureMLJobs) -> None:
        self._jobs = jobs
        self._history = RunHistory(jobs.workspace)

    def runs(self, name: str, last: int) -> list[ComparedRun]:
        """The job `name` and up to `last` finished ones of the same dag and task that started before it.

        :raises ConfigurationError: MLflow knows no run of that name.
        """
        this = self._history.tracked(name)
        if this is None:
            raise ConfigurationError(f"MLflow knows no run {name}; it can't be compared.")
        found = [self._read(this)]
        for run in self._candidates(this, last):
            if len(found) > last:
                break
            if run["info"]["run_id"] != name and _start(run) <= _start(this):
                found.append(self._read(run))
        return found

    def _candidates(self, this: Mapping[str, Any], last: int) -> list[dict[str, Any]]:
        tags = tags_of(this)
        own = {key: tags[key] for key in ("azflow.dag", "azflow.task") if key in tags}
        experiment, newest = [str(this["info"]["experiment_id"])], "attributes.start_time DESC"
        finished = "attributes.status = 'FINISHED'"
        wanted = [finished, *(f"tags.`{key}` = '{value}'" for key, value in own.items() if "'" not in value)]
        from azure.core.exceptions import HttpResponseError

        try:
            found = self._history.search(experiment, " AND ".join(wanted), order=newest, most=last + 1)
        except HttpResponseError as refused:
            if refused.status_code != 400:  # noqa: PLR2004
                raise
            # A tracking server that can't filter by such tags: look at more, and choose here.
            found = self._history.search(experiment, finished, order=newest, most=_LOOKED_AT)
        return [run for run in found if all(tags_of(run).get(key) == value for key, value in own.items())]

    def _read(self, run: Mapping[str, Any]) -> ComparedRun:
        """A run with the metrics of its best trial or of its steps, if it has none of its own."""
        name, url = str(run["info"]["run_id"]), self._jobs.url(str(run["info"]["run_id"]))
        if metrics_of(run) or (job := self._jobs.workspace.job(name)) is None:
            return read_run(run, url=url)
        properties = job["properties"]
        if properties.get("jobType") == "Pipeline":
            steps = {
                f"{step['info'].get('run_name')}.{key}": value
                for step in self._history.tracked_children(run)
                for key, value in metrics_of(step).items()
            }
            return replace(read_run(run, url=url), metrics=steps)
        kept = {**(properties.get("properties") or {}), **tags_of(run)}
        child = next((kept[key] for key in BEST_CHILD if kept.get(key)), "")
        return read_run(run, self._history.tracked(child) if child else None, url)


def compare_url(tracking_url: str, names: list[str]) -> str:
    """MLflow's page with these runs beside each other; in the studio, which has no address for that, the experiment's.

    :param tracking_url: of one of them, as `azflow.ml_jobs.AzureMLJobs.tracking_url` gives it.
    """
    root, found, page = tracking_url.partition("/#/experiments/")
    if not found:
        return tracking_url
    experiment = page.partition("/")[0]
    runs, experiments = (quote(json.dumps(each, separators=(",", ":"))) for each in (names, [experiment]))
    return f"{root}/#/compare-runs?runs={runs}&experiments={experiments}"


def _start(run: Mapping[str, Any]) -> int:
    return int(run["info"].get("start_time") or 0)
