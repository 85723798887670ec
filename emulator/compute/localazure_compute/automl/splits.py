"""Which rows are fitted on and which are judged by.

https://learn.microsoft.com/azure/machine-learning/how-to-configure-cross-validation-data-splits
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit, train_test_split

from localazure_compute.automl.errors import SearchError

# The service's rules when nothing is said about validation.
_HOLDOUT_FROM_ROWS = 20_000
_HOLDOUT_SHARE = 0.1
_FEW_ROWS = 1_000
_MANY_FOLDS, _FOLDS = 10, 3
_TIME_SHARE = 0.15  # of the newest rows


@dataclass(frozen=True)
class Splits:
    """Pairs of row numbers (fitted on, judged by) and what was done, in words."""

    pairs: list[tuple[np.ndarray, np.ndarray]]
    words: str
    automatic: bool = False


def split(frame: pd.DataFrame, codes: np.ndarray, classes: int, plan: dict[str, Any]) -> Splits:
    """The splits that the job asks for, or the service's own rule. `classes` is 0 for numbers.

    SearchError if the data can't be split so.
    """
    if plan["cv_split_columns"]:
        return _by_columns(frame, plan["cv_split_columns"])
    size, folds = plan["validation_size"], plan["folds"]
    if plan["split_type"] == "time":
        return _by_time(frame[plan["time_column_name"]], size or _TIME_SHARE)
    rows = len(frame)
    automatic = folds is None and size is None
    if automatic:
        if rows >= _HOLDOUT_FROM_ROWS:
            size = _HOLDOUT_SHARE
        else:
            folds = _MANY_FOLDS if rows < _FEW_ROWS else _FOLDS
    stratified = classes > 0 and np.bincount(codes.astype(int), minlength=classes).min() >= max(2, folds or 2)
    if folds is not None and size is not None:
        kind: Any = StratifiedShuffleSplit if stratified else ShuffleSplit
        chosen = kind(n_splits=folds, test_size=size, random_state=0).split(frame, codes)
        return Splits(list(chosen), f"{folds} random hold-outs of {size:.0%} (Monte Carlo cross-validation)")
    if folds is not None:
        if rows < folds:
            raise SearchError(f"{rows} rows can't be split into {folds} folds.")
        kind = StratifiedKFold if stratified else KFold
        chosen = kind(folds, shuffle=True, random_state=0).split(frame, codes)
        return Splits(list(chosen), f"{folds}-fold cross-validation", automatic)
    train, valid = train_test_split(
        np.arange(rows), test_size=size, random_state=0, stratify=codes if stratified else None
    )
    return Splits([(train, valid)], f"random hold-out of {len(valid)} rows", automatic)


def _by_columns(frame: pd.DataFrame, columns: list[str]) -> Splits:
    """One fold a column: 1 is fitted on, 0 is judged by."""
    pairs = []
    for name in columns:
        if name not in frame:
            raise SearchError(f"cv_split_column_names names {name}, which the data doesn't have.")
        values = frame[name]
        if not values.isin([0, 1]).all():
            raise SearchError(f"The column {name} of cv_split_column_names must hold 1 (training) and 0 (validation).")
        train, valid = np.flatnonzero(values == 1), np.flatnonzero(values == 0)
        if not len(train) or not len(valid):
            raise SearchError(f"The column {name} of cv_split_column_names leaves no rows to train or to validate.")
        pairs.append((train, valid))
    return Splits(pairs, f"folds of the column(s) {', '.join(columns)}")


def _by_time(times: pd.Series, share: float) -> Splits:
    """The newest rows, at least `share` of all, whole values of the time column: a day is on one side only."""
    if times.isna().any():
        raise SearchError(f"time_column_name '{times.name}' has {int(times.isna().sum())} empty values.")
    order = np.sort(times.to_numpy())
    border = order[int(len(order) * (1 - share))]
    newest = (times >= border).to_numpy()
    if newest.all():
        raise SearchError(f"A split by time needs more than one value in '{times.name}'.")
    valid = np.flatnonzero(newest)
    words = f"the newest {len(valid)} rows, {times.name} from {str(border)[:10]} on"
    return Splits([(np.flatnonzero(~newest), valid)], words)


def hold_out(frame: pd.DataFrame, codes: np.ndarray, classes: int, plan: dict[str, Any]) -> np.ndarray:
    """Which rows `test_data_size` keeps for the test (bool): the newest of a split by time, else random ones."""
    size = float(plan["test_size"])
    if plan["split_type"] == "time":
        newest = _by_time(frame[plan["time_column_name"]], size).pairs[0][1]
        kept = np.zeros(len(frame), dtype=bool)
        kept[newest] = True
        return kept
    stratified = classes > 0 and np.bincount(codes.astype(int), minlength=classes).min() > 1
    test = train_test_split(
        np.arange(len(frame)), test_size=size, random_state=1, stratify=codes if stratified else None
    )[1]
    kept = np.zeros(len(frame), dtype=bool)
    kept[test] = True
    return kept
