"""AutoML's metrics against scikit-learn, SciPy and numbers worked out by hand; and the parts of a forecaster.

Definitions: https://learn.microsoft.com/azure/machine-learning/how-to-understand-automated-ml
"""

from __future__ import annotations

from typing import Any

import pytest

CLASSIFICATION = """
    import json
    import numpy as np
    from sklearn import metrics as sk
    from sklearn.preprocessing import label_binarize
    from localazure_compute.automl import metrics

    rng = np.random.default_rng(3)
    actual = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    shown = rng.dirichlet([1, 1, 1], 400) + 0.6 * np.eye(3)[actual]
    shown /= shown.sum(axis=1, keepdims=True)
    guess = shown.argmax(axis=1)
    onehot = label_binarize(actual, classes=[0, 1, 2])
    recall = sk.recall_score(actual, guess, average="macro")
    wanted = {
        "accuracy": sk.accuracy_score(actual, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(actual, guess),
        "norm_macro_recall": (recall - 1 / 3) / (1 - 1 / 3),
        "matthews_correlation": sk.matthews_corrcoef(actual, guess),
        "log_loss": sk.log_loss(actual, shown),
        "AUC_macro": sk.roc_auc_score(actual, shown, multi_class="ovr", average="macro"),
        "AUC_weighted": sk.roc_auc_score(actual, shown, multi_class="ovr", average="weighted"),
        "AUC_micro": sk.roc_auc_score(onehot, shown, average="micro"),
        "AUC_binary": sk.roc_auc_score(actual == 2, shown[:, 2]),
        "f1_score_binary": sk.f1_score(actual == 2, guess == 2),
    }
    for average in ("macro", "micro", "weighted"):
        wanted[f"average_precision_score_{average}"] = sk.average_precision_score(onehot, shown, average=average)
        wanted[f"precision_score_{average}"] = sk.precision_score(actual, guess, average=average)
        wanted[f"recall_score_{average}"] = sk.recall_score(actual, guess, average=average)
        wanted[f"f1_score_{average}"] = sk.f1_score(actual, guess, average=average)
    found = metrics.classification(metrics.Classified(actual, shown, None, 2))
    # Two of three of a class of 3 rows, none of a class of 1: (3 + 3) / (3 + 3 + 3 + 1).
    small = metrics.Classified(np.array([0, 0, 0, 1]), np.array([[1, 0], [1, 0], [0, 1], [1, 0.0]]))
    weights = rng.integers(1, 4, 400).astype(float)
    weighted = metrics.classification(metrics.Classified(actual, shown, weights))
    repeated = np.repeat(np.arange(400), weights.astype(int))
    same = metrics.classification(metrics.Classified(actual[repeated], shown[repeated]))
    one = metrics.classification(metrics.Classified(np.zeros(5, int), np.tile([0.7, 0.3], (5, 1))))
    print(json.dumps({"wanted": wanted, "found": found, "small": metrics.classification(small, "weighted_accuracy"),
                      "weighted": weighted, "same": same, "one": sorted(one)}))
"""

REGRESSION = """
    import json
    import numpy as np
    from scipy.stats import spearmanr
    from sklearn import metrics as sk
    from localazure_compute.automl import metrics

    rng = np.random.default_rng(4)
    actual, spread = rng.gamma(3, 4, 300), 50.0
    actual[:3] = 0
    guess = np.abs(actual + rng.normal(0, 2, 300))
    some = actual != 0
    wanted = {
        "r2_score": sk.r2_score(actual, guess),
        "explained_variance": sk.explained_variance_score(actual, guess),
        "spearman_correlation": spearmanr(actual, guess).statistic,
        "mean_absolute_percentage_error": 100 * sk.mean_absolute_percentage_error(actual[some], guess[some]),
        "root_mean_squared_error": sk.root_mean_squared_error(actual, guess),
        "mean_absolute_error": sk.mean_absolute_error(actual, guess),
        "median_absolute_error": sk.median_absolute_error(actual, guess),
        "root_mean_squared_log_error": sk.root_mean_squared_log_error(actual, guess),
    }
    errors = [name for name in wanted if name.startswith(("root", "median", "mean_absolute_error"))]
    wanted |= {f"normalized_{name}": wanted[name] / spread for name in errors}
    found = metrics.regression(metrics.Estimated(actual, guess, spread))
    worst = metrics.regression(metrics.Estimated(np.array([1.0, 2, 3]), np.array([90.0, -90, 90]), 2.0))
    # Two series with errors of 1 and 10 and ranges of 10 and 100: the same, once normalized.
    series = metrics.forecasting(np.array([5.0, 5, 50, 50]), np.array([6.0, 4, 60, 40]), np.array([0, 0, 1, 1]),
                                 {0: 10.0, 1: 100.0})
    print(json.dumps({"wanted": wanted, "found": found, "worst": worst, "series": series}))
"""

