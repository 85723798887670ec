"""Azure Machine Learning: the ARM provider Microsoft.MachineLearningServices, run history, discovery and the
dataplane look-ups.
"""

from __future__ import annotations

import logging

from localazure.core.clock import Clock
from localazure.core.faults import Faults
from localazure.core.registry import Operation
from localazure.core.service import Service, ServiceContext
from localazure.executors.automl import AutoMLRunner
from localazure.executors.command import CommandRunner
from localazure.executors.job import JobRunner
from localazure.executors.pipeline import PipelineRunner
from localazure.executors.spark import SparkRunner
from localazure.executors.sweep import SweepRunner
from localazure.ml.assets import Assets
from localazure.ml.catalogue import Catalogue
from localazure.ml.computes import ComputeService
from localazure.ml.history import HistoryService
from localazure.ml.jobs import JobsService
from localazure.ml.nodes import ComputeNodes
from localazure.ml.queue import JobQueue
from localazure.ml.registries import RegistriesService
from localazure.ml.schedules import SchedulesService
from localazure.ml.workspace import WorkspaceService
from localazure.tracking.proxy import TrackingProxy
from localazure.tracking.runs import TrackingRuns

log = logging.getLogger(__name__)


def build(context: ServiceContext) -> Service:
    """The service. Provides `ml.assets` (Assets), `ml.catalogue` (Catalogue), `ml.queue` (JobQueue) and
    `ml.submission` (Submission) to the services built later.
    """
    settings, store, blobs = context.settings, context.store, context.blobs
    assets = Assets(store, blobs, settings)
    catalogue = Catalogue(settings, store, blobs, assets)
    tracking = TrackingRuns(settings)
    command = CommandRunner(settings, assets)
    # One row a job type: a type that isn't here is refused by name.
    runners: dict[str, JobRunner] = {
        "Command": command,
        "AutoML": AutoMLRunner(settings, assets),
        "Spark": SparkRunner(settings, assets),
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
    runners["Pipeline"] = PipelineRunner(settings, assets, store, blobs, queue.submission.validate)
    context.provide("ml.assets", assets)
    context.provide("ml.catalogue", catalogue)
    context.provide("ml.queue", queue)
    context.provide("ml.submission", queue.submission)
    jobs = JobsService(
        settings=settings,
        store=store,
        submission=queue.submission,
        queue=queue,
        long_running=context.long_running,
        tokens=context.tokens,
    )
    return _MachineLearning(
        workspace=WorkspaceService(settings, store, blobs),
        computes=ComputeService(settings, store, nodes, context.long_running),
        catalogue=catalogue,
        registries=RegistriesService(settings, store, blobs, assets),
        jobs=jobs,
        history=HistoryService(settings, store, blobs, assets, tracking),
        schedules=SchedulesService(settings, store, queue.submission, Clock(settings.clock_file)),
        queue=queue,
        tracking=tracking,
        proxy=TrackingProxy(settings, queue.tracked),
    )


class _MachineLearning:
    """The parts as one service."""

    def __init__(
        self,
        *,
        workspace: WorkspaceService,
        computes: ComputeService,
        catalogue: Catalogue,
        registries: RegistriesService,
        jobs: JobsService,
        history: HistoryService,
        schedules: SchedulesService,
        queue: JobQueue,
        tracking: TrackingRuns,
        proxy: TrackingProxy,
    ) -> None:
        self._workspace = workspace
        self._computes = computes
        self._registries = registries
        self._parts = (workspace, computes, catalogue, registries, jobs, history, schedules, proxy)
        self._schedules = schedules
        self._queue = queue
        self._tracking = tracking
        self._proxy = proxy

    def operations(self) -> list[Operation]:
        return [operation for part in self._parts for operation in part.operations()]

    async def start(self) -> None:
        self._workspace.seed()
        self._computes.seed()
        self._registries.seed()
        if orphans := await self._queue.recover():
            log.warning("%d job(s) of an earlier process are marked Failed", orphans)
        await self._schedules.start()

    async def stop(self) -> None:
        await self._schedules.stop()
        await self._queue.close()
        await self._tracking.close()
        await self._proxy.close()
