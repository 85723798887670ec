"""Batch endpoints through azure-ai-ml: deployed, invoked, watched and downloaded by the unmodified client."""

from __future__ import annotations

import csv
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("azure.ai.ml")
pytestmark = pytest.mark.evidence("sdk")

DEADLINE_SECONDS = 120
SCRIPT = """
import os
import pathlib

import pandas as pd


def init():
    global factor
    factor = int((pathlib.Path(os.environ["AZUREML_MODEL_DIR"]) / "factor.txt").read_text())


def run(mini_batch):
    frames = [pd.read_csv(file).assign(file=pathlib.Path(file).name) for file in mini_batch]
    rows = pd.concat(frames)
    rows["tenfold"] = rows["x"] * factor
    return rows[["file", "tenfold"]]
"""
# A model in MLflow's format without a library of its own: https://mlflow.org/docs/latest/ml/model/#model-format
MLMODEL = """
flavors:
  python_function:
    loader_module: doubling
    code: code
    env: {conda: conda.yaml}
signature:
  inputs: '[{"name": "x", "type": "long"}]'
"""
DOUBLING = """
class Model:
    def predict(self, frame, params=None):
        return frame["x"] * 2

def _load_pyfunc(path):
    return Model()
"""


@pytest.fixture(scope="module")
def client(localazure: Any) -> Any:
    return localazure.ml_client()


@pytest.fixture(scope="module")
def endpoint(client: Any) -> Iterator[str]:
    from azure.ai.ml.entities import BatchEndpoint

    name = f"bep-{uuid.uuid4().hex[:8]}"
    client.batch_endpoints.begin_create_or_update(BatchEndpoint(name=name, description="d", tags={"a": "1"})).result()
    yield name
    client.batch_endpoints.begin_delete(name).wait()
    assert name not in [each.name for each in client.batch_endpoints.list()]


