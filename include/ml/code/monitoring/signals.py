"""What a monitor watches: signals over a baseline and a target window, as rows anyone can store and plot.

Signals and their metrics are Azure ML's:
https://learn.microsoft.com/azure/machine-learning/concept-model-monitoring#supported-signals-and-metrics
Every number becomes one `Reading`, with the threshold it was held against and what it means: `ok`, `warn`, `alarm`, or
`undefined` where it can't be told, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, Literal

import drift
import numpy as np
import pandas as pd
from scipy import stats

Level = Literal["ok", "warn", "alarm", "undefined"]
SignalType = Literal["data_drift", "prediction_drift", "data_quality", "model_performance"]
Data = Literal["scored", "captured"]

QUALITY_METRICS = ("null_value_rate", "data_type_error_rate", "out_of_bounds_rate")
#: metric -> whether more is better.
PERFORMANCE_METRICS: Mapping[str, bool] = {
    "roc_auc": True,
    "accuracy": True,
    "mean_absolute_error": False,
    "root_mean_squared_error": False,
}
#: A numerical column with so few values is a code, not a quantity: its categories are compared.
_FEW_VALUES = 12


@dataclass(frozen=True)
class Signal:
    """One entry of `watch.signals` in model.yml.

    :ivar data: whose rows are the target: those of the window's SQL, or what the endpoint captured.
    :ivar thresholds: metric -> limit; of `data_drift` and `prediction_drift` the limits of both kinds of columns, each
        column taking those of its kind; of `model_performance` how much worse than at training the metric may be.
    :ivar features: which columns; empty: all that both sides have.
    :ivar warn_only: columns that never raise more than a warning.
    :ivar min_rows: in place of the watch's.
    """

    type: SignalType
    data: Data = "scored"
    numerical: Mapping[str, float] = field(default_factory=dict)
    categorical: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    features: Sequence[str] = ()
    warn_only: Sequence[str] = ()
    min_rows: int | None = None

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> Signal:
        """Raises ValueError naming what is unknown."""
        unknown = sorted(set(entry) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"a signal has no key {unknown[0]!r}; there are {', '.join(cls.__dataclass_fields__)}")
        found = cls(**entry)
        known = {
            "data_drift": {*drift.NUMERICAL_METRICS, *drift.CATEGORICAL_METRICS},
            "prediction_drift": {*drift.NUMERICAL_METRICS, *drift.CATEGORICAL_METRICS},
            "data_quality": set(QUALITY_METRICS),
            "model_performance": set(PERFORMANCE_METRICS),
        }
        if found.type not in known:
            raise ValueError(f"{found.type!r} is no signal; there are {', '.join(known)}")
        for name in (*found.numerical, *found.categorical, *found.thresholds):
            if name not in known[found.type]:
                metrics = ", ".join(sorted(known[found.type]))
                raise ValueError(f"{name!r} is no metric of the signal {found.type}; there are {metrics}")
        return found


@dataclass(frozen=True)
class Reading:
    """One number of one signal. `feature` is empty where the number is about the whole, `data` says whose rows.

    `reference` is what the value is seen against: a distance's noise, or the same number at training.
    """

    signal: str
    feature: str
    metric: str
    value: float | None
    reference: float | None
    threshold: float
    level: Level
    rows: int
    says: str
    data: Data = "scored"


@dataclass(frozen=True)
class Window:
    """The rows of one side: features, what the model said of them, and how it turned out where that is known.

    `label` may hold missing values (labels come late) or be None altogether; `day` is the day that a row is of. What
    an endpoint captured has features and predictions of different requests: they aren't aligned.
    """

    features: pd.DataFrame
    prediction: pd.Series | None = None
    label: pd.Series | None = None
    day: pd.Series | None = None


@dataclass(frozen=True)
class Outcomes:
    """When outcomes are due (`watch.outcomes`): rows of `until` - `due_days` and before should have one by now, all but
    the share `max_missing`.
    """

    until: date
    due_days: int
    max_missing: float = 0.1


def read(
    signals: Sequence[Signal],
    baseline: Window,
    target: Window,
    *,
    min_rows: int,
    captured: Window | str = "captured requests aren't looked at",
    outcomes: Outcomes | None = None,
) -> list[Reading]:
    """Every reading of `signals`; fewer than `min_rows` rows in the target make each of them `undefined`.

    :param captured: what the endpoint captured, for signals about that; text is why there is nothing.
    :param outcomes: when outcomes are due; rows of `target` that are overdue become a reading of their own.
    """
    readers = {
        "data_drift": _data_drift,
        "prediction_drift": _prediction_drift,
        "data_quality": _data_quality,
        "model_performance": _performance,
    }
    found: list[Reading] = []
    for signal in signals:
        rows = captured if signal.data == "captured" else target
        if isinstance(rows, str):
            found.append(replace(_undefined(signal, "", "", rows), data=signal.data))
            continue
        readings = readers[signal.type](signal, baseline, rows, signal.min_rows or min_rows)
        found += [replace(reading, data=signal.data) for reading in readings]
    if outcomes is not None:
        found.append(overdue(target, outcomes))
    return found


def overdue(target: Window, outcomes: Outcomes) -> Reading:
    """How many of the rows whose outcome is due have none: a warning where they are more than may be missing."""
    signal = Signal("model_performance")
    metric = "overdue_outcome_rate"
    if target.day is None:
        return _undefined(signal, "", metric, "the window doesn't say which day its rows are of")
    due_by = outcomes.until - timedelta(days=outcomes.due_days)
    days = pd.to_datetime(target.day).dt.date
    due = (days <= due_by).to_numpy()
    if not due.any():
        return _undefined(signal, "", metric, f"no row is of {due_by} or before: no outcome is due yet")
    missing = due if target.label is None else due & target.label.isna().to_numpy()
    value = float(missing.sum() / due.sum())
    says = (
        f"{missing.sum()} of {due.sum()} rows of {due_by} or before have no outcome (may be {outcomes.max_missing:.0%})"
    )
    # The last day of which anything came says since when to look.
    came = days.to_numpy()[due & ~missing]
    if value > outcomes.max_missing:
        says += f"; the last day with outcomes is {max(came)}" if len(came) else "; there is none at all"
    level: Level = "warn" if value > outcomes.max_missing else "ok"
    return Reading(signal.type, "", metric, value, None, outcomes.max_missing, level, int(due.sum()), says)


def worst(readings: Sequence[Reading]) -> Level:
    """The level of the whole: alarm before warn before ok; undefined only if nothing could be told."""
    levels = {reading.level for reading in readings}
    return next((level for level in ("alarm", "warn", "ok") if level in levels), "undefined")


# -- drift ------------------------------------------------------------------------------------------------------------


def _data_drift(signal: Signal, baseline: Window, target: Window, min_rows: int) -> list[Reading]:
    found: list[Reading] = []
    for column in signal.features or [name for name in baseline.features if name in target.features]:
        missing = [
            side for side, window in (("baseline", baseline), ("target", target)) if column not in window.features
        ]
        if missing:
            found.append(_undefined(signal, column, "", f"the {missing[0]} has no column {column}"))
            continue
        found += _moved(signal, column, baseline.features[column], target.features[column], min_rows)
    return found


def _prediction_drift(signal: Signal, baseline: Window, target: Window, min_rows: int) -> list[Reading]:
    if baseline.prediction is None or target.prediction is None:
        side = "baseline" if baseline.prediction is None else "target"
        return [_undefined(signal, "prediction", "", f"the {side} has no predictions")]
    return list(_moved(signal, "prediction", baseline.prediction, target.prediction, min_rows))


def _moved(signal: Signal, column: str, first: pd.Series, second: pd.Series, min_rows: int) -> Iterator[Reading]:
    kind = kind_of(first)
    for metric, threshold in (signal.numerical if kind == "numerical" else signal.categorical).items():
        rows = int(second.notna().sum())
        if rows < min_rows:
            yield _undefined(signal, column, metric, f"{rows} rows, fewer than the {min_rows} a reading needs", rows)
            continue
        measured = drift.measure(*alike(first, second), kind, metric)
        if measured.value is None:
            yield _undefined(signal, column, metric, "one side has no values at all", rows)
            continue
        bad = measured.exceeds(threshold)
        noise = "" if measured.noise is None else f", noise {measured.noise:.3g}"
        yield Reading(
            signal=signal.type,
            feature=column,
            metric=metric,
            value=measured.value,
            reference=measured.noise,
            threshold=threshold,
            level=_level(signal, column, bad),
            rows=measured.target_rows,
            says=f"{column}: {metric} {measured.value:.3g} (limit {threshold:g}{noise})",
        )


def kind_of(column: pd.Series) -> drift.Kind:
    """How a column's values are compared: numbers as quantities, unless there are only a few different ones."""
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        return "categorical"
    whole = bool((column.dropna() % 1 == 0).all())
    return "categorical" if whole and column.nunique() <= _FEW_VALUES else "numerical"


