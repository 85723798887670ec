"""The scoring script that MLflow models need not bring: what Azure generates for a deployment without one.

https://learn.microsoft.com/azure/machine-learning/how-to-mlflow-batch: one call of `predict` a file; one line
`row,prediction,file` a row of a table, or an image. Types of a table's columns are those of the model's signature.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: The model's folder. Set before `init`.
MODEL = ""

_PARQUET = frozenset({".parquet", ".pqt"})
_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".tiff", ".bmp", ".gif"})
_SUPPORTED = frozenset({".csv"}) | _PARQUET | _IMAGES

_model: Any = None


def check_files(files: Sequence[str]) -> None:
    """ValueError for the first file of a type that isn't supported: one fails the whole job, as in the service."""
    for file in files:
        suffix = Path(file).suffix.lower()
        if suffix not in _SUPPORTED:
            raise ValueError(
                f"Error processing input file: '{file}'. File type '{suffix.lstrip('.')}' is not supported."
            )


def init() -> None:
    """Loads the model."""
    import mlflow.pyfunc

    global _model
    _model = mlflow.pyfunc.load_model(MODEL)


def run(mini_batch: Sequence[str]) -> list[str]:
    """The predictions of every file."""
    return [line for file in mini_batch for line in _scored(Path(file))]


def _scored(file: Path) -> list[str]:
    suffix = file.suffix.lower()
    try:
        data = _image(file) if suffix in _IMAGES else _table(file)
        predictions = _model.predict(data)
    except Exception as error:
        raise RuntimeError(f"Error processing input file: '{file}'. Exception: {error}") from error
    values = predictions.values.tolist() if hasattr(predictions, "values") else list(predictions)
    return [_line(row, value, file.name) for row, value in enumerate(values)]


def _line(row: int, prediction: Any, file: str) -> str:
    value = prediction.tolist() if hasattr(prediction, "tolist") else prediction
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([row, *(value if isinstance(value, list) else [value]), file])
    return text.getvalue()


def _table(file: Path) -> Any:
    import pandas as pd

    schema = _model.metadata.get_input_schema()
    columns = {} if schema is None or schema.is_tensor_spec() or not schema.has_input_names() else schema.input_dict()
    types = {name: spec.type.to_pandas() for name, spec in columns.items() if hasattr(spec.type, "to_pandas")}
    dates = [name for name, type_ in types.items() if str(type_).startswith("datetime")]
    if file.suffix.lower() in _PARQUET:
        frame = pd.read_parquet(file)
        return frame.astype({name: type_ for name, type_ in types.items() if name in frame and name not in dates})
    head = pd.read_csv(file, nrows=0).columns
    plain = {name: type_ for name, type_ in types.items() if name not in dates}
    return pd.read_csv(file, dtype=plain, parse_dates=[name for name in dates if name in head])


def _image(file: Path) -> Any:
    import numpy as np
    from PIL import Image

    array = np.asarray(Image.open(file))
    schema = _model.metadata.get_input_schema()
    if schema is None or not schema.is_tensor_spec():
        return array[np.newaxis]
    spec = schema.inputs[0]
    # The first dimension is the number of images, -1 in a signature.
    shape = [1 if each == -1 and place == 0 else each for place, each in enumerate(spec.shape)]
    return array.astype(spec.type).reshape(shape)
