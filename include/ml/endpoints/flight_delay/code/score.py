"""Scores flights on an online endpoint: loads the MLflow model below AZUREML_MODEL_DIR, answers probabilities.

Request (JSON), one of

    {"data": [{"carrier": "UA", "origin": "EWR", ...}, ...]}                         a record a flight
    {"input_data": {"columns": [...], "index": [...], "data": [[...], ...]}}         as MLflow's own servers take it

Response: `{"predictions": [{"probability": 0.31, "late": false}, ...]}`, in the order of the rows. What can't be
understood is answered with 400 and a message that names the column. Features that the model doesn't know are ignored;
one that was never missing in training must be there; null is a missing value.

Contract of init() and run(): https://learn.microsoft.com/azure/machine-learning/how-to-deploy-online-endpoints
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import flask
import pandas as pd
import yaml
from azureml_inference_server_http.api.aml_response import AMLResponse

MAX_ROWS = 10_000
#: How the id of a request begins that the roll-out sends: no caller's, not to be watched for drift.
PROBE_ID = "azflow-probe-"

logger = logging.getLogger("score")

_model: Any = None
_schema: dict[str, str] = {}  # column -> MLflow type; empty if the model was saved without a signature
_required: frozenset[str] = frozenset()
_positive = 1  # position of the positive class in predict_proba
_threshold = 0.5
_collectors: tuple[Any, ...] = ()  # of what came and what was answered; empty where the deployment collects nothing


class BadRequest(Exception):
    """The caller's mistake; the message goes back to the caller."""


def init() -> None:
    """Load the model once, when the server starts. An exception here fails the deployment."""
    global _model, _schema, _required, _positive, _threshold, _collectors  # the contract of a scoring script
    folder = model_folder(Path(os.environ["AZUREML_MODEL_DIR"]))
    described = yaml.safe_load((folder / "MLmodel").read_text())
    columns = signature_of(described)
    _schema = {column["name"]: str(column.get("type", "string")) for column in columns}
    _required = frozenset(column["name"] for column in columns if column.get("required", True))
    _model = load(folder, described)
    classes = [str(value).lower() for value in getattr(_model, "classes_", [0, 1])]
    binary = len(classes) == len((False, True))
    if not binary or not hasattr(_model, "predict_proba"):
        raise ValueError(f"{folder} holds no binary classifier with predict_proba (classes: {classes})")
    _positive = next((i for i, value in enumerate(classes) if value in {"1", "1.0", "true"}), 1)
    one_thread(_model)
    _threshold = float(os.environ.get("LATE_THRESHOLD", "0.5"))
    # The first prediction builds caches and starts thread pools: let it not be a caller's.
    if _schema:
        try:
            predict([dict.fromkeys(_schema)] * 2)
        except Exception as error:  # a model without support for missing values is still a good model
            logger.info("warm-up skipped: %s", error)
    _collectors = collectors()
    logger.info("model loaded from %s: %d features", folder, len(_schema))


def run(data: str) -> Any:
    """Score one request. Called by the server with the body of the request."""
    try:
        rows = rows_of(data)
        predictions = predict(rows)
        if _collectors and not is_probe():
            collect(rows, predictions)
        return {"predictions": predictions}
    except BadRequest as error:
        return AMLResponse({"error": {"code": "BadRequest", "message": str(error)}}, 400, json_str=True)


def collectors() -> tuple[Any, ...]:
    """Azure ML's collectors of inputs and outputs, where the deployment has a `data_collector`; else none.

    https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data
    """
    if not os.environ.get("AZUREML_MDC_CONFIG_PATH"):
        return ()
    from azureml.ai.monitoring import Collector

    def lost(error: Exception) -> None:
        logger.warning("not collected: %s", error)  # a prediction is worth more than its record

    return tuple(Collector(name=name, on_error=lost) for name in ("model_inputs", "model_outputs"))


def is_probe() -> bool:
    """Whether the roll-out asks: it says so in the request's id (the server's requests are Flask's)."""
    return flask.has_request_context() and flask.request.headers.get("x-ms-client-request-id", "").startswith(PROBE_ID)


