"""Spec -> plan -> Airflow. What a night consists of, in which order, and what happens after a no.

`plan` is pure: a `ModelSpec` becomes a `Plan` of plain values, testable without Airflow. `build` turns a stage of the
plan into tasks inside the DAG at hand. The order of the stages stands in ``dags/nightly_retraining.py``.

::

    arrival -> prepare -> quality -> data -> train -> evaluate -> approve
            -> register -> roll_out -> write_back -> report
                                    -> record -----^

If the challenger isn't promoted, `approve` skips `register`, and `roll_out` with it; `write_back` goes on with the
champion. A model without an online endpoint has no `roll_out`: its promotion is a tag in the registry, the last step of
`register`. `record` writes down what was decided, whatever that was, beside the chain. `report` is a teardown task: it
runs whatever happened, and doesn't make a failed night green.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from azflow.prepare_steps import NotebookStep, SparkJobStep, SqlStep, Step
from azflow.specs import Approve, BlobArrival, Deploy, ModelSpec

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator, Param, TaskGroup
    from airflow.sdk.definitions.param import ParamsDict

STAGES = (
    "arrival",
    "prepare",
    "quality",
    "data",
    "train",
    "evaluate",
    "approve",
    "register",
    "roll_out",
    "record",
    "write_back",
    "report",
)

_TOOLTIPS = {
    "arrival": "Wait until the partition is complete",
    "prepare": "Synapse: T-SQL, notebooks and Spark jobs build the features",
    "quality": "Great Expectations, pushed down to the SQL pool",
    "data": "What has passed is exported, and Azure ML data assets point at it",
    "train": "Azure ML job",
    "evaluate": "Champion against challenger on the same hold-out, and the verdict",
    "approve": "The gate alone, or a person who sees the verdict",
    "register": "The challenger becomes a version of the registered model; without an endpoint, the champion too",
    "roll_out": "Canary deployment, then traffic stage by stage",
    "record": "What was decided, by whom, and whether it serves: a row in the SQL pool, tags in the workspace",
    "write_back": "Predictions of the partition, replaced in the SQL pool",
    "report": "One page in the lake, whatever happened before",
}


@dataclass(frozen=True)
class PlannedTask:
    """One task, before Airflow knows of it.

    :param id: full task id, ``<stage>.<name>`` or ``<stage>``.
    :param operator: dotted path of its class.
    :param arguments: its keyword arguments.
    :param after: full ids of tasks of the same stage it waits for.
    :param trigger_rule: Airflow's.
    :param retries: how often it is tried again by itself.
    """

    id: str
    operator: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    trigger_rule: str = "all_success"
    retries: int = 1

    @property
    def stage(self) -> str:
        """The stage it belongs to."""
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        """Its id inside its stage."""
        return self.id.rpartition(".")[2]


@dataclass(frozen=True)
class Plan:
    """A model's night: every task with its arguments, in order."""

    dag_id: str
    model: str
    spec: ModelSpec
    tasks: tuple[PlannedTask, ...]

    def stage(self, name: str) -> tuple[PlannedTask, ...]:
        """The tasks of one stage."""
        return tuple(task for task in self.tasks if task.stage == name)

    def stages(self) -> tuple[str, ...]:
        """The stages that have tasks, in order."""
        return tuple(name for name in STAGES if self.stage(name))


def _from(task_id: str, *keys: str) -> str:
    """A template: what a task left, by keys."""
    path = "".join(f"[{key!r}]" for key in keys)
    return f"{{{{ ti.xcom_pull(task_ids={task_id!r}){path} }}}}"


def plan(spec: ModelSpec) -> Plan:
    """The night of one model. Pure."""
    common = {"conn_id": spec.connection, "model": spec.name}
    tasks = [
        *_arrival(spec, common),
        *_prepare(spec, common),
        *_quality(spec, common),
        *_data(spec, common),
        *_train_and_evaluate(spec, common),
        _approve(spec, common),
        *_ship(spec, common),
        _record(spec, common),
        *_write_back(spec, common),
        PlannedTask("report", "azflow.report.RunReportOperator", {**common}, retries=0),
    ]
    return Plan(f"nightly_retraining_{spec.name}", spec.name, spec, tuple(tasks))


