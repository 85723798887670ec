"""Runs that nobody waits for: which they are, and that only those are cancelled."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException

import azflow.active_runs
import azflow.orphans
import azflow.synapse
from azflow.active_runs import ActiveRun, labelled, read_job
from azflow.errors import ServiceUnavailable
from azflow.orphans import OrphanSweepOperator, judge
from azflow.sql_execution import BatchResult
from azure_edge import Edge, edge
from livy_edge import ENDPOINT, LivyEdge, livy
from workspace_edge import WORKSPACE, context_of

__all__ = ["edge", "livy"]

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)
JOB = ActiveRun("Azure ML job", "j", "j", "dag", "run", "task", -1, NOW - timedelta(hours=2))


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
    young = replace(JOB, created=NOW - timedelta(minutes=3))
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


# -- Synapse -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def synapse(livy: LivyEdge, monkeypatch: pytest.MonkeyPatch) -> LivyEdge:
    """A workspace with one Spark pool, without jobs of Azure ML; what a run's task is stands in its DAG run's name."""
    content = json.loads(os.environ["AIRFLOW_CONN_AZURE_DEFAULT"])
    content["extra"] |= {"synapse_endpoint": ENDPOINT, "spark_pool": "pool", "sql_server": ""}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(content))
    for collection in ("jobs", "onlineEndpoints", "data"):
        livy.on("GET", f"{WORKSPACE}/{collection}$", (200, {"value": []}))
    livy.on("GET", f"{ENDPOINT}/bigDataPools$", (200, {"value": [{"name": "pool"}]}))
    monkeypatch.setattr(azflow.orphans, "task_state", lambda dag, run, task, index: run.replace("cleared", ""))
    monkeypatch.setattr(azflow.orphans, "current_run", lambda *place: "1" if place[2] == "moved" else None)
    return livy


def tags(state: str, task: str = "task") -> dict[str, str]:
    return {"azflow.dag": "dag", "azflow.run": state, "azflow.task": task}


def batch(livy: LivyEdge, name: str, hours: float = 2, state: str = "running", **own: str) -> None:
    made = (datetime.now(UTC) - timedelta(hours=hours)).isoformat().replace("+00:00", "0Z")
    document = {"id": len(livy.batches), "name": name, "state": state, "result": "Uncertain", "tags": own, "polls": 0}
    livy.batches.append({**document, "schedulerInfo": {"submittedAt": made}})
    livy.polls_until_end = 100


def sweep(**arguments: Any) -> dict[str, Any]:
    operator = OrphanSweepOperator(task_id="sweep", **arguments)
    answer: dict[str, Any] = operator.execute(context_of(operator))
    return answer


def test_batches_whose_task_is_over_are_cancelled(synapse: LivyEdge) -> None:
    batch(synapse, "orphan", **tags("failed"))
    batch(synapse, "waited-for", **tags("deferred"))
    batch(synapse, "cleared", **tags("cleared"))
    batch(synapse, "another's", somebody="else")
    batch(synapse, "elsewhere", **tags("unknown"))
    batch(synapse, "young", hours=0.1, **tags("failed"))
    batch(synapse, "over", state="success", **tags("failed"))
    batch(synapse, "left-behind", **tags("running", "moved"))
    for number in range(30):  # more than a page
        batch(synapse, f"more-{number}", somebody="else")
    batch(synapse, "last", **tags("skipped"))
    dry = sweep(only_report=True)
    assert [run["name"] for run in dry["would_cancel"]] == ["orphan", "cleared", "left-behind", "last"]
    assert not [each for each in synapse.asked if each[0] == "DELETE"]
    answer = sweep()
    assert [run["name"] for run in answer["cancelled"]] == ["orphan", "cleared", "left-behind", "last"]
    assert [url.rpartition("/")[2] for method, url, _ in synapse.asked if method == "DELETE"] == ["0", "2", "7", "38"]
    assert (answer["looked_at"], answer["kept"], [run["name"] for run in answer["unknown"]]) == (7, 2, ["elsewhere"])
    assert answer["cancelled"][0]["pool"] == "pool" and "livyId=0" in answer["cancelled"][0]["url"]


def test_who_may_not_list_pools_has_its_own_looked_at(synapse: LivyEdge) -> None:
    synapse.on("GET", f"{ENDPOINT}/bigDataPools$", (403, {"code": "Forbidden", "message": "no"}))
    batch(synapse, "orphan", **tags("failed"))
    assert [run["name"] for run in sweep()["cancelled"]] == ["orphan"]


def notebook_run(livy: LivyEdge, id: str, status: str = "Running", written: str = "", **own: str) -> str:
    """A run and its record in the lake; its path."""
    result = {"runId": id, "runStatus": status, "notebook": "n"}
    livy.on("GET", f"{ENDPOINT}/notebooks/runs/{id}$", (200, {"result": result}))
    livy.on("POST", f"{ENDPOINT}/notebooks/runs/{id}/cancel$", (200, b""))
    path = f"lake/azflow/spark/notebooks/{id}.json"
    livy.blobs[path] = json.dumps({"tags": own}).encode()
    return path


def test_notebook_runs_are_found_by_their_records(synapse: LivyEdge) -> None:
    notebook_run(synapse, "orphan", **tags("failed"))
    notebook_run(synapse, "waited-for", **tags("deferred"))
    over = notebook_run(synapse, "over", "Succeeded", **tags("success"))
    synapse.on("GET", f"{ENDPOINT}/notebooks/runs/never-made$", (404, {"error": {"code": "NotFound", "message": "-"}}))
    never = "lake/azflow/spark/notebooks/never-made.json"
    synapse.blobs[never] = b'{"tags": {}}'
    synapse.blobs["lake/azflow/spark/notebooks/torn.json"] = b'{"tags"'
    dry = sweep(only_report=True, look_back_days=10_000)
    assert [run["name"] for run in dry["would_cancel"]] == ["orphan"] and over in synapse.blobs
    answer = sweep(look_back_days=10_000)
    assert [(run["service"], run["id"]) for run in answer["cancelled"]] == [("Synapse notebook run", "orphan")]
    assert answer["kept"] == 1
    asked = [url.removeprefix(ENDPOINT) for method, url, _ in synapse.asked if method == "POST"]
    assert asked == ["/notebooks/runs/orphan/cancel"]
    assert over not in synapse.blobs and never not in synapse.blobs


def test_one_service_that_does_not_answer_keeps_nothing_from_the_others(synapse: LivyEdge) -> None:
    synapse.on("GET", f"{WORKSPACE}/jobs$", (500, {"error": {"code": "Internal", "message": "on fire"}}))
    batch(synapse, "orphan", **tags("failed"))
    with pytest.raises(AirflowException, match=r"Azure ML jobs couldn't be looked at: .*on fire"):
        sweep()
    assert synapse.batches[0]["result"] == "Cancelled"


def test_a_service_that_may_not_be_asked_is_named(synapse: LivyEdge) -> None:
    synapse.on("GET", f"{ENDPOINT}/bigDataPools$", (401, {"code": "Unauthorized", "message": "no role"}))
    (found,) = sweep()["not_asked"]
    assert found["service"] == "Synapse Spark batch" and "no role" in found["why"]


class Pool:
    """A pool's connection: rows of dm_pdw_exec_requests, sessions that were killed."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self.rows, self.killed = rows, list[str]()

    def run_batch(self, connection: Any, text: str, values: Any = (), **_: Any) -> BatchResult:
        if text.startswith("KILL"):
            self.killed.append(text.split("'")[1])
        return BatchResult(rows=[list(row) for row in self.rows])

    def close(self) -> None:
        pass


