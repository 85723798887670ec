"""Docker build contexts that only install Python packages, and those that do more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localazure.core.errors import NotImplementedOperation
from localazure.executors import dockerfile
from localazure.executors.requirements import Requirements


def context(folder: Path, text: str, **files: str) -> Path:
    (folder / "Dockerfile").write_text(text)
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "# base\nFROM python:3.11-slim\nWORKDIR /\nCOPY requirements.txt .\n"
            'RUN pip install -r requirements.txt && rm requirements.txt\nCMD ["bash"]\n',
            Requirements("==3.11.*", ("scikit-learn>=1", "pandas")),
        ),
        (
            "ARG wanted=polars\nFROM mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04\n"
            "ENV A=1 PATH=/opt/bin:$PATH\nENV B two words\n\n"
            "RUN pip install --upgrade pip \\\n    # why\n"
            "    && pip3 install --no-cache-dir '${wanted}==1' ; pip cache purge\n",
            Requirements("", ("polars==1",), (), (("A", "1"), ("B", "two words"))),
        ),
        (
            "FROM continuumio/miniconda3\nCOPY . .\n"
            "RUN conda env create -p $HOME/env -f conda_dependencies.yaml -q && \\\n"
            "    conda install -y numpy=1.26\n",
            Requirements("==3.10.*", ("pip-only", "numpy==1.26.*"), ("cudatoolkit=11",)),
        ),
    ],
)
def test_what_is_installed_is_read(tmp_path: Path, text: str, expected: Requirements) -> None:
    conda = "dependencies: [python=3.10, pip, cudatoolkit=11, {pip: [pip-only]}]"
    folder = context(tmp_path, text, requirements_txt="# all\nscikit-learn>=1\n\npandas # frames\n")
    (folder / "nested").mkdir()
    (folder / "nested" / "conda_dependencies.yaml").write_text(conda)
    assert dockerfile.read(folder, "Dockerfile") == expected


@pytest.mark.parametrize(
    "line",
    [
        "RUN apt-get update && apt-get install -y gcc",
        "FROM ubuntu AS second",
        "RUN pip install .",
        "RUN pip install --index-url https://me:secret@host/simple x",
        'RUN ["pip", "install", "x"]',
        "RUN curl https://host/x.sh | sh",
        "ONBUILD RUN true",
        "RUN pip install -r ../outside.txt",
    ],
)
def test_what_needs_the_image_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    folder = context(tmp_path, f"FROM ubuntu\n{line}\n")
    with pytest.raises(NotImplementedOperation, match="line 2 of Dockerfile") as refused:
        dockerfile.read(folder, "Dockerfile")
    assert "secret" not in refused.value.message


def test_a_context_without_its_dockerfile_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedOperation, match=r"no other\.docker \(it has Dockerfile\)"):
        dockerfile.read(context(tmp_path, "FROM x"), "other.docker")


def test_a_job_runs_in_what_its_build_context_installs(with_client: Any, blobs: Any) -> None:
    blobs.write("azureml", "context/Dockerfile", b"FROM ubuntu\nENV GREETING=hello\nRUN pip install httpx\n")

    async def test(client: Any) -> None:
        uri = "azureml://datastores/workspaceblobstore/paths/context/"
        await client.put("environments/docker/versions/1", build={"contextUri": uri, "dockerfilePath": "Dockerfile"})
        body = {
            "jobType": "Command",
            "command": "echo $GREETING $OWN",
            "environmentId": f"{client.settings.workspace_id}/environments/docker/versions/1",
            "environmentVariables": {"OWN": "you"},
        }
        await client.put("jobs/docker", **body)
        assert (await client.finished("docker"))["properties"]["status"] == "Completed"

    with_client(test)
    assert "hello you" in (blobs.root / "azureml/ExperimentRun/dcid.docker/user_logs/std_log.txt").read_text()
