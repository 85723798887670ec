"""Azure ML's service in one process: blobs in a folder, MLflow recorded, jobs as real processes of this interpreter."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from localazure import ml
from localazure.core.auth import Tokens
from localazure.core.errors import NotFound
from localazure.core.operations import LongRunning
from localazure.core.registry import Api
from localazure.core.service import Service, ServiceContext
from localazure.core.store import Store
from localazure.ml.assets import Assets
from localazure.settings import Settings
from localazure.storage.blobs import Blob
from localazure.storage.locations import Location


class FolderBlobs:
    """The part of BlobStore that the service uses, over a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create_container(self, container: str) -> None:
        (self.root / container).mkdir(parents=True, exist_ok=True)

    def list(self, container: str, prefix: str = "") -> Any:
        base = self.root / container
        files = {path.relative_to(base).as_posix(): path.stat() for path in base.rglob("*") if path.is_file()}
        return [
            Blob(name, stat.st_size, str(stat.st_mtime_ns), None)  # type: ignore[arg-type]
            for name, stat in sorted(files.items())
            if name.startswith(prefix)
        ]

    def write(self, container: str, name: str, data: bytes, content_type: str = "") -> None:
        path = self.root / container / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def upload_tree(self, local: Path, location: Location) -> Any:
        files = [local] if local.is_file() else [path for path in sorted(local.rglob("*")) if path.is_file()]
        for path in files:
            name = location.path if local.is_file() else location.join(path.relative_to(local).as_posix()).path
            self.write(location.container, name, path.read_bytes())
        return files

    def delete(self, container: str, name: str) -> bool:
        (self.root / container / name).unlink()
        return True

    def materialize(self, location: Location) -> Path:
        path = self.root / location.container / location.path
        if not path.exists():
            raise NotFound(f"There is nothing at '{location}'.")
        return path

    def sas(self, container: str, name: str | None = None, permissions: str = "rl", hours: float = 24) -> str:
        return f"sp={permissions}"

    def url(self, container: str, name: str = "") -> str:
        return f"https://blobs/{container}/{name}"


class RecordedRuns:
    """What would have been sent to MLflow's server."""

    def __init__(self) -> None:
        self.created: dict[str, str] = {}
        self.ended: dict[str, str] = {}
        self.nested: dict[str, tuple[str | None, str | None]] = {}
        self.logged: dict[str, Path] = {}

    async def ready(self, seconds: float = 0) -> None: ...

    async def close(self) -> None: ...

    async def create(
        self,
        name: str,
        experiment: str,
        display_name: str,
        tags: Mapping[str, str],
        *,
        parent: str | None = None,
        root: str | None = None,
    ) -> str:
        self.created[name] = experiment
        self.nested[name] = (parent, root)
        return "7"

    async def end(self, name: str, state: str) -> None:
        self.ended[name] = state

    async def artifacts(self, name: str, experiment_id: str) -> list[tuple[str, Path]]:
        return [(path, folder) for path, folder in self.logged.items()]

    async def set_tags(self, name: str, tags: Mapping[str, str]) -> None: ...


class Client:
    """The service's API, in the SDK's place."""

    def __init__(self, api: Api, settings: Settings, tokens: Tokens) -> None:
        self.settings = settings
        transport = httpx.ASGITransport(app=api)
        token = tokens.issue("test", "https://management.azure.com")
        self._http = httpx.AsyncClient(
            transport=transport, base_url="https://localhost", headers={"Authorization": f"Bearer {token}"}
        )

    async def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """`path` is below the workspace unless it begins with "/"."""
        url = path if path.startswith("/") else f"{self.settings.workspace_id}/{path}"
        return await self._http.request(method, url, json=body, headers=headers)

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a successful answer."""
        answer = await self.send(method, path, body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def put(self, path: str, **properties: Any) -> Any:
        return await self.ok("PUT", path, {"properties": properties})

    async def finished(self, name: str, *states: str) -> Any:
        """The job once it is in one of `states` (final ones if none are given)."""
        wanted = states or ("Completed", "Failed", "Canceled")
        for _ in range(400):
            job = await self.ok("GET", f"jobs/{name}")
            if job["properties"]["status"] in wanted:
                return job
            await asyncio.sleep(0.03)
        raise AssertionError(f"{name} is {job['properties']['status']}")

    async def error(self, name: str) -> str:
        """The message of a failed run."""
        path = f"/history/v1.0{self.settings.workspace_id}/runs/{name}/details"
        return str((await self.ok("GET", path))["error"]["error"]["message"])


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings.load(tmp_path / "home", compute_python=sys.executable)


@pytest.fixture
def blobs(home: Settings) -> FolderBlobs:
    blobs = FolderBlobs(home.home / "blobs")
    blobs.write("azureml", "data/rows.csv", b"a\n1\n")
    return blobs


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> RecordedRuns:
    recorded = RecordedRuns()
    monkeypatch.setattr(ml, "TrackingRuns", lambda settings: recorded)
    return recorded


@pytest.fixture
def context(home: Settings, blobs: FolderBlobs) -> ServiceContext:
    store = Store(home.store_file)
    tokens = Tokens(home)
    return ServiceContext(home, store, blobs, tokens, LongRunning(store, home))  # type: ignore[arg-type]


@pytest.fixture
def assets(context: ServiceContext) -> Assets:
    return Assets(context.store, context.blobs, context.settings)


@pytest.fixture
def with_client(context: ServiceContext, runs: RecordedRuns) -> Any:
    """Runs an async test against the started service: `with_client(async def(client))`.

    `others` are the `build` functions of services that are built on it.
    """

    def run(test: Callable[[Client], Awaitable[None]], *others: Callable[[ServiceContext], Service]) -> None:
        async def live() -> None:
            async for client in started(context, *others):
                await test(client)

        asyncio.run(live())

    return run


async def started(context: ServiceContext, *others: Callable[[ServiceContext], Service]) -> AsyncIterator[Client]:
    service = ml.build(context)
    operations = [*service.operations(), *context.long_running.operations()]
    operations += [operation for build in others for operation in build(context).operations()]
    await service.start()
    try:
        yield Client(Api(operations, context.tokens), context.settings, context.tokens)
    finally:
        await service.stop()


class Compute:
    """Runs code of the compute environment, where pandas and scikit-learn are, from tests that have neither."""

    source = Path(__file__).resolve().parents[2] / "compute"
    python = source.parents[1] / "var/env/compute/bin/python"

    def run(self, *arguments: str | Path, own: bool = True) -> subprocess.CompletedProcess[str]:
        """The interpreter with these arguments; `own` says whether localazure's compute code is importable."""
        environment = {"PATH": os.environ["PATH"], "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
        if own:
            environment["PYTHONPATH"] = str(self.source)
        return subprocess.run(
            [self.python, *arguments], env=environment, capture_output=True, text=True, timeout=180, check=False
        )

    def answer(self, script: str, *arguments: str | Path, own: bool = True) -> Any:
        """What a script prints as JSON in its last line."""
        ended = self.run("-c", textwrap.dedent(script), *arguments, own=own)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return json.loads(ended.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def compute() -> Compute:
    """The compute environment's interpreter; the test is skipped where it isn't built."""
    if not Compute.python.exists():
        pytest.skip("the compute environment isn't built (bin/up builds it)")
    return Compute()
