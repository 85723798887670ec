"""Azure Machine Learning: the ARM provider Microsoft.MachineLearningServices, run history, discovery and the
dataplane look-ups.
"""

from __future__ import annotations

import dataclasses
import logging

from localazure.core.clock import Clock
from localazure.core.faults import Faults
from localazure.core.registry import Operation
from localazure.core.service import Service, ServiceContext
from localazure.executors.automl import AutoMLRunner
from localazure.executors.command import CommandRunner
from localazure.executors.job import JobRunner
from localazure.executors.monitor import MonitorRunner, PipelineOrMonitor
from localazure.executors.pipeline import PipelineRunner
from localazure.executors.spark import SparkRunner
from localazure.executors.sweep import SweepRunner
from localazure.ml.assets import Assets
from localazure.ml.attached_spark import AttachedSpark
from localazure.ml.catalogue import Catalogue
from localazure.ml.computes import ComputeService
from localazure.ml.history import HistoryService
from localazure.ml.jobs import JobsService
from localazure.ml.model_registry import ModelRegistryService
from localazure.ml.nodes import ComputeNodes
from localazure.ml.queue import JobQueue
from localazure.ml.registries import RegistriesService
from localazure.ml.schedules import SchedulesService
from localazure.ml.workspace import WorkspaceService
from localazure.ml.workspaces import WorkspaceStore, merged
from localazure.settings import Settings
from localazure.tracking.proxy import TrackingProxy
from localazure.tracking.runs import TrackingRuns

log = logging.getLogger(__name__)


def build(context: ServiceContext) -> Service:
    """The service. Provides `ml.assets` (Assets), `ml.catalogue` (Catalogue), `ml.queue` (JobQueue) and
    `ml.submission` (Submission) of the first workspace to the services built later.
    """
    settings = context.settings
    first = _workspace(context, settings, first=True)
    context.provide("ml.assets", first.assets)
    context.provide("ml.catalogue", first.catalogue)
    context.provide("ml.queue", first.queue)
    context.provide("ml.submission", first.queue.submission)
    more = [
        _workspace(context, dataclasses.replace(settings, workspace=name), first=False)
        for name in (settings.second_workspace,)
        if name
    ]
    return _MachineLearning(context, [first, *more])


def _workspace(context: ServiceContext, settings: Settings, *, first: bool) -> _Workspace:
    """One workspace, wired."""
    store, blobs = WorkspaceStore(context.store, settings.workspace, first=first), context.blobs
    assets = Assets(store, blobs, settings)
    catalogue = Catalogue(settings, store, blobs, assets)
    tracking = TrackingRuns(settings)
    command = CommandRunner(settings, assets)
    spark = AttachedSpark(context.settings, context.store, store)
    # One row a job type: a type that isn't here is refused by name.
    runners: dict[str, JobRunner] = {
        "Command": command,
        "AutoML": AutoMLRunner(settings, assets),
        "Spark": SparkRunner(settings, assets, spark.check),
        "Sweep": SweepRunner(settings, command),
    }
    nodes = ComputeNodes(store)
    queue = JobQueue(
        settings=settings,
        store=store,
        blobs=blobs,
        tokens=context.tokens,
        assets=assets,
        catalogue=catalogue,
        tracking=tracking,
        runners=runners,
        nodes=nodes,
        faults=Faults(settings.faults),
    )
    # A pipeline's steps are checked as any submission is: the runners know the submission, and it them.
    pipeline = PipelineRunner(settings, assets, store, blobs, queue.submission.validate)
    runners["Pipeline"] = PipelineOrMonitor(pipeline, MonitorRunner(settings, assets))
    jobs = JobsService(
        settings=settings,
        store=store,
        submission=queue.submission,
        queue=queue,
        long_running=context.long_running,
        tokens=context.tokens,
    )
    proxy = TrackingProxy(settings, queue.tracked)
    return _Workspace(
        settings=settings,
        assets=assets,
        workspace=WorkspaceService(settings, store, blobs),
        computes=ComputeService(settings, store, nodes, context.long_running, spark),
        catalogue=catalogue,
        jobs=jobs,
        history=HistoryService(settings, store, blobs, assets, tracking),
        schedules=SchedulesService(settings, store, queue.submission, Clock(settings.clock_file)),
        queue=queue,
        tracking=tracking,
        models=ModelRegistryService(
            settings=settings, store=store, blobs=blobs, assets=assets, tracking=tracking, artifacts=proxy.pass_on
        ),
        proxy=proxy,
    )


class _Workspace:
    """The parts of one workspace."""

    def __init__(
        self,
        *,
        settings: Settings,
        assets: Assets,
        workspace: WorkspaceService,
        computes: ComputeService,
        catalogue: Catalogue,
        jobs: JobsService,
        history: HistoryService,
        schedules: SchedulesService,
        queue: JobQueue,
        tracking: TrackingRuns,
        models: ModelRegistryService,
        proxy: TrackingProxy,
    ) -> None:
        self.settings = settings
        self.assets = assets
        self.catalogue = catalogue
        self.queue = queue
        self._workspace = workspace
        self._computes = computes
        self._parts = (workspace, computes, catalogue, jobs, history, schedules, models, proxy)
        self._schedules = schedules
        self._tracking = tracking
        self._proxy = proxy

    def operations(self) -> list[Operation]:
        return [operation for part in self._parts for operation in part.operations()]

    async def start(self) -> None:
        self._workspace.seed()
        self._computes.seed()
        if orphans := await self.queue.recover():
            log.warning("%s: %d job(s) of an earlier process are marked Failed", self.settings.workspace, orphans)
        await self._schedules.start()

    async def stop(self) -> None:
        await self._schedules.stop()
        await self.queue.close()
        await self._tracking.close()
        await self._proxy.close()


class _MachineLearning:
    """Every workspace, and the registries they share."""

    def __init__(self, context: ServiceContext, workspaces: list[_Workspace]) -> None:
        self._workspaces = workspaces
        sources = {each.settings.workspace_guid: each.assets for each in workspaces}
        self._registries = RegistriesService(context.settings, context.store, context.blobs, sources)

    def operations(self) -> list[Operation]:
        first, *others = self._workspaces
        found = merged(first.operations(), {each.settings.workspace: each.operations() for each in others})
        return [*found, *self._registries.operations()]

    async def start(self) -> None:
        self._registries.seed()
        for workspace in self._workspaces:
            await workspace.start()

    async def stop(self) -> None:
        for workspace in reversed(self._workspaces):
            await workspace.stop()
