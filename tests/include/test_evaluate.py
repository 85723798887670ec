"""The evidence of include/ml/code/evaluate: what it reckons, and that no forecast sees what it is asked for.

The job's own packages aren't here; a model is a stand-in with the methods the code calls.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rendering import INCLUDE

CODE = INCLUDE / "ml/code/evaluate"
MODULES = ("scoring", "bootstrap", "classification", "regression", "forecasting")


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The job's modules, imported as the job does: by their bare names."""
    models: dict[str, Any] = {}
    mlflow: Any = ModuleType("mlflow")
    mlflow.sklearn = SimpleNamespace(load_model=models.__getitem__)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.syspath_prepend(str(CODE))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name)
    return SimpleNamespace(models=models, **found)


def test_a_resample_has_as_many_rows_and_whole_blocks(code: SimpleNamespace) -> None:
    for drawn in code.bootstrap.weights(7, 100):
        assert drawn.shape == (50, 7) and (drawn.sum(axis=1) == 7).all()
    blocks = np.array([0, 0, 0, 1, 1, 1])
    for drawn in code.bootstrap.weights(6, 50, blocks):
        assert (drawn[:, 0] == drawn[:, 2]).all() and (drawn[:, 0] + drawn[:, 3] == 2).all()


def test_the_area_under_the_curve_counts_pairs(code: SimpleNamespace) -> None:
    random = np.random.default_rng(1)
    positive = random.random(200) < 0.3
    score = np.round(random.random(200), 1)  # many ties
    pairs = score[positive][:, None] - score[~positive][None, :]
    expected = ((pairs > 0) + (pairs == 0) / 2).mean()
    assert code.classification.Scores(score, positive).auc()[0] == pytest.approx(expected)


def regressed(code: SimpleNamespace, metric: str, champion: np.ndarray | None = None) -> dict[str, Any]:
    random = np.random.default_rng(1)
    holdout = pd.DataFrame({"y": random.normal(0, 10, 400), "carrier": ["UA"] * 300 + ["AA"] * 100})
    found: dict[str, Any] = code.regression.evidence(
        holdout,
        "y",
        holdout["y"].to_numpy() + 2.0,
        champion if champion is None else holdout["y"].to_numpy() + champion,
        metric=metric,
        unit="minutes",
        without_model=code.regression.baselines(pd.DataFrame({"y": [0.0, 0.0, 3.0]}), "y", len(holdout)),
        slices=["carrier"],
        resamples=200,
    )
    return found


def test_an_error_is_in_the_labels_units_and_beside_its_baselines(code: SimpleNamespace) -> None:
    found = regressed(code, "mean_absolute_error", np.full(400, 3.0))
    assert found["challenger"]["value"] == pytest.approx(2) and found["challenger"]["bias"] == pytest.approx(2)
    assert found["difference"]["value"] == pytest.approx(-1)
    assert found["difference"]["low"] <= -1 + 1e-6 and found["difference"]["high"] >= -1 - 1e-6
    mean, median = found["baselines"]
    assert (mean["name"], median["name"]) == ("mean of the training days", "median of the training days")
    assert 6 < median["low"] < median["value"] < median["high"] < 10
    assert [(one["value"], one["rows"], round(one["challenger"], 6)) for one in found["slices"]] == [
        ("UA", 300, 2.0),
        ("AA", 100, 2.0),
    ]
    assert sum(one["rows"] for one in found["challenger"]["calibration"]) == 400
    assert regressed(code, "mean_absolute_error")["champion"] is None


@pytest.mark.parametrize("metric", ["root_mean_squared_error", "normalized_root_mean_squared_error"])
def test_squared_errors_weigh_the_large_ones(code: SimpleNamespace, metric: str) -> None:
    found = regressed(code, metric, np.array([0.0, 4.0] * 200))
    champion = np.sqrt(8.0)
    if metric.startswith("normalized"):
        champion /= np.ptp(np.random.default_rng(1).normal(0, 10, 400))
    assert found["champion"]["value"] == pytest.approx(champion)
    assert found["challenger"]["value"] < found["champion"]["value"] and found["difference"]["high"] < 0


