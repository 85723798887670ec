"""Orchestration's share of a night: wall time against the remote work on its critical path.

    bin/up && bin/python3 benchmarks/nightly.py [RUN_ID]      (default: the last night of bin/demo)

The critical path is walked backwards from the run's end: of the tasks a task waited for, the one that ended last.
A task's remote work is what the service itself was busy with: an Azure ML job from its start to its end, a T-SQL file's
statements, the roll-out's stages, expectations in the pool; a notebook run and a deployment as long as their tasks
took. The rest (scheduling, worker starts, imports, polling) is orchestration. Aim: at most 1.3.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import local_azure  # noqa: E402 - tools is no package
from airflow_components import AirflowApi, AirflowHome  # noqa: E402
from demo import FIRST_MODEL, PROGRESS, dag_of, table  # noqa: E402

DAG = dag_of(FIRST_MODEL)


def instant(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def critical_path(tasks: dict[str, dict[str, Any]], upstream: dict[str, list[str]]) -> list[str]:
    """Task ids from the first to the last that the run's end waited for."""
    ended = {name: instant(task["end_date"]) for name, task in tasks.items() if task["start_date"] and task["end_date"]}
    path = [max(ended, key=lambda name: ended[name])]
    while before := [name for name in upstream.get(path[-1], []) if name in ended]:
        path.append(max(before, key=lambda name: ended[name]))
    return path[::-1]


def remote_seconds(value: Any, own: float) -> float:
    """What the service was busy with, of a task that took `own` seconds and left `value`."""
    if not isinstance(value, dict):
        return 0.0
    if "exit_value" in value or "probe" in value:  # a notebook run, a deployment
        return own
    if "stages" in value:
        return sum(float(stage.get("seconds") or 0) for stage in value["stages"])
    found = value.get("seconds")
    return min(float(found), own) if isinstance(found, int | float) else 0.0


def main() -> int:
    local = local_azure.connection()
    home = AirflowHome(ROOT / "var" / "airflow", 8080, local_azure.airflow_connection(local), Path(local["ca_bundle"]))
    api = AirflowApi(home)
    run_id = sys.argv[1] if len(sys.argv) > 1 else str(json.loads(PROGRESS.read_text())["run_id"])
    tasks = {task["task_id"]: task for task in api.task_instances(DAG, run_id)}
    downstream = {
        task["task_id"]: task["downstream_task_ids"] for task in api.call("GET", f"/dags/{DAG}/tasks")["tasks"]
    }
    upstream: dict[str, list[str]] = {}
    for name, followers in downstream.items():
        for follower in followers:
            upstream.setdefault(follower, []).append(name)
    rows, remote = [], 0.0
    for name in critical_path(tasks, upstream):
        own = (instant(tasks[name]["end_date"]) - instant(tasks[name]["start_date"])).total_seconds()
        busy = remote_seconds(api.xcom(DAG, run_id, name), own)
        remote += busy
        rows.append((name, f"{own:.1f}", f"{busy:.1f}"))
    started = min(instant(task["start_date"]) for task in tasks.values() if task["start_date"])
    wall = (max(instant(task["end_date"]) for task in tasks.values() if task["end_date"]) - started).total_seconds()
    print(table(rows, ("critical path", "task seconds", "remote seconds")))
    print(f"\nwall {wall:.1f} s, remote work on the critical path {remote:.1f} s, ratio {wall / remote:.2f} (aim: 1.3)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
