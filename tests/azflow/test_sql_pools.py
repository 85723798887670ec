"""A dedicated pool paused, resumed and scaled; Resource Manager answers at the HTTP edge, the pool is a fake."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

import azflow.sql_pools
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, PoolInUse
from azflow.sql_pools import RunningRequest, SqlPoolChanges, SqlPoolOperator
from azure_edge import Edge, edge

__all__ = ["edge"]

POOL = "/workspaces/syn/sqlPools/pool1"


@pytest.fixture(autouse=True)
def connection(monkeypatch: pytest.MonkeyPatch) -> AzureConnection:
    found = AzureConnection(
        id="azure_default",
        subscription_id="s",
        resource_group="g",
        sql_server="syn.sql.azuresynapse.net",
        sql_database="pool1",
    )
    monkeypatch.setattr(AzureConnection, "load", lambda conn_id="azure_default": found)
    return found


class Arm:
    """One pool: a request changes its status after so many looks."""

    def __init__(self, edge: Edge, status: str, looks: int = 1) -> None:
        self.status, self.sku, self.looks = status, "DW100c", looks
        self.asked: list[Any] = []
        self._then: tuple[str, str] | None = None
        edge.on("GET", f"{POOL}$", lambda match, body: self.look())
        edge.on("POST", f"{POOL}/pause$", lambda match, body: self.begin("pause", "Pausing", "Paused"))
        edge.on("POST", f"{POOL}/resume$", lambda match, body: self.begin("resume", "Resuming", "Online"))
        edge.on("PATCH", f"{POOL}$", lambda match, body: self.begin(body, "Scaling", "Online", body["sku"]["name"]))

    def begin(self, what: Any, through: str, end: str, sku: str = "") -> tuple[int, Any]:
        self.asked.append(what)
        self._then = (end, sku or self.sku)
        self.status = through
        return 202, {}

    def look(self) -> tuple[int, Any]:
        if self._then:
            self.looks -= 1
            if self.looks < 0:
                self.status, self.sku = self._then
        return 200, {"name": "pool1", "properties": {"status": self.status}, "sku": {"name": self.sku}}


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[list[RunningRequest]]:
    """What each look into the pool finds; empty: nothing runs."""
    looks: list[list[RunningRequest]] = []
    monkeypatch.setattr(azflow.sql_pools, "running_requests", lambda connection, label: looks.pop(0) if looks else [])
    return looks


def run(**arguments: Any) -> Any:
    task = SimpleNamespace(retries=0)
    ti = SimpleNamespace(
        dag_id="d", task_id="t", run_id="r", map_index=-1, task=task, max_tries=0, xcom_push=lambda key, value: None
    )
    operator = SqlPoolOperator(task_id="t", poll_seconds=0.01, **arguments)
    return operator.execute({"ti": ti})  # type: ignore[typeddict-item]


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("before", "arguments", "asked", "after"),
    [
        ("Online", {"action": "pause"}, ["pause"], ("Paused", "DW100c")),
        ("Paused", {"action": "resume"}, ["resume"], ("Online", "DW100c")),
        ("Online", {"action": "scale", "objective": "DW200c"}, [{"sku": {"name": "DW200c"}}], ("Online", "DW200c")),
        ("Paused", {"action": "pause"}, [], ("Paused", "DW100c")),
        ("Online", {"action": "scale", "objective": "dw100C"}, [], ("Online", "DW100c")),
    ],
)
def test_a_pool_becomes_what_it_is_to_be_once(
    edge: Edge, before: str, arguments: dict[str, Any], asked: list[Any], after: tuple[str, str]
) -> None:
    arm = Arm(edge, before)
    result = run(**arguments)
    assert (result["status"], result["objective"]) == after
    assert (result["pool"], result["action"]) == ("pool1", arguments["action"])
    assert arm.asked == asked


def test_a_pool_on_its_way_is_waited_for(edge: Edge, others: list[list[RunningRequest]]) -> None:
    arm = Arm(edge, "Online")
    arm.begin("somebody", "Pausing", "Paused")
    others.append([RunningRequest("QID1", "SID9", 1, "", "SELECT 1")])  # it isn't asked: the pause is under way
    assert run(action="pause")["status"] == "Paused"
    assert arm.asked == ["somebody"]


def test_a_long_operation_is_deferred(edge: Edge) -> None:
    Arm(edge, "Paused", looks=1000)
    with pytest.raises(TaskDeferred) as deferred:
        run(action="resume", grace_seconds=0.05)
    arguments = deferred.value.trigger.serialize()[1]
    assert arguments["factory"] == "azflow.sql_pools.SqlPoolChanges"
    assert arguments["arguments"] == {"action": "resume", "objective": ""}
    json.dumps(arguments)


BUSY = [RunningRequest("QID7", "SID52", 61, "report", "SELECT * FROM ml.flights")]


@pytest.mark.parametrize("arguments", [{"action": "pause"}, {"action": "scale", "objective": "DW200c"}])
def test_what_others_run_is_not_ended(
    edge: Edge, others: list[list[RunningRequest]], arguments: dict[str, Any]
) -> None:
    arm = Arm(edge, "Online")
    others.append(BUSY)
    says = r"QID7 of session SID52, label 'report', for 61 s: SELECT \* FROM ml\.flights"
    with pytest.raises(AirflowException, match=says) as refused:
        run(**arguments)
    assert isinstance(refused.value.__cause__, PoolInUse)
    assert not isinstance(refused.value, AirflowFailException)  # later it may be free
    assert arm.asked == []
    others.append(BUSY)
    run(**arguments, guard=False)
    assert len(arm.asked) == 1


def test_others_may_be_waited_for(
    edge: Edge, others: list[list[RunningRequest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = Arm(edge, "Online")
    others += [BUSY, BUSY]
    slept: list[float] = []
    monkeypatch.setattr(SqlPoolOperator, "_sleep", lambda self, seconds: slept.append(seconds))
    run(action="pause", wait_minutes=1)
    assert arm.asked == ["pause"] and others == [] and slept[:2] == [1.0, 2.0]


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("status", "arguments", "says"),
    [
        ("Online", {"action": "delete"}, "action is 'delete'; use pause, resume, scale"),
        ("Online", {"action": "scale"}, "objective, e.g. 'DW200c', belongs to"),
        ("Online", {"action": "pause", "objective": "DW200c"}, "objective"),
        ("Paused", {"action": "scale", "objective": "DW200c"}, "is paused and can't be scaled: resume it first"),
    ],
)
def test_what_cannot_be_done_is_said(edge: Edge, status: str, arguments: dict[str, Any], says: str) -> None:
    arm = Arm(edge, status)
    with pytest.raises(AirflowFailException, match=says):
        run(**arguments)
    assert arm.asked == []


@pytest.mark.usefixtures("others")
def test_resource_managers_refusals(edge: Edge, connection: AzureConnection) -> None:
    Arm(edge, "Online")
    edge.on("POST", f"{POOL}/pause$", (409, {"error": {"code": "ConflictingDatabaseOperation", "message": "busy"}}))
    with pytest.raises(AirflowException, match="busy with another operation") as refused:
        run(action="pause")
    assert not isinstance(refused.value, AirflowFailException)
    edge.on("GET", f"{POOL}$", (404, {"error": {"code": "ResourceNotFound", "message": "no"}}))
    with pytest.raises(AirflowFailException, match=r"There is no SQL pool .*/sqlPools/pool1"):
        run(action="pause")
    edge.on("GET", f"{POOL}$", (403, {"error": {"code": "AuthorizationFailed", "message": "no role"}}))
    with pytest.raises(AirflowFailException, match=r"'azure_default' was refused.*no role"):
        run(action="pause")
    with pytest.raises(ConfigurationError, match="can't be taken back"):
        SqlPoolChanges(connection, "pause").cancel("x")


def test_the_workspace_and_the_serverless_host_follow_from_the_others() -> None:
    named = AzureConnection(
        id="c", synapse_endpoint="https://ws.dev.azuresynapse.net/", sql_server="x.sql.azuresynapse.net,1433"
    )
    assert (named.synapse_workspace, named.sql_host("serverless")) == ("ws", "x-ondemand.sql.azuresynapse.net,1433")
    private = AzureConnection(id="c", sql_server="localhost,1")
    with pytest.raises(ConfigurationError, match="set the extra synapse_workspace"):
        private.synapse_workspace  # noqa: B018
    with pytest.raises(ConfigurationError, match=r"set the extra sql_serverless_server.*\(localhost,1\)"):
        private.sql_host("serverless")
