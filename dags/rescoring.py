"""Scores a range of days again: one DAG for every model whose model.yml says how (`rescore`), started with a form.

The rows of the days are exported with what was known before, scored with the version asked for, and replace the days'
predictions. A second version is scored on the same rows: both are kept by version, compared day by day, and judged
where the outcome is known; the page shows it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.definitions.param import ParamsDict

from azflow.ml import AzureMLJobOperator
from azflow.monitoring import TrainingDataOperator
from azflow.rescoring import RescoredVersionsOperator, VersionComparisonOperator, VersionsPageOperator
from azflow.specs import ModelSpec, Rescore, readable_specs
from azflow.synapse import SynapseSqlOperator

#: Where the second version's predictions go: beside the first one's.
AGAINST = "azureml://datastores/lake/paths/scored/{{ model }}/{{ night.partition }}/{{ night.key }}-against/"
#: Days that the page shows one by one.
MOST_DAYS = 366


def form() -> ParamsDict:
    """Which days, which versions."""
    text: dict[str, Any] = {"type": ["null", "string"]}
    day = {**text, "format": "date"}
    return ParamsDict(
        {
            "backfill_from": Param(None, title="First day", description="Empty: only the last day.", **day),
            "partition": Param(None, title="Last day", description="Empty: the day before today.", **day),
            # Airflow's form takes an empty text for a missing one and can't be sent then: what may be empty is null.
            "version": Param(
                None, title="Model version", description="Which one scores. Empty: the one that serves.", **text
            ),
            "against": Param(
                None, title="Compare with version", description="Scores the same rows. Empty: no comparison.", **text
            ),
            "write": Param(
                True, type="boolean", title="Write back", description="Replace the days' predictions in the SQL pool."
            ),
        }
    )


def rescoring(spec: ModelSpec, rescore: Rescore) -> DAG:
    """Export, score, replace; beside it, compare."""
    common: dict[str, Any] = {"conn_id": spec.connection, "model": spec.name}
    back, gate = spec.write_back, spec.evaluate.gate
    with DAG(
        f"rescoring_{spec.name}",
        description=f"Score a range of days of {spec.name} again, with any version.",
        schedule=None,
        max_active_runs=1,
        tags={"azflow", "rescoring", spec.name},
        default_args={"owner": spec.owner, "retries": 1, "retry_delay": timedelta(seconds=30)},
        doc_md=__doc__,
    ) as dag:
        rows = SynapseSqlOperator(task_id="rows", sql=rescore.sql, timeout_minutes=rescore.timeout_minutes, **common)
        versions = RescoredVersionsOperator(
            task_id="versions",
            registered_model=spec.register_as.model,
            endpoint_name=spec.deploy.endpoint_name if spec.deploy is not None else "",
            version="{{ params.version or '' }}",
            against="{{ params.against or '' }}",
            **common,
        )

        @task.short_circuit
        def is_written(params: dict[str, Any] | None = None) -> bool:
            return bool((params or {})["write"])

        @task.short_circuit
        def is_compared(params: dict[str, Any] | None = None) -> bool:
            return bool((params or {})["against"])

        score = AzureMLJobOperator(
            task_id="score",
            job=back.job,
            inputs={
                "model": "{{ ti.xcom_pull(task_ids='versions')['path'] }}",
                "model_name": "{{ ti.xcom_pull(task_ids='versions')['name'] }}",
                "model_version": "{{ ti.xcom_pull(task_ids='versions')['version'] }}",
                "deployment": "{{ ti.xcom_pull(task_ids='versions')['deployment'] }}",
                "run_id": "{{ run_id }}",
                **back.inputs,
            },
            outputs=dict(back.outputs),
            timeout_minutes=back.timeout_minutes,
            **common,
        )
        table = SynapseSqlOperator(
            task_id="table",
            sql=back.sql,
            parameters=dict(back.parameters),
            timeout_minutes=back.timeout_minutes,
            **common,
        )
        learned_from = TrainingDataOperator(task_id="learned_from", champion="versions", **common)
        compare = AzureMLJobOperator(
            task_id="compare",
            job=spec.evaluate.job,
            inputs={
                "challenger": "{{ ti.xcom_pull(task_ids='versions')['path'] }}",
                "champion": "{{ ti.xcom_pull(task_ids='versions')['against_path'] }}",
                "champion_version": "{{ ti.xcom_pull(task_ids='versions')['against'] }}",
                "history": "{{ ti.xcom_pull(task_ids='learned_from')['train'] }}",
                "metric": gate.metric,
                **spec.evaluate.inputs,
            },
            outputs=dict(spec.evaluate.outputs),
            timeout_minutes=spec.evaluate.timeout_minutes,
            **common,
        )
        comparison = VersionComparisonOperator(task_id="comparison", **common)

        compared = is_compared()
        [rows, versions] >> score >> is_written() >> table
        [rows, versions] >> compared >> learned_from >> compare >> comparison
        if rescore.versions is not None:
            asked = {name: f"{{{{ ti.xcom_pull(task_ids='versions')['{name}'] }}}}" for name in ("version", "against")}
            score_against = AzureMLJobOperator(
                task_id="score_against",
                job=back.job,
                inputs={
                    "model": "{{ ti.xcom_pull(task_ids='versions')['against_path'] }}",
                    "model_name": "{{ ti.xcom_pull(task_ids='versions')['name'] }}",
                    "model_version": asked["against"],
                    "deployment": "batch" if spec.deploy is not None else "none",
                    "run_id": "{{ run_id }}",
                    **back.inputs,
                },
                outputs={**back.outputs, "predictions": AGAINST},
                timeout_minutes=back.timeout_minutes,
                **common,
            )
            figures = SynapseSqlOperator(
                task_id="figures",
                sql=rescore.versions,
                parameters={**asked, "run_id": "{{ run_id }}"},
                timeout_minutes=rescore.timeout_minutes,
                keep_rows=MOST_DAYS + 1,
                **common,
            )
            page = VersionsPageOperator(task_id="page", **common)

            # `compare` says the same of one version twice; day by day there is nothing to keep or to show.
            @task.short_circuit
            def are_two(ti: Any = None) -> bool:
                found = ti.xcom_pull(task_ids="versions")
                return bool(found["version"] != found["against"])

            compared >> are_two() >> score_against
            [score, score_against] >> figures
            [figures, comparison] >> page
    dag.params = form()
    return dag


for spec in readable_specs():
    if spec.rescore is not None:
        dag = rescoring(spec, spec.rescore)
        globals()[dag.dag_id] = dag
