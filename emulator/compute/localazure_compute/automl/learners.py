"""Algorithms under Azure ML's names: a first configuration each, and FLAML's search from there.

FLAML supplies the search (CFO, https://arxiv.org/abs/2005.01571) and, for boosting and forests, the search spaces. Its
zero-shot configurations are made for hours on many cores; the first configurations here are made for seconds on one or
two. Gradient boosting is scikit-learn's over histograms, which takes seconds where the service's takes minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# FLAML imports pyspark if it is there, which costs a second and is of no use here.
for _module in ("pyspark", "pyspark.pandas"):
    sys.modules.setdefault(_module, None)  # type: ignore[arg-type]

from flaml import CFO, tune  # noqa: E402
from flaml.automl import model as flaml_models  # noqa: E402
from flaml.automl.task.factory import task_factory  # noqa: E402
from sklearn import ensemble, linear_model, naive_bayes, neighbors, svm, tree  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.pipeline import Pipeline  # noqa: E402
from sklearn.preprocessing import MinMaxScaler, StandardScaler  # noqa: E402

Config = dict[str, Any]
_REGRESSION = "regression"
# Rows from which an algorithm whose time grows with their square isn't tried unless it is named.
MANY_ROWS = 20_000


@dataclass(frozen=True)
class Learner:
    """One algorithm: the configuration to begin with, `build` for (configuration, task, threads), and where to go on.

    `space` is FLAML's estimator that has a search space, or the space itself. `scaler` is what the service would call
    the trial's preprocessor. `weighted` says whether rows can weigh differently, `quadratic` that its time grows with
    the rows' square.
    """

    name: str
    first: Config
    build: Callable[[Config, str, int], Any]
    space: Any
    scaler: str = ""
    weighted: bool = True
    quadratic: bool = False


def _scaled(model: Any, scaler: Any = None) -> Pipeline:
    return Pipeline([("scale", scaler or StandardScaler()), ("model", model)])


def _either(classifier: type[Any], regressor: type[Any], **fixed: Any) -> Callable[[Config, str, int], Any]:
    """A tree of scikit-learn's, whose configurations are its own arguments; `criterion` is for classes only."""

    def build(config: Config, task: str, n_jobs: int) -> Any:
        wanted = {key: value for key, value in config.items() if key != "criterion" or task != _REGRESSION}
        return (regressor if task == _REGRESSION else classifier)(**{**wanted, **fixed}, random_state=0)

    return build


def _forest(kind: str) -> Callable[[Config, str, int], Any]:
    def build(config: Config, task: str, n_jobs: int) -> Any:
        wanted = {"n_estimators": int(config["n_estimators"]), "max_leaf_nodes": int(config["max_leaves"]),
                  "max_features": config["max_features"]}  # fmt: skip
        if task == _REGRESSION:
            return getattr(ensemble, f"{kind}Regressor")(**wanted, n_jobs=n_jobs, random_state=0)
        return getattr(ensemble, f"{kind}Classifier")(
            **wanted, criterion=config["criterion"], n_jobs=n_jobs, random_state=0
        )

    return build


def _lightgbm(config: Config, task: str, n_jobs: int) -> Any:
    from lightgbm import LGBMClassifier, LGBMRegressor

    wanted = dict(config)
    wanted["max_bin"] = (1 << int(wanted.pop("log_max_bin"))) - 1
    whole = {key: int(wanted[key]) for key in ("n_estimators", "num_leaves", "min_child_samples")}
    kind = LGBMRegressor if task == _REGRESSION else LGBMClassifier
    # OpenMP's threads spin while they wait: beside anything else on the machine two are up to 25 times slower than one.
    return kind(**{**wanted, **whole}, n_jobs=1, random_state=0, verbose=-1)


def _xgboost(config: Config, task: str, n_jobs: int) -> Any:
    from xgboost import XGBClassifier, XGBRegressor

    wanted = dict(config)
    whole = {key: int(wanted[key]) for key in ("n_estimators", "max_leaves")}
    kind = XGBRegressor if task == _REGRESSION else XGBClassifier
    fixed = {"max_depth": 0, "grow_policy": "lossguide", "tree_method": "hist", "verbosity": 0}
    return kind(**{**wanted, **whole, **fixed}, n_jobs=1, random_state=0)


def _logistic(config: Config, task: str, n_jobs: int) -> Any:
    return _scaled(linear_model.LogisticRegression(C=config["C"], max_iter=500))


