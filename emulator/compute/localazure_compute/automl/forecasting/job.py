"""The search for a forecaster: folds whose origin rolls on, time series models and regressors over features.

https://learn.microsoft.com/azure/machine-learning/how-to-auto-train-forecast and
https://learn.microsoft.com/azure/machine-learning/concept-automl-forecasting-sweeping
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from localazure_compute.automl import explain, learners, metrics, model
from localazure_compute.automl.errors import SearchError
from localazure_compute.automl.forecasting import forecaster, series_models
from localazure_compute.automl.forecasting.forecaster import Features, Forecaster, Regression, Series
from localazure_compute.automl.forecasting.series import (
    Prepared,
    lags,
    longest_needed,
    prepare,
    seasons,
    without_short,
)
from localazure_compute.automl.job import Job
from localazure_compute.automl.learners import LEARNERS, Suggestions
from localazure_compute.automl.search import Search, Trial, now

_SERIES_MODELS = ("Naive", "SeasonalNaive", "Average", "SeasonalAverage", "ExponentialSmoothing", "AutoArima", "Arimax")
_FOLDS = 5  # at most, when nothing is said
_MOST_ROWS = 60_000
_HORIZONS_A_ROW = 4
_SMOOTHED, _ARIMA = 2_000, 400  # the newest periods that these are fitted to
_EXPLAIN_SECONDS = 15.0
_SAVE_SECONDS = 4.0
_EXAMPLE_PERIODS = 2


@dataclass
class Fold:
    """Series up to an origin, and what came after it: per series the target and the features known ahead."""

    train: list[Series]
    actual: list[np.ndarray]
    ahead: list[np.ndarray]
    matrix: np.ndarray
    target: np.ndarray  # less the matrix' column `base`, if there is one
    base: int | None
    features: Features

    @property
    def numbers(self) -> np.ndarray:
        """The series of each forecast value."""
        return np.repeat([each.number for each in self.train], [len(y) for y in self.actual])


class Judge:
    """What the search asks of the task (search.Work)."""

    def __init__(self, job: ForecastingJob, folds: list[Fold], whole: Fold, algorithms: list[str]) -> None:
        self._job = job
        self.folds = folds
        self.final_share = sum(len(each.y) for each in whole.train) / sum(
            len(each.y) for fold in folds for each in fold.train
        )
        self.n_jobs = 1
        self._orders: dict[int, tuple[int, int, int]] = {}  # of ARIMA, from the first fold on
        shape = whole.matrix.shape
        self.suggestions = {
            name: Suggestions({}, {}, "regression", *shape)
            if name in _SERIES_MODELS
            else Suggestions(LEARNERS[name].first, LEARNERS[name].space, "regression", *shape)
            for name in algorithms
        }

    def preprocessor(self, algorithm: str) -> str:
        return LEARNERS[algorithm].scaler if algorithm in LEARNERS else ""

    def component(self, trial: Trial, fold: Fold) -> Any:
        """The configuration, fitted on a fold's past."""
        found = self._job.seasons
        season = found[0]
        match trial.algorithm:
            case "Naive":
                return series_models.Naive(1).fit(fold.train)
            case "SeasonalNaive":
                return series_models.Naive(season).fit(fold.train)
            case "Average":
                return series_models.Average(1).fit(fold.train)
            case "SeasonalAverage":
                return series_models.Average(season).fit(fold.train)
            case "ExponentialSmoothing":
                return series_models.ExponentialSmoothing(season, _SMOOTHED).fit(fold.train)
            case "AutoArima" | "Arimax":
                return series_models.Arima(found, _ARIMA, trial.algorithm == "Arimax", self._orders).fit(fold.train)
        estimator = LEARNERS[trial.algorithm].build(trial.config, "regression", self.n_jobs)
        fitted = learners.fit(estimator, fold.matrix, fold.target, None)
        return Regression(fold.features, fitted, self._job.horizon, fold.base)

    def predict(self, trial: Trial) -> list[np.ndarray]:
        found = []
        for fold in self.folds:
            component = self.component(trial, fold)
            made = [component.forecast(each, ahead) for each, ahead in zip(fold.train, fold.ahead, strict=True)]
            found.append(np.concatenate(made))
        return found

    def score(self, predictions: list[np.ndarray], only: str | None = None) -> dict[str, float]:
        found = [
            metrics.forecasting(np.concatenate(fold.actual), predicted, fold.numbers, self._job.spreads, only)
            for fold, predicted in zip(self.folds, predictions, strict=True)
        ]
        return {
            name: float(np.mean([each[name] for each in found]))
            for name in found[0]
            if all(name in each for each in found)
        }

    def stacked(self, members: list[list[np.ndarray]]) -> list[np.ndarray]:
        raise NotImplementedError("a stack of forecasters")


