"""The life of a job: a bounded queue a compute, the states, the log's way into storage, cancelling, and what a restart
leaves.

One asyncio task a job. States are advanced in the store only (`ml.states`), so that a reader never sees half a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localazure.core.auth import Tokens
from localazure.core.errors import AzureError
from localazure.core.faults import Faults
from localazure.core.store import Store
from localazure.executors import bindings
from localazure.executors.job import JobFailed, JobRunner, RunningJob
from localazure.ml import states
from localazure.ml.assets import JOBS, Assets, artifact_folder
from localazure.ml.catalogue import Catalogue
from localazure.ml.children import ChildJobs
from localazure.ml.nodes import ComputeNodes
from localazure.ml.submission import Submission, studio_url
from localazure.ml.workspace import ARTIFACT_CONTAINER, tracking_uri
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.storage.locations import Location
from localazure.tracking.runs import TrackingError, TrackingRuns

log = logging.getLogger(__name__)

_LOG_SECONDS = 1.0
_FAULT_SECONDS = 0.5
# These need no MLflow run of their own to begin: a server that isn't up yet holds up nobody.
_UNTRACKED_AT_FIRST = frozenset({"Command", "Pipeline", "Sweep"})
_TRACKING_PATIENCE_SECONDS = 0.3
_TRACKED_SECONDS = 60.0
_LOG_BYTES_A_SECOND = 2_000_000
_ENDING_SECONDS = 5


class _Stopped(Exception):
    """The job ends as Canceled; the message says why, None after a client's request."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason


