"""Registries as Microsoft's own SDK uses them: creating, sharing from the workspace, and jobs that refer to them."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.evidence("sdk")

COMPONENT = """
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: greet
display_name: Greet
inputs: {who: {type: string, default: nobody}}
outputs: {said: {type: uri_folder}}
code: code
command: python greet.py ${{inputs.who}} ${{outputs.said}}
environment: azureml://registries/azureml/environments/sklearn-1.5/labels/latest
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("user")
    (root / "code").mkdir()
    (root / "code" / "greet.py").write_text(
        "import pathlib, sys\npathlib.Path(sys.argv[2], 'said.txt').write_text('hello ' + sys.argv[1])\n"
    )
    (root / "component.yml").write_text(COMPONENT)
    (root / "model").mkdir()
    (root / "model" / "weights.txt").write_text("1 2 3")
    (root / "conda.yml").write_text("dependencies: [python>=3.11, pip, {pip: [mlflow]}]\n")
    return root


@pytest.fixture(scope="module")
def registry(localazure: Any) -> Any:
    """A registry of its own; gone afterwards."""
    from azure.ai.ml.entities import Registry, RegistryRegionDetails

    client = localazure.ml_client()
    name = f"reg-{uuid.uuid4().hex[:8]}"
    region = RegistryRegionDetails(location=localazure["location"])
    made = client.registries.begin_create(
        Registry(name=name, location=localazure["location"], replication_locations=[region], tags={"of": "tests"})
    ).result()
    assert (made.name, made.tags) == (name, {"of": "tests"})
    yield localazure.ml_client(registry_name=name)
    client.registries.begin_delete(name=name).result()
    assert name not in {each.name for each in client.registries.list()}


def finished(client: Any, job: Any, seconds: float = 300) -> Any:
    """The job once it is over."""
    end = time.monotonic() + seconds
    while (job := client.jobs.get(job.name)).status not in ("Completed", "Failed", "Canceled"):
        assert time.monotonic() < end, f"{job.name} is {job.status} after {seconds} s"
        time.sleep(0.3)
    return job


def test_the_registry_that_is_always_there(localazure: Any) -> None:
    client = localazure.ml_client()
    assert localazure["registry"] in {each.name for each in client.registries.list()}
    assert client.registries.get(localazure["registry"]).location == localazure["location"]