def _elastic(config: Config, task: str, n_jobs: int) -> Any:
    return _scaled(
        linear_model.ElasticNet(alpha=config["alpha"], l1_ratio=config["l1_ratio"], max_iter=2000, random_state=0)
    )


def _lasso_lars(config: Config, task: str, n_jobs: int) -> Any:
    return _scaled(linear_model.LassoLars(alpha=config["alpha"], max_iter=500))


def _sgd(config: Config, task: str, n_jobs: int) -> Any:
    fixed = {"alpha": config["alpha"], "max_iter": 200, "early_stopping": True, "random_state": 0}
    if task == _REGRESSION:
        return _scaled(linear_model.SGDRegressor(**fixed))
    return _scaled(linear_model.SGDClassifier(loss=config["loss"], **fixed))


def _neighbours(config: Config, task: str, n_jobs: int) -> Any:
    kind = neighbors.KNeighborsRegressor if task == _REGRESSION else neighbors.KNeighborsClassifier
    return _scaled(kind(n_neighbors=int(config["n_neighbors"]), weights=config["weights"], n_jobs=n_jobs))


def _bernoulli(config: Config, task: str, n_jobs: int) -> Any:
    return _scaled(naive_bayes.BernoulliNB(alpha=config["alpha"]))


def _multinomial(config: Config, task: str, n_jobs: int) -> Any:
    return _scaled(naive_bayes.MultinomialNB(alpha=config["alpha"]), MinMaxScaler(clip=True))


def _svm(config: Config, task: str, n_jobs: int) -> Any:
    """Its distances from the border made probabilities, which metrics and ensembles need."""
    machine = svm.SVC(C=config["C"], gamma="scale", random_state=0)
    return _scaled(CalibratedClassifierCV(machine, ensemble=False, cv=3))


def _linear_svm(config: Config, task: str, n_jobs: int) -> Any:
    machine = svm.LinearSVC(C=config["C"], random_state=0)
    return _scaled(CalibratedClassifierCV(machine, ensemble=False, cv=3))


_BOOSTED = {"n_estimators": 150, "learning_rate": 0.06, "reg_alpha": 0.001, "reg_lambda": 1.0, "colsample_bytree": 0.8}
_LIGHTGBM = {**_BOOSTED, "num_leaves": 31, "min_child_samples": 40, "log_max_bin": 8}
_XGBOOST = {**_BOOSTED, "max_leaves": 31, "min_child_weight": 5.0, "subsample": 0.9, "colsample_bylevel": 1.0}
_FOREST = {"n_estimators": 60, "max_features": 0.35, "max_leaves": 400, "criterion": "gini"}
_GRADIENT = {"max_iter": 120, "learning_rate": 0.08, "max_leaf_nodes": 31, "l2_regularization": 0.1}
_TREE = {"max_leaf_nodes": 64, "min_samples_leaf": 20}
_STRENGTH = {"C": tune.loguniform(1e-3, 1e3)}

