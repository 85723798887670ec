"""Command jobs: a shell command over a code snapshot.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-command
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Mapping
from typing import Any

from localazure.core.errors import AzureError, BadRequest
from localazure.executors import bindings, distribution, environments, job_pip
from localazure.executors.distribution import Worker
from localazure.executors.durations import seconds
from localazure.executors.job import AssetSource, JobFailed, RunningJob
from localazure.executors.requirements import Requirements
from localazure.settings import Settings
from localazure.storage.locations import Location

# Where a job's managed identity gets its tokens (answered by ml.jobs).
TOKEN_PATH = "/msi/token"
_IDENTITIES = ("AMLToken", "Managed", "UserIdentity")
# What every job has. The others would be programs on the node: a job that asks for one runs, and says it isn't there.
_SHOWN_SERVICES = ("Tracking", "Studio")
INTERACTIVE = ("JupyterLab", "SSH", "TensorBoard", "VSCode", "RayDashboard", "Custom")
NO_SERVICES = "localazure runs no interactive services; the job runs without it"


class CommandRunner:
    """Runs `bash -c <command>` in the job's environment."""

    def __init__(self, settings: Settings, assets: AssetSource) -> None:
        self._settings = settings
        self._assets = assets

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner. An environment that can't be satisfied fails the job, not the submission, as in the
        service.
        """
        if not str(properties.get("command") or "").strip():
            raise BadRequest("A command job needs a command.", "command", "UserError")
        distribution.validate(properties)
        bindings.validate(properties)
        for name, service in (properties.get("services") or {}).items():
            if (kind := (service or {}).get("jobServiceType")) not in (*_SHOWN_SERVICES, *INTERACTIVE):
                wanted = ", ".join(INTERACTIVE)
                raise BadRequest(f"The service '{name}' is of type '{kind}'; there are {wanted}.", f"services.{name}")
        identity = (properties.get("identity") or {}).get("identityType")
        if identity is not None and identity not in _IDENTITIES:
            raise BadRequest(f"identity.type must be one of {', '.join(_IDENTITIES)}, not '{identity}'.", "identity")
        seconds((properties.get("limits") or {}).get("timeout"), "limits.timeout")
        if not properties.get("environmentId"):
            raise BadRequest("A command job needs an environment.", "environmentId", "UserError")
        self._assets.environment(properties["environmentId"])

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """`limits.timeout`."""
        return seconds((properties.get("limits") or {}).get("timeout"), "limits.timeout")

    def nodes(self, properties: dict[str, Any]) -> int:
        """`resources.instance_count`."""
        return distribution.instances(properties)

    async def prepare(self, job: RunningJob) -> None:
        """Readies the environment, unpacks the code, brings the inputs."""
        for name in interactive(job.properties):
            job.note(f"service '{name}': {NO_SERVICES}")
        await use_environment(job, job.properties.get("environmentId"))
        await unpack_code(job)
        job.found["inputs"] = await bindings.inputs(job)
        job.found["outputs"] = bindings.output_paths(job)

    async def execute(self, job: RunningJob) -> None:
        """Runs the command, once or once a process of its distribution; JobFailed with the log's last lines unless
        each exits with 0.
        """
        inputs, outputs = job.found["inputs"], job.found["outputs"]
        scopes = {"inputs": inputs, "outputs": outputs, "search_space": job.found.get("search_space", {})}
        command = bindings.expand(job.properties["command"], scopes)
        more = {f"AZURE_ML_INPUT_{name}": value for name, value in inputs.items()}
        more |= {f"AZURE_ML_OUTPUT_{name}": value for name, value in outputs.items()}
        more |= self._identity(job)
        more |= _own_pip(job)
        workers = distribution.workers(job.properties)
        try:
            await self._run(job, workers, command, more)
        except (JobFailed, asyncio.CancelledError):
            await job.stop()
            with contextlib.suppress(AzureError, JobFailed, OSError):
                await bindings.upload(job, _artifacts(job), failed=True)
            raise

    async def _run(self, job: RunningJob, workers: list[Worker], command: str, more: dict[str, str]) -> None:
        async def one(worker: Worker) -> None:
            log = job.log_file(worker.log)
            environment = job.environment({**more, **worker.environment})
            code = await job.run(["bash", "-c", command], environment, log)
            if code != 0 and worker.awaited:
                how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
                raise JobFailed(
                    f"Execution failed: {worker.label} {how}. Last lines of {worker.log}:\n{job.last_lines(log)}"
                )

        if len(workers) > 1:
            job.note(f"{len(workers)} processes on this machine; each has a log of its own")
        tasks = {asyncio.ensure_future(one(worker)): worker for worker in workers}
        try:
            # The first failure ends the others: they would wait for it for ever.
            waiting = {task for task, worker in tasks.items() if worker.awaited}
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            if len(workers) > 1:
                await job.stop()  # parameter servers never end by themselves

    async def finalize(self, job: RunningJob) -> None:
        """Uploads the outputs."""
        await bindings.upload(job, _artifacts(job))

    def _identity(self, job: RunningJob) -> dict[str, str]:
        """What azure-identity reads on Azure ML compute (its AzureMLCredential): an address that gives tokens, and the
        secret for it. Every identity is the one application; a job without an identity has none.

        https://learn.microsoft.com/azure/machine-learning/how-to-identity-based-service-authentication#compute-cluster
        """
        identity = job.properties.get("identity") or {}
        if identity.get("identityType") in (None, "AMLToken"):
            return {}
        endpoint = f"{self._settings.api_url}{TOKEN_PATH}"
        found = {"MSI_ENDPOINT": endpoint, "MSI_SECRET": job.token()}
        if client := identity.get("clientId"):
            found["DEFAULT_IDENTITY_CLIENT_ID"] = str(client)
        return found


def _own_pip(job: RunningJob) -> dict[str, str]:
    """A pip that installs for this job alone: at the front of its paths."""
    uv = environments.uv_environment()
    program = environments.uv_program()
    programs, packages = job_pip.provide(job.folder / "pip", job.python, program, uv.get("SSL_CERT_FILE"))
    known = job.environment({})
    return {name: value for name, value in uv.items() if name.startswith("UV_")} | {
        "PATH": f"{programs}:{packages / 'bin'}:{known['PATH']}",
        "PYTHONPATH": f"{packages}:{known['PYTHONPATH']}",
    }


def _artifacts(job: RunningJob) -> Location:
    return Location("azureml", f"ExperimentRun/dcid.{job.name}")


def interactive(properties: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The interactive services a job asks for, by name."""
    asked = properties.get("services") or {}
    return {name: each for name, each in asked.items() if (each or {}).get("jobServiceType") in INTERACTIVE}


