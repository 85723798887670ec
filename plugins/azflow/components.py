"""Components and pipelines by name: what a team publishes for the Designer, and what it authors there.

`PublishComponentsOperator` makes every component YAML below include/ml/components a versioned asset, so that it is a
module in the Designer's palette. `PipelineRunOperator` runs a pipeline that somebody put together from them.

https://learn.microsoft.com/azure/machine-learning/concept-component
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import ConfigurationError, RunExists, SpecError, first_line
from azflow.job_files import content_digest, named_files, origin, refusal, tag
from azflow.ml import AzureMLJobOperator
from azflow.ml_jobs import NIGHT_PROPERTY, SERVICE, AzureMLJobs, name_is_taken
from azflow.ml_workspace import Workspace
from azflow.runs import DIGEST_TAG, RunsReference
from azflow.specs import INCLUDE

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Tag of a component: digest of its YAML and of the files it names.
CONTENT_TAG = "azflow.content"
_KINDS = frozenset({"command", "pipeline", "parallel", "sweep", "automl", "spark", "import", "data_transfer", "flow"})
_LOOKED_AT = 500
#: What a new run of an old pipeline job takes over.
_TAKEN_OVER = frozenset(
    {
        *("jobType", "jobs", "inputs", "outputs", "settings", "computeId", "componentId", "experimentName"),
        *("displayName", "description", "identity"),
    }
)


@dataclass(frozen=True)
class ComponentFile:
    """A component's YAML.

    :param path: relative to include/ml.
    :param version: as the YAML says; empty: it is versioned by its content.
    :param digest: of the YAML and of the files it names.
    :param needs: other component files that it names.
    """

    path: str
    name: str
    version: str
    digest: str
    needs: tuple[str, ...]


def find_components(include: Path = INCLUDE, folder: str = "components") -> list[ComponentFile]:
    """Every component below include/ml/`folder`, those that others are made of first.

    :raises SpecError: a file is no YAML, or a component without a name, or a name is used twice.
    """
    found: dict[str, ComponentFile] = {}
    for path in sorted((include / "ml" / folder).rglob("*.y*ml")):
        if component := _read(path, include):
            found[component.path] = component
    names = [component.name for component in found.values()]
    for component in found.values():
        if names.count(component.name) > 1:
            raise SpecError(f"include/ml/{component.path}", "name", f"{component.name!r} is used by another file, too")
    ordered: dict[str, ComponentFile] = {}

    def put(component: ComponentFile, above: tuple[str, ...]) -> None:
        for needed in component.needs:
            if needed in above:
                raise SpecError(f"include/ml/{component.path}", "", f"is made of itself, through {needed}")
            if needed in found and needed not in ordered:
                put(found[needed], (*above, component.path))
        ordered[component.path] = component

    for component in found.values():
        if component.path not in ordered:
            put(component, (component.path,))
    return list(ordered.values())


def _read(path: Path, include: Path) -> ComponentFile | None:
    """None if the file is something else: a conda file, a search space, ..."""
    relative = path.relative_to(include / "ml").as_posix()
    shown = f"include/ml/{relative}"
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else ""
        raise SpecError(shown, place, f"is no YAML: {getattr(problem, 'problem', None) or problem}") from None
    if not isinstance(content, dict):
        return None
    if "omponent.schema" not in str(content.get("$schema", "")) and content.get("type") not in _KINDS:
        return None
    name = content.get("name")
    if not isinstance(name, str) or not name:
        raise SpecError(shown, "name", "is missing: a component is published under its name")
    files = content_digest(content, relative, include)
    digest = hashlib.sha256(f"{text}\0{files}".encode()).hexdigest()[:16]
    root = (include / "ml").resolve()
    needs = tuple(
        each.relative_to(root).as_posix()
        for each in named_files(content, path.parent)
        if each.suffix in (".yml", ".yaml") and each.is_relative_to(root)
    )
    return ComponentFile(relative, name, str(content.get("version") or ""), digest, needs)


class PublishComponentsOperator(AzflowOperator):
    """Makes the components below include/ml/components versioned assets: modules in the Designer's palette.

    A component whose YAML has a version gets that one, and can't change without a new one. One without is versioned by
    its content; unchanged, it gets no new version, so that ``azureml:<name>@latest`` is what the repository says.

    XCom: ``{"components": {name: {"id": "azureml:<name>:<version>", "version", "published"}}}``; ``published`` is false
    for what was there already.

    :param folder: below include/ml.
    """

    template_fields = ("folder",)
    ui_color = "#e3f5e7"
    #: The project's include folder; tests have their own.
    include: ClassVar[Path] = INCLUDE

    def __init__(self, *, folder: str = "components", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder

    def execute(self, context: Context) -> dict[str, Any]:
        """Look at each, publish what is new."""
        with airflow_edge(self.conn_id):
            found = find_components(self.include, self.folder)
            if not found:
                raise ConfigurationError(f"There is no component below include/ml/{self.folder}.")
            connection = AzureConnection.load(self.conn_id)
            night = context["night"]  # type: ignore[typeddict-item]
            tags = {**origin(night)}
            answer = {}
            with contextlib.closing(Workspace(connection)) as workspace:
                for component in found:
                    version, known = next_version(component, list(workspace.versions("components", component.name)))
                    if not known:
                        self._publish(connection, component, version, tags)
                    self.log.info("azureml:%s:%s %s", component.name, version, "is there" if known else "published")
                    answer[component.name] = {
                        "id": f"azureml:{component.name}:{version}",
                        "version": version,
                        "published": not known,
                    }
        return {"components": answer}

    def _publish(
        self, connection: AzureConnection, component: ComponentFile, version: str, tags: Mapping[str, str]
    ) -> None:
        from azure.ai.ml import load_component
        from azure.core.exceptions import HttpResponseError

        file = self.include / "ml" / component.path
        try:
            loaded = load_component(file)
            loaded.version = version
            loaded.tags = {**(loaded.tags or {}), **tags, CONTENT_TAG: component.digest}
            connection.ml_client().components.create_or_update(loaded)
        except HttpResponseError as problem:
            if problem.status_code == 400:  # noqa: PLR2004
                shown = f"include/ml/{component.path}"
                raise SpecError(shown, "", f"the service refuses the component: {first_line(problem)}") from problem
            raise
        except Exception as problem:
            if type(problem).__module__.startswith(("azure.ai.ml", "marshmallow")):
                raise refusal(f"include/ml/{component.path}", problem, file, subject="component") from problem
            raise


def next_version(component: ComponentFile, versions: list[dict[str, Any]]) -> tuple[str, bool]:
    """The version a component is or gets, and whether it is there. Pure.

    :param versions: what is published under its name, newest first.
    :raises SpecError: the YAML's version was published with other content.
    """
    published = {each["name"]: (each["properties"].get("tags") or {}).get(CONTENT_TAG) for each in versions}
    if component.version:
        if component.version not in published:
            return component.version, False
        if published[component.version] != component.digest:
            raise SpecError(
                f"include/ml/{component.path}",
                "version",
                f"{component.version} of {component.name} was published with other content; raise the version, or "
                f"leave it out to be versioned by content",
            )
        return component.version, True
    if versions and published[versions[0]["name"]] == component.digest:
        return str(versions[0]["name"]), True
    # Content that comes back after a change is a new version: the newest one is what @latest means.
    version, number = component.digest, 1
    while version in published:
        number += 1
        version = f"{component.digest}-{number}"
    return version, False


# -- pipelines by name -----------------------------------------------------------------------------------------------


class NamedPipelines(AzureMLJobs):
    """Azure ML jobs made of a published pipeline component, or like a pipeline job that ran before."""

    def shown(self, payload: Mapping[str, Any]) -> str:
        """The pipeline's name."""
        return f"pipeline {payload['file']}"

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """As the base class; a copy of a job is made of ids only, and needs no SDK."""
        from azure.core.exceptions import HttpResponseError

        if "properties" not in payload:
            return super().submit(name, payload, tags)
        properties = dict(payload["properties"])
        properties["tags"] = {key: tag(value) for key, value in tags.items()}
        properties["properties"] = {NIGHT_PROPERTY: tags[NIGHT_PROPERTY]} if NIGHT_PROPERTY in tags else {}
        try:
            self.workspace.put_job(name, properties)
        except HttpResponseError as problem:
            if name_is_taken(problem):
                raise RunExists(name, service=SERVICE) from None
            if problem.status_code == 400:  # noqa: PLR2004
                raise ConfigurationError(f"A run like {payload['like']} is refused: {first_line(problem)}") from problem
            raise
        return name


