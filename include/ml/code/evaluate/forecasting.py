"""Evidence about a forecast: the hold-out day by day, each forecast at midnight from what was known then.

A model forecasts as Azure Machine Learning's do: ``forecast(X, y)``, where y holds what is known and NaN where it is
asked (https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-forecast).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from scoring import Unscored, in_words, require_columns

#: Days before a forecast that a model is shown.
CONTEXT_DAYS = 21
LOW, HIGH = 0.1, 0.9
PARTS = {0: "00-06", 6: "06-12", 12: "12-18", 18: "18-24"}


@dataclass(frozen=True)
class Series:
    """Which columns make a series: `time`, and the names of the series; `label` is what is forecast."""

    time: str
    names: tuple[str, ...]
    label: str

    def sorted(self, rows: pd.DataFrame) -> pd.DataFrame:
        """By series, then time: the order in which everything here is."""
        rows = rows.assign(**{self.time: pd.to_datetime(rows[self.time]).astype("datetime64[ns]")})
        return rows.sort_values([*self.names, self.time]).reset_index(drop=True)

    def day(self, rows: pd.DataFrame) -> pd.Series:
        return rows[self.time].dt.floor("D")


def forecast(model: Any, rows: pd.DataFrame, series: Series, quantiles: bool = False) -> pd.DataFrame:
    """The rows whose label is unknown, with the columns `forecast` and, if asked, `low` and `high`.

    :param rows: what is known and, with NaN for a label, what is asked.
    """
    known = rows[series.label].to_numpy(float)
    features = rows.drop(columns=[series.label])
    asked = np.isnan(known)
    keys = [series.time, *series.names]
    values, seen = model.forecast(features, known.copy())
    answered = seen.reset_index()[keys].assign(forecast=np.asarray(values, dtype=float))
    found = features[asked].merge(answered, on=keys, how="left", validate="one_to_one")
    if quantiles:
        spread = model.forecast_quantiles(features, known.copy(), quantiles=[LOW, HIGH])
        low, high = (spread[quantile].to_numpy(float)[asked] for quantile in (LOW, HIGH))
        found = found.assign(low=low, high=high)
    if found["forecast"].isna().any():
        missing = found[found["forecast"].isna()].iloc[0]
        raise Unscored(f"it forecasts nothing for {', '.join(str(missing[key]) for key in keys)}")
    return found


def rolling(model_folder: str, history: pd.DataFrame, holdout: pd.DataFrame, series: Series) -> pd.DataFrame:
    """The hold-out forecast day by day, in its order: columns `forecast`, `low`, `high`. Raises Unscored."""
    with in_words():
        return _rolling(model_folder, history, holdout, series)


def _rolling(model_folder: str, history: pd.DataFrame, holdout: pd.DataFrame, series: Series) -> pd.DataFrame:
    require_columns(model_folder, holdout)
    model = mlflow.sklearn.load_model(model_folder)
    everything = series.sorted(pd.concat([history, holdout], ignore_index=True))
    days = series.day(everything)
    parts = []
    for day in sorted(series.day(series.sorted(holdout)).unique()):
        window = everything[(days > day - pd.Timedelta(days=CONTEXT_DAYS + 1)) & (days <= day)]
        asked = window.assign(**{series.label: window[series.label].astype(float).mask(days[window.index] == day)})
        parts.append(forecast(model, asked.reset_index(drop=True), series, quantiles=True))
    keys = [*series.names, series.time]
    ordered = series.sorted(holdout)[keys].merge(pd.concat(parts), on=keys, how="left", validate="one_to_one")
    return ordered[["forecast", "low", "high"]]


def baselines(history: pd.DataFrame, holdout: pd.DataFrame, series: Series) -> dict[str, np.ndarray]:
    """What the same hour of last week and of the day before would have said; hours never seen count as their series'
    mean."""
    keys = [*series.names, series.time]
    known = pd.concat([history, holdout], ignore_index=True)
    known = known.assign(**{series.time: pd.to_datetime(known[series.time]).astype("datetime64[ns]")})
    rows = series.sorted(holdout)
    means = history.groupby(list(series.names))[series.label].mean().rename("mean")
    mean = rows.merge(means, left_on=list(series.names), right_index=True, how="left")["mean"].to_numpy()
    found = {}
    for name, days in (("last week's same hour", 7), ("yesterday's same hour", 1)):
        before = rows[keys].assign(**{series.time: rows[series.time] - pd.Timedelta(days=days)})
        values = before.merge(known[[*keys, series.label]], on=keys, how="left", validate="one_to_one")[series.label]
        found[name] = np.where(values.isna(), mean, values).astype(float)
    return found


def part_of_day(time: pd.Series) -> pd.Series:
    return (time.dt.hour // 6 * 6).map(PARTS)
