"""The registered model: one version a training job, and who is who among the versions.

A version's tag ``role`` is ``challenger`` from its registration, ``champion`` once it serves, ``retired`` after that.
With an online endpoint it is a label for people who look at the registry, and what decides is who gets the traffic;
without one, the tag itself says who is champion (`azflow.evaluation`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from azflow.connection import AzureConnection
from azflow.errors import AzflowError, ConfigurationError
from azflow.job_files import tag
from azflow.ml_workspace import Workspace

ROLE = "role"
CHAMPION, CHALLENGER, RETIRED = "champion", "challenger", "retired"
_ATTEMPTS = 5
#: What of a version is written back when its tags change.
_WRITTEN = frozenset(
    {
        *("modelUri", "modelType", "jobName", "flavors", "description", "properties", "isArchived", "isAnonymous"),
        "stage",
    }
)


@dataclass(frozen=True)
class Registered:
    """A version of a registered model; every field is empty where there is none."""

    name: str = ""
    version: str = ""
    path: str = ""
    job: str = ""
    role: str = ""
    deployment: str = ""

    @property
    def id(self) -> str:
        """``azureml:<name>:<version>``, as a job's input and a deployment name it."""
        return f"azureml:{self.name}:{self.version}" if self.version else ""

    def as_dict(self) -> dict[str, str]:
        """Plain, for templates and XComs."""
        return {"id": self.id, **asdict(self)}


class ModelRegistry:
    """The versions of one registered model, over plain REST."""

    def __init__(self, connection: AzureConnection, name: str) -> None:
        self._connection = connection
        self.name = name

    def versions(self) -> list[Registered]:
        """Every version, newest first."""
        with self._open() as workspace:
            return [_registered(self.name, model) for model in self._models(workspace)]

    def champion(self) -> Registered | None:
        """The version that was promoted last; None before the first."""
        with self._open() as workspace:
            champions = [model for model in self._models(workspace) if _tags(model).get(ROLE) == CHAMPION]
        # Two bear the tag while a promotion has tagged the new one and not yet the old.
        latest = max(champions, key=lambda one: (_tags(one).get("promoted_at", ""), _number(one)), default=None)
        return _registered(self.name, latest) if latest is not None else None

    def register(self, job: str, path: str, type: str, tags: Mapping[str, object], description: str = "") -> Registered:
        """Register a job's output as the challenger: one version a job, however often it is asked for.

        :param path: the output's address.
        :param type: ``mlflow_model`` or ``custom_model``.
        """
        from azure.core.exceptions import HttpResponseError

        problem: Exception | None = None
        with self._open() as workspace:
            for _ in range(_ATTEMPTS):
                models = self._models(workspace)
                known = next((model for model in models if _tags(model).get("job") == job), None)
                if known is not None:
                    return _registered(self.name, known)
                version = str(max((_number(model) for model in models), default=0) + 1)
                wanted = {
                    "modelUri": path,
                    "modelType": type,
                    "description": description,
                    "jobName": job,
                    "tags": {**{key: tag(value) for key, value in tags.items()}, "job": job, ROLE: CHALLENGER},
                }
                try:
                    created = workspace.put_version("models", self.name, version, wanted)
                except HttpResponseError as refused:
                    taken = workspace.version("models", self.name, version) is not None
                    if refused.status_code not in (400, 409) or not taken:
                        raise
                    # Another night took this version between the look and the write.
                    problem = refused
                    continue
                if _tags(created).get("job") != job:
                    continue
                self._demote(workspace, CHALLENGER, RETIRED, keep=version)
                return _registered(self.name, created)
        raise AzflowError(
            f"Model {self.name}: no free version found in {_ATTEMPTS} attempts; others register it too.",
            retry_helps=True,
        ) from problem

    def promote(self, version: str, deployment: str = "") -> Registered:
        """Make a version the champion, and the champion before it retired. Doing it again changes nothing.

        :param deployment: the deployment that serves it.
        """
        with self._open() as workspace:
            model = workspace.version("models", self.name, version)
            if model is None:
                raise ConfigurationError(f"There is no model {self.name}, version {version}.")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            tags = {ROLE: CHAMPION, "deployment": deployment, "promoted_at": now}
            if _tags(model).get(ROLE) != CHAMPION or _tags(model).get("deployment", "") != deployment:
                model = self._tag(workspace, model, tags)
            self._demote(workspace, CHAMPION, RETIRED, keep=version)
            return _registered(self.name, model)

    def annotate(self, version: str, tags: Mapping[str, str]) -> None:
        """Give a version more tags, or other values of those it has."""
        with self._open() as workspace:
            model = workspace.version("models", self.name, version)
            if model is None:
                raise ConfigurationError(f"There is no model {self.name}, version {version}.")
            self._tag(workspace, model, tags)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _open(self) -> contextlib.closing[Workspace]:
        return contextlib.closing(Workspace(self._connection))

    def _models(self, workspace: Workspace) -> list[dict[str, Any]]:
        return sorted(workspace.versions("models", self.name), key=_number, reverse=True)

    def _tag(self, workspace: Workspace, model: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
        """Write a version with more tags; there is no request that changes tags alone."""
        properties = {key: value for key, value in model["properties"].items() if key in _WRITTEN and value is not None}
        properties["tags"] = {**_tags(model), **tags}
        return workspace.put_version("models", self.name, str(model["name"]), properties)

    def _demote(self, workspace: Workspace, role: str, to: str, *, keep: str) -> None:
        for model in self._models(workspace):
            if _tags(model).get(ROLE) == role and str(model["name"]) != keep:
                self._tag(workspace, model, {ROLE: to})


def _tags(model: Mapping[str, Any]) -> dict[str, str]:
    return dict(model["properties"].get("tags") or {})


def _registered(name: str, model: Mapping[str, Any]) -> Registered:
    tags = _tags(model)
    return Registered(
        name=name,
        version=str(model["name"]),
        path=str(model["properties"].get("modelUri") or ""),
        job=tags.get("job", ""),
        role=tags.get(ROLE, ""),
        deployment=tags.get("deployment", ""),
    )


def _number(model: Mapping[str, Any]) -> int:
    """Versions of ours are numbers; a person's may be any text and count as none."""
    version = str(model["name"])
    return int(version) if version.isdigit() else 0
