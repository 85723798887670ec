"""Jobs that nobody waits for: which they are, and that only those are cancelled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException

import azflow.orphans
from azflow.orphans import Job, OrphanSweepOperator, judge, read_job
from azure_edge import Edge, edge
from workspace_edge import WORKSPACE, context_of

__all__ = ["edge"]

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)
JOB = Job("j", "dag", "run", "task", -1, NOW - timedelta(hours=2))


@pytest.mark.parametrize(
    ("state", "current", "action", "reason"),
    [
        ("running", "j", "keep", "its task is running"),
        ("deferred", None, "keep", "its task is deferred"),
        ("up_for_retry", "j", "keep", "its task is up_for_retry"),
        ("deferred", "other", "cancel", "its task is deferred and waits for other"),
        ("success", "j", "cancel", "its task is success"),
        ("failed", "j", "cancel", "its task is failed"),
        ("", None, "cancel", "its task is cleared"),
        ("unknown", None, "report", "this Airflow doesn't know its task"),
    ],
)
def test_who_waits_for_a_job(state: str, current: str | None, action: str, reason: str) -> None:
    found = judge(JOB, state, current, NOW, timedelta(minutes=15))
    assert found.action == action and found.reason.startswith(reason)


def test_a_young_job_is_left_alone() -> None:
    young = Job("j", "dag", "run", "task", -1, NOW - timedelta(minutes=3))
    assert judge(young, "failed", None, NOW, timedelta(minutes=15)).action == "keep"


def document(name: str, status: str = "Running", hours: float = 2, **tags: str) -> dict[str, Any]:
    """A job's resource, as old as that."""
    own = {"azflow.dag": "dag", "azflow.run": f"run of {name}", "azflow.task": "task", **tags}
    made = (datetime.now(UTC) - timedelta(hours=hours)).isoformat().replace("+00:00", "0Z")  # seven digits
    return {"name": name, "properties": {"status": status, "tags": own}, "systemData": {"createdAt": made}}


def test_only_active_jobs_of_a_task_are_looked_at() -> None:
    assert read_job(document("j", "Completed")) is None
    assert read_job(document("j", **{"azflow.task": ""})) is None
    found = read_job(document("j", **{"azflow.map_index": "3"}))
    assert found is not None and (found.task, found.map_index) == ("task", 3)


@pytest.fixture
def swept(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> Edge:
    """A workspace with jobs in all conditions; what their tasks are stands in their names."""
    names = ("failed", "deferred", "unknown", "success")
    jobs = [*(document(name) for name in names), document("done", "Failed"), document("ancient", hours=24 * 30)]
    edge.on("GET", f"{WORKSPACE}/jobs$", (200, {"value": jobs}))
    edge.on("POST", "/jobs/[a-z]+/cancel$", (202, b""))
    idle = {"name": "old", "systemData": {"createdAt": "2013-01-01T00:00:00Z"}, "properties": {}}
    served = {**idle, "name": "serves"}
    edge.on(
        "GET",
        f"{WORKSPACE}/onlineEndpoints$",
        (200, {"value": [{"name": "e", "properties": {"traffic": {"serves": 100}}}]}),
    )
    edge.on("GET", f"{WORKSPACE}/onlineEndpoints/e/deployments$", (200, {"value": [idle, served]}))
    edge.on("GET", f"{WORKSPACE}/data$", (200, {"value": [{"name": "train"}]}))
    ours = {**idle, "name": "7", "properties": {"tags": {"dag": "d", "row_count": "9"}}}
    edge.on("GET", f"{WORKSPACE}/data/train/versions$", (200, {"value": [ours, {**ours, "properties": {}}]}))
    monkeypatch.setattr(azflow.orphans, "task_state", lambda dag, run, task, index: run.removeprefix("run of "))
    monkeypatch.setattr(azflow.orphans, "current_run", lambda *place: None)
    return edge


def cancelled(edge: Edge) -> list[str]:
    return [url.split("/")[-2] for method, url, _ in edge.asked if method == "POST"]


def test_a_sweep_cancels_the_orphans_and_names_the_rest(swept: Edge) -> None:
    operator = OrphanSweepOperator(task_id="sweep")
    answer = operator.execute(context_of(operator))
    assert cancelled(swept) == ["failed", "success"]
    assert [job["name"] for job in answer["cancelled"]] == ["failed", "success"]
    assert (answer["looked_at"], answer["kept"], [job["name"] for job in answer["unknown"]]) == (4, 1, ["unknown"])
    (old,), (data,) = answer["deployments"], answer["data"]
    assert (old["endpoint"], old["deployment"]) == ("e", "old")
    assert (data["name"], data["version"]) == ("train", "7")


def test_a_sweep_may_only_report(swept: Edge) -> None:
    operator = OrphanSweepOperator(task_id="sweep", only_report="{{ params.only }}")
    answer = operator.execute(context_of(operator, only="True"))
    assert cancelled(swept) == [] and answer["cancelled"] == []
    assert [job["name"] for job in answer["would_cancel"]] == ["failed", "success"]


def test_an_orphan_that_cannot_be_cancelled_fails_the_task_after_the_others(swept: Edge) -> None:
    swept.on("POST", "/jobs/failed/cancel$", (409, {"error": {"code": "Conflict", "message": "busy"}}))
    swept.on("GET", f"{WORKSPACE}/jobs/failed$", (200, document("failed")))
    operator = OrphanSweepOperator(task_id="sweep")
    with pytest.raises(AirflowException, match=r"its task is failed.*busy"):
        operator.execute(context_of(operator))
    assert "success" in cancelled(swept)
