"""Azure ML jobs as remote runs, from the YAML that Azure's own command line takes.

The YAML (``az ml job create --file``) is a template; values of ours are written ``{{ name }}``, Azure ML's own
expressions ``${{inputs.x}}`` are left alone. A job's name is its identity: it is chosen by us and never used twice.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-overview#job
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, RunExists, SpecError, first_line
from azflow.ml_workspace import Workspace
from azflow.remote import DIGEST_TAG, Found, RunFailure, RunState, RunStates
from azflow.specs import INCLUDE

SERVICE = "Azure ML job"

#: https://learn.microsoft.com/rest/api/azureml/jobs/get#jobstatus. NotResponding can recover, Paused is resumed by the
#: service, Unknown is what the service itself could not map: all three wait for a better word, up to the deadline.
STATES = RunStates(
    SERVICE,
    active=(
        "NotStarted",
        "Starting",
        "Provisioning",
        "Preparing",
        "Queued",
        "Running",
        "Finalizing",
        "CancelRequested",
        "NotResponding",
        "Paused",
        "Unknown",
    ),
    succeeded=("Completed",),
    failed=("Failed",),
    cancelled=("Canceled",),
)

_EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
_NAME_TAKEN = ("JobPropertyImmutable", "with this name already exists")
#: Azure ML limits a tag's value: https://learn.microsoft.com/azure/machine-learning/resource-limits-capacity
_TAG_LENGTH = 256
_BEST_CHILD = ("best_child_run_id", "automl_best_child_run_id")


# -- the file --------------------------------------------------------------------------------------------------------


def read_job(job: str, values: Mapping[str, Any], include: Path = INCLUDE) -> dict[str, Any]:
    """A job's YAML below ``include/ml``, rendered with `values`: plain data.

    :param job: path below include/ml.
    :raises SpecError: it can't be read, rendered or parsed; names the file and the line.
    """
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    path, shown = include / "ml" / job, f"include/ml/{job}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise SpecError(shown, "", f"can't be read: {problem.strerror}") from None
    text = keep_expressions(text)
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        rendered = environment.from_string(text).render(**values)
    except jinja2.TemplateSyntaxError as problem:
        raise SpecError(shown, f"line {problem.lineno}", f"is no template: {problem.message}") from None
    except jinja2.UndefinedError as problem:
        raise SpecError(shown, "", f"{problem.message}; inputs given: {_names(values.get('inputs'))}") from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as problem:
        raise SpecError(shown, "", f"can't be rendered: {first_line(problem)}") from problem
    try:
        content = yaml.safe_load(rendered)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f"line {mark.line + 1} (rendered)" if mark else ""
        raise SpecError(shown, place, f"is no YAML: {getattr(problem, 'problem', None) or problem}") from None
    if not isinstance(content, dict):
        raise SpecError(shown, "", "must be a mapping of keys")
    return content


def keep_expressions(value: Any) -> Any:
    """Template text, in plain values of any depth, that keeps Azure ML's ``${{...}}``: it has Jinja's braces too."""
    if isinstance(value, str):
        return _EXPRESSION.sub(lambda found: "{% raw %}" + found[0] + "{% endraw %}", value)
    if isinstance(value, Mapping):
        return {key: keep_expressions(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [keep_expressions(each) for each in value]
    return value


def override(
    content: dict[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """`content` with the values a task gives: inputs and outputs the YAML declares, and any other key (merged deeply).

    Inputs that the YAML doesn't declare are for its template only.
    """
    merged = _merge(content, settings)
    for key, given, literal in (("inputs", inputs, True), ("outputs", outputs, False)):
        declared = merged.get(key)
        if not isinstance(declared, dict):
            continue
        changed = dict(declared)
        for name in declared.keys() & given.keys():
            entry, value = declared[name], given[name]
            if isinstance(entry, dict):
                changed[name] = {**entry, "path": value}
            else:
                changed[name] = value if literal else {"path": value}
        merged[key] = changed
    return merged


def content_digest(content: Mapping[str, Any], job: str, include: Path = INCLUDE) -> str:
    """Digest of the files a job's YAML names: its code folder and its environment's conda file.

    Two tries of a task are the same work only if the code is the same.
    """
    folder = (include / "ml" / job).parent
    named = []
    environment = content.get("environment")
    conda = environment.get("conda_file") if isinstance(environment, Mapping) else None
    for value in (content.get("code"), conda):
        if isinstance(value, str) and "://" not in value and not value.startswith("azureml:"):
            named.append((folder / value).resolve())
    digest = hashlib.sha256()
    for root in named:
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def git_commit(folder: Path = INCLUDE) -> str:
    """The project's commit (with ``-dirty``): AZFLOW_GIT_COMMIT, where an image was built without .git, or git's."""
    if given := os.environ.get("AZFLOW_GIT_COMMIT"):
        return given
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def tag(value: object) -> str:
    """`value` as a tag's text, within Azure ML's limit."""
    return str(value)[:_TAG_LENGTH]


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _names(values: object) -> str:
    return ", ".join(sorted(values)) if isinstance(values, Mapping) and values else "none"


# -- the service -----------------------------------------------------------------------------------------------------


class AzureMLJobs:
    """`azflow.remote.RemoteRuns` over an Azure ML workspace.

    :param include: the project's include folder, as text; the YAML's relative paths are below it.
    """

    def __init__(self, connection: AzureConnection, include: str = str(INCLUDE)) -> None:
        connection.require("subscription_id", "resource_group", "workspace")
        self._connection = connection
        self._include = Path(include)
        self._workspace = Workspace(connection)

    # -- RemoteRuns --------------------------------------------------------------------------------------------------

    def lookup(self, name: str) -> Found | None:
        """The job called `name`. One that bears no digest of ours was started by somebody else: never adopted."""
        found = self._workspace.job(name)
        if found is None:
            return None
        properties = found["properties"]
        digest = (properties.get("tags") or {}).get(DIGEST_TAG, "none")
        return Found(name, self._state(properties, name), digest)

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Hand the job to the SDK, which uploads its code and creates it under `name`."""
        from azure.core.exceptions import HttpResponseError

        shown = f"include/ml/{payload['file']}"
        job = self._load(payload, shown)
        job.name = name
        job.tags = {**(job.tags or {}), **{key: tag(value) for key, value in tags.items()}}
        try:
            self._connection.ml_client().jobs.create_or_update(job)
        except HttpResponseError as problem:
            if any(word in str(problem) for word in _NAME_TAKEN):
                raise RunExists(name, service=SERVICE) from None
            if problem.status_code == 400:  # noqa: PLR2004
                raise SpecError(shown, "", f"the service refuses the job: {first_line(problem)}") from problem
            raise
        except Exception as problem:
            if type(problem).__module__.startswith(("azure.ai.ml.exceptions", "marshmallow")):
                raise SpecError(shown, "", f"the SDK refuses the job: {_sdk_words(problem)}") from problem
            raise
        return name

    def state(self, id: str) -> RunState:
        """GET .../jobs/{id}"""
        return self._state(self._properties(id), id)

    async def astate(self, id: str) -> RunState:
        """As `state`: one small GET."""
        return self._state((await self._workspace.ajob(id))["properties"], id)

    def cancel(self, id: str) -> None:
        """POST .../jobs/{id}/cancel; a job that is over already is no error."""
        from azure.core.exceptions import HttpResponseError

        try:
            self._workspace.cancel_job(id)
        except HttpResponseError:
            if not self.state(id).is_terminal:
                raise

    def result(self, id: str) -> dict[str, Any]:
        """``{"name", "status", "url", "seconds", "outputs": {name: uri}, "metrics": {name: value}, "children":
        [{"name", "metrics", "algorithm", "status"}], "best_child": name or None}``; children are an AutoML job's or a
        sweep's trials; seconds from the run's start to its end, None where the service doesn't tell.
        """
        properties = self._properties(id)
        outputs = {
            name: (entry or {}).get("uri") or f"azureml://jobs/{id}/outputs/{name}/paths/"
            for name, entry in (properties.get("outputs") or {}).items()
            if name != "default"
        }
        run = self._workspace.tracked_run(id)
        kept = {**(properties.get("properties") or {}), **_tags(run)}
        best = next((kept[key] for key in _BEST_CHILD if kept.get(key)), None)
        children = self._children(id, run) if properties.get("jobType") in ("AutoML", "Sweep", "Pipeline") else []
        metrics = _metrics(run)
        if not metrics and best:
            metrics = next((child["metrics"] for child in children if child["name"] == best), {})
        return {
            "name": id,
            "status": properties["status"],
            "url": self.url(id),
            "seconds": _seconds(run),
            "outputs": outputs,
            "metrics": metrics,
            "children": children,
            "best_child": best,
        }

    def failure(self, id: str) -> RunFailure:
        """The service's error, and the end of what the job printed."""
        details = self._workspace.run_details(id)
        error = ((details.get("error") or {}).get("error")) or {}
        cause = str(error.get("message") or "").strip() or "the service names no error"
        try:
            log = self._workspace.log_tail(id)
        except Exception as problem:
            # The cause must not hide behind a log that can't be read.
            log = [f"(the log can't be read: {first_line(problem)})"]
        # UserError is the user's code or data: the same job fails again.
        return RunFailure(cause, log, retry_helps=error.get("code") != "UserError")

    def url(self, id: str) -> str:
        """The job in Azure ML studio."""
        connection = self._connection
        studio = connection.cloud.portal.rstrip("/") if connection.cloud else "https://ml.azure.com"
        return f"{studio}/runs/{id}?wsid={connection.ml_workspace_id}&tid={connection.tenant_id}"

    def close(self) -> None:
        """Release the worker's connections."""
        self._workspace.close()

    async def aclose(self) -> None:
        """Release the triggerer's connections."""
        await self._workspace.aclose()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _load(self, payload: Mapping[str, Any], shown: str) -> Any:
        from azure.ai.ml import load_job

        text = io.StringIO(yaml.safe_dump(payload["content"], sort_keys=False, allow_unicode=True))
        try:
            # Paths in the YAML are relative to where it lies.
            return load_job(text, relative_origin=str(self._include / "ml" / payload["file"]))
        except Exception as problem:
            raise SpecError(shown, "", f"is no job Azure ML knows: {_sdk_words(problem)}") from problem

    def _properties(self, id: str) -> dict[str, Any]:
        found = self._workspace.job(id)
        if found is None:
            raise ConfigurationError(f"{SERVICE} {id} isn't in the workspace {self._connection.workspace} any more.")
        properties: dict[str, Any] = found["properties"]
        return properties

    def _state(self, properties: Mapping[str, Any], id: str) -> RunState:
        return STATES.of(str(properties.get("status")), id=id, url=self.url(id))

    def _children(self, id: str, run: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The trials: what they were from run history, how they did from MLflow."""
        tracked = {child["info"]["run_id"]: child for child in self._workspace.tracked_children(run)} if run else {}
        return [
            {
                "name": child["runId"],
                "status": child.get("status"),
                "algorithm": _algorithm(child, tracked.get(child["runId"])),
                "metrics": _metrics(tracked.get(child["runId"])),
            }
            for child in self._workspace.child_runs(id)
        ]


def _algorithm(child: Mapping[str, Any], tracked: Mapping[str, Any] | None) -> str | None:
    kept = {**_tags(tracked), **(child.get("tags") or {}), **(child.get("properties") or {})}
    name = kept.get("run_algorithm")
    before = kept.get("run_preprocessor")
    return ", ".join(part for part in (before, name) if part) or None


def _seconds(run: Mapping[str, Any] | None) -> float | None:
    """How long an MLflow run took; its times are milliseconds since 1970."""
    info = (run or {}).get("info") or {}
    start, end = info.get("start_time"), info.get("end_time")
    return round((int(end) - int(start)) / 1000, 1) if start and end else None


def _metrics(run: Mapping[str, Any] | None) -> dict[str, float]:
    listed = (run or {}).get("data", {}).get("metrics") or []
    return {each["key"]: float(each["value"]) for each in listed}


def _tags(run: Mapping[str, Any] | None) -> dict[str, str]:
    listed = (run or {}).get("data", {}).get("tags") or []
    return {each["key"]: each["value"] for each in listed}


def _sdk_words(problem: BaseException) -> str:
    """The SDK's message without its colours, help links and empty lines."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(problem))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:1000] or type(problem).__name__
