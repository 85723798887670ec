"""What a forecasting model is made of: periods, features, regressors over them, and the forecaster around all.

Saved models carry this module's classes with them, so that whoever loads one needs numpy, pandas and the estimators'
own libraries alone: it imports nothing of this package, and its classes are plain ones.

https://learn.microsoft.com/azure/machine-learning/concept-automl-forecasting-methods
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries import offsets
from pandas.tseries.frequencies import to_offset
from sklearn.base import BaseEstimator, RegressorMixin

_DAY = 24 * 3600 * 10**9
_WAVES = 4  # pairs of sine and cosine a season
_PHASES = 4  # how many seasons the same phase is looked back for
_FEW_SERIES = 30  # a column each
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]


class Clock:
    """Points in time as numbers of periods. `frequency` is a pandas offset alias, `anchor` a point on the grid."""

    def __init__(self, frequency: str, anchor: pd.Timestamp) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old aliases H, M, T are as good as the new ones
            offset = to_offset(frequency)
        self.frequency = frequency
        self.at_end = isinstance(offset, offsets.MonthEnd | offsets.QuarterEnd | offsets.YearEnd)
        self.period: str | None = None
        self.step = 0
        if isinstance(offset, offsets.Tick):
            self.step = offset.nanos
        elif isinstance(offset, offsets.Week):
            self.step = 7 * _DAY * offset.n
        elif offset.n != 1:
            raise ValueError(f"the frequency {frequency} is not supported")
        elif isinstance(offset, offsets.MonthBegin | offsets.MonthEnd):
            self.period = "M"
        elif isinstance(offset, offsets.QuarterBegin | offsets.QuarterEnd):
            last = offset.startingMonth if self.at_end else (offset.startingMonth - 2) % 12 + 1
            self.period = f"Q-{_MONTHS[last - 1]}"
        elif isinstance(offset, offsets.YearBegin | offsets.YearEnd):
            last = offset.month if self.at_end else (offset.month - 2) % 12 + 1
            self.period = f"Y-{_MONTHS[last - 1]}"
        elif isinstance(offset, offsets.BusinessDay):
            self.period = "B"
        else:
            raise ValueError(f"the frequency {frequency} is not supported")
        self.anchor = int(pd.Timestamp(anchor).as_unit("ns").value)

    def ordinals(self, times: pd.Series | pd.DatetimeIndex) -> np.ndarray:
        """The period that each point lies in (int64)."""
        index = pd.DatetimeIndex(times)
        if self.period is None:
            return np.asarray((index.as_unit("ns").asi8 - self.anchor) // self.step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(index.to_period(self.period).asi8)

    def off_grid(self, times: pd.Series) -> np.ndarray:
        """Which points don't begin a period (bool); with calendar periods a day within one is as good as another."""
        if self.period is not None:
            return np.zeros(len(times), dtype=bool)
        return np.asarray((pd.DatetimeIndex(times).as_unit("ns").asi8 - self.anchor) % self.step != 0)

    def times(self, ordinals: np.ndarray) -> pd.DatetimeIndex:
        """Where each period begins (or ends, for frequencies such as ME)."""
        if self.period is None:
            return pd.DatetimeIndex(np.asarray(ordinals, dtype="int64") * self.step + self.anchor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            periods = pd.PeriodIndex.from_ordinals(np.asarray(ordinals, dtype="int64"), freq=self.period)
            return periods.to_timestamp(how="end").normalize() if self.at_end else periods.to_timestamp(how="start")


class Series:
    """One time series without gaps: the target `y` from the period `start` on, and features `x` (rows x columns)."""

    def __init__(self, number: int, start: int, y: np.ndarray, x: np.ndarray) -> None:
        self.number = number
        self.start = start
        self.y = y
        self.x = x

    @property
    def end(self) -> int:
        """The last period."""
        return self.start + len(self.y) - 1

    def head(self, length: int) -> Series:
        return Series(self.number, self.start, self.y[:length], self.x[:length])

    def tail(self, length: int) -> Series:
        cut = max(0, len(self.y) - length)
        return Series(self.number, self.start + cut, self.y[cut:], self.x[cut:])

    def extended(self, y: np.ndarray, x: np.ndarray) -> Series:
        return Series(self.number, self.start, np.concatenate([self.y, y]), np.concatenate([self.x, x]))


class Encoder:
    """The user's features as numbers: medians for missing numbers, a column for each of few categories."""

    def __init__(self, numeric: list[str], categorical: list[str], few: int = 10) -> None:
        self.numeric = numeric
        self.categorical = categorical
        self.few = few
        self.fills: dict[str, float] = {}
        self.categories: dict[str, list[str]] = {}

    def fit(self, frame: pd.DataFrame, fills: dict[str, float]) -> Encoder:
        """`fills` replaces the median of a column."""
        for name in self.numeric:
            median = pd.to_numeric(frame[name], errors="coerce").median()
            self.fills[name] = float(fills.get(name, 0.0 if pd.isna(median) else median))
        for name in self.categorical:
            self.categories[name] = sorted(frame[name].dropna().map(str).unique())
        return self

    @property
    def names(self) -> list[str]:
        found = list(self.numeric)
        for name, values in self.categories.items():
            found += [f"{name}={value}" for value in values] if len(values) <= self.few else [name]
        return found

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Rows x names."""
        parts = []
        for name in self.numeric:
            parts.append(pd.to_numeric(frame[name], errors="coerce").astype(float).fillna(self.fills[name]).to_numpy())
        for name, values in self.categories.items():
            texts = frame[name].map(str, na_action="ignore")
            if len(values) <= self.few:
                parts += [(texts == value).to_numpy(dtype=float) for value in values]
            else:
                places = {value: place for place, value in enumerate(values)}
                parts.append(texts.map(places).fillna(-1).to_numpy(dtype=float))
        return np.column_stack(parts) if parts else np.zeros((len(frame), 0))


class Features:
    """A regressor's row for a period of a series, seen from an origin: the last period whose target is known.

    Lags, windows and phases look back from the origin, so that a row can be made for every period up to the horizon
    (https://learn.microsoft.com/azure/machine-learning/concept-automl-forecasting-lags). `seasons` are lengths in
    periods, the decisive one first.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        seasons: list[int],
        lags: list[int],
        window: int | None,
        feature_lags: list[int],
        stl: str | None,
        holidays: bool,
        series: int,
        known_ahead: list[int],
        names: list[str],
    ) -> None:
        self.clock = clock
        self.seasons = [each for each in seasons if each > 1]
        self.lags = lags
        self.window = window
        self.feature_lags = feature_lags
        self.stl = stl
        self.holidays = holidays
        self.series = series
        self.known_ahead = known_ahead
        self.names = names
        self.varying: list[int] = []
        self.profiles: dict[int, tuple[np.ndarray, int, float, float]] = {}

    @property
    def looks_back(self) -> bool:
        return bool(self.lags or self.window or self.feature_lags)

    @property
    def lookback(self) -> int:
        """Periods before and with the origin that a row needs."""
        phases = [season * _PHASES for season in self.seasons] if self.looks_back else []
        return max([0, *self.lags, *self.feature_lags, self.window or 0, *phases])

    @property
    def columns(self) -> list[str]:
        """The matrix' columns."""
        found = ["year", "half", "quarter", "month", "day", "weekday", "hour", "minute", "day_of_year", "week"]
        found = [found[place] for place in self.varying]
        found += [f"{wave}_{season}_{k}" for season in self.seasons for k in range(1, self._waves(season) + 1)
                  for wave in ("sin", "cos")]  # fmt: skip
        found += [f"series={n}" for n in range(self.series)] if 1 < self.series <= _FEW_SERIES else []
        found += ["series"] if self.series > _FEW_SERIES else []
        found += [self.names[place] for place in self.known_ahead]
        found += ["holiday", "day_before_holiday", "day_after_holiday"] if self.holidays else []
        if self.stl:
            found += ["stl_season"] + (["stl_trend"] if self.stl == "season_trend" else [])
        if self.looks_back:
            found += ["horizon", *(f"target_lag_{lag}" for lag in self.lags)]
            found += [f"target_phase_{season}_{k}" for season in self.seasons for k in range(1, _PHASES + 1)]
            found += [f"target_phase_{season}_{name}" for season in self.seasons for name in ("mean", "median")]
            if self.window:
                found += [f"target_window_{self.window}_{name}" for name in ("min", "max", "mean")]
            found += [f"{name}_lag_{lag}" for lag in self.feature_lags for name in self.names]
        return found

    def fit(self, series: Sequence[Series]) -> Features:
        """Sees which calendar features vary, and takes the seasonal decompositions."""
        ordinals = np.concatenate([np.arange(each.start, each.end + 1) for each in series])
        calendar = self._calendar(np.unique(ordinals))
        self.varying = [place for place in range(calendar.shape[1]) if np.ptp(calendar[:, place]) > 0]
        if self.stl:
            self.profiles = {each.number: _decomposed(each, self.seasons[0]) for each in series}
        return self

    def matrix(self, series: Series, ordinals: np.ndarray, horizons: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """One row for each of `ordinals`, seen from the period `horizons` earlier. `ahead` are the rows' own features.

        What lies before the series' beginning is its first value.
        """
        calendar = self._calendar(ordinals)[:, self.varying]
        parts = [calendar]
        for season in self.seasons:
            angle = 2 * np.pi * (ordinals % season) / season
            for k in range(1, self._waves(season) + 1):
                parts.append(np.column_stack([np.sin(k * angle), np.cos(k * angle)]))
        if 1 < self.series <= _FEW_SERIES:
            parts.append(np.tile(np.eye(self.series)[series.number], (len(ordinals), 1)))
        elif self.series > _FEW_SERIES:
            parts.append(np.full((len(ordinals), 1), float(series.number)))
        parts.append(ahead[:, self.known_ahead])
        if self.holidays:
            parts.append(self._holidays(ordinals))
        if self.stl:
            parts.append(self._decomposition(series.number, ordinals))
        if self.looks_back:
            parts.append(self._history(series, ordinals - series.start, horizons))
        return np.column_stack(parts).astype(np.float32)

    def _history(self, series: Series, places: np.ndarray, horizons: np.ndarray) -> np.ndarray:
        y, origins = series.y, places - horizons

        def at(indices: np.ndarray) -> np.ndarray:
            return y[np.clip(indices, 0, len(y) - 1)]

        parts = [horizons.astype(float), *(at(origins - lag + 1) for lag in self.lags)]
        means = []
        for season in self.seasons:
            back = season * np.ceil(horizons / season).astype(int)
            phases = [at(places - back - k * season) for k in range(_PHASES)]
            parts += phases
            means += [np.mean(phases, axis=0), np.median(phases, axis=0)]
        parts += means
        if self.window:
            shown = np.stack([at(origins - k) for k in range(self.window)])
            parts += [shown.min(axis=0), shown.max(axis=0), shown.mean(axis=0)]
        for lag in self.feature_lags:
            rows = np.clip(origins - lag + 1, 0, len(y) - 1)
            parts += [series.x[rows, place] for place in range(series.x.shape[1])]
        return np.column_stack(parts)

    def _waves(self, season: int) -> int:
        return min(_WAVES, season // 2)

    def _calendar(self, ordinals: np.ndarray) -> np.ndarray:
        times = self.clock.times(ordinals)
        week = times.isocalendar().week.to_numpy(dtype=float)
        parts = [times.year, times.quarter > 2, times.quarter, times.month, times.day, times.dayofweek,  # noqa: PLR2004
                 times.hour, times.minute, times.dayofyear]  # fmt: skip
        return np.column_stack([*(np.asarray(part, dtype=float) for part in parts), week])

    def _holidays(self, ordinals: np.ndarray) -> np.ndarray:
        """Whether a federal holiday of the United States lies in the period, or its day is beside one."""
        from pandas.tseries.holiday import USFederalHolidayCalendar

        days, following = self.clock.times(ordinals).normalize(), self.clock.times(ordinals + 1).normalize()
        day = pd.Timedelta(days=1)
        # A year more, so that each period has a first holiday on or after its beginning: that may lie in it or not.
        known = USFederalHolidayCalendar().holidays(days.min() - 2 * day, following.max() + 366 * day)
        inside = np.asarray(known[np.searchsorted(known, days)] < np.maximum(following, days + day))
        return np.column_stack([inside, (days + day).isin(known), (days - day).isin(known)]).astype(float)

    def _decomposition(self, number: int, ordinals: np.ndarray) -> np.ndarray:
        profile, start, level, slope = self.profiles[number]
        season = profile[(ordinals - start) % len(profile)]
        if self.stl == "season":
            return season[:, None]
        return np.column_stack([season, level + slope * (ordinals - start)])


def _decomposed(series: Series, season: int) -> tuple[np.ndarray, int, float, float]:
    """STL's seasonal component as a mean profile, and its trend as a line: (profile, first period, level, slope)."""
    from statsmodels.tsa.seasonal import STL

    found = STL(series.y, period=season, robust=False).fit()
    places = np.arange(len(series.y))
    recent = places >= len(places) - 3 * season
    phases, values = places[recent] % season, np.asarray(found.seasonal)[recent]
    profile = np.array([values[phases == k].mean() if (phases == k).any() else 0.0 for k in range(season)])
    slope, level = np.polyfit(places, np.asarray(found.trend), 1)
    return profile, series.start, float(level), float(slope)


class Regression:
    """A component: a regressor over Features. Beyond the horizon it goes on from its own forecasts.

    `base` is the matrix' column that the regressor's target was the distance to; None if it was the target itself.
    """

    def __init__(self, features: Features, estimator: Any, horizon: int, base: int | None = None) -> None:
        self.features = features
        self.estimator = estimator
        self.horizon = horizon
        self.base = base

    def forecast(self, series: Series, ahead: np.ndarray) -> np.ndarray:
        """The target for the periods after the series' end; `ahead` are their features (rows x names)."""
        asked = len(ahead)
        made = np.zeros(0)
        while len(made) < asked:
            count = min(self.horizon if self.features.looks_back else asked, asked - len(made))
            part = ahead[len(made) : len(made) + count]
            horizons = np.arange(1, count + 1)
            rows = self.features.matrix(series, series.end + horizons, horizons, part)
            values = np.asarray(self.estimator.predict(rows), dtype=float)
            if self.base is not None:
                values = values + rows[:, self.base]
            made = np.concatenate([made, values])
            series = series.extended(values, part)
        return made


class Forecaster(RegressorMixin, BaseEstimator):
    """A fitted forecasting model: rows with a time (and the series' identifiers) in, the target at that time out.

    The forecasts begin after the last known value of each series: the training data's, or a later one that the caller
    gives (context). Periods without a known value between are filled with the value before them.
    """

    def __init__(
        self,
        *,
        target: str,
        time: str,
        ids: list[str],
        clock: Clock,
        encoder: Encoder,
        keys: dict[tuple[str, ...], int],
        dropped: list[tuple[str, ...]],
        history: dict[int, Series],
        components: list[tuple[float, Any]],
        residuals: dict[int, np.ndarray],
        horizon: int,
    ) -> None:
        self.target = target
        self.time = time
        self.ids = ids
        self.clock = clock
        self.encoder = encoder
        self.keys = keys
        self.dropped = dropped
        self.history = history
        self.components = components
        self.residuals = residuals
        self.horizon = horizon

    def fit(self, X: Any, y: Any) -> Any:
        """Refused: a forecaster is fitted by the search that made it."""
        raise TypeError("A forecaster is fitted by the AutoML job that made it, not again.")

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Forecasts for the rows of X, in their order; known values of the target in X are context."""
        return self.forecast(X)[0]

    def forecast(self, X: pd.DataFrame, y_query: Any = None) -> tuple[np.ndarray, pd.DataFrame]:
        """The target for the rows of X (known values as they are), and X indexed by time and identifiers.

        `y_query` has the known values and NaN where a forecast is asked for; without it, X's column of the target.
        https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-forecast#forecasting-with-a-trained-model
        """
        frame = pd.DataFrame(X).reset_index(drop=True)
        if missing := [name for name in [self.time, *self.ids] if name not in frame]:
            raise ValueError(f"The rows lack the column(s) {', '.join(missing)}.")
        if y_query is not None:
            known = np.asarray(y_query, dtype=float)
        elif self.target in frame:
            known = pd.to_numeric(frame[self.target], errors="coerce").to_numpy(dtype=float)
        else:
            known = np.full(len(frame), np.nan)
        times = pd.to_datetime(frame[self.time])
        if times.isna().any():
            raise ValueError(f"The column {self.time} has {int(times.isna().sum())} rows without a time.")
        ordinals = self.clock.ordinals(times)
        for name in [*self.encoder.numeric, *self.encoder.categorical]:
            if name not in frame:
                raise ValueError(f"The rows lack the column {name}, a feature of the model.")
        x = self.encoder.transform(frame)
        result = known.copy()
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, key in enumerate(self._keys(frame)):
            groups.setdefault(key, []).append(row)
        for key, rows in groups.items():
            place = np.array(rows)
            result[place] = self._one(key, ordinals[place], known[place], x[place])
        told = frame.drop(columns=[name for name in (self.target,) if name in frame]).assign(**{self.time: times})
        return result, told.set_index([self.time, *self.ids])

    def forecast_quantiles(
        self, X: pd.DataFrame, y_query: Any = None, quantiles: Sequence[float] = (0.1, 0.5, 0.9)
    ) -> pd.DataFrame:
        """Forecasts with quantiles of the errors that the search saw in its validation folds; columns: quantiles."""
        values, told = self.forecast(X, y_query)
        pooled = np.concatenate(list(self.residuals.values()))
        few = 20
        keys = [self.keys.get(key, -1) for key in self._keys(pd.DataFrame(X).reset_index(drop=True))]
        errors = [r if len(r := self.residuals.get(number, pooled)) >= few else pooled for number in keys]
        found = {q: values + np.array([np.quantile(error, q) for error in errors]) for q in quantiles}
        return pd.DataFrame(found, index=told.index)

    def rolling_forecast(self, X: pd.DataFrame, y: Any, step: int = 1) -> pd.DataFrame:
        """Forecasts up to the horizon from an origin that moves on by `step` periods through the actual values `y`.

        Columns: the time, the identifiers, `_automl_forecast_origin`, `_automl_forecast_y`, `_automl_actual_y`.
        """
        frame, actual = pd.DataFrame(X).reset_index(drop=True), np.asarray(y, dtype=float)
        ordinals = self.clock.ordinals(pd.to_datetime(frame[self.time]))
        found = []
        for origin in range(int(ordinals.min()) - 1, int(ordinals.max()), step):
            shown = ordinals <= origin + self.horizon
            values = self.forecast(frame[shown], np.where(ordinals <= origin, actual, np.nan)[shown])[0]
            asked = ordinals[shown] > origin
            told = frame.loc[shown, [self.time, *self.ids]][asked]
            found.append(
                told.assign(
                    _automl_forecast_origin=self.clock.times(np.array([origin]))[0],
                    _automl_forecast_y=values[asked],
                    _automl_actual_y=actual[shown][asked],
                )
            )
        return pd.concat(found, ignore_index=True)

    def _keys(self, frame: pd.DataFrame) -> list[tuple[str, ...]]:
        return (
            list(zip(*(frame[name].map(identifier) for name in self.ids), strict=True))
            if self.ids
            else [()] * len(frame)
        )

    def _one(self, key: tuple[str, ...], ordinals: np.ndarray, known: np.ndarray, x: np.ndarray) -> np.ndarray:
        if key in self.dropped:
            return known  # too short to learn from: no forecast
        if key not in self.keys:
            shown = ", ".join(f"{name}={value}" for name, value in zip(self.ids, key, strict=True))
            raise ValueError(
                f"The time series {shown or '(the only one)'} is not among those the model was trained on."
            )
        series = self._with_context(self.history[self.keys[key]], ordinals, known, x)
        asked = np.isnan(known)
        if not asked.any():
            return known
        if (ordinals[asked] <= series.end).any():
            early = self.clock.times(ordinals[asked][ordinals[asked] <= series.end])[0]
            raise ValueError(
                f"A forecast is asked for {early}, which isn't after the last known value "
                f"({self.clock.times(np.array([series.end]))[0]}); only the future is forecast."
            )
        ahead = np.tile(series.x[-1], (int(ordinals[asked].max()) - series.end, 1))
        ahead[ordinals[asked] - series.end - 1] = x[asked]
        made = sum(weight * component.forecast(series, ahead) for weight, component in self.components)
        result = known.copy()
        result[asked] = np.asarray(made)[ordinals[asked] - series.end - 1]
        return result

    def _with_context(self, series: Series, ordinals: np.ndarray, known: np.ndarray, x: np.ndarray) -> Series:
        """The history, and after it the known values that are later."""
        later = ~np.isnan(known) & (ordinals > series.end)
        if not later.any():
            return series
        order = np.argsort(ordinals[later], kind="stable")
        places = ordinals[later][order] - series.end - 1
        y = np.full(int(places.max()) + 1, np.nan)
        rows = np.full((len(y), series.x.shape[1]), np.nan)
        y[places], rows[places] = known[later][order], x[later][order]
        filled = pd.DataFrame(np.column_stack([y, rows])).ffill()
        first = np.concatenate([series.y[-1:], series.x[-1]])
        values = filled.fillna(dict(enumerate(first))).to_numpy()
        return series.extended(values[:, 0], values[:, 1:])


def identifier(value: Any) -> str:
    """A series' identifier as text, whatever type it came in: 1, 1.0 and "1" are one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
