"""One DAG a model of ``include/models``: data arrives, a challenger is trained, judged, and shipped if it earns it.

A model.yml that can't be read has no DAG here; ``model_specs.py`` beside this file shows why, as an import error that
names file and key, and leaves the other models' DAGs alone.
"""

from __future__ import annotations

from airflow.sdk import DAG, BaseOperator, TaskGroup, chain

from azflow import lifecycle
from azflow.errors import SpecError
from azflow.specs import ModelSpec, find_specs


def nightly_retraining(spec: ModelSpec) -> DAG:
    """The nightly chain of one model, top to bottom."""
    plan = lifecycle.plan(spec)
    with DAG(**lifecycle.dag_arguments(plan)) as dag:
        stages = {stage: lifecycle.build(plan, stage, dag) for stage in plan.stages()}

        def if_any(stage: str) -> list[TaskGroup | BaseOperator]:
            return [stages[stage]] if stage in stages else []

        chain(
            stages["arrival"],  # the partition is complete, in the lake or in the pool
            *if_any("prepare"),  # Synapse: T-SQL and Spark build the features
            *if_any("quality"),  # expectations, pushed down to the pool
            stages["data"],  # what has passed is exported, and data assets point at it
            stages["train"],  # an Azure ML job yields the challenger
            stages["evaluate"],  # champion against challenger, and the verdict
            stages["approve"],  # the gate alone, or a person; a no skips the next two
            stages["register"],  # the challenger becomes a version of the registered model
            *if_any("roll_out"),  # canary, then traffic stage by stage
            # What was decided is written down, whatever it was; whoever is champion now scores the partition.
            [stages["record"], stages["write_back"]],
            stages["report"],  # always
        )
    dag.params = lifecycle.form(spec)
    return dag


for path in find_specs():
    try:
        dag = nightly_retraining(ModelSpec.load(path))
    except SpecError:
        continue  # shown by model_specs.py
    globals()[dag.dag_id] = dag
