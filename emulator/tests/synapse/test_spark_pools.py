"""Spark pools in Resource Manager, and what follows from their size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from localazure.core.auth import Tokens
from localazure.core.errors import AzureError, BadRequest, NotFound
from localazure.core.registry import Api
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.synapse import pools as pools_module
from localazure.synapse import scope
from localazure.synapse.capacity import PLACES, QUEUED, Capacity, Extent, Size
from localazure.synapse.pools import Pools
from localazure.synapse.service import Synapse
from localazure.synapse.sessions import Sessions

from .livy import BATCHES, LAKE, SMALL, Lake, batch_in, serving, with_stand_in

pytestmark = pytest.mark.asyncio

PROPERTIES = {"nodeSize": "medium", "nodeCount": 3, "sparkVersion": "3.5"}


@pytest.fixture
def pools(certified: Settings, tmp_path: Path) -> Pools:
    return Pools(certified, Store(tmp_path / "store.sqlite"))


@pytest_asyncio.fixture
async def arm(certified: Settings, pools: Pools, tokens: Tokens) -> AsyncIterator[httpx.AsyncClient]:
    token = tokens.issue("me", "https://management.azure.com")
    base = "https://localhost" + scope.workspace_id(certified)
    transport = httpx.ASGITransport(Api(pools.operations(), tokens))
    async with httpx.AsyncClient(transport=transport, headers={"Authorization": f"Bearer {token}"}) as client:
        client.base_url = httpx.URL(base)
        yield client


async def put(arm: httpx.AsyncClient, name: str = "big", **properties: Any) -> httpx.Response:
    return await arm.put(f"/bigDataPools/{name}", json={"location": "local", "properties": PROPERTIES | properties})


async def test_a_pool_is_made_read_tagged_listed_and_deleted(arm: httpx.AsyncClient, pools: Pools) -> None:
    made = (await put(arm)).json()
    assert (made["name"], made["properties"]["nodeSize"], made["properties"]["provisioningState"]) == (
        "big", "Medium", "Succeeded",
    )  # fmt: skip
    assert pools.extent("BIG") == Extent("big", 3, 8, 64 * 1024)
    tagged = await arm.patch("/bigDataPools/big", json={"tags": {"a": "b"}})
    assert tagged.json()["tags"] == (await arm.get("/bigDataPools/big")).json()["tags"] == {"a": "b"}
    assert [pool["name"] for pool in (await arm.get("/bigDataPools")).json()["value"]] == ["big", "sparkpool"]
    assert [(await arm.delete("/bigDataPools/big")).status_code for _ in range(2)] == [200, 204]
    with pytest.raises(NotFound, match=r"'big' is not in .*'sparkpool'"):
        pools.resource("big")


async def test_autoscale_and_auto_pause(arm: httpx.AsyncClient, pools: Pools) -> None:
    scaled = {"autoScale": {"enabled": True, "minNodeCount": 3, "maxNodeCount": 10}, "nodeCount": None}
    assert (await put(arm, **scaled, autoPause={"enabled": True, "delayInMinutes": 15})).status_code == 200
    assert (pools.extent("big").nodes, pools.idle_seconds("big")) == (10, 900)
    await put(arm, autoPause={"enabled": False}, autoScale={"enabled": False})
    assert (pools.extent("big").nodes, pools.idle_seconds("big")) == (3, None)


@pytest.mark.parametrize(
    ("properties", "status", "word"),
    [
        ({"nodeSize": "Tiny"}, 400, "nodeSize"),
        ({"nodeCount": 2}, 400, "nodeCount"),
        ({"nodeCount": None}, 400, "nodeCount"),
        ({"autoScale": {"enabled": True, "minNodeCount": 5, "maxNodeCount": 4}}, 400, "maxNodeCount"),
        ({"autoPause": {"enabled": True, "delayInMinutes": 1}}, 400, "delayInMinutes"),
        ({"colour": "red"}, 400, "colour"),
        ({"sparkVersion": "3.3"}, 501, "sparkVersion '3.3'"),
        ({"nodeSizeFamily": "HardwareAcceleratedGPU"}, 501, "nodeSizeFamily"),
        ({"libraryRequirements": {"content": "numpy", "filename": "requirements.txt"}}, 501, "libraryRequirements"),
    ],
)
async def test_a_pool_that_cannot_be_is_refused(
    arm: httpx.AsyncClient, properties: dict[str, Any], status: int, word: str
) -> None:
    answer = await put(arm, **properties)
    assert (answer.status_code, word in answer.json()["error"]["message"]) == (status, True)
    assert (await put(arm, "not-a-name")).status_code == 400


async def test_a_pool_with_jobs_and_the_homes_own_stay(arm: httpx.AsyncClient, pools: Pools) -> None:
    await put(arm)
    pools.is_used = lambda pool: True
    assert (await arm.delete("/bigDataPools/big")).json()["error"]["code"] == "SparkPoolInUse"
    assert (await arm.delete("/bigDataPools/sparkpool")).status_code == 409


def size(vcores: int) -> Size:
    return Size(vcores, 1024, 1, 1024, 0)


async def test_a_changed_pool_serves_or_refuses_those_who_wait() -> None:
    extent = Extent("p", 1, 8, 64 * 1024)
    capacity = Capacity(lambda _pool: extent)
    served: list[int] = []

    async def job(vcores: int, seconds: float) -> None:
        async with capacity.place("p", size(vcores)):
            served.append(vcores)
            await asyncio.sleep(seconds)

    running = asyncio.create_task(job(7, 0.3))
    await asyncio.sleep(0)
    large, small = asyncio.create_task(job(6, 0)), asyncio.create_task(job(2, 0))
    await asyncio.sleep(0.01)
    assert (served, capacity.used_vcores("P"), capacity.is_free("p", size(1))) == ([7], 7, False)
    extent = Extent("p", 1, 5, 64 * 1024)
    capacity.serve()
    with pytest.raises(BadRequest, match=r"asks for 6 vcores. A node of the pool 'p' has 5"):
        await large
    await asyncio.gather(running, small)
    assert (served, capacity.used_vcores("p")) == ([7, 2], 0)


async def test_one_who_gives_up_leaves_the_queue_and_takes_no_place() -> None:
    capacity = Capacity(lambda _pool: Extent("p", 1, 8, 64 * 1024))

    async def job() -> None:
        async with capacity.place("p", size(8)):
            await asyncio.sleep(10)

    jobs = [asyncio.create_task(job()) for _ in range(3)]
    await asyncio.sleep(0)
    jobs[1].cancel()
    jobs[0].cancel()
    await asyncio.wait(jobs[:2])
    await asyncio.sleep(0)
    assert capacity.used_vcores("p") == 8
    jobs[2].cancel()
    await asyncio.wait(jobs)
    assert capacity.used_vcores("p") == 0


async def test_the_queue_and_the_machine_have_an_end() -> None:
    capacity = Capacity(lambda _pool: Extent("p", 100, 8, 64 * 1024))

    async def job() -> None:
        async with capacity.place("p", size(1)):
            await asyncio.sleep(10)

    jobs = [asyncio.create_task(job()) for _ in range(PLACES + QUEUED)]
    await asyncio.sleep(0)
    assert capacity.used_vcores("p") == PLACES
    with pytest.raises(AzureError) as refused:
        capacity.check_queue("p")
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "10"})
    for each in jobs:
        each.cancel()
    await asyncio.wait(jobs)


async def test_auto_pause_ends_the_session_that_stands_by(
    certified: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "_MINUTE", 0.01)  # the pool's 30 minutes are 0.3 s
    settings = with_stand_in(certified, tmp_path)
    store = Store(tmp_path / "store.sqlite")
    pools = Pools(settings, store)
    ended: dict[str, bool] = {}
    for name, idle in (("paused", lambda: pools.idle_seconds("sparkpool")), ("kept", lambda: None)):
        sessions = Sessions(settings, store, 1, idle)
        sessions.keep_warm()
        (session,) = sessions._warm
        assert session.is_alive
        for _ in range(200 if name == "paused" else 20):
            await asyncio.sleep(0.05)
            if not session.is_alive:
                break
        ended[name] = not session.is_alive
        await sessions.stop()
    assert ended == {"paused": True, "kept": False}


async def test_a_batch_on_a_pool_of_its_own(certified: Settings, tmp_path: Path, tokens: Tokens) -> None:
    settings = with_stand_in(certified, tmp_path)
    async with serving(settings, tokens, Lake({"a.py": b"print:a"})) as client:
        token = tokens.issue("me", "https://management.azure.com")
        made = await client.put(
            f"{scope.workspace_id(settings)}/bigDataPools/other",
            json={"location": "local", "properties": PROPERTIES},
            headers={"Authorization": f"Bearer {token}"},
        )
        assert made.status_code == 200
        body = {"name": "n", "file": f"{LAKE}/a.py", **SMALL, "executorCores": 8}
        assert (await client.post(BATCHES, json=body)).status_code == 400
        assert (await client.post(BATCHES.replace("sparkpool", "other"), json=body)).json()["id"] == 0
        assert (await client.get(BATCHES)).json()["total"] == 0
        other = BATCHES.replace("sparkpool", "other")
        for _ in range(200):
            if (await client.get(f"{other}/0/state")).json()["state"] == "success":
                return
            await asyncio.sleep(0.03)
    raise AssertionError("the batch didn't end")


async def test_a_notebook_run_takes_its_place_in_the_pool(certified: Settings, tmp_path: Path, tokens: Tokens) -> None:
    settings = with_stand_in(certified, tmp_path)
    lake = Lake({"sleep.py": b"sleep"})
    half = SMALL | {"driverCores": 4, "executorCores": 4, "numExecutors": 2}
    notebook = {"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": []}
    async with serving(settings, tokens, lake) as client:
        for _ in range(2):
            await client.post(BATCHES, json={"name": "n", "file": f"{LAKE}/sleep.py", **half})
        await client.put("/notebooks/n?api-version=2020-12-01", json={"name": "n", "properties": notebook})
        run = "/notebooks/runs/r1{}?api-version=2022-03-01-preview"
        asked = {"notebook": "n", "sparkPool": "sparkpool"}
        too_large = await client.put(run.format(""), json=asked | {"sessionOptions": {"numExecutors": 9}})
        assert too_large.json()["error"]["target"] == "sessionOptions.numExecutors"
        assert (await client.put(run.format(""), json=asked)).status_code == 202
        await batch_in(client, 1, "running")
        waiting = (await client.get(run.format(""))).json()["result"]
        assert (waiting["runStatus"], waiting["sessionId"]) == ("Starting", -1)
        await client.delete(f"{BATCHES}/0")
        for _ in range(200):
            if (await client.get(run.format(""))).json()["result"]["sessionId"] >= 0:
                break
            await asyncio.sleep(0.03)
        else:
            raise AssertionError("the run didn't get the batch's place")


async def test_every_operation_has_one_address(certified: Settings, tmp_path: Path, tokens: Tokens) -> None:
    service = Synapse(certified, Store(tmp_path / "store.sqlite"), warm=0)
    Api(service.operations(), tokens)
