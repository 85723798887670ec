"""Notebook runs: `/notebooks/runs/{runId}`.

Shapes and messages: Azure/azure-rest-api-specs, specification/synapse/data-plane/Microsoft.Synapse/preview/
2022-03-01-preview/runNotebook.json and its examples. The client chooses the run's id; putting it again answers with the
run that is there, so a client may repeat a submission. States: Starting -> Running -> Succeeded | Failed | Cancelled.

A run executes in a Spark session of its own (`sessions`) as soon as the pool has room for it (`capacity`); until then
it waits in order as Starting.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse

from localazure.core.auth import Identity
from localazure.core.errors import BadRequest, NotFound
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.executors import processes
from localazure.settings import Settings
from localazure.synapse import configure, options, pages, snapshots, versions
from localazure.synapse.capacity import Capacity
from localazure.synapse.notebooks import Notebooks
from localazure.synapse.options import SessionPlan
from localazure.synapse.pools import Pools
from localazure.synapse.sessions import Session, Sessions, write_notebooks

log = logging.getLogger(__name__)

KIND = "synapse.run"
ACTIVE = frozenset({"Starting", "Running"})
_ID_LENGTH = 100
_POLL_SECONDS = 0.1
_START_SECONDS = 300.0
_LOG_LINES = 20
_REQUEST_KEYS = frozenset({"notebook", "sparkPool", "sessionOptions", "honorSessionTimeToLive", "parameters"})

Document = dict[str, Any]


class Runs:
    """Accepts, executes, cancels and shows notebook runs."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        notebooks: Notebooks,
        pools: Pools,
        sessions: Sessions,
        *,
        capacity: Capacity,
    ) -> None:
        self._settings = settings
        self._store = store
        self._notebooks = notebooks
        self._pools = pools
        self._sessions = sessions
        self._capacity = capacity
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def operations(self) -> list[Operation]:
        """The run operations."""
        checked = versions.checked(versions.RUNS)
        path = "/notebooks/runs/{run}"
        rows = [
            ("RunNotebook_CreateRun", "PUT", path, self._put),
            ("RunNotebook_GetStatus", "GET", path, self._get),
            ("RunNotebook_CancelRun", "POST", path + "/cancel", self._cancel),
            ("RunNotebook_GetSnapshot", "GET", path + "/snapshot", self._snapshot),
        ]
        return [
            *(Operation(name, method, path, checked(handler), "synapse") for name, method, path, handler in rows),
            # Where links lead: Azure has Synapse Studio for it. A browser brings no token.
            Operation("RunNotebook_Page", "GET", path + "/view", self._page, None),
        ]

    def recover(self) -> int:
        """Fail, by name, what an earlier process left active: its sessions are gone. How many there were."""
        lost = [document for document in self._store.list(KIND) if document["runStatus"] in ACTIVE]
        for document in lost:
            self._end(
                document["runId"],
                "Failed",
                error=_error("SparkSessionLost", "localazure was restarted while the notebook ran."),
            )
        return len(lost)

    async def stop(self) -> None:
        """End the active runs, as Failed by name."""
        for run, task in list(self._tasks.items()):
            self._end(run, "Failed", error=_error("SparkSessionLost", "localazure was stopped while the notebook ran."))
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    # Operations.
    async def _put(self, request: Request, identity: Identity) -> Answer:
        run = request.path_params["run"]
        if len(run) > _ID_LENGTH:
            raise BadRequest(f"runId has {len(run)} characters; it may have {_ID_LENGTH}.", "runId")
        known = self._store.get(KIND, run)
        if known is None:
            document = self._document(run, await request.json(), identity)
            if self._store.insert(KIND, run, document):
                self._tasks[run] = asyncio.create_task(self._execute(document), name=f"notebook run {run}")
                self._tasks[run].add_done_callback(lambda _task: self._tasks.pop(run, None))
            known = self._run(run)
        message = f"Request accepted for running the notebook {known['notebook']}. Query execution status using {run}"
        location = f"{self._settings.api_url}/notebooks/runs/{run}?api-version={request.query_params['api-version']}"
        headers = {"Location": location, "x-ms-retry-after-ms": "200"}
        return JSONResponse({"message": message, "result": _result(known)}, HTTPStatus.ACCEPTED, headers)

    async def _get(self, request: Request, identity: Identity) -> Answer:
        run = request.path_params["run"]
        self._run(run)
        document = self._store.update(KIND, run, lambda known: known | {"lastCheckedOn": _now()})
        return {
            "message": f"Notebook execution is in {document['runStatus']} state",
            "result": _result(document) | {"sessionDetail": self._session_detail(document)},
        }

    async def _cancel(self, request: Request, identity: Identity) -> Answer:
        run = request.path_params["run"]
        self._run(run)
        was_active = self._end(run, "Cancelled")
        document = self._run(run)
        if not was_active:
            message = f"Notebook execution is in {document['runStatus']} state and cannot accept the cancel request."
            return HTTPStatus.CONFLICT, {"message": message, "result": _result(document)}
        if task := self._tasks.get(run):
            task.cancel()
            await asyncio.wait([task])
        return {"message": f"Cancelled the notebook run - {run}", "result": _result(document)}

    async def _snapshot(self, request: Request, identity: Identity) -> Answer:
        document = self._run(request.path_params["run"])
        return {
            "message": f"Notebook execution is in {document['runStatus']} state",
            "result": _result(document) | {"snapshot": await _snapshot_of(document)},
        }

    async def _page(self, request: Request, identity: Identity) -> Answer:
        document = self._run(request.path_params["run"])
        return HTMLResponse(pages.run_page(document, await _snapshot_of(document)), headers=pages.HEADERS)

    def _document(self, run: str, body: Any, identity: Identity) -> Document:
        """A new run's document. Raises BadRequest and NotFound, naming what is wrong."""
        if not isinstance(body, dict):
            raise BadRequest("The body must be an object.")
        if unknown := sorted(set(body) - _REQUEST_KEYS):
            raise BadRequest(f"The body has unknown properties: {', '.join(unknown)}.", unknown[0])
        for key in ("notebook", "sparkPool"):
            if not isinstance(body.get(key), str) or not body[key]:
                raise BadRequest(f"{key} must be a name.", key)
        resource = self._notebooks.resource(body["notebook"])
        extent = self._pools.extent(body["sparkPool"])
        session_options = body.get("sessionOptions")
        if session_options is not None and not isinstance(session_options, dict):
            raise BadRequest("sessionOptions must be an object.", "sessionOptions")
        plan = _plan(resource["properties"], session_options, values(body.get("parameters")))
        extent.check(plan.size, "sessionOptions.")
        self._capacity.check_queue(extent.pool)
        return {
            "runId": run,
            "notebook": resource["name"],
            "sparkPool": extent.pool,
            "sessionOptions": session_options,
            "honorSessionTimeToLive": bool(body.get("honorSessionTimeToLive")),
            "parameters": body.get("parameters") or {},
            "resource": resource,
            "submitter": identity.subject,
            "submittedAt": _now(),
            "startedAt": None,
            "endedAt": None,
            "lastCheckedOn": "0001-01-01T00:00:00",
            "runStatus": "Starting",
            "sessionId": -1,
            "folder": None,  # of the session's run, for the snapshot
            "exitValue": None,
            "error": None,
        }

    # Execution.
    async def _execute(self, document: Document) -> None:
        run = document["runId"]
        properties = document["resource"]["properties"]
        try:
            plan = _plan(properties, document["sessionOptions"], values(document["parameters"]))
            async with self._capacity.place(document["sparkPool"], plan.size):
                is_done = False
                while not is_done:
                    session = await self._sessions.take(plan)
                    try:
                        is_done = await self._run_in(session, document, plan)
                    finally:
                        await self._sessions.release(session)
        except asyncio.CancelledError:
            pass  # the run's end is written down by who cancelled
        except Exception as error:
            log.exception("notebook run %s failed in localazure", run)
            self._end(run, "Failed", error=_error(type(error).__name__, str(error)))

    async def _run_in(self, session: Session, document: Document, plan: SessionPlan) -> bool:
        """Run in this session and write down how it ended; False if it ended, standing by, before it took the run."""
        run, number, folder = document["runId"], session.number, str(session.folder)
        self._store.update(KIND, run, lambda known: known | {"sessionId": number, "folder": folder})
        notebooks = {resource["name"]: resource["properties"] for resource in self._notebooks.all()}
        session.request(
            {
                "runId": run,
                "notebook": document["notebook"],
                "properties": document["resource"]["properties"],
                "parameters": values(document["parameters"]),
                "conf": plan.runtime,
                "context": {
                    "run_id": run,
                    "notebook": document["notebook"],
                    "workspace": self._settings.workspace,
                    "pool": document["sparkPool"],
                    "session_id": number,
                    "user": document["submitter"],
                    "notebooks": str(write_notebooks(session.folder, notebooks)),
                },
            }
        )
        started = time.monotonic()
        is_running = False
        while True:
            # In this order: a host that ends between the two look-ups has written its status before.
            is_alive = session.is_alive
            status = session.status()
            state = status["state"]
            if state in ("Succeeded", "Failed"):
                self._end(run, state, **{key: status.get(key) for key in ("exitValue", "error", "failedCell")})
                return True
            if not is_alive:
                if session.stood_by and state in ("Starting", "Idle"):
                    return False
                message = (
                    f"The Spark session {number} ended with code {session.exit_code}"
                    f" while the notebook was {state.lower()}."
                )
                self._end(run, "Failed", error=_error("SparkSessionDied", message, _last_lines(session)))
                return True
            if state == "Running" and not is_running:
                is_running = True
                self._update_active(run, {"runStatus": "Running", "startedAt": _now()})
            if not is_running and time.monotonic() - started > _START_SECONDS:
                message = f"The Spark session {number} did not start within {_START_SECONDS:.0f} s."
                self._end(run, "Failed", error=_error("SparkSessionTimeout", message, _last_lines(session)))
                return True
            await asyncio.sleep(_POLL_SECONDS)

    def _update_active(self, run: str, change: Document) -> bool:
        """Change an active run; whether it was one (an ended run never changes)."""
        changed = False

        def apply(known: Document) -> Document:
            nonlocal changed
            changed = known["runStatus"] in ACTIVE
            return known | change if changed else known

        self._store.update(KIND, run, apply)
        return changed

    def _end(self, run: str, status: str, **outcome: Any) -> bool:
        return self._update_active(run, {"runStatus": status, "endedAt": _now(), **outcome})

    # Views.
    def _run(self, run: str) -> Document:
        document = self._store.get(KIND, run)
        if document is None:
            raise NotFound(f"There is no notebook run {run!r}.", run, "NotebookRunNotFound")
        return document

    def _session_detail(self, document: Document) -> Document | None:
        if document["sessionId"] < 0:
            return None
        state = {"Starting": "starting", "Running": "busy", "Cancelled": "killed"}.get(document["runStatus"], "dead")
        return {
            "id": document["sessionId"],
            "name": f"Synapse_{document['sparkPool']}_{document['sessionId']}",
            "sparkPoolName": document["sparkPool"],
            "workspaceName": self._settings.workspace,
            "submitterId": document["submitter"],
            "artifactId": "Livy",
            "jobType": "SparkSession",
            "kind": "pyspark",
            "state": state,
            "errorInfo": [],
            "livyInfo": {"startingAt": document["submittedAt"], "busyAt": document["startedAt"], "currentState": state},
            "schedulerInfo": {
                "submittedAt": document["submittedAt"],
                "endedAt": document["endedAt"],
                "currentState": "Scheduled" if document["endedAt"] is None else "Ended",
            },
        }


