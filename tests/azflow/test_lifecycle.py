"""Spec -> plan -> DAG, and what approval lets through. The plan needs no Airflow; the DAG is built for real."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, chain
from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped, TaskAwaitingInput

from azflow import lifecycle
from azflow.approval import AutomaticApproval, PersonalApproval
from azflow.specs import Approve, ModelSpec, Person, Spend, find_specs

CHAIN = [
    "arrival.wait_for_data",
    "prepare.stage_flights",
    "quality.flight_features",
    "data.export",
    "data.train",
    "train.job",
    "evaluate.champion",
    "evaluate.job",
    "evaluate.verdict",
    "approve",
    "register.model",
    "roll_out.deploy",
    "roll_out.traffic",
    "write_back.champion",
    "write_back.score",
    "write_back.table",
    "report",
]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    (path,) = (path for path in find_specs() if path.parent.name == "flight_delay")
    return ModelSpec.load(path)


@pytest.fixture(scope="module")
def plan(spec: ModelSpec) -> lifecycle.Plan:
    return lifecycle.plan(spec)


@pytest.fixture(scope="module")
def dag(plan: lifecycle.Plan, spec: ModelSpec) -> DAG:
    with DAG(**lifecycle.dag_arguments(plan)) as built:
        stages = {stage: lifecycle.build(plan, stage, built) for stage in plan.stages()}
        chain(
            *(stages[stage] for stage in plan.stages()[:-3]), [stages["record"], stages["write_back"]], stages["report"]
        )
    built.params = lifecycle.form(spec)
    return built


# -- plan ------------------------------------------------------------------------------------------------------------


def test_the_plan_has_every_stage_in_order(plan: lifecycle.Plan) -> None:
    ids = [task.id for task in plan.tasks]
    assert plan.dag_id == "nightly_retraining_flight_delay"
    assert [name for name in ids if name in CHAIN] == CHAIN
    assert plan.stages() == lifecycle.STAGES


def test_every_task_of_azflow_knows_connection_and_model(plan: lifecycle.Plan) -> None:
    for task in plan.tasks:
        assert task.arguments["conn_id"] == "azure_default" and task.arguments["model"] == "flight_delay", task.id


def test_steps_wait_for_what_they_name(plan: lifecycle.Plan) -> None:
    after = {task.name: task.after for task in plan.stage("prepare")}
    assert after["stage_flights"] == ()
    assert after["stage_weather"] == ("prepare.stage_flights",)
    assert after["airport_congestion"] == ("prepare.stage_flights",)
    waited = ("stage_weather", "stage_planes", "stage_airports", "airport_congestion")
    assert after["build_features"] == tuple(f"prepare.{name}" for name in waited)


def test_a_sql_step_says_its_workload_and_whether_its_tables_are_checked(spec: ModelSpec) -> None:
    first, *rest = spec.prepare
    asked = first.model_copy(update={"workload_context": "nightly", "check_tables": True})
    tasks = lifecycle.plan(spec.model_copy(update={"prepare": (asked, *rest)})).tasks
    found = {task.id: task.arguments for task in tasks}
    stage = found["prepare.stage_flights"]
    assert (stage["workload_context"], stage["check_tables"]) == ("nightly", True)
    assert "workload_context" not in found["data.export"]


def test_a_sql_step_may_run_in_the_triggerer(spec: ModelSpec) -> None:
    first, *rest = spec.prepare
    asked = first.model_copy(update={"deferrable": True})
    tasks = lifecycle.plan(spec.model_copy(update={"prepare": (asked, *rest)})).tasks
    found = {task.id: task.arguments for task in tasks}
    assert found["prepare.stage_flights"]["deferrable"] is True
    assert "deferrable" not in found["prepare.build_features"]


def test_a_sql_step_may_run_on_the_serverless_pool(spec: ModelSpec) -> None:
    first, *rest = spec.prepare
    asked = first.model_copy(update={"sql_pool": "serverless", "database": "lake", "max_data_processed_mb": 500.0})
    tasks = lifecycle.plan(spec.model_copy(update={"prepare": (asked, *rest)})).tasks
    found = {task.id: task.arguments for task in tasks}
    stage = found["prepare.stage_flights"]
    assert (stage["sql_pool"], stage["database"], stage["max_data_processed_mb"]) == ("serverless", "lake", 500.0)
    assert "sql_pool" not in found["data.export"]


def test_a_model_without_suites_has_no_quality_stage(spec: ModelSpec) -> None:
    assert "quality" not in lifecycle.plan(spec.model_copy(update={"quality": ()})).stages()


@pytest.fixture(scope="module")
def without_endpoint() -> lifecycle.Plan:
    (path,) = (path for path in find_specs() if path.parent.name == "arrival_delay")
    return lifecycle.plan(ModelSpec.load(path))


def test_a_model_without_an_endpoint_is_promoted_by_its_tag(without_endpoint: lifecycle.Plan) -> None:
    assert "roll_out" not in without_endpoint.stages()
    tasks = {task.id: task for task in without_endpoint.tasks}
    assert tasks["register.promote"].after == ("register.model",)
    for champion in ("evaluate.champion", "write_back.champion"):
        assert tasks[champion].arguments["registered_model"] == "arrival_delay"
        assert "endpoint_name" not in tasks[champion].arguments
    assert tasks["write_back.score"].arguments["inputs"]["deployment"] == "none"


def test_it_waits_for_the_tables_partition(without_endpoint: lifecycle.Plan) -> None:
    (waits,) = without_endpoint.stage("arrival")
    assert waits.operator == "azflow.arrival.PartitionArrivalSensor"
    assert (waits.arguments["table"], waits.arguments["partition"]) == ("ml.flight_features", "{{ night.partition }}")


def test_its_dag_is_built_without_a_roll_out(without_endpoint: lifecycle.Plan) -> None:
    with DAG(**lifecycle.dag_arguments(without_endpoint)) as built:
        chain(*(lifecycle.build(without_endpoint, stage, built) for stage in without_endpoint.stages()))
    assert built.get_task("approve").downstream_task_ids == {"register.model"}
    assert built.get_task("register.promote").trigger_rule == "all_success"
    assert "stages" not in lifecycle.form(without_endpoint.spec)
    assert "`register` is skipped" in str(built.doc_md)


def test_limits_and_the_gates_metric_reach_every_job(spec: ModelSpec) -> None:
    limited = spec.model_copy(update={"spend": Spend(max_node_hours_per_night=2)})
    jobs = [task for task in lifecycle.plan(limited).tasks if task.operator == "azflow.ml.AzureMLJobOperator"]
    assert len(jobs) == 3
    assert all(job.arguments["spend"] == {"max_node_hours_per_night": 2} for job in jobs)
    (evaluate,) = (job for job in jobs if job.stage == "evaluate")
    assert evaluate.arguments["inputs"]["metric"] == "roc_auc"


def test_the_specs_own_inputs_win(spec: ModelSpec) -> None:
    train = spec.train.model_copy(update={"inputs": {"training_data": "azureml:fixed:1"}})
    (job,) = lifecycle.plan(spec.model_copy(update={"train": train})).stage("train")
    assert job.arguments["inputs"]["training_data"] == "azureml:fixed:1"


# -- dag -------------------------------------------------------------------------------------------------------------


def test_the_chain_is_connected(dag: DAG) -> None:
    for before, after in itertools.pairwise(CHAIN):
        assert after in {task.task_id for task in dag.get_task(before).get_flat_relatives(upstream=False)}


def test_after_a_no_the_champion_scores_and_the_report_is_written(dag: DAG) -> None:
    assert dag.get_task("approve").downstream_task_ids == {"register.model"}
    assert dag.get_task("roll_out.deploy").trigger_rule == "all_success"
    assert dag.get_task("write_back.champion").trigger_rule == "none_failed"
    # A no, a failure: the decision is written down all the same, and nothing waits for it but the report.
    record = dag.get_task("record")
    assert record.trigger_rule == "all_done" and record.upstream_task_ids == {"roll_out.traffic"}
    assert record.downstream_task_ids == {"report"}
    report = dag.get_task("report")
    # A teardown runs whatever happened, and leaves it to the others whether the night was green.
    assert report.is_teardown and not report.on_failure_fail_dagrun


def test_the_form_checks_what_is_typed(dag: DAG) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    good = {"partition": "2013-03-08", "backfill_from": None, "force_promotion": True, "stages": [50, 100]}
    for name, value in good.items():
        dag.params.get_param(name).resolve(value)
    for name, bad in [("partition", "yesterday"), ("force_promotion", "yes"), ("stages", []), ("stages", [0, 100])]:
        with pytest.raises(ParamValidationError):
            dag.params.get_param(name).resolve(bad)


def test_runs_carry_the_day_before_as_their_partition(dag: DAG) -> None:
    assert dag.catchup is False and dag.max_active_runs == 1
    assert dag.timetable.run_offset == -1 and dag.timetable.key_format == "%Y-%m-%d"


def test_the_dag_can_be_serialized(dag: DAG) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    assert DagSerialization.from_dict(DagSerialization.to_dict(dag)).dag_id == dag.dag_id


# -- approval --------------------------------------------------------------------------------------------------------


class TaskInstance(SimpleNamespace):
    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    def xcom_pull(self, task_ids: str) -> Any:
        jobs = {"train.job": {"name": "train-1", "url": "https://ml.example/runs/train-1"}}
        return self.verdict if task_ids == "evaluate.verdict" else jobs.get(task_ids)


def context_of(operator: Any, verdict: Any) -> dict[str, Any]:
    with DAG("approval"):
        followers = [BaseOperator(task_id="register"), BaseOperator(task_id="report").as_teardown()]
    task = SimpleNamespace(get_direct_relatives=lambda upstream: followers)
    ti = TaskInstance(verdict=verdict, xcoms={}, map_index=-1, run_id="r", id="00000000-0000-0000-0000-000000000000")
    return {"ti": ti, "task_instance": ti, "task": task}


YES: dict[str, Any] = {
    "promote": True,
    "reasons": ["better on the same rows"],
    "metric": "roc_auc",
    "rows": 5200,
    "champion_version": "3",
    "challenger": {"value": 0.71, "low": 0.69, "high": 0.73},
    "champion": {"value": 0.70, "low": 0.68, "high": 0.72},
    "difference": {"value": 0.01, "low": -0.001, "high": 0.02},
}
NO = YES | {"promote": False, "reasons": ["below the floor"]}


def test_automatic_approval_follows_the_gate() -> None:
    operator = AutomaticApproval(task_id="approve", verdict="evaluate.verdict")
    assert operator.execute(context_of(operator, YES)) == {"approved": True, "by": "gate"}
    context = context_of(operator, NO)
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        operator.execute(context)
    assert skipped.value.tasks == ["register"]
    assert context["ti"].xcoms["return_value"] == {"approved": False, "by": "gate"}


@pytest.mark.parametrize("verdict", [None, {}, {"promote": "yes"}])
def test_without_a_verdict_nothing_is_promoted(verdict: Any) -> None:
    operator = AutomaticApproval(task_id="approve", verdict="evaluate.verdict")
    with pytest.raises(AirflowFailException, match=r"evaluate\.verdict left no verdict"):
        operator.execute(context_of(operator, verdict))


def personal(on_timeout: Any = "reject") -> PersonalApproval:
    return PersonalApproval(
        task_id="approve", verdict="evaluate.verdict", timeout_minutes=5, on_timeout=on_timeout, subject="May it?"
    )


def test_a_person_is_asked_with_the_verdict_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **all: asked.update(all))
    monkeypatch.setattr("azflow.approval.stored_body", lambda operator, ti_id: operator.body)
    operator = personal()
    with pytest.raises(TaskAwaitingInput):
        operator.execute(context_of(operator, YES))
    assert asked["options"] == ["Approve", "Reject"] and asked["defaults"] == ["Reject"]
    assert "| challenger | new | 0.7100 | 0.6900 to 0.7300 |" in asked["body"]
    assert "- better on the same rows" in asked["body"]
    assert "[Training: train-1](https://ml.example/runs/train-1)" in asked["body"]
    assert re.search(r"Without an answer by \d{4}-\d\d-\d\d \d\d:\d\d UTC the champion stays\.", asked["body"])


def test_nobody_answers_by_the_evidence_of_an_earlier_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow keeps the first text across clears: the same verdict may be asked about again, another may not."""
    shown: list[str] = []

    def stored_body(operator: PersonalApproval, ti_id: Any) -> str:
        shown.append(str(operator.body))
        return shown[0]

    monkeypatch.setattr("azflow.approval.stored_body", stored_body)
    monkeypatch.setattr("airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **all: None)
    operator = personal()
    for _ in range(2):
        with pytest.raises(TaskAwaitingInput):
            operator.execute(context_of(operator, YES))
    retrained = YES | {"challenger": {"value": 0.66, "low": 0.64, "high": 0.68}}
    with pytest.raises(AirflowFailException, match="goes on showing the evidence of this task's first try"):
        operator.execute(context_of(operator, retrained))


def test_nobody_is_asked_about_a_challenger_that_failed_the_gate() -> None:
    operator = personal()
    with pytest.raises(DownstreamTasksSkipped):
        operator.execute(context_of(operator, NO))


def answer(option: str) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": datetime(2013, 3, 9, tzinfo=UTC),
        "responded_by_user": {"id": "1", "name": "kim"},
    }


