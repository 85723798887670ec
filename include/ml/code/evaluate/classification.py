"""Evidence about two classes: the area under the ROC curve of probabilities."""

from __future__ import annotations

import bootstrap
import mlflow
import numpy as np
import pandas as pd

METRICS = ("roc_auc",)
SMALLEST_SLICE = 100
THRESHOLD = 0.5


def weighted_auc(order: np.ndarray, new_score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Areas under the ROC curve, one for each row of `weights` (resamples x rows); NaN for resamples of one class.

    `order` sorts the scores, `new_score` marks in that order where a new score begins: equal scores count one half.
    """
    weights = weights[:, order]
    positives, negatives = weights * positive[order], weights * ~positive[order]
    starts = np.flatnonzero(new_score)
    tied_positives = np.add.reduceat(positives, starts, axis=1)
    tied_negatives = np.add.reduceat(negatives, starts, axis=1)
    below = np.cumsum(tied_negatives, axis=1) - tied_negatives
    pairs = tied_positives.sum(axis=1) * tied_negatives.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (tied_positives * (below + tied_negatives / 2)).sum(axis=1) / pairs


class Scores:
    """One model's probabilities for the hold-out, sorted once for all resamples."""

    def __init__(self, probability: np.ndarray, positive: np.ndarray) -> None:
        self.probability, self.positive = probability, positive
        self._order = np.argsort(probability, kind="stable")
        ordered = probability[self._order]
        self._new_score = np.concatenate(([True], ordered[1:] != ordered[:-1]))

    def auc(self, weights: np.ndarray | None = None) -> np.ndarray:
        if weights is None:
            weights = np.ones((1, len(self.positive)))
        return weighted_auc(self._order, self._new_score, self.positive, weights)


def predict(model_folder: str, features: pd.DataFrame) -> np.ndarray:
    """The model's probability of the positive class, in the order of the rows."""
    model = mlflow.sklearn.load_model(model_folder)
    return np.asarray(model.predict_proba(features))[:, 1]


def evidence(
    holdout: pd.DataFrame,
    label: str,
    challenger: np.ndarray,
    champion: np.ndarray | None,
    *,
    slices: list[str],
    resamples: int,
) -> dict[str, object]:
    """What the gate needs to know, as plain data; see docs/guide.md for the keys."""
    positive = holdout[label].to_numpy().astype(bool)
    models = {"challenger": Scores(challenger, positive)}
    if champion is not None:
        models["champion"] = Scores(champion, positive)
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for weights in bootstrap.weights(len(positive), resamples):
        for name, scores in models.items():
            resampled[name].append(scores.auc(weights))
    drawn = {name: np.concatenate(parts) for name, parts in resampled.items()}
    result: dict[str, object] = {
        "metric": "roc_auc",
        "rows": len(positive),
        "positives": int(positive.sum()),
        "confidence": bootstrap.CONFIDENCE,
        "resamples": resamples,
        "champion": None,
        "difference": None,
    }
    for name, scores in models.items():
        result[name] = {
            "value": bootstrap.finite(scores.auc()[0]),
            **bootstrap.interval(drawn[name]),
            "brier": float(np.mean((scores.probability - positive) ** 2)),
            "accuracy": float(np.mean((scores.probability >= THRESHOLD) == positive)),
            "calibration": bootstrap.equal_bins(scores.probability, positive),
        }
    if "champion" in models:
        difference = models["challenger"].auc()[0] - models["champion"].auc()[0]
        result["difference"] = {
            "value": bootstrap.finite(difference),
            **bootstrap.interval(drawn["challenger"] - drawn["champion"]),
        }
    result["slices"] = sliced(holdout, positive, models, slices)
    return result


def sliced(
    holdout: pd.DataFrame, positive: np.ndarray, models: dict[str, Scores], columns: list[str]
) -> list[dict[str, object]]:
    """Each value of each slice column that has enough rows and both classes."""
    found: list[dict[str, object]] = []
    for column in columns:
        for value, rows in sorted(
            holdout.groupby(column, observed=True).indices.items(), key=lambda item: -len(item[1])
        ):
            if len(rows) < SMALLEST_SLICE or positive[rows].all() or not positive[rows].any():
                continue
            areas = {
                name: bootstrap.finite(Scores(scores.probability[rows], positive[rows]).auc()[0])
                for name, scores in models.items()
            }
            found.append({"column": column, "value": str(value), "rows": len(rows), **areas})
    return found
