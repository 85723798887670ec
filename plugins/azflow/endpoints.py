"""Online endpoints from Airflow: a deployment beside the one that serves, then traffic, stage by stage.

`DeployOperator` puts a registered model on an endpoint without giving it traffic. `RolloutOperator` sends it real rows
and, as long as its answers are good, traffic; at the first breach the traffic from before is restored, in one write.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from azflow import canary
from azflow.connection import AzureConnection
from azflow.endpoint_files import DEPLOYMENT_NAME, EndpointFiles, mapping_of, render_endpoint, render_files
from azflow.errors import ConfigurationError, RolloutFailed, RunExists, first_line
from azflow.guardrails import RolloutRules, next_traffic
from azflow.online_endpoint import OPERATION_SECONDS, OnlineEndpoint, traffic_of
from azflow.rollout import ATTEMPT_TAG, Rollout, champion_of, open_scorer, probe, shares_text, stages_of
from azflow.runs import (
    DIGEST_TAG,
    AzflowOperator,
    Found,
    RemoteRunOperator,
    RunFailure,
    RunLink,
    RunsReference,
    RunState,
    RunStates,
    airflow_edge,
)
from azflow.shadow import CapturedRequest, captured_requests

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context

SERVICE = "Azure ML deployment"
_ALL = 100  # percent
_TRACEBACK = "Traceback (most recent call last)"
#: https://learn.microsoft.com/rest/api/azureml/online-deployments/get (DeploymentProvisioningState)
STATES = RunStates(
    SERVICE,
    active=("Creating", "Updating", "Scaling"),
    succeeded=("Succeeded",),
    failed=("Failed", "Deleting"),
    cancelled=("Canceled",),
)
_LOG_LINES = 40
# What is read of a log to find why a container ended: servers say much about their own end after the cause.
_SEARCHED_LINES = 400


class OnlineDeployments:
    """`azflow.runs.RemoteRuns` over one endpoint's deployments. A deployment is a run that ends when it serves.

    The name stands for the content: whoever wants the same content finds what is there, whichever task made it. Only
    a deployment that failed is left alone (for inspection) and another name is used.

    :param endpoint: the endpoint's name.
    :param base: the deployment's name, while nothing failed.
    :param folder: of the YAML files, for relative paths in them.
    """

    def __init__(self, connection: AzureConnection, endpoint: str, base: str, folder: str) -> None:
        self._connection = connection
        self._endpoint = OnlineEndpoint(connection, endpoint)
        self._base = base
        self._folder = folder
        self._pollers: dict[str, Any] = {}

    def lookup(self, name: str) -> Found | None:
        """The deployment that the try called `name` looks for."""
        if self._endpoint.read() is None:
            return None
        for candidate in (self._base, self._name(name)):
            if (resource := self._endpoint.deployment(candidate)) is None:
                continue
            tags = resource.get("tags") or {}
            state = STATES.of(resource["properties"]["provisioningState"], id=candidate)
            if state.is_terminal and not state.succeeded and tags.get(ATTEMPT_TAG) != name:
                continue
            return Found(candidate, state, tags.get(DIGEST_TAG))
        return None

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Create the endpoint if it isn't there, then the deployment. Returns as soon as the service has taken it."""
        from azure.ai.ml import load_online_deployment, load_online_endpoint
        from azure.core.exceptions import ResourceExistsError

        client = self._connection.ml_client()
        origin = str(Path(self._folder) / "deployment.yml")
        if self._endpoint.read() is None:
            wanted = load_online_endpoint(io.StringIO(payload["endpoint_yaml"]), relative_origin=origin)
            with contextlib.suppress(ResourceExistsError):  # somebody was faster
                client.online_endpoints.begin_create_or_update(wanted).result(OPERATION_SECONDS)
        deployment = load_online_deployment(io.StringIO(payload["deployment_yaml"]), relative_origin=origin)
        taken = self._endpoint.deployment(self._base)
        deployment.name = self._base if taken is None else self._name(name)
        deployment.tags = {**(deployment.tags or {}), **tags, ATTEMPT_TAG: name}
        try:
            poller = client.online_deployments.begin_create_or_update(deployment, skip_script_validation=True)
        except ResourceExistsError:
            raise RunExists(name, service=SERVICE) from None
        self._pollers[deployment.name] = poller
        return str(deployment.name)

    def state(self, id: str) -> RunState:
        """The deployment's provisioning state."""
        return self._state(id, self._endpoint.deployment(id))

    async def astate(self, id: str) -> RunState:
        """As `state`, without blocking."""
        return self._state(id, await self._endpoint.adeployment(id))

    def cancel(self, id: str) -> None:
        """Delete the deployment: the service knows no other way to stop one that is being created."""
        self._endpoint.delete_deployment(id, wait=False)

    def result(self, id: str) -> dict[str, Any]:
        """What the next task needs."""
        resource = self._endpoint.deployment(id) or {}
        document = self._endpoint.document()
        return {
            "endpoint": self._endpoint.name,
            "deployment": id,
            "scoring_uri": document["properties"]["scoringUri"],
            "traffic": traffic_of(document),
            "model": resource.get("properties", {}).get("model"),
            "url": self._endpoint.studio_url,
        }

    def failure(self, id: str) -> RunFailure:
        """Why it failed: the service's word, if this process started it, and the container's last log lines."""
        lines: list[str] = []
        with contextlib.suppress(Exception):  # a deployment that never got a container has no log
            lines = telling([line for line in self._endpoint.logs(id, _SEARCHED_LINES) if line.strip()])
        cause = "its provisioning failed"
        poller = self._pollers.get(id)
        if poller is not None and poller.done() and (error := poller._exception) is not None:
            cause = first_line(error)
        # A container that ran and ended will do so again; without one it was the cluster's fault.
        return RunFailure(f"{cause} (kept for inspection; it has no traffic)", lines, retry_helps=not lines)

    def url(self, id: str) -> str:
        """The endpoint's page in the studio."""
        return self._endpoint.studio_url

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    async def aclose(self) -> None:
        """Close the event loop's connections."""
        await self._endpoint.aclose()

    def _name(self, attempt: str) -> str:
        suffix = hashlib.sha256(attempt.encode()).hexdigest()[:4]
        return f"{self._base[: DEPLOYMENT_NAME.length - 5]}-{suffix}"

    def _state(self, id: str, resource: Mapping[str, Any] | None) -> RunState:
        if resource is None:
            return RunState("deleted", "cancelled")
        return STATES.of(str(resource["properties"]["provisioningState"]), id=id, url=self._endpoint.studio_url)


