"""Livy batches with a stand-in for the driver (`livy`): states, records, queue, failures, restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from localazure.core.auth import Tokens
from localazure.settings import Settings

from .livy import BATCHES, LAKE, SMALL, Lake, batch_in, serving, with_stand_in

pytestmark = pytest.mark.asyncio

COMPUTE = Path(__file__).resolve().parents[2] / "compute"


@pytest.fixture
def home(certified: Settings, tmp_path: Path) -> Settings:
    return with_stand_in(certified, tmp_path)


@pytest.fixture
def lake() -> Lake:
    return Lake({"fine.py": b"print:hello app", "sleep.py": b"child sleep", "fail.py": b"raise"})


@pytest_asyncio.fixture
async def client(home: Settings, tokens: Tokens, lake: Lake) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(home, tokens, lake) as made:
        yield made


async def submit(client: httpx.AsyncClient, file: str = "fine.py", **more: Any) -> dict[str, Any]:
    body = {"name": "job", "file": f"{LAKE}/{file}", **SMALL, **more}
    answer = await client.post(BATCHES + "?detailed=true", json=body)
    assert answer.status_code == 200, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


async def test_a_batch_runs_and_says_what_it_was(client: httpx.AsyncClient, home: Settings) -> None:
    accepted = await submit(client, args=["a", LAKE], tags={"run": "7"}, artifactId="definition")
    assert (accepted["id"], accepted["state"], accepted["result"]) == (0, "not_started", "Uncertain")
    batch = await batch_in(client, 0, "success")
    assert (batch["result"], batch["tags"], batch["artifactId"], batch["jobType"]) == (
        "Succeeded", {"run": "7"}, "definition", "SparkBatch",
    )  # fmt: skip
    assert [batch[key]["currentState"] for key in ("livyInfo", "schedulerInfo", "pluginInfo")] == [
        "success", "Ended", "Ended",
    ]  # fmt: skip
    assert batch["livyInfo"]["startingAt"] <= batch["livyInfo"]["runningAt"] <= batch["livyInfo"]["successAt"]
    assert batch["livyInfo"]["jobCreationRequest"]["args"] == ["a", LAKE]
    assert batch["log"] == [f"arguments ['a', '{LAKE}']", "hello"]
    plain = (await client.get(f"{BATCHES}/0")).json()
    assert set(plain) == {"id", "name", "appId", "appInfo", "state", "log", "tags"}
    # What was run stays; nothing else does.
    folder = home.home / "livy/batches/sparkpool/0000000000"
    assert sorted(path.name for path in folder.iterdir()) == ["driver.log", "files", "plan.json"]
    assert (folder / "files/fine.py").read_bytes() == b"print:hello app"


async def test_pages_of_the_list_and_of_the_log(client: httpx.AsyncClient, lake: Lake) -> None:
    lake["lines.py"] = " ".join(f"print:{number}" for number in range(30)).encode()
    for file in ("fine.py", "lines.py", "fine.py"):
        await submit(client, file)
    for number in range(3):
        await batch_in(client, number, "success")
    page = (await client.get(BATCHES + "?from=1&size=1")).json()
    assert (page["from"], page["total"], [batch["id"] for batch in page["sessions"]]) == (1, 3, [1])
    log = (await client.get(f"{BATCHES}/1/log?size=2")).json()
    assert log == {"id": 1, "from": 29, "total": 31, "log": ["28", "29"]}
    assert (await client.get(f"{BATCHES}/1/log?from=1&size=2")).json()["log"] == ["0", "1"]
    assert (await client.get(f"{BATCHES}/1/state")).json() == {"id": 1, "state": "success"}
    shown = await client.get(f"{BATCHES}/1/view", headers={"Authorization": ""})
    assert shown.status_code == 200
    assert "default-src 'none'" in shown.headers["content-security-policy"]


async def test_a_raising_script_is_dead_and_errorinfo_has_the_cause(client: httpx.AsyncClient) -> None:
    await submit(client, "fail.py")
    batch = await batch_in(client, 0, "dead")
    assert (batch["result"], batch["livyInfo"]["currentState"]) == ("Failed", "dead")
    service, cause = batch["errorInfo"]
    assert (service["errorCode"], cause["errorCode"], cause["source"]) == ("LIVY_JOB_STATE_DEAD", "ValueError", "User")
    assert cause["message"].startswith("fail.py: ValueError: boom\n")
    assert '  File "fail.py", line 2, in f' in cause["message"]


async def test_a_missing_file_is_named_with_its_field(client: httpx.AsyncClient) -> None:
    await submit(client, pyFiles=[f"{LAKE}/fine.py", f"{LAKE}/gone.zip"])
    batch = await batch_in(client, 0, "dead")
    cause = batch["errorInfo"][1]
    assert cause == {
        "message": f"pyFiles[1]: {LAKE}/gone.zip doesn't exist.", "errorCode": "PathNotFound", "source": "User"
    }  # fmt: skip


async def test_a_cancelled_batch_leaves_no_process(client: httpx.AsyncClient, home: Settings) -> None:
    await submit(client, "sleep.py")
    await batch_in(client, 0, "running")
    for _ in range(200):
        if len(processes_of(home)) == 2:  # the driver and its child
            break
        await asyncio.sleep(0.03)
    else:
        raise AssertionError(f"{processes_of(home)} work for the batch")
    assert (await client.delete(f"{BATCHES}/0")).status_code == 200
    batch = await batch_in(client, 0, "killed")
    assert (batch["result"], "killedAt" in batch["livyInfo"]) == ("Cancelled", True)
    assert processes_of(home) == []
    # Again, and it stays as it is.
    assert (await client.delete(f"{BATCHES}/0")).status_code == 200
    assert (await batch_in(client, 0, "killed"))["livyInfo"] == batch["livyInfo"]


async def test_a_full_pool_queues_in_order(client: httpx.AsyncClient) -> None:
    half = SMALL | {"driverCores": 4, "executorCores": 4, "numExecutors": 2}  # 12 of the pool's 24 vcores
    for _ in range(3):
        await submit(client, "sleep.py", **half)
    await submit(client, "fine.py")  # small, but not before its turn
    await batch_in(client, 1, "running")
    waiting = await batch_in(client, 2, "not_started")
    assert (waiting["schedulerInfo"]["currentState"], waiting["pluginInfo"]["currentState"]) == ("Queued", "Queued")
    assert (await batch_in(client, 3, "not_started"))["appId"] is None
    await client.delete(f"{BATCHES}/2")  # one that waits is cancelled as well as one that runs
    await client.delete(f"{BATCHES}/0")
    await batch_in(client, 3, "success")


@pytest.mark.parametrize(
    ("change", "status", "target"),
    [
        ({"name": ""}, 400, "name"),
        ({"file": None}, 400, "file"),
        ({"file": "/local/x.py"}, 400, "file"),
        ({"file": "abfss://lake@other.dfs.core.windows.net/x.py"}, 400, "file"),
        ({"file": f"{LAKE}/x.jar"}, 400, "className"),
        ({"args": "a"}, 400, "args"),
        ({"args": [1]}, 400, "args"),
        ({"conf": []}, 400, "conf"),
        ({"driverMemory": "many"}, 400, "driverMemory"),
        ({"driverCores": "4"}, 400, "driverCores"),
        ({"numExecutors": -1}, 400, "numExecutors"),
        ({"jarz": []}, 400, "jarz"),
        ({"jars": ["x.jar"]}, 400, "jars[0]"),
        ({"executorCores": 8}, 400, "executorCores"),
        ({"executorMemory": "56g"}, 400, "executorMemory"),
        ({"executorCores": 4, "numExecutors": 6}, 400, "numExecutors"),
        ({"conf": {"spark.jars.packages": "a:b:1"}}, 501, None),
        ({"proxyUser": "x"}, 501, None),
    ],
)
async def test_a_bad_payload_is_refused_naming_the_field(
    client: httpx.AsyncClient, change: dict[str, Any], status: int, target: str | None
) -> None:
    answer = await client.post(BATCHES, json={"name": "job", "file": f"{LAKE}/fine.py", **SMALL, **change})
    error = answer.json()["error"]
    assert answer.status_code == status
    assert target is None or error["target"] == target
    assert (await client.get(BATCHES)).json()["total"] == 0


async def test_what_is_not_there_is_named(client: httpx.AsyncClient) -> None:
    for path in (f"{BATCHES}/7", f"{BATCHES}/x", BATCHES.replace("sparkpool", "other")):
        answer = await client.get(path)
        assert answer.status_code == 404
    assert "'sparkpool'" in answer.json()["error"]["message"]
    assert (await client.get(BATCHES.replace("2019-11-01-preview", "1999"))).status_code == 400
    assert (await client.post(BATCHES, content=b" " * 200_000)).status_code == 413


async def test_a_restart_ends_what_was_active_by_name(home: Settings, tokens: Tokens, lake: Lake) -> None:
    async with serving(home, tokens, lake) as client:
        await submit(client, "sleep.py")
        await submit(client, "fine.py")
        await batch_in(client, 0, "running")
        await batch_in(client, 1, "success")
    assert processes_of(home) == []
    async with serving(home, tokens, lake) as client:
        lost = await batch_in(client, 0, "dead")
        assert [error["errorCode"] for error in lost["errorInfo"]] == ["LIVY_JOB_STATE_DEAD", "DriverLost"]
        assert lost["errorInfo"][1]["message"] == "localazure was stopped while it was active."
        assert (await batch_in(client, 1, "success"))["log"][-1] == "hello"
        assert (await submit(client))["id"] == 2


async def test_a_driver_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    follower = (
        "import os, threading, time\nfrom localazure_compute import parents\n"
        "threading.Thread(target=parents.follow, args=(os.getppid(),), daemon=True).start()\n"
        "time.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {follower!r}], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(COMPUTE)}
    with subprocess.Popen([sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        child = int(await asyncio.to_thread(started.stdout.readline))
        await asyncio.sleep(2)  # the follower notes who its parent is
        started.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        await asyncio.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the driver outlived its parent")


def processes_of(home: Settings) -> list[int]:
    """Processes that work in the home's folder of Livy."""
    return [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdecimal() and _works_below(process, str(home.home / "livy"))
    ]


def _works_below(process: Path, folder: str) -> bool:
    try:
        return os.readlink(process / "cwd").startswith(folder)
    except OSError:
        return False