def alike(first: pd.Series, second: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Both columns' values in the type of the first: a 50 beside missing values is a 50.0, and still the same seat."""
    if pd.api.types.is_numeric_dtype(first) and not pd.api.types.is_bool_dtype(first):
        return _numbers(first).to_numpy(dtype=float), _numbers(second).to_numpy(dtype=float, na_value=np.nan)
    return first.astype(object).to_numpy(), second.astype(object).to_numpy()


# -- data quality -----------------------------------------------------------------------------------------------------


def _data_quality(signal: Signal, baseline: Window, target: Window, min_rows: int) -> list[Reading]:
    found: list[Reading] = []
    for column in signal.features or list(baseline.features):
        for metric, threshold in signal.thresholds.items():
            rows = len(target.features)
            if rows < min_rows:
                found.append(_undefined(signal, column, metric, f"{rows} rows, fewer than the {min_rows} needed", rows))
                continue
            if column not in baseline.features:
                found.append(_undefined(signal, column, metric, f"the baseline has no column {column}", rows))
                continue
            before = rate(metric, baseline.features[column], baseline.features[column])
            # A column that isn't sent any more is null in every row.
            after = rate(metric, baseline.features[column], target.features.get(column, pd.Series([None] * rows)))
            # What was missing at training is no news; what is missing on top of it is.
            bad = after - before > threshold
            says = f"{column}: {metric} {after:.3f}, at training {before:.3f} (may rise by {threshold:g})"
            level = _level(signal, column, bad)
            found.append(Reading(signal.type, column, metric, after, before, threshold, level, rows, says))
    return found


def rate(metric: str, baseline: pd.Series, column: pd.Series) -> float:
    """The share of `column`'s rows that are null, of another type than the baseline's, or outside of its bounds.

    The bounds of a number are the baseline's smallest and largest, of a category the set of its values.
    """
    if not len(column):
        return 0.0
    if metric == "null_value_rate":
        return float(column.isna().mean())
    numeric = pd.api.types.is_numeric_dtype(baseline) and not pd.api.types.is_bool_dtype(baseline)
    numbers = _numbers(column)
    if metric == "data_type_error_rate":
        return float((column.notna() & numbers.isna()).mean()) if numeric else 0.0
    if numeric:
        known = baseline.dropna()
        outside = (numbers < known.min()) | (numbers > known.max()) if len(known) else numbers.notna()
        return float(outside.mean())
    unseen = ~column.astype(str).isin(set(baseline.dropna().astype(str)))
    return float((column.notna() & unseen).mean())


# -- performance ------------------------------------------------------------------------------------------------------


def _performance(signal: Signal, baseline: Window, target: Window, min_rows: int) -> list[Reading]:
    found: list[Reading] = []
    for metric, threshold in signal.thresholds.items():
        sides = []
        for name, window in (("baseline", baseline), ("target", target)):
            if window.label is None or window.prediction is None:
                sides.append((None, 0, f"the {name} has no {'labels' if window.label is None else 'predictions'}"))
                continue
            sides.append(performance(metric, window.prediction, window.label))
        (before, _, why_before), (after, rows, why) = sides
        if after is not None and rows < min_rows:
            after, why = None, f"{rows} rows have a label, fewer than the {min_rows} a reading needs"
        if before is None or after is None:
            found.append(_undefined(signal, "", metric, why if after is None else why_before, rows))
            continue
        loss = before - after if PERFORMANCE_METRICS[metric] else after - before
        says = f"{metric} {after:.4f} on {rows} labelled rows, at training {before:.4f} (may lose {threshold:g})"
        level = _level(signal, metric, loss > threshold)
        found.append(Reading(signal.type, "", metric, after, before, threshold, level, rows, says))
    return found


def performance(metric: str, prediction: pd.Series, label: pd.Series) -> tuple[float | None, int, str]:
    """The metric over the rows that have a label; None, with the reason, where it isn't defined."""
    known = (label.notna() & prediction.notna()).to_numpy()
    said, truth = prediction.to_numpy(dtype=float)[known], label.to_numpy(dtype=float, na_value=np.nan)[known]
    if not len(truth):
        return None, 0, "no row has a label yet"
    if metric == "roc_auc":
        positive = truth > 0
        pairs = int(positive.sum()) * int((~positive).sum())
        if not pairs:
            return None, len(truth), "the labelled rows are of one class only"
        ranks = stats.rankdata(said)
        count = int(positive.sum())
        return float((ranks[positive].sum() - count * (count + 1) / 2) / pairs), len(truth), ""
    if metric == "accuracy":
        return float(((said >= 0.5) == (truth > 0)).mean()), len(truth), ""  # noqa: PLR2004 - a probability's middle
    errors = said - truth
    if metric == "mean_absolute_error":
        return float(np.abs(errors).mean()), len(truth), ""
    return math.sqrt(float((errors**2).mean())), len(truth), ""


# -- readings ---------------------------------------------------------------------------------------------------------


def _level(signal: Signal, column: str, bad: bool) -> Level:
    if not bad:
        return "ok"
    return "warn" if column in signal.warn_only or "*" in signal.warn_only else "alarm"


def _undefined(signal: Signal, feature: str, metric: str, why: str, rows: int = 0) -> Reading:
    of = f"{feature}: " if feature else ""
    return Reading(signal.type, feature, metric, None, None, math.nan, "undefined", rows, f"{of}{why}")


def _numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column, errors="coerce")
