"""Azure ML's metrics of a prediction, under its names.

https://learn.microsoft.com/azure/machine-learning/how-to-understand-automated-ml says how each is defined; what it
leaves open: the percentage error is in percent, over rows whose actual value isn't 0; logarithmic errors aren't defined
where an actual or predicted value is below 0; the names with `_binary` are there when the job names a positive label.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn import metrics as sk

# Smaller is better.
_ERRORS = frozenset(
    {"log_loss", "mean_absolute_percentage_error"}
    | {
        f"{kind}{name}"
        for kind in ("", "normalized_")
        for name in (
            "root_mean_squared_error", "mean_absolute_error", "median_absolute_error", "root_mean_squared_log_error",
        )
    }
)  # fmt: skip
_TINY = 1e-15


def loss(name: str, value: float) -> float:
    """What the search minimises."""
    return value if name in _ERRORS else -value


def lower_is_better(name: str) -> bool:
    return name in _ERRORS


@dataclass(frozen=True)
class Classified:
    """Codes 0..C-1 of the true classes, probabilities (rows x C), weights of rows, and the positive class' code."""

    actual: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray | None = None
    positive: int | None = None

    @cached_property
    def chosen(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @cached_property
    def onehot(self) -> np.ndarray:
        return (self.actual[:, None] == np.arange(self.probabilities.shape[1])[None, :]).astype(int)

    @cached_property
    def shares(self) -> np.ndarray:
        """Of each class among the rows."""
        each = np.ones(len(self.actual)) if self.weights is None else self.weights
        return (self.onehot * each[:, None]).sum(axis=0) / each.sum()

    @cached_property
    def judged(self) -> np.ndarray:
        """The classes that a curve can be drawn for: those that some rows have and some don't."""
        return np.flatnonzero((self.shares > 0) & (self.shares < 1))

    def labels(self, score: Callable[..., Any], average: str) -> float:
        """A score of the labels, averaged over the classes that are there."""
        kwargs = {"labels": np.unique(self.actual)} if average == "macro" else {}
        return float(
            score(self.actual, self.chosen, average=average, zero_division=0, sample_weight=self.weights, **kwargs)
        )

    def curve(self, score: Callable[..., Any], average: str) -> float | None:
        """A score of the probabilities: of each class against the rest, averaged. None with one class only."""
        if not len(self.judged):
            return None
        if average == "micro":
            weights = None if self.weights is None else np.repeat(self.weights, self.probabilities.shape[1])
            return float(score(self.onehot.ravel(), self.probabilities.ravel(), sample_weight=weights))
        each = [score(self.onehot[:, c], self.probabilities[:, c], sample_weight=self.weights) for c in self.judged]
        share = self.shares[self.judged] if average == "weighted" else None
        return float(np.average(each, weights=share))

    def binary(self, score: Callable[..., Any], labels: bool) -> float | None:
        """A score of the positive class; None if none is named or it isn't among the rows."""
        if self.positive is None or self.positive not in self.judged:
            return None
        actual = self.onehot[:, self.positive]
        if labels:
            guessed = (self.chosen == self.positive).astype(int)
            return float(score(actual, guessed, zero_division=0, sample_weight=self.weights))
        return float(score(actual, self.probabilities[:, self.positive], sample_weight=self.weights))


def _norm_macro_recall(view: Classified) -> float:
    chance = 1 / view.probabilities.shape[1]
    return max(0.0, (view.labels(sk.recall_score, "macro") - chance) / (1 - chance))


def _weighted_accuracy(view: Classified) -> float:
    """Each row counts as much as its class has rows."""
    each = view.shares[view.actual.astype(int)]
    each = each if view.weights is None else each * view.weights
    return float(np.average(view.chosen == view.actual, weights=each))


def _log_loss(view: Classified) -> float:
    found = np.clip(view.probabilities, _TINY, 1)
    found = found / found.sum(axis=1, keepdims=True)
    return float(sk.log_loss(view.actual, found, labels=np.arange(found.shape[1]), sample_weight=view.weights))


_AVERAGES = ("macro", "micro", "weighted")
_LABEL_SCORES = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
_CURVE_SCORES = {"AUC": sk.roc_auc_score, "average_precision_score": sk.average_precision_score}
CLASSIFICATION: dict[str, Callable[[Classified], float | None]] = {
    "accuracy": lambda v: sk.accuracy_score(v.actual, v.chosen, sample_weight=v.weights),
    "balanced_accuracy": lambda v: v.labels(sk.recall_score, "macro"),
    "weighted_accuracy": _weighted_accuracy,
    "norm_macro_recall": _norm_macro_recall,
    "matthews_correlation": lambda v: sk.matthews_corrcoef(v.actual, v.chosen, sample_weight=v.weights),
    "log_loss": _log_loss,
}
for _average in _AVERAGES:
    for _name, _score in _LABEL_SCORES.items():
        CLASSIFICATION[f"{_name}_score_{_average}"] = lambda v, s=_score, a=_average: v.labels(s, a)
    for _name, _score in _CURVE_SCORES.items():
        CLASSIFICATION[f"{_name}_{_average}"] = lambda v, s=_score, a=_average: v.curve(s, a)
for _name, _score in _LABEL_SCORES.items():
    CLASSIFICATION[f"{_name}_score_binary"] = lambda v, s=_score: v.binary(s, True)
for _name, _score in _CURVE_SCORES.items():
    CLASSIFICATION[f"{_name}_binary"] = lambda v, s=_score: v.binary(s, False)


@dataclass(frozen=True)
class Estimated:
    """Numbers and what was predicted. `spread` is the target's range over the training data."""

    actual: np.ndarray
    predicted: np.ndarray
    spread: float
    weights: np.ndarray | None = None

    @cached_property
    def logarithms(self) -> tuple[np.ndarray, np.ndarray] | None:
        if min(self.actual.min(initial=0), self.predicted.min(initial=0)) < 0:
            return None
        return np.log1p(self.actual), np.log1p(self.predicted)

    def normalized(self, value: float | None) -> float | None:
        return None if value is None or not self.spread else value / self.spread


def _percentage_error(view: Estimated) -> float | None:
    known = view.actual != 0
    if not known.any():
        return None
    share = np.abs((view.actual[known] - view.predicted[known]) / view.actual[known])
    return 100 * float(np.average(share, weights=None if view.weights is None else view.weights[known]))


def _r2(view: Estimated) -> float | None:
    if len(view.actual) < 2:  # noqa: PLR2004
        return None
    # The service reports nothing below -1.
    return max(-1.0, sk.r2_score(view.actual, view.predicted, sample_weight=view.weights))


def _spearman(view: Estimated) -> float:
    varied = len(view.actual) > 1 and np.ptp(view.actual) > 0 and np.ptp(view.predicted) > 0
    return float(spearmanr(view.actual, view.predicted).statistic) if varied else 0.0


def _root_log(view: Estimated) -> float | None:
    if view.logarithms is None:
        return None
    return float(np.sqrt(sk.mean_squared_error(*view.logarithms, sample_weight=view.weights)))


_PLAIN_ERRORS: dict[str, Callable[[Estimated], float | None]] = {
    "root_mean_squared_error": lambda v: sk.root_mean_squared_error(v.actual, v.predicted, sample_weight=v.weights),
    "mean_absolute_error": lambda v: sk.mean_absolute_error(v.actual, v.predicted, sample_weight=v.weights),
    "median_absolute_error": lambda v: sk.median_absolute_error(v.actual, v.predicted, sample_weight=v.weights),
    "root_mean_squared_log_error": _root_log,
}
REGRESSION: dict[str, Callable[[Estimated], float | None]] = {
    "r2_score": _r2,
    "explained_variance": lambda v: sk.explained_variance_score(v.actual, v.predicted, sample_weight=v.weights),
    "spearman_correlation": _spearman,
    "mean_absolute_percentage_error": _percentage_error,
    **_PLAIN_ERRORS,
}
for _name, _error in _PLAIN_ERRORS.items():
    REGRESSION[f"normalized_{_name}"] = lambda v, e=_error: v.normalized(e(v))


def classification(view: Classified, only: str | None = None) -> dict[str, float]:
    """Every metric, or one. What isn't defined for these rows (one class only) is left out."""
    return _all(CLASSIFICATION, view, only)


def regression(view: Estimated, only: str | None = None) -> dict[str, float]:
    """Every metric, or one."""
    return _all(REGRESSION, view, only)


def forecasting(
    actual: np.ndarray, predicted: np.ndarray, series: np.ndarray, spreads: Mapping[int, float], only: str | None = None
) -> dict[str, float]:
    """As regression's, but normalized errors are each series' own, and their mean is told.

    `series` is each row's series, `spreads` its target's range over the training data.
    https://learn.microsoft.com/azure/machine-learning/how-to-understand-automated-ml#metric-normalization
    """
    plain = [name for name in REGRESSION if not name.startswith("normalized_")]
    wanted = {name: REGRESSION[name] for name in plain if only in (None, name)}
    found = _all(wanted, Estimated(actual, predicted, 0.0), None)
    for name, error in REGRESSION.items():
        if name.startswith("normalized_") and only in (None, name):
            each = []
            for number in np.unique(series):
                rows = series == number
                view = Estimated(actual[rows], predicted[rows], spreads.get(int(number), 0.0))
                each += list(_all({name: error}, view, None).values())
            if each:
                found[name] = float(np.mean(each))
    return found


def _all(table: Mapping[str, Callable[[Any], float | None]], view: Any, only: str | None) -> dict[str, float]:
    found: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, compute in table.items():
            if only is None or name == only:
                value = compute(view)
                if value is not None and np.isfinite(value):
                    found[name] = float(value)
    return found
