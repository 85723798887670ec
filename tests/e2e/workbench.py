"""A whole localazure and a whole Airflow as the nights of this folder see them.

The project is a copy of dags, plugins and include, so that a test may change what a user may change: a job, a score.py.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from airflow_components import AirflowApi, AirflowComponents  # noqa: E402
from demo import FIRST_MODEL, dag_of, land  # noqa: E402

PATIENCE = 600.0


@dataclass(frozen=True)
class Workbench:
    """Everything that runs, and where."""

    home: Path
    project: Path
    local: dict[str, Any]
    components: AirflowComponents
    api: AirflowApi
    dag: str = dag_of(FIRST_MODEL)

    def of(self, model: str) -> Workbench:
        """The same, seen from another model's DAG."""
        return replace(self, dag=dag_of(model))

    def start(self, **conf: Any) -> str:
        """Starts a night by hand; answers its run id."""
        self.api.wait_for_dag(self.dag)
        self.api.pause(self.dag, False)
        return self.api.trigger(self.dag, conf)

    def finish(self, run_id: str) -> str:
        """Waits for a run's end; answers its state."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if (state := self.api.run_state(self.dag, run_id)) in ("success", "failed"):
                return state
            time.sleep(1)
        raise TimeoutError(f"run {run_id} didn't end within {PATIENCE:.0f} s: {self.states(run_id)}")

    def night(self, **conf: Any) -> tuple[str, str]:
        """Starts a night and waits for it; answers (run id, state)."""
        run_id = self.start(**conf)
        return run_id, self.finish(run_id)

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        return {task["task_id"]: task for task in self.api.task_instances(self.dag, run_id)}

    def states(self, run_id: str) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks(run_id).items()}

    def wait_for(self, run_id: str, task_id: str, *states: str) -> dict[str, Any]:
        """Waits until a task is in one of `states`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            task = self.tasks(run_id).get(task_id)
            if task is not None and task["state"] in states:
                return task
            assert self.api.run_state(self.dag, run_id) not in ("success", "failed"), (
                f"the run ended before {task_id} was {states}"
            )
            time.sleep(0.3)
        raise TimeoutError(f"{task_id} wasn't {states} within {PATIENCE:.0f} s")

    def xcom(self, run_id: str, task_id: str) -> Any:
        return self.api.xcom(self.dag, run_id, task_id)

    def log(self, run_id: str, task_id: str) -> str:
        return "\n".join(self.api.log(self.dag, run_id, task_id, self.tasks(run_id)[task_id]["try_number"]))

    def arm(self, method: str, path: str) -> Any:
        """Asks Resource Manager about the workspace."""
        local = self.local
        trusted = ssl.create_default_context(cafile=local["ca_bundle"])
        form = {
            "client_id": local["client_id"],
            "client_secret": local["client_secret"],
            "grant_type": "client_credentials",
            "scope": local["api_url"] + "/.default",
        }
        token_request = urllib.request.Request(
            f"{local['api_url']}/{local['tenant_id']}/oauth2/v2.0/token", urllib.parse.urlencode(form).encode()
        )
        with urllib.request.urlopen(token_request, context=trusted) as answer:
            token = json.load(answer)["access_token"]
        workspace = (
            f"{local['api_url']}/subscriptions/{local['subscription_id']}/resourceGroups/{local['resource_group']}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{local['workspace']}"
        )
        request = urllib.request.Request(workspace + path, method=method, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, context=trusted) as answer:
            return json.load(answer)

    def jobs(self, kind: str) -> list[dict[str, Any]]:
        """The workspace's jobs of a type that no other job started, asked of Resource Manager."""
        jobs = self.arm("GET", "/jobs?api-version=2024-04-01")["value"]
        return [job for job in jobs if job["properties"]["jobType"] == kind]

    def why(self, run_id: str) -> str:
        """The logs of the failed tasks: what an assertion shows."""
        failed = [name for name, state in self.states(run_id).items() if state == "failed"]
        return "\n\n".join(f"{name}:\n{self.log(run_id, name)[-3000:]}" for name in failed)


def land_days(workbench: Workbench, first: str, last: str) -> None:
    import datetime

    land((datetime.date.fromisoformat(first), datetime.date.fromisoformat(last)), workbench.home / "connection.json")


def kill_workers_of(task_instance: str) -> None:
    """`kill -9` to the executor's worker and to the task's own process; Airflow writes the id into both titles."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    pids = [int(line.split(None, 1)[0]) for line in found if "airflow worker" in line and task_instance in line]
    assert len(pids) >= 2, "\n".join(line for line in found if "airflow" in line)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
