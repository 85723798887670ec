"""The DAG files as Airflow reads them: they import, stay light, and one bad model.yml hides no other model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "azure.ai.ml",
    "azure.identity",
    "azure.storage",
    "azure.synapse",
    "great_expectations",
    "pandas",
    "mssql_python",
)
SPEC = ROOT / "include" / "models" / "flight_delay" / "model.yml"

READ_DAGS = """
import json, sys
sys.path.insert(0, "{project}/plugins")
import airflow.sdk, airflow.providers.standard.operators.hitl, airflow.providers.standard.operators.trigger_dagrun
from airflow.dag_processing.dagbag import BundleDagBag
from pathlib import Path
import airflow.serialization.serialized_objects
dags, errors, stuck, rescoring = [], dict(), [], dict()
for file in sorted(Path("{project}/dags").glob("*.py")):
    bag = BundleDagBag(str(file), bundle_path=Path("{project}/dags"), bundle_name="dags", load_op_links=False)
    dags += bag.dags
    for dag in bag.dags.values():
        params = dag.params.items() if hasattr(dag.params, "get_param") else []
        fields = [(name, dag.params.get_param(name)) for name, _ in params]
        stuck += [f"{{dag.dag_id}}.{{name}}" for name, field in fields
                  if field.value in ("", None) and "null" not in field.schema.get("type", ["null"])]
        if dag.dag_id == "rescoring_flight_delay":
            rescoring = {{each.task_id: sorted(each.get_flat_relative_ids(upstream=True)) for each in dag.tasks}}
    errors |= {{Path(name).name: error for name, error in bag.import_errors.items()}}
heavy = [name for name in {heavy!r} if name in sys.modules]
print("RESULT" + json.dumps(dict(dags=sorted(dags), errors=errors, heavy=heavy, stuck=stuck, rescoring=rescoring)))
"""


def read_dags(project: Path, home: Path) -> dict[str, Any]:
    """What Airflow's dag processor finds in `project`, in a process of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(project / "plugins"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", READ_DAGS.format(project=project, heavy=HEAVY)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert results, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(results[0].removeprefix("RESULT"))
    return found


def copy_of(root: Path, copy: Path) -> Path:
    """The project at `root` without its models but flight_delay: a user's own must not change what is tested here."""
    for part in ("dags", "plugins", "include"):
        shutil.copytree(root / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for model in (copy / "include" / "models").iterdir():
        if model.name != SPEC.parent.name:
            shutil.rmtree(model) if model.is_dir() else model.unlink()
    return copy


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project whose models may be changed."""
    return copy_of(ROOT, tmp_path / "project")


def add_model(project: Path, name: str, old: str = "", new: str = "") -> None:
    text = SPEC.read_text().replace("name: flight_delay\n", f"name: {name}\n", 1)
    assert old in text
    folder = project / "include" / "models" / name
    folder.mkdir()
    (folder / "model.yml").write_text(text.replace(old, new, 1))


def test_a_users_models_are_not_in_the_copy(project: Path, tmp_path: Path) -> None:
    add_model(project, "mine")
    (project / "include" / "models" / "notes.txt").write_text("mine")
    copy = copy_of(project, tmp_path / "second")
    assert [path.name for path in (copy / "include" / "models").iterdir()] == ["flight_delay"]


def test_every_dag_file_imports_and_loads_nothing_heavy(tmp_path: Path) -> None:
    found = read_dags(ROOT, tmp_path)
    assert found["errors"] == {}
    assert "nightly_retraining_flight_delay" in found["dags"]
    assert found["heavy"] == []
    # A version beside itself, as in a year's first period: there are no figures by day, but there is a comparison.
    before = found["rescoring"]
    assert all("are_two" in before[task] for task in ("score_against", "figures", "page"))
    assert not any("are_two" in before[task] for task in ("score", "table", "compare", "comparison"))


def test_every_form_can_be_sent_as_it_opens(tmp_path: Path) -> None:
    # Airflow's form takes an empty text for a missing one, and its button stays grey.
    assert read_dags(ROOT, tmp_path)["stuck"] == []


def test_a_bad_model_is_shown_and_hides_no_other(project: Path, tmp_path: Path) -> None:
    add_model(project, "broken", "  job: jobs/flight_delay_automl.yml\n", "")
    add_model(project, "worse", "floor: 0.60", "floor: high")
    found = read_dags(project, tmp_path)
    kinds = ("endpoint_monitoring", "nightly_retraining", "rescoring", "retraining_on_drift", "rollout")
    assert found["dags"] == sorted(["housekeeping", *(f"{kind}_flight_delay" for kind in kinds)])
    ((file, error),) = found["errors"].items()
    # Airflow stops every DAG of a file that has an import error: the file of the DAGs must have none.
    assert file == "model_specs.py"
    assert "include/models/broken/model.yml: train.job: field required" in error
    assert "include/models/worse/model.yml: evaluate.gate.floor: " in error


def test_a_hundred_models_are_read(project: Path, tmp_path: Path) -> None:
    for number in range(99):
        add_model(project, f"model_{number}")
    found = read_dags(project, tmp_path)
    assert len(found["dags"]) == 501 and found["errors"] == {}


def test_plugins_are_imported_as_a_package() -> None:
    # Airflow executes every .py below plugins/ under its bare stem unless it is ignored: errors.py would be `errors`.
    ignored = (ROOT / "plugins" / ".airflowignore").read_text().splitlines()
    assert "azflow/" in ignored
    assert [file.name for file in (ROOT / "plugins").glob("*.py")] == ["azflow_plugin.py"]