def test_requests_of_the_pool_are_found_by_their_label(synapse: LivyEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads(os.environ["AIRFLOW_CONN_AZURE_DEFAULT"])
    content["extra"] |= {"sql_server": "ws1.sql.azuresynapse.net", "sql_database": "pool"}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(content))
    pool = Pool(
        [
            ("SID1", "QID1", "azflow:dag:task:failed", 7200),
            ("SID2", "QID2", "azflow:dag:task:running", 7200),
            ("SID3", "QID3", "azflow:dag:task:success", 60),
            ("SID4", "QID4", "azflow:somebody's", 7200),
        ]
    )
    monkeypatch.setattr(azflow.synapse, "connect", lambda *_: pool)
    monkeypatch.setattr(azflow.active_runs.sql_execution, "run_batch", pool.run_batch)
    answer = sweep()
    assert [run["name"] for run in answer["cancelled"]] == ["QID1"] and pool.killed == ["SID1"]
    assert (answer["looked_at"], answer["kept"]) == (3, 2)

    def refuse(*_: Any) -> Any:
        raise ServiceUnavailable("SQL pool can't be reached: it is paused")

    monkeypatch.setattr(azflow.synapse, "connect", refuse)
    (paused,) = sweep()["not_asked"]
    assert paused == {"service": "Synapse SQL request", "why": "SQL pool can't be reached: it is paused"}


def test_labels_name_their_task() -> None:
    assert labelled("azflow:dag:group.task:scheduled__2013-03-08T02:00:00+00:00") == (
        "dag",
        "scheduled__2013-03-08T02:00:00+00:00",
        "group.task",
    )
    assert labelled("azflow:dag:task") is None and labelled("theirs:dag:task:run") is None
