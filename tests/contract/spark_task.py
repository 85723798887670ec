"""A task of azflow's Spark operators as a worker runs it; as a program, so that it can be killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class TaskInstance(SimpleNamespace):
    """What an operator asks of Airflow's."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def context_of(operator: Any, dag: str, run: str = "manual__1", **params: Any) -> Any:
    """The context of one try; fields rendered."""
    from airflow.sdk import DAG

    operator.dag = DAG(dag, schedule=None)
    ti = TaskInstance(
        pushed={}, task=operator, dag_id=dag, run_id=run, task_id=operator.task_id, map_index=-1, max_tries=0
    )
    dag_run = SimpleNamespace(dag_id=dag, run_id=run, partition_key=None)
    given = {"partition": "2013-03-08", "rows": 7, **params}
    context: Any = {"ti": ti, "dag_run": dag_run, "params": given, "task": operator}
    operator.render_template_fields(context)
    return context


def main(task: dict[str, Any]) -> None:
    import test_azflow_spark

    import azflow.spark

    azflow.spark.INCLUDE = Path(task["include"])
    operator = test_azflow_spark.MAKE[task["kind"]](task["out"], task["seconds"])
    print(operator.execute(context_of(operator, task["dag"], task["run"])), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
