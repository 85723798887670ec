"""Writes a model that answers at random, as a training job gone wrong would: the right shape, and nothing learnt."""

import sys

import mlflow
from sklearn.dummy import DummyClassifier

guess = DummyClassifier(strategy="stratified").fit([[0]] * 4, [0, 0, 0, 1])
mlflow.sklearn.save_model(guess, sys.argv[1], pip_requirements=["scikit-learn"])
