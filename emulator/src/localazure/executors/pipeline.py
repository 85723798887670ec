"""Pipeline jobs: steps as child jobs, each begun as soon as what it reads is there.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-pipeline
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from localazure.core.errors import AzureError, BadRequest, NotFound, NotImplementedOperation
from localazure.core.store import Store
from localazure.executors import pipeline_graph, pipeline_nodes
from localazure.executors.job import AssetSource, Child, JobFailed, RunningJob
from localazure.executors.pipeline_graph import Entry, Pipeline, Step
from localazure.executors.pipeline_reuse import Earlier, Reuse
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore

_REUSED_KINDS = frozenset({"command", "sweep", "parallel", "spark"})
_SHOWN_ERROR = 3000  # characters of a step's error in the pipeline's own


class ComponentSource(AssetSource, Protocol):
    """What pipelines need of the workspace's assets; `localazure.ml.assets.Assets` has it."""

    def component(self, id: str) -> dict[str, Any]: ...


class PipelineRunner:
    """Orchestrates the steps of a pipeline. It holds no node itself."""

    def __init__(
        self,
        settings: Settings,
        assets: ComponentSource,
        store: Store,
        blobs: BlobStore,
        validate: Callable[[dict[str, Any]], None],
    ) -> None:
        """`validate` checks the properties of any job as a submission does (Submission.validate)."""
        self._settings = settings
        self._assets = assets
        self._reuse = Reuse(store, blobs, assets)
        self._validate = validate

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner. Every step is checked as the job it will become, with addresses that aren't there yet."""
        pipeline = self._parse(properties)
        made: dict[str, dict[str, Entry]] = {}
        for step in pipeline.steps.values():
            inputs = pipeline_graph.resolved_inputs(step, pipeline.inputs, made)
            outputs = pipeline_nodes.outputs(pipeline, step, {}, step.name)
            made[step.name] = {
                name: {"uri": f"azureml://datastores/workspaceblobstore/paths/azureml/{step.name}/{name}/", **entry}
                for name, entry in outputs.items()
            }
            job = pipeline_nodes.child(pipeline, step, inputs, outputs)
            with _of_step(step.name):
                self._validate(job)

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """A pipeline has no time-out of its own."""
        return None

    def nodes(self, properties: dict[str, Any]) -> int:
        """None: its steps hold theirs."""
        return 0

    async def prepare(self, job: RunningJob) -> None:
        """Reads the graph."""
        job.found["pipeline"] = pipeline = self._parse(job.properties)
        job.found["properties"] = _described(pipeline)
        job.note(f"{len(pipeline.steps)} step(s): {', '.join(pipeline.steps)}")

    async def execute(self, job: RunningJob) -> None:
        """Runs the steps; JobFailed names those that failed, with their cause."""
        await _Execution(job, job.found["pipeline"], self._reuse).run()

    async def finalize(self, job: RunningJob) -> None:
        """The pipeline's outputs are where its steps wrote them: nothing is moved."""

    def _parse(self, properties: Mapping[str, Any]) -> Pipeline:
        specs: dict[str, Mapping[str, Any]] = {}

        def spec(id: str) -> Mapping[str, Any]:
            if id not in specs:
                found = self._assets.component(id)["properties"]["componentSpec"]
                if not isinstance(found, dict):
                    raise BadRequest(f"The componentSpec of '{id}' is no object.", "componentId", "UserError")
                specs[id] = found
            return specs[id]

        try:
            return pipeline_graph.parse(properties, spec)
        except NotFound as error:
            raise BadRequest(error.message, error.target, "UserError") from error


class _NotBegun(Exception):
    """Another step failed before this one was begun."""