def _plan(properties: Document, asked: Document | None, parameters: Mapping[str, Any]) -> SessionPlan:
    """The session of a run: the notebook's own properties, its `%%configure`, what the run asks for; later ones win."""
    return options.plan(properties.get("sessionProperties"), configure.options(properties, parameters), asked)


def values(parameters: Any) -> dict[str, Any]:
    """Python values of typed parameters (`{name: {"type", "value"}}`). Raises BadRequest naming the parameter."""
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadRequest("parameters must be an object of {type, value}.", "parameters")
    result: dict[str, Any] = {}
    for name, parameter in parameters.items():
        target = f"parameters.{name}"
        if not name.isidentifier():
            raise BadRequest(f"{name!r} can't name a parameter: it becomes a Python variable.", target)
        if not isinstance(parameter, dict) or "value" not in parameter:
            raise BadRequest(f"Parameter {name!r} must be {{type, value}}.", target)
        kind = str(parameter.get("type", "string")).lower()
        value = parameter["value"]
        try:
            result[name] = _CONVERSIONS[kind](value)
        except KeyError:
            message = f"Parameter {name!r} has the type {parameter.get('type')!r}; there are {', '.join(_CONVERSIONS)}."
            raise BadRequest(message, target) from None
        except (TypeError, ValueError):
            raise BadRequest(f"Parameter {name!r}: {value!r} isn't of type {kind}.", target) from None
    return result


