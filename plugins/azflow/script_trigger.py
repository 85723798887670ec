"""A T-SQL script that runs while no worker is held: a triggerer holds its connection.

A statement lives as long as its connection, and a dedicated pool has no way to submit one and come back for it. So it
isn't enough to wait in the triggerer: the whole script runs there, in a thread of its own. When that triggerer is lost,
the pool ends the session's statement; another one that takes the trigger over finds the session by the label of its
first request, makes sure that it has ended, and hands the task back to its retry: a script is never run twice at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from azflow import exports, sql_execution
from azflow.connection import AzureConnection
from azflow.errors import AzflowError, first_line
from azflow.watch import task_state

#: Scripts that one triggerer runs at a time, a connection and a thread each; others wait for their turn.
MOST_SCRIPTS = 32

_EARLIER = """SELECT TOP 1 r.session_id, COALESCE(s.status, 'Closed') AS status
FROM sys.dm_pdw_exec_requests AS r
LEFT JOIN sys.dm_pdw_exec_sessions AS s ON s.session_id = r.session_id
WHERE r.[label] = ? ORDER BY r.submit_time DESC"""
_PATIENCE = 60.0

_slots: dict[int, asyncio.Semaphore] = {}


class Step(TypedDict):
    """A batch: its text as sent, its bound values, and the folders of the lake that are emptied before it."""

    text: str
    values: list[Any]
    folders: list[str]


class ScriptTrigger(BaseTrigger):
    """Runs a script's batches on a dedicated pool. Fires one event: ``{"outcome": "done" | "failed" | "cancelled" |
    "lost" | "error", "results": [...], "step": which batch, ...}``; what a failed statement said is in ``"failure"``.

    :param conn_id: the Airflow connection.
    :param database: empty: the connection's.
    :param before: a statement with its values that sets the session up; empty: none.
    :param steps: the batches, in order.
    :param marker: the label of the session's first request; no other script has it.
    :param deadline: when the running statement is cancelled; seconds since 1970.
    :param keep_rows: how many rows of a result set are kept.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        database: str,
        before: Sequence[Any],
        steps: Sequence[Step],
        marker: str,
        deadline: float,
        keep_rows: int,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.database = database
        self.before = list(before)
        self.steps = list(steps)
        self.marker = marker
        self.deadline = deadline
        self.keep_rows = keep_rows
        self._runner: sql_execution.Runner | None = None
        self._stopped = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As Airflow wants it: class path and keyword arguments."""
        names = ("conn_id", "database", "before", "steps", "marker", "deadline", "keep_rows")
        return f"{ScriptTrigger.__module__}.ScriptTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Run the script, then fire."""
        loop = asyncio.get_running_loop()
        slot = _slots.setdefault(id(loop), asyncio.Semaphore(MOST_SCRIPTS))
        async with slot:
            connection = await AzureConnection.aload(self.conn_id)
            ended: asyncio.Future[dict[str, Any]] = loop.create_future()

            def work() -> None:
                event = self._event(connection)
                loop.call_soon_threadsafe(lambda: None if ended.done() else ended.set_result(event))

            # A daemon: a driver that hangs doesn't keep the triggerer from ending.
            threading.Thread(target=work, name=f"azflow-script {self.marker}", daemon=True).start()
            event = await ended
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """A person acted on the task, or Airflow believes so: what runs is cancelled only if nobody waits for it."""
        from asgiref.sync import sync_to_async

        ti = self.task_instance
        if ti is None:
            return
        map_index = ti.map_index if ti.map_index is not None else -1
        if await sync_to_async(task_state)(ti.dag_id, ti.run_id, ti.task_id, map_index) in ("deferred", "unknown"):
            self.log.warning("%s is left alone: its task still waits for it, or can't be asked.", self.marker)
            return
        self._stopped = True
        if self._runner is not None:
            self._runner.stop()
            self.log.info("%s was stopped: its task was.", self.marker)

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _event(self, connection: AzureConnection) -> dict[str, Any]:
        try:
            return self._run(connection)
        except AzflowError as problem:
            return {"outcome": "error", "problem": str(problem), "retry_helps": problem.retry_helps}
        except Exception as problem:
            return {
                "outcome": "error",
                "problem": f"{type(problem).__name__}: {first_line(problem)}",
                "retry_helps": True,
            }

    def _run(self, connection: AzureConnection) -> dict[str, Any]:
        from azflow.synapse import connect

        def opened() -> Any:
            made = connect(connection, self.log, database=self.database)
            if self.before:
                sql_execution.run_batch(made, str(self.before[0]), self.before[1:])
            return made

        _, _, port = connection.sql_server.partition(",")
        self._runner = runner = sql_execution.Runner(opened, int(port or 1433), "dedicated")
        try:
            if self._stopped:
                runner.stop()
            if self._was_begun(runner):
                return {"outcome": "lost"}
            runner.run_batch(f"SELECT 1 AS begun OPTION (LABEL = '{self.marker}')")
            return self._steps(runner, connection)
        finally:
            runner.close()

    def _steps(self, runner: sql_execution.Runner, connection: AzureConnection) -> dict[str, Any]:
        deadline = time.monotonic() + self.deadline - time.time()
        results: list[dict[str, Any]] = []
        for number, step in enumerate(self.steps):
            told = {"step": number, "results": results}
            emptied = sum(exports.empty(connection, folder) for folder in step["folders"])
            try:
                found = runner.run_batch(step["text"], step["values"], deadline=deadline, keep_rows=self.keep_rows)
            except sql_execution.Cancelled as stopped:
                return {**told, "outcome": "cancelled", "how": stopped.how, "deadline": stopped.deadline}
            except sql_execution.StatementFailed as failed:
                return {**told, "outcome": "failed", "failure": failure_view(failed)}
            results.append({**vars(found), "emptied": emptied})
        return {"outcome": "done", "results": results}

    def _was_begun(self, runner: sql_execution.Runner) -> bool:
        """Whether a triggerer had the script before; its session has ended when this returns."""
        until = time.monotonic() + _PATIENCE
        begun = False
        while rows := runner.run_batch(_EARLIER, (self.marker,)).rows:
            begun = True
            session, status = str(rows[0][0]), str(rows[0][1]).upper()
            if status == "CLOSED":
                break
            if time.monotonic() > until:
                raise AzflowError(
                    f"Session {session} of an earlier triggerer still runs this script and doesn't end; the script "
                    f"isn't run beside it. Look at sys.dm_pdw_exec_requests, label {self.marker}.",
                    retry_helps=True,
                )
            try:
                runner.run_batch(f"KILL '{session}'")
            except sql_execution.StatementFailed as refused:
                self.log.warning("Session %s can't be killed (%s); waiting for its end.", session, refused.message)
            time.sleep(1)
        return begun


def failure_view(failed: sql_execution.StatementFailed) -> dict[str, Any]:
    """A failed statement as plain values."""
    return {
        "message": failed.message,
        "number": failed.number,
        "state": failed.state,
        "line": failed.line,
        "exact": failed.exact,
    }


def failure_of(view: Mapping[str, Any]) -> sql_execution.StatementFailed:
    """`failure_view`'s way back."""
    return sql_execution.StatementFailed(
        str(view["message"]), number=view["number"], state=str(view["state"]), line=view["line"], exact=view["exact"]
    )
