"""A job while it runs: its folder, log, processes, and what a runner of one job type has to supply."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from localazure.core.auth import Tokens
from localazure.executors import processes
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.storage.locations import Location
from localazure.tracking.runs import TrackingRuns

TELEMETRY_OFF: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
}
_TOKEN_SECONDS = 7 * 24 * 3600  # a job outlives the hour of an ordinary token
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "JAVA_HOME")
_ERROR_LINES = 15
LOG_NAME = "user_logs/std_log.txt"


class JobFailed(Exception):
    """The job ends as Failed: `code` as in Azure ML's error responses (UserError, SystemError), a message for
    people.
    """

    def __init__(self, message: str, code: str = "UserError") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class AssetSource(Protocol):
    """What jobs need of the workspace's assets; `localazure.ml.assets.Assets` has it."""

    def code_folder(self, id: str) -> Path: ...
    def environment(self, id: str) -> dict[str, Any]: ...
    def resolve(self, uri: str) -> Path: ...
    def uri(self, reference: str) -> str: ...
    def location(self, reference: str) -> Location: ...
    def datastores(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class Child:
    """A job below another one, as its parent sees it. Metrics: `RunningJob.tracking.metrics(name)`.

    `state` is any state of a job, a final one after `Children.run`; `error` has `code` and `message`; `outputs` maps a
    name to `uri`, `jobOutputType` and what else was declared; `properties` are the ARM resource's.
    """

    name: str
    state: str
    error: dict[str, Any] | None
    outputs: dict[str, dict[str, Any]]
    properties: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        return self.state == "Completed"


class Children(Protocol):
    """A job's child jobs. `properties` are those of an ARM job (camelCase: jobType, command, inputs ...), `run` the
    fields of run history that differ from a plain job's: runType, stepType, number (their order), startTimeUtc ...
    """

    def add(self, name: str, properties: dict[str, Any], run: dict[str, Any]) -> None:
        """A child that ran inside the parent's own process (an AutoML trial), in its final state
        `properties["status"]`.
        """
        ...

    async def run(self, name: str, properties: dict[str, Any], *, run: dict[str, Any] | None = None) -> Child:
        """A job of its own below this one: its own states, place in the queue, folder, log and nested MLflow run.

        Returns when it is in a final state and never raises for its failure, nor for a submission that is refused:
        that child is Failed. Waiting for it ends with the parent: cancelled, it cancels the child and waits for its
        end. A name without `experimentName` runs in the parent's experiment.
        """
        ...

    def record(
        self,
        name: str,
        properties: dict[str, Any],
        run: dict[str, Any],
        state: str,
        outputs: dict[str, dict[str, Any]],
    ) -> None:
        """A child that needn't run (a reused step), written down as what it is, in the final state `state`.

        `properties["properties"]` says why (azureml.isreused, azureml.reusedrunid); `outputs` are the reused ones.
        """
        ...

    def cancel(self, name: str) -> None:
        """Asks a child of this job to stop; `run` then returns it as Canceled."""
        ...

    def get(self, name: str) -> Child | None:
        """A child of this job as it is now; None if there is none of that name."""
        ...


@dataclass(frozen=True)
class Mount:
    """An input that may be written to: the job's copy, where it comes from, and what its files were."""

    path: Path
    location: Location
    state: dict[Path, tuple[int, int, int]]


@dataclass
class RunningJob:
    """One attempt at a job. `properties` are the ARM resource's; `outputs` its outputs with their addresses."""

    name: str
    properties: dict[str, Any]
    outputs: dict[str, dict[str, Any]]
    folder: Path
    settings: Settings
    blobs: BlobStore
    assets: AssetSource
    tracking: TrackingRuns
    tokens: Tokens
    children: Children
    tracking_uri: str
    root: str
    parent: str | None = None
    experiment_id: str = ""
    found: dict[str, Any] = field(default_factory=dict)  # properties of the job that the run brought to light
    mounts: dict[str, Mount] = field(default_factory=dict)
    logs: list[str] = field(default_factory=lambda: [LOG_NAME])  # below `folder`; clients see each as it grows
    image_variables: dict[str, str] = field(default_factory=dict)  # what the environment's image would set
    python: Path = Path()  # of the job's environment; the compute environment's until another is ready
    _processes: list[processes.Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.python == Path():
            self.python = self.settings.compute_python

    @property
    def log(self) -> Path:
        """What the user's code prints, as `user_logs/std_log.txt` of the job."""
        return self.folder / LOG_NAME

    @property
    def working_directory(self) -> Path:
        return self.folder / "wd"

    def note(self, text: str) -> None:
        """A line of localazure's own in the job's log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        stamp = datetime.now(UTC).strftime("%H:%M:%S")
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"[localazure {stamp}] {text}\n")

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """The job's environment variables: nothing of this process' but what a shell needs, the user's, Azure ML's.

        https://learn.microsoft.com/azure/machine-learning/how-to-use-mlflow-configure-tracking
        """
        settings = self.settings
        base = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        base["PATH"] = f"{self.python.parent}:{base.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
        # Threads that spin while they wait make a busy machine crawl (measured: LightGBM 1.2 s -> 32 s).
        base |= {name: "2" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        base |= {"OMP_WAIT_POLICY": "PASSIVE"}
        # MLflow would print addresses of pages that are not below the tracking URI.
        base |= {**TELEMETRY_OFF, "PYTHONUNBUFFERED": "1", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
        user = {name: str(value) for name, value in (self.properties.get("environmentVariables") or {}).items()}
        python_path = [str(settings.compute_source), user.get("PYTHONPATH", "")]
        parts = settings.workspace_id.split("/")
        own = {
            "PYTHONPATH": ":".join(part for part in python_path if part),
            "AZUREML_RUN_ID": self.name,
            "AZUREML_ROOT_RUN_ID": self.root,
            "AZUREML_ARM_SUBSCRIPTION": parts[2],
            "AZUREML_ARM_RESOURCEGROUP": parts[4],
            "AZUREML_ARM_WORKSPACE_NAME": settings.workspace,
            "AZUREML_ARM_PROJECT_NAME": self.properties.get("experimentName", "Default"),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_TRACKING_TOKEN": self.token(),
            "MLFLOW_RUN_ID": self.name,
            "REQUESTS_CA_BUNDLE": str(settings.ca_bundle),
            "SSL_CERT_FILE": str(settings.ca_bundle),
        }
        if self.experiment_id:  # not known yet while the tracking server starts; the run's id says it all
            own |= {"AZUREML_EXPERIMENT_ID": self.experiment_id, "MLFLOW_EXPERIMENT_ID": self.experiment_id}
        return {**base, **self.image_variables, **user, **own, **more}

    def token(self) -> str:
        """An Azure ML token of the job's own."""
        return self.tokens.issue(f"job:{self.name}", "https://ml.azure.com", lifetime_seconds=_TOKEN_SECONDS)

    def log_file(self, name: str) -> Path:
        """Another log of the job, e.g. `azureml-logs/20_image_build_log.txt`; listed for clients from now on."""
        if name not in self.logs:
            self.logs.append(name)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    async def run(self, argv: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> int:
        """Runs a program in the working directory, output to the log; its exit code. Ended when the job ends."""
        try:
            process = processes.start(argv, env=environment, cwd=self.working_directory, log=log or self.log)
        except OSError as error:
            raise JobFailed(f"'{argv[0]}' could not be started: {error.strerror}.") from error
        self._processes.append(process)
        return await process.wait()

    async def stop(self) -> None:
        """Ends whatever the job started."""
        await asyncio.gather(*(process.aterminate() for process in self._processes))

    def last_lines(self, log: Path | None = None) -> str:
        """The end of the log, for an error message."""
        return "\n".join(processes.tail(log or self.log, _ERROR_LINES))


class JobRunner(Protocol):
    """One job type. The queue advances the states around these calls; each may raise JobFailed or AzureError."""

    def validate(self, properties: dict[str, Any]) -> None:
        """Refuses at submission what can't run: BadRequest, or NotImplementedOperation by name."""
        ...

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """The job's time-out; None if it has none."""
        ...

    def nodes(self, properties: dict[str, Any]) -> int:
        """Nodes of its compute that the job holds from Preparing to its end; 0 for one that only waits for children
        (sweep, pipeline): holding one, it could keep its own children from running.
        """
        ...

    async def prepare(self, job: RunningJob) -> None:
        """Preparing: environment, code, inputs."""
        ...

    async def execute(self, job: RunningJob) -> None:
        """Running: the user's work."""
        ...

    async def finalize(self, job: RunningJob) -> None:
        """Finalizing: outputs."""
        ...
