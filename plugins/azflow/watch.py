"""Waiting in the triggerer: one poller a service and connection, one trigger a task. `azflow.runs` has the rules."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from azflow.connection import AzureConnection
from azflow.edge import as_azflow_error, retry_after
from azflow.errors import AccessDenied, UnknownRunState, first_line
from azflow.remote import CANCEL_PAUSES, RemoteRuns, RunsReference, RunState, cancel_run

log = logging.getLogger(__name__)

#: XCom in which a task keeps its current remote run: {"id", "name", "url", "service", "factory", "arguments",
#: "conn_id"}.
RUN_XCOM = "azflow_run"

_POLL_TIMEOUT = 60.0
_MIN_INTERVAL = 1.0
_MAX_INTERVAL = 60.0
_MAX_RETRY_AFTER = 300.0
_LAST_TURN = 5.0  # seconds past its deadline that a run may still be asked for
# Resource Manager lets a principal read 25 times a second in a subscription, after a burst of 250: less than half of
# that is ours. https://learn.microsoft.com/azure/azure-resource-manager/management/request-limits-and-throttling
_POLLS_A_SECOND = 10.0
_BURST = 20


def poll_interval(age: float, failures: int = 0) -> float:
    """Seconds until the next poll of a run of `age` seconds, after `failures` failed polls in a row.

    A thirtieth of the age: the wait adds at most 3 % to what the run takes.
    """
    steady = min(max(age / 30, _MIN_INTERVAL), _MAX_INTERVAL)
    backoff = min(2.0**failures, _MAX_INTERVAL) if failures else 0.0
    return max(steady, backoff) * random.uniform(0.85, 1.15)


class _Poller:
    """All polls of one service over one connection: one client, bounded concurrency, common throttling.

    However many runs are waited for, there are at most `polls_a_second` polls, after a burst; the runs take turns.
    """

    concurrency: ClassVar[int] = 8
    polls_a_second: ClassVar[float] = _POLLS_A_SECOND
    _open_pollers: ClassVar[dict[tuple[int, str], _Poller]] = {}

    def __init__(self, reference: RunsReference, conn_id: str) -> None:
        self.reference = reference
        self.conn_id = conn_id
        self.users = 0
        self._runs: RemoteRuns | None = None
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(self.concurrency)
        self._not_before = 0.0
        self._paid_until = 0.0  # each poll pays for a stretch of time; a burst is paid for in advance

    @classmethod
    @contextlib.asynccontextmanager
    async def shared(cls, reference: RunsReference, conn_id: str) -> AsyncIterator[_Poller]:
        """The poller of this service and connection in this event loop; closed when its last user leaves."""
        key = (id(asyncio.get_running_loop()), reference.key(conn_id))
        poller = cls._open_pollers.setdefault(key, cls(reference, conn_id))
        poller.users += 1
        try:
            yield poller
        finally:
            poller.users -= 1
            if poller.users == 0:
                del cls._open_pollers[key]
                with contextlib.suppress(Exception):
                    await poller.close()

    async def state(self, run_id: str) -> RunState:
        """One poll. Waits its turn; honours what the service said about waiting to anybody."""
        loop = asyncio.get_running_loop()
        async with self._slots:
            await self._turn()
            try:
                async with asyncio.timeout(_POLL_TIMEOUT):
                    return await (await self._service()).astate(run_id)
            except UnknownRunState:
                raise
            except Exception as error:
                if (seconds := retry_after(error)) is not None:
                    self._not_before = loop.time() + min(max(seconds, 0.0), _MAX_RETRY_AFTER)
                if isinstance(as_azflow_error(error, self.conn_id), AccessDenied):
                    await self.close()  # the secret may have been rotated: read the connection anew
                raise

    async def _turn(self) -> None:
        """Until a poll may be sent."""
        loop = asyncio.get_running_loop()
        price = 1 / self.polls_a_second
        while (pause := max(self._not_before, self._paid_until - _BURST * price) - loop.time()) > 0:
            await asyncio.sleep(pause)
        self._paid_until = max(self._paid_until, loop.time()) + price

    async def cancel(self, run_id: str) -> str:
        """Ask the service to cancel; why it failed, or an empty text."""
        try:
            runs = await self._service()
        except Exception as error:
            return first_line(error)
        return await asyncio.to_thread(cancel_run, runs, run_id)

    async def _service(self) -> RemoteRuns:
        async with self._opening:
            if self._runs is None:
                connection = await AzureConnection.aload(self.conn_id)
                # Building a client imports an SDK, which takes seconds: not in the event loop.
                self._runs = await asyncio.to_thread(self.reference.open, connection)
            return self._runs

    async def close(self) -> None:
        """Let go of the client; the next poll builds another."""
        runs, self._runs = self._runs, None
        if runs is None:
            return
        if aclose := getattr(runs, "aclose", None):
            await aclose()
        if close := getattr(runs, "close", None):
            await asyncio.to_thread(close)


#: Cancellations under way: an event loop holds its tasks only weakly.
_UNDER_WAY: set[asyncio.Task[None]] = set()


class RemoteRunTrigger(BaseTrigger):
    """Waits for one remote run in the triggerer. Fires one event: ``{"outcome": "over" | "timed_out" | "unknown",
    "run_id", "deadline", "state", "problem"}``.

    :param factory: dotted path of the `RemoteRuns`, as in `RunsReference`.
    :param arguments: its plain keyword arguments.
    :param conn_id: the Airflow connection.
    :param service: what a run is called in messages.
    :param run_id: the remote run.
    :param started: since when it is waited for; seconds since 1970.
    :param deadline: when it is cancelled; seconds since 1970.
    """

    def __init__(
        self,
        *,
        factory: str,
        arguments: dict[str, Any],
        conn_id: str,
        service: str,
        run_id: str,
        started: float,
        deadline: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.factory = factory
        self.arguments = arguments
        self.conn_id = conn_id
        self.service = service
        self.run_id = run_id
        self.started = started
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow wants it: class path and keyword arguments."""
        names = ("factory", "arguments", "conn_id", "service", "run_id", "started", "deadline")
        return f"{RemoteRunTrigger.__module__}.RemoteRunTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the run is over or its deadline has passed."""
        async with _Poller.shared(RunsReference(self.factory, self.arguments), self.conn_id) as poller:
            event = await self._watch(poller)
        # Outside: Airflow may never come back for a second event, and the poller must be let go.
        yield event

    async def _watch(self, poller: _Poller) -> TriggerEvent:
        failures = 0
        while (left := self.deadline - time.time()) > 0:
            await asyncio.sleep(min(poll_interval(time.time() - self.started, failures), left))
            try:
                # Where many wait, a turn comes late: the deadline doesn't wait for it.
                async with asyncio.timeout(max(self.deadline - time.time(), _LAST_TURN)):
                    state = await poller.state(self.run_id)
            except UnknownRunState as unknown:
                # The worker asks again and raises: somebody must see this word.
                return self._event("unknown", state=unknown.word)
            except Exception as error:
                if isinstance(error, TimeoutError) and time.time() >= self.deadline:
                    break
                failures += 1
                self.log.warning(
                    "%s %s: poll failed %d time(s) in a row (%s); trying again.",
                    self.service,
                    self.run_id,
                    failures,
                    first_line(error),
                )
                continue
            failures = 0
            if state.is_terminal:
                return self._event("over", state=state.raw)
        problem = await poller.cancel(self.run_id)
        self.log.error("%s %s passed its deadline; cancelled: %s", self.service, self.run_id, problem or "yes")
        return self._event("timed_out", problem=problem)

    def _event(self, outcome: str, *, state: str = "", problem: str = "") -> TriggerEvent:
        return TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "outcome": outcome,
                "run_id": self.run_id,
                "deadline": self.deadline,
                "state": state,
                "problem": problem,
            }
        )

    async def on_kill(self) -> None:
        """A person acted on the task - or Airflow believes so. Cancel only if the task really stopped waiting for this
        very run.

        Until a trigger has ended, Airflow 3.3.2 cancels it again about every second, and with it the ``on_kill`` that
        is under way: so the work is shielded and goes on behind it.
        """
        work = asyncio.create_task(self._cancel_unless_waited_for())
        _UNDER_WAY.add(work)
        work.add_done_callback(_UNDER_WAY.discard)
        await asyncio.shield(work)

    async def _cancel_unless_waited_for(self) -> None:
        if reason := await self._still_waited_for():
            self.log.warning("%s %s is left alone: %s.", self.service, self.run_id, reason)
            return
        async with _Poller.shared(RunsReference(self.factory, self.arguments), self.conn_id) as poller:
            problem = await poller.cancel(self.run_id)
        if problem:
            self.log.error("%s %s could not be cancelled: %s", self.service, self.run_id, problem)
        else:
            self.log.info("%s %s was cancelled: its task was stopped.", self.service, self.run_id)

    async def _still_waited_for(self) -> str:
        """Why the run must not be cancelled; an empty text if it must."""
        ti = self.task_instance
        if ti is None:
            return "its task instance isn't known"
        map_index = ti.map_index if ti.map_index is not None else -1
        return await still_waited_for(self.run_id, ti.dag_id, ti.run_id, ti.task_id, map_index)


