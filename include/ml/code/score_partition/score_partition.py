"""Scores the rows of one partition and writes them as Parquet, each with the model, run and deployment it came from.

The columns come in the order of the table they are loaded into: COPY goes by it.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

KEY = ["flight_id", "flight_date"]
LATE_FROM = 0.5


def classify(model: Any, features: pd.DataFrame) -> dict[str, Any]:
    probability = model.predict_proba(features)[:, 1]
    return {"probability": probability.astype("float64"), "late": (probability >= LATE_FROM).astype("int8")}


def regress(model: Any, features: pd.DataFrame) -> dict[str, Any]:
    return {"predicted_delay": model.predict(features).astype("float64")}


TASKS = {"classification": classify, "regression": regress}


def write(predictions: pd.DataFrame, folder: str, source: dict[str, str]) -> None:
    """As one Parquet file, each row with where it came from; the mean of the first prediction goes to the run."""
    mean = float(predictions.select_dtypes("number").drop(columns="flight_id", errors="ignore").iloc[:, 0].mean())
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    scored_at = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    written = predictions.assign(**source, scored_at=scored_at)
    written.to_parquet(target / "predictions.parquet", index=False, coerce_timestamps="us")
    mlflow.log_metrics({"rows": float(len(predictions)), "mean_prediction": mean})
    print(f"scored {len(predictions)} rows with {source['model_name']} version {source['model_version']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS, required=True)
    for name in ("model", "model-name", "model-version", "deployment", "run-id", "features", "predictions"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()

    features = pd.read_parquet(arguments.features)
    if features.empty:
        raise SystemExit(f"no rows to score at {arguments.features}: was the partition exported?")
    predicted = TASKS[arguments.task](mlflow.sklearn.load_model(arguments.model), features)
    source = {name: getattr(arguments, name) for name in ("model_name", "model_version", "run_id")}
    if arguments.deployment != "none":
        source["deployment"] = arguments.deployment
    write(features[KEY].assign(**predicted), arguments.predictions, source)


if __name__ == "__main__":
    main()