def collect(rows: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> None:
    """Hand a request's rows and answers to the collectors, which send them from a thread of their own."""
    inputs, outputs = _collectors
    context = inputs.collect(pd.DataFrame(rows))
    outputs.collect(pd.DataFrame(predictions), context)


def model_folder(root: Path) -> Path:
    """The folder that holds the file MLmodel. Azure keeps the registered folder's name below `root`."""
    found = sorted(root.glob("MLmodel")) or sorted(root.glob("*/MLmodel")) or sorted(root.rglob("MLmodel"))
    if not found:
        there = ", ".join(sorted(str(p.relative_to(root)) for p in root.rglob("*"))[:20]) or "nothing"
        raise FileNotFoundError(f"no MLflow model below {root}: there is {there}")
    return found[0].parent


def signature_of(described: dict[str, Any]) -> list[dict[str, Any]]:
    """The model's input columns (name, type, required), in order: https://mlflow.org/docs/latest/ml/model/signatures"""
    inputs = (described.get("signature") or {}).get("inputs")
    return [column for column in json.loads(inputs or "[]") if "name" in column]


def load(folder: Path, described: dict[str, Any]) -> Any:
    """The estimator. A pickled scikit-learn flavour is loaded without importing MLflow, which takes seconds."""
    flavor = described["flavors"].get("sklearn")
    if flavor and flavor.get("serialization_format") in {"pickle", "cloudpickle"} and not flavor.get("code"):
        import cloudpickle

        with (folder / flavor["pickled_model"]).open("rb") as file:
            return cloudpickle.load(file)  # our own registry's model
    if flavor:
        import mlflow.sklearn

        return mlflow.sklearn.load_model(str(folder))
    if "lightgbm" in described["flavors"]:
        import mlflow.lightgbm

        return mlflow.lightgbm.load_model(str(folder))
    if "python_function" not in described["flavors"]:
        raise ValueError(f"{folder}: flavours {sorted(described['flavors'])} can't be scored here; log it with sklearn")
    import mlflow.pyfunc

    loaded = mlflow.pyfunc.load_model(str(folder))
    # AutoML's wrappers keep the estimator, which has the probabilities that predict() drops.
    raw = loaded.get_raw_model() if hasattr(loaded, "get_raw_model") else loaded.unwrap_python_model()
    return raw


def one_thread(model: Any) -> None:
    """Let every step of a scikit-learn model predict on one thread: starting a pool costs more than a few rows do."""
    if hasattr(model, "get_params"):
        model.set_params(**{name: 1 for name in model.get_params() if name.rpartition("__")[2] == "n_jobs"})


def rows_of(body: str) -> list[dict[str, Any]]:
    """The rows of a request's body. Raises BadRequest."""
    try:
        request = json.loads(body)
    except ValueError as error:
        raise BadRequest(f"the body isn't JSON: {error}") from None
    if not isinstance(request, dict):
        raise BadRequest('the body must be an object with "data" or "input_data"')
    if "input_data" in request:
        rows = rows_of_split(request["input_data"])
    elif "data" in request:
        rows = request["data"]
    else:
        raise BadRequest(f'neither "data" nor "input_data" in the body; there is {sorted(request)}')
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadRequest('"data" must be a list of objects, one a flight: {"data": [{"carrier": "UA", ...}]}')
    if not rows:
        raise BadRequest("no rows to score")
    if len(rows) > MAX_ROWS:
        raise BadRequest(f"{len(rows)} rows in one request; at most {MAX_ROWS}. A batch endpoint is for more")
    return rows


def rows_of_split(split: Any) -> list[dict[str, Any]]:
    """Records from MLflow's {"columns", "index", "data"} or from a list of records. Raises BadRequest."""
    if isinstance(split, list):
        return split
    if not isinstance(split, dict) or not isinstance(split.get("data"), list):
        raise BadRequest('"input_data" must be {"columns": [...], "data": [[...], ...]}')
    columns = split.get("columns") or list(_schema)
    for position, values in enumerate(split["data"]):
        if not isinstance(values, list) or len(values) != len(columns):
            raise BadRequest(f"row {position} of input_data has not {len(columns)} values, one a column")
    return [dict(zip(columns, values, strict=True)) for values in split["data"]]


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as the model wants them: its columns, in its order, with its types. Raises BadRequest."""
    if not _schema:
        return pd.DataFrame(rows)
    for position, row in enumerate(rows):
        if missing := [name for name in _schema if name in _required and name not in row]:
            raise BadRequest(f"row {position}: no value for {', '.join(missing)} (null stands for a missing value)")
    frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in _schema})
    for name, kind in _schema.items():
        try:
            frame[name] = typed(frame[name], kind)
        except (ValueError, TypeError):
            raise BadRequest(f"column {name}: {list(frame[name])[:3]} can't be read as {kind}") from None
    return frame


def typed(values: pd.Series, kind: str) -> pd.Series:
    """A column in the type that the model was trained with."""
    if kind in {"integer", "long", "float", "double"}:
        numbers = pd.to_numeric(values)
        whole = kind in {"integer", "long"} and not numbers.isna().any()
        return numbers.astype("int64" if whole else "float64")
    if kind == "boolean":
        return values if values.isna().any() else values.astype(bool)
    if kind == "datetime":
        return pd.to_datetime(values)
    return values.where(values.isna(), values.astype(str)).astype(object)


def predict(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Probability of a late arrival, and the decision, for every row."""
    probabilities = _model.predict_proba(frame_of(rows))[:, _positive]
    return [{"probability": round(float(p), 6), "late": bool(p >= _threshold)} for p in probabilities]
