"""DAGs for test_spark_kills: a notebook and a Spark batch that wait for a word and then leave a file each; their tasks
wait in the worker or in the triggerer. Copied into the project's dags folder."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from azflow.spark import SparkBatchOperator, SynapseNotebookOperator

for where, grace_seconds in (("worker", 600), ("triggerer", 0)):
    with DAG(
        f"spark_kills_{where}",
        schedule=None,
        is_paused_upon_creation=False,
        params={"out": Param("", type="string")},
        default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
    ) as dag:
        SynapseNotebookOperator(
            task_id="notebook",
            notebook="leave_a_file.ipynb",
            parameters={"out": "{{ params.out }}/notebook", "go": "{{ params.out }}/go"},
            grace_seconds=grace_seconds,
        )
        SparkBatchOperator(
            task_id="batch",
            file="leave_a_file.py",
            arguments=["{{ params.out }}/batch", "{{ params.out }}/go"],
            executor_size="Small",
            executors=1,
            grace_seconds=grace_seconds,
        )
    globals()[dag.dag_id] = dag
