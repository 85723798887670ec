"""What a job may cost, in node hours: what its YAML allows it, what a model's limits leave, what it took. Pure.

A node hour is one node of the compute for one hour. Prices are the user's contract's, so limits are given in hours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_HOUR = 3600.0
_MINUTE = 60.0


@dataclass(frozen=True)
class SpendLimits:
    """Node hours at most (model.yml, spend); None: no limit."""

    max_node_hours_per_job: float | None = None
    max_node_hours_per_night: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> SpendLimits:
        """From a task's argument. Raises ValueError, naming the key."""
        given = dict(given or {})
        if unknown := sorted(set(given) - set(cls.__dataclass_fields__)):
            raise ValueError(f"spend has no key {unknown[0]}; it has {', '.join(cls.__dataclass_fields__)}")
        for key, value in given.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and value > 0):
                raise ValueError(f"spend.{key} must be a positive number of node hours, not {value!r}")
        return cls(**given)

    def __bool__(self) -> bool:
        return self.max_node_hours_per_job is not None or self.max_node_hours_per_night is not None


@dataclass(frozen=True)
class Declared:
    """What a job's YAML lets it use.

    :param nodes: how many it may hold at the same time.
    :param seconds: node seconds at most, by its own limits; None: they don't bound it.
    :param by: the keys that say so, e.g. ``limits.timeout x 2``.
    """

    nodes: int
    seconds: float | None
    by: str = ""


def declared(content: Mapping[str, Any]) -> Declared:
    """What a job's YAML (rendered) declares.

    https://learn.microsoft.com/azure/machine-learning/reference-yaml-job-command (-sweep, -pipeline, -spark) and
    .../reference-automated-ml-schema: command and sweep count seconds, AutoML minutes.
    """
    kind = str(content.get("type") or ("pipeline" if "jobs" in content else "command"))
    limits = content.get("limits") if isinstance(content.get("limits"), Mapping) else {}
    assert isinstance(limits, Mapping)
    if kind == "pipeline":
        steps = [declared(step) for step in (content.get("jobs") or {}).values() if isinstance(step, Mapping)]
        bounded = [step.seconds for step in steps if step.seconds is not None]
        seconds = sum(bounded) if steps and len(bounded) == len(steps) else None
        return Declared(max(1, sum(step.nodes for step in steps)), seconds, "the limits of its steps")
    if kind == "spark":
        return Declared(_spark_nodes(content), None)
    trials = _whole(limits.get("max_trials") or limits.get("max_total_trials") or 0, least=0)
    if kind == "automl":
        nodes = _whole(limits.get("max_nodes") or limits.get("max_concurrent_trials"))
        return _least(
            nodes,
            (_seconds(limits.get("timeout_minutes"), _MINUTE), nodes, "limits.timeout_minutes"),
            (_seconds(limits.get("trial_timeout_minutes"), _MINUTE), trials, "limits.trial_timeout_minutes"),
        )
    each = _whole((content.get("resources") or {}).get("instance_count"))
    if kind == "sweep":
        nodes = each * _whole(limits.get("max_concurrent_trials") or trials)
        return _least(
            nodes,
            (_seconds(limits.get("timeout")), nodes, "limits.timeout"),
            (_seconds(limits.get("trial_timeout")), trials * each, "limits.trial_timeout"),
        )
    return _least(each, (_seconds(limits.get("timeout")), each, "limits.timeout"))


def _least(nodes: int, *bounds: tuple[float | None, int, str]) -> Declared:
    """The least of the bounds that are given: (seconds, how many at once or in all, their key)."""
    known = [(seconds * times, f"{key} x {times}") for seconds, times, key in bounds if seconds is not None and times]
    if not known:
        return Declared(nodes, None)
    seconds, by = min(known)
    return Declared(nodes, seconds, by)


def _spark_nodes(content: Mapping[str, Any]) -> int:
    """The driver and its executors."""
    conf = content.get("conf") if isinstance(content.get("conf"), Mapping) else {}
    assert isinstance(conf, Mapping)
    names = ("executor_instances", "dynamic_allocation_max_executors")
    keys = ("spark.executor.instances", "spark.dynamicAllocation.maxExecutors")
    found = [_whole(content.get(name)) for name in names] + [_whole(conf.get(key)) for key in keys]
    return 1 + max(found)


def _whole(value: object, least: int = 1) -> int:
    return max(least, int(str(value))) if str(value).isdecimal() else least


def _seconds(value: object, unit: float = 1.0) -> float | None:
    return float(value) * unit if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Allowance:
    """Whether a job may be submitted.

    :param refused: why not; empty if it may.
    :param seconds: after so many seconds it must be cancelled, lest it uses more than it may; None: never for this.
    :param reason: which limit `seconds` comes from.
    """

    refused: str = ""
    seconds: float | None = None
    reason: str = ""


def allow(job: Declared, limits: SpendLimits, spent_seconds: float) -> Allowance:
    """Judge a submission.

    A job that declares more than one job may have contradicts the limits and is refused. One that declares nothing, or
    more than the night has left, gets what is left: on all its nodes at once, that lasts `Allowance.seconds`.

    :param spent_seconds: node seconds that the night's other jobs took.
    """
    per_job, per_night = limits.max_node_hours_per_job, limits.max_node_hours_per_night
    if per_job is not None and job.seconds is not None and job.seconds > per_job * _HOUR:
        return Allowance(
            f"its YAML allows it {hours(job.seconds)} ({job.by}), and one job may take {per_job:g} "
            f"(spend.max_node_hours_per_job). Lower its limits, or raise the model's"
        )
    if per_night is not None and spent_seconds >= per_night * _HOUR:
        return Allowance(
            f"the night's jobs have taken {hours(spent_seconds)} of {per_night:g} (spend.max_node_hours_per_night)"
        )
    left = []
    if per_job is not None and job.seconds is None:
        left.append((per_job * _HOUR, "spend.max_node_hours_per_job"))
    if per_night is not None:
        rest = per_night * _HOUR - spent_seconds
        if job.seconds is None or job.seconds > rest:
            left.append((rest, "spend.max_node_hours_per_night"))
    if not left:
        return Allowance()
    seconds, reason = min(left)
    return Allowance("", seconds / job.nodes, reason)


def measured(node_seconds: float, limits: SpendLimits, night_seconds: float | None = None) -> list[str]:
    """What to say about a job that is over: which limits it passed all the same, and by how much; empty if none.

    :param night_seconds: of all the night's jobs, this one's included; None: not counted.
    """
    said = []
    for seconds, limit, key in (
        (node_seconds, limits.max_node_hours_per_job, "max_node_hours_per_job"),
        (night_seconds, limits.max_node_hours_per_night, "max_node_hours_per_night"),
    ):
        if seconds is not None and limit is not None and seconds > limit * _HOUR:
            said.append(f"{hours(seconds)} taken, spend.{key} is {limit:g}")
    return said


def hours(seconds: float) -> str:
    """Node seconds for a person."""
    return f"{seconds / _HOUR:.3g} node hours"
