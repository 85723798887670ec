"""This run beside the last ones: metrics, parameters, data, commit, and what changed. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from azflow.metrics import HIGHER_IS_BETTER, LOWER_IS_BETTER

_INPUT_TAG = "azflow.input."
#: Fewer runs than this before it say nothing about what is usual.
_USUAL = 5
#: So many times the usual deviation from the median is unusual; 1.4826 makes it comparable to a standard deviation.
_UNUSUAL = 4 * 1.4826
_SHOWN = 80


@dataclass(frozen=True)
class ComparedRun:
    """One run.

    :param name: the job's.
    :param label: what a person knows it by: its partition, else its display name.
    :param started: ISO, to the second; empty if unknown.
    :param data: input -> version or address.
    """

    name: str
    label: str
    started: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    url: str = ""


@dataclass(frozen=True)
class Comparison:
    """A run among its predecessors.

    :param metric: what they are compared by; empty if they share none that is known.
    :param runs: this one first, then newest first.
    :param rank: 1 is the best; None if nothing is compared.
    :param changed: what differs from the run before, in words.
    :param summary: for a person, a line each.
    :param unusual: whether the metric is far from what the last runs had.
    :param lower: whether less of the metric is better.
    """

    metric: str
    runs: tuple[ComparedRun, ...]
    rank: int | None
    changed: tuple[str, ...]
    summary: tuple[str, ...]
    unusual: bool = False
    lower: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain, for XComs."""
        return {
            **asdict(self),
            "runs": [asdict(run) for run in self.runs],
            "changed": list(self.changed),
            "summary": list(self.summary),
        }


def read_run(run: Mapping[str, Any], best: Mapping[str, Any] | None = None, url: str = "") -> ComparedRun:
    """An MLflow run (``runs/get``) as it is compared.

    :param best: the MLflow run of its best trial, whose metrics and parameters are the run's if it has none.
    """
    info, data = run.get("info") or {}, run.get("data") or {}
    tags = {each["key"]: str(each["value"]) for each in data.get("tags") or ()}
    below = (best or {}).get("data") or {}
    metrics = data.get("metrics") or below.get("metrics") or ()
    parameters = data.get("params") or below.get("params") or ()
    started = info.get("start_time")
    when = datetime.fromtimestamp(int(started) / 1000, UTC) if started else None
    return ComparedRun(
        name=str(info.get("run_id", "")),
        label=tags.get("partition") or str(info.get("run_name") or info.get("run_id", "")),
        started=when.isoformat(timespec="seconds") if when else "",
        metrics={each["key"]: float(each["value"]) for each in metrics},
        parameters={each["key"]: str(each["value"]) for each in parameters},
        data={key.removeprefix(_INPUT_TAG): value for key, value in tags.items() if key.startswith(_INPUT_TAG)},
        commit=tags.get("git_commit", ""),
        url=url,
    )


def compare(
    this: ComparedRun, others: Sequence[ComparedRun], metric: str = "", lower: bool | None = None
) -> Comparison:
    """`this` beside `others` (newest first).

    :param metric: what counts; empty: the first known one that this run has.
    :param lower: whether less of it is better; None: as is known of the metric, else more is.
    """
    metric = metric or next(iter(known_metrics(this.metrics)), "")
    changed = differences(this, others[0]) if others else ()
    value = this.metrics.get(metric)
    with_metric = [run for run in others if metric in run.metrics]
    if value is None or not with_metric:
        why = "no run before it" if not others else f"no {metric or 'known metric'} to compare by"
        return Comparison(metric if value is not None else "", (this, *others), None, changed, (why,))
    lower = _plain(metric) in LOWER_IS_BETTER if lower is None else lower
    values = [run.metrics[metric] for run in with_metric]
    rank = 1 + sum(other < value if lower else other > value for other in values)
    best = (min if lower else max)(with_metric, key=lambda run: run.metrics[metric])
    summary = [
        f"{metric} {value:.4f} ({'lower' if lower else 'higher'} is better): {_ordinal(rank)} of {len(values) + 1}",
        f"{_signed(value - values[0])} against the run before ({with_metric[0].label})",
        f"{_signed(value - best.metrics[metric])} against the best of them ({best.label})",
    ]
    unusual = False
    if len(values) >= _USUAL:
        middle = statistics.median(values)
        usual = statistics.median(abs(each - middle) for each in values)
        unusual = abs(value - middle) > max(_UNUSUAL * usual, 1e-9)
        if unusual:
            summary.append(f"unusual: the last {len(values)} lie around {middle:.4f}, mostly within {usual:.4f} of it")
    return Comparison(metric, (this, *others), rank, changed, tuple(summary), unusual, lower)


def known_metrics(names: Iterable[str]) -> list[str]:
    """The metrics of which it is known which way they are better, the higher-is-better first.

    A step's metric is called ``<step>.<metric>``.
    """
    names = list(names)
    return [name for known in (HIGHER_IS_BETTER, LOWER_IS_BETTER) for name in sorted(names) if _plain(name) in known]


def _plain(metric: str) -> str:
    return metric.rpartition(".")[2]


def differences(this: ComparedRun, before: ComparedRun) -> tuple[str, ...]:
    """What changed from one run to the next: data, parameters, commit; in words."""
    said = []
    for what, new, old in (("data", this.data, before.data), ("parameter", this.parameters, before.parameters)):
        for name in sorted(new.keys() | old.keys()):
            if new.get(name) != old.get(name):
                said.append(f"{what} {name}: {_short(old.get(name))} -> {_short(new.get(name))}")
    if this.commit and before.commit and this.commit != before.commit:
        said.append(f"commit: {before.commit[:12]} -> {this.commit[:12]}")
    return tuple(said)


def varying(runs: Sequence[ComparedRun]) -> list[str]:
    """Parameters that aren't the same in all runs, by name."""
    names = {name for run in runs for name in run.parameters}
    return sorted(name for name in names if len({run.parameters.get(name) for run in runs}) > 1)


def lines(comparison: Comparison) -> list[str]:
    """The comparison for a task's log: a table, what it says, what changed."""
    names = [comparison.metric] if comparison.metric else []
    shared = set.intersection(*(set(run.metrics) for run in comparison.runs)) if comparison.runs else set()
    names += sorted(shared - set(names))[:3]
    changing = varying(comparison.runs)[:3]
    rows = [("run", "started", *names, *changing, "data")]
    for index, run in enumerate(comparison.runs):
        values = [f"{run.metrics[name]:.4f}" if name in run.metrics else "-" for name in names]
        parameters = [_short(run.parameters.get(name)) for name in changing]
        data = ", ".join(_short(value) for value in run.data.values())
        rows.append((("* " if index == 0 else "  ") + run.label, run.started[:16], *values, *parameters, data))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, *comparison.summary, *(f"changed since the run before: {each}" for each in comparison.changed)]


def _ordinal(number: int) -> str:
    return {1: "the best", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"…{text[-(_SHOWN - 1) :]}"
