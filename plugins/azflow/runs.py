"""Remote runs, exactly once: THE waiting loop.

A service (Azure ML jobs, Synapse notebook runs, ...) implements `RemoteRuns`; an operator derives from
`RemoteRunOperator` and says which service, what payload, and which alphabet its names have. Neither writes a loop.

**Identity.** A run's name is a readable prefix and a digest of (dag, run, task, map index, epoch, attempt). The epoch
is ``max_tries - retries``: Airflow raises ``max_tries`` when a person clears a task and leaves it alone on automatic
retries. The attempt is the first index whose remote run hasn't failed for good. So every process that works on a task
finds the same name, and no state of our own has to survive a crash.

**Submit.** Look the name up; succeeded: its result is the task's; active: attach; failed: next attempt; absent:
create, and if somebody was faster, attach. The digest of the payload travels as a tag, or is part of the name where a
service keeps no tags: a run that was started with other parameters isn't adopted.

**Wait.** The worker polls for a grace period (a deferral costs about 3 s), then defers. In the triggerer one `_Poller`
a service and connection serves all waiting tasks: bounded concurrency, intervals that grow with age, ``Retry-After``
honoured, jitter. A failed poll is logged and tried again.

**Stop.** The deadline is the trigger's own: it cancels the remote run and says so. ``on_kill`` cancels only if the task
instance really left its waiting state: Airflow 3.3.2 also calls it when a trigger moves to another triggerer
(apache/airflow PR 73454) and when a worker is drained. ``cleanup`` never cancels. A trigger that no triggerer has begun
yet can't be told anything: what a person ends in these seconds, `azflow.listener` hands over.

**Finish.** In the worker: the result, or an error with id, URL, cause and the last log lines.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import attrs
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from azflow.connection import AzureConnection
from azflow.edge import AzflowOperator, airflow_edge, as_azflow_error, raise_for_airflow
from azflow.errors import (
    ConfigurationError,
    RemoteRunFailed,
    RemoteRunTimedOut,
    RunAbandoned,
    RunExists,
    ServiceUnavailable,
    UnknownRunState,
    first_line,
)
from azflow.remote import (
    AZURE_ML_JOB,
    DIGEST_TAG,
    NOTEBOOK_RUN,
    Alphabet,
    Found,
    RemoteRuns,
    RunFailure,
    RunIdentity,
    RunsReference,
    RunState,
    RunStates,
    cancel_run,
    payload_digest,
)
from azflow.watch import RUN_XCOM, RemoteRunTrigger, task_state

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import TaskInstanceKey

__all__ = [
    "AZURE_ML_JOB",
    "DIGEST_TAG",
    "NOTEBOOK_RUN",
    "RUN_XCOM",
    "SPEND_XCOM",
    "Alphabet",
    "AzflowOperator",
    "Found",
    "RemoteRunOperator",
    "RemoteRunTrigger",
    "RemoteRuns",
    "RunFailure",
    "RunIdentity",
    "RunLink",
    "RunState",
    "RunStates",
    "RunsReference",
    "airflow_edge",
    "as_azflow_error",
    "payload_digest",
    "raise_for_airflow",
]


@attrs.define(init=False)
class RunLink(BaseOperatorLink):
    """The remote run, on the task's page in Airflow. Its URL is stored at submission."""

    name: str = "Remote run"

    def __init__(self, name: str = "Remote run") -> None:
        self.name = name

    #: The operator's attribute that holds the URL.
    attribute: ClassVar[str] = "run_url"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Called in the task's process at its end; Airflow stores what it returns as an XCom."""
        return str(getattr(operator, self.attribute, ""))


#: XCom of a task whose remote run failed and was paid for: {"name", "node_seconds"}.
SPEND_XCOM = "spend"

_MAX_ATTEMPTS = 100
_MAX_GRACE_INTERVAL = 3.0


