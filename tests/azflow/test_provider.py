"""The connection type in Airflow's form: found on the path, complete, and testable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from azflow import connection, provider
from azflow.hook import AzflowHook
from azure_edge import Edge, edge
from workspace_edge import WORKSPACE, workspace

__all__ = ["edge"]

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
#: As Airflow's API server reads it for the form.
READ = """
import json
from airflow.providers_manager import ProvidersManager
manager = ProvidersManager()
widgets = [name for name in manager.connection_form_widgets if name.startswith("extra__azflow__")]
secret = [name for name in widgets if manager.connection_form_widgets[name].is_sensitive]
hook = manager.hooks["azflow"]
behaviour = manager.field_behaviours["azflow"]
print("RESULT" + json.dumps([widgets, secret, hook.hook_name, hook.connection_type, behaviour["hidden_fields"]]))
"""


def test_airflow_offers_the_connection_type(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(PLUGINS)}
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert results, done.stderr[-3000:]
    widgets, secret, name, kind, hidden = json.loads(results[0].removeprefix("RESULT"))
    assert widgets == [f"extra__azflow__{field}" for field in provider.FIELDS]
    assert secret == ["extra__azflow__sql_password"]
    assert (name, kind, hidden) == ("azflow (Azure Synapse and Azure ML)", "azflow", ["host", "port", "schema"])
    assert "azflow" not in done.stderr, done.stderr


def test_the_form_has_every_extra() -> None:
    assert set(provider.FIELDS) == connection._EXTRAS


def test_the_versions_agree() -> None:
    metadata = (PLUGINS / "azflow-0.1.0.dist-info" / "METADATA").read_text()
    project = (PLUGINS.parent / "pyproject.toml").read_text()
    assert "Version: 0.1.0" in metadata and 'version = "0.1.0"' in project


def test_what_the_form_leaves_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = dict.fromkeys(provider.FIELDS, "") | {"workspace": "ws", "cloud": None}
    monkeypatch.setenv("AIRFLOW_CONN_FORM", json.dumps({"conn_type": "azflow", "extra": extra}))
    found = AzflowHook("form").get_conn()
    assert (found.workspace, found.container, found.sql_authentication, found.cloud) == ("ws", "lake", "entra", None)


def test_the_form_can_test_a_connection(edge: Edge) -> None:
    workspace(edge)
    assert AzflowHook().test_connection() == (True, "The workspace ws answers.")
    edge.on("GET", f"{WORKSPACE}$", (403, {"error": {"code": "AuthorizationFailed", "message": "no role"}}))
    good, said = AzflowHook().test_connection()
    assert not good and "no role" in said
    good, said = AzflowHook("nowhere").test_connection()
    assert not good and "'nowhere'" in said
