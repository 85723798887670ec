"""Scores the rows of one partition and writes them as Parquet, each with the model, run and deployment it came from."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pandas as pd

KEY = ["flight_id", "flight_date"]
LATE_FROM = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "model-name", "model-version", "deployment", "run-id", "features", "predictions"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()

    features = pd.read_parquet(arguments.features)
    if features.empty:
        raise SystemExit(f"no rows to score at {arguments.features}: was the partition exported?")
    model = mlflow.sklearn.load_model(arguments.model)
    probability = model.predict_proba(features.drop(columns=["late"], errors="ignore"))[:, 1]
    predictions = features[KEY].assign(
        probability=probability.astype("float64"),
        late=(probability >= LATE_FROM).astype("int8"),
        model_name=arguments.model_name,
        model_version=arguments.model_version,
        run_id=arguments.run_id,
        deployment=arguments.deployment,
        scored_at=datetime.now(UTC).replace(tzinfo=None, microsecond=0),
    )
    folder = Path(arguments.predictions)
    folder.mkdir(parents=True, exist_ok=True)
    predictions.to_parquet(folder / "predictions.parquet", index=False, coerce_timestamps="us")
    mlflow.log_metrics({"rows": float(len(predictions)), "mean_probability": float(probability.mean())})
    print(f"scored {len(predictions)} rows with {arguments.model_name} version {arguments.model_version}")


if __name__ == "__main__":
    main()