FORECASTER = """
    import json
    import numpy as np
    import pandas as pd
    from statsmodels.tsa.holtwinters import ExponentialSmoothing as Reference
    from localazure_compute.automl.forecasting.forecaster import Clock, Features, Regression, Series
    from localazure_compute.automl.forecasting import series_models

    out = {}
    for frequency, times in {
        "h": ["2013-01-01 00:00", "2013-01-01 05:00"], "D": ["2013-02-27", "2013-03-01"],
        "MS": ["2012-12-01", "2013-03-01"], "ME": ["2012-12-31", "2013-03-31"], "QS": ["2013-01-01", "2013-07-01"],
        "YE": ["2012-12-31", "2014-12-31"], "W-SUN": ["2013-01-06", "2013-01-27"], "B": ["2013-01-04", "2013-01-07"],
    }.items():
        clock = Clock(frequency, pd.Timestamp(times[0]))
        numbers = clock.ordinals(pd.to_datetime(pd.Series(times)))
        back = clock.times(numbers).strftime("%Y-%m-%d %H:%M").tolist()
        same = back == pd.to_datetime(times).strftime("%Y-%m-%d %H:%M").tolist()
        out[frequency] = [int(numbers[1] - numbers[0]), same]

    # What a row looks back at: y is its own period's number, so a feature's value says which period it is of.
    y = np.arange(400.0)
    series = Series(0, 0, y, np.zeros((400, 0)))
    features = Features(Clock("h", pd.Timestamp("2013-01-01")), seasons=[24], lags=[1, 3], window=2, feature_lags=[],
                        stl=None, holidays=False, series=1, known_ahead=[], names=[]).fit([series])
    rows = features.matrix(series, np.array([300, 300]), np.array([1, 30]), np.zeros((2, 0)))
    at = {name: rows[:, place].tolist() for place, name in enumerate(features.columns)}
    out["rows"] = {name: at[name] for name in ("target_lag_1", "target_lag_3", "target_phase_24_1",
                                               "target_window_2_max", "horizon")}
    def holidays(frequency, first, count):
        clock = Clock(frequency, pd.Timestamp(first))
        plain = Features(clock, seasons=[], lags=[], window=None, feature_lags=[], stl=None, holidays=True, series=1,
                         known_ahead=[], names=[])
        return plain._holidays(clock.ordinals(pd.Series([pd.Timestamp(first)])) + np.arange(count))[:, 0].tolist()
    asked = (("D", "2013-07-03", 3), ("12h", "2013-07-03", 6), ("MS", "2013-07-01", 3), ("D", "2013-08-05", 2))
    out["holidays"] = [holidays(*each) for each in asked]

    # A forecast beyond the horizon sees its own forecasts: "the value before, plus one" goes on counting.
    class Next:
        def predict(self, matrix):
            places = features.columns
            return matrix[:, places.index("target_lag_1")] + matrix[:, places.index("horizon")]
    out["recursive"] = Regression(features, Next(), 5).forecast(series, np.zeros((12, 0))).tolist()

    rng = np.random.default_rng(0)
    wave = 20 + 5 * np.sin(np.arange(240) * 2 * np.pi / 12) + rng.normal(0, 1, 240)
    whole = Series(0, 7, wave, np.zeros((240, 0)))
    model = series_models.ExponentialSmoothing(12, 10_000).fit([whole])
    reference = Reference(wave, trend="add", damped_trend=True, seasonal="add", seasonal_periods=12,
                          initialization_method="heuristic").fit()
    # The twelfth step is the last value's phase, for which statsmodels forgets the last update of its season.
    out["smoothing"] = float(np.abs(model.forecast(whole, np.zeros((11, 0))) - reference.forecast(11)).max())
    # Moved on through known values, it is as if it had seen them from the beginning.
    early = series_models.ExponentialSmoothing(12, 10_000).fit([whole.head(200)])
    early.states[0] |= {name: model.states[0][name] for name in ("alpha", "beta", "gamma", "phi")}
    moved = early.forecast(whole, np.zeros((12, 0)))
    out["moved"] = float(np.abs(moved - model.forecast(whole, np.zeros((12, 0)))).max())
    out["seasonal_naive"] = series_models.Naive(12).forecast(whole, np.zeros((14, 0))).tolist() == [
        *wave[-12:], *wave[-12:-10]]

    # Known values after the training's end are context, gaps in it filled forward; rows stand in any order.
    from localazure_compute.automl.forecasting.forecaster import Encoder, Forecaster
    clock = Clock("D", pd.Timestamp("2013-01-01"))
    made = Forecaster(target="y", time="day", ids=["shop"], clock=clock, encoder=Encoder([], []),
                      keys={("1",): 0}, dropped=[("9",)], history={0: Series(0, 0, np.arange(10.0), np.zeros((10, 0)))},
                      components=[(0.5, series_models.Naive(1)), (0.5, series_models.Naive(2))],
                      residuals={0: np.array([-1.0, 1.0])}, horizon=2)
    rows = pd.DataFrame({"day": pd.to_datetime(["2013-01-15", "2013-01-12", "2013-01-14", "2013-01-14"]),
                         "shop": [1.0, 1, 1, 9]})
    out["context"] = made.forecast(rows, [np.nan, 50.0, 60.0, np.nan])[0].tolist()[:3]
    out["alone"] = made.predict(rows.head(1)).tolist()
    out["dropped"] = bool(np.isnan(made.predict(rows.tail(1)))[0])
    print(json.dumps(out))
"""


