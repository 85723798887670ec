"""A night's decision, where people look for it: one row in the SQL pool, tags on the run and on the version."""

from __future__ import annotations

import json
import logging
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from azure.ai.ml import command

from azflow.connection import AzureConnection
from azflow.decisions import RecordDecisionOperator, RecordHandDecisionOperator
from azflow.registry import ModelRegistry
from azflow.specs import INCLUDE
from azflow.synapse import connect

pytestmark = pytest.mark.evidence("sdk")

NOW = datetime(2013, 3, 9, 2, tzinfo=UTC)


@pytest.fixture
def connection(localazure: Any, monkeypatch: pytest.MonkeyPatch) -> AzureConnection:
    content = localazure.airflow_connection()
    content["extra"] |= {name: localazure[name] for name in ("synapse_endpoint", "sql_server", "sql_database")}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(content))
    return AzureConnection.load()


class TaskInstance:
    """What the operator sees of its task instance: what the tasks before it left."""

    dag_id, task_id, run_id, map_index, max_tries, try_number = "nightly", "record", "manual__1", -1, 0, 1

    def __init__(self, left: dict[str, Any]) -> None:
        self._left = left

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self._left.get(task_ids) if key == "return_value" else None


def record(model: str, run_id: str, partition: str = "2013-03-08", **left: Any) -> dict[str, Any]:
    verdict = {
        "promote": True,
        "reasons": ["it's better, on 100 % of the rows?"],
        "metric": "roc_auc",
        "rows": 5200,
        "challenger": {"value": 0.71, "low": 0.69, "high": 0.73},
        "champion": None,
        "difference": None,
        "champion_version": None,
    }
    ti = TaskInstance({"evaluate.verdict": verdict | left.pop("verdict", {}), **left})
    ti.run_id = run_id
    operator = RecordDecisionOperator(task_id="record", model=model, sql="decisions/model_decisions.sql")
    run = SimpleNamespace(dag_id="nightly", run_id=run_id, logical_date=None, run_after=None, partition_key=None)
    context: Any = {"ti": ti, "dag_run": run, "params": {"partition": partition}}
    operator.render_template_fields(context, jinja2.Environment(loader=jinja2.FileSystemLoader(INCLUDE / "sql")))
    return operator.execute(context)


def rows(connection: AzureConnection, model: str) -> list[tuple[Any, ...]]:
    with connect(connection, logging.getLogger(__name__)) as opened, opened.cursor() as cursor:
        cursor.execute(
            "SELECT CONVERT(varchar(10), night, 120), decision, decided_by, outcome, challenger, champion_low, "
            "model_version, run_id, reasons FROM ml.model_decisions WHERE model_name = ? ORDER BY night",
            (model,),
        )
        return [tuple(row) for row in cursor.fetchall()]


def test_a_night_has_one_row_however_often_it_runs(connection: AzureConnection) -> None:
    model = f"decided_{uuid.uuid4().hex[:8]}"
    says = "it's better, on 100 % of the rows?"
    record(model, "first", approve={"approved": False, "by": "timeout"})
    assert rows(connection, model) == [("2013-03-08", "rejected", "timeout", None, 0.71, None, None, "first", says)]
    champion = {"value": 0.7, "low": 0.68, "high": 0.72}
    left = {"approve": {"approved": True, "by": "gate"}, "verdict": {"champion": champion, "champion_version": "1"}}
    for _ in range(2):
        done = record(model, "again", **left)
    record(model, "next", "2013-03-09", verdict={"promote": False}, approve={"approved": False, "by": "gate"})
    assert (done["tagged"], done["champion_version"]) == ([], "1")
    assert rows(connection, model) == [
        ("2013-03-08", "promoted", "gate", "not shipped", 0.71, 0.68, None, "again", says),
        ("2013-03-09", "rejected", "gate", None, 0.71, None, None, "next", says),
    ]


def test_the_run_and_the_version_bear_the_decision(connection: AzureConnection, localazure: Any) -> None:
    name = f"decided-{uuid.uuid4().hex[:8]}"
    client = localazure.ml_client()
    curated = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"
    training = command(command="true", environment=curated, compute="cpu-cluster", name=f"{name}-train")
    job = str(client.jobs.create_or_update(training).name)
    registry = ModelRegistry(connection, name)
    version = registry.register(job, "azureml://datastores/lake/paths/nowhere/", "custom_model", {"dag": "d"})
    trained = {"train.job": {"name": job}, "register.model": version.as_dict()}
    done = record(name, "tagged", approve={"approved": True, "by": "kim"}, **trained)
    assert done["tagged"] == [job, version.version]
    tags = client.jobs.get(job).tags
    assert tags["decision.by"] == "kim" and tags["decision.outcome"] == "not shipped"
    tags = client.models.get(name, version.version).tags
    assert tags["decision"] == "promoted" and tags["decision.challenger"] == "0.7100 [0.6900, 0.7300]"
    assert (tags["dag"], tags["job"], tags["role"]) == ("d", job, "challenger")  # lineage and role stay


def test_what_a_person_did_is_a_row_without_a_night(connection: AzureConnection) -> None:
    model, endpoint = f"decided_{uuid.uuid4().hex[:8]}", "nobody-has-it"
    record(model, "nightly", approve={"approved": True, "by": "gate"})
    moved = {"deployment": "v1", "before": {"v1": 0, "v2": 100}, "traffic": {"v1": 100, "v2": 0}}
    for run_id, by in (("by-hand", "kim"), ("by-hand", "kim"), ("later", "sam")):
        operator = RecordHandDecisionOperator(
            task_id="record", model=model, sql="decisions/model_decisions.sql", endpoint_name=endpoint, by=by,
            action="roll_back", reason="it's late",
        )  # fmt: skip
        run = SimpleNamespace(dag_id="rollout", run_id=run_id, logical_date=None, run_after=NOW, partition_key=None)
        ti = TaskInstance({"traffic": moved})
        ti.run_id = run_id
        context: Any = {"ti": ti, "dag_run": run, "params": {}}
        operator.render_template_fields(context, jinja2.Environment(loader=jinja2.FileSystemLoader(INCLUDE / "sql")))
        operator.execute(context)
    record(model, "nightly again", approve={"approved": True, "by": "gate"})  # replaces the night's, and no other
    found = {row[7]: row for row in rows(connection, model)}
    assert found.keys() == {"by-hand", "later", "nightly again"} and len(rows(connection, model)) == len(found)
    says = "it's late; traffic v1 100 %, before v2 100 %"
    assert found["by-hand"] == (None, "rolled back", "kim", "serves", None, None, None, "by-hand", says)
