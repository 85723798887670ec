"""Livy batches: `/livyApi/versions/.../sparkPools/{pool}/batches`.

A batch is a Python script or a jar's main class on a local Spark of its own (`localazure_compute.spark_job`), a process
with its own folder below `<home>/livy/batches/<pool>/<id>/`: the files that were run, the plan, and `driver.log` with
what the driver wrote to stdout and stderr. They stay there. States: not_started (it waits for its turn in the pool)
-> starting (its files are fetched) -> running -> success | dead | killed. A batch doesn't outlive localazure: what was
active when it ended is dead, and its errorInfo says so.

Shapes: SparkBatchJob* in Azure/azure-rest-api-specs, specification/synapse/data-plane/Microsoft.Synapse/preview/
2019-11-01-preview/sparkJob.json; `/log` and `/state`: https://livy.apache.org/docs/latest/rest-api.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest, NotFound
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.executors import processes
from localazure.settings import Settings
from localazure.storage import locations
from localazure.storage.blobs import BlobStore
from localazure.synapse import driver_failures, livy_documents, livy_requests, spark_process
from localazure.synapse.capacity import Capacity
from localazure.synapse.livy_documents import ENDED, Document
from localazure.synapse.livy_requests import LivyRequest
from localazure.synapse.pools import Pools

log = logging.getLogger(__name__)

KIND = "synapse.batch"
PATH = "/livyApi/versions/{version}/sparkPools/{pool}/batches"
VERSIONS = frozenset({"2019-11-01-preview", "2020-12-01", "2022-02-22-preview"})
#: https://learn.microsoft.com/rest/api/synapse/concurrency-limits-spark-pools
BODY_LIMIT = 100 * 1024
_PAGE, _LOG_PAGE = 20, 100
_KEPT = frozenset({"driver.log", "plan.json", "files"})
_TAIL = 200
_GRACE_SECONDS = 2.0
_POLL_SECONDS = 0.1
_EXAMINED = frozenset({"abfss", "abfs", "wasbs", "wasb", "https", "http"})


class Batches:
    """Accepts, runs, shows and cancels batches."""

    def __init__(self, settings: Settings, store: Store, blobs: BlobStore, pools: Pools, capacity: Capacity) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._pools = pools
        self._capacity = capacity
        self._root = settings.home / "livy" / "batches"
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def operations(self) -> list[Operation]:
        """Livy's operations on batches, under the names of Microsoft's clients."""
        one = PATH + "/{batch}"
        rows = [
            ("SparkBatch_GetSparkBatchJobs", "GET", PATH, self._list),
            ("SparkBatch_CreateSparkBatchJob", "POST", PATH, self._create),
            ("SparkBatch_GetSparkBatchJob", "GET", one, self._get),
            ("SparkBatch_CancelSparkBatchJob", "DELETE", one, self._cancel),
            ("SparkBatch_GetLog", "GET", one + "/log", self._log),
            ("SparkBatch_GetState", "GET", one + "/state", self._state),
        ]
        return [
            Operation(name, method, path, handler, "synapse", body_limit=BODY_LIMIT)
            for name, method, path, handler in rows
        ]

    def is_active(self, pool: str) -> bool:
        """Whether a batch of the pool hasn't ended."""
        return any(document["state"] not in ENDED for document in self._store.list(KIND, f"{pool.lower()}/"))

    def recover(self) -> int:
        """End, by name, what an earlier process left active; how many there were."""
        lost = [document for document in self._store.list(KIND) if document["state"] not in ENDED]
        for document in lost:
            self._end(
                _key(document), "dead", self._errors(document, "localazure was restarted while it was active.", [])
            )
        return len(lost)

    async def stop(self) -> None:
        """End the active batches, as dead by name."""
        for key, task in list(self._tasks.items()):
            document = self._store.get(KIND, key)
            if document is not None:
                self._end(key, "dead", self._errors(document, "localazure was stopped while it was active.", []))
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def submit(self, pool: str, request: LivyRequest, submitter: str) -> Document:
        """Take a batch in: its record. Raises NotFound, BadRequest or AzureError 429, naming what is wrong."""
        extent = self._pools.extent(pool)
        extent.check(request.size)
        self._check_addresses(request)
        self._capacity.check_queue(pool)
        number = self._next_number(pool)
        document = livy_documents.new(
            number,
            request,
            job_type="SparkBatch",
            workspace=self._settings.workspace,
            pool=extent.pool,
            submitter=submitter,
        )
        key = _key(document)
        self._store.put(KIND, key, document)
        task = asyncio.create_task(self._execute(key, document, request), name=f"Livy batch {key}")
        self._tasks[key] = task
        task.add_done_callback(lambda _task: self._tasks.pop(key, None))
        return document

    def document(self, pool: str, batch: str) -> Document:
        """A batch's record. Raises NotFound, naming it."""
        self._pools.resource(pool)
        document = self._store.get(KIND, f"{pool.lower()}/{int(batch):010d}") if batch.isdecimal() else None
        if document is None:
            raise NotFound(f"There is no batch {batch!r} in the Spark pool {pool!r}.", batch, "LivyBatchNotFound")
        return document

    async def shown(self, document: Document, *, is_detailed: bool) -> Document:
        """The record as a client sees it."""
        lines = await asyncio.to_thread(self._last_lines, document, livy_documents.LOG_LINES)
        return livy_documents.view(document, lines, is_detailed=is_detailed)

    # Operations.
    async def _list(self, request: Request, identity: Identity) -> Answer:
        pool = self._addressed(request)
        first, size = _whole(request, "from", 0), min(_whole(request, "size", _PAGE), _PAGE)
        every = self._store.list(KIND, f"{pool.lower()}/")
        page = [await self.shown(document, is_detailed=_detailed(request)) for document in every[first : first + size]]
        return {"from": first, "total": len(every), "sessions": page}

    async def _create(self, request: Request, identity: Identity) -> Answer:
        pool = self._addressed(request)
        asked = livy_requests.parse(await request.json(), "SparkBatch_CreateSparkBatchJob", is_batch=True)
        return await self.shown(self.submit(pool, asked, identity.subject), is_detailed=_detailed(request))

    async def _get(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        return await self.shown(document, is_detailed=_detailed(request))

    async def _cancel(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        key = _key(document)
        # An ended batch stays as it is, and the answer is the same: a client may repeat a cancellation.
        self._end(key, "killed")
        if task := self._tasks.get(key):
            task.cancel()
            await asyncio.wait([task])
        return {"msg": "deleted"}

    async def _log(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        path = Path(document["folder"]) / "driver.log" if document["folder"] else None
        first = _whole(request, "from", -1)
        page = await asyncio.to_thread(
            livy_documents.log_page, document, path, first, _whole(request, "size", _LOG_PAGE)
        )
        return page | {"log": [self._cleaned(document, line) for line in page["log"]]}

    async def _state(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        return {"id": document["id"], "state": document["state"]}

    def _addressed(self, request: Request) -> str:
        """The pool of a request's address. Raises BadRequest for another version of the API, NotFound for the pool."""
        check_version(request)
        return str(self._pools.resource(request.path_params["pool"])["name"])

    def _check_addresses(self, request: LivyRequest) -> None:
        """Whether every file's address can be understood; whether something is there is seen when it runs."""
        named = [("file", request.file)]
        for field, addresses in (
            ("jars", request.jars),
            ("pyFiles", request.py_files),
            ("files", request.files),
            ("archives", request.archives),
        ):
            named += [(f"{field}[{index}]", address) for index, address in enumerate(addresses)]
        for field, address in named:
            if urlsplit(address).scheme not in _EXAMINED:
                raise BadRequest(
                    f"{field} must be an address in the lake (abfss://<container>@<account>.dfs.core.windows.net/<path>),"
                    f" not {address!r}.",
                    field,
                )
            try:
                locations.parse(address.partition("#")[0], self._settings)
            except AzureError as error:
                raise BadRequest(f"{field}: {error.message}", field) from None

    # Execution.
    async def _execute(self, key: str, document: Document, request: LivyRequest) -> None:
        try:
            async with self._capacity.place(document["sparkPoolName"], request.size):
                self._change(key, livy_documents.scheduled)
                await self._run(key, document, request)
        except asyncio.CancelledError:
            pass  # the batch's end is written down by who cancelled
        except AzureError as error:
            self._end(key, "dead", self._errors(document, error.message, [(error.code, error.message, "User")]))
        except Exception as error:
            log.exception("Livy batch %s failed in localazure", key)
            self._end(key, "dead", self._errors(document, str(error), [(type(error).__name__, str(error), "System")]))

    async def _run(self, key: str, document: Document, request: LivyRequest) -> None:
        folder = self._root / key
        self._change(key, lambda known: livy_documents.moved(known | {"folder": str(folder)}, "starting"))
        document = document | {"folder": str(folder)}
        await asyncio.to_thread(_make, folder)
        try:
            plan = await asyncio.to_thread(self._plan, folder, document, request)
            (folder / "plan.json").write_text(json.dumps(plan, indent=2))
            code = await self._drive(key, folder)
        finally:
            await asyncio.to_thread(_tidy, folder)
        if code == 0:
            self._end(key, "success")
            return
        lines = await asyncio.to_thread(self._last_lines, document, _TAIL)
        cause = driver_failures.cause(lines, code, PurePosixPath(urlsplit(request.file).path).name)
        self._end(key, "dead", self._errors(document, "", [(cause.name, cause.message, cause.source)]))

    async def _drive(self, key: str, folder: Path) -> int:
        """Run the driver; its exit code. It never outlives this call."""
        process = processes.start(
            [str(self._settings.compute_python), "-m", "localazure_compute.spark_job", str(folder / "plan.json")],
            env=spark_process.environment(self._settings, folder) | {"LOCALAZURE_SESSION_FOLDER": str(folder)},
            cwd=folder / "work",
            log=folder / "driver.log",
        )
        try:
            self._change(key, lambda known: livy_documents.moved(known, "running"))
            while (code := process.poll()) is None and not (folder / "app_id").exists():
                await asyncio.sleep(_POLL_SECONDS)
            if code is None:
                app_id = (folder / "app_id").read_text()
                self._change(key, lambda known: known | {"appId": app_id})
            return await process.wait()
        finally:
            await process.aterminate(_GRACE_SECONDS)

    def _plan(self, folder: Path, document: Document, request: LivyRequest) -> Document:
        """What `localazure_compute.spark_job` is to do; its files are fetched. Raises NotFound, naming the file."""

        def fetched(field: str, address: str) -> str:
            plain, mark, alias = address.partition("#")
            location = locations.parse(plain, self._settings)
            target = folder / "files" / PurePosixPath(location.path).name
            try:
                self._blobs.download_file(location.container, location.path, target)
            except NotFound:
                raise NotFound(f"{field}: {plain} doesn't exist.", field, "PathNotFound") from None
            return f"{target}{mark}{alias}"

        return {
            "entry": fetched("file", request.file),
            "className": request.class_name if not request.is_python else "",
            "args": request.args,
            "conf": livy_requests.spark_conf(request),
            "runtime": None,
            "driverMegabytes": livy_requests.driver_megabytes(request),
            "followsParent": True,
            "appIdFile": str(folder / "app_id"),
            "pyFiles": [fetched(f"pyFiles[{n}]", address) for n, address in enumerate(request.py_files)],
            "jars": [fetched(f"jars[{n}]", address) for n, address in enumerate(request.jars)],
            "files": [fetched(f"files[{n}]", address) for n, address in enumerate(request.files)],
            "archives": [fetched(f"archives[{n}]", address) for n, address in enumerate(request.archives)],
        }

    # Records.
    def _next_number(self, pool: str) -> int:
        counter = f"batch/{pool.lower()}"
        self._store.insert("synapse.counter", counter, {"value": -1})
        changed = self._store.update("synapse.counter", counter, lambda known: {"value": known["value"] + 1})
        return int(changed["value"])

    def _change(self, key: str, change: Callable[[Document], Document]) -> bool:
        """Change an active batch; whether it was one (an ended batch never changes)."""
        changed = False

        def apply(known: Document) -> Document:
            nonlocal changed
            changed = known["state"] not in ENDED
            return change(known) if changed else known

        self._store.update(KIND, key, apply)
        return changed

    def _end(self, key: str, state: str, errors: list[Document] | None = None) -> bool:
        return self._change(key, lambda known: livy_documents.ended(known, state, errors))

    def _errors(self, document: Document, words: str, causes: list[tuple[str, str, str]]) -> list[Document]:
        """errorInfo: the service's own sentence, then what it doesn't tell, the cause."""
        # The sentence: https://github.com/feathr-ai/feathr/issues/654
        pool, number = document["sparkPoolName"], document["id"]
        sentence = (
            f"[plugins.{self._settings.workspace}.{pool}.{number} WorkspaceType:<Synapse>] [Monitoring] Livy "
            f"Endpoint=[{self._settings.api_url}/livyApi]. Livy Id=[{number}] Job failed during run time with "
            f"state=[dead]. {words}"
        ).rstrip()
        return [
            {"message": sentence, "errorCode": "LIVY_JOB_STATE_DEAD", "source": "Unknown"},
            *({"message": text, "errorCode": code, "source": source} for code, text, source in causes),
        ]

    def _last_lines(self, document: Document, count: int) -> list[str]:
        if not document["folder"]:
            return []
        lines = processes.tail(Path(document["folder"]) / "driver.log", count)
        return [self._cleaned(document, line) for line in lines]

    def _cleaned(self, document: Document, line: str) -> str:
        """A line with the lake's addresses and plain file names in place of this machine's paths."""
        folder = re.escape(str(document["folder"]).strip("/"))
        account = self._settings.storage_account
        line = re.sub(rf"(?:file:)?/*{folder}/lake/([^/\s]+)/", rf"abfss://\1@{account}.dfs.core.windows.net/", line)
        return re.sub(rf"(?:file:)?/*{folder}/(?:files|work)/", "", line)


def check_version(request: Request) -> None:
    """Raise BadRequest for a version of the Livy API that Synapse doesn't have."""
    version = request.path_params["version"]
    if version.lower() not in VERSIONS:
        raise BadRequest(
            f"The version {version!r} of the Livy API is invalid; there are {', '.join(sorted(VERSIONS))}.",
            "livyApiVersion",
            "InvalidApiVersionParameter",
        )


def _key(document: Document) -> str:
    return f"{document['sparkPoolName'].lower()}/{document['id']:010d}"


def _detailed(request: Request) -> bool:
    return request.query_params.get("detailed", "").lower() == "true"


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise BadRequest(f"{name} must be a whole number, not {text!r}.", name) from None


def _make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("tmp", "work", "files"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o700)


def _tidy(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name not in _KEPT:
            with contextlib.suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
