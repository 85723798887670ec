"""Livy batches: `/livyApi/versions/.../sparkPools/{pool}/batches`.

A batch is a Python script or a jar's main class on a local Spark of its own (`localazure_compute.spark_job`), with a
folder (`drivers`) that stays: `<home>/livy/batches/<pool>/<id>/`. States: not_started (waiting for its turn in the
pool) -> starting (its files are fetched) -> running -> success | dead | killed. A batch doesn't outlive localazure:
what was active when it ended is dead, and its errorInfo says so.

Shapes: SparkBatchJob* in Azure/azure-rest-api-specs, specification/synapse/data-plane/Microsoft.Synapse/preview/
2019-11-01-preview/sparkJob.json; `/log` and `/state`: https://livy.apache.org/docs/latest/rest-api.html
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse

from localazure.core.auth import Identity
from localazure.core.errors import AzureError
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.settings import Settings
from localazure.synapse import driver_failures, drivers, livy_documents, livy_queries, livy_requests, pages
from localazure.synapse.capacity import Capacity
from localazure.synapse.driver_failures import Cause
from localazure.synapse.drivers import Drivers
from localazure.synapse.livy_documents import Document
from localazure.synapse.livy_records import Records, key_of
from localazure.synapse.livy_requests import LivyRequest
from localazure.synapse.pools import Pools

log = logging.getLogger(__name__)

KIND = "synapse.batch"
PATH = livy_queries.POOL + "/batches"
_PAGE, _LOG_PAGE = 20, 100
_TAIL = 200
_PAGE_LINES = 500
_GRACE_SECONDS = 2.0
_SETTLE_SECONDS = 5.0
_POLL_SECONDS = 0.1


class Batches:
    """Accepts, runs, shows and cancels batches."""

    def __init__(
        self, settings: Settings, store: Store, driver_processes: Drivers, pools: Pools, capacity: Capacity
    ) -> None:
        self._settings = settings
        self._records = Records(store, KIND, "batch")
        self._drivers = driver_processes
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
            *(
                Operation(name, method, path, handler, "synapse", body_limit=livy_queries.BODY_LIMIT)
                for name, method, path, handler in rows
            ),
            # Where links lead: Azure has Synapse Studio for it. A browser brings no token.
            Operation("SparkBatch_Page", "GET", one + "/view", self._page, None),
        ]

    def recover(self) -> int:
        """End, by name, what an earlier process left active; how many there were."""
        lost = self._records.active()
        for document in lost:
            self._lose(document, "localazure was restarted while it was active.")
        return len(lost)

    async def stop(self) -> None:
        """End the active batches, as dead by name."""
        for document in self._records.active():
            self._lose(document, "localazure was stopped while it was active.")
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def submit(self, pool: str, request: LivyRequest, submitter: str) -> Document:
        """Take a batch in: its record. Raises NotFound, BadRequest or AzureError 429, naming what is wrong."""
        extent = self._pools.extent(pool)
        extent.check(request.size)
        self._drivers.check(request)
        self._capacity.check_queue(pool)
        document = livy_documents.new(
            self._records.next_number(pool),
            request,
            job_type="SparkBatch",
            workspace=self._settings.workspace,
            pool=extent.pool,
            submitter=submitter,
        )
        key = self._records.add(document)
        task = asyncio.create_task(self._execute(key, document, request), name=f"Livy batch {key}")
        self._tasks[key] = task
        task.add_done_callback(lambda _task: self._tasks.pop(key, None))
        return document

    def document(self, pool: str, batch: str) -> Document:
        """A batch's record. Raises NotFound, naming it."""
        self._pools.resource(pool)
        return self._records.get(pool, batch)

    async def shown(self, document: Document, *, is_detailed: bool) -> Document:
        """The record as a client sees it."""
        lines = await asyncio.to_thread(self._drivers.last_lines, document, livy_documents.LOG_LINES)
        return livy_documents.view(document, lines, is_detailed=is_detailed)

    # Operations.
    async def _list(self, request: Request, identity: Identity) -> Answer:
        pool = self._addressed(request)
        first, size = livy_queries.whole(request, "from", 0), min(livy_queries.whole(request, "size", _PAGE), _PAGE)
        every = self._records.list(pool)
        page = [
            await self.shown(document, is_detailed=livy_queries.is_detailed(request))
            for document in every[first : first + size]
        ]
        return {"from": first, "total": len(every), "sessions": page}

    async def _create(self, request: Request, identity: Identity) -> Answer:
        pool = self._addressed(request)
        asked = livy_requests.parse(await request.json(), "SparkBatch_CreateSparkBatchJob", is_batch=True)
        return await self.shown(
            self.submit(pool, asked, identity.subject), is_detailed=livy_queries.is_detailed(request)
        )

    async def _get(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        return await self.shown(document, is_detailed=livy_queries.is_detailed(request))

    async def _cancel(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        key = key_of(document)
        # An ended batch stays as it is, and the answer is the same: a client may repeat a cancellation.
        self._records.end(key, "killed")
        if task := self._tasks.get(key):
            task.cancel()
            await asyncio.wait([task])
        return {"msg": "deleted"}

    async def _log(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        path = Path(document["folder"]) / drivers.LOG if document["folder"] else None
        first = livy_queries.whole(request, "from", -1)
        page = await asyncio.to_thread(
            livy_documents.log_page, document, path, first, livy_queries.whole(request, "size", _LOG_PAGE)
        )
        return page | {"log": self._drivers.cleaned(document, page["log"])}

    async def _state(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        return {"id": document["id"], "state": document["state"]}

    async def _page(self, request: Request, identity: Identity) -> Answer:
        document = self.document(self._addressed(request), request.path_params["batch"])
        lines = await asyncio.to_thread(self._drivers.last_lines, document, _PAGE_LINES)
        return HTMLResponse(pages.batch_page(document, lines), headers=pages.HEADERS)

    def _addressed(self, request: Request) -> str:
        """The pool of a request's address. Raises BadRequest for another version of the API, NotFound for the pool."""
        livy_queries.check_version(request)
        return str(self._pools.resource(request.path_params["pool"])["name"])

    def _lose(self, document: Document, words: str) -> None:
        self._records.end(
            key_of(document), "dead", self._drivers.errors(document, words, Cause("DriverLost", words, "System"))
        )

    # Execution.
    async def _execute(self, key: str, document: Document, request: LivyRequest) -> None:
        try:
            async with self._capacity.place(document["sparkPoolName"], request.size):
                self._records.change(key, livy_documents.scheduled)
                await self._run(key, document, request)
        except asyncio.CancelledError:
            pass  # the batch's end is written down by who cancelled
        except AzureError as error:
            cause = Cause(error.code, error.message, "User")
            self._records.end(key, "dead", self._drivers.errors(document, error.message, cause))
        except Exception as error:
            log.exception("Livy batch %s failed in localazure", key)
            cause = Cause(type(error).__name__, str(error), "System")
            self._records.end(key, "dead", self._drivers.errors(document, str(error), cause))

    async def _run(self, key: str, document: Document, request: LivyRequest) -> None:
        folder = self._root / key
        document = document | {"folder": str(folder)}
        self._records.change(key, lambda known: livy_documents.moved(known | {"folder": str(folder)}, "starting"))
        try:
            await asyncio.to_thread(self._drivers.prepare, folder, request)
            code = await self._drive(key, folder)
        finally:
            await asyncio.to_thread(drivers.tidy, folder)
        if code == 0:
            self._records.end(key, "success")
            return
        lines = await asyncio.to_thread(self._drivers.last_lines, document, _TAIL)
        cause = driver_failures.cause(lines, code, PurePosixPath(urlsplit(request.file).path).name)
        self._records.end(key, "dead", self._drivers.errors(document, cause=cause))

    async def _drive(self, key: str, folder: Path) -> int:
        """Run the driver; its exit code. It never outlives this call."""
        process = self._drivers.start(folder, "localazure_compute.spark_job", folder / "plan.json")
        try:
            self._records.change(key, lambda known: livy_documents.moved(known, "running"))
            while (code := process.poll()) is None and not (folder / "app_id").exists():
                await asyncio.sleep(_POLL_SECONDS)
            if code is None:
                app_id = (folder / "app_id").read_text()
                self._records.change(key, lambda known: known | {"appId": app_id})
            code = await process.wait()
            # Spark's JVM tidies up after its Python has ended; a signal in the midst of it would show in the log.
            await process.settle(_SETTLE_SECONDS)
            return code
        finally:
            await process.aterminate(_GRACE_SECONDS)