class _Execution:
    """One run of a pipeline."""

    def __init__(self, job: RunningJob, pipeline: Pipeline, reuse: Reuse) -> None:
        self._job = job
        self._pipeline = pipeline
        self._reuse = reuse
        self._made: dict[str, Mapping[str, Entry]] = {}  # outputs of the steps that completed
        self._ended: dict[str, Child] = {}
        self._failed: dict[str, str] = {}  # step -> cause
        self._stopped: set[str] = set()  # steps that another one's failure ended
        self._stopping = False
        self._asked = {name: str(entry["uri"]) for name, entry in job.outputs.items() if _asked(job, name, entry)}

    async def run(self) -> None:
        settings = self._pipeline.settings
        hooks = {settings.on_init, settings.on_finalize}
        body = [step for step in self._pipeline.steps.values() if step.name not in hooks]
        if settings.on_init:
            await self._steps([self._pipeline.steps[settings.on_init]])
        if not self._failed:
            await self._steps(body)
        self._stopping = False
        if settings.on_finalize:
            await self._steps([self._pipeline.steps[settings.on_finalize]], always=True)
        if self._failed:
            raise JobFailed(self._message())
        for output, (step, name) in self._pipeline.made_by.items():
            entry = self._job.outputs.setdefault(output, {**self._pipeline.outputs[output]})
            entry["uri"] = self._made[step][name]["uri"]

    async def _steps(self, steps: list[Step], always: bool = False) -> None:
        """Runs `steps` in parallel as far as they don't wait for each other. Leaves no task behind."""
        waiting = {step.name: step for step in steps}
        running: dict[asyncio.Task[Child], Step] = {}
        go_on = self._pipeline.settings.continue_on_step_failure
        loop = asyncio.get_running_loop()
        try:
            while waiting or running:
                for name, step in list(waiting.items()):
                    if (not self._failed or go_on or always) and step.after <= self._made.keys():
                        del waiting[name]
                        running[loop.create_task(self._step(step), name=f"step {name} of {self._job.name}")] = step
                if not running:
                    break
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._take(running.pop(task), task)
                if self._failed and not go_on:
                    self._stop(running.values())
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    def _stop(self, steps: Iterable[Step]) -> None:
        """Ends what runs, each once."""
        self._stopping = True
        for step in steps:
            if step.name not in self._stopped:
                self._stopped.add(step.name)
                self._job.children.cancel(self._name(step))

    def _take(self, step: Step, task: asyncio.Task[Child]) -> None:
        try:
            child = task.result()
        except _NotBegun:
            self._stopped.discard(step.name)
            return
        except (AzureError, JobFailed) as error:
            self._failed[step.name] = error.message
            self._job.note(f"step '{step.name}' could not be begun: {error.message.partition(chr(10))[0]}")
            return
        self._ended[step.name] = child
        if child.succeeded:
            self._made[step.name] = child.outputs
            self._stopped.discard(step.name)  # it was faster than the request to stop
            return
        if step.name in self._stopped:
            self._job.note(f"step '{step.name}' is {child.state}, since another step failed")
            return
        cause = (child.error or {}).get("message") or f"it was {child.state}"
        self._failed[step.name] = str(cause)
        self._job.note(f"step '{step.name}' is {child.state}: {str(cause).partition(chr(10))[0]}")

    async def _step(self, step: Step) -> Child:
        job, pipeline = self._job, self._pipeline
        name = self._name(step)
        inputs = pipeline_graph.resolved_inputs(step, pipeline.inputs, self._made)
        outputs = pipeline_nodes.outputs(pipeline, step, self._asked, name)
        properties = pipeline_nodes.child(pipeline, step, inputs, outputs)
        run = {"runType": pipeline_nodes.RUN_TYPES[step.kind], "number": list(pipeline.steps).index(step.name) + 1}
        said = self._said(step)
        key = await self._key(step, properties)
        if key and not pipeline.settings.force_rerun:
            earlier = await asyncio.to_thread(self._reuse.find, key)
            if earlier is not None:
                return self._reused(step, {**properties, "properties": said | _reused(earlier)}, run, earlier)
        if self._stopping:
            raise _NotBegun
        job.note(f"step '{step.name}' begins as run {name}")
        child = await job.children.run(name, {**properties, "properties": said}, run=run)
        if key and child.succeeded:
            await asyncio.to_thread(self._reuse.remember, key, child, job.name, job.root)
        if child.succeeded:
            job.note(f"step '{step.name}' is Completed")
        return child

    def _reused(self, step: Step, properties: dict[str, Any], run: dict[str, Any], earlier: Earlier) -> Child:
        name = self._name(step)
        properties = {**properties, "outputs": earlier.outputs}
        self._job.children.record(name, properties, run, "Completed", earlier.outputs)
        self._job.note(f"step '{step.name}' is unchanged: the outputs of run {earlier.run} are reused")
        return Child(name, "Completed", None, earlier.outputs, properties)

    async def _key(self, step: Step, properties: Mapping[str, Any]) -> str | None:
        """What the step is; None if its results must not be reused."""
        if step.kind not in _REUSED_KINDS or not step.spec.get("is_deterministic", True):
            return None
        asked = pipeline_nodes.asked_outputs(self._pipeline, step, self._asked)
        store = self._pipeline.settings.default_datastore
        return await asyncio.to_thread(self._reuse.key, properties, {"outputs": asked, "datastore": store})

    def _name(self, step: Step) -> str:
        """Steps have ids of their own in the service; the same one here for a step of the same pipeline job."""
        scope = f"{self._job.settings.workspace_id}/jobs/{self._job.name}"
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}/{step.name}"))

    def _said(self, step: Step) -> dict[str, str]:
        """What run history says of a step."""
        node = uuid.uuid5(uuid.NAMESPACE_URL, step.name).hex[:8]
        own = {key: str(value) for key, value in (step.node.get("properties") or {}).items()}
        return {
            "azureml.runsource": "azureml.StepRun",
            "azureml.nodeid": node,
            "azureml.pipelinerunid": self._job.name,
            "azureml.rootpipelinerunid": self._job.root,
            "azureml.moduleName": str(step.spec.get("name") or step.name),
            "StepType": pipeline_nodes.STEP_TYPES[step.kind],
            **own,
        }

    def _message(self) -> str:
        parts = []
        for step, cause in self._failed.items():
            child = self._ended.get(step)
            run = f" (run {child.name})" if child else ""
            parts.append(
                f"The step '{step}'{run} failed: {cause[-_SHOWN_ERROR:] if len(cause) > _SHOWN_ERROR else cause}"
            )
        if self._stopped:
            parts.append(f"Stopped for that: {', '.join(sorted(self._stopped))}.")
        if idle := [name for name in self._pipeline.steps if name not in self._ended and name not in self._failed]:
            parts.append(f"Not run: {', '.join(idle)}.")
        return "\n".join(parts)


