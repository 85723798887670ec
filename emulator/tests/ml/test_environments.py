"""Environments: what a conda file asks for is built once, kept, and used by jobs; what can't be had is named.

The packages are wheels made here and the index is a folder: nothing comes from the network.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from localazure.core.service import ServiceContext


def command(text: str, **more: Any) -> dict[str, Any]:
    curated = "azureml://registries/azureml/environments/sklearn-1.5/versions/3"
    return {"jobType": "Command", "command": text, "environmentId": curated} | more


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with one package, `cloudcover` 1.0."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "cloudcover-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("cloudcover.py", "octas = 8\n")
        wheel.writestr("cloudcover-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: cloudcover\nVersion: 1.0\n")
        wheel.writestr(
            "cloudcover-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("cloudcover-1.0.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_OFFLINE", "true")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return folder


async def environment(client: Any, name: str, *lines: str, conda: str = "") -> str:
    content = f"dependencies:\n{conda}- pip:\n" + "".join(f"  - {line}\n" for line in lines)
    await client.put(f"environments/{name}/versions/1", condaFile=content, image="x")
    return f"{client.settings.workspace_id}/environments/{name}/versions/1"


def test_an_environment_is_built_once_for_all_jobs(with_client: Any, blobs: Any, context: ServiceContext) -> None:
    async def test(client: Any) -> None:
        id = await environment(client, "e", "cloudcover>=1")
        text = "python -c 'import sys, cloudcover; print(sys.prefix, cloudcover.octas)'"
        for name in ("one", "two"):
            await client.put(f"jobs/{name}", **command(text, environmentId=id))
        for name in ("one", "two"):
            assert (await client.finished(name))["properties"]["status"] == "Completed"
            details = await client.ok("GET", f"/history/v1.0{client.settings.workspace_id}/runs/{name}/details")
            assert sorted(details["logFiles"]) == ["azureml-logs/20_image_build_log.txt", "user_logs/std_log.txt"]

    with_client(test)
    logs = [blobs.root / f"azureml/ExperimentRun/dcid.{name}" for name in ("one", "two")]
    said = [(folder / "user_logs/std_log.txt").read_text() for folder in logs]
    builds = [folder for folder in (context.settings.home / "environments").iterdir() if folder.is_dir()]
    assert len(builds) == 1
    assert all(f"{builds[0]} 8" in text for text in said)
    built = [(folder / "azureml-logs/20_image_build_log.txt").read_text() for folder in logs]
    assert built[0] == built[1]
    assert "cloudcover==1.0" in built[0]


@pytest.mark.parametrize(
    ("lines", "conda", "messages"),
    [
        (["cloudcover>=2"], "", ["couldn't be built", "20_image_build_log.txt", "cloudcover>=2", "'e/versions/1'"]),
        (["cloudcover"], "- python=2.7\n", ["needs Python ==2.7.*, which isn't here"]),
        (["cloudcover", "-e ."], "- cudatoolkit=11\n", ["cudatoolkit=11 (only conda has it)", "-e . (pip options"]),
        (["x @ https://user:pass@host/x.whl"], "", ["installed from an address"]),
    ],
)  # fmt: skip
def test_what_can_not_be_built_fails_the_job_by_name(
    with_client: Any, context: ServiceContext, lines: list[str], conda: str, messages: list[str]
) -> None:
    async def test(client: Any) -> None:
        id = await environment(client, "e", *lines, conda=conda)
        await client.put("jobs/bad", **command("true", environmentId=id))
        assert (await client.finished("bad"))["properties"]["status"] == "Failed"
        error = await client.error("bad")
        assert all(message in error for message in messages), error
        assert "pass@" not in error

    with_client(test)
    environments = context.settings.home / "environments"
    assert not environments.exists() or [path.suffix for path in environments.iterdir()] == [".lock"]


def test_pip_install_in_a_command_is_the_jobs_own(with_client: Any, blobs: Any, context: ServiceContext) -> None:
    async def test(client: Any) -> None:
        text = (
            "pip install --user -q cloudcover && python -m pip install cloudcover --upgrade &&"
            " python -c 'import cloudcover; print(cloudcover.__file__)' && pip uninstall -y cloudcover"
        )
        await client.put("jobs/pip", **command(text))
        assert (await client.finished("pip"))["properties"]["status"] == "Failed"
        assert "pip uninstall is not available in a job" in await client.error("pip")
        await client.put("jobs/other", **command("python -c 'import cloudcover'"))
        assert (await client.finished("other"))["properties"]["status"] == "Failed"

    with_client(test)
    log = (blobs.root / "azureml/ExperimentRun/dcid.pip/user_logs/std_log.txt").read_text()
    assert f"{context.settings.home}/jobs/pip/pip/packages/cloudcover.py" in log
    assert not (context.settings.home / "jobs/pip/pip").exists()


def test_curated_names_are_known_to_every_workspace(with_client: Any) -> None:
    async def test(client: Any) -> None:
        base = "environments/AzureML-sklearn-1.0-ubuntu20.04-py38-cpu"
        (latest,) = (await client.ok("GET", f"{base}/versions?$orderBy=createdtime desc&$top=1"))["value"]
        assert (await client.ok("GET", f"{base}"))["properties"]["latestVersion"] == latest["name"] == "1"
        old = await client.ok("GET", f"{base}/versions/33")
        await client.put("jobs/curated", **command("true", environmentId=old["id"]))
        assert (await client.finished("curated"))["properties"]["status"] == "Completed"
        assert (await client.send("GET", "environments/mine/versions/1")).status_code == 404

    with_client(test)


def test_a_curated_environment_is_the_compute_environment_and_the_log_says_so(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("jobs/curated", **command("true"))
        assert (await client.finished("curated"))["properties"]["status"] == "Completed"

    with_client(test)
    log = (blobs.root / "azureml/ExperimentRun/dcid.curated/user_logs/std_log.txt").read_text()
    assert "sklearn-1.5/versions/3 is not pulled; the job runs in the compute environment" in log
