"""Azure ML's metrics of a prediction. https://learn.microsoft.com/azure/machine-learning/how-to-understand-automated-ml"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn import metrics as sk

# Smaller is better.
_ERRORS = frozenset({"normalized_root_mean_squared_error", "normalized_mean_absolute_error", "log_loss"})


def loss(name: str, value: float) -> float:
    """What the search minimises."""
    return value if name in _ERRORS else -value


def score(task: str, actual: np.ndarray, predicted: np.ndarray, spread: float = 0.0) -> dict[str, float]:
    """Every metric of the task. Classification: codes 0..C-1 and probabilities (rows x C); regression: numbers.

    `spread` is the target's range over the training data, for normalised errors. A metric that isn't defined for this
    data (one class only) is left out.
    """
    found = _classification(actual, predicted) if task == "Classification" else _regression(actual, predicted, spread)
    return {name: float(value) for name, value in found.items() if value is not None and np.isfinite(value)}


def _classification(actual: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    classes = probabilities.shape[1]
    codes = np.arange(classes)
    chosen = probabilities.argmax(axis=1)
    present = np.unique(actual)
    onehot = (actual[:, None] == codes[None, :]).astype(int)
    weights = onehot.sum(axis=0) / len(actual)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recall = sk.recall_score(actual, chosen, labels=present, average="macro", zero_division=0)
        chance = 1 / classes
        found: dict[str, Any] = {
            "accuracy": sk.accuracy_score(actual, chosen),
            "balanced_accuracy": recall,
            "norm_macro_recall": max(0.0, (recall - chance) / (1 - chance)),
            "precision_score_weighted": sk.precision_score(actual, chosen, average="weighted", zero_division=0),
            "recall_score_weighted": sk.recall_score(actual, chosen, average="weighted", zero_division=0),
            "f1_score_weighted": sk.f1_score(actual, chosen, average="weighted", zero_division=0),
            "f1_score_macro": sk.f1_score(actual, chosen, average="macro", zero_division=0),
            "matthews_correlation": sk.matthews_corrcoef(actual, chosen),
            "log_loss": sk.log_loss(actual, np.clip(probabilities, 1e-15, 1), labels=codes),
        }
        if len(present) > 1:
            each = [
                sk.roc_auc_score(onehot[:, c], probabilities[:, c]) if 0 < weights[c] < 1 else np.nan for c in codes
            ]
            precision = [
                sk.average_precision_score(onehot[:, c], probabilities[:, c]) if weights[c] else np.nan for c in codes
            ]
            found |= {
                "AUC_weighted": np.nansum(np.array(each) * weights) / weights[~np.isnan(each)].sum(),
                "AUC_macro": np.nanmean(each),
                "average_precision_score_weighted": np.nansum(np.array(precision) * weights),
                "average_precision_score_macro": np.nanmean(precision),
            }
    return found


def _regression(actual: np.ndarray, predicted: np.ndarray, spread: float) -> dict[str, Any]:
    root = float(np.sqrt(sk.mean_squared_error(actual, predicted)))
    absolute = sk.mean_absolute_error(actual, predicted)
    varied = len(actual) > 1 and np.ptp(actual) > 0 and np.ptp(predicted) > 0
    return {
        "r2_score": sk.r2_score(actual, predicted) if len(actual) > 1 else None,
        "explained_variance": sk.explained_variance_score(actual, predicted),
        "mean_absolute_error": absolute,
        "root_mean_squared_error": root,
        "normalized_root_mean_squared_error": root / spread if spread else None,
        "normalized_mean_absolute_error": absolute / spread if spread else None,
        "spearman_correlation": spearmanr(actual, predicted).statistic if varied else 0.0,
    }
