"""What tests of roll-outs share: an endpoint with two deployments, an Airflow connection to it, and a task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

import azflow.endpoint_files
import azflow.rollout
from azflow.endpoints import RolloutOperator
from fake_endpoint import NAME, FakeEndpoint, late_after

HOURS = [{"hour": hour} for hour in range(24)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEndpoint]:
    made = FakeEndpoint(tmp_path_factory.mktemp("tls"))
    yield made
    made.close()


@pytest.fixture
def fake(server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEndpoint:
    """The endpoint, empty, and the Airflow connection that leads to it."""
    for name, value in vars(FakeEndpoint(tmp_path)).items():
        if name in {"models", "deployments", "traffic", "writes", "scored", "blobs", "_wheel"}:
            setattr(server, name, value)
    server.exists, server.unsigned, server.fail_writes, server.conflicts = True, False, 0, 0
    server.on_score, server.metrics = lambda count: None, None
    server.blobs["rows/part.jsonl"] = "\n".join(json.dumps(row) for row in HOURS).encode()
    cloud = {
        "name": "test",
        "authority": server.url,
        "resource_manager": server.url,
        "portal": "https://studio.example",
        "storage_endpoint": "core.example",
        "aml_resource_id": "https://ml.example",
    }
    extra = {
        "tenant_id": "tenant",
        "subscription_id": "sub",
        "resource_group": "rg",
        "workspace": "ws",
        "storage_account_url": f"{server.url}/account",
        "cloud": cloud,
        "verify": str(server.certificate),
    }
    content = {"conn_type": "azflow", "login": "client", "password": "s3cret", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(content))
    monkeypatch.setattr(azflow.rollout, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(azflow.rollout.time, "sleep", lambda seconds: None)
    return server


@pytest.fixture
def include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of endpoints with one in it."""
    folder = tmp_path / "endpoints/trial"
    (folder / "code").mkdir(parents=True)
    (folder / "code/score.py").write_text("def run(data): ...\n")
    (folder / "endpoint.yml").write_text(f"name: {NAME}\n")
    (folder / "deployment.yml").write_text(
        "name: {{ deployment }}\nendpoint_name: {{ endpoint }}\nmodel: {{ registered_model }}\n"
    )
    monkeypatch.setattr(azflow.endpoint_files, "ENDPOINTS", tmp_path / "endpoints")
    return folder


class TaskInstance(SimpleNamespace):
    def __init__(self) -> None:
        task = SimpleNamespace(retries=0)
        super().__init__(dag_id="d", task_id="t", run_id="r", map_index=-1, max_tries=0, task=task)
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


def context() -> dict[str, Any]:
    run = SimpleNamespace(dag_id="d", run_id="r", logical_date=None, run_after=None)
    return {"ti": TaskInstance(), "dag_run": run, "params": {"partition": "2013-03-08"}}


def roll_out(deployment: str = "new", seen: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"window_seconds": 0.15, "sample_path": "rows/", "min_requests": 2, **more}
    operator = RolloutOperator(task_id="traffic", endpoint="trial", deployment=deployment, **arguments)
    seen = seen or context()
    operator.render_template_fields(seen, jinja2.Environment())
    return operator.execute(seen)


@pytest.fixture
def two(fake: FakeEndpoint, include: Path) -> FakeEndpoint:
    """A champion with all of the traffic, and a new deployment."""
    fake.add("old", late_after(15))
    fake.add("new", late_after(15))
    fake.traffic = {"old": 100}
    return fake
