"""What is written down of a night's decision, whoever made it and whatever became of it."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

import azflow.decisions
from azflow.decisions import (
    RecordDecisionOperator,
    RecordHandDecisionOperator,
    decision,
    decision_tags,
    hand_decision,
)
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


# -- by hand -----------------------------------------------------------------------------------------------------------

MOVED = {"deployment": "v3", "before": {"v3": 0, "v4": 100}, "traffic": {"v3": 100, "v4": 0}}
VERSIONS = {"v3": "3", "v4": "4"}


@pytest.mark.parametrize(
    ("action", "left", "expected"),
    [
        ("roll_back", {"moved": MOVED}, ("rolled back", "serves", "4", "3")),
        ("shift", {"moved": MOVED | {"traffic": {"v3": 10, "v4": 90}}}, ("shifted", "gets 10 %", "4", "3")),
        ("roll_back", {}, ("rolled back", "not done", None, None)),
        ("promote", {"deployed": {"deployment": "v4"}}, ("promoted", "not shipped", None, "4")),
        (
            "promote",
            {"attempted": {"deployment": "v4", "champion": "v3", "traffic": {"v3": 100}, "problem": "at 10 %, slow."}},
            ("promoted", "rolled back", "3", "4"),
        ),
        ("promote", {"serving": {"deployment": "v4", "champion": "v3"}}, ("promoted", "serves", "3", "4")),
    ],
)
def test_what_a_person_did_and_what_became_of_it(action: str, left: dict[str, Any], expected: tuple[Any, ...]) -> None:
    row = hand_decision("m", action, by="kim", versions=VERSIONS, run_id="manual__1", **left)
    assert (row["decision"], row["outcome"], row["champion_version"], row["model_version"]) == expected
    assert (row["decided_by"], row["night"], row["metric"], row["run_id"]) == ("kim", None, None, "manual__1")


def test_the_reasons_are_the_persons_and_then_what_was_seen() -> None:
    row = hand_decision("m", "roll_back", by="kim", reason=" late answers ", moved=MOVED)
    assert row["reasons"] == "late answers; traffic v3 100 %, before v4 100 %"
    stages = [{"name": "10 %", "reasons": ["p95 900 ms, at most 200 ms"]}]
    taken_back = {"deployment": "v4", "traffic": {"v3": 100}, "problem": "at 10 %, slow.", "stages": stages}
    row = hand_decision("m", "promote", by="kim", reason="x" * 2000, attempted=taken_back)
    assert len(row["reasons"]) == 1000
    row = hand_decision("m", "promote", by="kim", attempted=taken_back)
    assert row["reasons"] == "traffic v3 100 %; at 10 %, slow.; 10 %: p95 900 ms, at most 200 ms"


def test_both_kinds_of_rows_have_the_tables_columns() -> None:
    by_hand = hand_decision("m", "roll_back", by="kim", moved=MOVED)
    assert by_hand.keys() == decision(NIGHT, "m", verdict=VERDICT).keys()


def by_hand(edge: Edge, xcoms: dict[str, Any], **said: Any) -> dict[str, Any]:
    """The row that the operator writes for a run of the DAG with this form."""
    models = {name: f"{WORKSPACE}/models/flight_delay/versions/{version}" for name, version in VERSIONS.items()}
    deployments = [{"name": name, "properties": {"model": model}} for name, model in models.items()]
    edge.on("GET", f"{WORKSPACE}/onlineEndpoints/e/deployments$", (200, {"value": deployments}))
    operator = RecordHandDecisionOperator(
        task_id="record",
        model="flight_delay",
        endpoint_name="e",
        sql="decisions/model_decisions.sql",
        by="{{ params.who }}",
        action="{{ params.action }}",
        version="{{ params.version or '' }}",
        reason="{{ params.reason or '' }}",
    )
    form = {"who": "kim", "version": None, "reason": None, **said}
    return operator.execute(context_of(operator, xcoms, **form))


def test_a_roll_back_by_hand_has_a_row(edge: Edge, statements: list[dict[str, Any]]) -> None:
    by_hand(edge, {"traffic": MOVED}, action="roll_back", reason="it answers late")
    (row,) = statements
    assert (row["decision"], row["decided_by"], row["outcome"]) == ("rolled back", "kim", "serves")
    assert (row["champion_version"], row["model_version"], row["deployment"]) == ("4", "3", "v3")
    assert row["reasons"].startswith("it answers late; traffic v3 100 %")


def test_a_promotion_by_hand_has_a_row_even_if_its_stages_failed(edge: Edge, statements: list[dict[str, Any]]) -> None:
    taken_back = {"deployment": "v4", "champion": "v3", "traffic": {"v3": 100}, "problem": "at 10 %, slow."}
    by_hand(edge, {"deploy": {"deployment": "v4"}, "stages.evidence": taken_back}, action="promote", version="4")
    assert (statements[0]["outcome"], statements[0]["model_version"]) == ("rolled back", "4")
    edge.on("GET", f"{WORKSPACE}/onlineEndpoints/e/deployments$", (403, {"error": {"code": "Forbidden"}}))
    assert by_hand(edge, {}, action="promote", version="5")["outcome"] == "not shipped"


def test_a_form_that_names_no_version_decided_nothing(edge: Edge, statements: list[dict[str, Any]]) -> None:
    with pytest.raises(AirflowSkipException, match="the form was incomplete"):
        by_hand(edge, {}, action="promote")
    assert statements == []
