"""The best pipeline as an MLflow model: raw columns in, labels and probabilities out."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
from pathlib import Path
from typing import Any

import cloudpickle
import pandas as pd
from sklearn.pipeline import Pipeline

from localazure_compute.automl import features

_EXAMPLE_ROWS = 5
_ALWAYS = ("mlflow", "scikit-learn", "numpy", "pandas", "scipy", "cloudpickle")
_OF = {
    "LightGBM": ("lightgbm",),
    "XGBoostClassifier": ("xgboost-cpu", "xgboost"),
    "XGBoostRegressor": ("xgboost-cpu", "xgboost"),
}


def save(folder: Path, pipeline: Pipeline, frame: pd.DataFrame, target: pd.Series, facts: dict[str, Any]) -> None:
    """Writes the model below `folder` (made anew). `frame` has the used columns only; `facts` become its metadata."""
    import mlflow.sklearn
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    # The functions inside the pipeline travel with it: whoever loads the model doesn't have this package.
    cloudpickle.register_pickle_by_value(features)
    inputs = Schema(
        [ColSpec(_type(frame[name]), name, required=not frame[name].isna().any()) for name in frame.columns]
    )
    outputs = Schema([ColSpec(_type(target))])
    shutil.rmtree(folder, ignore_errors=True)
    # MLflow warns of pickles; the estimators FLAML finds have no other format that keeps them whole.
    logging.getLogger("mlflow.sklearn").setLevel(logging.ERROR)
    mlflow.sklearn.save_model(
        pipeline,
        str(folder),
        signature=ModelSignature(inputs, outputs),
        input_example=frame.head(_EXAMPLE_ROWS),
        pip_requirements=_requirements(str(facts["algorithm"])),
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


def _requirements(algorithm: str) -> list[str]:
    """Exact versions, given explicitly: inferring them would import the model in another process for half a minute."""
    found = []
    for name in _ALWAYS:
        found.append(f"{name}=={importlib.metadata.version(name)}")
    for name in _OF.get(algorithm, ()):
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
