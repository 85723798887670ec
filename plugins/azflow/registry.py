"""The registered model: one version a training job, and who is who among the versions.

A version's tag ``role`` is ``challenger`` from its registration, ``champion`` once it serves, ``retired`` after that.
With an online endpoint it is a label for people who look at the registry, and what decides is who gets the traffic;
without one, the tag itself says who is champion (`azflow.evaluation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from azflow.connection import AzureConnection
from azflow.errors import AzflowError, ConfigurationError
from azflow.job_files import tag

if TYPE_CHECKING:
    from azure.ai.ml.entities import Model

ROLE = "role"
CHAMPION, CHALLENGER, RETIRED = "champion", "challenger", "retired"
_ATTEMPTS = 5


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
    """The versions of one registered model."""

    def __init__(self, connection: AzureConnection, name: str) -> None:
        self._connection = connection
        self.name = name

    def versions(self) -> list[Registered]:
        """Every version, newest first."""
        return [_registered(model) for model in self._models()]

    def champion(self) -> Registered | None:
        """The version that was promoted last; None before the first."""
        champions = [model for model in self._models() if (model.tags or {}).get(ROLE) == CHAMPION]
        # Two bear the tag while a promotion has tagged the new one and not yet the old.
        latest = max(champions, key=lambda one: ((one.tags or {}).get("promoted_at", ""), _number(one)), default=None)
        return _registered(latest) if latest is not None else None

    def register(self, job: str, path: str, type: str, tags: Mapping[str, object], description: str = "") -> Registered:
        """Register a job's output as the challenger: one version a job, however often it is asked for.

        :param path: the output's address.
        :param type: ``mlflow_model`` or ``custom_model``.
        """
        from azure.ai.ml.entities import Model
        from azure.core.exceptions import HttpResponseError

        problem: Exception | None = None
        for _ in range(_ATTEMPTS):
            models = self._models()
            known = next((model for model in models if (model.tags or {}).get("job") == job), None)
            if known is not None:
                return _registered(known)
            version = str(max((_number(model) for model in models), default=0) + 1)
            wanted = Model(
                name=self.name,
                version=version,
                path=path,
                type=type,
                description=description,
                tags={**{key: tag(value) for key, value in tags.items()}, "job": job, ROLE: CHALLENGER},
            )
            try:
                created = self._client.models.create_or_update(wanted)
            except HttpResponseError as refused:
                if refused.status_code not in (400, 409) or not self._exists(version):
                    raise
                # Another night took this version between the look and the write.
                problem = refused
                continue
            if (created.tags or {}).get("job") != job:
                continue
            self._demote(CHALLENGER, RETIRED, keep=version)
            return _registered(created)
        raise AzflowError(
            f"Model {self.name}: no free version found in {_ATTEMPTS} attempts; others register it too.",
            retry_helps=True,
        ) from problem

    def promote(self, version: str, deployment: str = "") -> Registered:
        """Make a version the champion, and the champion before it retired. Doing it again changes nothing.

        :param deployment: the deployment that serves it.
        """
        model = self._get(version)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        tags = {ROLE: CHAMPION, "deployment": deployment, "promoted_at": now}
        if (model.tags or {}).get(ROLE) != CHAMPION or (model.tags or {}).get("deployment", "") != deployment:
            model = self._tag(model, tags)
        self._demote(CHAMPION, RETIRED, keep=version)
        return _registered(model)

    # -- steps -------------------------------------------------------------------------------------------------------

    @property
    def _client(self) -> Any:
        return self._connection.ml_client()

    def _models(self) -> list[Model]:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return sorted(self._client.models.list(name=self.name), key=_number, reverse=True)
        except ResourceNotFoundError:
            return []

    def _get(self, version: str) -> Any:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._client.models.get(self.name, version)
        except ResourceNotFoundError:
            raise ConfigurationError(f"There is no model {self.name}, version {version}.") from None

    def _exists(self, version: str) -> bool:
        return any(str(model.version) == version for model in self._models())

    def _tag(self, model: Any, tags: Mapping[str, str]) -> Any:
        model.tags = {**(model.tags or {}), **tags}
        return self._client.models.create_or_update(model)

    def _demote(self, role: str, to: str, *, keep: str) -> None:
        for model in self._models():
            if (model.tags or {}).get(ROLE) == role and str(model.version) != keep:
                self._tag(model, {ROLE: to})


def _registered(model: Any) -> Registered:
    tags = model.tags or {}
    return Registered(
        name=str(model.name),
        version=str(model.version),
        path=str(model.path or ""),
        job=tags.get("job", ""),
        role=tags.get(ROLE, ""),
        deployment=tags.get("deployment", ""),
    )


def _number(model: Any) -> int:
    """Versions of ours are numbers; a person's may be any text and count as none."""
    return int(model.version) if str(model.version).isdigit() else 0