def _arrival(spec: ModelSpec, common: Mapping[str, Any]) -> list[PlannedTask]:
    arrival = spec.arrival
    patience = {"timeout_minutes": arrival.timeout_minutes, "poke_interval": arrival.poke_seconds}
    if isinstance(arrival, BlobArrival):
        operator = "azflow.arrival.BlobArrivalSensor"
        place: dict[str, Any] = {"container": arrival.container or "{{ azure.container }}", "blob": arrival.blob}
    else:
        operator = "azflow.arrival.PartitionArrivalSensor"
        place = {
            "table": arrival.table,
            "column": arrival.column,
            "partition": "{{ night.partition }}",
            "min_rows": arrival.min_rows,
        }
    # The sensor's own deadline is the patience the user asked for; a retry would double it.
    return [PlannedTask("arrival.wait_for_data", operator, {**common, **place, **patience}, retries=0)]


def _prepare(spec: ModelSpec, common: Mapping[str, Any]) -> list[PlannedTask]:
    tasks: list[PlannedTask] = []
    for step in spec.prepare:
        if step.after is not None:
            after = tuple(f"prepare.{name}" for name in step.after)
        else:
            after = (tasks[-1].id,) if tasks else ()
        operator, arguments = _step(step)
        tasks.append(PlannedTask(f"prepare.{step.name}", operator, {**common, **arguments}, after))
    return tasks


def _step(step: Step) -> tuple[str, dict[str, Any]]:
    if isinstance(step, NotebookStep):
        arguments = {"notebook": step.notebook, "parameters": step.plain_parameters(), **step.session()}
        return "azflow.spark.SynapseNotebookOperator", arguments
    if isinstance(step, SparkJobStep):
        arguments = {"file": step.spark_job, "arguments": list(step.arguments), **step.session()}
        for key in ("py_files", "files"):
            if names := getattr(step, key):
                arguments[key] = list(names)
        if step.class_name is not None:
            arguments["class_name"] = step.class_name
        return "azflow.spark.SparkBatchOperator", arguments
    assert isinstance(step, SqlStep)
    more: dict[str, Any] = {"check_tables": True} if step.check_tables else {}
    if step.workload_context is not None:
        more["workload_context"] = step.workload_context
    if step.sql_pool != "dedicated":
        more["sql_pool"] = step.sql_pool
    if step.database is not None:
        more["database"] = step.database
    if step.deferrable:
        more["deferrable"] = True
    if step.max_data_processed_mb is not None:
        more["max_data_processed_mb"] = step.max_data_processed_mb
    return "azflow.synapse.SynapseSqlOperator", {
        "sql": step.sql,
        "parameters": dict(step.parameters),
        "timeout_minutes": step.timeout_minutes,
        **more,
    }


def _quality(spec: ModelSpec, common: Mapping[str, Any]) -> list[PlannedTask]:
    return [
        PlannedTask(
            f"quality.{suite.name}",
            "azflow.quality.ExpectationsOperator",
            {**common, "suite": suite.suite, "table": suite.table}
            | ({"quarantine": suite.quarantine.model_dump()} if suite.quarantine else {}),
        )
        for suite in spec.quality
    ]


def _data(spec: ModelSpec, common: Mapping[str, Any]) -> list[PlannedTask]:
    data = spec.data
    export = []
    if data.sql is not None:
        arguments = {"sql": data.sql, "parameters": dict(data.parameters), "timeout_minutes": data.timeout_minutes}
        export = [PlannedTask("data.export", "azflow.synapse.SynapseSqlOperator", {**common, **arguments})]
    return export + [
        PlannedTask(
            f"data.{name}",
            "azflow.ml.DataAssetOperator",
            {**common, "name": f"{spec.name}_{name}", "path": path, "type": data.type},
            tuple(task.id for task in export),
        )
        for name, path in (("train", data.train), ("holdout", data.holdout))
    ]


