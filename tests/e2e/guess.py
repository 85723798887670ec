"""Writes a model that answers at random, as a training job gone wrong would: the right shape, and no use."""

import sys

import mlflow
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Guess(ClassifierMixin, BaseEstimator):
    """Uniform noise, seeded by nothing."""

    def __init__(self) -> None:
        self.classes_ = np.array([0, 1])

    def predict_proba(self, rows):
        late = np.random.default_rng().random(len(rows))
        return np.column_stack([1 - late, late])

    def predict(self, rows):
        return self.predict_proba(rows)[:, 1] >= 0.5


if __name__ == "__main__":
    mlflow.sklearn.save_model(Guess(), sys.argv[1], pip_requirements=["scikit-learn"])
