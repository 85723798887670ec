"""One trial: trains with the given parameters, measures on the validation days, and writes down what it used."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import features
import mlflow
import numpy as np
import pandas as pd

PARAMETERS = {"objective": str, "learning_rate": float, "num_leaves": int, "min_child_samples": int}
MOST_TREES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "validation", "label", "parameters"):
        parser.add_argument(f"--{name}", required=True)
    for name, kind in PARAMETERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=True)
    arguments = parser.parse_args()

    train, validation = pd.read_parquet(arguments.train), pd.read_parquet(arguments.validation)
    parameters = {name: getattr(arguments, name) for name in PARAMETERS}
    model, predicted = features.fit(
        features.build(parameters | {"n_estimators": MOST_TREES}), train, arguments.label, validation
    )
    assert predicted is not None
    residuals = predicted - validation[arguments.label].to_numpy(float)
    metrics = {
        "mean_absolute_error": float(np.abs(residuals).mean()),
        "root_mean_squared_error": float(np.sqrt(np.square(residuals).mean())),
    }
    trees = int(model.named_steps["boost"].best_iteration_ or MOST_TREES)
    folder = Path(arguments.parameters)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parameters.json").write_text(json.dumps(parameters | {"n_estimators": trees}))
    mlflow.log_params(parameters | {"n_estimators": trees})
    mlflow.log_metrics(metrics)
    print(json.dumps(parameters), f"{trees} trees", json.dumps(metrics))


if __name__ == "__main__":
    main()
