"""Submission: a job that was asked for is checked, written down and begun. For the REST interface, parents of child
jobs, batch endpoints and schedules alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from localazure.core.errors import AzureError, BadRequest, NotFound, NotImplementedOperation
from localazure.core.store import Store
from localazure.executors.command import NO_SERVICES, interactive
from localazure.executors.job import LOG_NAME, JobRunner
from localazure.ml import states
from localazure.ml.assets import JOBS, Assets, artifact_folder
from localazure.ml.nodes import COMPUTES, SERVERLESS
from localazure.ml.resources import resource
from localazure.ml.workspace import ARTIFACTSTORE, BLOBSTORE, tracking_uri
from localazure.settings import Settings

JOB_TYPES = ("Command", "AutoML", "Pipeline", "Sweep", "Spark", "Labeling", "FineTuning")
# Which child belongs to which parent: key `<parent>/<child>`, so that a parent's children are one look-up.
CHILDREN = "ml.children"
# What may change of a job, and what the server adds.
MUTABLE = frozenset({"description", "tags", "displayName", "properties", "isArchived"})
_SERVER_SIDE = frozenset({"status", "services", "parentJobName"})
_RUNNABLE = {"Spark": frozenset({"SynapseSpark"})}
_RUNNABLE_OTHERWISE = frozenset({"AmlCompute", "ComputeInstance", "Kubernetes"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,254}")
_TEMPLATE = re.compile(r"\$\{\{\s*(name|output_name|default_datastore)\s*\}\}")


class NameTaken(AzureError):
    """400 with the inner error that clients look for (reported of the service: azure-sdk-for-python PR 47389)."""

    def __init__(self, job_type: str) -> None:
        super().__init__(
            400,
            "UserError",
            "A job with this name already exists. If you are trying to create a new job, use a different name. If "
            "you are "
            f"trying to update an existing job, the existing job's {job_type} cannot be changed. Only description, "
            f"tags, "
            "displayName, properties, and isArchived can be updated.",
        )

    def body(self) -> dict[str, Any]:
        """The envelope, with `innererror`."""
        inner = {"code": "Immutable", "innererror": {"code": "JobPropertyImmutable"}}
        return {"error": {"code": self.code, "message": self.message, "innererror": inner}}


class Submission:
    """Where every job begins."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        assets: Assets,
        runners: Mapping[str, JobRunner],
        begin: Callable[[str], None],
    ) -> None:
        """`begin` starts the job that is stored under a name (JobQueue.submit)."""
        self._settings = settings
        self._store = store
        self._assets = assets
        self._runners = runners
        self._begin = begin

    def submit(
        self, name: str, asked: dict[str, Any], *, parent: str | None = None, run: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The stored document of the job `name`, which is on its way; `asked` are the ARM job's properties.

        `parent` is the job above it, `run` are fields of run history. The name of a job with the same content gives
        that job. BadRequest or NotImplementedOperation if it can't run, NameTaken if the name has other content.
        """
        known = self._store.get(JOBS, name)
        if known is not None:
            return same_or_taken(known, asked)
        self.validate(asked)
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"'{name}' is not a valid job name: letters, digits, '-' and '_', up to 255, first a letter or digit.",
                "name",
                "UserError",
            )
        document = self._located(name, asked, parent, run)
        # Two submissions of one name at the same time: the second one finds the first.
        if not self._insert(name, document):
            return same_or_taken(self._store.get(JOBS, name) or document, asked)
        self._begin(name)
        return document

    def validate(self, asked: dict[str, Any]) -> None:
        """Refuses what can't run: BadRequest, or NotImplementedOperation by name."""
        kind = str(asked.get("jobType"))
        if kind not in self._runners:
            if kind in JOB_TYPES:
                raise NotImplementedOperation(f"Jobs_CreateOrUpdate with jobType {kind}")
            raise BadRequest(f"jobType must be one of {', '.join(JOB_TYPES)}, not '{kind}'.", "jobType", "UserError")
        self._check_compute(kind, asked.get("computeId"))
        try:
            self._runners[kind].validate(asked)
        except NotFound as error:
            # 404 would mean the job itself, which clients take for "not submitted yet".
            raise BadRequest(error.message, error.target, "UserError") from error

    def write_ended(
        self,
        name: str,
        properties: dict[str, Any],
        *,
        parent: str,
        run: dict[str, Any],
        outputs: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """A job that is over and needn't run, `properties["status"]` final, in place of one that may be there."""
        inner = {
            "services": services(self._settings, name),
            "isArchived": False,
            "inputs": {},
            "outputs": outputs or {},
            "tags": {},
            "properties": {},
            "parentJobName": parent,
            **properties,
        }
        document = {
            "resource": resource(self._settings, f"jobs/{name}", inner),
            "request": {},
            "run": {
                "parent": parent,
                "root": self._root(parent),
                "states": [[inner["status"], states.timestamp()]],
                "outputs": outputs or {},
                **run,
            },
        }
        if not self._insert(name, document):
            self._store.put(JOBS, name, document)

    def write_refused(
        self, name: str, asked: dict[str, Any], error: AzureError, *, parent: str, run: dict[str, Any]
    ) -> None:
        """A child that was refused at submission, as a job that failed for that reason."""
        now = states.timestamp()
        properties = {"displayName": name, **asked, "status": states.FAILED}
        failed = {"startTimeUtc": now, "endTimeUtc": now, "error": {"code": error.code, "message": error.message}}
        self.write_ended(name, properties, parent=parent, run={**run, **failed})

    def forget(self, name: str) -> None:
        """Removes a job that is over, and those below it."""
        document = self._store.get(JOBS, name)
        for child in self._store.list(CHILDREN, f"{name}/"):
            self.forget(str(child["name"]))
        if document is not None and (parent := document["run"].get("parent")):
            self._store.delete(CHILDREN, f"{parent}/{name}")
        self._store.delete(JOBS, name)

    def _insert(self, name: str, document: dict[str, Any]) -> bool:
        if not self._store.insert(JOBS, name, document):
            return False
        if parent := document["run"]["parent"]:
            self._store.put(CHILDREN, f"{parent}/{name}", {"name": name})
        return True

    def _root(self, parent: str) -> str:
        above = self._store.get(JOBS, parent)
        return str((above or {}).get("run", {}).get("root") or parent)

    def _check_compute(self, kind: str, id: str | None) -> None:
        if not id or id == SERVERLESS:
            return
        name = id.rpartition("/")[2]
        compute = self._store.get(COMPUTES, name)
        if compute is None:
            known = ", ".join(each["name"] for each in self._store.list(COMPUTES))
            raise BadRequest(
                f"The compute '{name}' was not found; the workspace has {known}.", "computeId", "UserError"
            )
        runnable = _RUNNABLE.get(kind, _RUNNABLE_OTHERWISE)
        there = compute["properties"]["computeType"]
        if there not in runnable:
            message = f"The compute '{name}' is of type {there}; this job needs one of {', '.join(sorted(runnable))}."
            raise BadRequest(message, "computeId", "UserError")
        if compute["properties"].get("properties", {}).get("state") == "Stopped":
            raise BadRequest(f"The compute instance '{name}' is stopped; start it first.", "computeId", "UserError")

    def _located(
        self, name: str, asked: dict[str, Any], parent: str | None, run: dict[str, Any] | None
    ) -> dict[str, Any]:
        try:
            return self._new(name, asked, parent, run or {})
        except NotFound as error:
            raise BadRequest(error.message, error.target, "UserError") from error

    def _new(self, name: str, asked: dict[str, Any], parent: str | None, run: dict[str, Any]) -> dict[str, Any]:
        outputs = {
            output: self._output(name, output, entry or {}) for output, entry in (asked.get("outputs") or {}).items()
        }
        shown = {key: value for key, value in outputs.items() if key != "default"}
        default = f"azureml://datastores/{ARTIFACTSTORE}/{artifact_folder(name)}"
        properties = {
            "displayName": name,
            "experimentName": "Default",
            "description": None,
            "isArchived": False,
            "inputs": {},
            **{key: value for key, value in asked.items() if value is not None},
            "tags": asked.get("tags") or {},
            "properties": asked.get("properties") or {},
            "outputs": {
                **shown,
                "default": {"uri": default, "jobOutputType": "uri_folder", "mode": "ReadWriteMount"},
            },
            "services": {
                **services(self._settings, name),
                **{
                    each: {**service, "status": "Failed", "errorMessage": NO_SERVICES}
                    for each, service in interactive(asked).items()
                },
            },
            "status": states.NOT_STARTED,
        }
        if parent is not None:
            properties["parentJobName"] = parent
        document = {
            "resource": resource(self._settings, f"jobs/{name}", properties),
            "request": asked,
            "run": {
                "parent": parent,
                "root": self._root(parent) if parent else name,
                "states": [],
                "outputs": outputs,
                "logs": [LOG_NAME],
                **run,
            },
        }
        return states.advance(document, states.STARTING)

    def _output(self, job: str, name: str, entry: dict[str, Any]) -> dict[str, Any]:
        """A declared output with the address it will be written to."""
        kind = entry.get("jobOutputType") or "uri_folder"
        uri = entry.get("uri")
        if uri:
            values = {"name": job, "output_name": name, "default_datastore": BLOBSTORE}
            uri = _TEMPLATE.sub(lambda match: values[match[1]], uri)
            self._assets.location(uri)  # refused now, with the address in the message
        else:
            uri = f"azureml://datastores/{BLOBSTORE}/paths/azureml/{job}/{name}" + ("" if kind == "uri_file" else "/")
        return {**entry, "jobOutputType": kind, "uri": uri, "mode": entry.get("mode") or "ReadWriteMount"}


def same_or_taken(known: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The stored job `known` if `asked` has its content, NameTaken otherwise."""
    old = known["resource"]["properties"]
    if _content(asked) not in (_content(known["request"]), _content(old)):
        raise NameTaken(old["jobType"])
    return known


def services(settings: Settings, name: str) -> dict[str, Any]:
    """The addresses a job is shown and tracked at."""
    return {
        "Tracking": {"jobServiceType": "Tracking", "endpoint": tracking_uri(settings) + "?"},
        "Studio": {"jobServiceType": "Studio", "endpoint": studio_url(settings, "0", name)},
    }


def studio_url(settings: Settings, experiment_id: str, name: str) -> str:
    """The page of a run. There is no studio here: MLflow's own user interface shows it."""
    return f"{settings.mlflow_url}/#/experiments/{experiment_id}/runs/{name}?wsid={settings.workspace_id}"


def _content(properties: dict[str, Any]) -> dict[str, Any]:
    """What a job is, without what may change or what the server adds; empty values are no values."""
    kept = {key: value for key, value in properties.items() if key not in MUTABLE | _SERVER_SIDE}
    kept["outputs"] = {key: value for key, value in (properties.get("outputs") or {}).items() if key != "default"}
    cleaned: dict[str, Any] = _without_empty(kept)
    return cleaned


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        cleaned = {key: _without_empty(each) for key, each in value.items()}
        return {key: each for key, each in cleaned.items() if each not in (None, {}, [], "")}
    if isinstance(value, list):
        return [_without_empty(each) for each in value]
    return value
