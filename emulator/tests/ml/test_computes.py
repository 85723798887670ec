"""Computes: made, scaled, listed and removed; and what jobs see of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from localazure.core.service import ServiceContext
from localazure.ml.nodes import Nodes

ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/versions/3"


SYNAPSE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Synapse/workspaces/w/bigDataPools"
VM = {"vmSize": "x"}
SCALE = {"scaleSettings": {"minNodeCount": 5}}


def job(command: str, compute: str = "small", **more: Any) -> dict[str, Any]:
    return {
        "jobType": "Command",
        "command": command,
        "environmentId": ENVIRONMENT,
        "computeId": f"/x/computes/{compute}",
    } | more


async def cluster(client: Any, name: str = "small", most: int = 1, **more: Any) -> Any:
    scale = {"minNodeCount": 0, "maxNodeCount": most, "nodeIdleTimeBeforeScaleDown": "PT0.5S", **more}
    inner = {"vmSize": "STANDARD_DS3_V2", "vmPriority": "LowPriority", "scaleSettings": scale}
    return await client.put(f"computes/{name}", computeType="AmlCompute", properties=inner)


def test_a_cluster_grows_for_jobs_and_shrinks_when_idle(with_client: Any) -> None:
    async def counts(client: Any) -> tuple[int, int, int]:
        inner = (await client.ok("GET", "computes/small"))["properties"]["properties"]
        nodes = inner["nodeStateCounts"]
        return inner["currentNodeCount"], nodes["runningNodeCount"], nodes["idleNodeCount"]

    async def test(client: Any) -> None:
        made = await cluster(client)
        assert made["properties"]["provisioningState"] == "Succeeded"
        assert await counts(client) == (0, 0, 0)
        await client.put("jobs/first", **job("sleep 0.4"))
        await client.finished("first", "Running")
        (node,) = (await client.ok("POST", "computes/small/listNodes"))["nodes"]
        assert (node["nodeState"], node["runId"]) == ("running", "first")
        # A job that is too large for ever says so; one that only has to wait waits, first come, first served.
        torch = {"distributionType": "PyTorch"}
        await client.put("jobs/large", **job("true", resources={"instanceCount": 2}, distribution=torch))
        await client.finished("large", "Failed")
        assert "asks for 2 nodes; its compute has at most 1" in await client.error("large")
        await client.put("jobs/second", **job("true"))
        await client.finished("second", "Queued")
        refused = await client.send("DELETE", "computes/small")
        assert (refused.status_code, "first, second" in refused.text) == (409, True)
        # More nodes: it needn't wait any more.
        await client.ok(
            "PATCH", "computes/small", {"properties": {"properties": {"scaleSettings": {"maxNodeCount": 2}}}}
        )
        await client.finished("second", "Completed")
        await client.finished("first", "Completed")
        assert await counts(client) == (2, 0, 2)
        await asyncio.sleep(0.6)
        assert await counts(client) == (0, 0, 0)
        assert (await client.send("DELETE", "computes/small?underlyingResourceAction=Delete")).status_code == 200
        assert (await client.send("GET", "computes/small")).status_code == 404

    with_client(test)


def test_a_preempted_job_begins_anew_and_keeps_what_was_mounted(
    with_client: Any, context: ServiceContext, blobs: Any
) -> None:
    async def test(client: Any) -> None:
        await cluster(client)
        text = "echo attempt >> ${{outputs.o}}/log; [ $(wc -l < ${{outputs.o}}/log) = 2 ] || sleep 60"
        await client.put("jobs/low", **job(text, outputs={"o": {"jobOutputType": "uri_folder"}}))
        log = context.settings.home / "jobs/low/outputs/o/log"
        while not (log.exists() and log.read_text()):
            await asyncio.sleep(0.02)
        queue = context.require("ml.queue")
        assert queue.preempt("low")
        assert (await client.finished("low"))["properties"]["status"] == "Completed"
        assert not queue.preempt("low")
        (node,) = (await client.ok("POST", "computes/small/listNodes"))["nodes"]
        assert node["nodeState"] == "idle"

    with_client(test)
    document = context.store.get("ml.jobs", "low")
    assert document is not None
    seen = [state for state, _ in document["run"]["states"]]
    assert seen == ["Starting", "Preparing", "Running", "Queued", "Preparing", "Running", "Finalizing", "Completed"]
    assert (blobs.root / "azureml/azureml/low/o/log").read_text() == "attempt\nattempt\n"
    said = (blobs.root / "azureml/ExperimentRun/dcid.low/user_logs/std_log.txt").read_text()
    assert "the node was preempted" in said


def test_instances_stop_and_start_and_attached_computes_are_kept(with_client: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("computes/ci", computeType="ComputeInstance", properties={"vmSize": "STANDARD_DS3_V2"})
        assert (await client.send("POST", "computes/ci/stop")).status_code == 202
        answer = await client.send("PUT", "jobs/no", {"properties": job("true", "ci")})
        assert (answer.status_code, "'ci' is stopped" in answer.text) == (400, True)
        assert (await client.send("POST", "computes/ci/start")).status_code == 202
        await client.put("jobs/yes", **job("true", "ci"))
        await client.finished("yes", "Completed")
        for kind, inner, id in (
            ("Kubernetes", {"namespace": "team"}, "/x/y"),
            ("SynapseSpark", None, f"{SYNAPSE}/sparkpool"),
        ):
            made = await client.put(f"computes/my-{kind}", computeType=kind, resourceId=id, properties=inner)
            assert made["properties"]["isAttachedCompute"] is True
        names = {each["name"] for each in (await client.ok("GET", "computes"))["value"]}
        assert names == {"aks", "cpu-cluster", "synapse-spark", "ci", "my-Kubernetes", "my-SynapseSpark"}

    with_client(test)


@pytest.mark.parametrize(
    ("name", "properties", "status", "message"),
    [
        ("x_y", {"computeType": "AmlCompute"}, 400, "not a valid compute name"),
        ("vm", {"computeType": "VirtualMachine"}, 501, "computeType VirtualMachine"),
        ("vm", {"computeType": "Toaster"}, 400, "computeType must be one of"),
        ("c", {"computeType": "AmlCompute", "properties": {}}, 400, "not a valid compute name"),
        ("cc", {"computeType": "AmlCompute", "properties": {}}, 400, "needs vmSize"),
        ("cc", {"computeType": "AmlCompute", "properties": VM | SCALE}, 400, "minNodeCount (5)"),
        ("cpu-cluster", {"computeType": "AmlCompute", "properties": VM}, 400, "it can't become x"),
        ("aks", {"computeType": "AmlCompute", "properties": VM}, 400, "is of type Kubernetes"),
        ("sp", {"computeType": "SynapseSpark", "resourceId": "/x/y"}, 400, "must be the id of a Synapse Spark pool"),
        ("sp", {"computeType": "SynapseSpark", "resourceId": f"{SYNAPSE}/other"}, 400, "there is 'sparkpool'"),
    ],
)  # fmt: skip
def test_a_compute_that_can_not_be_is_refused(
    with_client: Any, name: str, properties: dict[str, Any], status: int, message: str
) -> None:
    async def test(client: Any) -> None:
        answer = await client.send("PUT", f"computes/{name}", {"properties": properties})
        assert answer.status_code == status, answer.text
        assert message in answer.json()["error"]["message"]

    with_client(test)


def test_cancelling_works_in_every_state_and_leaves_nothing(with_client: Any, tmp_path: Path) -> None:
    async def test(client: Any) -> None:
        await cluster(client)
        for state in ("Starting", "Preparing", "Running", "Queued"):
            blocker = f"blocks-{state}".lower()
            if state == "Queued":
                await client.put(f"jobs/{blocker}", **job("sleep 30"))
                await client.finished(blocker, "Running")
            name = f"job-{state}".lower()
            await client.put(f"jobs/{name}", **job("sleep 30"))
            if state != "Starting":
                await client.finished(name, state, "Running")
            assert (await client.send("POST", f"jobs/{name}/cancel")).status_code == 202
            assert (await client.finished(name))["properties"]["status"] == "Canceled"
            if state == "Queued":
                await client.send("POST", f"jobs/{blocker}/cancel")
                await client.finished(blocker)
        inner = (await client.ok("GET", "computes/small"))["properties"]["properties"]
        assert inner["nodeStateCounts"]["runningNodeCount"] == 0

    with_client(test)


def test_nodes_are_kept_for_their_idle_time() -> None:
    time = [0.0]
    nodes = Nodes("c", 3, minimum=1, idle_seconds=10, now=lambda: time[0])

    async def use() -> None:
        async with nodes.held(2, "a"):
            assert (nodes.busy, len(nodes.present()), nodes.would_wait(2), nodes.would_wait(1)) == (2, 2, True, False)
        time[0] = 5
        async with nodes.held(1, "b"):
            assert len(nodes.present()) == 2
        time[0] = 11
        assert len(nodes.present()) == 1

    asyncio.run(use())
    nodes.scale(0, 0, 10)
    assert nodes.present() == []
