"""Evidence about a number: an error in the label's units, beside that of the training days' mean and median.

Normalised errors are shares of the hold-out's range, as Azure Machine Learning's are of the data's.
"""

from __future__ import annotations

import bootstrap
import mlflow
import numpy as np
import pandas as pd

SMALLEST_SLICE = 100
#: Metric -> (what a row's error counts, what becomes of the mean).
_LOSSES = {"mean_absolute_error": np.abs, "root_mean_squared_error": np.square}
METRICS = (*_LOSSES, *(f"normalized_{name}" for name in _LOSSES))


class Errors:
    """One forecast's errors on the hold-out, counted as the metric counts them."""

    def __init__(self, metric: str, predicted: np.ndarray, observed: np.ndarray) -> None:
        self.predicted, self.observed = predicted, observed
        self._squared = metric.endswith("root_mean_squared_error")
        self._loss = _LOSSES[metric.removeprefix("normalized_")](predicted - observed)
        self._unit = float(observed.max() - observed.min()) if metric.startswith("normalized_") else 1.0

    def value(self, rows: np.ndarray | None = None) -> float | None:
        """The metric, of all rows or of some."""
        mean = (self._loss if rows is None else self._loss[rows]).mean()
        return bootstrap.finite((np.sqrt(mean) if self._squared else mean) / self._unit)

    def values(self, weights: np.ndarray) -> np.ndarray:
        """The metric of each resample."""
        means = weights @ self._loss / weights.sum(axis=1)
        return (np.sqrt(means) if self._squared else means) / self._unit


def predict(model_folder: str, features: pd.DataFrame) -> np.ndarray:
    """The model's predictions, in the order of the rows."""
    return np.asarray(mlflow.sklearn.load_model(model_folder).predict(features), dtype=float)


def baselines(history: pd.DataFrame, label: str, rows: int) -> dict[str, np.ndarray]:
    """What could be said without a model: name -> a prediction a row."""
    seen = history[label].to_numpy(float)
    return {
        "mean of the training days": np.full(rows, seen.mean()),
        "median of the training days": np.full(rows, np.median(seen)),
    }


def evidence(
    holdout: pd.DataFrame,
    label: str,
    challenger: np.ndarray,
    champion: np.ndarray | None,
    *,
    metric: str,
    unit: str,
    without_model: dict[str, np.ndarray],
    slices: list[str],
    resamples: int,
    blocks: np.ndarray | None = None,
) -> dict[str, object]:
    """What the gate needs to know, as plain data; see docs/guide.md for the keys."""
    observed = holdout[label].to_numpy(float)
    predictions = {"challenger": challenger} | ({} if champion is None else {"champion": champion}) | without_model
    models = {name: Errors(metric, predicted, observed) for name, predicted in predictions.items()}
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for weights in bootstrap.weights(len(observed), resamples, blocks):
        for name, errors in models.items():
            resampled[name].append(errors.values(weights))
    drawn = {name: np.concatenate(parts) for name, parts in resampled.items()}
    result: dict[str, object] = {
        "metric": metric,
        "unit": unit,
        "rows": len(observed),
        "confidence": bootstrap.CONFIDENCE,
        "resamples": resamples,
        "champion": None,
        "difference": None,
        "baselines": [
            {"name": name, "value": models[name].value(), **bootstrap.interval(drawn[name])} for name in without_model
        ],
    }
    for name in [name for name in ("challenger", "champion") if name in models]:
        errors = models[name]
        residuals = errors.predicted - observed
        low, middle, high = np.quantile(residuals, [0.1, 0.5, 0.9])
        result[name] = {
            "value": errors.value(),
            **bootstrap.interval(drawn[name]),
            "mean_absolute_error": float(np.abs(residuals).mean()),
            "root_mean_squared_error": float(np.sqrt(np.square(residuals).mean())),
            "bias": float(residuals.mean()),
            "residuals": {"p10": float(low), "p50": float(middle), "p90": float(high)},
            "calibration": bootstrap.equal_bins(errors.predicted, observed),
        }
    if champion is not None:
        difference = (models["challenger"].value() or np.nan) - (models["champion"].value() or np.nan)
        result["difference"] = {
            "value": bootstrap.finite(difference),
            **bootstrap.interval(drawn["challenger"] - drawn["champion"]),
        }
    judged = {name: models[name] for name in ("challenger", "champion") if name in models}
    result["slices"] = sliced(holdout, judged, slices)
    return result


def sliced(holdout: pd.DataFrame, models: dict[str, Errors], columns: list[str]) -> list[dict[str, object]]:
    """Each value of each slice column that has enough rows."""
    found: list[dict[str, object]] = []
    for column in columns:
        groups = holdout.groupby(column, observed=True).indices
        for value, rows in sorted(groups.items(), key=lambda item: -len(item[1])):
            if len(rows) < SMALLEST_SLICE:
                continue
            values = {name: errors.value(rows) for name, errors in models.items()}
            found.append({"column": column, "value": str(value), "rows": len(rows), **values})
    return found