def test_a_persons_yes_and_no() -> None:
    operator = personal()
    operator.downstream_task_ids = {"register"}
    at = "2013-03-09T00:00:00+00:00"
    approved = operator.execute_complete(context_of(operator, YES), answer("Approve"))
    assert approved == {"approved": True, "by": "kim", "at": at}
    context = context_of(operator, YES)
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        operator.execute_complete(context, answer("Reject"))
    assert skipped.value.tasks == ["register"]
    assert context["ti"].xcoms["return_value"] == {"approved": False, "by": "kim", "at": at}


@pytest.mark.parametrize(("on_timeout", "option"), [("reject", "Reject"), ("approve", "Approve")])
def test_silence_means_what_the_spec_says(on_timeout: str, option: str) -> None:
    """As Airflow's scheduler resumes the task: the defaults are the answer, and nobody gave it."""
    operator = personal(on_timeout)
    operator.downstream_task_ids = {"register"}
    assert operator.defaults == [option]
    context, event = context_of(operator, YES), answer(option) | {"responded_by_user": None, "timedout": True}
    if on_timeout == "approve":
        assert operator.execute_complete(context, event)["by"] == "timeout"
        return
    with pytest.raises(DownstreamTasksSkipped) as skipped:
        operator.execute_complete(context, event)
    assert skipped.value.tasks == ["register"]
    left = context["ti"].xcoms["return_value"]
    assert (left["approved"], left["by"]) == (False, "timeout")


def test_a_persons_approval_is_planned(spec: ModelSpec) -> None:
    planned = lifecycle.plan(spec.model_copy(update={"approve": Approve(person=Person(assigned=("kim",)))}))
    (task,) = planned.stage("approve")
    assert task.operator.endswith("PersonalApproval") and task.arguments["assigned"] == ("kim",)
    with DAG("d"):
        operator = lifecycle.build(planned, "approve", DAG("d2"))
    assert isinstance(operator, PersonalApproval)