async def still_waited_for(run_id: str, *place: Any) -> str:
    """Why a remote run of a task instance that was deferred must not be cancelled; an empty text if it must.

    :param place: DAG, run, task, map index.
    """
    from asgiref.sync import sync_to_async

    state = await sync_to_async(task_state)(*place)
    if state == "unknown":
        return "its task's state can't be read"
    if state != "deferred":
        return ""
    # Deferred: either another triggerer took over (same run), or the task was cleared and waits for another run.
    current = await sync_to_async(current_run)(*place)
    if current is not None and current != run_id:
        return ""
    return "its task still waits for it"


async def cancel_left_run(
    *, factory: str, arguments: dict[str, Any], conn_id: str, service: str, run_id: str, place: list[Any]
) -> str:
    """Run by the triggerer when a person has ended a task (`azflow.listener`); what was done, for Airflow's record.

    A run that is over is left alone: to cancel a deployment is to delete it.

    :param place: DAG, run, task, map index.
    """
    if reason := await still_waited_for(run_id, *place):
        return f"{service} {run_id} is left alone: {reason}."
    async with _Poller.shared(RunsReference(factory, arguments), conn_id) as poller:
        for pause in CANCEL_PAUSES:
            try:
                state = await poller.state(run_id)
                break
            except Exception as error:
                log.warning("%s %s: a poll failed (%s)", service, run_id, first_line(error))
                await asyncio.sleep(pause)
        else:
            return f"{service} {run_id} could not be looked at, and is left to the DAG housekeeping."
        if state.is_terminal:
            return f"{service} {run_id} is over: {state}."
        problem = await poller.cancel(run_id)
    said = f"could not be cancelled: {problem}" if problem else "was cancelled"
    return f"{service} {run_id} {said}: its task was ended by a person."


def task_state(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """The task instance's state in Airflow's database: "" if it has none (cleared), "unknown" if it can't be read."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        answer = RuntimeTaskInstance.get_task_states(
            dag_id=dag_id, task_ids=[task_id], run_ids=[run_id], map_index=map_index if map_index >= 0 else None
        )
        states = answer.get(run_id, {})
        key = task_id if map_index < 0 else f"{task_id}_{map_index}"
        if key not in states:
            return "unknown"
        return str(getattr(states[key], "value", states[key]) or "")
    except Exception:
        return "unknown"


def current_run(dag_id: str, run_id: str, task_id: str, map_index: int) -> str | None:
    """The id of the remote run that the task instance stored last; None if that can't be read."""
    from airflow.sdk.bases.xcom import BaseXCom

    try:
        stored = BaseXCom.get_one(
            key=RUN_XCOM, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index if map_index >= 0 else None
        )
    except Exception:
        return None
    return str(stored["id"]) if isinstance(stored, Mapping) and stored.get("id") else None
