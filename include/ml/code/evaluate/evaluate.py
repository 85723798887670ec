"""Scores challenger and champion on the same hold-out and writes the evidence a gate decides on.

Reads Parquet files with the feature columns and a 0/1 label; writes `evidence.json`: each model's AUC with a bootstrap
interval, the paired difference, slices, calibration. Both models see the same resampled rows, so that the difference
has an interval of its own (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

CONFIDENCE = 0.95
CALIBRATION_BINS = 10
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


def interval(values: np.ndarray) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    if not len(values):
        return {"low": None, "high": None}
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"low": float(low), "high": float(high)}


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def calibration(probability: np.ndarray, positive: np.ndarray) -> list[dict[str, float]]:
    """Equal-sized bins of predicted probability: mean prediction, observed rate, rows."""
    bins = np.array_split(np.argsort(probability, kind="stable"), CALIBRATION_BINS)
    return [
        {"predicted": float(probability[rows].mean()), "observed": float(positive[rows].mean()), "rows": len(rows)}
        for rows in bins
        if len(rows)
    ]


def evidence(
    holdout: pd.DataFrame,
    label: str,
    challenger: np.ndarray,
    champion: np.ndarray | None,
    *,
    slices: list[str],
    resamples: int,
    seed: int = 20130308,
) -> dict[str, object]:
    """What the gate needs to know, as plain data; see docs/guide.md for the keys."""
    positive = holdout[label].to_numpy().astype(bool)
    models = {"challenger": Scores(challenger, positive)}
    if champion is not None:
        models["champion"] = Scores(champion, positive)
    random, rows = np.random.default_rng(seed), len(positive)
    resampled: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for _ in range(0, resamples, 50):
        weights = random.multinomial(rows, np.full(rows, 1 / rows), size=50).astype(np.float32)
        for name, scores in models.items():
            resampled[name].append(scores.auc(weights))
    drawn = {name: np.concatenate(parts) for name, parts in resampled.items()}
    result: dict[str, object] = {
        "metric": "roc_auc",
        "rows": rows,
        "positives": int(positive.sum()),
        "confidence": CONFIDENCE,
        "resamples": resamples,
        "champion": None,
        "difference": None,
    }
    for name, scores in models.items():
        result[name] = {
            "value": finite(scores.auc()[0]),
            **interval(drawn[name]),
            "brier": float(np.mean((scores.probability - positive) ** 2)),
            "accuracy": float(np.mean((scores.probability >= THRESHOLD) == positive)),
            "calibration": calibration(scores.probability, positive),
        }
    if "champion" in models:
        difference = models["challenger"].auc()[0] - models["champion"].auc()[0]
        result["difference"] = {"value": finite(difference), **interval(drawn["challenger"] - drawn["champion"])}
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
                name: finite(Scores(scores.probability[rows], positive[rows]).auc()[0])
                for name, scores in models.items()
            }
            found.append({"column": column, "value": str(value), "rows": len(rows), **areas})
    return found


def positive_probability(model_folder: str, features: pd.DataFrame) -> np.ndarray:
    """The model's probability of the positive class, in the order of the rows."""
    model = mlflow.sklearn.load_model(model_folder)
    return np.asarray(model.predict_proba(features))[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("challenger", "champion", "champion-version", "holdout", "label", "evidence"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--slices", default="")
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()

    holdout = pd.read_parquet(arguments.holdout)
    if holdout.empty:
        raise SystemExit(f"the hold-out at {arguments.holdout} has no rows: was the partition exported?")
    features = holdout.drop(columns=[arguments.label])
    started = time.monotonic()
    challenger = positive_probability(arguments.challenger, features)
    seconds = time.monotonic() - started
    champion = None if arguments.champion_version == "none" else positive_probability(arguments.champion, features)
    slices = [name for name in arguments.slices.split(",") if name]
    result = evidence(holdout, arguments.label, challenger, champion, slices=slices, resamples=arguments.resamples)
    result["champion_version"] = None if champion is None else arguments.champion_version
    result["microseconds_per_row"] = 1e6 * seconds / len(holdout)

    folder = Path(arguments.evidence)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.json").write_text(json.dumps(result, indent=1))
    metrics = {"rows": float(len(holdout))}
    for name in ("challenger", "champion", "difference"):
        if isinstance(found := result[name], dict):
            metrics |= {f"{name}_{key}": found[key] for key in ("value", "low", "high") if found[key] is not None}
    mlflow.log_metrics(metrics)
    print(json.dumps({key: result[key] for key in ("rows", "positives", "difference")}), json.dumps(metrics))


if __name__ == "__main__":
    main()
