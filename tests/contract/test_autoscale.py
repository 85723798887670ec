"""azure-mgmt-monitor's autoscale settings against managed online deployments. Evidence: `sdk` (the real client).

The steps of https://learn.microsoft.com/azure/machine-learning/how-to-autoscale-endpoints, under requests.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import CodeConfiguration, Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.monitor import MonitorManagementClient
from azure.mgmt.monitor.models import (
    AutoscaleNotification,
    AutoscaleProfile,
    AutoscaleSettingResourcePatch,
    MetricTrigger,
    Recurrence,
    RecurrentSchedule,
    ScaleAction,
    ScaleCapacity,
    ScaleRule,
    TimeWindow,
    WebhookNotification,
)

pytestmark = pytest.mark.evidence("sdk")


@pytest.fixture(scope="module")
def client(localazure: Any) -> MLClient:
    made: MLClient = localazure.ml_client()
    return made


@pytest.fixture(scope="module")
def monitor(localazure: Any) -> MonitorManagementClient:
    url = localazure["api_url"]
    return MonitorManagementClient(
        localazure.credential(), localazure["subscription_id"], base_url=url, credential_scopes=[f"{url}/.default"]
    )


@pytest.fixture(scope="module")
def blue(client: MLClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedOnlineDeployment]:
    """A deployment of one instance, that has all of its endpoint's traffic."""
    code = tmp_path_factory.mktemp("code")
    (code / "score.py").write_text("def init():\n    pass\ndef run(data):\n    return {'ok': True}\n")
    endpoint = ManagedOnlineEndpoint(name=f"t-{uuid.uuid4().hex[:8]}", auth_mode="key")
    made = client.online_endpoints.begin_create_or_update(endpoint).result()
    wanted = ManagedOnlineDeployment(
        name="blue",
        endpoint_name=made.name,
        code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
        environment=Environment(image="x", conda_file={"dependencies": ["python"]}),
        instance_type="Standard_DS3_v2",
        instance_count=1,
    )
    yield client.online_deployments.begin_create_or_update(wanted).result()
    client.online_endpoints.begin_delete(made.name).result()


def rule(resource: str, metric: str, condition: tuple[str, float], direction: str, value: int = 1) -> ScaleRule:
    operator, threshold = condition
    trigger = MetricTrigger(
        metric_name=metric,
        metric_resource_uri=resource,
        time_grain=timedelta(minutes=1),
        statistic="Average",
        operator=operator,
        time_aggregation="Last",
        time_window=timedelta(minutes=5),
        threshold=threshold,
    )
    action = ScaleAction(direction=direction, type="ChangeCount", value=str(value), cooldown=timedelta(hours=1))
    return ScaleRule(metric_trigger=trigger, scale_action=action)


def profile(name: str, minimum: int, maximum: int, *rules: ScaleRule, **when: Any) -> AutoscaleProfile:
    capacity = ScaleCapacity(minimum=str(minimum), maximum=str(maximum), default=str(minimum))
    return AutoscaleProfile(name=name, capacity=capacity, rules=list(rules), **when)


def wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


