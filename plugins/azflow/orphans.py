"""Runs that nobody waits for any more: found by their marks, cancelled, named.

The waiting loop cancels what it leaves (`azflow.runs`). A worker and a triggerer that die at the same moment, or a
task that a person clears between its deferral and its trigger's start, leave a run that costs until its own limits end
it. `azflow.active_runs` says what runs; here is judged for whom.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from azflow.active_runs import SQL_SERVICE, ActiveRun, Source, created, sources
from azflow.connection import AzureConnection
from azflow.errors import AccessDenied, AzflowError, first_line
from azflow.job_files import truth
from azflow.ml_workspace import Workspace
from azflow.runs import AzflowOperator, airflow_edge, as_azflow_error
from azflow.watch import current_run, task_state

if TYPE_CHECKING:
    from airflow.sdk import Context

#: States of a task instance that waits for its run, or will look for it again.
_WAITING = frozenset(
    {"running", "deferred", "queued", "scheduled", "restarting", "up_for_retry", "up_for_reschedule", "awaiting_input"}
)
_DEFAULT_LOOK_BACK_DAYS = 14.0


@dataclass(frozen=True)
class Judgement:
    """What to do about a run, and why, in words."""

    action: Literal["keep", "cancel", "report"]
    reason: str


def judge(found: ActiveRun, state: str, current: str | None, now: datetime, grace: timedelta) -> Judgement:
    """Whether somebody waits for a run. Pure.

    :param state: its task instance's in Airflow; empty: it has none (cleared); ``unknown``: Airflow doesn't know it.
    :param current: the id of the run that the task instance waits for, as far as is known.
    :param grace: younger jobs are left alone: their task may not have written down yet that it waits.
    """
    if now - found.created < grace:
        return Judgement("keep", f"younger than {grace.total_seconds() / 60:g} minutes")
    if state == "unknown":
        return Judgement("report", "this Airflow doesn't know its task: another's, or a deleted DAG or run")
    if state in _WAITING:
        if current is not None and current != found.id:
            return Judgement("cancel", f"its task is {state} and waits for {current}")
        return Judgement("keep", f"its task is {state}")
    return Judgement("cancel", f"its task is {state or 'cleared'}")


class OrphanSweepOperator(AzflowOperator):
    """Cancels active Azure ML jobs, notebook runs, Spark batches and SQL requests whose task doesn't wait for them any
    more, and names them.

    Runs whose task this Airflow doesn't know are named, not cancelled: a workspace may serve two Airflows. Deployments
    without traffic and data assets past their keeping are named, too, and left.

    XCom: ``{"looked_at", "kept", "cancelled": [run], "would_cancel": [run], "unknown": [run], "not_asked": [{"service",
    "why"}], "deployments": [{"endpoint", "deployment", "days"}], "data": [{"name", "version", "days"}]}``; a run is
    ``{"service", "id", "name", "dag", "run", "task", "map_index", "created", "url", "pool", "reason"}``.
    ``not_asked`` are services that this principal may not ask, and a SQL pool that can't be reached: a paused one runs
    nothing. Fails, after the others, if a run could not be cancelled or another service didn't answer.

    :param only_report: cancel nothing; text or bool.
    :param grace_minutes: younger runs are left alone.
    :param look_back_days: older runs aren't looked at.
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
        answer: dict[str, Any] = {"looked_at": 0, "kept": 0, "cancelled": [], "would_cancel": [], "unknown": []}
        answer["not_asked"] = []
        with airflow_edge(self.conn_id):
            connection = AzureConnection.load(self.conn_id)
            now, dry = datetime.now(UTC), truth(self.only_report, "only_report")
            problems: list[str] = []
            with contextlib.closing(Workspace(connection)) as space:
                for source in sources(connection, tidy=not dry):
                    with contextlib.closing(source):
                        problems += self._sweep(source, answer, now, dry)
                self.log.info(
                    "%d active runs of azflow: %d waited for, %d cancelled, %d unknown here.",
                    answer["looked_at"], answer["kept"], len(answer["cancelled"]), len(answer["unknown"]),
                )  # fmt: skip
                answer["deployments"] = list(self._old_deployments(space, now))
                answer["data"] = list(self._old_data(space, now))
        for each in answer["deployments"]:
            self.log.info("Without traffic for %(days)d days: %(deployment)s of endpoint %(endpoint)s", each)
        for each in answer["data"]:
            self.log.info("Registered %(days)d days ago: data asset %(name)s:%(version)s", each)
        with airflow_edge(self.conn_id):
            if problems:
                raise AzflowError("Not everything could be done:\n" + "\n".join(problems), retry_helps=True)
        return answer

    def _sweep(self, source: Source, answer: dict[str, Any], now: datetime, dry: bool) -> Iterator[str]:
        """One service: brings `answer` up to date, yields what went wrong."""
        try:
            for found in source.active(now - timedelta(days=self.look_back_days)):
                yield from self._one(source, found, answer, now, dry)
        except Exception as problem:
            why = first_line(problem)
            if source.service == SQL_SERVICE or isinstance(as_azflow_error(problem, self.conn_id), AccessDenied):
                answer["not_asked"].append({"service": source.service, "why": why})
                self.log.warning("%ss aren't looked at: %s", source.service, why)
            else:
                yield f"{source.service}s couldn't be looked at: {why}"

    def _one(self, source: Source, found: ActiveRun, answer: dict[str, Any], now: datetime, dry: bool) -> Iterator[str]:
        answer["looked_at"] += 1
        place = (found.dag, found.run, found.task, found.map_index)
        state = task_state(*place)
        # A task that runs SQL has no remote run to its name.
        current = current_run(*place) if state in _WAITING and source.service != SQL_SERVICE else None
        judged = judge(found, state, current, now, timedelta(minutes=self.grace_minutes))
        if judged.action == "keep":
            answer["kept"] += 1
            return
        shown = {**asdict(found), "created": found.created.isoformat(), "reason": judged.reason}
        said = f"{found.service} {found.name} ({found.dag}, {found.run}, {found.task}): {judged.reason}. {found.url}"
        said = said.rstrip()
        if judged.action == "report":
            answer["unknown"].append(shown)
            self.log.warning("Left alone: %s", said)
        elif dry:
            answer["would_cancel"].append(shown)
            self.log.info("Would be cancelled: %s", said)
        else:
            try:
                source.cancel(found)
            except Exception as problem:
                yield f"Not cancelled: {said} {first_line(problem)}"
                return
            answer["cancelled"].append(shown)
            self.log.info("Cancelled: %s", said)

    def _old_deployments(self, space: Workspace, now: datetime) -> Any:
        for endpoint in space.pages(space.arm("/onlineEndpoints")):
            traffic = endpoint["properties"].get("traffic") or {}
            for each in space.pages(space.arm(f"/onlineEndpoints/{quote(endpoint['name'])}/deployments")):
                days = (now - created(each)).days
                if not traffic.get(each["name"]) and days > self.deployment_days:
                    yield {"endpoint": endpoint["name"], "deployment": each["name"], "days": days}

    def _old_data(self, space: Workspace, now: datetime) -> Any:
        for container in space.pages(space.arm("/data")):
            for each in space.versions("data", container["name"]):
                tags = each["properties"].get("tags") or {}
                days = (now - created(each)).days
                if "dag" in tags and "row_count" in tags and days > self.data_days:
                    yield {"name": container["name"], "version": each["name"], "days": days}
