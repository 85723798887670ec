"""One HTML page a night: what was decided and why, what it is based on, and what each step took.

`collect` turns what the run's tasks left (XComs, states, times) into one plain dictionary, `night_page.render` that
into a page. Both take a night that stopped half-way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azflow.connection import AzureConnection
from azflow.night_page import render, summarise
from azflow.runs import RUN_XCOM, SPEND_XCOM, AzflowOperator, RunLink, airflow_edge
from azflow.specs import Night

__all__ = ["RunReportOperator", "collect", "publish_page", "render", "summarise"]

if TYPE_CHECKING:
    from airflow.sdk import Context

#: XCom of a quality task, also there if it failed.
_QUALITY_XCOM = "quality"
#: The roll-out, and where it leaves what it saw, also if it failed.
_ROLLOUT, _EVIDENCE_XCOM = "roll_out.traffic", "evidence"


class RunReportOperator(AzflowOperator):
    """Writes the night's page to the lake, whatever happened before.

    XCom: ``{"url", "path", "summary": {"outcome", "promoted", "metric", "challenger", "champion", "difference",
    "model_version", "rows_written", "traffic", "node_hours", "seconds"}}``.
    """

    operator_extra_links = (RunLink("Report"),)
    ui_color = "#efe6fb"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: URL of the page, for the link.
        self.run_url = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Collect, render, upload."""
        with airflow_edge(self.conn_id):
            report = collect(context, self.model)
            night: Night = context["night"]  # type: ignore[typeddict-item]
            run = re.sub(r"[^A-Za-z0-9._-]+", "-", night.run_id).strip("-")
            path = f"reports/{self.model or night.dag_id}/{night.partition}/{run}.html"
            self.run_url = publish_page(AzureConnection.load(self.conn_id), path, render(report))
            self.log.info("Report: %s", self.run_url)
            return {"url": self.run_url, "path": path, "summary": summarise(report)}


def publish_page(connection: AzureConnection, path: str, html: str) -> str:
    """Write an HTML page to the lake's container; its URL."""
    from azure.storage.blob import ContentSettings

    settings = ContentSettings(content_type="text/html; charset=utf-8", cache_control="no-cache")
    with connection.blob_service() as service:
        blob = service.get_blob_client(connection.container, path)
        blob.upload_blob(html.encode(), overwrite=True, content_settings=settings)
        return str(blob.url)


# collecting


def collect(context: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What the run's tasks left, as plain values: the input of `render`.

    ``steps``: ``[{"task", "state", "start": seconds from the first, "seconds", "operator", "url"}]``;
    ``left``: task id -> its XCom; ``quality``: the summaries of the quality tasks; ``spent``: task id -> what its
    Azure ML job cost, where that failed.
    """
    ti = context["ti"]
    night: Night = context["night"]
    tasks = [task for task in context["dag"].topological_sort() if task.task_id != ti.task_id]
    steps, measured = _steps(ti, tasks, getattr(context["dag_run"], "logical_date", None))
    left = {task.task_id: ti.xcom_pull(task_ids=task.task_id) for task in tasks}
    if left.get(_ROLLOUT) is None and _ROLLOUT in left:
        # A roll-out that was taken back: what it saw is what people look for.
        left[_ROLLOUT] = ti.xcom_pull(task_ids=_ROLLOUT, key=_EVIDENCE_XCOM)
    quality = [
        found
        for task in tasks
        if task.task_id.startswith("quality.")
        and (found := ti.xcom_pull(task_ids=task.task_id, key=_QUALITY_XCOM)) is not None
    ]
    spent = {}
    for step in steps:
        if isinstance(cost := ti.xcom_pull(task_ids=step["task"], key=SPEND_XCOM), Mapping):
            spent[step["task"]] = cost
        run = ti.xcom_pull(task_ids=step["task"], key=RUN_XCOM)
        step["url"] = run.get("url", "") if isinstance(run, Mapping) else ""
    return {
        "model": model or night.dag_id,
        "partition": night.partition.isoformat(),
        "first_day": night.first_day,
        "dag_id": night.dag_id,
        "run_id": night.run_id,
        "airflow": _run_url(night),
        "generated": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "steps": steps,
        "measured": measured,
        "quality": quality,
        "spent": spent,
        "left": {task: value for task, value in left.items() if value is not None},
    }


def _run_url(night: Night) -> str:
    from airflow.sdk.configuration import conf

    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}/dags/{quote(night.dag_id)}/runs/{quote(night.run_id, safe='')}" if base else ""


def _steps(ti: Any, tasks: Sequence[Any], logical_date: datetime | None) -> tuple[list[dict[str, Any]], bool]:
    """The tasks in order, and whether their starts are measured.

    Airflow tells a task the states and durations of its run's tasks, but when one started only for runs that it can
    find by their logical date; else starts are reckoned from what each task waited for.
    """
    crumbs = {crumb["task_id"]: crumb for crumb in ti.get_task_breadcrumbs(ti.dag_id, ti.run_id)}
    states = ti.get_task_states(ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    starts = _measured_starts(ti, tasks, logical_date)
    steps: list[dict[str, Any]] = []
    ends: dict[str, float] = {}
    for task in tasks:
        crumb = crumbs.get(task.task_id, {})
        seconds = float(crumb.get("duration") or 0.0)
        waited = max((ends.get(before, 0.0) for before in task.upstream_task_ids), default=0.0)
        start = starts.get(task.task_id, waited)
        ends[task.task_id] = start + seconds
        state = crumb.get("state") or states.get(task.task_id) or ""
        steps.append(
            {
                "task": task.task_id,
                "state": str(getattr(state, "value", state)),
                "start": round(start, 2),
                "seconds": round(seconds, 2),
                "operator": type(task).__name__,
                "url": "",
            }
        )
    return steps, bool(starts)


def _measured_starts(ti: Any, tasks: Sequence[Any], logical_date: datetime | None) -> dict[str, float]:
    """Task id -> seconds from the first start; empty if they can't be had for this run."""
    if logical_date is None:
        return {}
    found: dict[str, datetime] = {}
    for task in tasks:
        try:
            seen = _ask_start(ti.dag_id, task.task_id, logical_date + timedelta(microseconds=1))
        except Exception:
            return {}
        if seen is not None and seen[0] == ti.run_id and seen[1] is not None:
            found[task.task_id] = seen[1]
    first = min(found.values(), default=None)
    return {task: (start - first).total_seconds() for task, start in found.items()} if first else {}


def _ask_start(dag_id: str, task_id: str, before: datetime) -> tuple[str, datetime | None] | None:
    """(run, start) of the latest instance of a task before an instant."""
    from airflow.sdk.execution_time.comms import GetPreviousTI
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    answer: Any = SUPERVISOR_COMMS.send(GetPreviousTI(dag_id=dag_id, task_id=task_id, logical_date=before))
    previous = getattr(answer, "task_instance", answer)
    if previous is None or not hasattr(previous, "run_id"):
        return None
    return previous.run_id, previous.start_date