async def unpack_code(job: RunningJob) -> None:
    """The job's working directory, with its code snapshot in it if it has one."""
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
    # What is written there becomes the run's artifacts; the service makes these folders too.
    for folder in ("outputs", "logs"):
        (directory / folder).mkdir(parents=True, exist_ok=True)


async def use_environment(job: RunningJob, id: str | None) -> None:
    """The job runs in the environment `id`, built if need be; JobFailed says what can't be had."""
    if not id:
        return
    environment = await asyncio.to_thread(job.assets.environment, id)
    name = id.rpartition("/environments/")[2] or id
    try:
        asked = await asyncio.to_thread(environments.asked_for, environment, job.assets.resolve)
        job.python = await environments.ready(asked, job.settings, lambda: job.log_file(environments.BUILD_LOG))
    except environments.EnvironmentFailed as error:
        raise JobFailed(
            f"{error.message}\n(environment '{name}', log: {environments.BUILD_LOG})", error.code
        ) from error
    if isinstance(asked, Requirements):
        job.image_variables = dict(asked.variables)
    if job.python == job.settings.compute_python:
        image = environment.get("properties", {}).get("image")
        what = f"image {image}" if image else f"environment {name}"
        job.note(f"{what} is not pulled; the job runs in the compute environment ({job.python.parent.parent})")
    else:
        job.note(f"environment {name} is built; the job runs in {job.python.parent.parent}")
