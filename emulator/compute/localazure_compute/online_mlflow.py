"""The scoring script that an MLflow model needn't bring: what Azure generates for an online deployment without one.

Request: `{"input_data": ..., "params": {...}}`, where `input_data` is

    {"columns": [...], "index": [...], "data": [[...], ...]}   a table in pandas' split form (the index may be missing)
    [{"column": value, ...}, ...]                              a table's rows, as records
    [[...], ...], or any list                                  rows of a table whose signature names them, or a tensor
    {"name": [...], ...}                                       named tensors, or a table's columns

Response: the predictions as a JSON list, of records where the model answers a table. What can't be read, or doesn't fit
the model's signature, is answered with 400 and says why.
https://learn.microsoft.com/azure/machine-learning/how-to-deploy-mlflow-models#input-structure
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from azureml_inference_server_http.api.aml_response import AMLResponse

logger = logging.getLogger("azmlinfsrv")

_BAD_REQUEST = 400
_TABLE = 2  # dimensions
_INPUT, _PARAMS = "input_data", "params"
_model: Any = None
_collectors: tuple[Any, Any] | None = None


def init() -> None:
    """Load the model below AZUREML_MODEL_DIR."""
    import mlflow.pyfunc

    global _model, _collectors
    folder = _folder(Path(os.environ["AZUREML_MODEL_DIR"]))
    _model = mlflow.pyfunc.load_model(str(folder))
    _collectors = _collecting()
    logger.info("MLflow model loaded from %s", folder)


def run(data: str) -> Any:
    """Predict for one request."""
    from mlflow.exceptions import MlflowException

    try:
        rows, params = _read(data)
        predictions = _model.predict(rows, params=params) if params else _model.predict(rows)
    except (ValueError, TypeError, MlflowException) as error:
        message = getattr(error, "message", None) or str(error)
        return AMLResponse({"error": {"code": "BadRequest", "message": message}}, _BAD_REQUEST, json_str=True)
    if _collectors is not None:
        _collect(rows, predictions)
    # Text, so that the server doesn't wrap it: NaN is null, and dates are ISO 8601.
    return AMLResponse(_json(predictions), 200, {"Content-Type": "application/json"})


def _read(data: str) -> tuple[Any, dict[str, Any]]:
    """A request's rows as the model takes them, and its parameters. Raises ValueError."""
    import numpy as np
    import pandas as pd
    from mlflow.utils.proto_json_utils import dataframe_from_parsed_json

    body = json.loads(data)
    if not isinstance(body, dict) or _INPUT not in body:
        raise ValueError(f"The request must be a JSON object with the key '{_INPUT}'.")
    given, params = body[_INPUT], body.get(_PARAMS) or {}
    if not isinstance(params, dict):
        raise ValueError(f"'{_PARAMS}' must be an object.")
    schema = _model.metadata.get_input_schema()
    table = schema is not None and not schema.is_tensor_spec()
    if isinstance(given, dict) and "columns" in given and "data" in given:
        split = {name: given[name] for name in ("columns", "index", "data") if given.get(name) is not None}
        return dataframe_from_parsed_json(split, pandas_orient="split", schema=schema if table else None), params
    if isinstance(given, list) and given and all(isinstance(row, dict) for row in given):
        return dataframe_from_parsed_json(given, pandas_orient="records", schema=schema if table else None), params
    if isinstance(given, dict):
        if table:
            columns = {"columns": list(given), "data": pd.DataFrame(given).to_numpy(dtype=object).tolist()}
            return dataframe_from_parsed_json(columns, pandas_orient="split", schema=schema), params
        types = {} if schema is None else {spec.name: spec.type for spec in schema.inputs}
        return {name: np.array(value, dtype=types.get(name)) for name, value in given.items()}, params
    if not isinstance(given, list):
        raise ValueError(f"'{_INPUT}' must be a list or an object.")
    if table and schema.has_input_names():
        rows = given if given and isinstance(given[0], list) else [[each] for each in given]
        names = schema.input_names()
        if wrong := next((row for row in rows if len(row) != len(names)), None):
            raise ValueError(f"A row has {len(wrong)} values; the model's signature has {len(names)}: {names}.")
        return dataframe_from_parsed_json({"columns": names, "data": rows}, "split", schema), params
    if schema is not None and schema.is_tensor_spec():
        return np.array(given, dtype=schema.inputs[0].type), params
    return (pd.DataFrame(given) if schema is None and given and isinstance(given[0], list) else np.array(given)), params


def _json(predictions: Any) -> str:
    import numpy as np
    import pandas as pd

    if isinstance(predictions, pd.DataFrame):
        text: str = predictions.to_json(orient="records", date_format="iso", double_precision=15)
        return text
    if isinstance(predictions, pd.Series):
        text = predictions.to_json(orient="values", date_format="iso", double_precision=15)
        return text
    if isinstance(predictions, np.ndarray) and predictions.ndim == 1:
        return _json(pd.Series(predictions))
    if isinstance(predictions, np.ndarray) and predictions.ndim == _TABLE:
        text = pd.DataFrame(predictions).to_json(orient="values", double_precision=15)
        return text
    return json.dumps(predictions, default=_plain)


def _plain(value: Any) -> Any:
    import numpy as np

    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _folder(root: Path) -> Path:
    """The folder that holds MLmodel: the model's, or the one below it."""
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if (folder / "MLmodel").is_file():
            return folder
    raise FileNotFoundError(f"there is no MLmodel file in {root}")


def _collecting() -> tuple[Any, Any] | None:
    """Collectors of inputs and outputs, where the deployment collects them, as Azure's generated script has them."""
    file = os.environ.get("AZUREML_MDC_CONFIG_PATH")
    if not file or "model_inputs" not in json.loads(Path(file).read_text())["collections"]:
        return None
    from azureml.ai.monitoring import Collector

    def failed(error: Exception) -> None:
        logger.warning("collecting failed: %s", error)

    return Collector(name="model_inputs", on_error=failed), Collector(name="model_outputs", on_error=failed)


def _collect(rows: Any, predictions: Any) -> None:
    import pandas as pd

    assert _collectors is not None
    if isinstance(rows, pd.DataFrame):
        inputs, outputs = _collectors
        context = inputs.collect(rows)
        table = predictions if isinstance(predictions, pd.DataFrame) else pd.DataFrame({"0": predictions})
        outputs.collect(table, context)
