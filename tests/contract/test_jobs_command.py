"""Command jobs as Microsoft's own SDK submits, reads, cancels and deletes them: every input type and mode,
distribution, identity, computes, environments that are built, preemption.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.evidence("sdk")

ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"
FINAL = {"Completed", "Failed", "Canceled"}
EVERYTHING = """
import json, os, pathlib, sys
found = dict(line.split("=", 1) for line in sys.argv[2:])
shown = {}
for name, value in found.items():
    path = pathlib.Path(value)
    shown[name] = sorted(p.name for p in path.iterdir()) if path.is_dir() else path.name if path.exists() else value
shown["word"] = os.environ["WORD"]
shown["token"] = bool(os.environ.get("MSI_SECRET"))
for file in pathlib.Path(found["folder"]).iterdir():
    file.chmod(0o644)
    file.write_text("spoiled")
pathlib.Path(sys.argv[1], "shown.json").write_text(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def client(localazure: Any) -> Any:
    return localazure.ml_client()


@pytest.fixture(scope="module")
def submit(client: Any) -> Callable[..., str]:
    """Submits a command under a new name; its name."""

    def submitted(text: str, **more: Any) -> str:
        from azure.ai.ml import command

        job = command(**{"command": text, "environment": ENVIRONMENT, "compute": "cpu-cluster", **more})
        job.name = f"command-{uuid.uuid4().hex[:12]}"
        job.experiment_name = "contract-command"
        return str(client.jobs.create_or_update(job).name)

    return submitted


@pytest.fixture(scope="module")
def reaches(client: Any) -> Callable[..., Any]:
    def wait(name: str, *states: str, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while (job := client.jobs.get(name)).status not in (states or FINAL):
            assert time.monotonic() < end, f"{name} is {job.status}"
            time.sleep(0.1)
        return job

    return wait


def test_inputs_of_every_type_outputs_of_every_type_and_what_becomes_of_them(
    client: Any, submit: Any, reaches: Any, tmp_path: Path
) -> None:
    import json

    from azure.ai.ml import Input, Output
    from azure.ai.ml.entities import Data, ManagedIdentityConfiguration

    unique = uuid.uuid4().hex[:8]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "show.py").write_text(EVERYTHING)
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("a\n1\n")
    table = tmp_path / "table"
    table.mkdir()
    (table / "b.csv").write_text("b\n2\n")
    (table / "MLTable").write_text("paths:\n  - file: ./b.csv\ntransformations:\n  - read_delimited\n")
    model = tmp_path / "model"
    model.mkdir()
    (model / "MLmodel").write_text("flavors: {}\n")
    folder = client.data.create_or_update(Data(name=f"folder-{unique}", path=str(data), type="uri_folder"))
    inputs = {
        "folder": Input(type="uri_folder", path=f"azureml:{folder.name}:1"),
        "same": Input(type="uri_folder", path=folder.path, mode="download"),
        "file": Input(type="uri_file", path=f"{folder.path.rstrip('/')}/a.csv"),
        "local": Input(type="uri_file", path=str(data / "a.csv")),
        "table": Input(type="mltable", path=str(table)),
        "evaluated": Input(type="mltable", path=str(table), mode="eval_mount"),
        "model": Input(type="mlflow_model", path=str(model)),
        "custom": Input(type="custom_model", path=str(model)),
        "address": Input(type="uri_folder", path=folder.path, mode="direct"),
        "text": "x y",
        "number": 0.5,
        "whole": 3,
        "flag": True,
    }
    names = " ".join(f"{name}='${{{{inputs.{name}}}}}'" for name in inputs)
    name = submit(
        f"python show.py ${{{{outputs.shown}}}} {names}; cp show.py ${{{{outputs.file}}}};"
        " echo 'flavors: {}' > ${{outputs.model}}/MLmodel",
        code=str(tmp_path / "code"),
        inputs=inputs,
        outputs={
            "shown": Output(type="uri_folder", mode="upload", name=f"shown-{unique}"),
            "file": Output(type="uri_file"),
            "model": Output(type="mlflow_model", name=f"model-{unique}", version="7"),
        },
        environment_variables={"WORD": "spoken"},
        identity=ManagedIdentityConfiguration(),
        shm_size="1g",
        docker_args="--ulimit memlock=-1",
    )
    assert reaches(name).status == "Completed", client.jobs.stream(name)
    client.jobs.download(name, output_name="shown", download_path=tmp_path / "out")
    shown = json.loads((tmp_path / "out/named-outputs/shown/shown.json").read_text())
    assert shown.pop("address").startswith("azureml://")
    assert shown == {
        "folder": ["a.csv"], "same": ["a.csv"], "file": "a.csv", "local": "a.csv", "table": ["MLTable", "b.csv"],
        "evaluated": ["b.csv"], "model": ["MLmodel"], "custom": ["MLmodel"], "text": "x y", "number": "0.5",
        "whole": "3", "flag": "True", "word": "spoken", "token": True,
    }  # fmt: skip
    # What the job wrote over its input stayed its own.
    again = submit("cat ${{inputs.file}}", inputs={"file": inputs["file"]})
    assert reaches(again).status == "Completed"
    client.jobs.download(again, download_path=tmp_path / "again")
    assert "a\n1\n" in (tmp_path / "again/artifacts/user_logs/std_log.txt").read_text()
    assert client.data.get(f"shown-{unique}", label="latest").path.endswith(f"/azureml/{name}/shown/")
    assert client.models.get(f"model-{unique}", "7").type == "mlflow_model"
    assert client.jobs.show_services(name) is None
    client.jobs.begin_delete(again).result()
    assert again not in {job.name for job in client.jobs.list()}


def test_a_jobs_managed_identity_is_what_azure_identity_finds(submit: Any, reaches: Any, client: Any) -> None:
    from azure.ai.ml.entities import ManagedIdentityConfiguration

    script = (
        "from azure.identity import ManagedIdentityCredential as C;"
        "print(len(C().get_token('https://storage.azure.com/.default').token) > 100)"
    )
    # These tests' own interpreter: it has azure-identity.
    text = f'{sys.executable} -c "{script}" | grep True'
    assert reaches(submit(text, identity=ManagedIdentityConfiguration())).status == "Completed"
    assert reaches(submit(text)).status == "Failed"


def test_processes_of_a_distributed_job_find_each_other(client: Any, submit: Any, reaches: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import VsCodeJobService

    torch = {"type": "pytorch", "process_count_per_instance": 2}
    services = {"mine": VsCodeJobService()}
    name = submit("echo rank $RANK of $WORLD_SIZE", instance_count=2, distribution=torch, services=services)
    assert reaches(name).status == "Completed"
    assert "runs no interactive services" in client.jobs.show_services(name)["mine"].error
    client.jobs.download(name, download_path=tmp_path)
    logs = tmp_path / "artifacts/user_logs"
    assert [(logs / f"std_log_process_{rank}.txt").read_text() for rank in range(4)] == [
        f"rank {rank} of 4\n" for rank in range(4)
    ]


def test_a_cluster_is_made_and_scaled_jobs_wait_for_it_and_a_preempted_one_begins_anew(
    client: Any, submit: Any, reaches: Any, localazure: Any
) -> None:
    from azure.ai.ml.entities import AmlCompute, ComputeInstance
    from azure.core.exceptions import HttpResponseError

    name = f"low-{uuid.uuid4().hex[:6]}"
    asked = AmlCompute(
        name=name, size="STANDARD_DS3_V2", max_instances=1, tier="low_priority", idle_time_before_scale_down=1
    )
    made = client.compute.begin_create_or_update(asked).result()
    assert (made.provisioning_state, made.max_instances, made.tier) == ("Succeeded", 1, "low_priority")
    first = submit("sleep 30", compute=name)
    reaches(first, "Running")
    waiting = submit("true", compute=name)
    reaches(waiting, "Queued")
    # azure-ai-ml 1.35 leaves run_id None and keeps the wire's name beside it.
    assert [vars(node)["runId"] for node in client.compute.list_nodes(name)] == [first]
    with pytest.raises(HttpResponseError, match="has jobs that aren't over"):
        client.compute.begin_delete(name).result()
    assert "preempt" in localazure.run("fault", "preempt", first)
    # Its place in the queue is behind the one that waited.
    assert reaches(waiting).status == "Completed"
    reaches(first, "Running")
    client.jobs.begin_cancel(first).result()
    assert client.jobs.get(first).status == "Canceled"
    made.max_instances = 3
    assert client.compute.begin_update(made).result().max_instances == 3
    time.sleep(1)
    assert list(client.compute.list_nodes(name)) == []
    client.compute.begin_delete(name).result()
    instance = f"ci-{uuid.uuid4().hex[:6]}"
    client.compute.begin_create_or_update(ComputeInstance(name=instance, size="STANDARD_DS3_V2")).result()
    client.compute.begin_stop(instance).result()
    assert client.compute.get(instance).state == "Stopped"
    with pytest.raises(HttpResponseError, match="is stopped"):
        submit("true", compute=instance)
    client.compute.begin_delete(instance).result()


def test_an_environment_that_can_not_be_built_tells_why(client: Any, submit: Any, reaches: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Environment

    def environment(*dependencies: Any) -> Environment:
        return Environment(image="mcr.microsoft.com/azureml/x", conda_file={"dependencies": list(dependencies)})

    def error(name: str) -> str:
        assert reaches(name).status == "Failed"
        return str(client.jobs._runs_operations.get_run_details(name).error.error.message)

    name = submit("true", environment=environment("python>=3.11", {"pip": ["localazure-has-no-such-package==9"]}))
    assert "localazure-has-no-such-package" in error(name)
    client.jobs.download(name, download_path=tmp_path, all=True)
    build = tmp_path / "artifacts/azureml-logs/20_image_build_log.txt"
    assert "localazure-has-no-such-package==9" in build.read_text()
    assert "cudatoolkit=11 (only conda has it)" in error(submit("true", environment=environment("cudatoolkit=11")))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"distribution": {"type": "ray"}}, "distribution Ray"),
        ({"instance_count": 2}, "instanceCount 2 and no distribution"),
        ({"compute": "synapse-spark"}, "is of type SynapseSpark"),
    ],
)
def test_what_is_not_there_is_refused_by_name(submit: Any, more: dict[str, Any], message: str) -> None:
    from azure.ai.ml import RayDistribution
    from azure.core.exceptions import HttpResponseError

    if more.get("distribution") == {"type": "ray"}:
        more = {"distribution": RayDistribution()}
    with pytest.raises(HttpResponseError, match=message):
        submit("true", **more)
