"""The states of a job as declared transitions.

Names: https://learn.microsoft.com/rest/api/azureml/jobs/get#jobstatus. A transition that isn't in the table is a
programming error and raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

NOT_STARTED: Final = "NotStarted"
STARTING: Final = "Starting"
QUEUED: Final = "Queued"
PREPARING: Final = "Preparing"
RUNNING: Final = "Running"
FINALIZING: Final = "Finalizing"
CANCEL_REQUESTED: Final = "CancelRequested"
COMPLETED: Final = "Completed"
FAILED: Final = "Failed"
CANCELED: Final = "Canceled"

TERMINAL: Final = frozenset({COMPLETED, FAILED, CANCELED})

_STOP = {FAILED, CANCEL_REQUESTED}
TRANSITIONS: Final[Mapping[str, frozenset[str]]] = {
    NOT_STARTED: frozenset({STARTING} | _STOP),
    STARTING: frozenset({QUEUED, PREPARING} | _STOP),
    QUEUED: frozenset({PREPARING} | _STOP),
    # Back to the queue: its node was preempted.
    PREPARING: frozenset({RUNNING, QUEUED} | _STOP),
    RUNNING: frozenset({FINALIZING, QUEUED} | _STOP),
    FINALIZING: frozenset({COMPLETED} | _STOP),
    # A job that had ended by the time the request reached it keeps its own ending.
    CANCEL_REQUESTED: frozenset({CANCELED, COMPLETED, FAILED}),
    COMPLETED: frozenset(),
    FAILED: frozenset(),
    CANCELED: frozenset(),
}


class IllegalTransition(RuntimeError):
    """A job was asked to go from one state to another that the table doesn't allow."""

    def __init__(self, name: str, old: str, new: str) -> None:
        super().__init__(f"job {name}: {old} -> {new} is not a transition of an Azure ML job")


def timestamp() -> str:
    """Now, as ARM writes it: ISO 8601, microseconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def advance(job: dict[str, Any], state: str) -> dict[str, Any]:
    """The stored job in its new state, with the time it was entered. `job` is a document of kind `ml.jobs`."""
    properties = job["resource"]["properties"]
    old = properties["status"]
    if old == state:
        return job
    if state not in TRANSITIONS[old]:
        raise IllegalTransition(job["resource"]["name"], old, state)
    now = timestamp()
    properties["status"] = state
    run = job["run"]
    run["states"].append([state, now])
    if state == RUNNING:
        run.setdefault("startTimeUtc", now)
    if state in TERMINAL:
        run["endTimeUtc"] = now
    return job


def is_terminal(job: Mapping[str, Any]) -> bool:
    """Whether the stored job will never change its state again."""
    return job["resource"]["properties"]["status"] in TERMINAL
