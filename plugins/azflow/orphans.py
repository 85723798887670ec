"""Azure ML jobs that nobody waits for any more: found by their tags, cancelled, named.

The waiting loop cancels what it leaves (`azflow.runs`); a worker and a triggerer that die at the same moment leave a
job that costs until its own limits end it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from azflow.connection import AzureConnection
from azflow.errors import AzflowError, first_line
from azflow.job_files import truth
from azflow.ml_history import instant
from azflow.ml_jobs import STATES, AzureMLJobs
from azflow.ml_workspace import Workspace
from azflow.runs import AzflowOperator, airflow_edge
from azflow.watch import current_run, task_state

if TYPE_CHECKING:
    from airflow.sdk import Context

#: States of a task instance that waits for its job, or will look for it again.
_WAITING = frozenset(
    {"running", "deferred", "queued", "scheduled", "restarting", "up_for_retry", "up_for_reschedule", "awaiting_input"}
)
_DEFAULT_LOOK_BACK_DAYS = 14.0


@dataclass(frozen=True)
class Job:
    """An active job of azflow's, from its tags.

    :param created: an instant with a time zone.
    """

    name: str
    dag: str
    run: str
    task: str
    map_index: int
    created: datetime
    url: str = ""


@dataclass(frozen=True)
class Judgement:
    """What to do about a job, and why, in words."""

    action: Literal["keep", "cancel", "report"]
    reason: str


def judge(job: Job, state: str, current: str | None, now: datetime, grace: timedelta) -> Judgement:
    """Whether somebody waits for `job`. Pure.

    :param state: its task instance's in Airflow; empty: it has none (cleared); ``unknown``: Airflow doesn't know it.
    :param current: the job that the task instance waits for, as far as is known.
    :param grace: younger jobs are left alone: their task may not have written down yet that it waits.
    """
    if now - job.created < grace:
        return Judgement("keep", f"younger than {grace.total_seconds() / 60:g} minutes")
    if state == "unknown":
        return Judgement("report", "this Airflow doesn't know its task: another's, or a deleted DAG or run")
    if state in _WAITING:
        if current is not None and current != job.name:
            return Judgement("cancel", f"its task is {state} and waits for {current}")
        return Judgement("keep", f"its task is {state}")
    return Judgement("cancel", f"its task is {state or 'cleared'}")


def read_job(document: Mapping[str, Any], url: str = "") -> Job | None:
    """A job's ARM resource as a `Job`; None if it is over or not one of a task's."""
    properties = document["properties"]
    tags = properties.get("tags") or {}
    names = [tags.get(f"azflow.{key}") for key in ("dag", "run", "task")]
    if not all(names) or STATES.of(str(properties.get("status"))).is_terminal:
        return None
    dag, run, task = (str(name) for name in names)
    return Job(str(document["name"]), dag, run, task, int(tags.get("azflow.map_index", -1)), _created(document), url)


class OrphanSweepOperator(AzflowOperator):
    """Cancels active Azure ML jobs whose task doesn't wait for them any more, and names them.

    Jobs whose task this Airflow doesn't know are named, not cancelled: a workspace may serve two Airflows. Deployments
    without traffic and data assets past their keeping are named, too, and left.

    XCom: ``{"looked_at", "kept", "cancelled": [job], "would_cancel": [job], "unknown": [job], "deployments":
    [{"endpoint", "deployment", "days"}], "data": [{"name", "version", "days"}]}``; a job is ``{"name", "dag", "run",
    "task", "map_index", "created", "url", "reason"}``. Fails, after the others, if a job could not be cancelled.

    :param only_report: cancel nothing; text or bool.
    :param grace_minutes: younger jobs are left alone.
    :param look_back_days: older jobs aren't looked at.
    :param deployment_days: deployments without traffic that are older are named.
    :param data_days: data assets that azflow registered and that are older are named.
    """

    template_fields = ("only_report",)

    def __init__(
        self,
        *,
        only_report: str | bool = False,
        grace_minutes: float = 15,
        look_back_days: float = _DEFAULT_LOOK_BACK_DAYS,
        deployment_days: float = 14,
        data_days: float = 90,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.only_report = only_report
        self.grace_minutes = grace_minutes
        self.look_back_days = look_back_days
        self.deployment_days = deployment_days
        self.data_days = data_days

    def execute(self, context: Context) -> dict[str, Any]:
        """Look, judge, cancel, name."""
        with airflow_edge(self.conn_id):
            connection = AzureConnection.load(self.conn_id)
            now, dry = datetime.now(UTC), truth(self.only_report, "only_report")
            with (
                contextlib.closing(AzureMLJobs(connection)) as runs,
                contextlib.closing(Workspace(connection)) as space,
            ):
                answer, problems = self._sweep(runs, space, now, dry)
                answer["deployments"] = list(self._old_deployments(space, now))
                answer["data"] = list(self._old_data(space, now))
        for each in answer["deployments"]:
            self.log.info("Without traffic for %(days)d days: %(deployment)s of endpoint %(endpoint)s", each)
        for each in answer["data"]:
            self.log.info("Registered %(days)d days ago: data asset %(name)s:%(version)s", each)
        with airflow_edge(self.conn_id):
            if problems:
                raise AzflowError("Not cancelled:\n" + "\n".join(problems), retry_helps=True)
        return answer

    def _sweep(self, runs: AzureMLJobs, space: Workspace, now: datetime, dry: bool) -> tuple[dict[str, Any], list[str]]:
        answer: dict[str, Any] = {"looked_at": 0, "kept": 0, "cancelled": [], "would_cancel": [], "unknown": []}
        problems: list[str] = []
        oldest = now - timedelta(days=self.look_back_days)
        for document in takewhile(lambda each: _created(each) > oldest, runs.workspace.jobs(tag="azflow.dag")):
            job = read_job(document, runs.url(str(document["name"])))
            if job is None:
                continue
            answer["looked_at"] += 1
            place = (job.dag, job.run, job.task, job.map_index)
            state = task_state(*place)
            current = current_run(*place) if state in _WAITING else None
            found = judge(job, state, current, now, timedelta(minutes=self.grace_minutes))
            if found.action == "keep":
                answer["kept"] += 1
                continue
            shown = {**asdict(job), "created": job.created.isoformat(), "reason": found.reason}
            said = f"{job.name} ({job.dag}, {job.run}, {job.task}): {found.reason}. {job.url}"
            if found.action == "report":
                answer["unknown"].append(shown)
                self.log.warning("Left alone: %s", said)
            elif dry:
                answer["would_cancel"].append(shown)
                self.log.info("Would be cancelled: %s", said)
            else:
                try:
                    runs.cancel(job.name)
                except Exception as problem:
                    problems.append(f"{said} {first_line(problem)}")
                    continue
                answer["cancelled"].append(shown)
                self.log.info("Cancelled: %s", said)
        self.log.info(
            "%d active jobs of azflow: %d waited for, %d cancelled, %d unknown here.",
            answer["looked_at"], answer["kept"], len(answer["cancelled"]), len(answer["unknown"]),
        )  # fmt: skip
        return answer, problems

    def _old_deployments(self, space: Workspace, now: datetime) -> Any:
        for endpoint in space.pages(space.arm("/onlineEndpoints")):
            traffic = endpoint["properties"].get("traffic") or {}
            for each in space.pages(space.arm(f"/onlineEndpoints/{quote(endpoint['name'])}/deployments")):
                days = (now - _created(each)).days
                if not traffic.get(each["name"]) and days > self.deployment_days:
                    yield {"endpoint": endpoint["name"], "deployment": each["name"], "days": days}

    def _old_data(self, space: Workspace, now: datetime) -> Any:
        for container in space.pages(space.arm("/data")):
            for each in space.versions("data", container["name"]):
                tags = each["properties"].get("tags") or {}
                days = (now - _created(each)).days
                if "dag" in tags and "row_count" in tags and days > self.data_days:
                    yield {"name": container["name"], "version": each["name"], "days": days}


def _created(document: Mapping[str, Any]) -> datetime:
    """When a resource was made; one that doesn't say is as new as can be."""
    text = str((document.get("systemData") or {}).get("createdAt") or "")
    return instant(text) if text else datetime.max.replace(tzinfo=UTC)