def close(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert {name: found.get(name) for name in wanted} == {
        name: pytest.approx(v, abs=1e-9) for name, v in wanted.items()
    }


def test_classification_metrics(compute: Any) -> None:
    told: dict[str, Any] = compute.answer(CLASSIFICATION)
    close(told["found"], told["wanted"])
    assert len(told["found"]) == 26
    assert told["small"] == {"weighted_accuracy": pytest.approx(0.6)}
    # A row that weighs three counts as three rows.
    close({n: v for n, v in told["weighted"].items() if n != "weighted_accuracy"},
          {n: v for n, v in told["same"].items() if n != "weighted_accuracy"})  # fmt: skip
    # With one class only no curve is defined.
    assert not [name for name in told["one"] if name.startswith(("AUC", "average_precision"))]


def test_regression_and_forecasting_metrics(compute: Any) -> None:
    told: dict[str, Any] = compute.answer(REGRESSION)
    close(told["found"], told["wanted"])
    assert set(told["found"]) == set(told["wanted"])
    assert told["worst"]["r2_score"] == -1.0
    assert "root_mean_squared_log_error" not in told["worst"]
    assert told["series"]["normalized_root_mean_squared_error"] == pytest.approx(0.1)
    assert told["series"]["mean_absolute_error"] == pytest.approx(5.5)


def test_the_parts_of_a_forecaster(compute: Any) -> None:
    told: dict[str, Any] = compute.answer(FORECASTER)
    steps = {"h": 5, "D": 2, "MS": 3, "ME": 3, "QS": 2, "YE": 2, "W-SUN": 3, "B": 1}
    assert {name: told[name] for name in steps} == {name: [count, True] for name, count in steps.items()}
    assert told["rows"] == {
        "target_lag_1": [299.0, 270.0],
        "target_lag_3": [297.0, 268.0],
        "target_phase_24_1": [276.0, 252.0],
        "target_window_2_max": [299.0, 270.0],
        "horizon": [1.0, 30.0],
    }
    # The 4th of July; in August there is none, Labor Day is in September.
    assert told["holidays"] == [[0, 1, 0], [0, 0, 1, 1, 0, 0], [1, 0, 1], [0, 0]]
    assert told["recursive"] == [400.0 + n for n in range(12)]
    assert told["smoothing"] < 1e-6
    assert told["moved"] < 2.0
    assert told["seasonal_naive"]
    # The last value is 60, the one two days before the 15th is 50 (of the 12th, filled forward).
    assert told["context"] == [0.5 * 60 + 0.5 * 50, 50.0, 60.0]
    assert told["alone"] == [0.5 * 9 + 0.5 * 8]
    assert told["dropped"]