@contextmanager
def _of_step(name: str) -> Iterator[None]:
    """Errors inside name the step."""
    try:
        yield
    except NotImplementedOperation as error:
        raise NotImplementedOperation(f"The step '{name}': {error.target}") from error
    except AzureError as error:
        target = f"jobs.{name}" + (f".{error.target}" if error.target else "")
        raise BadRequest(f"The step '{name}': {error.message}", target, "UserError") from error
    except RecursionError:
        raise BadRequest(
            f"The step '{name}' is a pipeline that contains itself.", f"jobs.{name}", "UserError"
        ) from None


def _asked(job: RunningJob, name: str, entry: Mapping[str, Any]) -> bool:
    """Whether an output's address was asked for; otherwise it is where the step that makes it writes."""
    chosen = f"azureml://datastores/workspaceblobstore/paths/azureml/{job.name}/{name}"
    return str(entry["uri"]).rstrip("/") != chosen


def _reused(earlier: Earlier) -> dict[str, str]:
    """azure-ai-ml reads the first two: it downloads from the run that made the outputs."""
    return {
        "azureml.isreused": "true",
        "azureml.reusedrunid": earlier.run,
        "azureml.reusedpipelinerunid": earlier.pipeline,
        "azureml.reusedrootpipelinerunid": earlier.root,
    }


def _described(pipeline: Pipeline) -> dict[str, str]:
    """What run history says of a pipeline."""
    settings = pipeline.settings
    found = {
        "azureml.runsource": "azureml.PipelineRun",
        "azureml.pipelineComponent": "pipelinerun",
        "azureml.continue_on_step_failure": str(settings.continue_on_step_failure),
        "azureml.enforceRerun": str(settings.force_rerun),
        "azureml.defaultComputeName": (settings.default_compute or "").rpartition("/")[2],
        "azureml.defaultDataStoreName": (settings.default_datastore or "workspaceblobstore").rpartition("/")[2],
    }
    return {key: value for key, value in found.items() if value}
