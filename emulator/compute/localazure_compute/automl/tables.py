"""An MLTable as the frame that the search learns from: columns of few, plain types."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import pandas as pd

from localazure_compute.automl.errors import SearchError
from localazure_compute.mltable import Definition, MLTableError, frame_of

_ROWS_LOOKED_AT = 1000


def read(folder: Path) -> pd.DataFrame:
    """The table in `folder`. SearchError names the file and what is wrong with it."""
    try:
        return plain(frame_of(Definition.load(folder)))
    except MLTableError as error:
        raise SearchError(str(error)) from error


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of the types the features know: bool, int64, float64, datetime64, object of str."""
    out = {}
    for name, column in frame.items():
        if pd.api.types.is_datetime64_any_dtype(column):
            zoned = getattr(column.dt, "tz", None) is not None
            out[str(name)] = column.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else column
        elif pd.api.types.is_bool_dtype(column) and not column.isna().any():
            out[str(name)] = column.astype(bool)
        elif pd.api.types.is_bool_dtype(column):
            # Booleans with nulls: categories, so that a null stays a null.
            out[str(name)] = column.astype(object).map(str, na_action="ignore")
        elif pd.api.types.is_numeric_dtype(column):
            whole = pd.api.types.is_integer_dtype(column) and not column.isna().any()
            out[str(name)] = column.astype("int64" if whole else "float64")
        else:
            out[str(name)] = _object(column)
    return pd.DataFrame(out)


def _object(column: pd.Series) -> pd.Series:
    known = column.dropna().head(_ROWS_LOOKED_AT)
    if len(known) and all(isinstance(value, datetime.date) for value in known):
        return pd.to_datetime(column)
    if len(known) and all(
        isinstance(value, decimal.Decimal | int | float) and not isinstance(value, bool) for value in known
    ):
        return column.astype("float64")
    return column.astype(object).where(column.notna(), None).map(str, na_action="ignore")
