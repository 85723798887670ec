"""What a hold-out and a model's answers must be before a metric means anything; what is wrong with them, in words.

A hold-out that nobody can judge on stops the job, or leaves evidence without figures that says why. So do a model's
answers: a challenger's are its own fault and cost it the promotion; a champion's leave nobody to compare with.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

_SHOWN = 5


class Unscored(Exception):
    """A model's answers for the hold-out can't be judged; the text says why."""


def labelled(rows: pd.DataFrame, label: str, *, classes: bool) -> pd.DataFrame:
    """The rows whose outcome is known.

    :param classes: the label is true or false (0 or 1), else a number.
    :raises SystemExit: there is no such column, or it holds something else.
    """
    if label not in rows:
        raise SystemExit(f"the hold-out has no column {label!r}, the label; it has {', '.join(map(str, rows.columns))}")
    known = rows[rows[label].notna()]
    try:
        values = known[label].to_numpy().astype(float)
    except (TypeError, ValueError):
        raise SystemExit(f"the label {label} must be a number; it is e.g. {list(known[label])[:3]}") from None
    if not np.isfinite(values).all():
        raise SystemExit(f"the label {label} is infinite in {int((~np.isfinite(values)).sum())} rows of the hold-out")
    if classes and not np.isin(values, (0.0, 1.0)).all():
        raise SystemExit(
            f"the label {label} must be 0 or 1; it is e.g. {sorted(set(values.tolist()) - {0.0, 1.0})[:3]}"
        )
    return known.reset_index(drop=True)


def answers(
    predict: Callable[[str, pd.DataFrame], np.ndarray], model_folder: str, features: pd.DataFrame, *, probability: bool
) -> np.ndarray:
    """A model's predictions, one a row, all finite.

    :param probability: they lie between 0 and 1.
    :raises Unscored: they aren't that; or the model can't be loaded, or wants columns that the rows don't have.
    """
    require_columns(model_folder, features)
    with in_words():
        found = np.asarray(predict(model_folder, features), dtype=float)
    if found.shape != (len(features),):
        raise Unscored(f"it answered {found.shape[0] if found.ndim else 1} predictions for {len(features)} rows")
    if wrong := int((~np.isfinite(found)).sum()):
        raise Unscored(f"{wrong} of its {len(found)} predictions aren't finite numbers")
    if probability and not ((found >= 0) & (found <= 1)).all():
        odd = found[(found < 0) | (found > 1)]
        raise Unscored(f"{len(odd)} of its {len(found)} probabilities lie outside 0 and 1, e.g. {odd[0]:g}")
    return found


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Around what a model does: whatever it raises becomes `Unscored`, with its first line; the rest is printed."""
    try:
        yield
    except Unscored:
        raise
    except Exception as problem:
        traceback.print_exception(problem)
        said = str(problem).strip().splitlines()
        raise Unscored(f"{type(problem).__name__}: {said[0] if said else 'no message'}") from problem


def require_columns(model_folder: str, features: pd.DataFrame) -> None:
    """Raise Unscored if the rows lack columns that the model's signature requires.

    https://mlflow.org/docs/latest/ml/model/signatures
    """
    described = Path(model_folder, "MLmodel")
    if not described.is_file():
        return
    inputs = ((yaml.safe_load(described.read_text()) or {}).get("signature") or {}).get("inputs")
    columns = [column for column in json.loads(inputs or "[]") if "name" in column]
    absent = [one["name"] for one in columns if one.get("required", True) and one["name"] not in features]
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise Unscored(f"it learned from columns that the hold-out doesn't have: {', '.join(absent[:_SHOWN])}{more}")


def unmeasured(metric: str, rows: int, problem: str) -> dict[str, object]:
    """Evidence without figures, because of the challenger or of the hold-out."""
    return {
        "metric": metric,
        "rows": rows,
        "challenger": {"value": None, "low": None, "high": None, "problem": problem},
        "champion": None,
        "difference": None,
        "slices": [],
    }
