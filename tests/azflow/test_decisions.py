"""What is written down of a night's decision, whoever made it and whatever became of it."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

import azflow.decisions
from azflow.decisions import RecordDecisionOperator, decision, decision_tags
from azflow.synapse import SynapseSqlOperator
from azure_edge import Edge, edge
from workspace_edge import HISTORY, NIGHT, WORKSPACE, context_of, workspace

__all__ = ["edge"]

VERDICT: dict[str, Any] = {
    "promote": True,
    "forced": False,
    "reasons": ["better on the same rows", "1.2 % less than the baseline"],
    "metric": "roc_auc",
    "rows": 5200,
    "lower_is_better": False,
    "champion_version": "3",
    "challenger": {"value": 0.71, "low": 0.69, "high": 0.73},
    "champion": {"value": 0.70, "low": 0.68, "high": 0.72},
    "difference": {"value": 0.01, "low": -0.001, "high": 0.02},
}
SERVING = {"deployment": "v4-abc", "traffic": {"v3-xyz": 0, "v4-abc": 100}}
BY_KIM = {"approved": True, "by": "kim", "at": "2013-03-09T08:30:00+02:00"}


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ({"approval": {"approved": True, "by": "gate"}, "serving": SERVING}, ("promoted", "gate", "serves")),
        ({"approval": BY_KIM, "attempted": SERVING}, ("promoted", "kim", "rolled back")),
        ({"approval": BY_KIM}, ("promoted", "kim", "not shipped")),
        ({"approval": {"approved": False, "by": "kim"}}, ("rejected", "kim", None)),
        ({"approval": {"approved": False, "by": "timeout"}}, ("rejected", "timeout", None)),
        ({"verdict": VERDICT | {"promote": False}, "approval": {"approved": False, "by": "gate"}},
         ("rejected", "gate", None)),
        ({}, ("open", None, None)),
    ],
)  # fmt: skip
def test_who_decided_what_and_what_became_of_it(left: dict[str, Any], expected: tuple[str, str | None, str]) -> None:
    row = decision(NIGHT, "flight_delay", **{"verdict": VERDICT, **left})
    assert (row["decision"], row["decided_by"], row["outcome"]) == expected


def test_the_row_has_the_figures_and_what_they_are_about() -> None:
    row = decision(
        NIGHT,
        "flight_delay",
        verdict=VERDICT,
        approval=BY_KIM,
        training={"name": "train-1"},
        data={"id": "azureml:flight_delay_train:2013-03-08-abc"},
        registered={"version": "4"},
        serving=SERVING,
    )
    assert row["decided_at"] == "2013-03-09 06:30:00"  # UTC
    assert (row["challenger"], row["champion_low"], row["difference_high"]) == (0.71, 0.68, 0.02)
    assert (row["champion_version"], row["model_version"], row["deployment"]) == ("3", "4", "v4-abc")
    tags = decision_tags(row)
    assert tags["decision"] == "promoted" and tags["decision.by"] == "kim" and tags["decision.outcome"] == "serves"
    assert tags["decision.challenger"] == "0.7100 [0.6900, 0.7300]"
    assert tags["decision.difference"] == "0.0100 [-0.0010, 0.0200]"
    assert tags["decision.data"] == "azureml:flight_delay_train:2013-03-08-abc"
    assert tags["decision.run"] == "manual__1"


def test_a_first_model_and_one_that_could_not_be_measured_have_rows() -> None:
    first = decision(NIGHT, "m", verdict=VERDICT | {"champion": None, "difference": None, "champion_version": None})
    assert first["champion"] is first["difference_low"] is first["champion_version"] is None
    assert "decision.champion" not in decision_tags(first)
    unmeasured = {"value": None, "low": None, "high": None}
    forced = VERDICT | {"promote": False, "forced": True, "challenger": unmeasured, "reasons": ["x" * 9000]}
    row = decision(NIGHT, "m", verdict=forced)
    assert row["challenger"] is None and len(row["reasons"]) == 1000
    assert decision_tags(row)["decision"] == "rejected, forced"
    assert all(len(value) <= 256 for value in decision_tags(row).values())


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The parameters that the SQL file got, instead of a pool."""
    seen: list[dict[str, Any]] = []

    def execute(operator: SynapseSqlOperator, context: Any) -> dict[str, Any]:
        seen.append(operator.parameters)
        return {"rows": [["2013-03-08", "promoted", None]]}

    monkeypatch.setattr(SynapseSqlOperator, "execute", execute)
    return seen


XCOMS = {
    "evaluate.verdict": VERDICT,
    "approve": BY_KIM,
    "train.job": {"name": "train-1"},
    "register.model": {"name": "flight_delay", "version": "4"},
    "roll_out.traffic": SERVING,
}


def test_a_row_and_tags_on_run_and_version(edge: Edge, statements: list[dict[str, Any]]) -> None:
    workspace(edge)
    tagged: dict[str, Any] = {}
    model = {"name": "4", "properties": {"modelUri": "azureml://x", "tags": {"job": "train-1"}, "stage": None}}
    edge.on("PATCH", f"{HISTORY}/runs/train-1$", lambda _, body: (tagged.update(run=body["tags"]), (200, {}))[1])
    edge.on("GET", f"{WORKSPACE}/models/flight_delay/versions/4$", (200, model))
    edge.on(
        "PUT",
        f"{WORKSPACE}/models/flight_delay/versions/4$",
        lambda _, body: (tagged.update(version=body["properties"]["tags"]), (200, model))[1],
    )
    operator = RecordDecisionOperator(task_id="record", model="flight_delay", sql="decisions/model_decisions.sql")
    done = operator.execute(context_of(operator, dict(XCOMS)))
    assert done["tagged"] == ["train-1", "4"] and done["outcome"] == "serves"
    assert statements[0]["model_name"] == "flight_delay" and statements[0]["night"] == "2013-03-08"
    assert tagged["run"]["decision"] == "promoted"
    assert tagged["version"] == {"job": "train-1", **tagged["run"]}


def test_a_challenger_that_lost_is_tagged_at_its_run_alone(edge: Edge, statements: list[dict[str, Any]]) -> None:
    workspace(edge)
    edge.on("PATCH", f"{HISTORY}/runs/train-1$", (403, {"error": {"code": "Forbidden", "message": "read only"}}))
    lost = {"evaluate.verdict": VERDICT | {"promote": False}, "train.job": {"name": "train-1"}}
    operator = RecordDecisionOperator(task_id="record", model="flight_delay")
    # The label can't be written: the decision stands all the same.
    assert operator.execute(context_of(operator, lost))["tagged"] == []
    assert statements == []


def test_without_a_verdict_there_is_nothing_to_write(statements: list[dict[str, Any]]) -> None:
    operator = RecordDecisionOperator(task_id="record", sql="decisions/model_decisions.sql")
    with pytest.raises(AirflowSkipException, match="left no verdict"):
        operator.execute(context_of(operator, {"train.job": {"name": "train-1"}}))
    assert statements == []
    assert azflow.decisions.EVIDENCE_XCOM == "evidence"