def telling(lines: Sequence[str]) -> list[str]:
    """The last `_LOG_LINES` of a log, after the beginning of its first traceback if that came earlier. Pure."""
    rest = max(0, len(lines) - _LOG_LINES)
    first = next((number for number, line in enumerate(lines) if _TRACEBACK in line), rest)
    if first >= rest:
        return list(lines[rest:])
    return [*lines[first : first + _LOG_LINES // 2], "...", *lines[-_LOG_LINES // 2 :]]


@attrs.define(init=False)
class EndpointLink(RunLink):
    """The endpoint, on the task's page in Airflow."""

    name: str = "Endpoint"

    def __init__(self) -> None:
        super().__init__("Endpoint")


class DeployOperator(RemoteRunOperator):
    """Puts a registered model on an endpoint, without traffic, and sends it a few real rows.

    The endpoint is created if it isn't there. The deployment's name stands for what is deployed (model version, code,
    YAML), so that trying again attaches to what is there. A deployment that fails is kept for inspection; traffic isn't
    touched.

    XCom: ``{"endpoint", "deployment", "scoring_uri", "traffic", "model", "url", "probe": {"requests", "rows",
    "slowest_ms"}}``.

    :param endpoint: folder below include/ml/endpoints.
    :param registered_model: the model's id; a template.
    :param sample_path: folder of rows in the lake's container, for the probe; a template. Empty: no probe.
    :param sample_rows: how many rows to read from it.
    """

    service = SERVICE
    alphabet = DEPLOYMENT_NAME
    template_fields = ("endpoint", "registered_model", "sample_path")
    operator_extra_links = (EndpointLink(),)
    ui_color = "#fdf0d5"

    def __init__(
        self,
        *,
        endpoint: str,
        registered_model: str,
        sample_path: str = "",
        sample_rows: int = 200,
        timeout_minutes: float = 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(timeout_minutes=timeout_minutes, **kwargs)
        self.endpoint = endpoint
        self.registered_model = registered_model
        self.sample_path = sample_path
        self.sample_rows = sample_rows
        self._files: EndpointFiles | None = None

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the fields, then the YAML files."""
        super().render_template_fields(context, jinja_env)
        with airflow_edge(self.conn_id):
            environment = jinja_env or self.get_template_env()
            self._files = render_files(self.endpoint, environment, context, self.registered_model)

    @property
    def files(self) -> EndpointFiles:
        """The rendered YAML. Only after rendering."""
        if self._files is None:
            raise ConfigurationError(f"{self.task_id}: its templates were not rendered.")
        return self._files

    def remote_runs(self) -> RunsReference:
        """The endpoint's deployments."""
        files = self.files
        arguments = {"endpoint": files.name, "base": files.deployment, "folder": str(files.folder)}
        return RunsReference(f"{OnlineDeployments.__module__}.OnlineDeployments", arguments)

    def payload(self, context: Context) -> dict[str, Any]:
        """The rendered YAML, and the digest of the files it names."""
        files = self.files
        return {"endpoint_yaml": files.endpoint, "deployment_yaml": files.deployment_yaml, "digest": files.digest}

    def outcome(self, context: Context, result: dict[str, Any]) -> dict[str, Any]:
        """The result, after a probe."""
        if not self.sample_path:
            return result
        connection = AzureConnection.load(self.conn_id)
        rows = canary.sample_rows(connection, self.sample_path, self.sample_rows)
        with open_scorer(connection, OnlineEndpoint(connection, result["endpoint"])) as scorer:
            samples = probe(scorer, result["deployment"], rows)
        broken = [sample for sample in samples if sample.problem]
        if broken:
            endpoint = OnlineEndpoint(connection, result["endpoint"])
            with contextlib.suppress(Exception):
                for line in endpoint.logs(result["deployment"], _LOG_LINES):
                    self.log.error("  %s", line)
            raise RolloutFailed(
                f"Deployment {result['deployment']} of endpoint {result['endpoint']} runs, but {len(broken)} of "
                f"{len(samples)} requests with real rows failed, the last: {broken[-1].problem}. It has no traffic; "
                f"its log is above. See {result['url']}"
            )
        slowest = max(sample.milliseconds for sample in samples)
        self.log.info("%s answers: %d requests, slowest %.0f ms.", result["deployment"], len(samples), slowest)
        asked = sum(sample.rows for sample in samples)
        return {**result, "probe": {"requests": len(samples), "rows": asked, "slowest_ms": round(slowest, 1)}}


class RolloutOperator(AzflowOperator):
    """Gives a deployment traffic, stage by stage, and takes it back at the first breach.

    First the deployment is asked by name, still without traffic: with real rows and, if wanted, with requests that the
    champion answered lately (its shadow). Then, for each stage: the traffic is read, the new map (which sums to 100)
    written whole, and for a window requests are sent: to the new deployment by name, to the champion by name with the
    same rows, and to whom the split picks. `azflow.guardrails.judge_stage` decides, by them and by the endpoint's own
    metrics where it has some. At a breach, an exception or SIGTERM the traffic from before is restored in one write and
    the task fails; the deployment is kept, its last log lines are in the task's log. After a worker's sudden death, the
    next try goes on at the stage that was reached.

    When all stages are passed, azflow's older deployments are deleted, except for the one that served before.

    XCom: ``{"endpoint", "deployment", "champion", "traffic", "scoring_uri", "url", "stages": [{"name", "percent",
    "traffic", "seconds", ...judgement}], "deleted", "problem", "log"}``; the same, as far as it went, under the key
    ``evidence`` also if it fails.

    :param endpoint: folder below include/ml/endpoints.
    :param deployment: the deployment's name; a template.
    :param stages: percentages, growing, the last one 100; a template.
    :param window_seconds: how long a stage is watched; twice that if too few requests were made.
    :param max_error_rate: see `RolloutRules`; likewise `max_p95_ms`, `min_agreement`, `min_requests`.
    :param sample_path: folder of rows in the lake's container; a template.
    :param sample_rows: how many rows to read from it.
    :param shadow: ``{"requests": how many at most, "hours": how old at most}``: before any traffic, replay what the
        champion's deployment captured (its collections ``request`` and ``response``). Where nothing was captured, the
        log says so and the roll-out goes on. None: no shadow.
    """

    template_fields = ("endpoint", "deployment", "stages", "sample_path")
    operator_extra_links = (EndpointLink(),)
    ui_color = "#fdf0d5"

    def __init__(
        self,
        *,
        endpoint: str,
        deployment: str,
        sample_path: str,
        stages: Sequence[int] | str = (10, 50, 100),
        window_seconds: float = 300,
        max_error_rate: float = 0.01,
        max_p95_ms: float = 1000,
        min_agreement: float = 0.0,
        min_requests: int = 10,
        sample_rows: int = 200,
        shadow: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.endpoint = endpoint
        self.deployment = deployment
        self.sample_path = sample_path
        self.shadow = dict(shadow) if shadow else None
        self.stages = stages
        self.window_seconds = window_seconds
        self.max_error_rate = max_error_rate
        self.max_p95_ms = max_p95_ms
        self.min_agreement = min_agreement
        self.min_requests = min_requests
        self.sample_rows = sample_rows
        #: For `EndpointLink`; in the task's process only.
        self.run_url = ""
        self._endpoint_name = ""
        self._stopping = False

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the fields, then endpoint.yml, for the endpoint's name."""
        super().render_template_fields(context, jinja_env)
        with airflow_edge(self.conn_id):
            text = render_endpoint(self.endpoint, jinja_env or self.get_template_env(), context)
            self._endpoint_name = str(mapping_of(text, self.endpoint, "endpoint.yml")["name"])

    def on_kill(self) -> None:
        """SIGTERM: the roll-out ends at the next request, and gives the traffic back. Runs in a signal handler."""
        self._stopping = True

    def execute(self, context: Context) -> dict[str, Any]:
        """Roll out."""
        with airflow_edge(self.conn_id):
            connection = AzureConnection.load(self.conn_id)
            rules = RolloutRules(self.max_error_rate, self.max_p95_ms, self.min_agreement, self.min_requests)
            stages = stages_of(self.stages)
            endpoint = OnlineEndpoint(connection, self._endpoint_name)
            self.run_url = endpoint.studio_url
            for link in self.operator_extra_links:
                context["ti"].xcom_push(link.xcom_key, self.run_url)
            rows = canary.sample_rows(connection, self.sample_path, self.sample_rows)
            try:
                with open_scorer(connection, endpoint, self.max_p95_ms) as scorer:
                    rollout = Rollout(
                        endpoint,
                        scorer,
                        rows,
                        self.deployment,
                        rules,
                        self.window_seconds,
                        self.log,
                        self._is_stopping,
                        self._captured(connection),
                    )
                    try:
                        rollout.run(stages)
                    finally:
                        context["ti"].xcom_push("evidence", rollout.evidence())
                rollout.delete_older()
                return rollout.evidence()
            finally:
                endpoint.close()

    def _captured(self, connection: AzureConnection) -> Callable[[str], list[CapturedRequest]] | None:
        """What finds the shadow's requests. Not finding out isn't the deployment's fault: the log says why."""
        shadow = self.shadow
        if shadow is None:
            return None

        def found(champion: str) -> list[CapturedRequest]:
            try:
                return captured_requests(
                    connection, self._endpoint_name, champion, int(shadow["requests"]), float(shadow["hours"])
                )
            except Exception as error:
                self.log.warning("What %s captured can't be read: %s", champion, first_line(error))
                return []

        return found

    def _is_stopping(self) -> bool:
        return self._stopping


class TrafficOperator(AzflowOperator):
    """Moves traffic by hand: to one deployment, or back to the one that served before.

    Whoever is given traffic is asked by name first, with real rows; it gets nothing if an answer is wrong. The traffic
    is read before it is written, written once, and sums to 100.

    XCom: ``{"endpoint", "deployment", "before", "traffic", "url"}``; the maps are deployment -> percent.

    :param endpoint: the endpoint's name at Azure.
    :param action: ``shift`` gives `deployment` so many percent, ``roll_back`` all of it to `deployment` or, without a
        name, to the deployment that is next older than the champion.
    :param deployment: its name.
    :param percent: text or number from 0 to 100, for ``shift``; 0 takes its traffic away.
    :param sample_path: folder of rows in the lake's container; see `azflow.canary.sample_rows`.
    :param sample_rows: how many rows to read from it.
    """

    template_fields = ("endpoint", "action", "deployment", "percent", "sample_path")
    operator_extra_links = (EndpointLink(),)
    ui_color = "#fdf0d5"

    def __init__(
        self,
        *,
        endpoint: str,
        action: str,
        sample_path: str,
        deployment: str = "",
        percent: int | str = 100,
        sample_rows: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.endpoint = endpoint
        self.action = action
        self.deployment = deployment
        self.percent = percent
        self.sample_path = sample_path
        self.sample_rows = sample_rows
        #: For `EndpointLink`; in the task's process only.
        self.run_url = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask, then write once."""
        with airflow_edge(self.conn_id):
            connection = AzureConnection.load(self.conn_id)
            endpoint = OnlineEndpoint(connection, self.endpoint)
            self.run_url = endpoint.studio_url
            for link in self.operator_extra_links:
                context["ti"].xcom_push(link.xcom_key, self.run_url)
            try:
                before = endpoint.traffic()
                deployment, percent = self._wanted(before, endpoint.deployments())
                if percent:
                    self._ask(connection, endpoint, deployment)
                traffic = next_traffic(before, deployment, percent)
                if traffic.get(deployment) != percent:
                    raise ConfigurationError(
                        f"{deployment} can't have {percent} %: nobody else has traffic on endpoint {self.endpoint}, "
                        "and a map that sums to less than 100 takes it down."
                    )
                if traffic != before:
                    endpoint.write_traffic(traffic)
            finally:
                endpoint.close()
        self.log.info("Traffic: %s; before: %s.", shares_text(traffic), shares_text(before))
        return {
            "endpoint": self.endpoint,
            "deployment": deployment,
            "before": before,
            "traffic": traffic,
            "url": self.run_url,
        }

    def _wanted(self, traffic: Mapping[str, int], deployments: Mapping[str, Any]) -> tuple[str, int]:
        """Who is to have how many percent. Raises ConfigurationError saying what there is."""
        if self.action not in ("shift", "roll_back"):
            raise ConfigurationError(f"action is {self.action!r}; it must be shift or roll_back.")
        name = self.deployment.strip()
        if self.action == "shift" and not name:
            raise ConfigurationError(f"Which deployment? There are {', '.join(sorted(deployments)) or 'none'}.")
        name = name or served_before(traffic, deployments)
        if not name:
            raise ConfigurationError(f"Endpoint {self.endpoint} has no older deployment to go back to.")
        if name not in deployments:
            known = ", ".join(sorted(deployments)) or "none"
            raise ConfigurationError(f"Endpoint {self.endpoint} has no deployment {name!r}; there are {known}.")
        if self.action == "roll_back":
            return name, _ALL
        try:
            percent = int(self.percent)
        except ValueError:
            raise ConfigurationError(f"percent is {self.percent!r}; it must be a whole number.") from None
        if not 0 <= percent <= _ALL:
            raise ConfigurationError(f"percent is {percent}; it must be from 0 to 100.")
        return name, percent

    def _ask(self, connection: AzureConnection, endpoint: OnlineEndpoint, deployment: str) -> None:
        rows = canary.sample_rows(connection, self.sample_path, self.sample_rows)
        with open_scorer(connection, endpoint) as scorer:
            broken = [sample for sample in probe(scorer, deployment, rows) if sample.problem]
        if broken:
            raise RolloutFailed(
                f"{deployment} gets no traffic: asked by name with real rows, {len(broken)} answers were wrong, the "
                f"last: {broken[-1].problem}. See {endpoint.studio_url}"
            )


def served_before(traffic: Mapping[str, int], deployments: Mapping[str, Mapping[str, Any]]) -> str:
    """The deployment that is next older than the one with the most traffic, of those that run; empty if there is none.

    A roll-out keeps the deployment that served before it, and no older one.
    """
    champion = champion_of(traffic, "")
    born = {name: str((each.get("systemData") or {}).get("createdAt", "")) for name, each in deployments.items()}
    older = {
        name: born[name]
        for name, each in deployments.items()
        if name != champion
        and born[name] < born.get(champion or "", "")
        and each["properties"].get("provisioningState") == "Succeeded"
    }
    return max(older, key=lambda name: older[name], default="")


def endpoint_summary(connection: AzureConnection, endpoint: str) -> dict[str, Any]:
    """For the report: ``{"endpoint", "scoring_uri", "traffic", "deployments": {name: {"state", "model", "share"}},
    "url"}``.

    :param endpoint: the endpoint's name.
    """
    client = OnlineEndpoint(connection, endpoint)
    try:
        document = client.document()
        traffic = traffic_of(document)
        deployments = {
            name: {
                "state": resource["properties"].get("provisioningState"),
                "model": resource["properties"].get("model"),
                "share": traffic.get(name, 0),
            }
            for name, resource in client.deployments().items()
        }
        return {
            "endpoint": endpoint,
            "scoring_uri": document["properties"]["scoringUri"],
            "traffic": traffic,
            "deployments": deployments,
            "url": client.studio_url,
        }
    finally:
        client.close()
