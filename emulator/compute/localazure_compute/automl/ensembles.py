"""Models made of models: weighted votes found by greedy selection, and a model of the models' predictions.

Caruana et al., Ensemble selection from libraries of models (2004), as the service does:
https://learn.microsoft.com/azure/machine-learning/how-to-configure-auto-train#ensemble
The classes travel inside saved models: nothing in them refers to this package.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

VOTING, STACK = "VotingEnsemble", "StackEnsemble"
_ROUNDS = 15
_ENOUGH = 1e-6


def select(members: list[list[np.ndarray]], loss: Callable[[list[np.ndarray]], float], deadline: float) -> list[float]:
    """Each member's weight (they sum to 1): the best one, then again and again whichever helps most.

    `members` are predictions by split. Ends when nothing helps any more, or at `deadline` (time.monotonic()).
    """
    counts = np.zeros(len(members))
    best, total = np.inf, [np.zeros_like(part, dtype=float) for part in members[0]]
    for size in range(1, _ROUNDS + 1):
        losses = []
        for member in members:
            if time.monotonic() > deadline and counts.any():
                return list(counts / counts.sum())
            losses.append(loss([(old + new) / size for old, new in zip(total, member, strict=True)]))
        place = int(np.argmin(losses))
        if losses[place] > best - _ENOUGH and counts.any():
            break
        best = losses[place]
        counts[place] += 1
        total = [old + new for old, new in zip(total, members[place], strict=True)]
    return list(counts / counts.sum())


def blend(members: list[list[np.ndarray]], weights: list[float]) -> list[np.ndarray]:
    """The weighted mean of the members' predictions, by split."""
    return [
        np.asarray(sum(weight * member[part] for member, weight in zip(members, weights, strict=True)))
        for part in range(len(members[0]))
    ]


def meta_features(predictions: list[np.ndarray]) -> np.ndarray:
    """What the model of the models is fitted on: numbers, or probabilities of all classes but the last."""
    return np.column_stack([each if each.ndim == 1 else each[:, :-1] for each in predictions])


class VotingClassifier(ClassifierMixin, BaseEstimator):
    """Weighted means of fitted classifiers' probabilities. They know codes; `classes_` are the labels."""

    def __init__(self, estimators: list[Any], weights: list[float], classes: np.ndarray) -> None:
        self.estimators = estimators
        self.weights = weights
        self.classes = classes
        self.classes_ = classes

    def fit(self, matrix: np.ndarray, target: np.ndarray) -> Any:
        """Fits the members again, to labels; a meta learner stays as it is."""
        codes = np.searchsorted(self.classes, target)
        self.estimators = [each.fit(matrix, codes) for each in self.estimators]
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, matrix: np.ndarray) -> np.ndarray:
        return sum(  # type: ignore[no-any-return]
            weight * each.predict_proba(matrix) for each, weight in zip(self.estimators, self.weights, strict=True)
        )

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(matrix).argmax(axis=1)]


class VotingRegressor(RegressorMixin, BaseEstimator):
    """Weighted means of fitted regressors' predictions."""

    def __init__(self, estimators: list[Any], weights: list[float]) -> None:
        self.estimators = estimators
        self.weights = weights

    def fit(self, matrix: np.ndarray, target: np.ndarray) -> Any:
        """Fits the members again; a meta learner stays as it is."""
        self.estimators = [each.fit(matrix, target) for each in self.estimators]
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return sum(  # type: ignore[no-any-return]
            weight * each.predict(matrix) for each, weight in zip(self.estimators, self.weights, strict=True)
        )


class StackClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of fitted classifiers' probabilities."""

    def __init__(self, estimators: list[Any], meta: Any, classes: np.ndarray) -> None:
        self.estimators = estimators
        self.meta = meta
        self.classes = classes
        self.classes_ = classes

    def fit(self, matrix: np.ndarray, target: np.ndarray) -> Any:
        """Fits the members again, to labels; a meta learner stays as it is."""
        codes = np.searchsorted(self.classes, target)
        self.estimators = [each.fit(matrix, codes) for each in self.estimators]
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, matrix: np.ndarray) -> np.ndarray:
        below = np.column_stack([each.predict_proba(matrix)[:, :-1] for each in self.estimators])
        return self.meta.predict_proba(below)  # type: ignore[no-any-return]

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(matrix).argmax(axis=1)]


class StackRegressor(RegressorMixin, BaseEstimator):
    """A regressor of fitted regressors' predictions."""

    def __init__(self, estimators: list[Any], meta: Any) -> None:
        self.estimators = estimators
        self.meta = meta

    def fit(self, matrix: np.ndarray, target: np.ndarray) -> Any:
        """Fits the members again; a meta learner stays as it is."""
        self.estimators = [each.fit(matrix, target) for each in self.estimators]
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        below = np.column_stack([each.predict(matrix) for each in self.estimators])
        return self.meta.predict(below)  # type: ignore[no-any-return]
