"""Predictions beside what came of them, joined on a correlation id where they come from two tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics

from localazure_compute.monitoring.data import CORRELATION, NoData


def joined(production: pd.DataFrame, reference: pd.DataFrame, sides: Mapping[str, Any]) -> pd.DataFrame:
    """Columns `prediction` and `actual`, a row for each prediction whose outcome is known. Raises NoData.

    `sides` are the plan's `production` and `reference`, whose `columns` say what is what: prediction and
    correlation_id, actual and correlation_id (https://learn.microsoft.com/azure/machine-learning/
    how-to-monitor-model-performance#set-up-model-performance-monitoring).
    """
    said = _column(sides["production"], production, "prediction", "prediction_column")
    was = _column(sides["reference"], reference, "actual", "target_column")
    keys = [
        str(side["columns"].get("correlation_id") or side["columns"].get("correlation_id_column") or CORRELATION)
        for side in (sides["production"], sides["reference"])
    ]
    own = production.rename(columns={CORRELATION: keys[0]}) if keys[0] not in production else production
    for key, table, name in ((keys[0], own, "production"), (keys[1], reference, "reference")):
        if key not in table:
            raise NoData(f"The {name} data has no column '{key}' (data_column_names.correlation_id)")
    first = pd.DataFrame({"key": own[keys[0]].astype(str), "prediction": own[said]})
    second = pd.DataFrame({"key": reference[keys[1]].astype(str), "actual": reference[was]})
    found = first.merge(second, on="key").dropna()
    if found.empty:
        raise NoData(f"None of the {len(first)} predictions has an outcome: no '{keys[0]}' is among the {len(second)}")
    print(f"{len(found)} of {len(first)} predictions have an outcome")
    return found


def _column(side: Mapping[str, Any], table: pd.DataFrame, *names: str) -> str:
    found = next((side["columns"][name] for name in names if side["columns"].get(name)), None)
    if found is None:
        raise NoData(f"data_column_names of {side['uri']} needs '{names[0]}'")
    if found not in table:
        raise NoData(f"{side['uri']} has no column '{found}' ({names[0]})")
    return str(found)


def measure(metric: str, rows: pd.DataFrame) -> float:
    """One metric over `joined` rows; precision and recall are the classes' means."""
    return float(_METRICS[metric](rows["actual"], rows["prediction"]))


def _of_classes(function: Callable[..., Any], **more: Any) -> Callable[[pd.Series, pd.Series], float]:
    return lambda actual, said: function(actual.astype(str), said.astype(str), **more)


def _of_numbers(function: Callable[..., Any]) -> Callable[[pd.Series, pd.Series], float]:
    return lambda actual, said: function(actual.to_numpy(dtype=float), said.to_numpy(dtype=float))


_METRICS: dict[str, Callable[[pd.Series, pd.Series], float]] = {
    "Accuracy": _of_classes(metrics.accuracy_score),
    "Precision": _of_classes(metrics.precision_score, average="macro", zero_division=0),
    "Recall": _of_classes(metrics.recall_score, average="macro", zero_division=0),
    "MeanAbsoluteError": _of_numbers(metrics.mean_absolute_error),
    "MeanSquaredError": _of_numbers(metrics.mean_squared_error),
    "RootMeanSquaredError": _of_numbers(lambda actual, said: np.sqrt(metrics.mean_squared_error(actual, said))),
}