def _train_and_evaluate(spec: ModelSpec, common: Mapping[str, Any]) -> list[PlannedTask]:
    gate = spec.evaluate.gate
    challenger = _from("train.job", "outputs", "best_model")
    champion = {**common, **who_is_champion(spec), "challenger": challenger}
    train = {
        **common,
        "spend": _spend(spec),
        "job": spec.train.job,
        "inputs": {"training_data": _from("data.train", "id"), **spec.train.inputs},
        "outputs": dict(spec.train.outputs),
        "timeout_minutes": spec.train.timeout_minutes,
    }
    evaluate = {
        **common,
        "spend": _spend(spec),
        "job": spec.evaluate.job,
        "inputs": {
            "challenger": challenger,
            "champion": _from("evaluate.champion", "path"),
            "champion_version": _from("evaluate.champion", "version"),
            "metric": gate.metric,
            **spec.evaluate.inputs,
        },
        "outputs": dict(spec.evaluate.outputs),
        "timeout_minutes": spec.evaluate.timeout_minutes,
    }
    verdict = {
        **common,
        "evaluation": "evaluate.job",
        "metric": gate.metric,
        "max_loss": gate.max_loss,
        "floor": gate.floor,
        "ceiling": gate.ceiling,
        "min_skill": gate.min_skill,
        "min_rows": gate.min_rows,
        "promote_if": gate.promote_if,
        "max_slice_loss": gate.max_slice_loss,
        "min_slice_rows": gate.min_slice_rows,
        "max_calibration_error": gate.max_calibration_error,
        "max_microseconds_per_row": gate.max_microseconds_per_row,
        "force": "{{ params.force_promotion }}",
    }
    return [
        PlannedTask("train.job", "azflow.ml.AzureMLJobOperator", train),
        PlannedTask("evaluate.compare", "azflow.tracking.CompareRunsOperator", {**common, "last": spec.compare.last}),
        PlannedTask("evaluate.champion", "azflow.evaluation.ChampionOperator", champion),
        PlannedTask("evaluate.job", "azflow.ml.AzureMLJobOperator", evaluate, after=("evaluate.champion",)),
        PlannedTask("evaluate.verdict", "azflow.ml.EvaluationGate", verdict, after=("evaluate.job",)),
    ]


def _spend(spec: ModelSpec) -> dict[str, float]:
    """The limits of every job of a night, as far as there are any."""
    return spec.spend.model_dump(exclude_none=True)


def who_is_champion(spec: ModelSpec) -> dict[str, str]:
    """Where `ChampionOperator` looks."""
    if spec.deploy is not None:
        return {"endpoint_name": spec.deploy.endpoint_name}
    return {"registered_model": spec.register_as.model}


def _approve(spec: ModelSpec, common: Mapping[str, Any]) -> PlannedTask:
    if isinstance(spec.approve, Approve):
        person = spec.approve.person
        arguments = {
            "verdict": "evaluate.verdict",
            "subject": f"May the challenger of {spec.name} be shipped?",
            "timeout_minutes": person.timeout_minutes,
            "on_timeout": person.on_timeout,
            "assigned": person.assigned,
        }
        return PlannedTask("approve", "azflow.approval.PersonalApproval", arguments)
    return PlannedTask("approve", "azflow.approval.AutomaticApproval", {**common, "verdict": "evaluate.verdict"})


def _ship(spec: ModelSpec, common: Mapping[str, Any]) -> list[PlannedTask]:
    register = PlannedTask(
        "register.model",
        "azflow.ml.RegisterModelOperator",
        {
            **common,
            "name": spec.register_as.model,
            "type": spec.register_as.type,
            "path": _from("train.job", "outputs", "best_model"),
        },
    )
    if spec.deploy is None:
        promote = PlannedTask("register.promote", "azflow.evaluation.PromoteOperator", {**common}, (register.id,))
        return [register, promote]
    return [register, *_roll_out(spec.deploy, common)]