class PipelineRunOperator(AzureMLJobOperator):
    """Runs a pipeline that was authored in the Designer (or published as a component), exactly once, by its name.

    Found is a pipeline component of that name (``name``, ``name@latest``, ``name:version``); without one, the newest
    completed pipeline job whose display name or experiment is `pipeline`, not counting runs of azflow's own. The new
    run has the same steps, other inputs. XCom: as `AzureMLJobOperator`.

    :param pipeline: its name.
    :param inputs: values of the pipeline's inputs: text, numbers, ``azureml:<data>:<version>``, ``azureml://...``.
    :param outputs: where outputs are written (``azureml://datastores/...``).
    :param settings: of the pipeline, e.g. ``{"default_compute": "azureml:cpu-cluster"}``.
    :param experiment: the run's experiment; empty: the pipeline's name, or its experiment.
    """

    template_fields = ("pipeline", "inputs", "outputs", "settings", "experiment")
    ui_color = "#e3f5e7"

    def __init__(self, *, pipeline: str, experiment: str = "", **kwargs: Any) -> None:
        super().__init__(job="", **kwargs)
        self.pipeline = pipeline
        self.experiment = experiment

    def remote_runs(self) -> RunsReference:
        """The workspace's jobs."""
        return RunsReference("azflow.components.NamedPipelines")

    def payload(self, context: Context) -> dict[str, Any]:
        """The pipeline as it is now, with these inputs."""
        self.stamp(context, self.inputs)
        with contextlib.closing(Workspace(AzureConnection.load(self.conn_id))) as workspace:
            if (component := find_component(workspace, self.pipeline)) is not None:
                return self._of_component(component)
            job = find_job(workspace, self.pipeline)
            properties = like(job, self.inputs, self.outputs, workspace.asset_id)
        properties["settings"] = {**(properties.get("settings") or {}), **self.settings}
        if self.experiment:
            properties["experimentName"] = self.experiment
        self.log.info("A new run like %s (%s).", job["name"], properties.get("displayName"))
        return {"file": self.pipeline, "like": job["name"], "properties": properties, "content": {"type": "pipeline"}}

    def _of_component(self, component: Mapping[str, Any]) -> dict[str, Any]:
        name, version = component["id"].split("/")[-3], component["name"]
        spec = component["properties"].get("componentSpec") or {}
        declared = spec.get("inputs") or {}
        if unknown := sorted(set(self.inputs) - set(declared)):
            known = ", ".join(sorted(declared)) or "none"
            raise ConfigurationError(f"The pipeline {name}:{version} has no input {unknown[0]}; it has {known}.")
        content = {
            "type": "pipeline",
            "component": f"azureml:{name}:{version}",
            "experiment_name": self.experiment or name,
            "display_name": name,
            "inputs": {key: _yaml_input(value, declared[key]) for key, value in self.inputs.items()},
            "outputs": {
                key: {"type": str((spec.get("outputs") or {}).get(key, {}).get("type", "uri_folder")), "path": path}
                for key, path in self.outputs.items()
            },
            "settings": dict(self.settings),
        }
        self.log.info("Pipeline component azureml:%s:%s.", name, version)
        return {"file": f"{name}:{version}", "content": {key: value for key, value in content.items() if value}}


