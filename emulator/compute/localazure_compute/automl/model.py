"""The best estimator as an MLflow model: raw columns in, labels, numbers or forecasts out."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pandas as pd

from localazure_compute.automl import ensembles, features

_EXAMPLE_ROWS = 5
_ALWAYS = ("mlflow", "scikit-learn", "numpy", "pandas", "scipy", "cloudpickle")
_OF = {
    "LightGBM": ("lightgbm",),
    "LightGBMClassifier": ("lightgbm",),
    "LightGBMRegressor": ("lightgbm",),
    "XGBoostClassifier": ("xgboost-cpu", "xgboost"),
    "XGBoostRegressor": ("xgboost-cpu", "xgboost"),
    "ExponentialSmoothing": ("statsmodels",),
    "AutoArima": ("statsmodels",),
    "Arimax": ("statsmodels",),
}


def save(
    folder: Path,
    estimator: Any,
    *,
    example: pd.DataFrame,
    target: pd.Series,
    facts: dict[str, Any],
    algorithms: Iterable[str],
    modules: Iterable[ModuleType] = (),
) -> None:
    """Writes the model below `folder` (made anew).

    `example` are rows as they will be predicted for; `facts` become the model's metadata; `algorithms` are those that
    it is made of, `modules` of this package whose classes it uses.
    """
    import mlflow.sklearn
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    # The classes and functions inside the model travel with it: whoever loads it doesn't have this package.
    for module in (ensembles, features, *modules):
        cloudpickle.register_pickle_by_value(module)
    inputs = Schema(
        [ColSpec(_type(example[name]), name, required=not example[name].isna().any()) for name in example.columns]
    )
    outputs = Schema([ColSpec(_type(target))])
    shutil.rmtree(folder, ignore_errors=True)
    # MLflow warns of pickles; the estimators FLAML finds have no other format that keeps them whole.
    logging.getLogger("mlflow.sklearn").setLevel(logging.ERROR)
    mlflow.sklearn.save_model(
        estimator,
        str(folder),
        signature=ModelSignature(inputs, outputs),
        input_example=example.head(_EXAMPLE_ROWS),
        pip_requirements=_requirements(algorithms),
        serialization_format="cloudpickle",
        metadata=facts,
    )


def _type(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column):
        return "boolean"
    if pd.api.types.is_integer_dtype(column):
        return "long"
    if pd.api.types.is_float_dtype(column):
        return "double"
    return "datetime" if pd.api.types.is_datetime64_any_dtype(column) else "string"


def _requirements(algorithms: Iterable[str]) -> list[str]:
    """Exact versions, given explicitly: inferring them would import the model in another process for half a minute."""
    found = [f"{name}=={importlib.metadata.version(name)}" for name in _ALWAYS]
    for algorithm in algorithms:
        for name in _OF.get(algorithm, ()):
            try:
                found.append(f"{name}=={importlib.metadata.version(name)}")
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return list(dict.fromkeys(found))