def finished(client: Any, name: str) -> Any:
    end = time.monotonic() + DEADLINE_SECONDS
    while (job := client.jobs.get(name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < end, f"{name} is {job.status}"
        time.sleep(0.5)
    return job


def test_a_scoring_script_is_deployed_invoked_streamed_and_downloaded(
    client: Any, endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from azure.ai.ml import Input, Output
    from azure.ai.ml.entities import (
        BatchRetrySettings,
        CodeConfiguration,
        Environment,
        Model,
        ModelBatchDeployment,
        ModelBatchDeploymentSettings,
    )

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "score.py").write_text(SCRIPT)
    (tmp_path / "factor.txt").write_text("10")
    (tmp_path / "rows").mkdir()
    for number in range(4):
        (tmp_path / "rows" / f"{number}.csv").write_text(f"x\n{number}\n{number + 1}\n")
    deployment = ModelBatchDeployment(
        name="tenfold",
        endpoint_name=endpoint,
        model=Model(name=f"factor-{endpoint}", path=str(tmp_path / "factor.txt"), type="custom_model"),
        code_configuration=CodeConfiguration(code=str(tmp_path / "code"), scoring_script="score.py"),
        environment=Environment(name="scoring", version=endpoint, image="mcr.microsoft.com/azureml/openmpi4.1.0"),
        compute="cpu-cluster",
        settings=ModelBatchDeploymentSettings(
            instance_count=1,
            max_concurrency_per_instance=2,
            mini_batch_size=1,
            output_action="append_row",
            output_file_name="tenfold.csv",
            retry_settings=BatchRetrySettings(max_retries=1, timeout=60),
            logging_level="info",
        ),
    )
    client.batch_deployments.begin_create_or_update(deployment).result()
    shown = client.batch_deployments.get("tenfold", endpoint)
    assert (shown.mini_batch_size, shown.retry_settings.timeout, shown.output_file_name) == (1, 60, "tenfold.csv")
    known = client.batch_endpoints.get(endpoint)
    known.defaults.deployment_name = "tenfold"
    client.batch_endpoints.begin_create_or_update(known).result()
    assert client.batch_endpoints.get(endpoint).defaults.deployment_name == "tenfold"

    uri = f"azureml://datastores/workspaceblobstore/paths/{endpoint}/"
    invoked = client.batch_endpoints.invoke(
        endpoint_name=endpoint,
        deployment_name="tenfold",
        inputs={"rows": Input(type="uri_folder", path=str(tmp_path / "rows"))},
        outputs={"score": Output(type="uri_file", path=f"{uri}scored.csv")},
        params_override=[{"mini_batch_size": 2}, {"compute.instance_count": 1}],
    )
    assert [job.name for job in client.batch_endpoints.list_jobs(endpoint)] == [invoked.name]
    assert [job.name for job in client.batch_deployments.list_jobs(endpoint, name="tenfold")] == [invoked.name]
    client.jobs.stream(invoked.name)
    assert "Execution Summary" in capsys.readouterr().out
    job = client.jobs.get(invoked.name)
    assert (job.status, job.type, job.experiment_name) == ("Completed", "pipeline", endpoint)
    (step,) = client.jobs.list(parent_job_name=invoked.name)
    assert (step.display_name, step.status) == ("batchscoring", "Completed")
    client.jobs.download(invoked.name, download_path=str(tmp_path), output_name="score")
    rows = (tmp_path / "named-outputs" / "score" / "scored.csv").read_text().split("\n")
    assert rows == [f"{file}.csv {10 * value}" for file in range(4) for value in (file, file + 1)] + [""]
    client.jobs.download(step.name, download_path=str(tmp_path / "step"), all=True)
    assert list((tmp_path / "step").rglob("job_progress_overview.*.txt"))


def test_an_mlflow_model_needs_no_script_and_a_file_of_another_type_fails_the_job(
    client: Any, endpoint: str, tmp_path: Path
) -> None:
    from azure.ai.ml import Input
    from azure.ai.ml.entities import BatchDeployment, Data, Model

    model = tmp_path / "model"
    (model / "code").mkdir(parents=True)
    (model / "MLmodel").write_text(MLMODEL)
    (model / "code" / "doubling.py").write_text(DOUBLING)
    (model / "conda.yaml").write_text("dependencies: [{pip: [mlflow]}]")
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "a.csv").write_text("x\n1\n2\n")
    (rows / "b.csv").write_text("x\n3\n")
    registered = client.models.create_or_update(
        Model(name=f"doubling-{endpoint}", path=str(model), type="mlflow_model")
    )
    # The older form of a deployment, without a type of its own.
    client.batch_deployments.begin_create_or_update(
        BatchDeployment(name="doubling", endpoint_name=endpoint, model=registered, compute="cpu-cluster")
    ).result()
    data = client.data.create_or_update(Data(name=f"rows-{endpoint}", path=str(rows), type="uri_folder", version="1"))
    invoked = client.batch_endpoints.invoke(
        endpoint_name=endpoint, deployment_name="doubling", input=Input(type="uri_folder", path=data.id)
    )
    (rows / "c.txt").write_text("x")
    failing = client.batch_endpoints.invoke(
        endpoint_name=endpoint,
        deployment_name="doubling",
        experiment_name="other",
        input=Input(type="uri_folder", path=str(rows)),
    )
    assert finished(client, invoked.name).status == "Completed"
    client.jobs.download(invoked.name, download_path=str(tmp_path), output_name="score")
    with (tmp_path / "named-outputs" / "score" / "predictions.csv").open() as file:
        # row, prediction, file
        assert list(csv.reader(file)) == [["0", "2", "a.csv"], ["1", "4", "a.csv"], ["0", "6", "b.csv"]]
    failed = finished(client, failing.name)
    assert (failed.status, failed.experiment_name) == ("Failed", "other")
    from azure.ai.ml.exceptions import JobException

    with pytest.raises(JobException, match="File type 'txt' is not supported"):
        client.jobs.stream(failing.name)


def test_a_pipeline_component_is_deployed_and_invoked(client: Any, endpoint: str, tmp_path: Path) -> None:
    from azure.ai.ml import Input, load_component
    from azure.ai.ml.entities import PipelineComponentBatchDeployment

    component = tmp_path / "pipeline.yml"
    component.write_text("""
type: pipeline
name: saying
display_name: saying
inputs:
  word: {type: string, default: nothing}
outputs:
  said: {type: uri_folder}
jobs:
  say:
    type: command
    inputs: {word: "${{parent.inputs.word}}"}
    outputs: {said: "${{parent.outputs.said}}"}
    component:
      type: command
      inputs: {word: {type: string}}
      outputs: {said: {type: uri_folder}}
      environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest
      command: echo ${{inputs.word}} > ${{outputs.said}}/word.txt
""")
    saying = client.components.create_or_update(load_component(component), version=uuid.uuid4().hex[:8])
    deployment = PipelineComponentBatchDeployment(
        name="saying",
        endpoint_name=endpoint,
        component=saying,
        settings={"default_compute": "cpu-cluster", "continue_on_step_failure": False},
    )
    client.batch_deployments.begin_create_or_update(deployment).result()
    assert client.batch_deployments.get("saying", endpoint).properties["default_compute"] == "cpu-cluster"
    invoked = client.batch_endpoints.invoke(
        endpoint_name=endpoint, deployment_name="saying", inputs={"word": Input(type="string", default="hello")}
    )
    assert finished(client, invoked.name).status == "Completed"
    client.jobs.download(invoked.name, download_path=str(tmp_path), output_name="said")
    assert (tmp_path / "named-outputs" / "said" / "word.txt").read_text() == "hello\n"
    # A job that ran can be deployed as well: with what it was given as defaults.
    of_job = PipelineComponentBatchDeployment(
        name="again", endpoint_name=endpoint, job_definition=invoked.name, settings={"default_compute": "cpu-cluster"}
    )
    client.batch_deployments.begin_create_or_update(of_job).result()
    invoked = client.batch_endpoints.invoke(endpoint_name=endpoint, deployment_name="again")
    assert finished(client, invoked.name).status == "Completed"
    client.jobs.download(invoked.name, download_path=str(tmp_path / "again"), output_name="said")
    assert (tmp_path / "again" / "named-outputs" / "said" / "word.txt").read_text() == "hello\n"