def find_component(workspace: Workspace, reference: str) -> dict[str, Any] | None:
    """The pipeline component behind ``name``, ``name@latest`` or ``name:version``; None if there is none of that name.

    :raises ConfigurationError: there is such a name, but not this version, or it is no pipeline.
    """
    plain, _, version = reference.partition(":")
    name = plain.removesuffix("@latest")
    versions = list(islice(workspace.versions("components", name), _LOOKED_AT))
    if not versions:
        if version or plain != name:
            raise ConfigurationError(f"The workspace has no component {name!r}.")
        return None
    found = next((each for each in versions if version in ("", each["name"])), None)
    if found is None:
        known = ", ".join(str(each["name"]) for each in versions[:10])
        raise ConfigurationError(f"The component {name} has no version {version}; it has {known}.")
    kind = (found["properties"].get("componentSpec") or {}).get("type")
    if not str(kind).startswith("pipeline"):
        raise ConfigurationError(f"The component {name}:{found['name']} is a {kind}, no pipeline; it can't run alone.")
    return found


def find_job(workspace: Workspace, name: str) -> dict[str, Any]:
    """The newest completed pipeline job with this display name or experiment; if none completed, the newest.

    :raises ConfigurationError: there is none; names some that are there.
    """
    seen: dict[str, None] = {}
    found = None
    for job in islice(workspace.jobs(job_type="Pipeline"), _LOOKED_AT):
        properties = job["properties"]
        if DIGEST_TAG in (properties.get("tags") or {}):
            continue
        names = [str(properties[key]) for key in ("displayName", "experimentName") if properties.get(key)]
        seen |= dict.fromkeys(names)
        if name in names:
            if properties.get("status") == "Completed":
                return job
            found = found or job
    if found is None:
        known = ", ".join(list(seen)[:10]) or "none"
        raise ConfigurationError(
            f"The workspace has neither a pipeline component nor a pipeline job called {name!r}; of the newest jobs' "
            f"display names and experiments there are {known}."
        )
    return found


def like(job: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, str], resolve: Any) -> dict[str, Any]:
    """The properties of a new job with the steps of `job`. Pure but for `resolve`, which makes ids of references.

    :raises ConfigurationError: an input or output that the pipeline doesn't have.
    """
    properties = {key: value for key, value in job["properties"].items() if key in _TAKEN_OVER and value is not None}
    known = {name: dict(entry or {}) for name, entry in (properties.get("inputs") or {}).items()}
    for name, value in inputs.items():
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigurationError(f"The pipeline job {job['name']} has no input {name}; it has {names}.")
        literal = known[name].get("jobInputType") == "literal"
        known[name] |= {"value": _literal(value)} if literal else {"uri": resolve(str(value))}
    made = {}
    for name, entry in (properties.get("outputs") or {}).items():
        if name == "default":
            continue
        kept = dict(entry or {})
        if str(job["name"]) in str(kept.get("uri") or ""):
            kept.pop("uri")  # the old run's own place
        made[name] = kept
    for name, path in outputs.items():
        if name not in made:
            names = ", ".join(sorted(made)) or "none"
            raise ConfigurationError(f"The pipeline job {job['name']} has no output {name}; it has {names}.")
        made[name]["uri"] = path
    return {**properties, "inputs": known, "outputs": made}


def _yaml_input(value: Any, declared: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping) or declared.get("type") in ("string", "integer", "number", "boolean"):
        return value
    return {"type": str(declared.get("type") or "uri_folder"), "path": value}


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