class Hook:
    """A web service that keeps what it is sent."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Load:
    """Requests, one after another, while it is entered; their status codes."""

    def __init__(self, client: MLClient, endpoint: str) -> None:
        self.answers: Counter[int] = Counter()
        self._uri = client.online_endpoints.get(endpoint).scoring_uri
        self._key = client.online_endpoints.get_keys(endpoint).primary_key
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "azureml-model-deployment": "blue"}
        with requests.Session() as session:
            while not self._stop.is_set():
                self.answers[session.post(self._uri, json={}, headers=headers, timeout=30).status_code] += 1
                self._stop.wait(0.02)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_a_setting_is_kept_and_obeyed(
    localazure: Any, client: MLClient, monitor: MonitorManagementClient, blue: ManagedOnlineDeployment
) -> None:
    group, name = localazure["resource_group"], f"autoscale-{blue.endpoint_name}"
    endpoint = client.online_endpoints.get(blue.endpoint_name)
    hook = Hook()
    webhook = WebhookNotification(service_uri=hook.url, properties={"who": "me"})
    cpu = "CpuUtilizationPercentage"
    rules = [
        rule(blue.id, cpu, ("GreaterThan", 99.9), "Increase", 2),
        rule(blue.id, cpu, ("LessThan", 0.01), "Decrease"),
        rule(endpoint.id, "RequestLatency", ("GreaterThan", 60_000), "Increase"),
    ]

    def count() -> int:
        found: int = client.online_deployments.get("blue", blue.endpoint_name).instance_count
        return found

    with Load(client, blue.endpoint_name) as load:
        # As in Microsoft's article, which leaves `enabled` out.
        made = monitor.autoscale_settings.create_or_update(
            group,
            name,
            parameters={
                "location": endpoint.location,
                "target_resource_uri": blue.id,
                "profiles": [profile("my-scale-settings", 2, 5, *rules)],
                "notifications": [AutoscaleNotification(operation="Scale", webhooks=[webhook])],
            },
        )
        assert (made.name, made.enabled, made.target_resource_uri) == (name, True, blue.id)
        found = monitor.autoscale_settings.get(group, name)
        assert found.profiles[0] == profile("my-scale-settings", 2, 5, *rules)
        assert name in {each.name for each in monitor.autoscale_settings.list_by_resource_group(group)}
        assert name in {each.name for each in monitor.autoscale_settings.list_by_subscription()}
        wait(lambda: count() == 2, "the minimum isn't reached")

        # A date's profile goes before the recurring one, and that before the default.
        now = datetime.now(UTC)
        today = TimeWindow(time_zone="UTC", start=now - timedelta(hours=1), end=now + timedelta(hours=1))
        days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
        weekly = Recurrence(
            frequency="Week",
            schedule=RecurrentSchedule(time_zone="W. Europe Standard Time", days=days, hours=[0], minutes=[0]),
        )
        profiles = [
            profile("default", 5, 5),
            profile("every day", 4, 4, recurrence=weekly),
            profile("today", 1, 1, fixed_date=today),
        ]
        monitor.autoscale_settings.update(group, name, AutoscaleSettingResourcePatch(profiles=profiles, enabled=True))
        wait(lambda: count() == 1, "the profile of today isn't obeyed")
        patch = AutoscaleSettingResourcePatch(profiles=profiles, enabled=False, tags={"a": "b"})
        changed = monitor.autoscale_settings.update(group, name, patch)
        assert (changed.enabled, changed.tags, len(changed.profiles)) == (False, {"a": "b"}, 3)
        wait(lambda: len(hook.told) == 2, "the webhook wasn't told")
    assert set(load.answers) == {200}
    told = hook.told[0]["context"]
    assert (hook.told[0]["operation"], told["oldCapacity"], told["newCapacity"]) == ("Scale Out", "1", "2")
    assert (told["resourceId"], hook.told[0]["properties"]) == (blue.id, {"who": "me"})
    assert hook.told[1]["operation"] == "Scale In"
    monitor.autoscale_settings.delete(group, name)
    with pytest.raises(ResourceNotFoundError, match=f"autoscalesettings/{name}"):
        monitor.autoscale_settings.get(group, name)


def test_what_is_refused(localazure: Any, monitor: MonitorManagementClient, blue: ManagedOnlineDeployment) -> None:
    group = localazure["resource_group"]

    def refused(status: int, code: str, *profiles: AutoscaleProfile, name: str = "second", **more: Any) -> str:
        parameters = {"location": "local", "target_resource_uri": blue.id, "profiles": list(profiles), **more}
        with pytest.raises(HttpResponseError) as caught:
            monitor.autoscale_settings.create_or_update(group, name, parameters=parameters)
        assert (caught.value.status_code, caught.value.error.code) == (status, code)
        return str(caught.value.error.message)

    one = profile("one", 1, 2)
    many = rule(blue.id, "CpuUtilizationPercentage", ("LessThan", 1), "Decrease", 9)
    told = refused(400, "InvalidActionValue", profile("one", 1, 3, many))
    assert "difference between the capacity maximum 3 and the capacity minimum 1" in told
    unknown = rule(blue.id, "Percentage CPU", ("LessThan", 1), "Increase")
    refused(400, "UnsupportedMetric", profile("one", 1, 2, unknown))
    refused(400, "TargetResourceNotFound", one, target_resource_uri=blue.id + "2")
    refused(400, "UnsupportedRequestContent", one, target_resource_uri=None)
    assert "minimum <= default <= maximum" in refused(400, "BadRequest", profile("one", 3, 2))
    assert "neither fixedDate nor recurrence" in refused(400, "BadRequest", one, profile("two", 1, 2))
    plan = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/serverfarms/plan"
    assert "Microsoft.Web/serverfarms" in refused(501, "NotImplemented", one, target_resource_uri=plan)
    email = [{"operation": "Scale", "email": {"custom_emails": ["a@example.com"]}}]
    assert "e-mail" in refused(501, "NotImplemented", one, notifications=email)
    first = {"location": "local", "target_resource_uri": blue.id, "profiles": [one], "enabled": False}
    monitor.autoscale_settings.create_or_update(group, "first", parameters=first)
    try:
        assert "has an autoscale setting already: first" in refused(409, "Conflict", one)
    finally:
        monitor.autoscale_settings.delete(group, "first")
