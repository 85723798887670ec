"""Schedules: jobs that are submitted at times. They fire while localazure runs; what was missed isn't made up for.

https://learn.microsoft.com/azure/machine-learning/how-to-schedule-pipeline-job and
https://learn.microsoft.com/rest/api/azureml/schedules. A triggered job has the display name
`<schedule>-YYYYMMDDThhmmssZ`; its name follows from schedule and time, so that no moment fires twice. Times are those
of `localazure.core.clock`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from localazure.core.auth import Identity
from localazure.core.clock import TimeSource, seconds_until
from localazure.core.errors import AzureError, BadRequest, NotFound, NotImplementedOperation
from localazure.core.registry import Answer, Operation
from localazure.core.store import Store
from localazure.executors import monitor
from localazure.ml import triggers
from localazure.ml.assets import JOBS
from localazure.ml.resources import WORKSPACE, body, in_workspace, page, resource, touched
from localazure.ml.submission import Submission
from localazure.settings import Settings

log = logging.getLogger(__name__)

SCHEDULES = "ml.schedules"
#: Property of a triggered job: its schedule's name. Jobs_List looks for it (`scheduled`, `scheduleId`).
SCHEDULE_PROPERTY = "azureml.scheduleid"

_ACTIONS = ("CreateJob", "CreateMonitor", "ImportData", "InvokeBatchEndpoint")
_VIEWS = ("enabledonly", "disabledonly", "all")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,254}")
_EXPRESSION = re.compile(r"\$\{\{\s*(name|creation_context\.trigger_time)\s*\}\}")
# Merged entry by entry where a schedule changes what a job that exists has; anything else is replaced.
_MERGED = frozenset({"inputs", "outputs", "settings", "jobs", "tags", "properties"})
_SERVER_SIDE = frozenset({"status", "services", "sourceJobId", "parentJobName"})
_LOOK_SECONDS = 1.0  # the clock can be set from outside
_SHORTEST_LOOK_SECONDS = 0.02
_REMEMBERED = 50


class SchedulesService:
    """Answers Schedules_* and submits the jobs."""

    def __init__(self, settings: Settings, store: Store, submission: Submission, clock: TimeSource) -> None:
        self._settings = settings
        self._store = store
        self._submission = submission
        self._clock = clock
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def operations(self) -> list[Operation]:
        """Schedules_List, _Get, _CreateOrUpdate, _Delete and _Trigger."""
        rows = (
            ("Schedules_List", "GET", "/schedules", self._list),
            ("Schedules_Get", "GET", "/schedules/{name}", self._get),
            ("Schedules_CreateOrUpdate", "PUT", "/schedules/{name}", self._put),
            ("Schedules_Delete", "DELETE", "/schedules/{name}", self._delete),
            ("Schedules_Trigger", "POST", "/schedules/{name}/trigger", self._trigger),
        )
        return [
            Operation(name, method, WORKSPACE + path, in_workspace(self._settings, handler), "arm")
            for name, method, path, handler in rows
        ]

    async def start(self) -> None:
        """Watch the clock. Firings that fell into the time without localazure are left out."""
        now = self._clock.now()
        for known in self._store.list(SCHEDULES):
            planned = known["run"]["next"]
            if planned is not None and datetime.fromisoformat(planned) <= now:
                name = known["resource"]["name"]
                log.warning("schedule %s: what was due at %s was missed and isn't made up for", name, planned)
                self._plan(name, now)
        self._watching = asyncio.create_task(self._watch(), name="schedules")

    async def stop(self) -> None:
        """Watch no longer."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _list(self, request: Request, identity: Identity) -> Answer:
        view = request.query_params.get("listViewType", "EnabledOnly").lower()
        if view not in _VIEWS:
            raise BadRequest(f"listViewType must be EnabledOnly, DisabledOnly or All, not '{view}'.")
        found = [
            each["resource"]
            for each in self._store.list(SCHEDULES)
            if view == "all" or each["resource"]["properties"]["isEnabled"] == (view == "enabledonly")
        ]
        return page(request, self._settings, found)

    async def _get(self, request: Request, identity: Identity) -> Answer:
        found: dict[str, Any] = self._find(request.path_params["name"])["resource"]
        return found

    async def _put(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"'{name}' is not a valid name of a schedule: letters, digits, '-' and '_', first a letter or digit.",
                "name",
                "UserError",
            )
        asked = (await body(request))["properties"]
        now = self._clock.now()
        properties = {
            "tags": {},
            "properties": {},
            "isEnabled": True,
            **{key: value for key, value in asked.items() if value is not None},
            "action": self._action(name, asked.get("action") or {}, now),
            "provisioningState": "Succeeded",
        }
        known = self._store.get(SCHEDULES, name)
        trigger = asked.get("trigger") or {}
        kept = known is not None and known["resource"]["properties"]["trigger"] == trigger
        created = datetime.fromisoformat(known["run"]["created"]) if known and kept else now
        rule = triggers.parse(trigger, created)
        if trigger.get("endTime") and rule.after(now) is None:
            raise BadRequest("The trigger's end has passed: it would never fire.", "trigger.endTime", "UserError")
        if known is None:
            document = resource(self._settings, f"schedules/{name}", properties)
        else:
            document = touched({**known["resource"], "properties": properties})
        history = known["run"]["history"] if known else []
        stored = {"resource": document, "run": {"created": created.isoformat(), "next": None, "history": history}}
        self._store.put(SCHEDULES, name, stored)
        # A new trigger may fire at this very moment; one that was there goes on.
        self._plan(name, now if kept else now - timedelta(microseconds=1))
        self._changed.set()
        return (201 if known is None else 200), document

    async def _delete(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        known = self._store.get(SCHEDULES, name)
        if known is None:
            return Response(status_code=204)
        if known["resource"]["properties"]["isEnabled"]:
            # https://learn.microsoft.com/azure/machine-learning/how-to-schedule-pipeline-job#delete-a-schedule
            raise BadRequest(f"The schedule '{name}' is enabled; disable it before you delete it.", code="UserError")
        self._store.delete(SCHEDULES, name)
        return Response(status_code=200)

    async def _trigger(self, request: Request, identity: Identity) -> Answer:
        name = request.path_params["name"]
        known = self._find(name)
        if not known["resource"]["properties"]["isEnabled"]:
            raise BadRequest(f"The schedule '{name}' is disabled: enable it to trigger it.", code="UserError")
        content = await request.json() if await request.body() else {}
        text = content.get("scheduleTime") if isinstance(content, dict) else None
        try:
            time = datetime.fromisoformat(str(text)) if text else self._clock.now()
        except ValueError as error:
            raise BadRequest(f"scheduleTime '{text}' is no time.", "scheduleTime", "UserError") from error
        job = self._fire(known, time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
        return {"submissionId": job, "scheduleActionType": known["resource"]["properties"]["action"]["actionType"]}

    def _action(self, schedule: str, action: dict[str, Any], now: datetime) -> dict[str, Any]:
        """The action with a definition that can be submitted as it stands."""
        kind = action.get("actionType")
        if kind not in _ACTIONS:
            known = ", ".join(_ACTIONS)
            raise BadRequest(f"actionType must be one of {known}, not '{kind}'.", "action.actionType", "UserError")
        if kind == "CreateMonitor":
            definition = action.get("monitorDefinition")
            if not isinstance(definition, dict):
                raise BadRequest("A monitor needs a definition.", "action.monitorDefinition", "UserError")
            self._submission.validate(monitor.run_of(definition, now, {}))
            return dict(action)
        if kind != "CreateJob":
            raise NotImplementedOperation(f"Schedules_CreateOrUpdate with actionType {kind}")
        given = action.get("jobDefinition")
        if not isinstance(given, dict):
            raise BadRequest(
                "A schedule that creates jobs needs a job definition.", "action.jobDefinition", "UserError"
            )
        source = given.get("sourceJobId")
        definition = self._based_on(str(source), given) if source else dict(given)
        definition["experimentName"] = definition.get("experimentName") or schedule
        self._submission.validate(_resolved(definition, "job", now))
        return {**action, "jobDefinition": {**definition, **({"sourceJobId": source} if source else {})}}

    def _based_on(self, source: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What the job `source` (an ARM id) was asked for, with a schedule's changes."""
        name = source.rpartition("/")[2]
        known = self._store.get(JOBS, name)
        if known is None:
            raise BadRequest(f"The job '{name}' was not found.", "action.jobDefinition.sourceJobId", "UserError")
        definition: dict[str, Any] = deepcopy(known["request"])
        if definition.get("jobType") != changes.get("jobType", definition.get("jobType")):
            message = f"The job '{name}' is of type {definition.get('jobType')}, not {changes['jobType']}."
            raise BadRequest(message, "action.jobDefinition.jobType", "UserError")
        for key, value in changes.items():
            if key in _SERVER_SIDE or value in (None, "", {}, []):
                continue
            definition[key] = {**(definition.get(key) or {}), **value} if key in _MERGED else value
        return definition

    async def _watch(self) -> None:
        while True:
            try:
                pause = self._fire_due()
            except Exception:
                log.exception("schedules: one look at the clock failed; there is another")
                pause = _LOOK_SECONDS
            # Not wait_for: before Python 3.12 it may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            self._changed.clear()

    def _fire_due(self) -> float | None:
        """Submits what is due; seconds until somebody should look again, None if nothing will ever be due."""
        pause: float | None = None
        for known in self._store.list(SCHEDULES):
            name, planned = known["resource"]["name"], known["run"]["next"]
            if planned is None or not known["resource"]["properties"]["isEnabled"]:
                continue
            due = datetime.fromisoformat(planned)
            left = seconds_until(self._clock, due)
            if left > 0:
                pause = min(pause or _LOOK_SECONDS, left)
                continue
            try:
                self._fire(known, due)
            except AzureError as error:
                log.warning("schedule %s: the job due at %s was refused: %s", name, planned, error.message)
            except Exception:
                log.exception("schedule %s: the job due at %s couldn't be submitted", name, planned)
            # What a leap of the clock skipped is left out, like what was missed while nothing ran.
            self._plan(name, max(due, self._clock.now()))
            pause = _SHORTEST_LOOK_SECONDS
        return None if pause is None else max(pause, _SHORTEST_LOOK_SECONDS)

    def _fire(self, known: dict[str, Any], time: datetime) -> str:
        """Submits the job of one moment; its name. A refused job is remembered as such and raises."""
        document = known["resource"]
        schedule = document["name"]
        job = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{document['id']}@{time.isoformat()}"))
        action = document["properties"]["action"]
        if action["actionType"] == "CreateMonitor":
            tags = document["properties"]["tags"]
            asked = {**monitor.run_of(deepcopy(action["monitorDefinition"]), time, tags), "experimentName": schedule}
        else:
            definition = deepcopy(action["jobDefinition"])
            asked = {key: value for key, value in definition.items() if key not in _SERVER_SIDE and value is not None}
            asked = _resolved(asked, job, time)
        asked["displayName"] = f"{schedule}-{time:%Y%m%dT%H%M%SZ}"
        asked["properties"] = {**(asked.get("properties") or {}), SCHEDULE_PROPERTY: schedule}
        entry: dict[str, Any] = {"time": time.isoformat(), "job": job}
        try:
            self._submission.submit(job, asked)
        except AzureError as error:
            entry = {"time": time.isoformat(), "error": {"code": error.code, "message": error.message}}
            raise
        finally:
            self._remember(schedule, entry)
        log.info("schedule %s: %s is submitted as %s", schedule, asked["displayName"], job)
        return job

    def _plan(self, name: str, moment: datetime) -> None:
        """The first firing after `moment` is the next one, if the schedule is enabled."""

        def planned(known: dict[str, Any]) -> dict[str, Any]:
            properties, run = known["resource"]["properties"], known["run"]
            rule = triggers.parse(properties["trigger"], datetime.fromisoformat(run["created"]))
            following = rule.after(moment) if properties["isEnabled"] else None
            run["next"] = following and following.isoformat()
            return known

        with contextlib.suppress(KeyError):  # deleted in the meantime
            self._store.update(SCHEDULES, name, planned)

    def _remember(self, name: str, entry: dict[str, Any]) -> None:
        def remembered(known: dict[str, Any]) -> dict[str, Any]:
            known["run"]["history"] = [*known["run"]["history"], entry][-_REMEMBERED:]
            return known

        with contextlib.suppress(KeyError):
            self._store.update(SCHEDULES, name, remembered)

    def _find(self, name: str) -> dict[str, Any]:
        known = self._store.get(SCHEDULES, name)
        if known is None:
            raise NotFound(f"The schedule '{name}' was not found in the workspace.", code="ResourceNotFound")
        return known


def _resolved(definition: dict[str, Any], job: str, time: datetime) -> dict[str, Any]:
    """The definition with `${{name}}` and `${{creation_context.trigger_time}}` of inputs and outputs replaced.

    https://learn.microsoft.com/azure/machine-learning/how-to-schedule-pipeline-job#expressions-supported-in-schedule
    """
    values = {"name": job, "creation_context.trigger_time": time.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def replaced(entry: Any) -> Any:
        if isinstance(entry, str):
            return _EXPRESSION.sub(lambda match: values[match[1]], entry)
        return {key: replaced(value) for key, value in entry.items()} if isinstance(entry, dict) else entry

    return {key: replaced(value) if key in ("inputs", "outputs") else value for key, value in definition.items()}