def _record(spec: ModelSpec, common: Mapping[str, Any]) -> PlannedTask:
    arguments = {
        **common,
        "sql": spec.decisions.sql if spec.decisions is not None else "",
        "shipped": "register.promote" if spec.deploy is None else "roll_out.traffic",
    }
    # A no, a roll-out that was taken back and a deployment that failed are decisions' outcomes as well.
    return PlannedTask("record", "azflow.decisions.RecordDecisionOperator", arguments, trigger_rule="all_done")


def _roll_out(deploy: Deploy, common: Mapping[str, Any]) -> list[PlannedTask]:
    return [
        PlannedTask(
            "roll_out.deploy",
            "azflow.endpoints.DeployOperator",
            {
                **common,
                "endpoint": deploy.endpoint,
                "registered_model": _from("register.model", "id"),
                "sample_path": deploy.sample_path,
                "sample_rows": deploy.sample_rows,
            },
        ),
        PlannedTask(
            "roll_out.traffic",
            "azflow.endpoints.RolloutOperator",
            {
                **common,
                "endpoint": deploy.endpoint,
                "deployment": _from("roll_out.deploy", "deployment"),
                "stages": "{{ params.stages }}",
                "window_seconds": deploy.window_seconds,
                "max_error_rate": deploy.max_error_rate,
                "max_p95_ms": deploy.max_p95_ms,
                "min_agreement": deploy.min_agreement,
                "sample_path": deploy.sample_path,
                "sample_rows": deploy.sample_rows,
                "shadow": None if deploy.shadow is None else deploy.shadow.model_dump(),
            },
            after=("roll_out.deploy",),
            # A failed stage has restored the traffic: whether to dare again is a person's decision.
            retries=0,
        ),
    ]


def _write_back(spec: ModelSpec, common: Mapping[str, Any]) -> list[PlannedTask]:
    back = spec.write_back
    score = {
        **common,
        "spend": _spend(spec),
        "job": back.job,
        "inputs": {
            "model": _from("write_back.champion", "path"),
            "model_name": _from("write_back.champion", "name"),
            "model_version": _from("write_back.champion", "version"),
            "deployment": _from("write_back.champion", "deployment") if spec.deploy is not None else "none",
            "run_id": "{{ run_id }}",
            **back.inputs,
        },
        "outputs": dict(back.outputs),
        "timeout_minutes": back.timeout_minutes,
    }
    table = {
        **common,
        "sql": back.sql,
        "parameters": dict(back.parameters),
        "timeout_minutes": back.timeout_minutes,
    }
    champion = {**common, **who_is_champion(spec)}
    return [
        # After a no, what comes before is skipped, not failed: whoever is champion now scores.
        PlannedTask("write_back.champion", "azflow.evaluation.ChampionOperator", champion, trigger_rule="none_failed"),
        PlannedTask("write_back.score", "azflow.ml.AzureMLJobOperator", score, after=("write_back.champion",)),
        PlannedTask("write_back.table", "azflow.synapse.SynapseSqlOperator", table, after=("write_back.score",)),
    ]


# -- Airflow ---------------------------------------------------------------------------------------------------------


def dag_arguments(planned: Plan) -> dict[str, Any]:
    """Keyword arguments of the model's ``DAG``: schedule and texts. The form comes last (`form`)."""
    from airflow.sdk import CronPartitionTimetable

    spec = planned.spec
    return {
        "dag_id": planned.dag_id,
        "description": spec.description,
        "schedule": CronPartitionTimetable(spec.schedule, timezone=spec.timezone, run_offset=-1, key_format="%Y-%m-%d"),
        "catchup": False,
        "max_active_runs": 1,
        "tags": {"azflow", "nightly", spec.name},
        "doc_md": documentation(planned),
        "default_args": {
            "owner": spec.owner,
            "retry_delay": timedelta(seconds=30),
            "retry_policy": retry_policy(),
        },
    }


def retry_policy() -> Any:
    """How long to wait before a retry, by what went wrong. What no retry can help never gets here (`airflow_edge`)."""
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

    return ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception="azflow.errors.AccessDenied", action=RetryAction.FAIL, reason="the credential was refused"
            ),
            RetryRule(
                exception=["builtins.ConnectionError", "builtins.TimeoutError"],
                action=RetryAction.RETRY,
                retry_delay=timedelta(seconds=10),
                reason="the network, not the work",
            ),
        ]
    )


