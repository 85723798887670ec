"""The catalogue that Spark processes share: one winner each time, nothing half done, nobody else's business."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from localazure.core.auth import Tokens
from localazure.core.registry import Api
from localazure.core.store import Store
from localazure.executors.spark_local import CATALOGUE_PATH, SUBJECT
from localazure.settings import Settings
from localazure.synapse.lake_databases import LakeDatabases

pytestmark = pytest.mark.asyncio

TABLE = {"type": "MANAGED", "provider": "parquet", "location": "abfss://lake@acct.dfs.core.windows.net/t"}


def client(settings: Settings, tokens: Tokens, folder: Path, subject: str = SUBJECT + "a") -> httpx.AsyncClient:
    """A Spark process, as the catalogue sees it."""
    service = LakeDatabases(settings, Store(folder / "store.sqlite"), tokens)
    secret = tokens.issue(subject, "https://dev.azuresynapse.net")
    transport = httpx.ASGITransport(Api(service.operations(), tokens))
    base = f"https://localhost{CATALOGUE_PATH}/databases"
    return httpx.AsyncClient(transport=transport, headers={"secret": secret}, base_url=base)


@pytest_asyncio.fixture
async def spark(certified: Settings, tokens: Tokens, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client(certified, tokens, tmp_path) as made:
        yield made


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_databases_are_the_workspaces_and_outlive_it(
    spark: httpx.AsyncClient, certified: Settings, tokens: Tokens, tmp_path: Path
) -> None:
    warehouse = f"/synapse/workspaces/{certified.workspace}/warehouse"
    made = (await spark.put("/Shop", json={"description": "d", "properties": {"a": "b"}})).json()
    assert (made["name"], made["location"].partition(".net")[2]) == ("shop", f"{warehouse}/shop.db")
    await spark.put("/shop/tables/goods", json=TABLE)
    await spark.patch("/shop", json={"description": "new"})
    async with client(certified, tokens, tmp_path) as later:  # another process, after a restart
        found = {each["name"]: each for each in (await later.get("")).json()["value"]}
        assert found["default"]["location"].endswith(warehouse)
        assert (found["shop"]["description"], found["shop"]["tables"]) == ("new", {"goods": "MANAGED"})
        assert (await later.get("/shop/tables/goods")).json() == TABLE | {"name": "goods"}


async def test_of_several_processes_one_wins(spark: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(spark.put("/shop", json={}) for _ in range(4)))
    assert sorted(each.status_code for each in answers) == [201, 409, 409, 409]
    answers = await asyncio.gather(*(spark.put("/shop/tables/t", json=TABLE | {"owner": str(n)}) for n in range(4)))
    assert sorted(each.status_code for each in answers) == [201, 409, 409, 409]
    await asyncio.gather(*(spark.put(f"/shop/tables/t{n}", json=TABLE) for n in range(4)))
    assert len((await spark.get("/shop")).json()["tables"]) == 5


async def test_tables_are_changed_renamed_and_dropped(spark: httpx.AsyncClient) -> None:
    await spark.put("/shop", json={})
    for name in ("a", "b"):
        await spark.put(f"/shop/tables/{name}", json=TABLE)
    assert (await spark.patch("/shop/tables/a", json={"comment": "c"})).json()["comment"] == "c"
    assert code(await spark.post("/shop/tables/a/rename", json={"name": "b"})) == (409, "TableAlreadyExists")
    moved = (await spark.post("/shop/tables/a/rename", json={"name": "c", "location": "abfss://x"})).json()
    assert (moved["name"], moved["location"], moved["comment"]) == ("c", "abfss://x", "c")
    assert code(await spark.get("/shop/tables/a")) == (404, "TableNotFound")
    assert code(await spark.delete("/shop")) == (409, "DatabaseNotEmpty")
    assert (await spark.delete("/shop/tables/c")).json()["comment"] == "c"
    assert set((await spark.delete("/shop?cascade=true")).json()["tables"]) == {"b"}
    assert code(await spark.put("/shop/tables/late", json=TABLE)) == (404, "DatabaseNotFound")


async def test_what_is_refused(spark: httpx.AsyncClient, certified: Settings, tokens: Tokens, tmp_path: Path) -> None:
    assert code(await spark.delete("/default?cascade=true")) == (400, "CannotDropDefaultDatabase")
    assert (await spark.put("/a-b", json={})).status_code == 400
    async with client(certified, tokens, tmp_path, "somebody") as other:
        assert (await other.get("")).status_code == 401
    stranger: Any = await spark.get("", headers={"secret": "made up"})
    assert stranger.status_code == 401
