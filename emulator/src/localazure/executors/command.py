"""Command jobs: a shell command over a code snapshot.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-command
"""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

from localazure.core.errors import AzureError, BadRequest, NotImplementedOperation
from localazure.executors import bindings, environments
from localazure.executors.durations import seconds
from localazure.executors.job import AssetSource, JobFailed, RunningJob
from localazure.settings import Settings
from localazure.storage.locations import Location


class CommandRunner:
    """Runs `bash -c <command>` in the compute environment."""

    def __init__(self, settings: Settings, assets: AssetSource) -> None:
        self._settings = settings
        self._assets = assets

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner. An environment that can't be satisfied fails the job, not the submission, as in the
        service.
        """
        if not str(properties.get("command") or "").strip():
            raise BadRequest("A command job needs a command.", "command", "UserError")
        if properties.get("distribution"):
            kind = properties["distribution"].get("distributionType")
            raise NotImplementedOperation(f"Jobs_CreateOrUpdate of a command job with distribution {kind}")
        instances = (properties.get("resources") or {}).get("instanceCount") or 1
        if instances != 1:
            raise NotImplementedOperation(f"Jobs_CreateOrUpdate of a command job with instanceCount {instances}")
        seconds((properties.get("limits") or {}).get("timeout"), "limits.timeout")
        if not properties.get("environmentId"):
            raise BadRequest("A command job needs an environment.", "environmentId", "UserError")
        self._assets.environment(properties["environmentId"])

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """`limits.timeout`."""
        return seconds((properties.get("limits") or {}).get("timeout"), "limits.timeout")

    def nodes(self, properties: dict[str, Any]) -> int:
        """One: one process on one machine."""
        return 1

    async def prepare(self, job: RunningJob) -> None:
        """Checks the environment, unpacks the code, brings the inputs."""
        await check_environment(job, job.properties.get("environmentId"))
        directory = job.working_directory
        directory.parent.mkdir(parents=True, exist_ok=True)
        if code := job.properties.get("codeId"):
            snapshot = await asyncio.to_thread(job.assets.code_folder, code)
            if snapshot.is_file():
                directory.mkdir(exist_ok=True)
                await asyncio.to_thread(shutil.copy, snapshot, directory)
            else:
                # A copy: jobs may write beside their code, the mirror's folder must not change.
                await asyncio.to_thread(shutil.copytree, snapshot, directory, dirs_exist_ok=True)
        directory.mkdir(exist_ok=True)
        job.found["inputs"] = await bindings.inputs(job)
        job.found["outputs"] = bindings.output_paths(job)

    async def execute(self, job: RunningJob) -> None:
        """Runs the command; JobFailed with the log's last lines unless it exits with 0."""
        inputs, outputs = job.found["inputs"], job.found["outputs"]
        command = bindings.expand(job.properties["command"], {"inputs": inputs, "outputs": outputs})
        more = {f"AZURE_ML_INPUT_{name}": value for name, value in inputs.items()}
        more |= {f"AZURE_ML_OUTPUT_{name}": value for name, value in outputs.items()}
        code = await job.run(["bash", "-c", command], job.environment(more))
        if code != 0:
            how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
            raise JobFailed(
                f"Execution failed: the command {how}. Last lines of user_logs/std_log.txt:\n{job.last_lines()}"
            )

    async def finalize(self, job: RunningJob) -> None:
        """Uploads the outputs."""
        await bindings.upload(job, Location("azureml", f"ExperimentRun/dcid.{job.name}"))


async def check_environment(job: RunningJob, id: str | None) -> None:
    """Fails the job if its environment asks for what the compute environment doesn't have, naming each requirement."""
    if not id:
        return
    environment = job.assets.environment(id)
    missing = await asyncio.to_thread(environments.check, environment, job.settings)
    if missing:
        listed = "\n".join(f"  - {each}" for each in missing)
        raise JobFailed(
            f"The environment '{id.rpartition('/environments/')[2] or id}' can't be satisfied by localazure's compute "
            f"environment ({job.settings.compute_python}):\n{listed}\n"
            "Install them there, or change the environment's conda file."
        )
    image = environment.get("properties", {}).get("image")
    if image:
        job.note(f"image {image} is not pulled; the job runs in {job.settings.compute_python.parent.parent}")


def as_failure(error: AzureError) -> JobFailed:
    """An error met while preparing, as the job's own."""
    return JobFailed(error.message, error.code)
