"""Algorithms under Azure ML's names: a first configuration each, and FLAML's search from there.

FLAML supplies the search spaces and the search (CFO, https://arxiv.org/abs/2005.01571). Its zero-shot configurations
are made for
hours on many cores; the first configurations here are made for seconds on one or two.
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

from flaml import CFO  # noqa: E402
from flaml.automl import model as flaml_models  # noqa: E402
from flaml.automl.task.factory import task_factory  # noqa: E402
from sklearn import ensemble  # noqa: E402
from sklearn.linear_model import ElasticNet, LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

Config = dict[str, Any]


@dataclass(frozen=True)
class Learner:
    """One algorithm: `flaml` is FLAML's estimator, `first` the configuration to begin with, `build` makes the
    estimator.
    """

    name: str
    flaml: Any
    first: Config
    build: Callable[[Config, str, int], Any]


def _forest(kind: str) -> Callable[[Config, str, int], Any]:
    def build(config: Config, task: str, n_jobs: int) -> Any:
        wanted = {"n_estimators": int(config["n_estimators"]), "max_leaf_nodes": int(config["max_leaves"]),
                  "max_features": config["max_features"]}  # fmt: skip
        if task == "regression":
            return getattr(ensemble, f"{kind}Regressor")(**wanted, n_jobs=n_jobs, random_state=0)
        return getattr(ensemble, f"{kind}Classifier")(
            **wanted, criterion=config["criterion"], n_jobs=n_jobs, random_state=0
        )

    return build


def _logistic(config: Config, task: str, n_jobs: int) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=config["C"], max_iter=500))


def _elastic(config: Config, task: str, n_jobs: int) -> Any:
    model = ElasticNet(alpha=config["alpha"], l1_ratio=config["l1_ratio"], max_iter=2000, random_state=0)
    return make_pipeline(StandardScaler(), model)


def _lightgbm(config: Config, task: str, n_jobs: int) -> Any:
    from lightgbm import LGBMClassifier, LGBMRegressor

    wanted = dict(config)
    wanted["max_bin"] = (1 << int(wanted.pop("log_max_bin"))) - 1
    whole = {key: int(wanted[key]) for key in ("n_estimators", "num_leaves", "min_child_samples")}
    kind = LGBMRegressor if task == "regression" else LGBMClassifier
    # OpenMP's threads spin while they wait: beside anything else on the machine two are up to 25 times slower than one.
    return kind(**{**wanted, **whole}, n_jobs=1, random_state=0, verbose=-1)


def _xgboost(config: Config, task: str, n_jobs: int) -> Any:
    from xgboost import XGBClassifier, XGBRegressor

    wanted = dict(config)
    whole = {key: int(wanted[key]) for key in ("n_estimators", "max_leaves")}
    kind = XGBRegressor if task == "regression" else XGBClassifier
    fixed = {"max_depth": 0, "grow_policy": "lossguide", "tree_method": "hist", "verbosity": 0}
    return kind(**{**wanted, **whole, **fixed}, n_jobs=1, random_state=0)


_BOOSTED = {"n_estimators": 150, "learning_rate": 0.06, "reg_alpha": 0.001, "reg_lambda": 1.0, "colsample_bytree": 0.8}
_LIGHTGBM = {**_BOOSTED, "num_leaves": 31, "min_child_samples": 40, "log_max_bin": 8}
_XGBOOST = {**_BOOSTED, "max_leaves": 31, "min_child_weight": 5.0, "subsample": 0.9, "colsample_bylevel": 1.0}
_FOREST = {"n_estimators": 60, "max_features": 0.35, "max_leaves": 400, "criterion": "gini"}

LEARNERS: dict[str, Learner] = {
    learner.name: learner
    for learner in (
        Learner("LightGBM", flaml_models.LGBMEstimator, _LIGHTGBM, _lightgbm),
        Learner("XGBoostClassifier", flaml_models.XGBoostSklearnEstimator, _XGBOOST, _xgboost),
        Learner("XGBoostRegressor", flaml_models.XGBoostSklearnEstimator, _XGBOOST, _xgboost),
        Learner("RandomForest", flaml_models.RandomForestEstimator, _FOREST, _forest("RandomForest")),
        Learner(
            "ExtremeRandomTrees", flaml_models.ExtraTreesEstimator, {**_FOREST, "max_features": 0.6},
            _forest("ExtraTrees"),
        ),
        Learner("LogisticRegression", flaml_models.LRL2Classifier, {"C": 1.0}, _logistic),
        Learner("ElasticNet", flaml_models.ElasticNetEstimator, {"alpha": 0.1, "l1_ratio": 0.5}, _elastic),
    )
}  # fmt: skip


class Suggestions:
    """What to try next with one algorithm: its first configuration, then FLAML's suggestions from the best one."""

    def __init__(self, learner: Learner, task: str, rows: int, columns: int) -> None:
        self.learner = learner
        space = learner.flaml.search_space(data_size=(rows, columns), task=task_factory(task))
        self._space = {key: each["domain"] for key, each in space.items() if key in learner.first}
        cheap = {key: each["low_cost_init_value"] for key, each in space.items()
                 if "low_cost_init_value" in each and key in self._space}  # fmt: skip
        self._first = dict(learner.first)
        self._search = CFO(
            metric="loss", mode="min", space=self._space, low_cost_partial_config=cheap,
            points_to_evaluate=[{key: self._first[key] for key in self._space}], seed=0,
        )  # fmt: skip
        self._count = 0
        self._open: dict[str, Config] = {}  # what CFO suggested and hasn't been told about

    def next(self) -> tuple[str, Config] | None:
        """An id for `told`, and a configuration; None when there is nothing to suggest at the moment."""
        identifier = str(self._count)
        for _ in range(20):  # CFO answers None while it has to resample
            config = self._search.suggest(identifier)
            if config is not None:
                self._count += 1
                self._open[identifier] = config
                return identifier, {**self._first, **{key: _python(value) for key, value in config.items()}}
        return None

    def told(self, identifier: str, loss: float | None, seconds: float) -> None:
        """A trial's outcome; None if it failed."""
        config = {f"config/{key}": value for key, value in self._open.pop(identifier).items()}
        if loss is None:
            self._search.on_trial_complete(identifier, error=True)
        else:
            self._search.on_trial_complete(identifier, result={"loss": loss, "time_total_s": seconds, **config})


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