# -- forecasts -------------------------------------------------------------------------------------------------------

HOURS = pd.DataFrame(
    [(origin, hour) for origin in ("EWR", "JFK") for hour in pd.date_range("2013-01-01", "2013-01-31 23:00", freq="h")],
    columns=["origin", "hour_start"],
)
HOURS["departures"] = HOURS["hour_start"].dt.hour + 10 * HOURS["hour_start"].dt.dayofweek + (HOURS["origin"] == "JFK")
HISTORY, HOLDOUT = (part for _, part in HOURS.groupby(HOURS["hour_start"] >= "2013-01-25"))


class LastWeek:
    """A model that answers with last week's hour, and checks that it is asked fairly."""

    def __init__(self, forgets: str = "") -> None:
        self.days: list[str] = []
        self.forgets = forgets

    def forecast(self, rows: pd.DataFrame, known: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
        assert "departures" not in rows.columns
        asked = rows[np.isnan(known)]
        (day,) = asked["hour_start"].dt.date.unique()
        assert rows["hour_start"].dt.date.max() == day, "the model is shown what comes after"
        assert (day - rows["hour_start"].dt.date.min()).days <= 21
        self.days.append(str(day))
        seen = rows.assign(known=known)
        before = rows.assign(hour_start=rows["hour_start"] - pd.Timedelta(days=7))
        values = before.merge(seen, on=["origin", "hour_start"], how="left")["known"].to_numpy()
        answered = rows[rows["origin"] != self.forgets]
        mixed = np.where(np.isnan(known), values, known)[(rows["origin"] != self.forgets).to_numpy()]
        # In an order of its own, as a model may answer.
        return mixed[::-1], answered.iloc[::-1].set_index(["hour_start", "origin"])

    def forecast_quantiles(self, rows: pd.DataFrame, known: np.ndarray, quantiles: list[float]) -> pd.DataFrame:
        return pd.DataFrame({quantile: np.nan_to_num(known, nan=quantile) for quantile in quantiles})


def test_each_day_is_forecast_at_midnight_from_what_was_known(code: SimpleNamespace) -> None:
    model = code.models["m"] = LastWeek()
    series = code.forecasting.Series("hour_start", ("origin",), "departures")
    shuffled = HOLDOUT.sample(frac=1, random_state=1)
    found = code.forecasting.rolling("m", HISTORY, shuffled, series)
    assert model.days == [f"2013-01-{day}" for day in range(25, 32)]
    assert (found["forecast"].to_numpy() == series.sorted(HOLDOUT)["departures"].to_numpy()).all()
    assert (found["low"] == 0.1).all() and (found["high"] == 0.9).all()


def test_baselines_are_last_weeks_and_yesterdays_hours(code: SimpleNamespace) -> None:
    series = code.forecasting.Series("hour_start", ("origin",), "departures")
    found = code.forecasting.baselines(HISTORY, HOLDOUT, series)
    observed = series.sorted(HOLDOUT)["departures"].to_numpy()
    assert (found["last week's same hour"] == observed).all()
    assert set(found["yesterday's same hour"] - observed) == {-10.0, 60.0}  # a weekday on; Sunday before Monday
    unseen = code.forecasting.baselines(HISTORY[HISTORY["hour_start"] >= "2013-01-24"], HOLDOUT, series)
    assert set(unseen["last week's same hour"][: 24 * 6]) == {11.5 + 10 * 3}, "hours never seen are the series' mean"


def test_a_series_without_an_answer_is_named(code: SimpleNamespace) -> None:
    code.models["m"] = LastWeek(forgets="JFK")
    series = code.forecasting.Series("hour_start", ("origin",), "departures")
    with pytest.raises(code.scoring.Unscored, match="it forecasts nothing for 2013-01-25 00:00:00, JFK"):
        code.forecasting.rolling("m", HISTORY, HOLDOUT, series)
