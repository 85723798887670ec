"""Rates of production rows, by the rules of Azure ML's component data_quality_compute_metrics, rounded as there."""

from __future__ import annotations

import pandas as pd

_DIGITS = 5


def rate(metric: str, reference: pd.Series, production: pd.Series) -> float:
    """The share of `production`'s rows that are null, can't be read as the reference's type, or lie out of its bounds.

    Bounds are the reference's smallest and largest number, or the set of its texts. A missing value is counted once.
    """
    rows = len(production)
    if metric == "NullValueRate":
        return round(float(production.isna().mean()), _DIGITS)
    numeric = pd.api.types.is_numeric_dtype(reference) and not pd.api.types.is_bool_dtype(reference)
    present = production.dropna()
    numbers = pd.to_numeric(present, errors="coerce")
    if metric == "DataTypeErrorRate":
        return round(float(numbers.isna().sum()) / rows, _DIGITS) if numeric else 0.0
    if numeric:
        known = reference.dropna()
        wrong = ((numbers < known.min()) | (numbers > known.max())).sum() if len(known) else numbers.notna().sum()
    else:
        wrong = (~present.astype(str).isin(set(reference.dropna().astype(str)))).sum()
    return round(float(wrong) / rows, _DIGITS)
