"""Champion against challenger: who is champion, and the verdict in words.

The champion is whoever serves: the model of the deployment with the most traffic. A tag could disagree with what users
get.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge
from azflow.errors import ConfigurationError, first_line
from azflow.guardrails import Verdict

if TYPE_CHECKING:
    from airflow.sdk import Context
    from azure.ai.ml import MLClient

NO_CHAMPION = "none"


def serving_model(client: MLClient, endpoint: str) -> dict[str, str] | None:
    """Name, version, path (``azureml:name:version``) and deployment of the model that gets the most traffic; None where
    the endpoint doesn't exist or nothing of it serves."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        traffic = client.online_endpoints.get(endpoint).traffic or {}
    except ResourceNotFoundError:
        return None
    deployment, share = max(traffic.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if not share:
        return None
    model = client.online_deployments.get(deployment, endpoint).model
    reference = str(getattr(model, "id", model))
    parts = reference.replace("azureml:", "", 1).strip("/").split("/")
    if "models" in parts and "versions" in parts:
        name, version = parts[parts.index("models") + 1], parts[parts.index("versions") + 1]
    else:
        name, _, version = parts[-1].partition(":")
    return {"name": name, "version": version, "path": f"azureml:{name}:{version}", "deployment": deployment}


class ChampionOperator(AzflowOperator):
    """Answers who serves now: ``{"version", "name", "path", "deployment", "challenger"}``.

    Without a champion (the first night) version is ``none`` and path the challenger's, so that a job with a champion
    among its inputs runs all the same and knows. Where a champion is needed (scoring, after the roll-out), the registry
    is told too: the version's tag ``role`` moves to who serves.

    :param endpoint_name: the online endpoint.
    :param challenger: URI of the challenger's model; empty where a champion is needed (scoring).
    """

    template_fields = ("endpoint_name", "challenger")

    def __init__(self, *, endpoint_name: str, challenger: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.endpoint_name = endpoint_name
        self.challenger = challenger

    def execute(self, context: Context) -> dict[str, str]:
        """See the class."""
        with airflow_edge(self.conn_id):
            connection = AzureConnection.load(self.conn_id)
            found = serving_model(connection.ml_client(), self.endpoint_name)
            if found is None and not self.challenger:
                raise ConfigurationError(
                    f"No deployment of the endpoint {self.endpoint_name} gets traffic, and no challenger was promoted: "
                    "there is no model to score with. See the verdict (evaluate.verdict); force_promotion in the form "
                    "overrides it."
                )
        if found is None:
            self.log.info("No champion yet: the challenger runs alone")
            return {"name": "", "version": NO_CHAMPION, "path": self.challenger, "deployment": ""}
        self.log.info("The champion is %(name)s version %(version)s, served by deployment %(deployment)s", found)
        if not self.challenger:
            self._label(connection, found)
        return found

    def _label(self, connection: AzureConnection, found: Mapping[str, str]) -> None:
        """Move the tag. Who serves is true without it, so that a label that can't be moved fails nothing."""
        from azflow.registry import ModelRegistry

        try:
            ModelRegistry(connection, found["name"]).promote(found["version"], found["deployment"])
        except Exception as problem:
            self.log.warning("The registry still shows another champion: %s", first_line(problem))


def verdict_text(verdict: Verdict) -> list[str]:
    """The verdict for a log: a table, then the reasons."""
    champion = f"version {verdict.champion_version}" if verdict.champion_version else "none"
    head = "PROMOTE" + (" (forced)" if verdict.forced else "") if verdict.promote else "REJECT"
    return [
        f"verdict     {head}, on {verdict.rows} hold-out rows",
        f"challenger  {verdict.metric} {verdict.challenger}",
        f"champion    {verdict.metric} {verdict.champion or '-'} ({champion})",
        f"difference  {verdict.difference or '-'}",
        *(f"because     {reason}" for reason in verdict.reasons),
    ]
