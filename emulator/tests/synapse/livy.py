"""What the tests of Livy share: a Synapse service with a stand-in for drivers, so that no Spark is needed.

The stand-in speaks the drivers' files. A batch's main file is a list of words: `print:x`, `sleep`, `child` (a process
of its own that sleeps), `exit:n`, `raise` (a traceback), `app` (tells an application id). A session echoes its
statements' code; `sleep` waits for SIGINT, `die` ends the process. A notebook's session only stands by.
"""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx

from localazure.core.auth import Tokens
from localazure.core.errors import NotFound
from localazure.core.registry import Api
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.storage.blobs import BlobStore
from localazure.synapse.service import Synapse

POOL = "/livyApi/versions/2019-11-01-preview/sparkPools/sparkpool"
BATCHES, SESSIONS = POOL + "/batches", POOL + "/sessions"
LAKE = "abfss://lake@azflowlake.dfs.core.windows.net"
SMALL = {"driverCores": 1, "driverMemory": "1g", "executorCores": 1, "executorMemory": "1g", "numExecutors": 1}

HOST = f"""#!{sys.executable}
import json, pathlib, signal, subprocess, sys, time
module, argument = sys.argv[2], pathlib.Path(sys.argv[3])

def write(path, document):
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(document))
    draft.replace(path)

def batch(plan):
    print("arguments", plan["args"], flush=True)
    for word in pathlib.Path(plan["entry"]).read_text().split():
        name, _, value = word.partition(":")
        if name == "print":
            print(value, flush=True)
        elif name == "sleep":
            time.sleep(60)
        elif name == "child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        elif name == "app":
            pathlib.Path(plan["appIdFile"]).write_text("local-1")
        elif name == "raise":
            exec(compile("def f():\\n    raise ValueError('boom')\\nf()", plan["entry"], "exec"))
        elif name == "exit":
            sys.exit(int(value))

running = False

def interrupted(*_):
    if running:
        raise KeyboardInterrupt

def session(folder):
    global running
    signal.signal(signal.SIGINT, interrupted)
    number = 0
    while True:
        write(folder / "status.json", {{"state": "idle", "appId": "local-2"}})
        while not (folder / f"{{number}}.json").exists():
            time.sleep(0.01)
        code = json.loads((folder / f"{{number}}.json").read_text())["code"]
        if code == "die":
            sys.exit(3)
        try:
            running = True
            if code == "sleep":
                time.sleep(60)
            output = {{"status": "ok", "data": {{"text/plain": code}}, "execution_count": number}}
        except KeyboardInterrupt:
            output = {{"status": "cancelled"}}
        running = False
        write(folder / f"{{number}}.out.json", output)
        number += 1

if module.endswith("livy_session"):
    session(argument)
elif module.endswith("notebook"):
    time.sleep(60)
else:
    batch(json.loads(argument.read_text()))
"""


class Lake(dict[str, bytes]):
    """Blobs by name, as far as the service reads them."""

    def download_file(self, container: str, name: str, path: Path) -> str:
        if name not in self:
            raise NotFound(f"There is no blob '{container}/{name}'.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self[name])
        return "etag"


def with_stand_in(settings: Settings, folder: Path) -> Settings:
    """The settings of a home in `folder` whose drivers are the stand-in."""
    host = folder / "host.py"
    host.write_text(HOST)
    host.chmod(host.stat().st_mode | stat.S_IXUSR)
    return replace(settings, home=folder, compute_python=host)


@asynccontextmanager
async def serving(settings: Settings, tokens: Tokens, lake: Lake) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a started service; the same settings again are the same home after a restart."""
    store = Store(settings.home / "store.sqlite")
    service = Synapse(settings, store, warm=0, blobs=cast(BlobStore, lake))
    await service.start()
    token = tokens.issue("me", "https://dev.azuresynapse.net")
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(Api(service.operations(), tokens)),
            base_url="https://localhost",
            headers={"Authorization": f"Bearer {token}"},
        ) as client:
            yield client
    finally:
        await service.stop()
        store.close()


async def until(get: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What `get` answers as soon as it is as wanted."""
    for _ in range(300):
        answer = (await get()).json()
        if wanted(answer):
            return answer
        await asyncio.sleep(0.03)
    raise AssertionError(f"still {answer}")


async def batch_in(client: httpx.AsyncClient, number: int, *states: str) -> dict[str, Any]:
    """A batch, once it is in one of the states."""
    found: dict[str, Any] = await until(
        lambda: client.get(f"{BATCHES}/{number}?detailed=true"), lambda answer: answer["state"] in states
    )
    return found
