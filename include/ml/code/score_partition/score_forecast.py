"""Forecasts the rows whose label nobody knows yet, from the known ones before them, and writes them as Parquet."""

from __future__ import annotations

import argparse

import mlflow
import numpy as np
import pandas as pd
from score_partition import write

LOW, HIGH = 0.1, 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "model-name", "model-version", "run-id", "rows", "label", "time", "series", "predictions"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()

    series = arguments.series.split(",")
    rows = pd.read_parquet(arguments.rows)
    rows[arguments.time] = pd.to_datetime(rows[arguments.time]).astype("datetime64[ns]")
    rows = rows.sort_values([*series, arguments.time]).reset_index(drop=True)
    known = rows.pop(arguments.label).to_numpy(float)
    asked = np.isnan(known)
    if not asked.any():
        raise SystemExit(f"no rows to forecast at {arguments.rows}: was the partition exported?")
    model = mlflow.sklearn.load_model(arguments.model)
    # What is counted can't be less than none.
    values = np.asarray(model.forecast(rows, known.copy())[0], dtype=float).clip(min=0)
    spread = model.forecast_quantiles(rows, known.copy(), quantiles=[LOW, HIGH])
    forecast = rows.loc[asked, [arguments.time, *series]].assign(
        **{arguments.label: values[asked]},
        low=spread[LOW].to_numpy(float)[asked].clip(min=0),
        high=spread[HIGH].to_numpy(float)[asked].clip(min=0),
    )
    source = {name: getattr(arguments, name) for name in ("model_name", "model_version", "run_id")}
    write(forecast, arguments.predictions, source)


if __name__ == "__main__":
    main()
