"""Livy sessions with a stand-in for the interpreter (`livy`): states, statements, time-outs, room in the pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from localazure.core.auth import Tokens
from localazure.settings import Settings

from .livy import SESSIONS, SMALL, Lake, serving, until, with_stand_in

pytestmark = pytest.mark.asyncio


@pytest.fixture
def home(certified: Settings, tmp_path: Path) -> Settings:
    return with_stand_in(certified, tmp_path)


@pytest_asyncio.fixture
async def client(home: Settings, tokens: Tokens) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(home, tokens, Lake()) as made:
        yield made


async def started(client: httpx.AsyncClient, *states: str, **more: Any) -> dict[str, Any]:
    answer = await client.post(SESSIONS, json={"name": "s", **SMALL, **more})
    assert answer.status_code == 200, answer.text
    return await session_in(client, answer.json()["id"], *(states or ("idle",)))


async def session_in(client: httpx.AsyncClient, number: int, *states: str) -> dict[str, Any]:
    found: dict[str, Any] = await until(
        lambda: client.get(f"{SESSIONS}/{number}?detailed=true"), lambda answer: answer["state"] in states
    )
    return found


async def say(client: httpx.AsyncClient, code: str, kind: str | None = "pyspark") -> httpx.Response:
    return await client.post(f"{SESSIONS}/0/statements", json={"code": code, "kind": kind})


async def statement_in(client: httpx.AsyncClient, number: int, *states: str) -> dict[str, Any]:
    path = f"{SESSIONS}/0/statements/{number}"
    found: dict[str, Any] = await until(lambda: client.get(path), lambda answer: answer["state"] in states)
    return found


async def test_statements_run_in_order(client: httpx.AsyncClient) -> None:
    session = await started(client)
    assert (session["appId"], session["jobType"], session["result"]) == ("local-2", "SparkSession", "Uncertain")
    first = (await say(client, "a")).json()
    assert (first["id"], first["state"], first["output"]) == (0, "waiting", None)
    await say(client, "b", "sql")
    second = await statement_in(client, 1, "available")
    assert second["output"] == {"status": "ok", "data": {"text/plain": "b"}, "execution_count": 1}
    listed = (await client.get(f"{SESSIONS}/0/statements")).json()
    assert (listed["total_statements"], [each["code"] for each in listed["statements"]]) == (2, ["a", "b"])
    await session_in(client, 0, "idle")


async def test_a_statement_is_cancelled_before_its_turn_and_while_it_runs(client: httpx.AsyncClient) -> None:
    await started(client)
    for code in ("sleep", "skipped", "after"):
        await say(client, code)
    await statement_in(client, 0, "running")
    assert (await client.get(f"{SESSIONS}/0/state")).json()["state"] == "busy"
    for number in (1, 0):
        answer = await client.post(f"{SESSIONS}/0/statements/{number}/cancel")
        assert answer.json() == {"msg": "canceled"}
    assert (await statement_in(client, 0, "cancelled"))["output"] is None
    assert (await statement_in(client, 1, "cancelled"))["output"] is None
    after = await statement_in(client, 2, "available")
    assert after["output"]["execution_count"] == 2


async def test_kinds(client: httpx.AsyncClient) -> None:
    await started(client, kind="pyspark")
    assert (await say(client, "a", None)).json()["kind"] == "pyspark"
    for kind, status in (("sparkr", 501), ("dotnetspark", 501), ("cobol", 400)):
        assert (await say(client, "a", kind)).status_code == status
    assert (await client.post(f"{SESSIONS}/0/statements", json={"code": 5})).json()["error"]["target"] == "code"
    assert (await client.get(f"{SESSIONS}/0/statements/99")).status_code == 404


async def test_a_process_that_dies_takes_its_statement_along(client: httpx.AsyncClient) -> None:
    await started(client)
    await say(client, "die")
    session = await session_in(client, 0, "dead")
    assert (session["result"], session["errorInfo"][1]["errorCode"]) == ("Failed", "ExitCode")
    assert "session 0 exited with code 3" in session["errorInfo"][1]["message"]
    assert (await statement_in(client, 0, "error"))["output"] is None
    refused = await say(client, "a")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "LivySessionEnded")


async def test_a_session_is_deleted(client: httpx.AsyncClient) -> None:
    await started(client)
    await say(client, "sleep")
    await statement_in(client, 0, "running")
    assert (await client.delete(f"{SESSIONS}/0")).json() == {"msg": "deleted"}
    session = await session_in(client, 0, "killed")
    assert session["result"] == "Cancelled"
    assert (await statement_in(client, 0, "error"))["output"] is None


async def test_an_unused_session_ends(client: httpx.AsyncClient) -> None:
    await started(client, heartbeatTimeoutInSecond=1)
    assert (await client.put(f"{SESSIONS}/0/reset-timeout")).status_code == 200
    session = await session_in(client, 0, "killed")
    assert session["errorInfo"][0]["errorCode"] == "LIVY_SESSION_TIMEOUT"
    assert (await client.put(f"{SESSIONS}/0/reset-timeout")).status_code == 409


async def test_a_full_pool_has_no_room_for_a_session(client: httpx.AsyncClient) -> None:
    half = SMALL | {"driverCores": 4, "executorCores": 4, "numExecutors": 2}
    for _ in range(2):
        await started(client, **half)
    session = await started(client, "error", **half)
    (error,) = session["errorInfo"]
    assert (session["result"], error["errorCode"]) == ("Failed", "AVAILABLE_COMPUTE_CAPACITY_EXCEEDED")
    assert "requested 12 vcores. However, the pool only has 0 vcores available out of quota of 24" in error["message"]
    await client.delete(f"{SESSIONS}/0")
    await started(client, **half)


async def test_a_restart_ends_sessions_by_name(home: Settings, tokens: Tokens) -> None:
    async with serving(home, tokens, Lake()) as client:
        await started(client)
        await say(client, "sleep")
        await statement_in(client, 0, "running")
    async with serving(home, tokens, Lake()) as client:
        session = await session_in(client, 0, "dead")
        assert session["errorInfo"][1]["errorCode"] == "DriverLost"
        assert (await statement_in(client, 0, "error"))["state"] == "error"
