"""A registered model beyond its workspace: shared with a registry, or copied to another workspace.

A registry is Azure's own way: every workspace that may read it uses ``azureml://registries/<r>/models/<n>/versions/<v>``
in jobs and deployments. A copy is for a workspace that shares no registry: its own files, its own version.

https://learn.microsoft.com/azure/machine-learning/how-to-share-models-pipelines-across-workspaces-with-registries
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import ConfigurationError
from azflow.job_files import tag
from azflow.registry import ROLE

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Tag of a copy: the version it was copied from.
SOURCE_TAG = "azflow.source"
#: Tags that say which model a version is, also after it was shared.
_IDENTITY = ("job", SOURCE_TAG)


class ShareModelOperator(AzflowOperator):
    """Shares a version of a registered model with a registry, or copies it to another workspace; once, however often.

    The version's tags go along: its lineage stays readable. A copy is a challenger where it arrives: who is champion is
    for each workspace to decide.

    XCom: ``{"id", "name", "version", "shared"}``; ``id`` as jobs and deployments name it, ``shared`` false for what was
    there already.

    :param name: the registered model's name.
    :param version: its version; a template.
    :param registry: the registry's name; else
    :param to_connection: the Airflow connection of the other workspace, in the same cloud.
    :param share_as: its name there; empty: the same.
    """

    template_fields = ("name", "version", "registry", "share_as")
    ui_color = "#e3f5e7"

    def __init__(
        self, *, name: str, version: str, registry: str = "", to_connection: str = "", share_as: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.version = version
        self.registry = registry
        self.to_connection = to_connection
        self.share_as = share_as

    def execute(self, context: Context) -> dict[str, Any]:
        """Share or copy, or find what an earlier try made."""
        with airflow_edge(self.conn_id):
            if bool(self.registry) == bool(self.to_connection):
                raise ConfigurationError(f"{self.task_id} needs either registry or to_connection.")
            connection = AzureConnection.load(self.conn_id)
            model = _model(connection, self.name, self.version)
            if self.registry:
                answer = self._share(connection, model)
            else:
                answer = self._copy(connection, AzureConnection.load(self.to_connection), model)
        self.log.info("%s %s", answer["id"], "is shared now" if answer["shared"] else "is there")
        return answer

    def _share(self, connection: AzureConnection, model: Any) -> dict[str, Any]:
        from azure.core.exceptions import ResourceNotFoundError

        name = self.share_as or self.name
        answer = {
            "id": f"azureml://registries/{self.registry}/models/{name}/versions/{self.version}",
            "name": name,
            "version": self.version,
        }
        try:
            there = connection.registry_client(self.registry).models.get(name, self.version)
        except ResourceNotFoundError:
            connection.ml_client().models.share(
                self.name,
                self.version,
                share_with_name=name,
                share_with_version=self.version,
                registry_name=self.registry,
            )
            return {**answer, "shared": True}
        if not is_same(model.tags or {}, there.tags or {}):
            raise ConfigurationError(
                f"The registry {self.registry} has another model {name}, version {self.version} (of job "
                f"{(there.tags or {}).get('job', 'unknown')}, not {(model.tags or {}).get('job', 'unknown')}). "
                "Share it under another name."
            )
        return {**answer, "shared": False}

    def _copy(self, connection: AzureConnection, target: AzureConnection, model: Any) -> dict[str, Any]:
        from azure.ai.ml.entities import Model

        if connection.cloud != target.cloud:
            raise ConfigurationError(
                f"Connections {connection.id!r} and {target.id!r} are in different clouds; Azure's SDK serves one a "
                "process. Share the model through a registry."
            )
        name, source = self.share_as or self.name, f"{connection.ml_workspace_id}/models/{model.name}/{model.version}"
        client = target.ml_client()
        versions = _versions(client, name)
        known = next((each for each in versions if (each.tags or {}).get(SOURCE_TAG) == tag(source)), None)
        if known is None:
            numbers = [int(each.version) for each in versions if str(each.version).isdigit()]
            tags = {**(model.tags or {}), SOURCE_TAG: tag(source), ROLE: "challenger"}
            tags.pop("deployment", None)
            with tempfile.TemporaryDirectory() as folder:
                connection.ml_client().models.download(model.name, str(model.version), download_path=folder)
                wanted = Model(
                    name=name,
                    version=str(max(numbers, default=0) + 1),
                    path=str(files_of(Path(folder))),
                    type=model.type,
                    description=model.description,
                    tags=tags,
                )
                made = client.models.create_or_update(wanted)
        else:
            made = known
        version = str(made.version)
        return {"id": f"azureml:{name}:{version}", "name": name, "version": version, "shared": known is None}


def is_same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two versions' tags say that they are the same model. Pure."""
    known = [key for key in _IDENTITY if one.get(key) or other.get(key)]
    if known:
        return all(one.get(key) == other.get(key) for key in known)
    return dict(one) == dict(other)


def files_of(folder: Path) -> Path:
    """What a model is made of, below where it was downloaded to: the SDK nests it in folders that bear its name."""
    found = sorted(folder.rglob("MLmodel"), key=lambda path: len(path.parts))
    if found:
        return found[0].parent
    while len(inside := list(folder.iterdir())) == 1 and inside[0].is_dir():
        folder = inside[0]
    return folder


def _model(connection: AzureConnection, name: str, version: str) -> Any:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return connection.ml_client().models.get(name, version)
    except ResourceNotFoundError:
        raise ConfigurationError(f"There is no model {name}, version {version}.") from None


def _versions(client: Any, name: str) -> list[Any]:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return list(client.models.list(name=name))
    except ResourceNotFoundError:
        return []
