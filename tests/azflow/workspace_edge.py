"""A workspace's answers at the HTTP edge (`azure_edge.Edge`), and a task's context: what tests of Azure ML share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from azflow.specs import Night
from azure_edge import Edge

#: The night that `context_of` belongs to.
NIGHT = Night.of("nightly", "manual__1", date(2013, 3, 8))
ARM = "https://management.azure.com/subscriptions/sub/resourceGroups/rg/providers/Microsoft.MachineLearningServices"
WORKSPACE = f"{ARM}/workspaces/ws"
REGION = "https://westeurope.api.azureml.ms"
HISTORY = f"{REGION}/history/v1.0{WORKSPACE.removeprefix('https://management.azure.com')}"
MLFLOW = f"{REGION}/mlflow/v1.0{WORKSPACE.removeprefix('https://management.azure.com')}"


def workspace(edge: Edge) -> None:
    """The workspace's resource: where its tracking server is."""
    edge.on("GET", f"{WORKSPACE}$", (200, {"properties": {"mlFlowTrackingUri": f"azureml{MLFLOW[5:]}"}}))


def job(edge: Edge, name: str = "j", **properties: Any) -> None:
    content = {"name": name, "properties": {"jobType": "Command", **properties}}
    edge.on("GET", f"{WORKSPACE}/jobs/{name}$", (200, content))


def tracked(name: str, metrics: dict[str, float], params: dict[str, str] | None = None, **tags: str) -> dict[str, Any]:
    return {
        "info": {"run_id": name, "experiment_id": "7"},
        "data": {
            "metrics": [{"key": key, "value": value} for key, value in metrics.items()],
            "params": [{"key": key, "value": value} for key, value in (params or {}).items()],
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        },
    }


def ran(name: str, seconds: float, kind: str = "azureml.scriptrun", status: str = "Completed", **more: Any) -> Any:
    """A run as run history shows it, of so many seconds."""
    end = f"2026-01-01T00:{int(seconds // 60):02}:{seconds % 60:06.3f}+00:00"
    times = {"startTimeUtc": "2026-01-01T00:00:00.0000000Z", "endTimeUtc": end}
    return {"runId": name, "runType": kind, "status": status, **times, **more}


def history(edge: Edge, run: dict[str, Any], children: Iterable[Any] = ()) -> None:
    edge.on("GET", f"{HISTORY}/runs/{run['runId']}/details$", (200, run))
    edge.on("GET", f"{HISTORY}/runs/{run['runId']}/children$", (200, {"value": list(children)}))


class TaskInstance(SimpleNamespace):
    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.xcoms.get(task_ids if key == "return_value" else f"{task_ids}.{key}")

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def context_of(operator: Any, xcoms: dict[str, Any] | None = None, **params: Any) -> Any:
    operator.dag = DAG("nightly", schedule=None)
    ti = TaskInstance(
        xcoms=xcoms or {}, pushed={}, task=operator, dag_id="nightly", run_id="manual__1", task_id=operator.task_id,
        map_index=-1, max_tries=0,
    )  # fmt: skip
    dag_run = SimpleNamespace(dag_id="nightly", run_id="manual__1", partition_key=None)
    context: Any = {"ti": ti, "dag_run": dag_run, "params": {"partition": "2013-03-08", **params}, "task": operator}
    operator.render_template_fields(context)
    return context


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())
    return path


@pytest.fixture
def include(tmp_path: Path) -> Path:
    """An include folder with one command job, its code and its conda file."""
    write(
        tmp_path / "ml/jobs/j.yml",
        """
        type: command
        command: python x.py --a ${{inputs.a}} --b "${{ inputs.b }}"
        code: ../code
        environment: {conda_file: ../conda.yml}
        display_name: {{ night.partition }} {{ params.who }}
        inputs:
          a: {type: uri_folder, path: {{ inputs.a }}}
          b: "{{ inputs.b }}"
        outputs:
          made: {type: uri_folder}
          more:
        limits: {timeout: 60, other: 1}
        """,
    )
    write(tmp_path / "ml/code/x.py", "print(1)")
    write(tmp_path / "ml/conda.yml", "name: x")
    return tmp_path
