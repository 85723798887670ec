"""Watches every model whose model.yml says how (`watch`): one DAG that reads, one that retrains after an alarm.

The first compares the last days with the champion's own training data, in an Azure ML job, and keeps the readings in
Synapse. An alarm emits the model's drift asset; the second listens to it and starts a night for the same partition.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronPartitionTimetable

from azflow import lifecycle
from azflow.azure_monitor import MonitorScheduleOperator
from azflow.captured import CapturedDataOperator
from azflow.evaluation import ChampionOperator
from azflow.ml import AzureMLJobOperator
from azflow.monitoring import DriftAlarmOperator, MonitoringOperator, TrainingDataOperator, drift_asset
from azflow.specs import ModelSpec, Watch, readable_specs
from azflow.synapse import SynapseSqlOperator


def endpoint_monitoring(spec: ModelSpec, watch: Watch) -> DAG:
    """Readings of the last days, and an alarm if they ask for one."""
    common: dict[str, Any] = {"conn_id": spec.connection, "model": spec.name}
    with DAG(
        f"endpoint_monitoring_{spec.name}",
        description=f"What has moved since the champion of {spec.name} was trained?",
        schedule=CronPartitionTimetable(watch.schedule, timezone=spec.timezone, run_offset=-1, key_format="%Y-%m-%d"),
        catchup=False,
        max_active_runs=1,
        tags={"azflow", "monitoring", spec.name},
        default_args={"owner": spec.owner, "retries": 1, "retry_delay": timedelta(seconds=30)},
        doc_md=documentation(spec, watch),
    ) as dag:
        window = SynapseSqlOperator(task_id="window", sql=watch.window, **common)
        champion = ChampionOperator(task_id="champion", **lifecycle.who_is_champion(spec), **common)
        baseline = TrainingDataOperator(task_id="baseline", champion="champion", **common)
        before = [baseline, window]
        seen: dict[str, Any] = {"captured": "", "captured_why": "no signal is about captured requests"}
        if watch.looks_at_captured and spec.deploy is not None:
            captured = CapturedDataOperator(
                task_id="captured",
                endpoint_name=spec.deploy.endpoint_name,
                champion="champion",
                until=watch.captured.until,
                days=watch.captured.days,
                **common,
            )
            champion >> captured
            before.append(captured)
            seen = {
                "captured": "{{ ti.xcom_pull(task_ids='captured')['folder'] }}",
                "captured_why": "{{ ti.xcom_pull(task_ids='captured')['why'] }}",
                "captured_deployment": "{{ ti.xcom_pull(task_ids='captured')['deployment'] }}",
                "captured_until": "{{ ti.xcom_pull(task_ids='captured')['until'] }}",
                "captured_days": str(watch.captured.days),
            }
        monitor = AzureMLJobOperator(
            task_id="monitor",
            job=watch.job,
            inputs={
                "baseline": "{{ ti.xcom_pull(task_ids='baseline')['train'] }}",
                "holdout": "{{ ti.xcom_pull(task_ids='baseline')['holdout'] }}",
                "model": "{{ ti.xcom_pull(task_ids='baseline')['path'] }}",
                "model_name": spec.name,
                "model_version": "{{ ti.xcom_pull(task_ids='baseline')['version'] }}",
                "signals": watch.signals_json(),
                "min_rows": str(watch.min_rows),
                "window_start": f"{{{{ night.window(1, {watch.window_days})[2] }}}}",
                "window_end": "{{ night.partition }}",
                "run_id": "{{ run_id }}",
                "outcomes": watch.outcomes_json(),
                **seen,
                **watch.inputs,
            },
            outputs=dict(watch.outputs),
            timeout_minutes=watch.timeout_minutes,
            **common,
        )
        readings = SynapseSqlOperator(task_id="readings", sql=watch.table, **common)
        verdict = MonitoringOperator(task_id="verdict", monitor="monitor", **common)
        alarm = DriftAlarmOperator(task_id="alarm", verdict="verdict", cool_down_days=watch.cool_down_days, **common)

        champion >> baseline
        if watch.azure_monitor is not None and spec.deploy is not None:
            own = MonitorScheduleOperator(
                task_id="azure_monitor",
                watched=watch.signals_json(),
                endpoint_name=spec.deploy.endpoint_name,
                schedule=watch.schedule,
                days=watch.captured.days,
                **watch.azure_monitor.model_dump(),
                **common,
            )
            baseline >> own
        before >> monitor >> [readings, verdict] >> alarm
    dag.params = lifecycle.partition_form()
    return dag


def documentation(spec: ModelSpec, watch: Watch) -> str:
    """The monitor's page in Airflow."""
    return f"""### What has moved since the champion of {spec.name} was trained?

Described under `watch` in `include/models/{spec.name}/model.yml`. The form's partition is the window's last day.

| task | what it does |
|---|---|
| window | exports the last {watch.window_days} days: features, predictions, and outcomes where they are known |
| champion, baseline | who serves, and what it was trained and judged on |
| captured | what callers asked the endpoint, as its data collector wrote it, where a signal is about that |
| monitor | an Azure ML job that compares them |
| readings | a row a reading in the SQL pool: ok, warn, alarm or undefined |
| verdict | says them in its log; its link *Report* leads to the page |
| alarm | starts `retraining_on_drift_{spec.name}`, once within {watch.cool_down_days} days of data |
| azure_monitor | keeps Azure ML's own monitor up to date, where `watch` asks for one |
"""


def retraining_on_drift(spec: ModelSpec) -> DAG:
    """A night for the partition that raised the alarm."""
    with DAG(
        f"retraining_on_drift_{spec.name}",
        description=f"An alarm of {spec.name}'s monitor starts a night.",
        schedule=[drift_asset(spec.name)],
        catchup=False,
        max_active_runs=1,
        tags={"azflow", "monitoring", spec.name},
        default_args={"owner": spec.owner},
        doc_md=f"Starts `nightly_retraining_{spec.name}` for the partition whose readings raised an alarm, as "
        f"`endpoint_monitoring_{spec.name}` told it. A night that is there already isn't started again.",
    ) as dag:
        TriggerDagRunOperator(
            task_id="night",
            trigger_dag_id=lifecycle.plan(spec).dag_id,
            trigger_run_id="drift__{{ run_id }}",
            conf={"partition": "{{ (triggering_asset_events.values() | first | last).extra['partition'] }}"},
            reset_dag_run=False,
            skip_when_already_exists=True,
        )
    return dag


for spec in readable_specs():
    if spec.watch is not None:
        for dag in (endpoint_monitoring(spec, spec.watch), retraining_on_drift(spec)):
            globals()[dag.dag_id] = dag
