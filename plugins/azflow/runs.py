"""Remote runs, exactly once: THE waiting loop.

A service (Azure ML jobs, Synapse notebook runs, ...) implements `RemoteRuns`; an operator derives from
`RemoteRunOperator` and says which service, what payload, and which alphabet its names have. Neither writes a loop.

**Identity.** A run's name is a readable prefix and a digest of (dag, run, task, map index, epoch, attempt). The epoch
is ``max_tries - retries``: Airflow raises ``max_tries`` when a person clears a task and leaves it alone on automatic
retries. The attempt is the first index whose remote run hasn't failed for good. So every process that works on a task
finds the same name, and no state of our own has to survive a crash.

**Submit.** Look the name up; succeeded: its result is the task's; active: attach; failed: next attempt; absent:
create, and if somebody was faster, attach. The digest of the payload travels as a tag: a run under our name that was
started with other parameters isn't adopted.

**Wait.** The worker polls for a grace period (a deferral costs about 3 s), then defers. In the triggerer one `_Poller`
a service and connection serves all waiting tasks: bounded concurrency, intervals that grow with age, ``Retry-After``
honoured, jitter. A failed poll is logged and tried again.

**Stop.** The deadline is the trigger's own: it cancels the remote run and says so. ``on_kill`` cancels only if the task
instance really left its waiting state: Airflow 3.3.2 also calls it when a trigger moves to another triggerer
(apache/airflow PR 73454) and when a worker is drained. ``cleanup`` never cancels.

**Finish.** In the worker: the result, or an error with id, URL, cause and the last log lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Protocol, runtime_checkable

import attrs
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from azflow.connection import DEFAULT_CONNECTION, AzureConnection
from azflow.errors import (
    AccessDenied,
    AzflowError,
    ConfigurationError,
    RemoteRunFailed,
    RemoteRunTimedOut,
    RunAbandoned,
    RunExists,
    ServiceUnavailable,
    UnknownRunState,
)
from azflow.specs import Night

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context
    from airflow.sdk.types import TaskInstanceKey

#: Tag of a remote run: digest of the payload it was started with.
DIGEST_TAG = "azflow.payload"

#: XCom in which a task keeps its current remote run: {"id", "name", "url", "service"}.
RUN_XCOM = "azflow_run"

Phase = Literal["active", "succeeded", "failed", "cancelled"]


# -- values ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunState:
    """What a service says about a run: its own word, and what the word means to us."""

    raw: str
    phase: Phase

    @property
    def is_terminal(self) -> bool:
        """Whether the run is over."""
        return self.phase != "active"

    @property
    def succeeded(self) -> bool:
        """Whether the run is over and did its work."""
        return self.phase == "succeeded"

    def __str__(self) -> str:
        return self.raw


class RunStates:
    """One service's words for states; `of` turns a word into a `RunState` and raises on an unknown one.

    Comparison ignores case: services answer "Succeeded" here and "succeeded" there.
    """

    def __init__(
        self,
        service: str,
        *,
        active: Sequence[str],
        succeeded: Sequence[str],
        failed: Sequence[str],
        cancelled: Sequence[str],
    ) -> None:
        self.service = service
        words: dict[Phase, Sequence[str]] = {
            "active": active,
            "succeeded": succeeded,
            "failed": failed,
            "cancelled": cancelled,
        }
        self._phases: dict[str, Phase] = {word.lower(): phase for phase, group in words.items() for word in group}

    def of(self, word: str, *, id: str = "", url: str = "") -> RunState:
        """The state for the service's `word`.

        :raises UnknownRunState: guessing could lose a run, or report one done that isn't.
        """
        try:
            return RunState(word, self._phases[word.lower()])
        except (KeyError, AttributeError):
            raise UnknownRunState(str(word), service=self.service, id=id, url=url) from None


@dataclass(frozen=True)
class Found:
    """A run that exists under a name.

    :param payload_digest: what `submit` was given under `DIGEST_TAG`; None where the service keeps no tags.
    """

    id: str
    state: RunState
    payload_digest: str | None


@dataclass(frozen=True)
class RunFailure:
    """Why a run failed.

    :param cause: the service's explanation; no stack trace of the service's own.
    :param log_tail: the last lines of the run's log, oldest first.
    :param retry_helps: False when the same run, started again, must fail again.
    """

    cause: str
    log_tail: list[str] = field(default_factory=list)
    retry_helps: bool = True


@runtime_checkable
class RemoteRuns(Protocol):
    """A service that runs things for us. Implementations hold no state that must survive, and write no loop.

    Their factory is called as ``factory(connection, **arguments)``, in the worker and, in a thread, in the triggerer.
    All calls may raise `AccessDenied`, `ServiceUnavailable`, or the SDK's own errors.
    """

    def lookup(self, name: str) -> Found | None:
        """The run called `name`, or None if there is none."""
        ...

    def submit(self, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Start the run called `name`; returns its id. `tags` (with `DIGEST_TAG`) are kept with it if the service can.

        :raises RunExists: there is a run of that name already.
        """
        ...

    def state(self, id: str) -> RunState:
        """The run's state now."""
        ...

    async def astate(self, id: str) -> RunState:
        """As `state`, for the triggerer's event loop: must not block it."""
        ...

    def cancel(self, id: str) -> None:
        """Ask the service to stop the run. A run that is over already is no error."""
        ...

    def result(self, id: str) -> dict[str, Any]:
        """What the finished run yielded: small and plain, it becomes the task's XCom."""
        ...

    def failure(self, id: str) -> RunFailure:
        """Why the run failed."""
        ...

    def url(self, id: str) -> str:
        """Where a person can look at the run."""
        ...


