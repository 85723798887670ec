"""AutoML jobs over tables: classification, regression and forecasting. Each trial is a child job, the best one becomes
the model.

The search itself runs in the compute environment (`localazure_compute.automl`), told by a plan (`automl_plan`)
and telling by one JSON line an event. https://learn.microsoft.com/azure/machine-learning/reference-automated-ml-schema
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

from localazure.core.errors import BadRequest
from localazure.executors import automl_plan, bindings
from localazure.executors.job import AssetSource, JobFailed, RunningJob
from localazure.settings import Settings
from localazure.storage.locations import Location

# The search ends itself in time, the model saved; what it may be late by, as a share of its time-out and at least.
_LATE = 0.1
_LATE_SECONDS = 3.0
_POLL_SECONDS = 0.3
_ROLES = {"trainingData": "training_data", "validationData": "validation_data", "testData": "test_data"}


class AutoMLRunner:
    """Runs the search as one process and turns its events into child jobs."""

    def __init__(self, settings: Settings, assets: AssetSource) -> None:
        self._settings = settings
        self._assets = assets

    def validate(self, properties: dict[str, Any]) -> None:
        """See JobRunner."""
        automl_plan.plan(properties)
        for name, output in (properties.get("outputs") or {}).items():
            if name not in ("best_model", "default"):
                raise BadRequest(
                    f"An AutoML job writes one output, best_model, not '{name}'.", f"outputs.{name}", "UserError"
                )
            if name == "best_model" and (output or {}).get("jobOutputType") not in ("mlflow_model", "uri_folder"):
                raise BadRequest("The output best_model is of type mlflow_model.", "outputs.best_model", "UserError")

    def nodes(self, properties: dict[str, Any]) -> int:
        """One: trials are processes of the search, on the node it runs on."""
        return 1

    def seconds(self, properties: dict[str, Any]) -> float | None:
        """The time-out enforced from outside: the job's own, and a tenth of it more for a search that ends itself."""
        timeout = float(automl_plan.plan(properties)["timeout_seconds"])
        return timeout + max(_LATE * timeout, _LATE_SECONDS)

    async def prepare(self, job: RunningJob) -> None:
        """Brings the tables."""
        plan = automl_plan.plan(job.properties)
        details = job.properties["taskDetails"]
        for wire, role in _ROLES.items():
            entry = details.get(wire)
            if entry:
                table = {**entry, "jobInputType": "mltable"}
                plan[role] = await bindings.bring(job, role, table)
        job.working_directory.mkdir(parents=True, exist_ok=True)
        job.found["plan"] = plan | {
            "name": job.name,
            "root": job.root,
            "model": str(job.folder / "outputs" / "best_model"),
            "events": str(job.folder / "events.jsonl"),
            # `outputs` of the working directory are artifacts of the run.
            "reports": str(job.working_directory / "outputs"),
        }

    async def execute(self, job: RunningJob) -> None:
        """Runs the search; JobFailed with its own words if it gives up."""
        plan = job.found.pop("plan")
        plan["deadline"] = time.time() + plan["timeout_seconds"]
        (job.folder / "plan.json").write_text(json.dumps(plan, indent=2))
        events = job.folder / "events.jsonl"
        events.touch()
        reader = _Events(job, events)
        argv = [str(self._settings.compute_python), "-m", "localazure_compute.automl", str(job.folder / "plan.json")]
        running = asyncio.get_running_loop().create_task(job.run(argv, job.environment({})))
        try:
            while not running.done():
                await asyncio.wait([running], timeout=_POLL_SECONDS)
                reader.read()
        finally:
            running.cancel()
            reader.read()
        code = running.result()
        if reader.failure:
            raise JobFailed(f"{reader.failure}\nLast lines of user_logs/std_log.txt:\n{job.last_lines()}")
        if code != 0 or reader.best is None:
            raise JobFailed(
                f"The search ended with code {code}. Last lines of its log:\n{job.last_lines()}", "SystemError"
            )
        best = reader.best
        job.found["best"] = best["child"]
        job.found["properties"] = {
            "best_child_run_id": best["child"],
            "score": repr(best["score"]),
            "primary_metric": best["primary_metric"],
            "run_algorithm": best["algorithm"],
            "num_iterations": str(reader.trials),
        }
        if _explanation(job).is_dir():
            job.found["properties"]["model_explain_run"] = "best_run"
        await job.tracking.set_tags(job.name, {"automl_best_child_run_id": best["child"]})

    async def finalize(self, job: RunningJob) -> None:
        """Uploads the model and the reports: to the job, and to the best child as the service keeps them."""
        model = job.folder / "outputs" / "best_model"
        child = Location("azureml", f"ExperimentRun/dcid.{job.found['best']}")
        await asyncio.to_thread(job.blobs.upload_tree, model, child.join("outputs/mlflow-model"))
        if _explanation(job).is_dir():
            await asyncio.to_thread(job.blobs.upload_tree, _explanation(job), child.join("explanation"))
        await bindings.upload(job, Location("azureml", f"ExperimentRun/dcid.{job.name}"))
        await asyncio.to_thread(shutil.rmtree, job.folder / "trials", True)


def _explanation(job: RunningJob) -> Path:
    return job.working_directory / "outputs" / "explanation"


class _Events:
    """Reads the search's events as they come and writes the children down."""

    def __init__(self, job: RunningJob, path: Path) -> None:
        self._job = job
        self._path = path
        self._offset = 0
        self.trials = 0
        self.best: dict[str, Any] | None = None
        self.failure: str | None = None

    def read(self) -> None:
        """Takes in what is new. An unfinished last line waits."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = json.loads(line)
            match event.pop("event"):
                case "trial":
                    self.trials += 1
                    self._child(event, "automl_child", {"iteration": str(event["number"])})
                case "test":
                    # https://learn.microsoft.com/azure/machine-learning/how-to-configure-cross-validation-data-splits
                    # #provide-test-data-preview: the best model's test is a run of its own.
                    self._child(event, "automl_model_test", {"test_of": event["of"]})
                case "best":
                    self.best = event
                case "failed":
                    self.failure = event["message"]

    def _child(self, event: dict[str, Any], template: str, more: dict[str, str]) -> None:
        job = self._job
        details = job.properties["taskDetails"]
        properties = {
            "jobType": "Command",
            "command": "automl_driver",
            "displayName": event["child"],
            "experimentName": job.properties["experimentName"],
            "computeId": job.properties.get("computeId"),
            "status": event["state"],
            "tags": {},
            "properties": {
                "runTemplate": template,
                **more,
                "run_algorithm": event["algorithm"],
                "run_preprocessor": event["preprocessor"],
                "hyperparameters": json.dumps(event["hyperparameters"]),
                "primary_metric": event["primary_metric"],
                "score": "" if event.get("score") is None else repr(event["score"]),
                "training_type": event["validation"],
                "target_column": details.get("targetColumnName", ""),
            },
        }
        run = {
            "number": event["number"],
            "runType": "azureml.scriptrun",
            "experimentId": job.experiment_id,
            "startTimeUtc": event["start"],
            "endTimeUtc": event["end"],
            "error": {"code": "UserError", "message": event["error"]} if event.get("error") else None,
        }
        job.children.add(event["child"], properties, run)