class ForecastingJob(Job):
    """The steps of a forecasting job."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__(plan)
        self.settings: dict[str, Any] = plan["forecasting"]
        self.horizon = 1
        self.seasons = [1]
        self.spreads: dict[int, float] = {}

    def run(self) -> None:
        """Everything. SearchError if it can't be done."""
        plan, settings = self.plan, self.settings
        frame = self.load("training_data")
        assert frame is not None
        validation, test = self.load("validation_data"), self.load("test_data")
        if plan["test_size"] is not None:
            frame, test = self._held_out(frame, float(plan["test_size"]))
        mode = plan["featurization"]
        if mode["mode"] == "off":
            raise SearchError("featurization: off is not for forecasting: its features are made of the time.")
        whole = frame if validation is None else pd.concat([frame, validation], ignore_index=True)
        prepared = prepare(whole, self.target, settings, mode, self.guardrails)
        for name in prepared.dates:
            self.say(f"not a feature: {name} (a time)")
        own = self._own_validation(prepared, frame, validation)
        longest = max(len(each.y) for each in prepared.series)
        self.horizon = self._horizon(settings["horizon"], prepared, longest)
        self.seasons = seasons(prepared, settings["season"], self.horizon)
        found = lags(prepared, settings["lags"], 2 * self.horizon)
        window = min(self.seasons) if settings["window"] == "auto" else settings["window"]
        window = None if window in (None, 1) else int(window)
        back = [*found, window or 0]
        step = int(settings["cv_step"] or self._step(longest, back))
        folds = 1 if own else self._folds(longest, step, back)
        needed = longest_needed(self.horizon, folds, step, back, own is not None)
        prepared = without_short(prepared, needed, settings["short"], self.guardrails)
        self.spreads = {each.number: float(np.ptp(each.y)) for each in prepared.series}
        self.say(
            f"{len(prepared.series)} time series, frequency {prepared.clock.frequency}, horizon {self.horizon}, "
            f"season {self.seasons[0]}, target lags {found or 'none'}, window {window or 'none'}"
        )
        if own:
            cuts = [own]
            self.validation = "validation data after the training data"
        else:
            cuts = [{each.number: len(each.y) - self.horizon - fold * step for each in prepared.series}
                    for fold in range(folds)]  # fmt: skip
            self.validation = f"{folds} rolling origins, {step} periods apart"
            self.guardrails.add("Cross validation", "Done", f"Rolling-origin cross-validation: {self.validation}.")
        options = {"lags": found, "window": window}
        everything = self._fold(prepared, {each.number: len(each.y) for each in prepared.series}, options)
        if everything.features.looks_back:
            self.say("lags look back from the last known period; the last values of the same phase stand beside them")
        judge = Judge(
            self, [self._fold(prepared, cut, options) for cut in cuts], everything, self._algorithms(prepared)
        )
        search = self.search(judge)
        judge.n_jobs = search.n_jobs
        best = search.run()
        self.say(f"best: {self.child(best)} ({best.algorithm}), {self.metric} {best.metrics[self.metric]:.4f}")
        chosen, components = search.fit_final(lambda trial: self._components(judge, trial, everything))
        forecast = self._forecaster(prepared, everything, components, self._residuals(judge, search, chosen))
        self._save(forecast, frame, chosen)
        self.report("featurization_summary.json", self._summary(everything.features, prepared))
        self.report("verifier_results.json", self.guardrails.report())
        self.leaderboard(search)
        if test is not None:
            self._test(forecast, chosen, test)
        if plan["explain"]:
            self._explain(components, chosen, judge)
        self.announce(
            chosen,
            {
                "series": str(len(prepared.series)),
                "horizon": str(self.horizon),
                "frequency": prepared.clock.frequency,
                "features": ", ".join(everything.features.columns),
            },
        )

    def _held_out(self, frame: pd.DataFrame, size: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Without the newest share of the time, and that share."""
        times = pd.to_datetime(frame[self.settings["time"]])
        border = times.sort_values().iloc[int(len(times) * (1 - size))]
        self.say(f"test_data_size: rows from {border} on are kept for the test")
        return frame[times < border].reset_index(drop=True), frame[times >= border].reset_index(drop=True)

    def _own_validation(
        self, prepared: Prepared, frame: pd.DataFrame, validation: pd.DataFrame | None
    ) -> dict[int, int] | None:
        """With validation data of its own: how long each series' past is."""
        if validation is None:
            return None
        name = self.settings["time"]
        last, first = pd.to_datetime(frame[name]).max(), pd.to_datetime(validation[name]).min()
        if first <= last:
            raise SearchError(f"The validation data begins at {first}, before the training data's end ({last}).")
        border = int(prepared.clock.ordinals(pd.DatetimeIndex([last]))[0])
        return {each.number: max(1, border - each.start + 1) for each in prepared.series}

    def _horizon(self, asked: Any, prepared: Prepared, longest: int) -> int:
        """A number as it is; "auto": one season, at most a tenth of the data."""
        if asked != "auto":
            return int(asked)
        season = max(seasons(prepared, self.settings["season"], 1))
        return max(1, min(season, longest // 10))

    def _step(self, longest: int, back: list[int]) -> int:
        """Periods between two origins when nothing is said: horizons enough for the folds to spread over a season."""
        folds = self.plan["folds"] or _FOLDS
        whole = self.horizon * -(-self.seasons[0] // (folds * self.horizon))
        return whole if longest_needed(self.horizon, folds, whole, back, False) <= longest // 2 else self.horizon

    def _folds(self, longest: int, step: int, back: list[int]) -> int:
        """As many as asked for; otherwise as many as the data allows, at most five."""
        if self.plan["folds"] is not None:
            return int(self.plan["folds"])
        fits = [n for n in range(1, _FOLDS + 1) if longest_needed(self.horizon, n, step, back, False) <= longest // 2]
        return max(fits, default=1)

    def _algorithms(self, prepared: Prepared) -> list[str]:
        left_out = {}
        for name in self.plan["algorithms"]:
            if name == "Arimax" and not prepared.encoder.names:
                left_out[name] = "there are no features to use"
            elif (
                name in ("SeasonalNaive", "SeasonalAverage")
                and self.seasons[0] == 1
                and len(self.plan["algorithms"]) > 1
            ):
                left_out[name] = "no season was found"
        for name, why in left_out.items():
            self.say(f"{name} is left out: {why}")
        names = [name for name in self.plan["algorithms"] if name not in left_out]
        if not names:
            raise SearchError(f"No algorithm is left: {'; '.join(f'{name}: {why}' for name, why in left_out.items())}.")
        return names

    def _fold(self, prepared: Prepared, lengths: dict[int, int], options: dict[str, Any]) -> Fold:
        """The past of each series, as long as `lengths` says, and the horizon after it."""
        names = prepared.encoder.names
        unknown = self.settings["unknown_ahead"]
        ahead = [place for place, name in enumerate(names) if name.partition("=")[0] not in unknown]
        train, actual, after = [], [], []
        for each in prepared.series:
            length = lengths[each.number]
            train.append(each.head(length))
            actual.append(each.y[length : length + self.horizon])
            after.append(each.x[length : length + self.horizon])
        features = Features(
            prepared.clock,
            seasons=self.seasons,
            feature_lags=[1] if self.settings["feature_lags"] and options["lags"] and names else [],
            stl=self.settings["stl"] if self.seasons[0] > 1 else None,
            holidays=self.settings["holidays"],
            series=len(prepared.series),
            known_ahead=ahead,
            names=names,
            **options,
        ).fit(train)
        matrix, target = self._rows(features, train)
        base = _base(features, matrix, target)
        if base is not None:
            target = target - matrix[:, base]
        return Fold(train, actual, after, matrix, target, base, features)

    def _rows(self, features: Features, train: list[Series]) -> tuple[np.ndarray, np.ndarray]:
        """What a regressor is fitted to: periods, each seen from some of the origins up to the horizon before it.

        A direct forecaster needs every period from every distance; some of them, drawn at random, cost less and do.
        """
        rng = np.random.default_rng(0)
        total = sum(len(each.y) for each in train)
        times = min(self.horizon, _HORIZONS_A_ROW, max(1, _MOST_ROWS // total)) if features.looks_back else 1
        share = min(1.0, _MOST_ROWS / (total * times))
        parts, targets = [], []
        for each in train:
            first = min(features.lookback, len(each.y) // 3) if features.looks_back else 0
            places = np.arange(first, len(each.y))
            if share < 1:
                places = np.sort(rng.choice(places, max(1, int(len(places) * share)), replace=False))
            places = np.repeat(places, times)
            horizons = rng.integers(1, self.horizon + 1, len(places))
            horizons = np.minimum(horizons, places) if features.looks_back else horizons
            keep = horizons > 0
            places, horizons = places[keep], horizons[keep]
            parts.append(features.matrix(each, places + each.start, horizons, each.x[places]))
            targets.append(each.y[places])
        return np.concatenate(parts), np.concatenate(targets)

    def _components(self, judge: Judge, trial: Trial, whole: Fold) -> list[tuple[float, Any]]:
        """The trial's model over all the data (in a child)."""
        if not trial.members:
            return [(1.0, judge.component(trial, whole))]
        pairs = zip(trial.members, trial.weights, strict=True)
        return [(weight, judge.component(member, whole)) for member, weight in pairs if weight]

    def _residuals(self, judge: Judge, search: Search, trial: Trial) -> dict[int, np.ndarray]:
        """Actual minus forecast in the folds, by series."""
        found: dict[int, list[np.ndarray]] = {}
        for fold, predicted in zip(judge.folds, search.predictions(trial), strict=True):
            errors, numbers = np.concatenate(fold.actual) - predicted, fold.numbers
            for number in np.unique(numbers):
                found.setdefault(int(number), []).append(errors[numbers == number])
        return {number: np.concatenate(errors) for number, errors in found.items()}

    def _forecaster(
        self, prepared: Prepared, whole: Fold, components: list[tuple[float, Any]], residuals: dict[int, np.ndarray]
    ) -> Forecaster:
        # What components look back at, and the series models' own.
        back = max([whole.features.lookback, *self.seasons, 1]) + self.horizon
        return Forecaster(
            target=self.target,
            time=self.settings["time"],
            ids=self.settings["ids"],
            clock=prepared.clock,
            encoder=prepared.encoder,
            keys=prepared.keys,
            dropped=prepared.dropped,
            history={each.number: each.tail(back) for each in prepared.series},
            components=components,
            residuals=residuals,
            horizon=self.horizon,
        )

    def _save(self, forecast: Forecaster, frame: pd.DataFrame, best: Trial) -> None:
        """With the periods after the training data as the example."""
        encoder = forecast.encoder
        rows = []
        for key, number in list(forecast.keys.items())[:_EXAMPLE_PERIODS]:
            times = forecast.clock.times(forecast.history[number].end + np.arange(1, _EXAMPLE_PERIODS + 1))
            rows.append(pd.DataFrame({forecast.time: times, **dict(zip(forecast.ids, key, strict=True))}))
        example = pd.concat(rows, ignore_index=True)
        for name in [*forecast.ids, *encoder.numeric, *encoder.categorical]:
            last = frame[name].dropna()
            if name in forecast.ids:
                example[name] = example[name].astype(last.dtype)
            else:
                example[name] = pd.Series([last.iloc[-1]] * len(example), dtype=last.dtype)
        # Context: known values of the target, which a caller may give.
        example[self.target] = np.nan
        algorithms = {best.algorithm, *(member.algorithm for member in best.members)}
        model.save(
            Path(self.plan["model"]),
            forecast,
            example=example,
            target=pd.Series([0.0]),
            facts={**self.facts(best), "horizon": self.horizon, "frequency": forecast.clock.frequency},
            algorithms=algorithms,
            modules=(forecaster, series_models),
        )

    def _summary(self, features: Features, prepared: Prepared) -> list[dict[str, Any]]:
        encoder = prepared.encoder
        told = [
            {"RawFeatureName": name, "TypeDetected": kind, "Dropped": "No", "Transformations": list(made)}
            for kind, names, made in (
                ("Numeric", encoder.numeric, ("MedianImputer",)),
                ("Categorical", encoder.categorical, ("StringCast", "OneHotEncoder")),
                ("DateTime", [self.settings["time"]], ("TimeIndexFeaturizer",)),
            )
            for name in names
        ]
        told[-1]["EngineeredFeatures"] = features.columns
        return told

    def _test(self, forecast: Forecaster, best: Trial, test: pd.DataFrame) -> None:
        """Forecasts up to the horizon, from origins a horizon apart, known values before each."""
        start = now()
        told = forecast.rolling_forecast(test.drop(columns=self.target), test[self.target], self.horizon)
        told = told.dropna(subset=["_automl_forecast_y", "_automl_actual_y"])
        if told.empty:
            raise SearchError("The test data has no period that could be forecast: it must begin after the training's.")
        numbers = np.array([forecast.keys[key] for key in forecast._keys(told)])
        predicted = told["_automl_forecast_y"].to_numpy(dtype=float)
        found = metrics.forecasting(told["_automl_actual_y"].to_numpy(dtype=float), predicted, numbers, self.spreads)
        self.tested(best, found, told, start)

    def _explain(self, components: list[tuple[float, Any]], best: Trial, judge: Judge) -> None:
        """The best regressor's features; series models have none to tell of."""
        heaviest = max(components, key=lambda pair: pair[0])[1]
        seconds = min(_EXPLAIN_SECONDS, self.deadline - time.monotonic() - _SAVE_SECONDS)
        if not isinstance(heaviest, Regression) or seconds <= 0:
            self.say("the model is not explained: " + ("no time is left" if seconds <= 0 else "it has no features"))
            return
        newest = judge.folds[0]
        frame = pd.DataFrame(newest.matrix, columns=newest.features.columns)
        spread = float(np.ptp(newest.target)) or 1.0

        def loss(rows: pd.DataFrame, numbers: np.ndarray) -> float:
            predicted = np.asarray(heaviest.estimator.predict(rows.to_numpy()), dtype=float)
            view = metrics.Estimated(newest.target[numbers], predicted, spread)
            return metrics.loss(self.metric, metrics.regression(view, self.metric).get(self.metric, 0.0))

        found = explain.importances(frame, loss, seconds)
        self.report("explanation/feature_importances.json", explain.report(found, self.metric, best.algorithm))
        self.say(f"most important: {', '.join(list(found)[:5])}")


def _base(features: Features, matrix: np.ndarray, target: np.ndarray) -> int | None:
    """The median of the season's same phase, if the target varies about it less than about its mean.

    Regressors learn the distance to it then: what a season repeats needn't be learned, and one odd day doesn't spoil
    the next season (measured on the flights: boosted trees' errors are 8 % smaller, those about the last value alone
    larger after a storm). Where the service makes a series stationary by differences, this is localazure's way.
    """
    name = f"target_phase_{features.seasons[0]}_median" if features.seasons else ""
    if name not in features.columns:
        return None
    place = features.columns.index(name)
    return place if float(np.mean((target - matrix[:, place]) ** 2)) < float(np.var(target)) else None
