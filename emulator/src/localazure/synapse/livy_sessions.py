"""Livy sessions and their statements: `/livyApi/versions/.../sparkPools/{pool}/sessions`.

A session is a process with a SparkContext (`localazure_compute.livy_session`, which says what its files mean) that runs
statements one after the other. States: not_started -> starting -> idle <-> busy -> killed (deleted, or unused for too
long) | dead (its process ended) | error (the pool has no room: interactive sessions don't queue,
https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-concepts#examples). A statement is waiting,
running, available (an error of its code as well: its output says so), cancelling, cancelled, or error (the session
ended under it).

Shapes: SparkSession*, SparkStatement* in Azure/azure-rest-api-specs, specification/synapse/data-plane/
Microsoft.Synapse/preview/2019-11-01-preview/sparkJob.json, and https://livy.apache.org/docs/latest/rest-api.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any

from starlette.requests import Request

from localazure.core.auth import Identity
from localazure.core.errors import AzureError, BadRequest, Conflict, NotFound, NotImplementedOperation
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.executors import processes
from localazure.settings import Settings
from localazure.synapse import driver_failures, drivers, livy_documents, livy_queries, livy_requests
from localazure.synapse.capacity import Capacity
from localazure.synapse.driver_failures import Cause
from localazure.synapse.drivers import Drivers
from localazure.synapse.livy_documents import ENDED, Document
from localazure.synapse.livy_records import Records, key_of
from localazure.synapse.livy_requests import LivyRequest
from localazure.synapse.pools import Pools

log = logging.getLogger(__name__)

KIND = "synapse.livy_session"
STATEMENT = "synapse.livy_statement"
PATH = livy_queries.POOL + "/sessions"
#: Unused for so long a session ends, unless it says otherwise (`heartbeatTimeoutInSecond`, as Livy has it).
IDLE_SECONDS = 30 * 60
KINDS = ("spark", "pyspark", "sql")
_NOT_HERE = ("sparkr", "dotnetspark", "csharp")
_OWN_KEYS = frozenset({"kind", "heartbeatTimeoutInSecond"})
_PAGE = 20
_TAIL = 200
_POLL_SECONDS = 0.05
_INTERRUPT_SECONDS = 0.5
_START_SECONDS = 180.0
_GRACE_SECONDS = 2.0


class _Live:
    """A session's process and what it is doing; only of sessions that haven't ended."""

    def __init__(self, folder: Path, idle_seconds: float) -> None:
        self.folder = folder
        self.idle_seconds = idle_seconds
        self.used = time.monotonic()
        self.process: processes.Process | None = None
        self.waiting: deque[int] = deque()
        self.task: asyncio.Task[None] | None = None

    def touch(self) -> None:
        """It was used just now."""
        self.used = time.monotonic()

    @property
    def is_stale(self) -> bool:
        return time.monotonic() - self.used > self.idle_seconds

    def status(self) -> Document:
        """What the process last wrote."""
        with contextlib.suppress(FileNotFoundError):
            status: Document = json.loads((self.folder / "status.json").read_text())
            return status
        return {"state": "starting"}

    def output(self, number: int) -> Document | None:
        """A statement's output, once it is there."""
        with contextlib.suppress(FileNotFoundError):
            output: Document = json.loads((self.folder / f"{number}.out.json").read_text())
            return output
        return None

    def interrupt(self) -> None:
        """Have the process leave the statement it runs; it doesn't care when it runs none."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                # The process alone: in its group Spark's JVM would hear it as well.
                os.kill(self.process.pid, signal.SIGINT)


class LivySessions:
    """Accepts, runs, shows and ends sessions, and runs their statements."""

    def __init__(
        self, settings: Settings, store: Store, driver_processes: Drivers, pools: Pools, capacity: Capacity
    ) -> None:
        self._settings = settings
        self._store = store
        self._records = Records(store, KIND, "session")
        self._drivers = driver_processes
        self._pools = pools
        self._capacity = capacity
        self._root = settings.home / "livy" / "sessions"
        self._live: dict[str, _Live] = {}

    def operations(self) -> list[Operation]:
        """Livy's operations on sessions, under the names of Microsoft's clients."""
        one, prefix = PATH + "/{session}", "SparkSession_"
        statements = one + "/statements"
        rows = [
            (prefix + "GetSparkSessions", "GET", PATH, self._list),
            (prefix + "CreateSparkSession", "POST", PATH, self._create),
            (prefix + "GetSparkSession", "GET", one, self._get),
            (prefix + "CancelSparkSession", "DELETE", one, self._delete),
            (prefix + "ResetSparkSessionTimeout", "PUT", one + "/reset-timeout", self._reset),
            (prefix + "GetLog", "GET", one + "/log", self._log),
            (prefix + "GetState", "GET", one + "/state", self._state),
            (prefix + "GetSparkStatements", "GET", statements, self._statements),
            (prefix + "CreateSparkStatement", "POST", statements, self._create_statement),
            (prefix + "GetSparkStatement", "GET", statements + "/{statement}", self._statement),
            (prefix + "CancelSparkStatement", "POST", statements + "/{statement}/cancel", self._cancel_statement),
        ]
        return [
            Operation(name, method, path, handler, "synapse", body_limit=livy_queries.BODY_LIMIT)
            for name, method, path, handler in rows
        ]

    def recover(self) -> int:
        """End, by name, what an earlier process left active; how many there were."""
        lost = self._records.active()
        for document in lost:
            self._lose(document, "localazure was restarted while it was active.")
        return len(lost)

    async def stop(self) -> None:
        """End the active sessions, as dead by name."""
        for document in self._records.active():
            self._lose(document, "localazure was stopped while it was active.")
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Sessions.
    async def _list(self, request: Request, identity: Identity) -> Answer:
        pool = self._pool(request)
        first = livy_queries.whole(request, "from", 0)
        size = min(livy_queries.whole(request, "size", _PAGE), _PAGE)
        every = self._records.list(pool)
        page = [await self._shown(document, request) for document in every[first : first + size]]
        return {"from": first, "total": len(every), "sessions": page}

    async def _create(self, request: Request, identity: Identity) -> Answer:
        pool = self._pool(request)
        body = await request.json()
        asked = livy_requests.parse(body, "SparkSession_CreateSparkSession", is_batch=False, more=_OWN_KEYS)
        kind, idle_seconds = _kind(body.get("kind"), "SparkSession_CreateSparkSession"), _idle_seconds(body)
        extent = self._pools.extent(pool)
        extent.check(asked.size)
        self._drivers.check(asked)
        document = livy_documents.new(
            self._records.next_number(pool),
            asked,
            job_type="SparkSession",
            workspace=self._settings.workspace,
            pool=extent.pool,
            submitter=identity.subject,
        )
        document["kind"] = kind
        key = self._records.add(document)
        if self._capacity.is_free(pool, asked.size):
            live = self._live[key] = _Live(self._root / key, idle_seconds)
            live.task = asyncio.create_task(self._serve(key, document, asked, live), name=f"Livy session {key}")
            live.task.add_done_callback(lambda _task: self._live.pop(key, None))
        else:
            self._records.end(key, "error", [self._no_room(pool, asked)])
        return await self._shown(self._records.get(pool, str(document["id"])), request)

    async def _get(self, request: Request, identity: Identity) -> Answer:
        return await self._shown(self._document(request), request)

    async def _delete(self, request: Request, identity: Identity) -> Answer:
        key = key_of(self._document(request))
        # An ended session stays as it is, and the answer is the same: a client may repeat it.
        self._end(key, "killed")
        live = self._live.get(key)
        if live is not None and live.task is not None:
            live.task.cancel()
            await asyncio.wait([live.task])
        return {"msg": "deleted"}

    async def _reset(self, request: Request, identity: Identity) -> Answer:
        self._alive(self._document(request)).touch()
        return {"msg": "reset"}

    async def _log(self, request: Request, identity: Identity) -> Answer:
        document = self._document(request)
        path = Path(document["folder"]) / drivers.LOG if document["folder"] else None
        first, size = livy_queries.whole(request, "from", -1), livy_queries.whole(request, "size", 100)
        page = await asyncio.to_thread(livy_documents.log_page, document, path, first, size)
        return page | {"log": self._drivers.cleaned(document, page["log"])}

    async def _state(self, request: Request, identity: Identity) -> Answer:
        document = self._document(request)
        return {"id": document["id"], "state": document["state"]}

    # Statements.
    async def _statements(self, request: Request, identity: Identity) -> Answer:
        every = self._store.list(STATEMENT, f"{key_of(self._document(request))}/")
        first = livy_queries.whole(request, "from", 0)
        size = livy_queries.whole(request, "size", len(every))
        return {"total_statements": len(every), "statements": every[first : first + size]}

    async def _create_statement(self, request: Request, identity: Identity) -> Answer:
        document = self._document(request)
        body = await request.json()
        code = body.get("code") if isinstance(body, dict) else None
        if not isinstance(code, str):
            raise BadRequest("code must be text.", "code")
        operation = "SparkSession_CreateSparkStatement"
        kind = _kind(body.get("kind"), operation) or document["kind"]
        if kind is None:
            raise BadRequest(f"kind is required, as the session has none: one of {', '.join(KINDS)}.", "kind")
        live = self._alive(document)
        if document["state"] not in ("idle", "busy"):
            raise Conflict(f"Session {document['id']} is in state {document['state']}.", code="LivySessionNotReady")
        live.touch()
        prefix = f"{key_of(document)}/"
        number = len(self._store.list(STATEMENT, prefix))
        statement = {"id": number, "code": code, "kind": kind, "state": "waiting", "output": None, "progress": 0.0}
        self._store.put(STATEMENT, f"{prefix}{number:06d}", statement)
        live.waiting.append(number)
        return statement

    async def _statement(self, request: Request, identity: Identity) -> Answer:
        return self._find_statement(request)[1]

    async def _cancel_statement(self, request: Request, identity: Identity) -> Answer:
        key, statement = self._find_statement(request)
        live = self._live.get(key.rpartition("/")[0])
        if statement["state"] == "waiting":
            self._change_statement(key, {"state": "cancelled"})
        elif statement["state"] == "running" and live is not None:
            self._change_statement(key, {"state": "cancelling"})
        return {"msg": "canceled"}

    # A session's life.
    async def _serve(self, key: str, document: Document, asked: LivyRequest, live: _Live) -> None:
        try:
            async with self._capacity.place(document["sparkPoolName"], asked.size):
                self._records.change(key, livy_documents.scheduled)
                await self._run(key, document, asked, live)
        except asyncio.CancelledError:
            pass  # the session's end is written down by who cancelled
        except AzureError as error:
            self._end(
                key, "dead", self._drivers.errors(document, error.message, Cause(error.code, error.message, "User"))
            )
        except Exception as error:
            log.exception("Livy session %s failed in localazure", key)
            cause = Cause(type(error).__name__, str(error), "System")
            self._end(key, "dead", self._drivers.errors(document, str(error), cause))

    async def _run(self, key: str, document: Document, asked: LivyRequest, live: _Live) -> None:
        document = document | {"folder": str(live.folder)}
        self._records.change(key, lambda known: livy_documents.moved(known | {"folder": str(live.folder)}, "starting"))
        try:
            await asyncio.to_thread(self._drivers.prepare, live.folder, asked)
            live.process = self._drivers.start(live.folder, "localazure_compute.livy_session", live.folder)
            try:
                if await self._until_idle(key, live):
                    await self._statements_until_stale(key, live)
                    message = f"The session was unused for {live.idle_seconds:.0f} s."
                    self._end(
                        key, "killed", [{"message": message, "errorCode": "LIVY_SESSION_TIMEOUT", "source": "User"}]
                    )
            except _ProcessEnded:
                lines = await asyncio.to_thread(self._drivers.last_lines, document, _TAIL)
                code, name = live.process.poll() or 0, f"session {document['id']}"
                cause = driver_failures.cause(lines, code, name, is_script=False)
                self._end(key, "dead", self._drivers.errors(document, cause=cause))
            finally:
                await live.process.aterminate(_GRACE_SECONDS)
        finally:
            await asyncio.to_thread(drivers.tidy, live.folder)

    async def _until_idle(self, key: str, live: _Live) -> bool:
        """Wait for the SparkContext; False (and the session is dead) if it takes too long."""
        end = time.monotonic() + _START_SECONDS
        while (status := live.status())["state"] == "starting":
            _check_alive(live)
            if time.monotonic() > end:
                message = f"The session did not start within {_START_SECONDS:.0f} s."
                self._end(key, "dead", [{"message": message, "errorCode": "LIVY_SESSION_START", "source": "System"}])
                return False
            await asyncio.sleep(_POLL_SECONDS)
        live.touch()
        self._records.change(key, lambda known: livy_documents.moved(known | {"appId": status["appId"]}, "idle"))
        return True

    async def _statements_until_stale(self, key: str, live: _Live) -> None:
        sent = 0
        while not live.is_stale:
            _check_alive(live)
            if not live.waiting:
                await asyncio.sleep(_POLL_SECONDS)
                continue
            number = live.waiting.popleft()
            place = f"{key}/{number:06d}"
            statement = self._store.get(STATEMENT, place)
            if statement is None or statement["state"] != "waiting":
                continue  # cancelled before its turn
            self._records.change(key, lambda known: livy_documents.moved(known, "busy"))
            self._change_statement(place, {"state": "running", "started": int(time.time() * 1000)})
            # The process numbers what it is given; a statement cancelled before its turn never reaches it.
            draft = live.folder / "statement.new"
            draft.write_text(json.dumps({"kind": statement["kind"], "code": statement["code"]}))
            draft.replace(live.folder / f"{sent}.json")
            interrupted = 0.0
            while (output := live.output(sent)) is None:
                _check_alive(live)
                is_due = time.monotonic() > interrupted + _INTERRUPT_SECONDS
                if is_due and self._statement_state(place) == "cancelling":
                    # Again and again: the first one may have come before the process took the statement up.
                    interrupted = time.monotonic()
                    live.interrupt()
                await asyncio.sleep(_POLL_SECONDS)
            sent += 1
            is_cancelled = output["status"] == "cancelled"
            self._change_statement(
                place,
                {
                    "state": "cancelled" if is_cancelled else "available",
                    "output": None if is_cancelled else output | {"execution_count": number},
                    "progress": 1.0,
                    "completed": int(time.time() * 1000),
                },
            )
            live.touch()
            self._records.change(key, lambda known: livy_documents.moved(known, "idle"))

    # Records.
    def _pool(self, request: Request) -> str:
        livy_queries.check_version(request)
        return str(self._pools.resource(request.path_params["pool"])["name"])

    def _document(self, request: Request) -> Document:
        return self._records.get(self._pool(request), request.path_params["session"])

    def _alive(self, document: Document) -> _Live:
        live = self._live.get(key_of(document))
        if live is None or document["state"] in ENDED:
            raise Conflict(
                f"Session {document['id']} has ended: it is {document['state']}.",
                str(document["id"]),
                "LivySessionEnded",
            )
        return live

    def _find_statement(self, request: Request) -> tuple[str, Document]:
        document, number = self._document(request), request.path_params["statement"]
        key = f"{key_of(document)}/{int(number):06d}" if number.isdecimal() else ""
        statement = self._store.get(STATEMENT, key)
        if statement is None:
            message = f"There is no statement {number!r} in session {document['id']}."
            raise NotFound(message, number, "LivyStatementNotFound")
        return key, statement

    def _statement_state(self, key: str) -> str:
        statement = self._store.get(STATEMENT, key)
        return "" if statement is None else str(statement["state"])

    def _change_statement(self, key: str, change: dict[str, Any]) -> None:
        self._store.update(STATEMENT, key, lambda known: known | change)

    def _end(self, key: str, state: str, errors: list[Document] | None = None) -> None:
        if not self._records.end(key, state, errors):
            return
        for statement in self._store.list(STATEMENT, f"{key}/"):
            if statement["state"] in ("waiting", "running", "cancelling"):
                self._change_statement(f"{key}/{statement['id']:06d}", {"state": _LAST_STATES[statement["state"]]})

    def _lose(self, document: Document, words: str) -> None:
        self._end(key_of(document), "dead", self._drivers.errors(document, words, Cause("DriverLost", words, "System")))

    async def _shown(self, document: Document, request: Request) -> Document:
        lines = await asyncio.to_thread(self._drivers.last_lines, document, livy_documents.LOG_LINES)
        view = livy_documents.view(document, lines, is_detailed=livy_queries.is_detailed(request))
        return view | {"kind": document["kind"]}

    def _no_room(self, pool: str, asked: LivyRequest) -> Document:
        quota = self._pools.extent(pool).vcores
        free = max(0, quota - self._capacity.used_vcores(pool))
        message = (
            f"Livy session has failed. Session state: Error. Error code: AVAILABLE_COMPUTE_CAPACITY_EXCEEDED. Your job "
            f"requested {asked.size.vcores} vcores. However, the pool only has {free} vcores available out of quota of "
            f"{quota} vcores. Try ending the running job(s) in the pool, reducing the numbers of vcores requested, "
            "increasing the pool maximum size or using another pool. Source: User."
        )
        return {"message": message, "errorCode": "AVAILABLE_COMPUTE_CAPACITY_EXCEEDED", "source": "User"}


#: What becomes of a statement that its session ends under.
_LAST_STATES = {"waiting": "cancelled", "running": "error", "cancelling": "cancelled"}


class _ProcessEnded(Exception):
    """The session's process is gone."""


def _check_alive(live: _Live) -> None:
    if live.process is None or live.process.poll() is not None:
        raise _ProcessEnded


def _kind(value: Any, operation: str) -> str | None:
    if value is None:
        return None
    kind = str(value).lower()
    if kind in _NOT_HERE:
        raise NotImplementedOperation(f"{operation} with kind {kind!r}")
    if kind not in KINDS:
        raise BadRequest(f"kind is one of {', '.join(KINDS)}, not {value!r}.", "kind")
    return kind


def _idle_seconds(body: Document) -> float:
    value = body.get("heartbeatTimeoutInSecond") or IDLE_SECONDS
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequest("heartbeatTimeoutInSecond must be a number of seconds.", "heartbeatTimeoutInSecond")
    return float(value)
