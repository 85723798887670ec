"""What each column is, and the scikit-learn transformer from raw columns (text, nulls, new categories) to numbers.

Azure ML's automatic featurization drops identifiers and constants, imputes, encodes categories, takes dates apart and
weighs words; this does alike, and takes the same settings:
https://learn.microsoft.com/azure/machine-learning/how-to-configure-auto-features
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, TargetEncoder

from localazure_compute.automl.errors import SearchError

# Nearly as many values as rows: an identifier, not a feature.
_ID_SHARE = 0.98
_CLOSE = 0.5  # of the numbers that follow on one another
_TEXT_SHARE = 0.5
_TEXT_WORDS = 3
_MIN_ROWS = 100
_FEW_VALUES = 10  # one column each; more values are encoded by the target
_MOST_VALUES = 50
_WORDS = 200
_HASH_BITS = 6
_MAX_HASH_BITS = 12
_IMPUTERS = {
    "mean": "MeanImputer", "median": "MedianImputer", "most_frequent": "ModeCatImputer", "constant": "ConstantImputer",
}  # fmt: skip
KINDS = ("Numeric", "Categorical", "CategoricalHash", "DateTime", "Text")


@dataclass
class Column:
    """One raw column: what it is, and which transformers (Azure ML's names) make features of it."""

    name: str
    kind: str
    transformers: tuple[str, ...]
    imputer: tuple[str, Any] = ("mean", None)  # strategy and the constant; categories have one only if it is asked for
    bits: int = _HASH_BITS


@dataclass
class Columns:
    """The features in the order of the data, and what was left out and why (column -> reason)."""

    features: list[Column] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    many_valued: list[str] = field(default_factory=list)
    off: bool = False

    @property
    def used(self) -> list[str]:
        return [column.name for column in self.features]

    def of(self, kind: str) -> list[Column]:
        return [column for column in self.features if column.kind == kind]


def inspect(frame: pd.DataFrame, settings: dict[str, Any], left_out: dict[str, str]) -> Columns:
    """Sorts the columns of the raw features. `settings` are the job's featurization: mode, columns (column -> purpose),
    blocked (transformers), parameters (transformer -> fields and parameters); `left_out` columns aren't features
    (target, time, weight)."""
    purposes: dict[str, str] = settings.get("columns") or {}
    fields = [name for entries in (settings.get("parameters") or {}).values() for entry in entries
              for name in entry.get("fields") or []]  # fmt: skip
    if missing := [name for name in [*purposes, *fields] if name not in frame]:
        raise SearchError(f"featurization names the column(s) {', '.join(missing)}, which the data doesn't have.")
    found = Columns(dropped=dict(left_out), off=settings.get("mode") == "off")
    for name in frame.columns:
        if name in left_out:
            continue
        column = frame[name]
        if found.off:
            _check_plain(column)
            found.features.append(Column(name, "Numeric", ()))
            continue
        kind, reason = _kind(column, purposes.get(name), settings)
        if reason:
            found.dropped[name] = reason
            if "too many values" in reason or "identifier" in reason:
                found.many_valued.append(name)
        else:
            found.features.append(_column(column, kind, settings))
    if not found.features:
        reasons = ", ".join(f"{name} ({why})" for name, why in found.dropped.items())
        raise SearchError(f"No column is left to learn from. Left out: {reasons}.")
    return found


def _check_plain(column: pd.Series) -> None:
    if not pd.api.types.is_numeric_dtype(column):
        raise SearchError(f"featurization: off needs numbers in every column; '{column.name}' holds {column.dtype}.")
    if column.isna().any():
        raise SearchError(f"featurization: off needs complete columns; '{column.name}' has missing values.")


def _kind(column: pd.Series, purpose: str | None, settings: dict[str, Any]) -> tuple[str, str | None]:
    """What the column is, and why it is left out, if it is."""
    if purpose == "Ignore":
        return "Ignore", "ignored on request"
    if purpose:
        return purpose, None
    if reason := _constant(column):
        return "Ignore", reason
    if pd.api.types.is_datetime64_any_dtype(column):
        return "DateTime", None
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if len(column) >= _MIN_ROWS and not pd.api.types.is_float_dtype(column):
        share = column.nunique(dropna=True) / len(column)
        if not numeric and share > _TEXT_SHARE and _is_text(column):
            if "TfIdf" in (settings.get("blocked") or []):
                return "Ignore", "free text: too many values for a category, and TfIdf is blocked"
            return "Text", None
        if share > _ID_SHARE and (not numeric or _counts(column)):
            return "Ignore", "an identifier: nearly every row has a value of its own"
        if not numeric and share > _TEXT_SHARE:
            return "Ignore", "hashes or codes: too many values for a category"
    return "Numeric" if numeric else "Categorical", None


def _constant(column: pd.Series) -> str | None:
    known = column.nunique(dropna=True)
    if known == 0:
        return "no values"
    return "constant" if known == 1 and not column.isna().any() else None


def _counts(column: pd.Series) -> bool:
    """Whether whole numbers number the rows: they grow from row to row, stand close together, or are called an id.

    A measure, too, may have a value of its own in every row.
    """
    known = column.dropna()
    steps = np.diff(np.sort(known.to_numpy()))
    named = re.search(r"(^|[_ ])(id|key|guid|no|nr)$|[a-z]I[Dd]$", str(column.name)) is not None
    return bool(named or known.is_monotonic_increasing or float((steps == 1).mean()) > _CLOSE)


def _is_text(column: pd.Series) -> bool:
    known = column.dropna().head(_MIN_ROWS).map(str)
    return len(known) > 0 and float(known.str.split().map(len).mean()) >= _TEXT_WORDS


def _column(column: pd.Series, kind: str, settings: dict[str, Any]) -> Column:
    name, blocked = str(column.name), list(settings.get("blocked") or [])
    parameters = _parameters(name, settings.get("parameters") or {})
    bits = int(parameters.get("HashOneHotEncoder", {}).get("number_of_bits", _HASH_BITS))
    if not 1 <= bits <= _MAX_HASH_BITS:
        raise SearchError(f"HashOneHotEncoder: number_of_bits lies between 1 and {_MAX_HASH_BITS}, not {bits}.")
    imputer = parameters.get("Imputer", {})
    strategy = imputer.get("strategy", "mean" if kind == "Numeric" else "")
    if strategy == "ffill":
        raise SearchError(f"The Imputer's strategy ffill (column {name}) is for forecasting.")
    if kind == "Numeric":
        wrong = pd.to_numeric(column, errors="coerce").isna() & column.notna()
        if wrong.any():
            raise SearchError(f"The column {name} can't be Numeric: it has {column[wrong].iloc[0]!r}.")
        return Column(name, kind, (_IMPUTERS[strategy],), (strategy, imputer.get("fill_value")))
    if kind == "DateTime":
        return Column(name, kind, ("DateTimeTransformer",))
    if kind == "Text":
        if "TfIdf" in blocked:
            raise SearchError(f"The column {name} is Text, and the only transformer for it, TfIdf, is blocked.")
        return Column(name, kind, ("StringCast", "TfIdf"))
    values = int(column.nunique(dropna=True))
    order = ["CatTargetEncoder", "HashOneHotEncoder", "OneHotEncoder"]
    if kind == "CategoricalHash":
        order = ["HashOneHotEncoder"]
    elif "HashOneHotEncoder" in parameters:
        order = ["HashOneHotEncoder", *order]
    elif values <= _FEW_VALUES:
        order = ["OneHotEncoder", *order]
    chosen = next((each for each in order if each not in blocked), None)
    if chosen is None:
        raise SearchError(f"blocked_transformers leaves no encoder for the column {name} ({kind}).")
    if strategy in ("mean", "median"):
        raise SearchError(f"The Imputer's strategy {strategy} (column {name}) is for numbers; the column is {kind}.")
    steps = ("StringCast", *([_IMPUTERS[strategy]] if strategy else []), chosen)
    constant = None if imputer.get("fill_value") is None else str(imputer["fill_value"])
    return Column(name, kind, steps, (strategy, constant), bits)


def _parameters(name: str, parameters: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The column's parameters by transformer; an entry without fields is for every column."""
    return {
        transformer: dict(entry.get("parameters") or {})
        for transformer, entries in parameters.items()
        for entry in entries
        if not entry.get("fields") or name in entry["fields"]
    }


def transformer(columns: Columns, target_type: str) -> ColumnTransformer:
    """Raw frame -> float matrix. `target_type` is scikit-learn's: binary, multiclass, continuous.

    Nothing in it refers to this package: the saved model needs scikit-learn alone.
    """
    # The array's dtype: integers with nulls, decimals and None all become floats.
    as_floats = FunctionTransformer(np.asarray, kw_args={"dtype": np.float64}, feature_names_out="one-to-one")
    if columns.off:
        return ColumnTransformer([("off", as_floats, columns.used)], verbose_feature_names_out=False)
    parts: list[tuple[str, Any, Any]] = []
    numbers: dict[tuple[str, Any], list[str]] = defaultdict(list)
    for column in columns.of("Numeric"):
        numbers[column.imputer].append(column.name)
    for number, ((strategy, constant), names) in enumerate(numbers.items()):
        impute = SimpleImputer(strategy=strategy, fill_value=constant, add_indicator=True, keep_empty_features=True)
        parts.append((f"numeric{number}", make_pipeline(as_floats, impute), names))
    categories = [*columns.of("Categorical"), *columns.of("CategoricalHash")]
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for column in categories:
        own = column.name if column.transformers[-1] == "HashOneHotEncoder" else ""
        groups[column.transformers[-1], column.imputer, own, column.bits].append(column.name)
    for number, ((encoder, (strategy, constant), _, bits), names) in enumerate(groups.items()):
        steps: list[Any] = [FunctionTransformer(_as_objects)]
        if strategy in ("most_frequent", "constant"):
            steps.append(SimpleImputer(missing_values=None, strategy=strategy, fill_value=constant))
        if encoder == "CatTargetEncoder":
            # Smoothed target means, fitted across folds: any number of categories, and unknown ones at prediction.
            steps.append(TargetEncoder(target_type=target_type, random_state=0))
        elif encoder == "OneHotEncoder":
            steps.append(OneHotEncoder(handle_unknown="ignore", max_categories=_MOST_VALUES, sparse_output=False))
        else:
            steps.append(FunctionTransformer(_hashed, kw_args={"bits": bits}))
        parts.append((f"categories{number}", make_pipeline(*steps), names))
    for column in columns.of("Text"):
        words = TfidfVectorizer(max_features=_WORDS, ngram_range=(1, 2), min_df=2)
        parts.append((f"text_{column.name}", make_pipeline(FunctionTransformer(_as_text), words), column.name))
    if names := [column.name for column in columns.of("DateTime")]:
        impute = SimpleImputer(strategy="median", keep_empty_features=True)
        parts.append(("dates", make_pipeline(FunctionTransformer(_date_parts), impute), names))
    return ColumnTransformer(parts, verbose_feature_names_out=False, sparse_threshold=0)


def summary(columns: Columns, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """What became of each raw column, under the names of Azure ML's featurization summary."""
    told = [
        {
            "RawFeatureName": column.name,
            "TypeDetected": column.kind,
            "Dropped": "No",
            "Transformations": list(column.transformers),
            "MissingValues": int(frame[column.name].isna().sum()),
        }
        for column in columns.features
    ]
    return told + [
        {"RawFeatureName": name, "TypeDetected": "Ignore", "Dropped": "Yes", "Reason": reason, "Transformations": []}
        for name, reason in columns.dropped.items()
    ]


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


def _as_text(column: pd.Series) -> np.ndarray:
    import pandas as pd

    return pd.Series(column).map(str, na_action="ignore").fillna("").to_numpy(dtype=object)


def _hashed(values: np.ndarray, bits: int) -> np.ndarray:
    """One column's categories as a one of 2**bits columns, by their checksum."""
    import zlib

    import numpy as np

    places = [zlib.crc32(str(value).encode()) % (1 << bits) for value in np.asarray(values).ravel()]
    found = np.zeros((len(places), 1 << bits), dtype=np.float32)
    found[np.arange(len(places)), places] = 1
    return found


def _date_parts(frame: pd.DataFrame) -> np.ndarray:
    """Year, quarter, month, day, weekday, day of the year, hour and minute of every date column."""
    import numpy as np
    import pandas as pd

    parts = []
    for name in pd.DataFrame(frame).columns:
        values = pd.to_datetime(frame[name], errors="coerce").dt
        parts += [values.year, values.quarter, values.month, values.day, values.dayofweek, values.dayofyear,
                  values.hour, values.minute]  # fmt: skip
    return np.column_stack([np.asarray(part, dtype=float) for part in parts])


def as_float32() -> FunctionTransformer:
    """The step between features and model: learners get float32, while fitting and while predicting."""
    return FunctionTransformer(np.asarray, kw_args={"dtype": np.float32})