def _text(value: Any) -> str:
    if isinstance(value, dict | list) or value is None:
        raise TypeError
    return value if isinstance(value, str) else json.dumps(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in ("true", "false"):
        raise ValueError
    return str(value).lower() == "true"


_CONVERSIONS: dict[str, Any] = {"string": _text, "int": _whole, "float": float, "bool": _truth}


def _result(document: Document) -> Document:
    result = {
        key: document[key] for key in ("runId", "runStatus", "sessionId", "sparkPool", "lastCheckedOn", "exitValue")
    }
    return result | {"error": document["error"]} if document["error"] else result


async def _snapshot_of(document: Document) -> Document:
    folder = document["folder"]
    executed = await asyncio.to_thread(_read_executed, Path(folder) / "output.ipynb") if folder else None
    return snapshots.snapshot(document, executed)


def _read_executed(path: Path) -> Document | None:
    with contextlib.suppress(FileNotFoundError, ValueError):  # not there yet, or half written while it runs
        executed: Document = json.loads(path.read_text())
        return executed
    return None


def _last_lines(session: Session) -> list[str]:
    return processes.tail(session.log, _LOG_LINES)


def _error(name: str, message: str, lines: list[str] | None = None) -> Document:
    return {"ename": name, "evalue": message, "traceback": lines or []}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None).isoformat()