@dataclass(frozen=True)
class RunsReference:
    """Names a `RemoteRuns` so that the triggerer can build its own.

    :param factory: dotted path of the class or function, e.g. ``azflow.ml.AzureMLJobs``.
    :param arguments: its plain (JSON) keyword arguments.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def open(self, connection: AzureConnection) -> RemoteRuns:
        """The service over `connection`."""
        from airflow.sdk.module_loading import import_string

        runs: RemoteRuns = import_string(self.factory)(connection, **self.arguments)
        return runs

    def key(self, conn_id: str) -> str:
        """Equal for equal services over equal connections."""
        return json.dumps([self.factory, self.arguments, conn_id], sort_keys=True)


@dataclass(frozen=True)
class Alphabet:
    """What a service allows in the names of its runs.

    :param allowed: inside of a regular expression's character class.
    :param length: characters at most.
    :param uuid: names are UUIDs; the others don't count.
    """

    allowed: str = "A-Za-z0-9_-"
    length: int = 100
    uuid: bool = False


#: https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-command (name)
AZURE_ML_JOB = Alphabet()
#: Synapse lets the client choose a notebook run's id, a UUID.
NOTEBOOK_RUN = Alphabet(uuid=True)

_NAMESPACE = uuid.UUID("5f0c1c0e-6a7b-5b57-9f57-0a4b6f3f2f10")


@dataclass(frozen=True)
class RunIdentity:
    """Which piece of work a remote run is. Equal identities have equal names, in any process, at any time."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    epoch: int
    attempt: int = 0

    @classmethod
    def from_context(cls, context: Mapping[str, Any]) -> RunIdentity:
        """The identity of the running task instance, at attempt 0."""
        ti = context["ti"]
        retries = ti.task.retries or 0
        map_index = ti.map_index if ti.map_index is not None else -1
        return cls(ti.dag_id, ti.run_id, ti.task_id, map_index, ti.max_tries - retries)

    def at(self, attempt: int) -> RunIdentity:
        """The same work at another attempt."""
        return replace(self, attempt=attempt)

    def name(self, alphabet: Alphabet) -> str:
        """The run's name in a service's alphabet."""
        parts = (self.dag_id, self.run_id, self.task_id, self.map_index, self.epoch, self.attempt)
        canonical = json.dumps(parts, ensure_ascii=False)
        if alphabet.uuid:
            return str(uuid.uuid5(_NAMESPACE, canonical))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:20]
        readable = re.sub(f"[^{alphabet.allowed}]+", "-", f"{self.dag_id}-{self.task_id}").strip("-_")
        if not readable[:1].isalpha():
            readable = f"a{readable}"
        return f"{readable[: alphabet.length - len(digest) - 1].rstrip('-_')}-{digest}"


