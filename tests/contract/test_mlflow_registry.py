"""MLflow's registry is the workspace's models: MLflow's own client in a job, Microsoft's SDK outside.

Evidence: `sdk` (both clients unmodified).
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.evidence("sdk")

TRAIN = """
import sys
import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import RestException

class Doubled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [2 * each for each in model_input]

name, given = sys.argv[1:]
client = MlflowClient()
with mlflow.start_run() as run:
    info = mlflow.pyfunc.log_model(
        name="model", python_model=Doubled(), registered_model_name=name, pip_requirements=[]
    )
assert str(info.registered_model_version) == "1", info.registered_model_version
second = mlflow.register_model(info.model_uri, name)
assert [each.version for each in client.search_model_versions(f"name='{name}'")] == ["2", "1"]
assert client.get_model_version(name, "1").run_id == run.info.run_id
client.set_model_version_tag(name, "2", "role", "champion")
client.transition_model_version_stage(name, "2", "Production")
assert client.get_latest_versions(name, ["Production"])[0].tags == {"role": "champion"}
assert mlflow.pyfunc.load_model(f"models:/{name}/latest").predict([4]) == [8]
# A model that the SDK uploaded.
path = mlflow.artifacts.download_artifacts(f"models:/{given}/1")
assert open(f"{path}/weights.txt").read() == "1 2 3"
try:
    client.get_model_version(name, "9")
except RestException as error:
    assert error.error_code == "RESOURCE_DOES_NOT_EXIST"
else:
    raise SystemExit("there is no version 9")
"""


def test_what_a_job_registers_with_mlflow_is_a_model_of_the_workspace(localazure: Any, tmp_path: Path) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Model

    client = localazure.ml_client()
    name, given = (f"{kind}-{uuid.uuid4().hex[:8]}" for kind in ("made", "given"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weights.txt").write_text("1 2 3")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(TRAIN)
    client.models.create_or_update(Model(name=given, version="1", path=str(tmp_path / "weights")))
    job = client.jobs.create_or_update(
        command(
            name=f"registry-{uuid.uuid4().hex[:12]}",
            code=str(tmp_path / "code"),
            command=f"python train.py {name} {given}",
            environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
            compute="cpu-cluster",
        )
    )
    end = time.monotonic() + 300
    while (job := client.jobs.get(job.name)).status not in ("Completed", "Failed"):
        assert time.monotonic() < end
        time.sleep(0.3)
    client.jobs.download(job.name, download_path=tmp_path)
    assert job.status == "Completed", (tmp_path / "artifacts/user_logs/std_log.txt").read_text()
    first, second = (client.models.get(name, version) for version in "12")
    assert (first.type, first.job_name) == ("mlflow_model", job.name)
    assert (second.stage, second.tags) == ("Production", {"role": "champion"})
    client.models.download(name, "2", download_path=tmp_path)
    assert list((tmp_path / name).rglob("MLmodel"))
