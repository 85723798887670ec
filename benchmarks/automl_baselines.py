"""What AutoML has to beat: the simplest sensible model of each task, by the same metrics. Run by benchmarks/automl.py.

    PYTHONPATH=emulator/compute var/env/compute/bin/python benchmarks/automl_baselines.py FOLDER

FOLDER has <task>/train/rows.parquet and <task>/hold_out/rows.parquet. Prints JSON: task -> baseline -> metrics.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from localazure_compute.automl import metrics
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

WEEK = 7 * 24


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return tuple(pd.read_parquet(folder / part / "rows.parquet") for part in ("train", "hold_out"))  # type: ignore[return-value]


def linear(train: pd.DataFrame, model: object) -> Pipeline:
    """Scaled numbers, a column a category, and a linear model."""
    texts = [name for name in train if train[name].dtype == object]
    numbers = [name for name in train if pd.api.types.is_numeric_dtype(train[name])]
    prepare = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore", min_frequency=20), texts),
    )
    return make_pipeline(prepare, model)


def classification(folder: Path) -> dict[str, dict[str, float]]:
    train, hold_out = tables(folder)
    columns = train.columns.drop(["late", "flight_date"])
    fitted = linear(train[columns], LogisticRegression(max_iter=500)).fit(train[columns], train["late"])
    shown = fitted.predict_proba(hold_out[columns])
    share = np.tile([1 - train["late"].mean(), train["late"].mean()], (len(hold_out), 1))
    actual = hold_out["late"].to_numpy()
    return {
        "logistic regression": metrics.classification(metrics.Classified(actual, shown)),
        "the class' share": metrics.classification(metrics.Classified(actual, share)),
    }


def regression(folder: Path) -> dict[str, dict[str, float]]:
    train, hold_out = tables(folder)
    columns = train.columns.drop(["arr_delay", "flight_date"])
    fitted = linear(train[columns], LinearRegression()).fit(train[columns], train["arr_delay"])
    actual, spread = hold_out["arr_delay"].to_numpy(float), float(np.ptp(train["arr_delay"]))
    mean = np.full(len(actual), train["arr_delay"].mean())
    return {
        "the mean": metrics.regression(metrics.Estimated(actual, mean, spread)),
        "linear regression": metrics.regression(metrics.Estimated(actual, fitted.predict(hold_out[columns]), spread)),
    }


def forecasting(folder: Path) -> dict[str, dict[str, float]]:
    train, hold_out = tables(folder)
    whole = pd.concat([train, hold_out]).sort_values(["origin", "hour_start"])
    # The same hour a week before: known for every hour of the hold-out, whatever the horizon.
    before = whole.groupby("origin")["departures"].shift(WEEK)
    rows = (whole["hour_start"] >= hold_out["hour_start"].min()).to_numpy()
    numbers = whole["origin"].astype("category").cat.codes.to_numpy()
    groups = train.groupby("origin", sort=True)["departures"]
    spreads = {number: float(np.ptp(y)) for number, (_, y) in enumerate(groups)}
    actual = whole["departures"].to_numpy(float)[rows]
    shown = before.to_numpy(float)[rows]
    return {"the same hour last week": metrics.forecasting(actual, shown, numbers[rows], spreads)}


if __name__ == "__main__":
    root = Path(sys.argv[1])
    tasks = {"classification": classification, "regression": regression, "forecasting": forecasting}
    print(json.dumps({name: task(root / name) for name, task in tasks.items()}))