def payload_digest(payload: Mapping[str, Any]) -> str:
    """Digest of a payload: equal content, equal digest, whatever the order of keys."""
    canonical = json.dumps(payload, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


# -- the edge to Airflow ---------------------------------------------------------------------------------------------


def raise_for_airflow(error: AzflowError) -> NoReturn:
    """Raise `error` as Airflow understands it: without retries if no retry can help."""
    if error.retry_helps:
        raise AirflowException(str(error)) from error
    raise AirflowFailException(str(error)) from error


@contextlib.contextmanager
def airflow_edge(conn_id: str = DEFAULT_CONNECTION) -> Iterator[None]:
    """Around the body of an operator's ``execute``: errors of azflow and of Azure's SDKs leave it as Airflow's."""
    try:
        yield
    except AzflowError as error:
        raise_for_airflow(error)
    except Exception as error:
        if (known := as_azflow_error(error, conn_id)) is None:
            raise
        try:
            raise known from error
        except AzflowError as chained:
            raise_for_airflow(chained)


_FORBIDDEN = (401, 403)
_UNAVAILABLE = (408, 429, 500, 502, 503, 504)


def as_azflow_error(error: BaseException, conn_id: str) -> AzflowError | None:
    """An error of an Azure SDK as one of ours, if it says something about access or availability; else None."""
    if isinstance(error, AzflowError):
        return error
    core = sys.modules.get("azure.core.exceptions")  # not loaded: the error can't be one of its
    if core is None:
        return None
    if isinstance(error, core.HttpResponseError):
        status = error.status_code
        if isinstance(error, core.ClientAuthenticationError) or status in _FORBIDDEN:
            return AccessDenied(conn_id, _first_line(error))
        if status in _UNAVAILABLE:
            return ServiceUnavailable(
                f"The service answered {status}: {_first_line(error)}", retry_after=retry_after(error)
            )
        return None
    if isinstance(error, core.ServiceRequestError | core.ServiceResponseError):
        return ServiceUnavailable(f"The service can't be reached: {_first_line(error)}")
    return None


def retry_after(error: BaseException) -> float | None:
    """Seconds the service asked to wait, from our own or an SDK's error; dates in the header are ignored."""
    if isinstance(error, ServiceUnavailable):
        return error.retry_after
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        return None
    value = headers.get("Retry-After") or headers.get("retry-after")
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class AzflowOperator(BaseOperator):
    """Base of azflow's operators: templates also see ``night`` (`Night`), ``azure`` (`AzureConnection.view`) and
    ``model`` (the model's name).

    :param conn_id: the Airflow connection.
    :param model: the model's name; empty for tasks that belong to none.
    """

    ui_color = "#e8f1fb"

    def __init__(self, *, conn_id: str = DEFAULT_CONNECTION, model: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.model = model

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """As the base class, with azflow's names in the context (and left there for ``execute``)."""
        with airflow_edge(self.conn_id):
            self.add_to_context(context)
        super().render_template_fields(context, jinja_env)

    def add_to_context(self, context: Any) -> None:
        """Put ``night``, ``azure`` and ``model`` into `context`."""
        context["night"] = Night.from_context(context)
        context["azure"] = AzureConnection.load(self.conn_id).view()
        context["model"] = self.model


@attrs.define(init=False)
class RunLink(BaseOperatorLink):
    """The remote run, on the task's page in Airflow. Its URL is stored at submission."""

    name: str = "Remote run"  # type: ignore[misc]

    def __init__(self, name: str = "Remote run") -> None:
        self.name = name  # type: ignore[misc]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Called in the task's process at its end; Airflow stores what it returns as an XCom."""
        return getattr(operator, "run_url", "")


# -- the operator ----------------------------------------------------------------------------------------------------

_MAX_ATTEMPTS = 100
_MAX_GRACE_INTERVAL = 3.0


class RemoteRunOperator(AzflowOperator):
    """Starts a remote run once, waits for it, returns its result.

    A subclass sets `service` and `alphabet` and implements `remote_runs` and `payload`; it may override `outcome`.

    :param timeout_minutes: from now until the remote run is cancelled.
    :param grace_seconds: how long the worker polls before it defers.
    :param poll_seconds: the first interval between two polls in the worker.
    """

    #: What a run is called in messages, e.g. ``Azure ML job``.
    service: ClassVar[str]
    alphabet: ClassVar[Alphabet]

    operator_extra_links = (RunLink(),)

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

    # -- what Airflow calls ------------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Find or start the run, wait out the grace period, then finish or defer."""
        with airflow_edge(self.conn_id), self._service() as runs:
            deadline = time.time() + self.timeout_minutes * 60
            run_id, state = self._find_or_submit(context, runs)
            return self._wait(context, runs, run_id, state, deadline)

    def resume(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Called in a worker when the trigger has fired."""
        run_id, deadline = str(event["run_id"]), float(event["deadline"])
        with airflow_edge(self.conn_id), self._service() as runs:
            self._remember(context, runs, run_id, event.get("name", ""))
            if event["outcome"] == "timed_out":
                raise self._timed_out(run_id, str(event.get("problem") or ""))
            # The trigger's word only wakes us; what counts is what the service says now.
            return self._wait(context, runs, run_id, runs.state(run_id), deadline)

    def on_kill(self) -> None:
        """SIGTERM: a person stopped the task, or the worker is being drained. `_wait` finds out which, and acts.

        Nothing else may happen here: this runs inside a signal handler, maybe in the middle of a request.
        """
        self._stop().set()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _stop(self) -> threading.Event:
        # Made late: an Event can't be copied, and Airflow deep-copies operators.
        found: threading.Event = self.__dict__.setdefault("_azflow_stop", threading.Event())
        return found

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
            name = identity.at(attempt).name(self.alphabet)
            found = runs.lookup(name)
            if found is None:
                found = self._submit(runs, name, payload, self._tags(identity.at(attempt), digest))
                if isinstance(found, str):
                    self.log.info("%s %s submitted.", self.service, found)
                    self._remember(context, runs, found, name)
                    return found, None
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

    def _submit(
        self, runs: RemoteRuns, name: str, payload: Mapping[str, Any], tags: Mapping[str, str]
    ) -> Found | str:
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
        return {
            DIGEST_TAG: digest,
            "azflow.dag": identity.dag_id,
            "azflow.run": identity.run_id,
            "azflow.task": identity.task_id,
            "azflow.attempt": f"{identity.epoch}.{identity.attempt}",
        }

    def _remember(self, context: Context, runs: RemoteRuns, run_id: str, name: str) -> None:
        """Store id and URL at once: the link works while the run does, and the trigger knows which run is current."""
        self.run_url = runs.url(run_id)
        ti = context["ti"]
        ti.xcom_push(RUN_XCOM, {"id": run_id, "name": name, "url": self.run_url, "service": self.service})
        for link in self.operator_extra_links:
            ti.xcom_push(link.xcom_key, self.run_url)
        self.log.info("%s: %s", self.service, self.run_url)

    def _wait(
        self, context: Context, runs: RemoteRuns, run_id: str, state: RunState | None, deadline: float
    ) -> Any:
        """Poll for the grace period; finish if the run is over, else defer."""
        until, interval, problem = time.monotonic() + self.grace_seconds, self.poll_seconds, None
        while state is None or not state.is_terminal:
            if self._stop().is_set():
                self._stopped(context, runs, run_id)
            if time.time() >= deadline:
                raise self._timed_out(run_id, _cancel(runs, run_id))
            if time.monotonic() >= until:
                self._defer(run_id, deadline)
            self._stop().wait(min(interval, max(0.0, until - time.monotonic())))
            interval = min(interval * 1.3, _MAX_GRACE_INTERVAL)
            if self._stop().is_set():
                continue
            try:
                state = runs.state(run_id)
            except UnknownRunState:
                raise
            except Exception as error:
                problem = error
                self.log.warning("%s %s: a poll failed (%s); trying again.", self.service, run_id, _first_line(error))
                until += interval if problem is None else 0.0
        return self._finish(context, runs, run_id, state)

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
        )

    def _stopped(self, context: Context, runs: RemoteRuns, run_id: str) -> NoReturn:
        """After SIGTERM: cancel if the task was taken from us, else leave the run to the next try."""
        ti = context["ti"]
        map_index = ti.map_index if ti.map_index is not None else -1
        state = _task_state(ti.dag_id, ti.run_id, ti.task_id, map_index)
        if state in ("running", "unknown"):
            raise RunAbandoned(service=self.service, id=run_id, url=self.run_url)
        problem = _cancel(runs, run_id)
        said = f"could not be cancelled: {problem}" if problem else "was cancelled"
        raise AirflowFailException(f"The task was stopped (it is {state or 'cleared'} now); {self.service} {run_id} {said}.")

    def _timed_out(self, run_id: str, problem: str) -> RemoteRunTimedOut:
        return RemoteRunTimedOut(
            service=self.service, id=run_id, url=self.run_url, minutes=self.timeout_minutes, cancel_problem=problem
        )

    def _finish(self, context: Context, runs: RemoteRuns, run_id: str, state: RunState) -> Any:
        if state.succeeded:
            self.log.info("%s %s: %s.", self.service, run_id, state)
            return self.outcome(context, runs.result(run_id))
        try:
            failure = runs.failure(run_id)
        except Exception as problem:
            # The failure must not hide behind an error about its explanation.
            failure = RunFailure(f"(its cause can't be read: {_first_line(problem)})")
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


def _cancel(runs: RemoteRuns, run_id: str) -> str:
    """Ask the service to cancel, three times if need be; why it failed, or an empty text."""
    problem = ""
    for pause in (1.0, 3.0, 0.0):
        try:
            runs.cancel(run_id)
        except Exception as error:
            problem = _first_line(error)
            time.sleep(pause)
        else:
            return ""
    return problem


def _task_state(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """The task instance's state in Airflow's database now; "" if it has none (cleared), "unknown" if it can't be read."""
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


# -- the trigger -----------------------------------------------------------------------------------------------------

_POLL_TIMEOUT = 60.0
_MIN_INTERVAL = 1.0
_MAX_INTERVAL = 60.0
_MAX_RETRY_AFTER = 300.0


def poll_interval(age: float, failures: int = 0) -> float:
    """Seconds until the next poll of a run of `age` seconds, after `failures` failed polls in a row.

    A thirtieth of the age: the wait adds at most 3 % to what the run takes.
    """
    steady = min(max(age / 30, _MIN_INTERVAL), _MAX_INTERVAL)
    backoff = min(2.0**failures, _MAX_INTERVAL) if failures else 0.0
    return max(steady, backoff) * random.uniform(0.85, 1.15)


class _Poller:
    """All polls of one service over one connection: one client, bounded concurrency, common throttling."""

    concurrency: ClassVar[int] = 8
    _open_pollers: ClassVar[dict[tuple[int, str], _Poller]] = {}

    def __init__(self, reference: RunsReference, conn_id: str) -> None:
        self.reference = reference
        self.conn_id = conn_id
        self.users = 0
        self._runs: RemoteRuns | None = None
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(self.concurrency)
        self._not_before = 0.0

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
            while (pause := self._not_before - loop.time()) > 0:
                await asyncio.sleep(pause)
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

    async def cancel(self, run_id: str) -> str:
        """Ask the service to cancel; why it failed, or an empty text."""
        try:
            runs = await self._service()
        except Exception as error:
            return _first_line(error)
        return await asyncio.to_thread(_cancel, runs, run_id)

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
        super().__init__()
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
            yield await self._watch(poller)

    async def _watch(self, poller: _Poller) -> TriggerEvent:
        failures = 0
        while (left := self.deadline - time.time()) > 0:
            await asyncio.sleep(min(poll_interval(time.time() - self.started, failures), left))
            try:
                state = await poller.state(self.run_id)
            except UnknownRunState as unknown:
                # The worker asks again and raises: somebody must see this word.
                return self._event("unknown", state=unknown.word)
            except Exception as error:
                failures += 1
                self.log.warning(
                    "%s %s: poll failed %d time(s) in a row (%s); trying again.",
                    self.service,
                    self.run_id,
                    failures,
                    _first_line(error),
                )
                continue
            failures = 0
            if state.is_terminal:
                return self._event("over", state=state.raw)
        problem = await poller.cancel(self.run_id)
        self.log.error("%s %s passed its deadline; cancelled: %s", self.service, self.run_id, problem or "yes")
        return self._event("timed_out", problem=problem)

    def _event(self, outcome: str, *, state: str = "", problem: str = "") -> TriggerEvent:
        return TriggerEvent(
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
        very run."""
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
        from asgiref.sync import sync_to_async

        ti = self.task_instance
        if ti is None:
            return "its task instance isn't known"
        map_index = ti.map_index if ti.map_index is not None else -1
        state = await sync_to_async(_task_state)(ti.dag_id, ti.run_id, ti.task_id, map_index)
        if state == "unknown":
            return "its task's state can't be read"
        if state != "deferred":
            return ""
        # Deferred: either another triggerer took over (same run), or the task was cleared and waits for another run.
        current = await sync_to_async(_current_run)(ti.dag_id, ti.run_id, ti.task_id, map_index)
        if current is not None and current != self.run_id:
            return ""
        return "its task still waits for it"


def _current_run(dag_id: str, run_id: str, task_id: str, map_index: int) -> str | None:
    """The id of the remote run that the task instance stored last; None if that can't be read."""
    from airflow.sdk.bases.xcom import BaseXCom

    try:
        stored = BaseXCom.get_one(
            key=RUN_XCOM, dag_id=dag_id, task_id=task_id, run_id=run_id, map_index=map_index if map_index >= 0 else None
        )
    except Exception:
        return None
    return str(stored["id"]) if isinstance(stored, Mapping) and stored.get("id") else None