def form(spec: ModelSpec) -> ParamsDict:
    """The parameters a person may set when starting a night by hand; Airflow shows them as a form.

    Set them when the DAG has its tasks: Airflow copies the parameters a DAG has deeply into every task it is given, and
    reads the DAG's at run time all the same. With a hundred models that is a third of the parsing time.
    """
    from airflow.sdk import Param
    from airflow.sdk.definitions.param import ParamsDict

    fields = {
        "partition": _partition(),
        "backfill_from": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Backfill from",
            description="Also build the partitions from this day on. The first night needs it; later ones don't.",
        ),
        "force_promotion": Param(
            False,
            type="boolean",
            title="Force promotion",
            description="Promote the challenger against the gate's rules; the verdict says that it was forced.",
        ),
    }
    if spec.deploy is not None:
        fields["stages"] = stages_param(spec.deploy)
    return ParamsDict(fields)


def stages_param(deploy: Deploy) -> Param:
    """The form's field for a roll-out's stages."""
    from airflow.sdk import Param

    return Param(
        list(deploy.stages),
        type="array",
        items={"type": "integer", "minimum": 1, "maximum": 100},
        minItems=1,
        uniqueItems=True,
        title="Traffic stages",
        description="Percentages of traffic the new deployment gets, stage by stage; growing, the last 100.",
    )


def partition_form() -> ParamsDict:
    """The form of DAGs that are about one day and nothing else."""
    from airflow.sdk.definitions.param import ParamsDict

    return ParamsDict({"partition": _partition()})


def _partition() -> Param:
    from airflow.sdk import Param

    return Param(
        None,
        type=["null", "string"],
        format="date",
        title="Partition",
        description="The day to run for. Empty: the run's own partition, else the day before it starts.",
    )


def documentation(planned: Plan) -> str:
    """The DAG's page in Airflow."""
    spec = planned.spec
    names = {
        stage: ", ".join(task.name for task in planned.stage(stage) if task.id != stage) for stage in planned.stages()
    }
    steps = "\n".join(f"| {stage} | {_TOOLTIPS[stage]} | {tasks} |" for stage, tasks in names.items())
    skipped = "`register` is skipped" if spec.deploy is None else "`register` and `roll_out` are skipped"
    approval = "a person" if isinstance(spec.approve, Approve) else "automatic"
    return f"""### {spec.name}

{spec.description}

Described in `include/models/{spec.name}/model.yml`. Runs at `{spec.schedule}` ({spec.timezone}) for the day before;
starts by hand with a form (*Trigger*). Approval: {approval}.

| stage | what happens | tasks |
|---|---|---|
{steps}

If the challenger isn't promoted, {skipped} and the champion scores the partition.
"""


def build(planned: Plan, stage: str, dag: DAG) -> TaskGroup | BaseOperator:
    """The tasks of one stage, in `dag`: a task group, or the task itself for a stage of one unnamed task."""
    from airflow.sdk import TaskGroup

    tasks = planned.stage(stage)
    if len(tasks) == 1 and tasks[0].id == stage:
        return _operator(tasks[0], dag)
    group = TaskGroup(stage, tooltip=_TOOLTIPS[stage], dag=dag)
    built: dict[str, BaseOperator] = {}
    for task in tasks:
        built[task.id] = _operator(task, dag, group)
        for before in task.after:
            built[before].set_downstream(built[task.id])
    return group


def _operator(task: PlannedTask, dag: DAG, group: TaskGroup | None = None) -> BaseOperator:
    module, _, name = task.operator.rpartition(".")
    operator: BaseOperator = getattr(importlib.import_module(module), name)(
        task_id=task.name,
        dag=dag,
        task_group=group,
        trigger_rule=task.trigger_rule,
        retries=task.retries,
        **task.arguments,
    )
    # Not with on_failure_fail_dagrun: Airflow would then judge the run by the report alone, and a failed night whose
    # report was written would be green (tried with 3.3.2).
    return operator.as_teardown() if task.stage == "report" else operator
