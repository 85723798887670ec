"""What each column is, and the scikit-learn transformer from raw columns (text, nulls, new categories) to numbers.

Azure ML's automatic featurization drops identifiers and constants, imputes, encodes categories, and takes dates apart;
this does alike:
https://learn.microsoft.com/azure/machine-learning/how-to-configure-auto-features
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, TargetEncoder

from localazure_compute.automl.errors import SearchError

# Nearly as many values as rows: an identifier, not a feature.
_ID_SHARE = 0.98
_TEXT_SHARE = 0.5
_MIN_ROWS = 100


@dataclass
class Columns:
    """The features by kind, and what was left out and why (column -> reason)."""

    numeric: list[str] = field(default_factory=list)
    categorical: list[str] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def used(self) -> list[str]:
        return [*self.numeric, *self.categorical, *self.dates]


def inspect(frame: pd.DataFrame, purposes: dict[str, str], left_out: dict[str, str]) -> Columns:
    """Sorts the columns of the raw features. `purposes` are the user's (column -> Numeric, Categorical, DateTime,
    Ignore),
    `left_out` columns aren't features (target, time)."""
    if missing := [name for name in purposes if name not in frame]:
        raise SearchError(f"featurization names the column(s) {', '.join(missing)}, which the data doesn't have.")
    found = Columns(dropped=dict(left_out))
    for name in frame.columns:
        if name in left_out:
            continue
        column = frame[name]
        purpose = purposes.get(name)
        reason = None if purpose else _useless(column)
        if purpose == "Ignore":
            reason = "ignored on request"
        if reason:
            found.dropped[name] = reason
        elif purpose == "DateTime" or (purpose is None and pd.api.types.is_datetime64_any_dtype(column)):
            found.dates.append(name)
        elif purpose == "Numeric" or (
            purpose is None and pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        ):
            found.numeric.append(name)
        else:
            found.categorical.append(name)
    if not found.used:
        reasons = ", ".join(f"{name} ({why})" for name, why in found.dropped.items())
        raise SearchError(f"No column is left to learn from. Left out: {reasons}.")
    return found


def _useless(column: pd.Series) -> str | None:
    rows = len(column)
    known = column.nunique(dropna=True)
    if known == 0:
        return "no values"
    if known == 1 and not column.isna().any():
        return "constant"
    if rows < _MIN_ROWS or pd.api.types.is_float_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return None
    share = known / rows
    if share > _ID_SHARE:
        return "an identifier: nearly every row has a value of its own"
    if column.dtype == object and share > _TEXT_SHARE:
        return "free text or hashes: too many values for a category"
    return None


def transformer(columns: Columns, target_type: str) -> ColumnTransformer:
    """Raw frame -> float matrix. `target_type` is scikit-learn's: binary, multiclass, continuous.

    Nothing in it refers to this package: the saved model needs scikit-learn alone.
    """
    parts: list[tuple[str, Any, list[str]]] = []
    # The array's dtype: integers with nulls, decimals and None all become floats.
    as_floats = FunctionTransformer(np.asarray, kw_args={"dtype": np.float64}, feature_names_out="one-to-one")
    if columns.numeric:
        impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        parts.append(("numeric", make_pipeline(as_floats, impute), columns.numeric))
    if columns.categorical:
        # Smoothed target means, fitted across folds: any number of categories, and unknown ones at prediction.
        encode = TargetEncoder(target_type=target_type, random_state=0)
        as_objects = FunctionTransformer(_as_objects)
        parts.append(("categorical", make_pipeline(as_objects, encode), columns.categorical))
    if columns.dates:
        impute = SimpleImputer(strategy="median", keep_empty_features=True)
        parts.append(("dates", make_pipeline(FunctionTransformer(_date_parts), impute), columns.dates))
    return ColumnTransformer(parts, verbose_feature_names_out=False)


def _as_objects(frame: pd.DataFrame) -> np.ndarray:
    """Categories as text, missing ones as None, whatever type they came in."""
    import pandas as pd

    frame = pd.DataFrame(frame)
    return (
        frame.astype(object)
        .where(frame.notna(), None)
        .apply(lambda c: c.map(str, na_action="ignore"))
        .to_numpy(dtype=object)
    )


def _date_parts(frame: pd.DataFrame) -> np.ndarray:
    """Month, day, weekday and hour of every date column."""
    import numpy as np
    import pandas as pd

    parts = []
    for name in pd.DataFrame(frame).columns:
        values = pd.to_datetime(frame[name], errors="coerce")
        parts += [values.dt.month, values.dt.day, values.dt.dayofweek, values.dt.hour]
    return np.column_stack([np.asarray(part, dtype=float) for part in parts])


def as_float32() -> FunctionTransformer:
    """The step between features and model: learners get float32, while fitting and while predicting."""
    return FunctionTransformer(np.asarray, kw_args={"dtype": np.float32})