class JobQueue:
    """Runs jobs in the background of the API's event loop."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        blobs: BlobStore,
        tokens: Tokens,
        assets: Assets,
        catalogue: Catalogue,
        tracking: TrackingRuns,
        runners: Mapping[str, JobRunner],
        nodes: ComputeNodes,
        faults: Faults,
    ) -> None:
        self._faults = faults
        self._submission = Submission(settings=settings, store=store, assets=assets, runners=runners, begin=self.submit)
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._tokens = tokens
        self._assets = assets
        self._catalogue = catalogue
        self._tracking = tracking
        self._runners = runners
        self._nodes = nodes
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._tracking_answers = False
        self._late: set[asyncio.Task[None]] = set()
        self._begun: set[str] = set()
        self._cancelled: set[str] = set()
        self._preempted: set[str] = set()
        self._ending: set[str] = set()
        self._closing = False

    @property
    def submission(self) -> Submission:
        """Where jobs for this queue are submitted."""
        return self._submission

    def submit(self, name: str) -> None:
        """Begins the job that is stored under `name`."""
        task = asyncio.get_running_loop().create_task(self._live(name), name=f"job {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    def cancel(self, name: str) -> None:
        """Asks a job to stop; its processes end within seconds. A job in a final state stays as it is."""
        document = self._store.get(JOBS, name)
        if document is None or states.is_terminal(document) or name not in self._tasks or name in self._ending:
            return
        if self._closing:
            return  # it is being ended, and failed by name
        self._advance(name, states.CANCEL_REQUESTED)
        self._cancelled.add(name)
        if name in self._begun:  # a task that didn't run yet would never run; it looks for itself
            self._tasks[name].cancel()

    async def wait(self, name: str) -> None:
        """Waits for the end of a job that runs."""
        task = self._tasks.get(name)
        if task is not None:
            await asyncio.wait([task])

    async def recover(self) -> int:
        """Fails the jobs that an earlier process left unfinished, and ends what still runs of them; how many."""
        orphans = [job for job in self._store.list(JOBS) if not states.is_terminal(job)]
        for job in orphans:
            name = job["resource"]["name"]
            _end_processes(name, tracking_uri(self._settings, "https"))
            cancelled = job["resource"]["properties"]["status"] == states.CANCEL_REQUESTED
            message = (
                f"localazure was stopped or restarted while the job '{name}' was running; submit it under a new name."
            )
            if cancelled:
                self._finish(name, states.CANCELED, None)
            else:
                self._finish(name, states.FAILED, JobFailed(message, "SystemError"))
        tracked = [job["resource"]["name"] for job in orphans if job["run"].get("experimentId")]
        if tracked:
            ending = asyncio.get_running_loop().create_task(self._end_runs(tracked))
            self._late.add(ending)
            ending.add_done_callback(self._late.discard)
        return len(orphans)

    async def _end_runs(self, names: list[str]) -> None:
        """The MLflow runs of jobs that an earlier process left end as their jobs did."""
        try:
            await self._tracking.ready()
            for name in names:
                document = self._store.get(JOBS, name)
                if document is not None:
                    await self._tracking.end(name, document["resource"]["properties"]["status"])
        except TrackingError as error:
            log.warning("MLflow runs of an earlier process couldn't be ended: %s", error)

    async def close(self) -> None:
        """Ends every job. They are failed by name: their processes are gone."""
        self._closing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=15)
        for late in self._late:
            late.cancel()

    async def _live(self, name: str) -> None:
        """A job from Starting to its end. Never raises."""
        document = self._store.get(JOBS, name)
        assert document is not None
        properties = document["resource"]["properties"]
        children = ChildJobs(self, self._store, self._submission, document)
        job = RunningJob(
            name=name,
            properties=properties,
            outputs=document["run"]["outputs"],
            folder=self._settings.home / "jobs" / name,
            settings=self._settings,
            blobs=self._blobs,
            assets=self._assets,
            tracking=self._tracking,
            tokens=self._tokens,
            children=children,
            tracking_uri=tracking_uri(self._settings, "https"),
            root=document["run"].get("root") or name,
            parent=document["run"].get("parent"),
        )
        uploads = asyncio.get_running_loop().create_task(self._keep_logs_uploaded(job))
        watching = asyncio.get_running_loop().create_task(self._watch_for_preemption(name))
        failure: JobFailed | None = None
        self._begun.add(name)
        try:
            if name in self._cancelled:
                raise asyncio.CancelledError
            await asyncio.to_thread(bindings.discard, job.folder)
            job.log.parent.mkdir(parents=True)
            job.log.touch()
            while not await self._attempt(job):
                pass
            state = states.COMPLETED
        except asyncio.CancelledError:
            if name in self._cancelled:
                state, failure = states.CANCELED, None
            else:
                state = states.FAILED
                failure = JobFailed(f"localazure was stopped while the job '{name}' was running.", "SystemError")
        except _Stopped as stop:
            state, failure = states.CANCELED, JobFailed(stop.reason or "", "JobCancelled")
        except JobFailed as error:
            state, failure = states.FAILED, error
        except AzureError as error:
            state, failure = states.FAILED, JobFailed(error.message, error.code)
        except TrackingError as error:
            state, failure = states.FAILED, JobFailed(str(error), "SystemError")
        except Exception as error:
            log.exception("job %s", name)
            state, failure = (
                states.FAILED,
                JobFailed(f"localazure failed: {type(error).__name__}: {error}", "SystemError"),
            )
        self._ending.add(name)
        watching.cancel()
        self._cancelled.discard(name)
        self._preempted.discard(name)
        self._begun.discard(name)
        try:
            # What follows must happen even if the API is stopping: shielded from further cancellation.
            await asyncio.shield(self._end(job, children, state, failure, uploads))
        finally:
            self._ending.discard(name)

    async def _attempt(self, job: RunningJob) -> bool:
        """The job from its place in the queue to its outputs; False if its node was taken away and it has to begin
        again.
        """
        try:
            await self._steps(job)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or job.name not in self._preempted or job.name in self._cancelled or self._closing:
                raise
            task.uncancel()
            self._preempted.discard(job.name)
            await job.stop()
            # As after a preemption on Azure: what was mounted is there for the next attempt, the node's own disk isn't.
            for folder in (job.folder / "inputs", job.working_directory):
                await asyncio.to_thread(bindings.discard, folder)
            job.mounts.clear()
            self._advance(job.name, states.QUEUED)
            job.note("the node was preempted: the job is queued again and starts anew")
            return False
        return True

    def preempt(self, name: str) -> bool:
        """Takes a job's node away; it is queued again. Whether it held one, and not only until its end."""
        document = self._store.get(JOBS, name)
        state = document["resource"]["properties"]["status"] if document else None
        if document is None or name not in self._tasks or state not in (states.PREPARING, states.RUNNING):
            return False
        properties = document["resource"]["properties"]
        if self._runners[properties["jobType"]].nodes(properties) == 0:
            return False
        self._nodes.of(properties.get("computeId")).lose(name)
        self._preempted.add(name)
        self._tasks[name].cancel()
        return True

    async def _watch_for_preemption(self, name: str) -> None:
        while True:
            if self._faults.wanted("preempt", name) and self.preempt(name):
                self._faults.take("preempt", name)
            await asyncio.sleep(_FAULT_SECONDS)

    async def _steps(self, job: RunningJob) -> None:
        runner = self._runners[job.properties["jobType"]]
        nodes = self._nodes.of(job.properties.get("computeId"))
        count = runner.nodes(job.properties)
        if count > nodes.size:
            raise JobFailed(f"The job asks for {count} nodes; its compute has at most {nodes.size}.")
        if nodes.would_wait(count):
            self._advance(job.name, states.QUEUED)
            job.note("waiting for a node of the compute")
        async with nodes.held(count, job.name):
            self._advance(job.name, states.PREPARING)
            if job.name not in self._runs:  # an earlier attempt has begun it
                self._runs[job.name] = asyncio.get_running_loop().create_task(self._track(job))
            tracked = self._runs[job.name]
            if job.properties["jobType"] not in _UNTRACKED_AT_FIRST:
                await asyncio.shield(tracked)
            await runner.prepare(job)
            if self._tracking_answers:
                await asyncio.wait([tracked], timeout=_TRACKING_PATIENCE_SECONDS)
                self._tracking_answers = tracked.done()
            self._advance(job.name, states.RUNNING)
            limit = runner.seconds(job.properties)
            try:
                async with asyncio.timeout(limit):
                    await runner.execute(job)
            except TimeoutError:
                # https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-command: "the system cancels
                # the job"
                reason = f"The job ran longer than its time-out of {limit:.0f} s and was stopped.\n{job.last_lines()}"
                self._advance(job.name, states.CANCEL_REQUESTED)
                raise _Stopped(reason) from None
            self._advance(job.name, states.FINALIZING)
            await runner.finalize(job)
            self._locate_outputs(job)
            if tracked.done():
                await tracked
                await self._keep_artifacts(job)
            self._register_outputs(job)

    def _locate_outputs(self, job: RunningJob) -> None:
        """Where the outputs ended up: a pipeline's are where its steps wrote them."""

        def located(document: dict[str, Any]) -> dict[str, Any]:
            document["run"]["outputs"] = job.outputs
            shown = document["resource"]["properties"]["outputs"]
            shown.update({name: entry for name, entry in job.outputs.items() if name != "default"})
            return document

        self._store.update(JOBS, job.name, located)

    async def _track(self, job: RunningJob) -> None:
        """The job's MLflow run. The server starts slowly, when it is first needed: most jobs begin meanwhile, and what
        they log waits for their run (`tracked`).
        """
        await self._tracking.ready()
        properties = job.properties
        tags = {**(properties.get("tags") or {}), "azureml.jobType": properties["jobType"]}
        display = properties.get("displayName") or job.name
        job.experiment_id = await self._tracking.create(
            job.name, properties["experimentName"], display, tags, parent=job.parent, root=job.root
        )
        self._tracking_answers = True
        studio = studio_url(self._settings, job.experiment_id, job.name)

        def described(document: dict[str, Any]) -> dict[str, Any]:
            document["run"]["experimentId"] = job.experiment_id
            document["resource"]["properties"]["services"]["Studio"]["endpoint"] = studio
            return document

        self._store.update(JOBS, job.name, described)

    async def _keep_artifacts(self, job: RunningJob) -> None:
        """What the run logged to MLflow goes to the artifact store, where Azure ML has it."""
        store = Location(ARTIFACT_CONTAINER, artifact_folder(job.name))
        for path, folder in await self._tracking.artifacts(job.name, job.experiment_id):
            await asyncio.to_thread(self._blobs.upload_tree, folder, store.join(path))

    async def _end(
        self,
        job: RunningJob,
        children: ChildJobs,
        state: str,
        failure: JobFailed | None,
        uploads: asyncio.Task[None],
    ) -> None:
        await job.stop()
        # What a job sent into a session of its own ends with it as well, as everything in a container does.
        await asyncio.to_thread(_end_processes, job.name, job.tracking_uri)
        await children.close()
        if failure is not None:
            job.note(f"{state}: {failure.message.partition(chr(10))[0]}")
        uploads.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await uploads
        with contextlib.suppress(Exception):
            await self._upload_logs(job, {})
        if run := self._runs.pop(job.name, None):
            ending = asyncio.get_running_loop().create_task(self._end_run(job, run, state))
            self._late.add(ending)
            ending.add_done_callback(self._late.discard)
            if run.done():
                await asyncio.wait([ending])
        for folder in ("inputs", "outputs", "pip"):  # copies; the originals are in storage
            await asyncio.to_thread(bindings.discard, job.folder / folder)
        # Last: whoever sees the final state finds log and run complete.
        self._finish(job.name, state, failure, job.found.get("properties"))

    async def _end_run(self, job: RunningJob, run: asyncio.Task[None], state: str) -> None:
        """The end of the job's MLflow run, once it has begun."""
        try:
            await run
            await self._tracking.end(job.name, state)
        except TrackingError as error:
            log.warning("job %s: its MLflow run couldn't be ended: %s", job.name, error)

    async def tracked(self) -> None:
        """Waits until every job that began has its MLflow run, and every one that is over has it ended."""
        if waited := {*self._runs.values(), *self._late}:
            await asyncio.wait([run for run in waited if not run.done()] or waited, timeout=_TRACKED_SECONDS)

    def _advance(self, name: str, state: str) -> None:
        self._store.update(JOBS, name, lambda job: states.advance(job, state))

    def _finish(
        self, name: str, state: str, failure: JobFailed | None, properties: Mapping[str, str] | None = None
    ) -> None:
        def ended(job: dict[str, Any]) -> dict[str, Any]:
            if failure is not None and failure.message:
                job["run"]["error"] = {"code": failure.code, "message": failure.message}
            job["resource"]["properties"].setdefault("properties", {}).update(properties or {})
            return states.advance(job, state)

        self._store.update(JOBS, name, ended)

    def _register_outputs(self, job: RunningJob) -> None:
        """Outputs with a name of their own become data assets or models.

        https://learn.microsoft.com/azure/machine-learning/how-to-manage-inputs-outputs-pipeline#register-output-as-named-assets
        """
        for output in job.outputs.values():
            name = output.get("assetName")
            if not name:
                continue
            kind = output["jobOutputType"]
            model = kind.endswith("_model")
            path = "models" if model else "data"
            content = (
                {"modelUri": output["uri"], "modelType": kind}
                if model
                else {"dataUri": output["uri"], "dataType": kind}
            )
            version = output.get("assetVersion") or str(len(self._store.list(f"ml.{path}", f"{name}/")) + 1)
            self._catalogue.add(path, name, version, {**content, "properties": {"jobName": job.name}})

    async def _keep_logs_uploaded(self, job: RunningJob) -> None:
        sizes: dict[str, int] = {}
        while True:
            try:
                await self._upload_logs(job, sizes)
            except (OSError, AzureError) as error:
                log.warning("job %s: its log couldn't be uploaded: %s", job.name, error)
            # A whole log is sent each time: a large one less often.
            await asyncio.sleep(_LOG_SECONDS + max(sizes.values(), default=0) / _LOG_BYTES_A_SECOND)

    async def _upload_logs(self, job: RunningJob, sizes: dict[str, int]) -> None:
        """Sends the logs that grew since `sizes`, which is brought up to date."""
        for name in list(job.logs):
            path = job.folder / name
            # At the very first there is no file yet.
            if not path.exists() or sizes.get(name) == (size := path.stat().st_size):
                continue
            # Read at once: a file that grows while it is sent has no length.
            content = await asyncio.to_thread(path.read_bytes)
            blob = f"{artifact_folder(job.name)}/{name}"
            await asyncio.to_thread(self._blobs.write, ARTIFACT_CONTAINER, blob, content, "text/plain; charset=utf-8")
            sizes[name] = size
            self._list_log(job.name, name)

    def _list_log(self, job: str, name: str) -> None:
        """Clients read a log once it is there."""

        def listed(document: dict[str, Any]) -> dict[str, Any]:
            logs = document["run"].setdefault("logs", [])
            if name not in logs:
                logs.append(name)
            return document

        known = self._store.get(JOBS, job)
        if known is not None and name not in known["run"].get("logs", []):
            self._store.update(JOBS, job, listed)


def _end_processes(name: str, tracking: str) -> None:
    """Ends whatever still runs of a job, and returns when it is gone or can't be ended.

    A job's processes are recognised by the environment they were started with (Linux): the job's name, and `tracking`,
    the address that only this home's jobs track at.
    """
    wanted = {f"AZUREML_RUN_ID={name}".encode(), f"MLFLOW_TRACKING_URI={tracking}".encode()}
    deadline = time.monotonic() + _ENDING_SECONDS
    # More than once: what was forked meanwhile isn't in the first listing, and a process killed takes a moment to go.
    while time.monotonic() < deadline:
        found = False
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted <= set((process / "environ").read_bytes().split(b"\0")):
                    os.kill(int(process.name), signal.SIGKILL)
                    found = True
        if not found:
            return
        time.sleep(0.02)
    log.warning("job %s: a process of it still runs after %d s", name, _ENDING_SECONDS)
