"""A dedicated pool in Resource Manager, asked by azure-mgmt-core's own pipeline and poller: pause, resume, scale."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tds_clients import Client, ClientError, clients

pytestmark = pytest.mark.evidence("sdk")

VERSION = {"api-version": "2021-06-01"}


class Arm:
    """Requests to one pool, with the pipeline that generated management clients have."""

    def __init__(self, localazure: Any) -> None:
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RequestIdPolicy, RetryPolicy
        from azure.mgmt.core import ARMPipelineClient

        token = BearerTokenCredentialPolicy(localazure.credential(), "https://management.azure.com/.default")
        policies = [RequestIdPolicy(), RetryPolicy(), token]
        self._client: Any = ARMPipelineClient(base_url=localazure["api_url"], policies=policies)
        group = f"/subscriptions/{localazure['subscription_id']}/resourceGroups/{localazure['resource_group']}"
        self.workspace = f"{group}/providers/Microsoft.Synapse/workspaces/{localazure['workspace']}"
        self.pool = f"{self.workspace}/sqlPools/{localazure['sql_database']}"

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """The response."""
        from azure.core.rest import HttpRequest

        request = HttpRequest(method, self._client.format_url(path), params=VERSION, json=body)
        return self._client.send_request(request, _return_pipeline_response=True)

    def get(self, path: str) -> Any:
        response = self.send("GET", path).http_response
        response.raise_for_status()
        return response.json()

    def wait(self, method: str, path: str, body: Any = None) -> Any:
        """Start a long-running operation and poll it to its end; the resource."""
        from azure.core.polling import LROPoller
        from azure.mgmt.core.polling.arm_polling import ARMPolling

        begun = self.send(method, path, body)
        begun.http_response.raise_for_status()
        polling = ARMPolling(1, lro_options={"final-state-via": "location"})
        poller: Any = LROPoller(self._client, begun, lambda r: r.http_response.json(), polling)
        return poller.result(30)


@pytest.fixture(scope="module")
def arm(localazure: Any) -> Iterator[Arm]:
    made = Arm(localazure)
    yield made
    made.wait("POST", f"{made.pool}/resume")


def test_the_workspace_names_both_pools(arm: Arm, localazure: dict[str, Any]) -> None:
    endpoints = arm.get(arm.workspace)["properties"]["connectivityEndpoints"]
    assert endpoints["sql"] == localazure["sql_server"]
    assert endpoints["sqlOnDemand"] == localazure["sql_server_ondemand"]
    listed = arm.get(f"{arm.workspace}/sqlPools")["value"]
    assert [(pool["name"], pool["properties"]["status"]) for pool in listed] == [(localazure["sql_database"], "Online")]


def test_a_paused_pool_takes_no_log_in_and_ends_sessions(arm: Arm, localazure: dict[str, Any]) -> None:
    held = Client("mssql-python-rust", localazure)
    assert held.query("SELECT 1") == [(1,)]
    assert arm.wait("POST", f"{arm.pool}/pause")["properties"]["status"] == "Paused"
    assert arm.get(arm.pool)["properties"]["status"] == "Paused"
    with pytest.raises(ClientError) as caught:
        next(clients("pymssql", localazure))  # others try again for ten seconds and more: 42108 is transient
    assert "Can not connect to the SQL pool since it is paused" in str(caught.value)
    with pytest.raises((ClientError, TimeoutError, RuntimeError)):
        held.query("SELECT 1")
    held.end()
    serverless = {**localazure, "sql_server": localazure["sql_server_ondemand"]}
    for client in clients("pymssql", serverless, database="master"):
        assert client.query("SELECT 1") == [(1,)], "the serverless pool isn't paused"
    assert arm.wait("POST", f"{arm.pool}/resume")["properties"]["status"] == "Online"
    for client in clients("pymssql", localazure):
        assert client.query("SELECT 1") == [(1,)]


def test_scaling_changes_the_service_objective(arm: Arm, localazure: dict[str, Any]) -> None:
    assert arm.wait("PATCH", arm.pool, {"sku": {"name": "DW300c"}})["sku"]["name"] == "DW300c"
    for client in clients("pymssql", localazure):
        assert client.query("SELECT DATABASEPROPERTYEX(DB_NAME(), 'ServiceObjective')") == [("DW300c",)]
    assert arm.send("PATCH", arm.pool, {"sku": {"name": "DW7c"}}).http_response.status_code == 400
    arm.wait("PATCH", arm.pool, {"sku": {"name": "DW100c"}})


def test_active_queries_are_counted(arm: Arm, localazure: dict[str, Any]) -> None:
    """What azflow asks before it pauses a pool."""
    digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4)"
    slow = "SELECT SUM(t0.d * t9.d) FROM " + ", ".join(f"{digits} AS t{index}" for index in range(14))
    client = Client("pymssql", localazure)
    thread = threading.Thread(target=lambda: client.cancel_after(slow, 4))
    thread.start()
    seen, end = 0, time.monotonic() + 4
    while not seen and time.monotonic() < end:
        seen = arm.get(f"{arm.pool}/dataWarehouseUserActivities/current")["properties"]["activeQueriesCount"]
        time.sleep(0.2)
    thread.join()
    client.end()
    assert seen == 1


def test_other_pools_are_not_found(arm: Arm) -> None:
    response = arm.send("GET", f"{arm.workspace}/sqlPools/nowhere").http_response
    assert (response.status_code, response.json()["error"]["code"]) == (404, "ResourceNotFound")
