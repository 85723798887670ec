"""Trains with the best trial's parameters on all days, the validation's too, and packs the model for MLflow."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

import features
import mlflow
import numpy as np
import pandas as pd

REQUIREMENTS = ("lightgbm", "numpy", "pandas", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "validation", "label", "parameters", "model"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()

    rows = pd.concat([pd.read_parquet(arguments.train), pd.read_parquet(arguments.validation)], ignore_index=True)
    parameters = json.loads((Path(arguments.parameters) / "parameters.json").read_text())
    model, _ = features.fit(features.build(parameters), rows, arguments.label)
    learned = features.columns(rows)
    predicted = model.predict(learned)
    mlflow.sklearn.save_model(
        model,
        arguments.model,
        signature=mlflow.models.infer_signature(learned, predicted),
        input_example=learned.head(5),
        serialization_format="cloudpickle",
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
    )
    error = float(np.abs(predicted - rows[arguments.label].to_numpy(float)).mean())
    mlflow.log_params(parameters)
    mlflow.log_metrics({"rows": float(len(rows)), "training_mean_absolute_error": error})
    print(f"trained on {len(rows)} rows with {json.dumps(parameters)}")


if __name__ == "__main__":
    main()