def test_a_workspaces_assets_are_shared_and_stay_as_they_were(
    localazure: Any, registry: Any, folder: Path, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import Data, Environment, Model

    client = localazure.ml_client()
    name = f"shared-{uuid.uuid4().hex[:8]}"
    client.models.create_or_update(
        Model(name=name, version="1", path=str(folder / "model"), type="custom_model", tags={"role": "champion"})
    )
    client.data.create_or_update(Data(name=name, version="1", path=str(folder / "model"), type="uri_folder"))
    client.environments.create_or_update(
        Environment(name=name, version="1", image="python:3.11", conda_file=str(folder / "conda.yml"))
    )
    target = registry.models._operation_scope.registry_name
    shared = {"share_with_name": name, "share_with_version": "7", "registry_name": target}
    for operations in (client.models, client.data, client.environments):
        operations.share(name, "1", **shared)
    model = registry.models.get(name, "7")
    assert model.id == f"azureml://registries/{target}/models/{name}/versions/7"
    assert (model.type, model.tags) == ("custom_model", {"role": "champion"})
    assert [each.version for each in registry.models.list(name)] == ["7"]
    assert name in {each.name for each in registry.models.list()}
    registry.models.download(name, "7", download_path=tmp_path)
    assert [path.read_text() for path in tmp_path.rglob("weights.txt")] == ["1 2 3"]
    assert registry.data.get(name, label="latest").type == "uri_folder"
    assert "mlflow" in str(registry.environments.get(name, "7").conda_file)
    with pytest.raises(Exception, match="already exists in registry"):
        client.models.share(name, "1", **shared)


def test_a_models_files_are_uploaded_to_the_registry_itself(registry: Any, folder: Path, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    name = f"own-{uuid.uuid4().hex[:8]}"
    made = registry.models.create_or_update(Model(name=name, version="1", path=str(folder / "model")))
    assert "registry-" in made.path
    registry.models.download(name, "1", download_path=tmp_path)
    assert [path.read_text() for path in tmp_path.rglob("weights.txt")] == ["1 2 3"]
    made.description = "three weights"
    assert registry.models.create_or_update(made).description == "three weights"
    (folder / "model2").mkdir()
    (folder / "model2" / "weights.txt").write_text("4 5 6")
    # What is there isn't written to again: the SDK takes the conflict for "uploaded already", and then has no address.
    with pytest.raises(ValueError, match="No value for given attribute"):
        registry.models.create_or_update(Model(name=name, version="1", path=str(folder / "model2")))
    registry.models.archive(name, "1")
    assert [each.version for each in registry.models.list(name)] == []


def test_jobs_use_a_registrys_component_data_and_environment(
    localazure: Any, registry: Any, folder: Path, tmp_path: Path
) -> None:
    from azure.ai.ml import Input, command, load_component
    from azure.ai.ml.dsl import pipeline
    from azure.ai.ml.entities import Data, Environment

    client = localazure.ml_client()
    name = f"used_{uuid.uuid4().hex[:8]}"
    target = registry.models._operation_scope.registry_name
    component = load_component(folder / "component.yml")
    component.name, component.version = name, "1"
    registry.components.create_or_update(component)
    registry.data.create_or_update(Data(name=name, version="1", path=str(folder / "model"), type="uri_folder"))
    registry.environments.create_or_update(
        Environment(name=name, version="1", image="python:3.11", conda_file=str(folder / "conda.yml"))
    )
    job = command(
        name=f"registry-{uuid.uuid4().hex[:12]}",
        command="cat ${{inputs.data}}/weights.txt > ${{outputs.out}}/copy.txt",
        inputs={"data": Input(type="uri_folder", path=f"azureml://registries/{target}/data/{name}/versions/1")},
        outputs={"out": {"type": "uri_folder"}},
        environment=f"azureml://registries/{target}/environments/{name}/versions/1",
        compute="cpu-cluster",
    )
    loaded = registry.components.get(name, "1")

    @pipeline(default_compute="cpu-cluster")
    def greeting() -> None:
        loaded(who="flights")

    steps = greeting()
    steps.name = f"registry-{uuid.uuid4().hex[:12]}"
    submitted = [client.jobs.create_or_update(each) for each in (job, steps)]
    ended = [finished(client, each) for each in submitted]
    assert [each.status for each in ended] == ["Completed", "Completed"]
    client.jobs.download(job.name, output_name="out", download_path=tmp_path)
    assert (tmp_path / "named-outputs/out/copy.txt").read_text() == "1 2 3"


def test_a_model_trained_in_one_workspace_is_promoted_to_another(localazure: Any, folder: Path, tmp_path: Path) -> None:
    from azure.ai.ml import Input, command
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    target, name = localazure["registry"], f"promoted-{uuid.uuid4().hex[:8]}"
    dev = localazure.ml_client(workspace_name=localazure["second_workspace"])
    production = localazure.ml_client()
    training = command(
        name=f"promoted-{uuid.uuid4().hex[:12]}",
        command="echo trained > ${{outputs.model}}/weights.txt",
        outputs={"model": {"type": "custom_model"}},
        environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        compute="cpu-cluster",
    )
    assert finished(dev, dev.jobs.create_or_update(training)).status == "Completed"
    path = f"azureml://jobs/{training.name}/outputs/model"
    dev.models.create_or_update(Model(name=name, version="1", path=path, type="custom_model"))
    dev.models.share(name, "1", share_with_name=name, share_with_version="1", registry_name=target)
    scoring = command(
        name=f"promoted-{uuid.uuid4().hex[:12]}",
        command="cp ${{inputs.model}}/weights.txt ${{outputs.out}}",
        inputs={"model": Input(type="custom_model", path=f"azureml://registries/{target}/models/{name}/versions/1")},
        outputs={"out": {"type": "uri_folder"}},
        environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
        compute="cpu-cluster",
    )
    assert finished(production, production.jobs.create_or_update(scoring)).status == "Completed"
    production.jobs.download(scoring.name, output_name="out", download_path=tmp_path)
    assert (tmp_path / "named-outputs/out/weights.txt").read_text() == "trained\n"
    # What is in one workspace isn't in the other, but for the names of jobs.
    with pytest.raises(ResourceNotFoundError):
        production.jobs.get(training.name)
    with pytest.raises(ResourceNotFoundError):
        production.models.get(name, "1")
    training.compute = "cpu-cluster"
    with pytest.raises(HttpResponseError, match=f"workspace '{localazure['second_workspace']}' has a job"):
        production.jobs.create_or_update(training)


def test_what_is_not_there_is_named(localazure: Any) -> None:
    from azure.ai.ml import command
    from azure.core.exceptions import HttpResponseError

    client = localazure.ml_client()
    with pytest.raises(HttpResponseError, match="The registry 'nowhere' was not found"):
        localazure.ml_client(registry_name="nowhere")
    job = command(
        name=f"registry-{uuid.uuid4().hex[:12]}",
        command="true",
        environment=f"azureml://registries/{localazure['registry']}/environments/absent/versions/1",
        compute="cpu-cluster",
    )
    with pytest.raises(HttpResponseError, match="'absent:1' was not found in environments"):
        client.jobs.create_or_update(job)
