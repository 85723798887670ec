"""Runs with a stand-in for the host: a script that speaks the session folder's files, so that no Spark is needed."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from localazure.core.auth import Tokens
from localazure.core.registry import Api
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.synapse.service import Synapse

pytestmark = pytest.mark.asyncio

RUNS = "api-version=2022-03-01-preview"
HOST = f"""#!{sys.executable}
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[3]) / "1"
def write(status):
    (folder / "draft").write_text(json.dumps(status))
    (folder / "draft").replace(folder / "status.json")
write({{"state": "Idle"}})
if (folder.parents[3] / "fragile").exists():
    (folder.parents[3] / "fragile").unlink()
    sys.exit(7)
while not (folder / "request.json").exists():
    time.sleep(0.01)
request = json.loads((folder / "request.json").read_text())
write({{"state": "Running"}})
source = request["properties"]["cells"][0]["source"]
if source == "die":
    print("last words", flush=True)
    sys.exit(3)
if source == "sleep":
    time.sleep(60)
write({{"state": "Succeeded", "exitValue": json.dumps(request["parameters"])}})
"""


@pytest.fixture
def prepared(certified: Settings, tmp_path: Path) -> Settings:
    host = tmp_path / "host.py"
    host.write_text(HOST)
    host.chmod(host.stat().st_mode | stat.S_IXUSR)
    return replace(certified, compute_python=host)


@pytest_asyncio.fixture
async def client(prepared: Settings, tmp_path: Path, tokens: Tokens) -> AsyncIterator[httpx.AsyncClient]:
    service = Synapse(prepared, Store(tmp_path / "store.sqlite"), warm=0)
    await service.start()
    token = tokens.issue("me", "https://dev.azuresynapse.net")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(Api(service.operations(), tokens)),
        base_url="https://localhost",
        headers={"Authorization": f"Bearer {token}"},
    ) as made:
        for source in ("fine", "die", "sleep"):
            cell = {"cell_type": "code", "metadata": {}, "source": source}
            properties = {"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": [cell]}
            await made.put(
                f"/notebooks/{source}?api-version=2020-12-01", json={"name": source, "properties": properties}
            )
        yield made
    await service.stop()


async def submit(client: httpx.AsyncClient, run: str, notebook: str, **more: Any) -> httpx.Response:
    return await client.put(
        f"/notebooks/runs/{run}?{RUNS}", json={"notebook": notebook, "sparkPool": "sparkpool", **more}
    )


async def status(client: httpx.AsyncClient, run: str) -> dict[str, Any]:
    answer = await client.get(f"/notebooks/runs/{run}?{RUNS}")
    assert answer.status_code == 200
    result: dict[str, Any] = answer.json()["result"]
    return result


async def ended(client: httpx.AsyncClient, run: str) -> dict[str, Any]:
    for _ in range(200):
        result = await status(client, run)
        if result["runStatus"] not in ("Starting", "Running"):
            return result
        await asyncio.sleep(0.05)
    raise AssertionError(f"still {result['runStatus']}")


async def test_a_run_is_accepted_as_microsofts_example_shows(client: httpx.AsyncClient) -> None:
    parameters = {"n": {"type": "int", "value": "3"}}
    answer = await submit(client, "r1", "fine", parameters=parameters)
    assert answer.status_code == 202
    assert answer.json() == {
        "message": "Request accepted for running the notebook fine. Query execution status using r1",
        "result": {
            "runId": "r1",
            "runStatus": "Starting",
            "sessionId": -1,
            "sparkPool": "sparkpool",
            "lastCheckedOn": "0001-01-01T00:00:00",
            "exitValue": None,
        },
    }
    result = await ended(client, "r1")
    assert (result["runStatus"], json.loads(result["exitValue"])) == ("Succeeded", {"n": 3})


async def test_a_session_that_dies_fails_the_run_with_its_last_lines(client: httpx.AsyncClient) -> None:
    await submit(client, "r1", "die")
    result = await ended(client, "r1")
    assert (result["runStatus"], result["error"]["ename"]) == ("Failed", "SparkSessionDied")
    assert "code 3" in result["error"]["evalue"]
    assert "last words" in result["error"]["traceback"]


async def test_a_third_run_waits_for_a_place(client: httpx.AsyncClient) -> None:
    for run in ("r1", "r2", "r3"):
        await submit(client, run, "sleep")
    for _ in range(100):
        states = [(await status(client, run))["runStatus"] for run in ("r1", "r2", "r3")]
        if states == ["Running", "Running", "Starting"]:
            break
        await asyncio.sleep(0.05)
    assert states == ["Running", "Running", "Starting"]
    cancelled = await client.post(f"/notebooks/runs/r1/cancel?{RUNS}")
    assert cancelled.json()["result"]["runStatus"] == "Cancelled"
    for _ in range(100):
        if (await status(client, "r3"))["runStatus"] == "Running":
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the third run did not get the place")
    # One that waits is cancelled as well as one that runs.
    await submit(client, "r4", "sleep")
    assert (await client.post(f"/notebooks/runs/r4/cancel?{RUNS}")).status_code == 200
    again = await client.post(f"/notebooks/runs/r4/cancel?{RUNS}")
    assert again.status_code == 409
    assert "Cancelled state" in again.json()["message"]


async def test_a_restart_fails_active_runs_by_name(
    prepared: Settings, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await submit(client, "r1", "fine")
    await ended(client, "r1")
    await submit(client, "r2", "sleep")
    # The next life of the service sees the same store.
    after = Synapse(prepared, Store(tmp_path / "store.sqlite"), warm=0)
    await after.start()
    await after.stop()
    result = await status(client, "r2")
    assert (result["runStatus"], result["error"]["ename"]) == ("Failed", "SparkSessionLost")
    assert (await status(client, "r1"))["runStatus"] == "Succeeded"


async def test_a_submission_is_checked(client: httpx.AsyncClient) -> None:
    for body, code in (
        ({"notebook": "fine"}, 400),
        ({"notebook": "fine", "sparkPool": "sparkpool", "typo": 1}, 400),
        ({"notebook": "none", "sparkPool": "sparkpool"}, 404),
        ({"notebook": "fine", "sparkPool": "none"}, 404),
        ({"notebook": "fine", "sparkPool": "sparkpool", "sessionOptions": {"jars": ["x"]}}, 501),
    ):
        answer = await client.put(f"/notebooks/runs/bad?{RUNS}", json=body)
        assert (answer.status_code, set(answer.json())) == (code, {"error"}), body
    assert (await client.get(f"/notebooks/runs/bad?{RUNS}")).status_code == 404


@pytest.mark.parametrize(
    "properties",
    [
        None,
        {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "cells": []},
        {"nbformat": 4, "nbformat_minor": 0, "metadata": {}, "cells": [{"cell_type": "code"}]},
        {"nbformat": 4, "nbformat_minor": 0, "metadata": {}, "cells": [{"cell_type": "sql", "source": ""}]},
    ],
)
async def test_what_is_no_notebook_is_refused(client: httpx.AsyncClient, properties: Any) -> None:
    answer = await client.put("/notebooks/bad?api-version=2020-12-01", json={"name": "bad", "properties": properties})
    assert answer.status_code == 400
    assert answer.json()["error"]["target"].startswith("properties")


async def test_a_notebooks_name_is_checked(client: httpx.AsyncClient) -> None:
    answer = await client.put("/notebooks/a%2Fb?api-version=2020-12-01", json={"name": "a/b", "properties": {}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidArtifactName")


async def test_a_session_that_ended_while_it_stood_by_costs_no_run(
    prepared: Settings, tmp_path: Path, tokens: Tokens
) -> None:
    (prepared.home.parent / "fragile").touch()
    service = Synapse(prepared, Store(tmp_path / "store.sqlite"), warm=1)
    await service.start()
    token = tokens.issue("me", "https://dev.azuresynapse.net")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(Api(service.operations(), tokens)),
        base_url="https://localhost",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        cell = {"cell_type": "code", "metadata": {}, "source": "fine"}
        properties = {"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": [cell]}
        await client.put("/notebooks/fine?api-version=2020-12-01", json={"name": "fine", "properties": properties})
        await submit(client, "r1", "fine")
        result = await ended(client, "r1")
        assert result["runStatus"] == "Succeeded"
        assert not (prepared.home.parent / "fragile").exists()
    await service.stop()


async def test_a_session_stands_by_from_the_first_request_until_nobody_asks(
    prepared: Settings, tmp_path: Path, tokens: Tokens
) -> None:
    service = Synapse(prepared, Store(tmp_path / "store.sqlite"), warm=1)
    await service.start()
    sessions = service._sessions
    assert not sessions._started
    token = tokens.issue("me", "https://dev.azuresynapse.net")
    transport = httpx.ASGITransport(Api(service.operations(), tokens))
    async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as client:
        await client.get("/notebooks?api-version=2020-12-01", headers={"Authorization": f"Bearer {token}"})
    (session,) = sessions._started
    assert session.is_alive
    sessions._rest()
    await asyncio.gather(*sessions._ending)
    assert not session.is_alive
    assert not sessions._started
    await service.stop()


async def test_the_page_shows_the_run_without_running_its_outputs(client: httpx.AsyncClient) -> None:
    parameters = {"n": {"type": "string", "value": "<script>alert(1)</script>"}}
    await submit(client, "r1", "fine", parameters=parameters)
    await ended(client, "r1")
    page = await client.get("/notebooks/runs/r1/view", headers={"Authorization": ""})
    assert page.status_code == 200
    assert "Succeeded" in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (await client.get("/notebooks/runs/other/view")).status_code == 404
