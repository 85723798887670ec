"""Time series models: they know a series' past alone (and with Arimax its features).

https://learn.microsoft.com/azure/machine-learning/concept-automl-forecasting-methods#forecasting-models-in-automl
Their classes travel inside saved models, like those of `forecaster`: nothing here refers to this package while it runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from localazure_compute.automl.forecasting.forecaster import Series

_WAVES = 4  # pairs of sine and cosine a season


class Naive:
    """The last value, or the last one of the same phase of the season."""

    def __init__(self, season: int) -> None:
        self.season = season

    def fit(self, series: Sequence[Series]) -> Naive:
        return self

    def forecast(self, series: Series, ahead: np.ndarray) -> np.ndarray:
        last = series.y[-self.season :]
        return last[np.arange(len(ahead)) % len(last)]


class Average:
    """The mean of each series, or of each phase of its season."""

    def __init__(self, season: int) -> None:
        self.season = season
        self.means: dict[int, np.ndarray] = {}

    def fit(self, series: Sequence[Series]) -> Average:
        for each in series:
            phases = np.arange(each.start, each.end + 1) % self.season
            known = [each.y[phases == phase] for phase in range(self.season)]
            self.means[each.number] = np.array([y.mean() if len(y) else each.y.mean() for y in known])
        return self

    def forecast(self, series: Series, ahead: np.ndarray) -> np.ndarray:
        ordinals = series.end + 1 + np.arange(len(ahead))
        return self.means[series.number][ordinals % self.season]


class ExponentialSmoothing:
    """Holt-Winters, additive: level, damped trend and season. statsmodels finds the parameters, the recursion is here.

    https://www.statsmodels.org/stable/generated/statsmodels.tsa.holtwinters.ExponentialSmoothing.html
    """

    def __init__(self, season: int, longest: int) -> None:
        self.season = season
        self.longest = longest
        self.states: dict[int, dict[str, Any]] = {}

    def fit(self, series: Sequence[Series]) -> ExponentialSmoothing:
        from statsmodels.tsa.holtwinters import ExponentialSmoothing as Fitted

        for whole in series:
            each = whole.tail(max(self.longest, 4 * self.season))
            seasonal = self.season > 1 and len(each.y) >= 2 * self.season
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = Fitted(
                    each.y, trend="add", damped_trend=True, seasonal="add" if seasonal else None,
                    seasonal_periods=self.season if seasonal else None, initialization_method="heuristic",
                ).fit()  # fmt: skip
            parameters = found.params
            self.states[each.number] = {
                "alpha": float(parameters["smoothing_level"]),
                "beta": float(parameters["smoothing_trend"]),
                "gamma": float(parameters["smoothing_seasonal"]) if seasonal else 0.0,
                "phi": float(parameters["damping_trend"]),
                "level": float(found.level[-1]),
                "trend": float(found.trend[-1]),
                "season": np.asarray(found.season[-self.season :]) if seasonal else np.zeros(1),
                "end": each.end,
            }
        return self

    def forecast(self, series: Series, ahead: np.ndarray) -> np.ndarray:
        state = self.states[series.number]
        level, trend, season = state["level"], state["trend"], state["season"].copy()
        phi, length, end = state["phi"], len(season), state["end"]
        # Values that came after the fit move the states on.
        for ordinal in range(max(end + 1, series.start), series.end + 1):
            value, phase = series.y[ordinal - series.start], (ordinal - end - 1) % length
            before = level + phi * trend
            level, old = state["alpha"] * (value - season[phase]) + (1 - state["alpha"]) * before, level
            trend = state["beta"] * (level - old) + (1 - state["beta"]) * phi * trend
            season[phase] = state["gamma"] * (value - before) + (1 - state["gamma"]) * season[phase]
        steps = np.arange(1, len(ahead) + 1)
        damped = np.cumsum(phi**steps)
        phases = (series.end - end + steps - 1) % length
        return np.asarray(level + damped * trend + season[phases])


class Arima:
    """ARIMA whose orders are found by AICc; seasons are Fourier terms, and with `features` the user's columns too.

    https://www.statsmodels.org/stable/generated/statsmodels.tsa.arima.model.ARIMA.html
    """

    def __init__(
        self, seasons: list[int], longest: int, features: bool, orders: dict[int, tuple[int, int, int]]
    ) -> None:
        # Orders found before, by series: they hold for a shorter or longer past, too. What is found is added.
        self.orders = orders
        self.seasons = [season for season in seasons if season > 1]
        self.longest = longest
        self.features = features
        self.fitted: dict[int, Any] = {}
        self.ends: dict[int, int] = {}

    def fit(self, series: Sequence[Series]) -> Arima:
        from statsmodels.tsa.arima.model import ARIMA
        from statsmodels.tsa.stattools import kpss

        for whole in series:
            each = whole.tail(self.longest)
            outside = self._outside(np.arange(each.start, each.end + 1), each.x)
            best = np.inf
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if known := self.orders.get(each.number):
                    orders = [known]
                else:
                    d = int(np.ptp(each.y) > 0 and kpss(each.y, nlags="auto")[1] < 0.05)  # noqa: PLR2004
                    orders = [(1, d, 0), (2, d, 1), (0, d, 1), (2, d, 2)]
                for order in orders:
                    try:
                        found = ARIMA(each.y, exog=outside, order=order).fit()
                    except (ValueError, np.linalg.LinAlgError):
                        continue
                    if found.aicc < best:
                        best, self.fitted[each.number], self.ends[each.number] = found.aicc, found, each.end
                        self.orders[each.number] = order
            if each.number not in self.fitted:
                raise ValueError("no ARIMA could be fitted")
        return self

    def forecast(self, series: Series, ahead: np.ndarray) -> np.ndarray:
        found, end = self.fitted[series.number], self.ends[series.number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = max(end + 1, series.start)
            if first <= series.end and first == end + 1:
                new = series.tail(series.end - first + 1)
                found = found.append(new.y, exog=self._outside(np.arange(first, series.end + 1), new.x))
            elif first <= series.end:
                # Known values that don't touch the fitted ones: the same parameters over these.
                outside = self._outside(np.arange(series.start, series.end + 1), series.x)
                found = found.apply(series.y, exog=outside)
            outside = self._outside(series.end + 1 + np.arange(len(ahead)), ahead)
            return np.asarray(found.forecast(len(ahead), exog=outside))

    def _outside(self, ordinals: np.ndarray, x: np.ndarray) -> np.ndarray | None:
        parts = []
        for season in self.seasons[:2]:
            angle = 2 * np.pi * (ordinals % season) / season
            for k in range(1, min(_WAVES, season // 2) + 1):
                parts += [np.sin(k * angle), np.cos(k * angle)]
        if self.features:
            parts += list(x.T)
        return np.column_stack(parts) if parts else None
