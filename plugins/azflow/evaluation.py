"""Champion against challenger: who is champion.

With an online endpoint the champion is whoever serves: the model of the deployment with the most traffic. A tag could
disagree with what users get. A model without an endpoint has the tag alone: its champion is the registered version
tagged ``role=champion``, and promotion moves the tag.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import ConfigurationError, first_line
from azflow.online_endpoint import OnlineEndpoint, traffic_of

if TYPE_CHECKING:
    from airflow.sdk import Context

NO_CHAMPION = "none"


def serving_model(connection: AzureConnection, endpoint: str) -> dict[str, str] | None:
    """Name, version, path (``azureml:name:version``) and deployment of the model that gets the most traffic; None where
    the endpoint doesn't exist or nothing of it serves."""
    with contextlib.closing(OnlineEndpoint(connection, endpoint)) as online:
        document = online.read()
        traffic = traffic_of(document) if document is not None else {}
        deployment, share = max(traffic.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if not share:
            return None
        reference = str(((online.deployment(deployment) or {}).get("properties") or {}).get("model") or "")
    name, version = name_and_version(reference)
    return {"name": name, "version": version, "path": f"azureml:{name}:{version}", "deployment": deployment}


def name_and_version(reference: str) -> tuple[str, str]:
    """Of a model, by its ARM id or ``azureml:name:version``. Pure."""
    parts = reference.replace("azureml:", "", 1).strip("/").split("/")
    if "models" in parts and "versions" in parts:
        return parts[parts.index("models") + 1], parts[parts.index("versions") + 1]
    name, _, version = parts[-1].partition(":")
    return name, version


def tagged_model(connection: AzureConnection, name: str) -> dict[str, str] | None:
    """As `serving_model`, from the registry: the version of `name` tagged champion; its deployment is empty."""
    from azflow.registry import ModelRegistry

    found = ModelRegistry(connection, name).champion()
    if found is None:
        return None
    return {"name": found.name, "version": found.version, "path": found.id, "deployment": ""}


class ChampionOperator(AzflowOperator):
    """Answers who is champion now: ``{"version", "name", "path", "deployment", "challenger"}``.

    Without a champion (the first night) version is ``none`` and path the challenger's, so that a job with a champion
    among its inputs runs all the same and knows. Where a champion is needed (scoring, after the roll-out), the registry
    is told too: the version's tag ``role`` moves to who serves.

    :param endpoint_name: the online endpoint, whose deployment with the most traffic decides; empty: there is none.
    :param registered_model: the registered model whose tag decides where there is no endpoint.
    :param challenger: URI of the challenger's model; empty where a champion is needed (scoring).
    """

    template_fields = ("endpoint_name", "registered_model", "challenger")

    def __init__(
        self, *, endpoint_name: str = "", registered_model: str = "", challenger: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.endpoint_name = endpoint_name
        self.registered_model = registered_model
        self.challenger = challenger

    def execute(self, context: Context) -> dict[str, str]:
        """See the class."""
        with airflow_edge(self.conn_id):
            if bool(self.endpoint_name) == bool(self.registered_model):
                raise ConfigurationError("ChampionOperator needs either endpoint_name or registered_model.")
            connection = AzureConnection.load(self.conn_id)
            if self.endpoint_name:
                found = serving_model(connection, self.endpoint_name)
                nobody = f"No deployment of the endpoint {self.endpoint_name} gets traffic"
            else:
                found = tagged_model(connection, self.registered_model)
                nobody = f"No version of the model {self.registered_model} is tagged champion"
            if found is None and not self.challenger:
                raise ConfigurationError(
                    f"{nobody}, and no challenger was promoted: there is no model to score with. See the verdict "
                    "(evaluate.verdict); force_promotion in the form overrides it."
                )
        if found is None:
            self.log.info("No champion yet: the challenger runs alone")
            return {"name": "", "version": NO_CHAMPION, "path": self.challenger, "deployment": ""}
        where = f", served by deployment {found['deployment']}" if found["deployment"] else ""
        self.log.info("The champion is %s version %s%s", found["name"], found["version"], where)
        if self.endpoint_name and not self.challenger:
            self._label(connection, found)
        return found

    def _label(self, connection: AzureConnection, found: Mapping[str, str]) -> None:
        """Move the tag. Who serves is true without it, so that a label that can't be moved fails nothing."""
        from azflow.registry import ModelRegistry

        try:
            ModelRegistry(connection, found["name"]).promote(found["version"], found["deployment"])
        except Exception as problem:
            self.log.warning("The registry still shows another champion: %s", first_line(problem))


class PromoteOperator(AzflowOperator):
    """Makes a registered version the champion by its tag ``role``: how a model without an online endpoint is promoted.

    XCom: ``{"id": "azureml:<name>:<version>", "name", "version", "path", "job", "role", "deployment", "before"}``;
    ``before`` is the version that was champion until now, empty if there was none.

    :param registered: task id of the registration.
    """

    ui_color = "#e3f5e7"

    def __init__(self, *, registered: str = "register.model", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.registered = registered

    def execute(self, context: Context) -> dict[str, str]:
        """Move the tag; doing it again changes nothing."""
        from azflow.registry import ModelRegistry

        with airflow_edge(self.conn_id):
            found = context["ti"].xcom_pull(task_ids=self.registered)
            if not isinstance(found, Mapping) or not found.get("version"):
                raise ConfigurationError(f"The task {self.registered} left no registered model; clear it.")
            registry = ModelRegistry(AzureConnection.load(self.conn_id), found["name"])
            before = registry.champion()
            promoted = registry.promote(found["version"])
        retired = before.version if before is not None and before.version != promoted.version else ""
        self.log.info("%s is champion%s", promoted.id, f"; version {retired} is retired" if retired else "")
        return {**promoted.as_dict(), "before": retired}