LEARNERS: dict[str, Learner] = {
    learner.name: learner
    for learner in (
        Learner("LightGBM", _LIGHTGBM, _lightgbm, flaml_models.LGBMEstimator),
        Learner("XGBoostClassifier", _XGBOOST, _xgboost, flaml_models.XGBoostSklearnEstimator),
        Learner("XGBoostRegressor", _XGBOOST, _xgboost, flaml_models.XGBoostSklearnEstimator),
        Learner("RandomForest", _FOREST, _forest("RandomForest"), flaml_models.RandomForestEstimator),
        Learner(
            "ExtremeRandomTrees", {**_FOREST, "max_features": 0.6}, _forest("ExtraTrees"),
            flaml_models.ExtraTreesEstimator,
        ),
        Learner(
            "GradientBoosting", _GRADIENT,
            _either(ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor),
            {"max_iter": tune.lograndint(30, 600), "learning_rate": tune.loguniform(0.01, 0.5),
             "max_leaf_nodes": tune.lograndint(4, 256), "l2_regularization": tune.loguniform(1e-4, 100)},
        ),
        Learner(
            "DecisionTree", _TREE, _either(tree.DecisionTreeClassifier, tree.DecisionTreeRegressor),
            {"max_leaf_nodes": tune.lograndint(4, 2000), "min_samples_leaf": tune.lograndint(1, 200)},
        ),
        Learner("LogisticRegression", {"C": 1.0}, _logistic, _STRENGTH, "StandardScalerWrapper"),
        Learner("LinearSVM", {"C": 0.1}, _linear_svm, _STRENGTH, "StandardScalerWrapper"),
        Learner("SVM", {"C": 1.0}, _svm, _STRENGTH, "StandardScalerWrapper", quadratic=True),
        Learner(
            "SGD", {"alpha": 1e-4, "loss": "log_loss"}, _sgd,
            {"alpha": tune.loguniform(1e-6, 1.0), "loss": tune.choice(["log_loss", "modified_huber"])},
            "StandardScalerWrapper",
        ),
        Learner(
            "ElasticNet", {"alpha": 0.1, "l1_ratio": 0.5}, _elastic,
            {"alpha": tune.loguniform(1e-4, 10), "l1_ratio": tune.uniform(0.01, 1.0)}, "StandardScalerWrapper",
        ),
        Learner(
            "LassoLars", {"alpha": 0.01}, _lasso_lars, {"alpha": tune.loguniform(1e-5, 10)}, "StandardScalerWrapper",
            weighted=False,
        ),
        Learner(
            "KNN", {"n_neighbors": 15, "weights": "distance"}, _neighbours,
            {"n_neighbors": tune.lograndint(1, 100), "weights": tune.choice(["uniform", "distance"])},
            "StandardScalerWrapper", weighted=False, quadratic=True,
        ),
        Learner(
            "BernoulliNaiveBayes", {"alpha": 1.0}, _bernoulli, {"alpha": tune.loguniform(1e-3, 10)},
            "StandardScalerWrapper",
        ),
        Learner(
            "MultinomialNaiveBayes", {"alpha": 1.0}, _multinomial, {"alpha": tune.loguniform(1e-3, 10)},
            "MinMaxScaler",
        ),
    )
}  # fmt: skip


def fit(estimator: Any, matrix: np.ndarray, target: np.ndarray, weights: np.ndarray | None) -> Any:
    """Fits, rows weighing differently where `weights` says so."""
    if weights is None:
        return estimator.fit(matrix, target)
    if isinstance(estimator, Pipeline):
        return estimator.fit(matrix, target, **{f"{estimator.steps[-1][0]}__sample_weight": weights})
    return estimator.fit(matrix, target, sample_weight=weights)


class Suggestions:
    """What to try next with one algorithm: its first configuration, then FLAML's suggestions from the best one."""

    def __init__(self, first: Config, space: Any, task: str, rows: int, columns: int) -> None:
        self._first = dict(first)
        cheap: Config = {}
        if isinstance(space, dict):
            self._space = space
        else:
            known = space.search_space(data_size=(rows, columns), task=task_factory(task))
            self._space = {key: each["domain"] for key, each in known.items() if key in first}
            cheap = {key: each["low_cost_init_value"] for key, each in known.items()
                     if "low_cost_init_value" in each and key in self._space}  # fmt: skip
        self._search = (
            CFO(
                metric="loss", mode="min", space=self._space, low_cost_partial_config=cheap,
                points_to_evaluate=[{key: self._first[key] for key in self._space}], seed=0,
            )
            if self._space
            else None
        )  # fmt: skip
        self._count = 0
        self._open: dict[str, Config] = {}  # what CFO suggested and hasn't been told about

    def next(self) -> tuple[str, Config] | None:
        """An id for `told`, and a configuration; None when there is nothing to suggest (at the moment)."""
        identifier = str(self._count)
        if self._search is None:  # nothing to choose: tried once
            self._count += 1
            return (identifier, dict(self._first)) if self._count == 1 else None
        for _ in range(20):  # CFO answers None while it has to resample
            config = self._search.suggest(identifier)
            if config is not None:
                self._count += 1
                self._open[identifier] = config
                return identifier, {**self._first, **{key: _python(value) for key, value in config.items()}}
        return None

    def told(self, identifier: str, loss: float | None, seconds: float) -> None:
        """A trial's outcome; None if it failed."""
        if self._search is None:
            return
        config = {f"config/{key}": value for key, value in self._open.pop(identifier).items()}
        if loss is None:
            self._search.on_trial_complete(identifier, error=True)
        else:
            self._search.on_trial_complete(identifier, result={"loss": loss, "time_total_s": seconds, **config})


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