class RemoteRunOperator(AzflowOperator):
    """Starts a remote run once, waits for it, returns its result.

    A subclass sets `service` and `alphabet` and implements `remote_runs` and `payload`; it may override `outcome`,
    `before_submit`, `follow`, `find_links` and `after_failure`.

    :param timeout_minutes: from now until the remote run is cancelled.
    :param grace_seconds: how long the worker polls before it defers.
    :param poll_seconds: the first interval between two polls in the worker.
    """

    #: What a run is called in messages, e.g. ``Azure ML job``.
    service: ClassVar[str]
    alphabet: ClassVar[Alphabet]

    operator_extra_links: tuple[RunLink, ...] = (RunLink(),)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, kind in (("service", str), ("alphabet", Alphabet)):
            if not isinstance(getattr(cls, name, None), kind):
                raise TypeError(f"{cls.__name__} must set the class attribute {name} ({kind.__name__}).")

    def __init__(
        self,
        *,
        timeout_minutes: float = 360,
        grace_seconds: float = 15,
        poll_seconds: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.timeout_minutes = timeout_minutes
        self.grace_seconds = grace_seconds
        self.poll_seconds = poll_seconds
        #: URL of the current remote run, for `RunLink`; in the task's process only.
        self.run_url = ""
        #: What `follow` has shown, why the deadline is what it is: plain values, they go through the deferral.
        self.progress: dict[str, Any] = {}
        self._stopping = False
        self._troubles: set[str] = set()

    # -- what a subclass gives ---------------------------------------------------------------------------------------

    def remote_runs(self) -> RunsReference:
        """The service."""
        raise NotImplementedError(f"{type(self).__name__} doesn't say which service runs its work (remote_runs).")

    def payload(self, context: Context) -> dict[str, Any]:
        """What to run: plain values, the same for every try (no clock, no random, no token): its digest decides whether
        a run found under our name is ours."""
        raise NotImplementedError(f"{type(self).__name__} doesn't say what to run (payload).")

    def outcome(self, context: Context, result: dict[str, Any]) -> Any:
        """The task's XCom, from the run's result."""
        return result

    def before_submit(self, context: Context, runs: RemoteRuns, payload: Mapping[str, Any]) -> None:
        """Called before a run is created, not when one is found. May raise, or call `lower_deadline`."""

    def lower_deadline(self, minutes: float, because: str) -> None:
        """Cancel the run earlier than `timeout_minutes` says.

        :param because: what to raise if that was too early, for the message.
        """
        self.timeout_minutes = minutes
        self.progress["deadline"] = [minutes, because]

    def follow(self, runs: RemoteRuns, run_id: str) -> None:
        """Called after each poll in the worker: log what is new of the run. What it raises is logged and forgotten."""

    def find_links(self, runs: RemoteRuns, run_id: str) -> None:
        """Set the attributes that `operator_extra_links` show; called in each process that waits for the run."""
        self.run_url = runs.url(run_id)

    def after_failure(self, context: Context, runs: RemoteRuns, run_id: str) -> None:
        """Called when the run ended without success. What it raises is logged and forgotten."""

    # -- what Airflow calls ------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Find or start the run, wait out the grace period, then finish or defer."""
        with airflow_edge(self.conn_id), self._service() as runs:
            run_id, state = self._find_or_submit(context, runs)
            return self._wait(context, runs, run_id, state, time.time() + self.timeout_minutes * 60)

    def resume(self, context: Context, event: Mapping[str, Any], progress: dict[str, Any] | None = None) -> Any:
        """Called in a worker when the trigger has fired."""
        run_id, deadline = str(event["run_id"]), float(event["deadline"])
        self.progress = dict(progress or {})
        with airflow_edge(self.conn_id), self._service() as runs:
            self.find_links(runs, run_id)
            # The trigger's word only wakes us; what counts is what the service says now. A run may even have
            # succeeded at the very moment it was to be cancelled.
            state = self._poll(runs, run_id)
            if event["outcome"] == "timed_out" and not (state and state.succeeded):
                raise self._timed_out(run_id, str(event.get("problem") or ""))
            return self._wait(context, runs, run_id, state, deadline)

    def on_kill(self) -> None:
        """SIGTERM: a person stopped the task, or the worker is being drained. `_wait` finds out which, and acts.

        Nothing else may happen here: this runs inside a signal handler, maybe in the middle of a request or while a
        lock is held.
        """
        self._stopping = True

    # -- steps -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _service(self) -> Iterator[RemoteRuns]:
        runs = self.remote_runs().open(AzureConnection.load(self.conn_id))
        try:
            yield runs
        finally:
            if close := getattr(runs, "close", None):
                close()

    def _find_or_submit(self, context: Context, runs: RemoteRuns) -> tuple[str, RunState | None]:
        """The run that does this task's work: found, or created. At most one process creates it."""
        identity = RunIdentity.from_context(context)
        payload = self.payload(context)
        digest = payload_digest(payload)
        for attempt in range(_MAX_ATTEMPTS):
            name = identity.at(attempt).name(self.alphabet, digest)
            found = runs.lookup(name)
            if found is None:
                if self._stopping:
                    raise AirflowException(f"The task was stopped before its {self.service} was submitted.")
                self.before_submit(context, runs, payload)
                submitted = self._submit(runs, name, payload, self._tags(identity.at(attempt), digest))
                if isinstance(submitted, str):
                    self.log.info("%s %s submitted.", self.service, submitted)
                    self._remember(context, runs, submitted, name)
                    return submitted, None
                found = submitted
            if found.payload_digest not in (None, digest):
                self.log.warning(
                    "%s %s (%s) was started under this task's name with other parameters; it isn't adopted. See %s",
                    self.service,
                    found.id,
                    found.state,
                    runs.url(found.id),
                )
                continue
            if found.state.is_terminal and not found.state.succeeded:
                self.log.info("%s %s ended as %s: trying anew.", self.service, found.id, found.state)
                continue
            self.log.info("%s %s exists (%s): attaching to it.", self.service, found.id, found.state)
            self._remember(context, runs, found.id, name)
            return found.id, found.state
        raise ConfigurationError(
            f"{_MAX_ATTEMPTS} runs of this task failed. Clear the task to begin again, after looking at the last one."
        )

    def _submit(self, runs: RemoteRuns, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> Found | str:
        """Create the run; its id, or the run that somebody else created under that name meanwhile.

        A request whose answer is lost may have been carried out: only a second look tells.
        """
        try:
            return runs.submit(name, payload, tags)
        except Exception as problem:
            with contextlib.suppress(Exception):
                if (found := runs.lookup(name)) is not None:
                    return found
            if isinstance(problem, RunExists):
                raise ServiceUnavailable(f"{self.service} {name} exists, but can't be found yet.") from problem
            raise

    def _tags(self, identity: RunIdentity, digest: str) -> dict[str, str]:
        mapped = {"azflow.map_index": str(identity.map_index)} if identity.map_index >= 0 else {}
        return {
            **mapped,
            DIGEST_TAG: digest,
            "azflow.dag": identity.dag_id,
            "azflow.run": identity.run_id,
            "azflow.task": identity.task_id,
            "azflow.attempt": f"{identity.epoch}.{identity.attempt}",
        }

    def _remember(self, context: Context, runs: RemoteRuns, run_id: str, name: str) -> None:
        """Store id and URL at once: the link works while the run does, and the trigger knows which run is current."""
        self.find_links(runs, run_id)
        ti = context["ti"]
        reference = self.remote_runs()
        found = {"id": run_id, "name": name, "url": self.run_url, "service": self.service}
        # For `azflow.listener`, which has no operator.
        opened = {"factory": reference.factory, "arguments": dict(reference.arguments), "conn_id": self.conn_id}
        ti.xcom_push(RUN_XCOM, {**found, **opened})
        for link in self.operator_extra_links:
            ti.xcom_push(link.xcom_key, getattr(self, link.attribute))
        self.log.info("%s: %s", self.service, self.run_url)

    def _wait(self, context: Context, runs: RemoteRuns, run_id: str, state: RunState | None, deadline: float) -> Any:
        """Poll for the grace period; finish if the run is over, else defer."""
        until, interval = time.monotonic() + self.grace_seconds, self.poll_seconds
        while True:
            state = state or self._poll(runs, run_id)
            self._aside("its log can't be followed", self.follow, runs, run_id)
            if state is not None and state.is_terminal:
                return self._finish(context, runs, run_id, state)
            if self._stopping:
                self._stopped(context, runs, run_id)
            if (left := deadline - time.time()) <= 0:
                raise self._timed_out(run_id, cancel_run(runs, run_id))
            if time.monotonic() >= until:
                # Airflow tells a worker within 5 s that its task was ended, and a deferral ends the worker before.
                if self._task_state(context) not in ("running", "unknown"):
                    self._stopped(context, runs, run_id)
                self._defer(run_id, deadline)
            self._sleep(min(interval, left, until - time.monotonic()))
            interval = min(interval * 1.3, _MAX_GRACE_INTERVAL)
            state = None

    def _poll(self, runs: RemoteRuns, run_id: str) -> RunState | None:
        """The run's state; None if this poll failed, which says nothing about the run."""
        try:
            return runs.state(run_id)
        except UnknownRunState:
            raise
        except Exception as error:
            self.log.warning("%s %s: a poll failed (%s); trying again.", self.service, run_id, first_line(error))
            return None

    def _sleep(self, seconds: float) -> None:
        """Sleep, in slices: Python resumes a sleep after a signal handler has run."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))

    def _aside(self, trouble: str, call: Callable[..., None], *arguments: Any) -> None:
        """Something the run's fate doesn't depend on: its error is logged once and forgotten."""
        try:
            call(*arguments)
        except Exception as error:
            if trouble not in self._troubles:
                self._troubles.add(trouble)
                self.log.warning("%s: %s (%s).", self.service, trouble, first_line(error))

    def _defer(self, run_id: str, deadline: float) -> NoReturn:
        reference = self.remote_runs()
        self.defer(
            trigger=RemoteRunTrigger(
                factory=reference.factory,
                arguments=dict(reference.arguments),
                conn_id=self.conn_id,
                service=self.service,
                run_id=run_id,
                started=time.time() - self.grace_seconds,
                deadline=deadline,
            ),
            method_name="resume",
            kwargs={"progress": self.progress} if self.progress else None,
        )

    def _stopped(self, context: Context, runs: RemoteRuns, run_id: str) -> NoReturn:
        """After SIGTERM, or before a deferral: cancel if the task was taken from us, else leave the run to the next
        try."""
        state = self._task_state(context)
        if state in ("running", "unknown"):
            raise RunAbandoned(service=self.service, id=run_id, url=self.run_url)
        problem = cancel_run(runs, run_id)
        said = f"could not be cancelled: {problem}" if problem else "was cancelled"
        raise AirflowFailException(
            f"The task was stopped (it is {state or 'cleared'} now); {self.service} {run_id} {said}."
        )

    def _task_state(self, context: Context) -> str:
        ti = context["ti"]
        return task_state(ti.dag_id, ti.run_id, ti.task_id, ti.map_index if ti.map_index is not None else -1)

    def _timed_out(self, run_id: str, problem: str) -> RemoteRunTimedOut:
        minutes, because = self.progress.get("deadline") or (self.timeout_minutes, "")
        return RemoteRunTimedOut(
            service=self.service,
            id=run_id,
            url=self.run_url,
            minutes=minutes,
            cancel_problem=problem,
            because=because,
        )

    def _finish(self, context: Context, runs: RemoteRuns, run_id: str, state: RunState) -> Any:
        if state.succeeded:
            self.log.info("%s %s: %s.", self.service, run_id, state)
            return self.outcome(context, runs.result(run_id))
        try:
            failure = runs.failure(run_id)
        except Exception as problem:
            # The failure must not hide behind an error about its explanation.
            failure = RunFailure(f"(its cause can't be read: {first_line(problem)})")
        self._aside("what it left can't be read", self.after_failure, context, runs, run_id)
        raise RemoteRunFailed(
            service=self.service,
            id=run_id,
            url=self.run_url,
            state=state.raw,
            cause=failure.cause,
            log_tail=failure.log_tail,
            # A person or another system stopped it: starting it again isn't ours to decide.
            retry_helps=failure.retry_helps and state.phase != "cancelled",
        )
