"""Runs of a monitor: the job that a `MonitorSchedule` submits. Each signal is a child job.

On Azure it is a pipeline of Spark components; here one process computes the same metrics
(`localazure_compute.monitoring`).
https://learn.microsoft.com/azure/machine-learning/concept-model-monitoring
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from localazure.core.errors import BadRequest
from localazure.executors import bindings, monitor_plan
from localazure.executors.job import AssetSource, JobFailed, JobRunner, RunningJob
from localazure.settings import Settings
from localazure.storage.locations import Location

#: Property of a job that is a monitor's run: its `monitorDefinition`.
DEFINITION = "monitorDefinition"
#: The moment that it is due at, as a property of it.
TIME_PROPERTY = "azureml.modelmonitor.time"
#: What the service tags a run with, whose metrics break a threshold.
BREACHED = "azureml_modelmonitor_threshold_breached"
_MONITOR = "azureml.scheduleid"


def run_of(definition: Mapping[str, Any], time: datetime, tags: Mapping[str, str]) -> dict[str, Any]:
    """The job that runs a monitor once; what `Submission.submit` takes."""
    emails = ((definition.get("alertNotificationSetting") or {}).get("emailNotificationSetting") or {}).get("emails")
    return {
        "jobType": "Pipeline",
        "jobs": {},
        "settings": {},
        "tags": {**tags},
        "properties": {
            TIME_PROPERTY: time.astimezone(UTC).isoformat(),
            **({"azureml.modelmonitor.notification_emails": ",".join(emails)} if emails else {}),
        },
        "outputs": {"signal_output": {"jobOutputType": "uri_folder"}},
        DEFINITION: dict(definition),
    }


class PipelineOrMonitor:
    """Runs a pipeline job: a user's, or a monitor's."""

    def __init__(self, pipeline: JobRunner, monitor: JobRunner) -> None:
        self._pipeline = pipeline
        self._monitor = monitor

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner."""
        self._of(properties).validate(properties)

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """See JobRunner."""
        return self._of(properties).seconds(properties)

    def nodes(self, properties: dict[str, Any]) -> int:
        """See JobRunner."""
        return self._of(properties).nodes(properties)

    async def prepare(self, job: RunningJob) -> None:
        """See JobRunner."""
        await self._of(job.properties).prepare(job)

    async def execute(self, job: RunningJob) -> None:
        """See JobRunner."""
        await self._of(job.properties).execute(job)

    async def finalize(self, job: RunningJob) -> None:
        """See JobRunner."""
        await self._of(job.properties).finalize(job)

    def _of(self, properties: Mapping[str, Any]) -> JobRunner:
        return self._monitor if DEFINITION in properties else self._pipeline


class MonitorRunner:
    """Brings each signal's data, computes, and writes down what came of it."""

    def __init__(self, settings: Settings, assets: AssetSource) -> None:
        self._settings = settings
        self._assets = assets

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner. The addresses are looked up; that data isn't there yet is no reason to refuse."""
        definition = properties[DEFINITION]
        monitor_plan.plan(definition, self._time(properties))
        for where, uri in monitor_plan.inputs(definition):
            if not uri:
                raise BadRequest(f"{where} needs a uri.", where, "UserError")
            self._assets.location(uri)

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """None: a monitor's run has no time-out."""
        return None

    def nodes(self, properties: dict[str, Any]) -> int:
        """One, of serverless Spark."""
        return 1

    async def prepare(self, job: RunningJob) -> None:
        """Brings the data. What can't be read fails its signal, not the others."""
        time = self._time(job.properties)
        signals = monitor_plan.plan(job.properties[DEFINITION], time)
        for number, signal in enumerate(signals):
            signal["child"] = f"{job.name}_{number}"
            for side in ("production", "reference"):
                try:
                    signal[side]["path"] = await bindings.bring(job, f"{number}_{side}", signal[side])
                except JobFailed as problem:
                    signal["error"] = problem.message
        job.working_directory.mkdir(parents=True, exist_ok=True)
        plan = {
            "name": job.name,
            "root": job.root,
            "monitor": job.properties["properties"].get(_MONITOR, ""),
            "time": time.isoformat(),
            "signals": signals,
            "results": str(job.folder / "outputs" / "signal_output"),
            "events": str(job.folder / "events.jsonl"),
        }
        (job.folder / "plan.json").write_text(json.dumps(plan, indent=2))
        job.found["signals"] = {signal["name"]: signal for signal in signals}
        job.note(f"{len(signals)} signal(s) at {time.isoformat()}: {', '.join(job.found['signals'])}")

    async def execute(self, job: RunningJob) -> None:
        """Computes; JobFailed names the signals that couldn't be, after the others were."""
        signals = job.found.pop("signals")
        events = job.folder / "events.jsonl"
        events.touch()
        argv = [
            str(self._settings.compute_python),
            "-m",
            "localazure_compute.monitoring",
            str(job.folder / "plan.json"),
        ]
        code = await job.run(argv, job.environment({}))
        ended = [json.loads(line) for line in events.read_text().splitlines()]
        for event in ended:
            self._child(job, signals[event["name"]], event)
        if code != 0:
            raise JobFailed(
                f"The monitor ended with code {code}. Last lines of its log:\n{job.last_lines()}", "SystemError"
            )
        if warnings := [event["warning"] for event in ended if event["warning"] and signals[event["name"]]["alert"]]:
            job.found["properties"] = {BREACHED: "\n".join(warnings)}
            await job.tracking.set_tags(job.name, {BREACHED: "\n".join(warnings)})
        if failed := [event for event in ended if event["error"]]:
            await self._upload(job)
            raise JobFailed("\n".join(f"The signal '{event['name']}' failed: {event['error']}" for event in failed))

    async def finalize(self, job: RunningJob) -> None:
        """Uploads the signals' files, as the job's output and as its artifacts."""
        await self._upload(job)

    async def _upload(self, job: RunningJob) -> None:
        place = Location("azureml", f"ExperimentRun/dcid.{job.name}")
        await bindings.upload(job, place)
        results = job.folder / "outputs" / "signal_output" / "signals"
        await asyncio.to_thread(job.blobs.upload_tree, results, place.join("signals"))

    def _child(self, job: RunningJob, signal: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """A signal as a job: on Azure it is a pipeline of its own."""
        breached = {BREACHED: event["warning"]} if event["warning"] and signal["alert"] else {}
        properties = {
            "jobType": "Command",
            "command": "model_monitor",
            "displayName": signal["name"],
            "experimentName": job.properties["experimentName"],
            "status": "Failed" if event["error"] else "Completed",
            "tags": breached,
            "properties": {
                "signalName": signal["name"],
                "signalType": signal["type"],
                "metrics": str(event["metrics"]),
            },
        }
        run = {
            "runType": "azureml.StepRun",
            "experimentId": job.experiment_id,
            "startTimeUtc": _utc(event["start"]),
            "endTimeUtc": _utc(event["end"]),
            "error": {"code": "UserError", "message": event["error"]} if event["error"] else None,
        }
        job.children.add(signal["child"], properties, run)

    def _time(self, properties: Mapping[str, Any]) -> datetime:
        return datetime.fromisoformat(properties["properties"][TIME_PROPERTY])


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
