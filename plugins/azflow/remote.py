"""What a remote run is: its state, its name, the calls a service offers for it. Values and a protocol, no Airflow."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from azflow.connection import AzureConnection
from azflow.errors import UnknownRunState, first_line

#: Tag of a remote run: digest of the payload it was started with.
DIGEST_TAG = "azflow.payload"

#: Seconds after a failed request to cancel before the next; as many requests as pauses.
CANCEL_PAUSES = (1.0, 3.0, 0.0)

Phase = Literal["active", "succeeded", "failed", "cancelled"]


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
        module, _, name = self.factory.rpartition(".")
        runs: RemoteRuns = getattr(importlib.import_module(module), name)(connection, **self.arguments)
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

    def name(self, alphabet: Alphabet, digest: str = "") -> str:
        """The run's name in a service's alphabet.

        :param digest: of the payload. It is part of a UUID: what takes one keeps no tags, and a run with other
            parameters mustn't be found under the name.
        """
        parts = (self.dag_id, self.run_id, self.task_id, self.map_index, self.epoch, self.attempt)
        canonical = json.dumps(parts, ensure_ascii=False)
        if alphabet.uuid:
            canonical = json.dumps([*parts, digest], ensure_ascii=False) if digest else canonical
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


def cancel_run(runs: RemoteRuns, run_id: str) -> str:
    """Ask the service to cancel, three times if need be; why it failed, or an empty text."""
    problem = ""
    for pause in CANCEL_PAUSES:
        try:
            runs.cancel(run_id)
        except Exception as error:
            problem = first_line(error)
            time.sleep(pause)
        else:
            return ""
    return problem
