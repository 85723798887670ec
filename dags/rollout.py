"""Rolling a model out, or back, by hand: one DAG for every model with an online endpoint, started with a form.

`shift` gives a deployment so many percent, `roll_back` all traffic to the deployment that served before, `promote`
deploys a given version of the registered model and rolls it out stage by stage, as a night does. Who did what, why and
with what outcome is written down where the nights' decisions are (`decisions` in model.yml).
"""

from __future__ import annotations

import re
from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException

from azflow import lifecycle
from azflow.decisions import RecordHandDecisionOperator
from azflow.endpoints import DeployOperator, RolloutOperator, TrafficOperator
from azflow.evaluation import ChampionOperator
from azflow.specs import Deploy, ModelSpec, readable_specs

ACTIONS = {
    "shift": "shift: give a deployment some percent",
    "roll_back": "roll back: all traffic to the deployment before",
    "promote": "promote: deploy a version and roll it out",
}


def form(deploy: Deploy, model: str) -> ParamsDict:
    """What a person says."""
    return ParamsDict(
        {
            "action": Param("roll_back", enum=list(ACTIONS), values_display=ACTIONS, title="What to do"),
            # Airflow's form takes an empty text for a missing one and can't be sent then: what may be empty is null.
            "deployment": Param(
                None,
                type=["null", "string"],
                title="Deployment",
                description="Shift: who gets the percent. Roll back: who gets everything; empty: who served before.",
            ),
            "percent": Param(
                100,
                type="integer",
                minimum=0,
                maximum=100,
                title="Percent",
                description="Shift: of the traffic; 0 takes it away. The others share the rest as they did.",
            ),
            "version": Param(
                None,
                type=["null", "string"],
                title="Model version",
                description=f"Promote: which version of the registered model {model}.",
            ),
            "stages": lifecycle.stages_param(deploy),
            "reason": Param(
                None,
                type=["null", "string"],
                maxLength=500,
                title="Why",
                description="Kept with the decision, beside your name.",
            ),
        }
    )


def rollout(spec: ModelSpec, deploy: Deploy) -> DAG:
    """Traffic by hand, or a version through all stages."""
    common: dict[str, Any] = {"conn_id": spec.connection, "model": spec.name}
    # Rows of whatever night was last: a run by hand belongs to none.
    sample: dict[str, Any] = {
        "sample_path": re.sub(r"\{\{.*?\}\}", "*", deploy.sample_path),
        "sample_rows": deploy.sample_rows,
    }
    with DAG(
        f"rollout_{spec.name}",
        description=f"Shift, roll back or promote {spec.name} by hand.",
        schedule=None,
        max_active_runs=1,
        tags={"azflow", "rollout", spec.name},
        default_args={"owner": spec.owner, "retries": 0},
        doc_md=__doc__,
    ) as dag:

        @task.branch
        def choose(params: dict[str, Any] | None = None) -> str:
            said = params or {}
            if said["action"] != "promote":
                return "traffic"
            if not said["version"]:
                raise AirflowFailException(f"Promote which version of {spec.register_as.model}? The form names none.")
            return "deploy"

        traffic = TrafficOperator(
            task_id="traffic",
            endpoint=deploy.endpoint_name,
            action="{{ params.action }}",
            deployment="{{ params.deployment or '' }}",
            percent="{{ params.percent }}",
            **sample,
            **common,
        )
        deployed = DeployOperator(
            task_id="deploy",
            endpoint=deploy.endpoint,
            registered_model=f"azureml:{spec.register_as.model}:{{{{ params.version }}}}",
            **sample,
            **common,
        )
        stages = RolloutOperator(
            task_id="stages",
            endpoint=deploy.endpoint,
            deployment="{{ ti.xcom_pull(task_ids='deploy')['deployment'] }}",
            stages="{{ params.stages }}",
            window_seconds=deploy.window_seconds,
            max_error_rate=deploy.max_error_rate,
            max_p95_ms=deploy.max_p95_ms,
            min_agreement=deploy.min_agreement,
            shadow=None if deploy.shadow is None else deploy.shadow.model_dump(),
            **sample,
            **common,
        )
        # The registry's tags follow who serves.
        champion = ChampionOperator(
            task_id="champion", endpoint_name=deploy.endpoint_name, trigger_rule="none_failed_min_one_success", **common
        )

        record = RecordHandDecisionOperator(
            task_id="record",
            sql=spec.decisions.sql if spec.decisions is not None else "",
            endpoint_name=deploy.endpoint_name,
            action="{{ params.action }}",
            version="{{ params.version or '' }}",
            by="{{ dag_run.triggering_user_name or '' }}",
            reason="{{ params.reason or '' }}",
            trigger_rule="all_done",
            **common,
        )

        choose() >> [traffic, deployed]
        deployed >> stages
        [traffic, stages] >> champion
        [traffic, stages] >> record
    dag.params = form(deploy, spec.register_as.model)
    return dag


for spec in readable_specs():
    if spec.deploy is not None:
        dag = rollout(spec, spec.deploy)
        globals()[dag.dag_id] = dag
